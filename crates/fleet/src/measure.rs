//! The course of a run: proxies connect, endpoints change, the mode flips there and back, all under a clock.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cluster::Cluster;
use crate::controller::{Controller, Ports};
use crate::crowd::{Crowd, Reached};
use crate::plan::{self, Plan};
use crate::proxy::Goal;
use crate::report::Row;

/// KiB of the controller's memory per pod.
const MEMORY_BAR: f64 = 100.0 * 1024.0;
/// Milliseconds from the change of an endpoint to the last proxy that is told.
const CHANGE_BAR: f64 = 500.0;
/// Bytes that each of them is told.
const CHANGE_BYTES_BAR: f64 = 4096.0;
/// Milliseconds from the change of the mode to the last proxy that has it.
const FLIP_BAR: f64 = 10_000.0;
/// Percent of a processor, of a controller to which nothing happens.
const IDLE_BAR: f64 = 1.0;

/// Changes of an endpoint in each mode.
const CHANGES: usize = 6;
/// How long the controller is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);
/// A run that hangs ends.
const CONNECT_DEADLINE: Duration = Duration::from_secs(180);
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);
const FLIP_DEADLINE: Duration = Duration::from_secs(300);

/// A run at one size.
struct Run<'a> {
    work: String,
    plan: Plan,
    cluster: &'a Cluster,
    controller: Controller,
    crowd: std::sync::Arc<Crowd>,
    rows: Vec<Row>,
}

/// Measures a controller of a cluster with so many pods.
pub async fn run(osm: &Path, folder: &Path, pods: usize) -> anyhow::Result<Vec<Row>> {
    let plan = Plan::of_pods(pods);
    let work = work(pods);
    let (ports, started) = (Ports::free()?, Instant::now());
    let cluster = Cluster::start(folder, plan).await?;
    cluster.populate(ports.webhook).await?;
    say(&work, "objects", started);
    let began = Instant::now();
    let controller = Controller::start(osm, folder, &cluster.kubeconfig, ports).await?;
    let ready = milliseconds(began.elapsed());
    say(&work, "controller", began);
    let authority = cluster.authority().await?;
    let crowd = Crowd::connect(plan, controller.discovery, &authority)?;
    let mut run = Run {
        work,
        plan,
        cluster: &cluster,
        controller,
        crowd,
        rows: Vec::new(),
    };
    run.row("first_world_ms", &[ready], None);
    let measured = run.all().await;
    let Run {
        rows, controller, ..
    } = run;
    if measured.is_err() {
        eprintln!("{}", controller.last_lines());
    }
    drop(controller);
    cluster.stop().await;
    measured.map(|()| rows)
}

fn work(pods: usize) -> String {
    match pods % 1000 {
        0 => format!("control-{}k", pods / 1000),
        _ => format!("control-{pods}"),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn say(work: &str, what: &str, since: Instant) {
    println!(
        "bench: {work}: {what} after {:.1} s",
        since.elapsed().as_secs_f64()
    );
}

impl Run<'_> {
    async fn all(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let reached = self.crowd.reached(CONNECT_DEADLINE).await?;
        say(&self.work, "proxies", began);
        self.row("connect_all_ms", &[milliseconds(reached.after)], None);
        let smi = self.memory("smi").await?;
        self.changes("endpoint_change", false).await?;
        self.idle("idle_cpu_percent").await?;

        let pods = self.plan.pods();
        let everything = Goal::Reach {
            least: self.plan.services,
            most: usize::MAX,
        };
        let before = self.controller.processor_time()?;
        self.crowd.set(everything, pods);
        self.cluster.set_permissive(true).await?;
        let reached = self.crowd.reached(FLIP_DEADLINE).await?;
        self.row(
            "permissive_flip_ms",
            &[milliseconds(reached.after)],
            Some(FLIP_BAR),
        );
        let spent = self.controller.processor_time()? - before;
        self.row("permissive_flip_cpu_ms", &[milliseconds(spent)], None);
        let bytes: u64 = reached.bytes.iter().sum();
        let each = bytes as f64 / pods as f64;
        self.row("permissive_flip_bytes", &[each], None);
        let permissive = self.memory("permissive").await?;
        let worst = smi.max(permissive);
        self.row("bytes_per_pod", &[worst], Some(MEMORY_BAR));
        self.changes("endpoint_change_permissive", true).await?;
        self.idle("idle_cpu_percent_permissive").await?;

        let granted = (0..self.plan.services).map(|service| self.plan.callees(service));
        let most = granted.max().unwrap_or(0);
        self.crowd.set(Goal::Reach { least: 0, most }, pods);
        self.cluster.set_permissive(false).await?;
        let reached = self.crowd.reached(FLIP_DEADLINE).await?;
        self.row("smi_flip_ms", &[milliseconds(reached.after)], None);
        let peak = self.controller.peak()? as f64 * 1024.0 / pods as f64;
        self.row("peak_bytes_per_pod", &[peak], None);
        Ok(())
    }

    async fn memory(&mut self, mode: &str) -> anyhow::Result<f64> {
        let bytes = self.controller.memory().await? as f64 * 1024.0;
        let each = bytes / self.plan.pods() as f64;
        self.row(&format!("bytes_per_pod_{mode}"), &[each], None);
        Ok(each)
    }

    /// One pod of a service becomes unready, then ready again.
    async fn changes(&mut self, metric: &str, everybody: bool) -> anyhow::Result<()> {
        let (mut times, mut sizes, mut others) = (Vec::new(), Vec::new(), 0usize);
        for number in 0..CHANGES {
            let service = (number / 2 * 37 + 3) % self.plan.services;
            let present = number % 2 == 1;
            let callers = self.plan.callers(service);
            let expected = if everybody {
                self.plan.pods()
            } else {
                callers.len() * plan::PODS
            };
            let goal = Goal::Endpoints {
                cluster: plan::cluster(service),
                address: plan::address(service, 4),
                present,
            };
            self.crowd.set(goal, expected);
            self.cluster
                .set_ready(service, (!present).then_some(4))
                .await?;
            let Reached { after, bytes } = self
                .crowd
                .reached(CHANGE_DEADLINE)
                .await
                .with_context(|| metric.to_owned())?;
            times.push(milliseconds(after));
            sizes.push(bytes.iter().max().copied().unwrap_or(0) as f64);
            let touched = self
                .crowd
                .bytes()
                .iter()
                .filter(|bytes| **bytes > 0)
                .count();
            others = others.max(touched.saturating_sub(expected));
        }
        self.row(&format!("{metric}_ms"), &times, Some(CHANGE_BAR));
        self.row(&format!("{metric}_bytes"), &sizes, Some(CHANGE_BYTES_BAR));
        self.row(&format!("{metric}_others"), &[others as f64], None);
        Ok(())
    }

    async fn idle(&mut self, metric: &str) -> anyhow::Result<()> {
        let (before, began) = (self.controller.processor_time()?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let spent = self.controller.processor_time()? - before;
        let share = 100.0 * spent.as_secs_f64() / began.elapsed().as_secs_f64();
        self.row(metric, &[share], Some(IDLE_BAR));
        Ok(())
    }

    fn row(&mut self, metric: &str, values: &[f64], bar: Option<f64>) {
        let row = Row::new(&self.work, metric, values, bar);
        println!("bench: {}: {metric} {:.1}", self.work, row.ours);
        self.rows.push(row);
    }
}
