//! Circuit breaking: limits of connections and requests, and osm-edge's breaker of errors and slow answers.

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::traffic::{PATIENCE, Pair, Tally, client, load, serve, setting};
use super::{Scenario, scenario, tcp};
use crate::manifest::{PORT, egress, target, with};
use crate::scene::{Ends, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "CB-01",
        P1,
        no_limits,
        "without limits every request is answered"
    ),
    scenario!(
        "CB-02",
        P1,
        limits,
        "above its limits a destination is spared: 503, x-envoy-overloaded"
    ),
    scenario!(
        "CB-03",
        P1,
        external,
        "limits of an external host, by an Egress"
    ),
    scenario!(
        "CB-04",
        P1,
        connections,
        "the third TCP connection is closed; there is room when one ends"
    ),
    scenario!(
        "CB-05",
        P2,
        streams,
        "maxRequests bounds the streams of HTTP/2"
    ),
    scenario!(
        "CB-06",
        P1,
        error_amount,
        "the 100th error breaks the circuit, for its time"
    ),
    scenario!(
        "CB-07",
        P1,
        error_ratio,
        "a tenth of errors breaks it at the 200th request"
    ),
    scenario!(
        "CB-08",
        P1,
        slow,
        "so do slow answers, by number and by share"
    ),
    scenario!(
        "CB-09",
        P2,
        defaults,
        "a breaker without more than a threshold: 409, Coming soon"
    ),
    scenario!(
        "CB-10",
        P1,
        changes,
        "a setting is changed and removed live"
    ),
    scenario!(
        "CB-11",
        P1,
        one_per_host,
        "a second setting for a host is refused, the first may be changed"
    ),
];

/// One request at a time, and none that waits.
fn narrow() -> Value {
    json!({ "connectionSettings": {
        "tcp": { "maxConnections": 1 }, "http": { "maxPendingRequests": 1, "maxRequests": 1 }
    } })
}

fn breaker(breaking: Value) -> Value {
    json!({ "connectionSettings": { "http": { "circuitBreaking": breaking } } })
}

/// The breaker of the guide.
fn guide(threshold: &str, value: Value) -> Value {
    let common = json!({
        "statTimeWindow": "1m", "minRequestAmount": 200, "slowTimeThreshold": "200ms", "degradedTimeWindow": "5s",
        "degradedStatusCode": 503, "degradedResponseContent": BODY,
    });
    breaker(with(common, &[threshold], value))
}

const BODY: &str = "Service Unavailable!";

/// The load of the guide.
const GUIDE: &str = "-c 10 -n 1000 --qps 200";

/// Some are answered, some are refused for the limit.
fn overflows(tally: &Tally) -> Result<()> {
    let is_so = tally.of(200) > 0 && tally.of(503) > 0 && tally.of(200) + tally.of(503) == 50;
    ensure!(
        is_so && tally.bodies[&503].contains("overflow"),
        "{tally:?}"
    );
    Ok(())
}

fn all_answered(tally: &Tally) -> Result<()> {
    ensure!(tally.of(200) == 50 && tally.errors.is_empty(), "{tally:?}");
    Ok(())
}

async fn no_limits(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    all_answered(&pair.load(scene, "/late/1/50", "-c 3 -n 50").await?)
}

async fn limits(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    pair.set(scene, narrow()).await?;
    eventually(PATIENCE, async || {
        overflows(&pair.load(scene, "/late/1/50", "-c 3 -n 50").await?)
    })
    .await?;
    // Refused requests say so, and never reached the server.
    let words = ["upstream_rq_pending_overflow", "server"];
    let overflow = pair.counter(scene, &words).await?;
    ensure!(overflow > 0, "upstream_rq_pending_overflow is {overflow}");
    let line = format!(
        "for i in 1 2 3 4 5 6; do curl -s -o /dev/null -D - --max-time 10 {} & done; wait",
        pair.url("/late/1/500")
    );
    let heads = scene.sh(&pair.client, &line).await?;
    ensure!(heads.contains("x-envoy-overloaded: true"), "{heads}");
    Ok(())
}

/// Some of the requests to a host outside the mesh are refused for its limits; without the setting that the Egress
/// names nothing passes.
pub async fn external(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let outside = scene.plain_namespace("outside").await?;
    serve(scene, &outside, "far", &["flaky"], ("http", PORT)).await?;
    let (curl, tools) = client(scene, &clients, "client").await?;
    scene.pod(&outside, "far", "server").await?;
    let host = format!("far.{outside}.svc.cluster.local");
    let matches = json!([{
        "apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "limits"
    }]);
    let policy = egress(&clients, "far", "client", &[&host], PORT, "http");
    scene
        .apply(&[
            setting(&clients, "limits", &host, narrow()),
            with(policy, &["spec", "matches"], matches),
        ])
        .await?;
    let url = |path: &str| format!("http://{host}:{PORT}{path}");
    scene.curl(&curl, &url("/ready"), Ends::Status(200)).await?;
    let loaded = async || load(scene, &tools, &url("/late/1/50"), "-c 3 -n 50").await;
    eventually(PATIENCE, async || overflows(&loaded().await?)).await?;
    // Without the setting that it names the whole policy is void.
    scene
        .delete("upstreamtrafficsetting", &clients, "limits")
        .await?;
    scene.curl(&curl, &url("/ready"), Ends::Closed).await
}

