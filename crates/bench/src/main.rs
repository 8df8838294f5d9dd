//! `make bench`: the proxy pair against its peers on this machine, in this run.
//!
//! A client on loopback, the client's sidecar, mutual TLS 1.3 with P-256 certificates, the server's sidecar with the
//! mesh's policies, a backend. Both sidecars of a pair run with one worker on one processor, the load and the backend on
//! the other. What counts is the scheduler's account of the pair's processor time, divided by checked answers.

mod backend;
mod certificates;
mod cpu;
mod load;
mod measure;
mod memory;
mod mesh;
mod peers;
mod plan;
mod processes;
mod report;
mod static_peers;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::measure::Noise;
use crate::peers::{Programs, Stage};
use crate::plan::Work;

/// Measures the proxy pair against its peers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    programs: Programs,
    /// Only these works.
    #[arg(long, value_delimiter = ',')]
    work: Vec<Work>,
    /// About two minutes: one rate, few rounds.
    #[arg(long)]
    quick: bool,
    /// Where the results go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Keeps the proxies' configurations and logs, and says where.
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut folder = tempfile::tempdir()?;
    if cli.keep {
        folder.disable_cleanup(true);
        println!("bench: files are in {}", folder.path().display());
    }
    let ports = backend::serve().await?;
    let mut stage = Stage::set(cli.programs, folder.path(), ports).await?;
    let works = if cli.work.is_empty() {
        Work::ALL.to_vec()
    } else {
        cli.work
    };
    let mut noise = Noise::default();
    let mut all = Vec::new();
    let peers = stage.peers().await?;
    for work in works.iter().filter(|work| **work != Work::Memory) {
        let mut rows = Vec::new();
        for metric in work.metrics(cli.quick) {
            let measured = measure::metric(*work, &metric, &peers, &mut noise).await;
            print!("{}", report::table(&measured));
            rows.extend(measured);
        }
        report::write(&cli.out, &work.to_string(), &rows)?;
        all.append(&mut rows);
    }
    drop(peers);
    if works.contains(&Work::Memory) {
        let mut rows = memory::measure(&mut stage, cli.quick).await?;
        report::write(&cli.out, "memory", &rows)?;
        all.append(&mut rows);
    }
    anyhow::ensure!(!all.is_empty(), "nothing was compared");
    let Noise {
        windows,
        repeated,
        noisy,
        failed,
    } = noise;
    let table = format!(
        "{}\n{windows} windows; {repeated} repeated for noise, {noisy} taken although noisy, {failed} thrown away for a failed exchange; {:.0} s\n",
        report::table(&all),
        started.elapsed().as_secs_f64()
    );
    print!("{table}");
    std::fs::write(cli.out.join("table.txt"), table)?;
    Ok(())
}

/// A thousand clients and their backend's ends need more than the customary 1024.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
