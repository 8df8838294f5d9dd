//! Anonymous memory of the client's sidecar: fresh, with idle clients, after a storm, with a large configuration.

use std::time::Duration;

use anyhow::Context;

use crate::cpu::anonymous_mib;
use crate::load::{self, Clients, Traffic};
use crate::peers::{Pair, Stage};
use crate::plan::Arm;
use crate::report::{Bar, Row};

/// Idle keep-alive clients; the metric is per thousand of them.
const IDLE_CLIENTS: usize = 1000;
/// Connections that come and go.
const STORM: u32 = 10_000;
/// Connections of the storm a second, at most.
const STORM_RATE: u32 = 2000;
/// Services that nobody calls, of the large configuration.
const LARGE: usize = 10_000;
/// How long memory must stay the same to be taken as settled.
const STILL: Duration = Duration::from_millis(500);
/// How long it may take to settle: allocators give back late.
const SETTLE: u32 = 20;

/// What is demanded of an idle proxy, MiB.
const IDLE_BAR: f64 = 8.0;
/// … and of a thousand idle clients.
const CLIENTS_BAR: f64 = 2.0;

/// One arm's figures, MiB, in the order of [`METRICS`].
type Figures = [f64; 4];

/// Names of the figures, and what is demanded of ours.
const METRICS: [(&str, Option<Bar>); 4] = [
    ("anon_idle_mib", Some(Bar::Value(IDLE_BAR))),
    (
        "anon_per_1000_idle_clients_mib",
        Some(Bar::Value(CLIENTS_BAR)),
    ),
    ("anon_growth_after_10k_connections_mib", None),
    ("anon_after_10k_clusters_mib", None),
];

/// Measures ours and Envoy, each pair alone and fresh; then the floor, which has no clusters to be told.
pub async fn measure(stage: &mut Stage, quick: bool) -> anyhow::Result<Vec<Row>> {
    let ours = figures(stage, Arm::Ours, quick)
        .await
        .context("osm-proxy")?;
    let mut rows = Vec::new();
    for arm in [Arm::Envoy, Arm::Haproxy, Arm::Nginx] {
        let peer = match figures(stage, arm, quick).await {
            Ok(peer) => peer,
            Err(error) => {
                eprintln!("bench: memory: without {arm}: {error:#}");
                continue;
            }
        };
        for ((metric, bar), (ours, peers)) in METRICS.iter().zip(ours.iter().zip(peer)) {
            if ours.is_nan() || peers.is_nan() {
                continue;
            }
            let bar = bar.filter(|_| arm == Arm::Envoy);
            // One value, no pairs: memory does not depend on the neighbours.
            rows.push(Row::of_pairs(
                "memory",
                metric,
                &arm.to_string(),
                &[(*ours, peers)],
                1.0,
                bar,
            ));
        }
    }
    // What no peer could be measured with is compared with itself.
    for ((metric, _), ours) in METRICS.iter().zip(ours) {
        if !ours.is_nan() && rows.iter().all(|row: &Row| row.metric != *metric) {
            rows.push(Row::of_pairs(
                "memory",
                metric,
                "none",
                &[(ours, 0.0)],
                1.0,
                None,
            ));
        }
    }
    Ok(rows)
}

async fn figures(stage: &mut Stage, arm: Arm, quick: bool) -> anyhow::Result<Figures> {
    let pair = stage.pair(arm, 0).await?;
    let (http1, echo) = (pair.place.ports.http1, pair.place.ports.echo);
    let idle = settled(&pair).await?;
    let clients = load::idle((pair.place.outbound, http1).into(), IDLE_CLIENTS).await?;
    let with_clients = settled(&pair).await?;
    drop(clients);
    let before = settled(&pair).await?;
    let storm = if quick { STORM / 5 } else { STORM };
    for (traffic, port) in [(Traffic::ConnectHttp1, http1), (Traffic::Connect, echo)] {
        let mut clients = Clients::open(traffic, (pair.place.outbound, port).into()).await?;
        clients.run(storm / 2, STORM_RATE).await?;
    }
    let after = settled(&pair).await?;
    drop(pair);
    let large = match arm {
        Arm::Haproxy | Arm::Nginx => f64::NAN,
        _ if quick => f64::NAN,
        _ => match stage.pair(arm, LARGE).await {
            Ok(pair) => settled(&pair).await?,
            Err(error) => {
                eprintln!("bench: memory: {arm} with {LARGE} services: {error:#}");
                f64::NAN
            }
        },
    };
    Ok([idle, with_clients - idle, after - before, large])
}

/// The outbound proxy's memory when it changes no more.
async fn settled(pair: &Pair) -> anyhow::Result<f64> {
    let mut last = f64::MAX;
    for _ in 0..SETTLE {
        tokio::time::sleep(STILL).await;
        let now = memory(pair)?;
        if now >= last - 0.05 && now <= last + 0.05 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn memory(pair: &Pair) -> anyhow::Result<f64> {
    crate::cpu::family(&[pair.outbound.id()])?
        .into_iter()
        .map(anonymous_mib)
        .sum()
}