async fn connections(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::new(scene, &["tcp-echo"], ("tcp-echo", 9000)).await?;
    scene
        .apply(&[
            tcp::route(&pair.servers, "echo", &[9000]),
            target(
                &pair.servers,
                "server",
                "server",
                &[(&pair.clients, "client")],
                tcp::rule("echo"),
            ),
        ])
        .await?;
    let host = pair.host();
    let echo = format!("echo more | nc -N -w 5 {host} 9000");
    let answered = async |wanted: bool| {
        eventually(PATIENCE, async || {
            let said = scene.sh(&pair.client, &echo).await?;
            ensure!(said.contains("echo response: more") == wanted, "{said:?}");
            Ok(())
        })
        .await
    };
    answered(true).await?;
    let limits = json!({ "connectionSettings": { "tcp": { "maxConnections": 2 } } });
    pair.set(scene, limits).await?;
    // Two that stay: each is answered, and then keeps quiet.
    let hold = format!(
        "for i in 1 2; do rm -f /tmp/said$i; (echo $i; sleep 300) | nc {host} 9000 > /tmp/said$i 2>&1 & done; \
         i=0; while [ $i -lt 100 ] && ! {{ [ -s /tmp/said1 ] && [ -s /tmp/said2 ]; }}; do i=$((i+1)); sleep 0.1; done; \
         cat /tmp/said1 /tmp/said2"
    );
    let holding =
        tokio::time::timeout(PATIENCE, scene.sh(&pair.client, &format!("({hold}) 2>&1"))).await??;
    ensure!(holding.matches("echo response").count() == 2, "{holding:?}");
    answered(false).await?;
    let free = "pkill -x nc; true";
    scene.sh(&pair.client, free).await?;
    answered(true).await
}

async fn streams(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::new(scene, &["flaky"], ("grpc", PORT)).await?;
    let slow = "/late/1/100";
    let options = "--http2 -c 6 -n 50";
    eventually(PATIENCE, async || {
        all_answered(&pair.load(scene, slow, options).await?)
    })
    .await?;
    let limits = json!({ "connectionSettings": { "http": { "maxRequests": 2 } } });
    pair.set(scene, limits).await?;
    eventually(PATIENCE, async || {
        overflows(&pair.load(scene, slow, options).await?)
    })
    .await
}

async fn error_amount(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.set(scene, guide("errorAmountThreshold", json!(100)))
        .await?;
    pair.open(scene).await?;
    let tally = pair.load(scene, "/every/5/511", GUIDE).await?;
    // As many more as were under way.
    let broken_at = (100..=110).contains(&tally.of(511)) && (400..=450).contains(&tally.of(200));
    ensure!(broken_at && tally.answers() == 1000, "{tally:?}");
    ensure!(tally.bodies[&503] == BODY, "{tally:?}");
    // After its time the destination is asked again, with nothing held against it.
    scene
        .curl(&pair.client, &pair.url("/ready"), Ends::Status(200))
        .await?;
    let tally = pair.load(scene, "/every/5/511/again", "-c 1 -n 50").await?;
    ensure!((tally.of(511), tally.of(503)) == (10, 0), "{tally:?}");
    Ok(())
}

async fn error_ratio(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.set(scene, guide("errorRatioThreshold", json!(0.1)))
        .await?;
    pair.open(scene).await?;
    let tally = pair.load(scene, "/every/5/511", GUIDE).await?;
    // The five requests before count, too.
    let answered = tally.of(200) + tally.of(511);
    ensure!(
        (190..=215).contains(&answered) && tally.answers() == 1000,
        "{tally:?}"
    );
    ensure!((38..=44).contains(&tally.of(511)), "{tally:?}");
    Ok(())
}

async fn slow(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.set(scene, guide("slowAmountThreshold", json!(100)))
        .await?;
    pair.open(scene).await?;
    let tally = pair.load(scene, "/late/5/250", GUIDE).await?;
    // While the slow ones are under way others are answered; on a slow machine more of them are slow.
    ensure!(tally.of(200) <= 600 && tally.of(503) >= 400, "{tally:?}");
    pair.set(scene, guide("slowRatioThreshold", json!(0.1)))
        .await?;
    scene
        .curl(&pair.client, &pair.url("/ready"), Ends::Status(200))
        .await?;
    let tally = pair.load(scene, "/late/5/250/again", GUIDE).await?;
    ensure!(
        (180..=280).contains(&tally.of(200)) && tally.of(503) >= 720,
        "{tally:?}"
    );
    Ok(())
}

async fn defaults(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.set(scene, breaker(json!({ "errorAmountThreshold": 5 })))
        .await?;
    pair.open(scene).await?;
    let tally = pair.load(scene, "/every/1/500", "-c 1 -n 20").await?;
    ensure!((tally.of(500), tally.of(409)) == (5, 15), "{tally:?}");
    ensure!(tally.bodies[&409] == "Coming soon ...", "{tally:?}");
    Ok(())
}

async fn changes(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let loaded = async || pair.load(scene, "/late/1/50", "-c 3 -n 50").await;
    pair.set(scene, narrow()).await?;
    eventually(PATIENCE, async || overflows(&loaded().await?)).await?;
    let wide = with(
        narrow(),
        &["connectionSettings"],
        json!({ "http": { "maxRequests": 100 } }),
    );
    pair.set(scene, wide).await?;
    eventually(PATIENCE, async || all_answered(&loaded().await?)).await?;
    pair.set(scene, narrow()).await?;
    eventually(PATIENCE, async || overflows(&loaded().await?)).await?;
    pair.unset(scene).await?;
    eventually(PATIENCE, async || all_answered(&loaded().await?)).await
}

async fn one_per_host(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.set(scene, narrow()).await?;
    let second = setting(&pair.servers, "second", &pair.host(), narrow());
    let text = "since they have the same host";
    scene.refused(&[second], text).await?;
    // Of itself it is no duplicate.
    let wide = json!({ "connectionSettings": { "http": { "maxRequests": 100 } } });
    pair.set(scene, wide).await
}
