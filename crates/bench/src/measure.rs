//! Windows: processor time of a pair while a fixed number of exchanges passes, in rounds that alternate their order.

use std::collections::HashMap;
use std::time::Duration;

use crate::cpu::Sample;
use crate::load::Clients;
use crate::peers::Peers;
use crate::plan::{Arm, Metric, Work};
use crate::report::{Bar, Row};
use crate::statistics::median;

/// After the last answer proxies still put things away; it belongs to the window.
const SETTLE: Duration = Duration::from_millis(30);
/// Exchanges before each window, as a share of it: the caches are the other arm's.
const WARM_UP: u32 = 8;
/// Tries of a window until it counts although it was noisy …
const TRIES: u32 = 3;
/// … as long as a metric has no more repetitions than this many times its rounds: the run must end.
const REPEATED: u32 = 1;

/// What was left out or taken in spite of noise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    /// Windows measured.
    pub windows: u32,
    /// Of these, repeated because of stolen time, waiting or threads that came or went.
    pub repeated: u32,
    /// Of these, taken although noisy.
    pub noisy: u32,
    /// Of these, thrown away because an exchange failed.
    pub failed: u32,
}

/// Microseconds per exchange of each arm, by round.
type Values = HashMap<Arm, HashMap<u32, f64>>;

/// Measures a metric on all arms.
pub async fn metric(work: Work, metric: &Metric, peers: &Peers, noise: &mut Noise) -> Vec<Row> {
    let mut clients: HashMap<Arm, Clients> = HashMap::new();
    let mut values = Values::new();
    let mut latencies: HashMap<Arm, Vec<f64>> = HashMap::new();
    for arm in peers.arms() {
        match Clients::open(metric.traffic, peers.address(arm, metric)).await {
            Ok(opened) => {
                clients.insert(arm, opened);
            }
            Err(error) => eprintln!("bench: {work} {}: {arm}: {error:#}", metric.name),
        }
    }
    let mut repetitions = metric.rounds * REPEATED;
    for round in 0..metric.rounds {
        for arm in metric.arms(round) {
            let Some(opened) = clients.get_mut(&arm) else {
                continue;
            };
            match window(
                metric,
                peers.processes(arm),
                opened,
                &mut repetitions,
                noise,
            )
            .await
            {
                Ok((micros, mut times)) => {
                    values.entry(arm).or_default().insert(round, micros);
                    latencies.entry(arm).or_default().append(&mut times);
                }
                Err(error) => {
                    noise.failed += 1;
                    eprintln!(
                        "bench: {work} {}: {arm}: window thrown away: {error:#}",
                        metric.name
                    );
                }
            }
        }
    }
    for (arm, times) in &latencies {
        println!(
            "  {:<15} {:<30} {:<14} p50 {:>8.0} us",
            work.to_string(),
            metric.name,
            arm.to_string(),
            median(times)
        );
    }
    rows(work, metric, &values)
}

/// A window, again if it was noisy.
async fn window(
    metric: &Metric,
    processes: &[u32],
    clients: &mut Clients,
    repetitions: &mut u32,
    noise: &mut Noise,
) -> anyhow::Result<(f64, Vec<f64>)> {
    for attempt in 1.. {
        clients
            .run((metric.count / WARM_UP).max(4), metric.rate)
            .await?;
        tokio::time::sleep(SETTLE).await;
        let before = Sample::of(processes)?;
        let latencies = clients.run(metric.count, metric.rate).await?;
        tokio::time::sleep(SETTLE).await;
        let spent = Sample::of(processes)?.since(&before);
        noise.windows += 1;
        if spent.is_quiet() || attempt >= TRIES || *repetitions == 0 {
            noise.noisy += u32::from(!spent.is_quiet());
            return Ok((spent.run as f64 / 1e3 / f64::from(metric.count), latencies));
        }
        noise.repeated += 1;
        *repetitions -= 1;
    }
    anyhow::bail!("no try")
}

fn rows(work: Work, metric: &Metric, values: &Values) -> Vec<Row> {
    let again = pairs(values, Arm::EnvoyAgain, Arm::Envoy);
    let aa_ratio = median(
        &again
            .iter()
            .map(|(again, once)| again / once)
            .collect::<Vec<_>>(),
    );
    [
        (Arm::Envoy, "envoy"),
        (Arm::Haproxy, "haproxy"),
        (Arm::Nginx, "nginx"),
    ]
    .into_iter()
    .map(|(arm, name)| (arm, name, pairs(values, Arm::Ours, arm)))
    .filter(|(.., pairs)| !pairs.is_empty())
    .map(|(arm, name, pairs)| {
        let bar = (arm == Arm::Envoy).then_some(Bar::Ratio(metric.bar));
        Row::of_pairs(&work.to_string(), &metric.name, name, &pairs, aa_ratio, bar)
    })
    .collect()
}

/// The values of rounds in which both were measured.
fn pairs(values: &Values, one: Arm, other: Arm) -> Vec<(f64, f64)> {
    let (Some(ones), Some(others)) = (values.get(&one), values.get(&other)) else {
        return Vec::new();
    };
    let mut rounds: Vec<u32> = ones
        .keys()
        .copied()
        .filter(|round| others.contains_key(round))
        .collect();
    rounds.sort_unstable();
    rounds
        .iter()
        .map(|round| (ones[round], others[round]))
        .collect()
}
