//! Plays the table of API exchanges against servers and says where they differ

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use parity::{Exchange, Golden, Outcome, Player, golden, judge, load};

/// Plays the table of API exchanges.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Only exchanges whose file or name contains this.
    #[arg(long, global = true, default_value = "")]
    only: String,
}

#[derive(Subcommand)]
enum Command {
    /// Compares a server with the recorded answers; UPDATE_GOLDEN=1 records them anew instead.
    Check {
        /// The server; of a real Kubernetes if recorded.
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: PathBuf,
        /// The table's reasons are for the embedded server: a real one must answer as recorded everywhere.
        #[arg(long)]
        real: bool,
    },
    /// Compares two servers, played now.
    Compare {
        /// The real Kubernetes.
        #[arg(long)]
        real: PathBuf,
        /// The embedded server.
        #[arg(long)]
        embedded: PathBuf,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // Another provider may be there already: then it serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    let mut failed = 0;
    let mut total = 0;
    for (file, mut exchanges) in load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("exchanges"))? {
        let all = exchanges.len();
        exchanges.retain(|exchange| {
            file.contains(&arguments.only) || exchange.name.contains(&arguments.only)
        });
        if exchanges.is_empty() {
            continue;
        }
        total += exchanges.len();
        failed += match &arguments.command {
            Command::Check { kubeconfig, .. } if std::env::var_os("UPDATE_GOLDEN").is_some() => {
                record(&file, &exchanges, all, kubeconfig).await?
            }
            Command::Check { kubeconfig, real } => {
                let expected = golden::read(&file)?;
                let expected = exchanges
                    .iter()
                    .map(|e| {
                        expected
                            .get(&e.name)
                            .cloned()
                            .context("not recorded: UPDATE_GOLDEN=1")
                    })
                    .collect();
                if *real {
                    exchanges
                        .iter_mut()
                        .for_each(|exchange| exchange.differs = None);
                }
                compare(&file, &exchanges, expected, kubeconfig).await?
            }
            Command::Compare { real, embedded } => {
                let expected = Player::connect(real)
                    .await?
                    .play_all(&file, &exchanges)
                    .await;
                compare(&file, &exchanges, expected, embedded).await?
            }
        };
    }
    println!("{total} exchanges, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Records the answers; says how many exchanges could not be played.
async fn record(
    file: &str,
    exchanges: &[Exchange],
    all: usize,
    kubeconfig: &Path,
) -> Result<usize> {
    // With only a part of the file played, the rest stays as recorded.
    let mut golden = if exchanges.len() < all {
        golden::read(file)?
    } else {
        Golden::new()
    };
    let mut failed = 0;
    let played = Player::connect(kubeconfig)
        .await?
        .play_all(file, exchanges)
        .await;
    for (exchange, answers) in exchanges.iter().zip(played) {
        match answers {
            Ok(answers) => drop(golden.insert(exchange.name.clone(), answers)),
            Err(error) => {
                println!("FAIL {file}: {}\n       {error:#}", exchange.name);
                failed += 1;
            }
        }
    }
    golden::write(file, &golden)?;
    Ok(failed)
}

/// Compares the answers of a server with those expected; says how many exchanges failed.
async fn compare(
    file: &str,
    exchanges: &[Exchange],
    expected: Vec<Result<Vec<parity::Answer>>>,
    kubeconfig: &Path,
) -> Result<usize> {
    let played = Player::connect(kubeconfig)
        .await?
        .play_all(file, exchanges)
        .await;
    let mut failed = 0;
    for ((exchange, expected), got) in exchanges.iter().zip(expected).zip(played) {
        let lines = match (expected, got) {
            (Err(error), _) => vec![format!("expected answers: {error:#}")],
            (Ok(_), Err(error)) => match &exchange.differs {
                Some(reason) => {
                    println!("diff {file}: {} ({reason})", exchange.name);
                    continue;
                }
                None => vec![format!("{error:#}")],
            },
            (Ok(expected), Ok(got)) => match judge(exchange, &expected, &got) {
                Outcome::Same => {
                    println!("ok   {file}: {}", exchange.name);
                    continue;
                }
                Outcome::Explained(reason) => {
                    println!("diff {file}: {} ({reason})", exchange.name);
                    continue;
                }
                Outcome::Outdated(reason) => vec![format!(
                    "answers alike, so the reason is out of date: {reason}"
                )],
                Outcome::Different(lines) => lines,
            },
        };
        failed += 1;
        println!("FAIL {file}: {}", exchange.name);
        for line in lines {
            println!("       {line}");
        }
    }
    Ok(failed)
}
