//! The pair of sidecars as processes: real programs through it, and a network, peers and a control plane that fail.
//!
//! Prints one line per trial; a trial that fails makes the exit status 1, one that could not be held says why.

mod gate;
mod peers;
mod robustness;
mod stage;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tokio::time::timeout;

/// Trials of the pair of sidecars.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which trials.
    area: Area,
    /// Only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// How long each trial under load takes, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Area {
    /// Real programs: curl, nginx, gRPC, databases.
    Peers,
    /// What goes wrong around a proxy.
    Robustness,
}

/// What came of a trial.
pub enum Outcome {
    /// It went well; what was measured.
    Good(String),
    /// It could not be held here, and why.
    Skipped(String),
}

/// A trial: its name, and what it does.
pub type Trial = (
    &'static str,
    fn(u64) -> Pin<Box<dyn Future<Output = anyhow::Result<Outcome>>>>,
);

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let trials = match arguments.area {
        Area::Peers => peers::TRIALS,
        Area::Robustness => robustness::TRIALS,
    };
    let wanted = |name: &str| {
        arguments
            .only
            .as_deref()
            .is_none_or(|only| name.contains(only))
    };
    let (mut failed, mut skipped, mut good) = (0, 0, 0);
    for (name, trial) in trials.iter().filter(|(name, _)| wanted(name)) {
        let started = Instant::now();
        let limit = Duration::from_secs(120 + 2 * arguments.seconds);
        let outcome = timeout(limit, trial(arguments.seconds)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("not over within {limit:?}")));
        let took = started.elapsed().as_secs_f32();
        match outcome {
            Ok(Outcome::Good(told)) => {
                good += 1;
                println!("✓ {name} ({took:.1} s): {told}");
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                println!("- {name}: skipped: {why}");
            }
            Err(error) => {
                failed += 1;
                println!("✗ {name} ({took:.1} s): {error:#}");
            }
        }
    }
    println!("trials: {good} good, {failed} failed, {skipped} skipped");
    if failed > 0 || good + skipped == 0 {
        std::process::exit(1);
    }
}
