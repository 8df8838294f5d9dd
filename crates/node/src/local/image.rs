//! `osm local image`: the table of image names.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::place::Layout;
use super::{Image, ImageAction};
use crate::image::Table;

/// Edits or shows the table. A running cluster reads it at each start of a container.
pub fn image(options: &Image) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(&options.place)?;
    let mut table = Table::read(&layout.images())?;
    match &options.action {
        ImageAction::Add {
            name,
            program,
            args,
            mounts,
        } => {
            let program = (program != Path::new("-")).then_some(program.as_path());
            table.add(name, program, args.clone(), mounts)?;
            layout.create()?;
            table.write(&layout.images())?;
            println!("Image {name} added");
        }
        ImageAction::Remove { name } => {
            if !table.remove(name) {
                bail!("image {name:?} is not in the table");
            }
            table.write(&layout.images())?;
            println!("Image {name} removed");
        }
        ImageAction::List => {
            let mut out = std::io::stdout().lock();
            for (name, image) in table.iter() {
                let command = if image.command.is_empty() {
                    "(the pod's own command)".to_owned()
                } else {
                    image.command.join(" ")
                };
                writeln!(out, "{name}\t{command}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
