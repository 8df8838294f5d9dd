//! `osm local …` alone, without the rest of the CLI: to try the embedded cluster and for this crate's tests.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "osm-local")]
enum Cli {
    /// The embedded cluster
    #[command(subcommand)]
    Local(node::local::Command),
}

fn main() -> ExitCode {
    let Cli::Local(command) = Cli::parse();
    match node::local::run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
