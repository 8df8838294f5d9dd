//! `osm demo …`: shows what the mesh does, with the real commands, on a cluster made for the occasion.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use e2e::stage::{BRING_UP, Programs, Stage};
use e2e::{Cluster, demos, outside::World};
use tokio::signal::unix::{SignalKind, signal};

mod bookstore;
mod egress;
mod ground;
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
    Egress(EgressOptions),
    /// Open Service Mesh's bookstore: who may buy books, and a second version that takes over, told by the counters
    Bookstore(BookstoreOptions),
}

/// What all demos know. On which cluster: CLUSTER=embedded (default) or kubernetes (the one of KUBECONFIG).
#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// Leave the cluster up at the end and print how to use it
    #[arg(long)]
    keep: bool,
    /// Folder for the cluster [default: a new one below the temporary folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// `osm demo egress`.
#[derive(Clone, Debug, clap::Args)]
struct EgressOptions {
    #[command(flatten)]
    common: Options,
    /// Talk to the real httpbin.org and openservicemesh.io instead of the demo's own (CLUSTER=kubernetes, on a connected cluster)
    #[arg(long)]
    internet: bool,
}

/// `osm demo bookstore`.
#[derive(Clone, Debug, clap::Args)]
struct BookstoreOptions {
    #[command(flatten)]
    common: Options,
    /// Let both versions of the bookstore run under one ServiceAccount
    #[arg(long)]
    same_service_account: bool,
}

/// The folder of a demo; one that the demo made is removed with it.
enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

/// Runs a demo. The exit status tells whether everything was as promised.
pub async fn run(arguments: Args) -> Result<ExitCode> {
    let options = arguments.demo.common().clone();
    let cluster = Cluster::from_environment()?;
    arguments.demo.check(cluster)?;
    let mut folder = Folder::new(options.dir.as_deref())?;
    let mut stage = Stage::new(cluster, programs()?, folder.path())?;
    demos::unpack(arguments.demo.name(), stage.directory())?;

    let outcome = tokio::select! {
        outcome = tell(&mut stage, &arguments.demo) => outcome.map(Some),
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
            stage.shell(&arguments.demo.leave(), BRING_UP).await?;
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
async fn tell(stage: &mut Stage, demo: &Demo) -> Result<u32> {
    let mut story = story::Story::new();
    match demo {
        Demo::Egress(options) => egress(&mut story, stage, options.internet).await?,
        Demo::Bookstore(options) => {
            bookstore::tell(&mut story, stage, options.same_service_account).await?;
        }
    }
    Ok(story.wrong())
}

async fn egress(story: &mut story::Story, stage: &mut Stage, internet: bool) -> Result<()> {
    let world = (!internet).then(|| {
        World::new(
            &["198.51.100.10", "2001:db8:51::10"],
            &["httpbin.org", "openservicemesh.io"],
            &[],
        )
    });
    ground::cluster(story, stage).await?;
    story.chapter("2. The mesh: no traffic is allowed that no policy allows");
    ground::mesh(story, stage, false).await?;
    egress::client(story, stage, world.as_ref()).await?;
    egress::pages(story, stage).await?;
    egress::api_server(story, stage).await?;
    services::two_services(story, stage).await
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

// === impl Demo ===

impl Demo {
    /// Its name, which is that of its folder of manifests.
    fn name(&self) -> &'static str {
        match self {
            Self::Egress(_) => "egress",
            Self::Bookstore(_) => "bookstore",
        }
    }

    fn common(&self) -> &Options {
        match self {
            Self::Egress(options) => &options.common,
            Self::Bookstore(options) => &options.common,
        }
    }

    /// Refuses what the cluster cannot do.
    fn check(&self, cluster: Cluster) -> Result<()> {
        let internet = matches!(self, Self::Egress(options) if options.internet);
        // Its namespaces have no uplink, by design: nothing of a test leaves the machine.
        ensure!(
            !(internet && cluster == Cluster::Embedded),
            "--internet: the embedded cluster has no way out of this machine; use CLUSTER=kubernetes and the KUBECONFIG of a connected cluster"
        );
        Ok(())
    }

    /// Takes the demo off a cluster that goes on without it; what was never made is no error.
    fn leave(&self) -> String {
        let namespaces = match self {
            Self::Egress(_) => "curl shop customers",
            Self::Bookstore(_) => "bookbuyer bookthief bookstore bookwarehouse",
        };
        // The next demo installs the mesh anew, which a namespace on its way out would refuse.
        format!(
            "kubectl delete namespace {namespaces} --ignore-not-found; \
             osm uninstall mesh --force --delete-cluster-wide-resources --delete-namespace; \
             kubectl wait --for=delete namespace/osm-system --timeout=90s"
        )
    }
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
