//! `e2e`: runs acceptance scenarios by id on one cluster and reports each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::outside::World;
use e2e::stage::{Programs, Stage};
use e2e::{Cluster, Driver, eventually};
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

use report::{Report, Status};
use scenarios::{Priority, Scenario};
use scene::Scene;

mod manifest;
mod report;
mod scenarios;
mod scene;

/// Acceptance scenarios of the mesh, on the embedded cluster or a real Kubernetes
#[derive(Debug, Parser)]
struct Arguments {
    /// Areas or ids, for example `EGR,ACL-02`; all if left out
    #[arg(long, default_value = "", value_delimiter = ',')]
    area: Vec<String>,
    /// Only scenarios of this priority: P0, P1 or P2; all if left out
    #[arg(long, default_value = "")]
    priority: String,
    /// Which cluster [default: CLUSTER, else embedded]
    #[arg(long)]
    cluster: Option<Cluster>,
    /// What the sidecars are: osm-proxy or envoy [default: DRIVER, else osm-proxy]
    #[arg(long)]
    driver: Option<Driver>,
    /// File for the report
    #[arg(long, default_value = "target/e2e/report.json")]
    report: PathBuf,
    /// Scenarios that run side by side
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Leave the cluster up and the scenarios' namespaces in place
    #[arg(long)]
    keep: bool,
    /// Print the scenarios and end
    #[arg(long)]
    list: bool,
}

/// Longest time for one scenario.
const SCENARIO: Duration = Duration::from_secs(300);

