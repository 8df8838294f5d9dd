//! Retries.

use anyhow::{Context, Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::traffic::{PATIENCE, Pair, client, load};
use super::{Scenario, scenario};
use crate::manifest::{allow, object, with};
use crate::scene::Scene;

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "RTY-01",
        P1,
        exhausted,
        "a request is tried again as often as the policy says, and the counters tell",
        alone
    ),
    scenario!(
        "RTY-02",
        P1,
        flag_off,
        "without the feature flag once",
        alone
    ),
    scenario!(
        "RTY-03",
        P1,
        conditions,
        "only for the listed conditions",
        alone
    ),
    scenario!(
        "RTY-04",
        P1,
        success,
        "the third try succeeds, and the client gets its answer",
        alone
    ),
    scenario!(
        "RTY-05",
        P1,
        per_try_timeout,
        "each try is cut at its time: 504",
        alone
    ),
    scenario!(
        "RTY-06",
        P1,
        scope,
        "only for the source and the destinations named",
        alone
    ),
    scenario!("RTY-07", P2, none, "no tries means none", alone),
];

/// The pair, with a policy for the client's requests to the server.
struct Retried {
    pair: Pair,
    policy: Value,
}

impl Retried {
    async fn new(scene: &Scene<'_>) -> Result<Self> {
        scene
            .mesh_config(json!({ "featureFlags": { "enableRetryPolicy": true } }))
            .await?;
        let pair = Pair::flaky(scene).await?;
        pair.open(scene).await?;
        let policy = json!({
            "source": { "kind": "ServiceAccount", "name": "client", "namespace": pair.clients },
            "destinations": [{ "kind": "Service", "name": "server", "namespace": pair.servers }],
            "retryPolicy": {
                "retryOn": "5xx", "numRetries": 5, "perTryTimeout": "5s", "retryBackoffBaseInterval": "10ms"
            }
        });
        Ok(Self { pair, policy })
    }

    async fn apply(&self, scene: &Scene<'_>, changes: &[(&str, Value)]) -> Result<()> {
        let mut spec = self.policy.clone();
        for (field, value) in changes {
            spec = with(spec, &["retryPolicy", field], value.clone());
        }
        let group = "policy.openservicemesh.io/v1alpha1";
        let object = object(group, "Retry", &self.pair.clients, "retry", spec);
        scene.apply(&[object]).await
    }

    /// One request for a page nobody asked for before ends with this status after so many tries. Pages have names
    /// behind their rule: a change may take a moment, so there is a new one for each attempt.
    async fn once(&self, scene: &Scene<'_>, rule: &str, status: u16, tries: u64) -> Result<()> {
        let mut number = 0;
        eventually(PATIENCE, async || {
            number += 1;
            let page = format!("{rule}/{number}/{tries}/{status}");
            let tally = self.pair.load(scene, &page, "-c 1 -n 1").await?;
            let seen = self.pair.seen(scene, &page).await?;
            ensure!(
                tally.of(status) == 1 && seen == tries,
                "{rule}: {tally:?} after {seen} tries, not {status} after {tries}"
            );
            Ok(())
        })
        .await
    }
}

async fn exhausted(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.once(scene, "/every/1/503", 503, 1).await?;
    retried.apply(scene, &[]).await?;
    retried.once(scene, "/every/1/503", 503, 6).await?;
    let pair = &retried.pair;
    let limit = pair
        .counter(scene, &["upstream_rq_retry_limit_exceeded", "server"])
        .await?;
    ensure!(limit >= 1, "upstream_rq_retry_limit_exceeded is {limit}");
    Ok(())
}

async fn flag_off(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.apply(scene, &[]).await?;
    retried.once(scene, "/every/1/503", 503, 6).await?;
    scene
        .mesh_config(json!({ "featureFlags": { "enableRetryPolicy": false } }))
        .await?;
    retried.once(scene, "/every/1/503/off", 503, 1).await
}

async fn conditions(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.apply(scene, &[]).await?;
    retried.once(scene, "/every/1/500", 500, 6).await?;
    retried.once(scene, "/every/1/404", 404, 1).await?;
    retried.once(scene, "/every/1/409", 409, 1).await?;
    retried
        .apply(scene, &[("retryOn", json!("5xx,retriable-4xx"))])
        .await?;
    retried.once(scene, "/every/1/409", 409, 6).await?;
    retried.once(scene, "/every/1/404", 404, 1).await?;
    retried
        .apply(scene, &[("retryOn", json!("gateway-error"))])
        .await?;
    retried.once(scene, "/every/1/500/b", 500, 1).await?;
    retried.once(scene, "/every/1/502", 502, 6).await
}

async fn success(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.apply(scene, &[]).await?;
    retried.once(scene, "/first/2/503", 200, 3).await?;
    let good = retried
        .pair
        .counter(scene, &["upstream_rq_retry_success", "server"])
        .await?;
    ensure!(good >= 1, "upstream_rq_retry_success is {good}");
    Ok(())
}

async fn per_try_timeout(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    let changes = [("perTryTimeout", json!("1s")), ("numRetries", json!(1))];
    retried.apply(scene, &changes).await?;
    retried.once(scene, "/late/1/4000", 504, 2).await
}

async fn scope(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.apply(scene, &[]).await?;
    retried.once(scene, "/every/1/503", 503, 6).await?;
    // Another account of the same namespace.
    let pair = &retried.pair;
    let sources = [
        (pair.clients.as_str(), "client"),
        (pair.clients.as_str(), "other"),
    ];
    scene
        .apply(&allow(&pair.servers, "server", &sources))
        .await?;
    let (_, tools) = client(scene, &pair.clients, "other").await?;
    eventually(PATIENCE, async || {
        let tally = load(scene, &tools, &pair.url("/other"), "-c 1 -n 1").await?;
        tally.codes.get(&200).map(drop).context("not open yet")
    })
    .await?;
    let page = "/every/1/503/scope";
    let tally = load(scene, &tools, &pair.url(page), "-c 1 -n 1").await?;
    let seen = pair.seen(scene, page).await?;
    ensure!(
        (tally.of(503), seen) == (1, 1),
        "{tally:?} after {seen} tries"
    );
    // Another destination.
    let object = with(
        retried.policy.clone(),
        &["destinations", "0", "name"],
        json!("elsewhere"),
    );
    let changed = Retried {
        pair: retried.pair,
        policy: object,
    };
    changed.apply(scene, &[]).await?;
    changed.once(scene, "/every/1/503/elsewhere", 503, 1).await
}

async fn none(scene: &Scene<'_>) -> Result<()> {
    let retried = Retried::new(scene).await?;
    retried.apply(scene, &[("numRetries", json!(2))]).await?;
    retried.once(scene, "/every/1/503", 503, 3).await?;
    retried.apply(scene, &[("numRetries", json!(0))]).await?;
    retried.once(scene, "/every/1/503/none", 503, 1).await
}
