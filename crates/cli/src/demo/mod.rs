//! `osm demo …`: shows what the mesh does, with the real commands, on a cluster made for the occasion.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use e2e::stage::{BRING_UP, Programs, Stage};
use e2e::{Cluster, outside::World};
use tokio::signal::unix::{SignalKind, signal};

mod egress;
mod manifests;
mod services;
mod story;

/// `osm demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    demo: Demo,
}

#[derive(Debug, Subcommand)]
enum Demo {
    /// Clients in the mesh and the world outside it, the Kubernetes API, two services of the mesh: story by story
    Egress(Options),
}

/// `osm demo egress`. On which cluster: CLUSTER=embedded (default) or kubernetes (the one of KUBECONFIG).
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Leave the cluster up at the end and print how to use it
    #[arg(long)]
    keep: bool,
    /// Talk to the real httpbin.org and openservicemesh.io instead of the demo's own (CLUSTER=kubernetes, on a connected cluster)
    #[arg(long)]
    internet: bool,
    /// Folder for the cluster [default: a new one below the temporary folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The folder of a demo; one that the demo made is removed with it.
enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

/// Takes the demo off a cluster that goes on without it; what was never made is no error.
const LEAVE_KUBERNETES: &str = "kubectl delete namespace curl shop customers --ignore-not-found; \
                                osm uninstall mesh --force --delete-cluster-wide-resources --delete-namespace";

/// Runs a demo. The exit status tells whether everything was as promised.
pub async fn run(arguments: Args) -> Result<ExitCode> {
    let Demo::Egress(options) = arguments.demo;
    let cluster = Cluster::from_environment()?;
    // Its namespaces have no uplink, by design: nothing of a test leaves the machine.
    ensure!(
        !(options.internet && cluster == Cluster::Embedded),
        "--internet: the embedded cluster has no way out of this machine; use CLUSTER=kubernetes and the KUBECONFIG of a connected cluster"
    );
    let mut folder = Folder::new(options.dir.as_deref())?;
    let mut stage = Stage::new(cluster, programs()?, folder.path())?;
    manifests::unpack(stage.directory())?;

    let outcome = tokio::select! {
        outcome = tell(&mut stage, &options) => outcome.map(Some),
        signal = interrupted() => signal.map(|()| None),
    };
    if options.keep && !matches!(outcome, Ok(None)) {
        folder.keep();
        println!(
            "\nThe cluster stays. To use it:\n  export KUBECONFIG={}",
            stage.kubeconfig().display()
        );
        if stage.cluster() == Cluster::Embedded {
            println!(
                "To end it:\n  osm local down --dir {}",
                stage.directory().display()
            );
        }
    } else {
        println!("\nTaking everything down.");
        if stage.cluster() == Cluster::Kubernetes {
            stage.shell(LEAVE_KUBERNETES, BRING_UP).await?;
        }
        stage.down().await.context("taking the cluster down")?;
        folder.remove(&stage)?;
    }
    conclude(outcome?)
}

fn conclude(wrong: Option<u32>) -> Result<ExitCode> {
    match wrong {
        Some(0) => {
            println!("✓ All as promised.");
            Ok(ExitCode::SUCCESS)
        }
        Some(wrong) => {
            println!("✗ {wrong} not as promised.");
            Ok(ExitCode::FAILURE)
        }
        None => {
            println!("Interrupted; nothing is left.");
            // What a shell reports for a program that SIGINT ended.
            Ok(ExitCode::from(130))
        }
    }
}

/// Tells the whole story; gives how often something was not as promised.
async fn tell(stage: &mut Stage, options: &Options) -> Result<u32> {
    let world = (!options.internet).then(|| {
        World::new(
            &["198.51.100.10", "2001:db8:51::10"],
            &["httpbin.org", "openservicemesh.io"],
            &[],
        )
    });
    let mut story = story::Story::new();
    egress::cluster(&mut story, stage).await?;
    egress::mesh(&mut story, stage).await?;
    egress::client(&mut story, stage, world.as_ref()).await?;
    egress::pages(&mut story, stage).await?;
    egress::api_server(&mut story, stage).await?;
    services::two_services(&mut story, stage).await?;
    Ok(story.wrong())
}

fn programs() -> Result<Programs> {
    let mut programs = Programs::beside_this_one()?;
    programs.osm = std::env::current_exe().context("own path")?;
    Ok(programs)
}

async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done?,
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

// === impl Folder ===

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self> {
        match given {
            Some(path) => {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("--dir {}", path.display()))?;
                let empty =
                    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
                ensure!(empty, "--dir {}: is not an empty folder", path.display());
                Ok(Self::Given(path.to_owned()))
            }
            None => Ok(Self::Own(
                tempfile::Builder::new().prefix("osm-demo-").tempdir()?,
            )),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }

    fn keep(&mut self) {
        if let Self::Own(folder) = self {
            folder.disable_cleanup(true);
        }
    }

    /// Removes what the demo put there; a folder of the user's stays, without the demo's files.
    fn remove(self, stage: &Stage) -> Result<()> {
        match self {
            Self::Own(folder) => folder.close().context("temporary folder"),
            Self::Given(_) => stage.clean().context("--dir"),
        }
    }
}
