//! Envoy as the judge: the same resources and requests through Envoy and osm-proxy, every difference named.
//!
//! Cases are in `cases/*.yaml`, known differences in `known.yaml`. Everything runs on loopback: Envoy at
//! 127.0.0.2, osm-proxy at 127.0.0.3, on the same ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod check;
mod compare;
mod generate;
mod known;
mod refused;
mod report;
mod run;
mod script;
mod setup;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};

use crate::check::Check;
use crate::report::Report;
use crate::setup::Setup;
use crate::world::{ENVOY, OSM, Refused, World};

#[derive(Debug, Parser)]
#[command(name = "oracle")]
struct Options {
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Prints what Envoy does, without osm-proxy.
    #[arg(long)]
    envoy: bool,
    /// State-of-the-world ADS in place of delta.
    #[arg(long)]
    sotw: bool,
    /// The generator's seed; 0 takes the clock.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Requests of the generator.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Where the report goes.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Prints the table of `docs/compatibility.md`.
    #[arg(long)]
    document: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = known::load(&root.join("known.yaml"))?;
    if options.document {
        print!("{}", known::markdown(&known));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(judge(&options, root, known))?;
    print!("{}", report.text());
    if let Some(path) = &options.report {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn judge(options: &Options, root: &Path, known: Vec<known::Known>) -> anyhow::Result<Report> {
    let folder = root.join("cases");
    let setups = setup::load(&folder)?;
    let chosen: Vec<&Setup> = setups
        .iter()
        .filter(|setup| {
            let names = |check: &Check| name(setup, check).contains(&options.only);
            setup.checks.iter().any(names) || setup.name.contains(&options.only)
        })
        .collect();
    let mut world = World::start(&folder, options.envoy, !options.sotw).await?;
    let start = Instant::now();
    let mut report = Report::new(known, options.only.is_empty());
    if !chosen.is_empty() {
        let refused = world.push(&chosen).await;
        for setup in chosen {
            cases(&world, setup, &refused, options, &mut report).await;
        }
    }
    let judged = refused::load(&folder)?;
    if "refused".contains(&options.only) || options.only.starts_with("refused") {
        for (case, [envoy, osm]) in refused::judge(&mut world, &judged).await {
            if options.envoy {
                println!("{case}: {envoy:?}");
                continue;
            }
            let differences = match (&envoy, &osm) {
                (Some(_), Some(_)) | (None, None) => Vec::new(),
                (Some(words), None) => vec![format!("only Envoy refuses: {words}")],
                (None, Some(words)) => vec![format!("only osm-proxy refuses: {words}")],
            };
            report.add(case, differences, Value::Null, Value::Null);
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    if !options.envoy && (options.only.is_empty() || options.only.starts_with("generator")) {
        let seed = match options.seed {
            0 => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)?
                .as_millis() as u64,
            seed => seed,
        };
        report.generator = Some(generate::run(&mut world, seed, options.requests).await?);
    }
    if let Some(osm) = &mut world.osm {
        anyhow::ensure!(osm.is_running(), "osm-proxy ended:\n{}", osm.log());
    }
    Ok(report)
}

/// The case's whole name.
fn name(setup: &Setup, check: &Check) -> String {
    format!("{}: {}", setup.name, check.title())
}

async fn cases(
    world: &World,
    setup: &Setup,
    refused: &std::collections::BTreeMap<&'static str, Refused>,
    options: &Options,
    report: &mut Report,
) {
    world.scripts(setup);
    let refusal = |node: &str| refused.get(node).and_then(|all| all.get(&setup.name));
    let (envoy, osm) = (world.side(ENVOY.1), world.side(OSM.1));
    let both = |check: &Check| {
        let h2 = setup.h2_too.then(|| check.over_h2()).flatten();
        [Some(check.clone()), h2]
    };
    for check in setup.checks.iter().flat_map(both).flatten() {
        let case = name(setup, &check);
        if !case.contains(&options.only) {
            continue;
        }
        if let Some(words) = refusal(ENVOY.0) {
            report.add(
                case,
                vec![format!("Envoy refuses the setup: {words}")],
                Value::Null,
                Value::Null,
            );
            continue;
        }
        if options.envoy {
            let start = Instant::now();
            let seen = envoy.run(&check, setup.port).await;
            println!("{case} ({:.2} s)\n  {seen}", start.elapsed().as_secs_f64());
            continue;
        }
        if let Some(words) = refusal(OSM.0) {
            let differences = vec![format!("osm-proxy refuses the setup: {words}")];
            report.add(case, differences, Value::Null, json!({"refused": words}));
            continue;
        }
        let mut outcome = (Vec::new(), Value::Null, Value::Null);
        // A difference has to show twice: what a busy machine does to a time-out shows once.
        for attempt in 0..2 {
            let (one, other) =
                tokio::join!(envoy.run(&check, setup.port), osm.run(&check, setup.port));
            let differences = compare::differences(&one, &other);
            if differences.is_empty() {
                report.unsteady += attempt;
                outcome = (Vec::new(), one, other);
                break;
            }
            outcome = (differences, one, other);
        }
        let (differences, one, other) = outcome;
        report.add(case, differences, one, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_file_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let setups = setup::load(&folder).unwrap();
        let cases: usize = setups.iter().map(|setup| setup.checks.len()).sum();
        assert!(cases >= 150, "{cases} cases");
        assert!(refused::load(&folder).unwrap().len() >= 10);
    }

    #[test]
    fn the_documentation_shows_the_known_differences() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let known = known::load(&root.join("known.yaml")).unwrap();
        let page = root.join("../../docs/compatibility.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = known::markdown(&known);
        assert!(
            page.contains(&table),
            "put this into docs/compatibility.md, section \"osm-proxy and Envoy\":\n{table}"
        );
    }
}