/// The hosts outside the cluster; two names on the first pair of addresses, one on the second.
fn world() -> World {
    let pair = |last: u8| [format!("203.0.113.{last}"), format!("2001:db8:53::{last}")];
    let addresses: Vec<String> = [10, 11].into_iter().flat_map(pair).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = World::new(
        &addresses,
        &[],
        &[
            "--echo-port=9000",
            "--banner-port=3306",
            "--more-http-port=8080",
        ],
    );
    for (index, (_, names)) in world.hosts.iter_mut().enumerate() {
        *names = if index < 2 {
            vec!["httpbin.org".into(), "openservicemesh.io".into()]
        } else {
            vec!["example.net".into()]
        };
    }
    world
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let priority = arguments.priority.parse::<Priority>().ok();
    ensure!(
        priority.is_some() || arguments.priority.is_empty(),
        "--priority {}: must be P0, P1 or P2",
        arguments.priority
    );
    let chosen: Vec<&Scenario> = scenarios::all()
        .into_iter()
        .filter(|it| it.chosen(&arguments.area, priority))
        .collect();
    if arguments.list {
        chosen
            .iter()
            .for_each(|it| println!("{} [{}] {}", it.id, it.priority, it.title));
        return Ok(true);
    }
    ensure!(
        !chosen.is_empty(),
        "no scenario of area {:?}, priority {:?}",
        arguments.area,
        arguments.priority
    );
    let cluster = arguments
        .cluster
        .map_or_else(Cluster::from_environment, Ok)?;
    let mut folder = tempfile::Builder::new().prefix("osm-e2e-").tempdir()?;
    let mut stage = Stage::new(cluster, Programs::beside_this_one()?, folder.path())?;

    let mut terminate = signal(SignalKind::terminate())?;
    let driver = arguments.driver.map_or_else(Driver::from_environment, Ok)?;
    let outcome = tokio::select! {
        outcome = play(&mut stage, driver, &chosen, &arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        // A time limit ends the program so: the cluster must not outlive it either.
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    if arguments.keep {
        folder.disable_cleanup(true);
        println!(
            "export KUBECONFIG={}\nosm local down --dir {}",
            stage.kubeconfig().display(),
            folder.path().display()
        );
    } else {
        stage.down().await.context("taking the cluster down")?;
    }
    let reports = outcome?;
    report::write(&arguments.report, &reports)?;
    Ok(report::print(&reports))
}

async fn play(
    stage: &mut Stage,
    driver: Driver,
    chosen: &[&Scenario],
    arguments: &Arguments,
) -> Result<Vec<Report>> {
    let begin = Instant::now();
    stage.up().await.context("the cluster")?;
    let installed = prepare(stage, driver).await?;
    println!(
        "cluster and mesh are up after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let folder = arguments
        .report
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let (alone, together): (Vec<&Scenario>, Vec<&Scenario>) =
        chosen.iter().partition(|scenario| scenario.alone);
    let stage: &Stage = stage;
    let (keep, folder) = (arguments.keep, &folder);
    let one = |scenario: &'static Scenario| one(stage, driver, scenario, keep, folder);
    let together = together
        .into_iter()
        .map(|it| scenarios::by_id(it.id))
        .map(one);
    let mut reports: Vec<Report> = futures::stream::iter(together)
        .buffer_unordered(arguments.jobs.max(1))
        .collect()
        .await;
    for scenario in alone {
        reports.push(one(scenarios::by_id(scenario.id)).await);
    }
    reports.sort_by(|a, b| a.id.cmp(&b.id));
    if installed && !keep && stage.cluster() == Cluster::Kubernetes {
        let flags = [
            "uninstall",
            "mesh",
            "--force",
            "--delete-cluster-wide-resources",
            "--delete-namespace",
        ];
        stage.osm(&flags).await?.text()?;
    }
    Ok(reports)
}

/// Installs the mesh if it is not there, and starts the world outside. Tells whether it installed.
async fn prepare(stage: &mut Stage, driver: Driver) -> Result<bool> {
    let there = stage
        .kubectl(&["get", "deployment", "osm-controller", "-n", "osm-system"])
        .await?
        .succeeded();
    if !there {
        let flags = [
            "install",
            "--set=osm.enablePermissiveTrafficPolicy=false",
            "--set=osm.enableEgress=false",
        ];
        stage.osm(&flags).await?.text().context("osm install")?;
    }
    scene::reset(stage, driver).await.context("MeshConfig")?;
    if stage.cluster() == Cluster::Embedded {
        for image in ["kennethreitz/httpbin", "curlimages/curl"] {
            let output = stage.osm(&["local", "image", "add", image, "-"]).await?;
            ensure!(output.succeeded(), "{}", output.complaint());
        }
        // Mixed meshes are played whatever the driver.
        match std::env::var("ENVOY_BIN").ok().filter(|it| !it.is_empty()) {
            Some(envoy) => {
                let words = ["local", "image", "add", "envoyproxy/envoy", &envoy];
                stage.osm(&words).await?.text()?;
            }
            None => ensure!(
                driver != Driver::Envoy,
                "DRIVER=envoy: ENVOY_BIN must name an Envoy (scripts/envoy prints one)"
            ),
        }
    }
    let world = world();
    stage
        .outside("outside", &world)
        .await
        .context("the world outside the cluster")?;
    eventually(Duration::from_secs(20), async || {
        stage.publish(&world.hosts()).await
    })
    .await?;
    Ok(!there)
}

async fn one(
    stage: &Stage,
    driver: Driver,
    scenario: &'static Scenario,
    keep: bool,
    folder: &Path,
) -> Report {
    let begin = Instant::now();
    let scene = Scene::new(stage, scenario.id);
    let played = tokio::time::timeout(SCENARIO, (scenario.play)(&scene)).await;
    let played =
        played.unwrap_or_else(|_| Err(anyhow::anyhow!("no end after {} s", SCENARIO.as_secs())));
    let status = Status::of(played);
    if let Status::Failed(reason) = &status {
        let text = format!("{}: {reason}\n\n{}", scenario.id, scene.diagnose().await);
        let _ = std::fs::write(folder.join(format!("{}.log", scenario.id)), text);
    }
    if !keep {
        scene.end().await;
    }
    if scenario.alone {
        // The next one must not inherit what this one set.
        if let Err(error) = scene::reset(stage, driver).await {
            eprintln!("{}: MeshConfig is not as before: {error:#}", scenario.id);
        }
    }
    let report = Report::new(scenario, driver, status, begin.elapsed());
    println!("{report}");
    report
}
