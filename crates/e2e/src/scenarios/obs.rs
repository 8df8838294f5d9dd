//! What the mesh tells of itself: traces of the bookstore demo.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::demo::{Bookstore, ONLY_THE_BUYER, set};
use super::{Scenario, scenario};
use crate::manifest::{account, deployment, pod, service};
use crate::scene::{Pod, Scene};

/// The scenarios of this area; OBS-02 is among the commands.
pub const ALL: &[Scenario] = &[scenario!(
    "OBS-06",
    P1,
    traces,
    "one trace from bookbuyer to bookwarehouse at a Zipkin collector, and none when it is off",
    alone
)];

const PATIENCE: Duration = Duration::from_secs(90);

const PORT: u16 = 9411;

async fn traces(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.plain_namespace("jaeger").await?;
    let container = json!({
        "name": "jaeger", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["osm-apps", "zipkin", "--port", PORT.to_string()],
        "ports": [{ "containerPort": PORT }]
    });
    scene
        .apply(&[
            account(&namespace, "jaeger"),
            service(&namespace, "jaeger", "jaeger", "http", PORT),
            deployment(&namespace, "jaeger", pod("jaeger", container)),
        ])
        .await?;
    let collector = scene.pod(&namespace, "jaeger", "jaeger").await?;
    let slowly = |object: &mut Value| {
        set(
            object,
            "bookbuyer",
            "CI_SLEEP_BETWEEN_REQUESTS_SECONDS",
            "0.5",
        )
    };
    let demo = Bookstore::new(scene, slowly).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    demo.moves(ONLY_THE_BUYER).await?;
    ensure!(
        spans(scene, &collector).await?.0 == 0,
        "spans before tracing is on"
    );

    let address = format!("jaeger.{namespace}.svc.cluster.local");
    let on =
        json!({ "enable": true, "address": address, "port": PORT, "endpoint": "/api/v2/spans" });
    scene
        .mesh_config(json!({ "observability": { "tracing": on } }))
        .await?;
    eventually(PATIENCE, async || {
        let (_, last) = spans(scene, &collector).await?;
        whole(&last, &demo)
    })
    .await?;

    scene
        .mesh_config(json!({ "observability": { "tracing": { "enable": false } } }))
        .await?;
    eventually(PATIENCE, async || {
        let (before, _) = spans(scene, &collector).await?;
        // Rounds enough for a sidecar to send what it has.
        demo.moves(ONLY_THE_BUYER).await?;
        demo.moves(ONLY_THE_BUYER).await?;
        let (after, _) = spans(scene, &collector).await?;
        ensure!(
            before == after,
            "{} spans while tracing is off",
            after.saturating_sub(before)
        );
        Ok(())
    })
    .await
}

/// How many spans were collected, and the last of them.
async fn spans(scene: &Scene<'_>, collector: &Pod) -> Result<(u64, Vec<Value>)> {
    let line = format!("curl -s --max-time 10 http://127.0.0.1:{PORT}/spans");
    let text = scene.sh(collector, &line).await?;
    let page: Value = serde_json::from_str(&text).with_context(|| format!("/spans is {text:?}"))?;
    let count = page["count"].as_u64().context("count")?;
    Ok((count, page["last"].as_array().cloned().unwrap_or_default()))
}

/// Is there a trace with both sides of both hops, under the names of the ServiceAccounts?
fn whole(spans: &[Value], demo: &Bookstore<'_>) -> Result<()> {
    let mut traces: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for span in spans {
        let part = format!(
            "{} {}",
            span["localEndpoint"]["serviceName"]
                .as_str()
                .unwrap_or_default(),
            span["kind"].as_str().unwrap_or_default()
        );
        let trace = span["traceId"].as_str().unwrap_or_default();
        traces.entry(trace).or_default().insert(part);
    }
    let wanted: BTreeSet<String> = [
        ("bookbuyer", "CLIENT"),
        ("bookstore", "SERVER"),
        ("bookstore", "CLIENT"),
        ("bookwarehouse", "SERVER"),
    ]
    .into_iter()
    .map(|(name, kind)| format!("{name}.{} {kind}", demo.namespace(name)))
    .collect();
    ensure!(
        traces.values().any(|parts| parts.is_superset(&wanted)),
        "no trace has {wanted:?}; the longest of {}: {:?}",
        traces.len(),
        traces.values().max_by_key(|parts| parts.len())
    );
    Ok(())
}
