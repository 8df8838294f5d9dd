//! `make bench WORK=control-10k`: the controller of a mesh of ten thousand pods, on one processor.
//!
//! The cluster is simulated: this project's API server with the objects of a thousand services, made through its HTTPS
//! API, and no node. The controller is the real program, a process of its own. The proxies are real to it: each its own
//! certificate, connection, HTTP/2 and discovery stream, subscribing and acknowledging as osm-proxy does; they share one
//! thread, and read of resources only what they refer to.

mod cluster;
mod controller;
mod crowd;
mod measure;
mod plan;
mod proxy;
mod report;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Measures the control plane at size.
#[derive(Debug, Parser)]
struct Cli {
    /// The executable with the controller
    #[arg(long)]
    osm: PathBuf,
    /// Sizes of the cluster, one run each
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,5000,10000")]
    pods: Vec<usize>,
    /// Where the results go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Keeps the files of a run, and says where
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    raise_descriptors();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut all = Vec::new();
    for pods in &cli.pods {
        let mut folder = tempfile::tempdir()?;
        if cli.keep {
            folder.disable_cleanup(true);
            println!("bench: files are in {}", folder.path().display());
        }
        // A runtime for each run: what a run leaves behind ends with it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let rows = runtime.block_on(measure::run(&cli.osm, folder.path(), *pods))?;
        if let Some(row) = rows.first() {
            report::write(&cli.out, &row.work, &rows)?;
        }
        all.extend(rows);
    }
    let table = report::table(&all);
    print!("{table}");
    std::fs::write(cli.out.join("control.txt"), table)?;
    Ok(())
}

/// A connection for each proxy needs more than the customary 1024, here and in the controller.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
