//! Rate limits: counted by each server's sidecar, or by a rate limit service.

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::traffic::{PATIENCE, Pair, Tally, serve};
use super::{Scenario, scenario, tcp};
use crate::manifest::{routes, rule, target, with};
use crate::scene::{Ends, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "RL-01",
        P1,
        local,
        "three requests a minute: 3 answered, 7 refused with 429"
    ),
    scenario!("RL-02", P1, burst, "a burst adds to them"),
    scenario!(
        "RL-03",
        P1,
        route,
        "a limit of one route leaves the others alone"
    ),
    scenario!("RL-04", P1, reply, "status and headers of the refusal"),
    scenario!(
        "RL-05",
        P1,
        tcp_connections,
        "a limit on TCP connections resets what is above"
    ),
    scenario!("RL-06", P1, per_pod, "each pod counts for itself"),
    scenario!(
        "RL-07",
        P1,
        refill,
        "when the time is over requests pass again"
    ),
    scenario!(
        "RL-08",
        P2,
        global_tcp,
        "connections counted by a rate limit service"
    ),
    scenario!(
        "RL-09",
        P2,
        generic_key,
        "requests counted by a service under a fixed key"
    ),
    scenario!(
        "RL-10",
        P2,
        remote_address,
        "requests counted by the client's address"
    ),
    scenario!(
        "RL-11",
        P2,
        request_header,
        "requests to a route counted by a header's value"
    ),
    scenario!(
        "RL-12",
        P2,
        header_match,
        "requests counted where headers match"
    ),
    scenario!(
        "RL-13",
        P2,
        incomplete,
        "a descriptor with a part missing counts nothing"
    ),
    scenario!(
        "RL-14",
        P2,
        unreachable,
        "without the service requests pass or are refused, as failOpen says"
    ),
    scenario!(
        "RL-15",
        P2,
        headers,
        "x-ratelimit headers and a status of one's own"
    ),
];

/// A local limit on requests.
fn limit(rest: Value) -> Value {
    json!({ "rateLimit": { "local": { "http": with(rest, &["unit"], json!("minute")) } } })
}

/// A change has arrived when a page that nobody counts says so: the settings' own limits are kept whole.
async fn ten(pair: &Pair, scene: &Scene<'_>, path: &str) -> Result<Tally> {
    pair.load(scene, path, "-c 1 -n 10").await
}

/// How many of ten requests are answered.
async fn answered(pair: &Pair, scene: &Scene<'_>, path: &str, wanted: u64) -> Result<()> {
    eventually(PATIENCE, async || {
        let tally = ten(pair, scene, path).await?;
        let is_so = tally.of(200) == wanted && tally.of(429) == 10 - wanted;
        ensure!(is_so, "{tally:?}, not {wanted} answered");
        Ok(())
    })
    .await
}

/// A limit that takes effect is known by its first refusal; then the bucket is made new, and counted from full.
async fn fresh(
    pair: &Pair,
    scene: &Scene<'_>,
    rest: Value,
    path: &str,
    wanted: u64,
) -> Result<Tally> {
    let number = if wanted >= 10 { 30 } else { 10 };
    eventually(PATIENCE, async || {
        pair.unset(scene).await.ok();
        answered(pair, scene, "/uncounted", 10).await?;
        pair.set(scene, rest.clone()).await?;
        let options = format!("-c 1 -n {number} --qps 20");
        let tally = pair.load(scene, path, &options).await?;
        let good = tally.of(200);
        ensure!(
            good == wanted && good + tally.of(429) + tally.of(503) == number,
            "{tally:?}, not {wanted} answered"
        );
        Ok(tally)
    })
    .await
}

async fn local(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let tally = fresh(&pair, scene, limit(json!({ "requests": 3 })), "/get", 3).await?;
    ensure!(tally.of(429) == 7, "{tally:?}");
    // It stays so.
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(429))
        .await?;
    let first = limit(json!({ "requests": 1 }));
    fresh(&pair, scene, first, "/get", 1).await.map(drop)
}

async fn burst(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let rest = limit(json!({ "requests": 3, "burst": 10 }));
    fresh(&pair, scene, rest, "/get", 13).await.map(drop)
}

async fn route(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    scene
        .apply(&[
            routes(
                &pair.servers,
                "server",
                &[("get", "/get"), ("others", "/oth.*")],
            ),
            target(
                &pair.servers,
                "server",
                "server",
                &[(&pair.clients, "client")],
                rule("server", &["get", "others"]),
            ),
        ])
        .await?;
    let local = json!({ "local": { "requests": 1, "unit": "minute" } });
    let limited = json!({ "httpRoutes": [
        { "path": "/get", "rateLimit": local.clone() }, { "path": "/other", "rateLimit": local }
    ] });
    pair.set(scene, limited).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(429))
        .await?;
    // Not the text of any grant: no limit.
    answered(&pair, scene, "/other", 10).await
}

async fn reply(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let rest = json!({
        "requests": 1, "responseStatusCode": 503, "responseHeadersToAdd": [{ "name": "x-limited", "value": "yes" }]
    });
    pair.set(scene, limit(rest)).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(503))
        .await?;
    let line = format!(
        "curl -s -o /dev/null -D - --max-time 10 {}",
        pair.url("/get")
    );
    let head = scene.sh(&pair.client, &line).await?;
    ensure!(head.contains("x-limited: yes"), "{head}");
    pair.unset(scene).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(200))
        .await?;
    let head = scene.sh(&pair.client, &line).await?;
    ensure!(!head.contains("x-limited"), "{head}");
    Ok(())
}

/// A pair that echoes on TCP.
async fn echo(scene: &Scene<'_>) -> Result<Pair> {
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
    echoes(&pair, scene, |count| count == 10).await?;
    Ok(pair)
}

/// Of ten connections so many echo.
async fn echoes(pair: &Pair, scene: &Scene<'_>, is_so: fn(usize) -> bool) -> Result<()> {
    let line = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do echo hello | nc -N -w 5 {} 9000; done",
        pair.host()
    );
    eventually(PATIENCE, async || {
        let said = scene.sh(&pair.client, &line).await?;
        let count = said.matches("echo response: hello").count();
        ensure!(is_so(count), "{count} of ten connections echo");
        Ok(())
    })
    .await
}

async fn tcp_connections(scene: &Scene<'_>) -> Result<()> {
    let pair = echo(scene).await?;
    let tcp = json!({ "connections": 1, "unit": "minute" });
    pair.set(scene, json!({ "rateLimit": { "local": { "tcp": tcp } } }))
        .await?;
    echoes(&pair, scene, |count| count <= 1).await?;
    pair.unset(scene).await?;
    echoes(&pair, scene, |count| count == 10).await
}

async fn per_pod(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    let namespace = pair.servers.as_str();
    scene
        .stage
        .kubectl(&[
            "scale",
            "deployment",
            "server",
            "-n",
            namespace,
            "--replicas=2",
        ])
        .await?
        .text()?;
    scene.pods(namespace, "server", "server", 2).await?;
    pair.open(scene).await?;
    fresh(&pair, scene, limit(json!({ "requests": 3 })), "/get", 6)
        .await
        .map(drop)
}

async fn refill(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let second =
        json!({ "rateLimit": { "local": { "http": { "requests": 2, "unit": "second" } } } });
    pair.set(scene, second).await?;
    eventually(PATIENCE, async || {
        // Ten a second for three seconds: at least two of each second pass, and far from all.
        let tally = pair.load(scene, "/get", "-c 1 -n 30 --qps 10").await?;
        ensure!(
            (6..=12).contains(&tally.of(200)) && tally.of(429) >= 18,
            "{tally:?}"
        );
        Ok(())
    })
    .await
}

/// A rate limit service outside the mesh, with limits for each minute; gives its host.
async fn service(scene: &Scene<'_>, limits: &[&str]) -> Result<String> {
    let namespace = scene.plain_namespace("rls").await?;
    let mut role = vec!["rls"];
    role.extend(limits.iter().flat_map(|limit| ["--limit", *limit]));
    serve(scene, &namespace, "rls", &role, ("grpc", 8081)).await?;
    scene.pod(&namespace, "rls", "server").await?;
    Ok(format!("rls.{namespace}.svc.cluster.local"))
}

/// A global limit on requests. The wait is long: the machine may be slow.
fn global(host: &str, rest: Value) -> Value {
    let rest = with(
        rest,
        &["rateLimitService"],
        json!({ "host": host, "port": 8081 }),
    );
    let rest = with(rest, &["timeout"], json!("5s"));
    let rest = with(rest, &["domain"], json!("test"));
    json!({ "rateLimit": { "global": { "http": rest } } })
}

fn descriptors(entries: Value) -> Value {
    json!({ "failOpen": false, "descriptors": [{ "entries": entries }] })
}

async fn global_tcp(scene: &Scene<'_>) -> Result<()> {
    let pair = echo(scene).await?;
    let host = service(scene, &["test:my_key=my_value:4"]).await?;
    let tcp = json!({
        "rateLimitService": { "host": host, "port": 8081 }, "domain": "test", "failOpen": false, "timeout": "5s",
        "descriptors": [{ "entries": [{ "key": "my_key", "value": "my_value" }] }]
    });
    pair.set(scene, json!({ "rateLimit": { "global": { "tcp": tcp } } }))
        .await?;
    // Four a minute: what came before the setting did is not counted.
    echoes(&pair, scene, |count| count <= 4).await?;
    pair.unset(scene).await?;
    echoes(&pair, scene, |count| count == 10).await
}

async fn generic_key(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(
        scene,
        &["test:my_key=my_value:1", "test:generic_key=plain:2"],
    )
    .await?;
    let named = json!([{ "genericKey": { "key": "my_key", "value": "my_value" } }]);
    pair.set(scene, global(&host, descriptors(named))).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(429))
        .await?;
    let plain = json!([{ "genericKey": { "value": "plain" } }]);
    pair.set(scene, global(&host, descriptors(plain))).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(429))
        .await?;
    pair.unset(scene).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(200))
        .await
}

async fn remote_address(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(scene, &["test:remote_address:3"]).await?;
    let entries = json!([{ "remoteAddress": {} }]);
    pair.set(scene, global(&host, descriptors(entries))).await?;
    eventually(PATIENCE, async || {
        let tally = ten(&pair, scene, "/get").await?;
        ensure!(tally.of(200) <= 3 && tally.of(429) >= 7, "{tally:?}");
        Ok(())
    })
    .await
}

async fn request_header(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(scene, &["test:my_header=foo:1"]).await?;
    let entries = json!([{ "requestHeader": { "name": "my-header", "key": "my_header" } }]);
    let mut rest = global(&host, json!({ "failOpen": false }));
    rest["httpRoutes"] = json!([{ "path": ".*", "rateLimit": { "global": { "descriptors": [{ "entries": entries }] } } }]);
    pair.set(scene, rest).await?;
    let with_header = |value: &str| format!("-H 'my-header: {value}' {}", pair.url("/get"));
    scene
        .curl(&pair.client, &with_header("foo"), Ends::Status(429))
        .await?;
    scene
        .curl(&pair.client, &with_header("baz"), Ends::Status(200))
        .await
}

async fn header_match(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(scene, &["test:header_match=foo:1"]).await?;
    let headers = json!([
        { "name": "my-header", "present": true }, { "name": "other-header", "present": false },
        { "name": "user-agent", "prefix": "curl" }
    ]);
    let entries = json!([{ "headerValueMatch": { "value": "foo", "headers": headers } }]);
    pair.set(scene, global(&host, descriptors(entries))).await?;
    let url = pair.url("/get");
    scene
        .curl(
            &pair.client,
            &format!("-H 'my-header: x' {url}"),
            Ends::Status(429),
        )
        .await?;
    let both = format!("-H 'my-header: x' -H 'other-header: x' {url}");
    scene.curl(&pair.client, &both, Ends::Status(200)).await?;
    scene
        .curl(
            &pair.client,
            &format!("-H 'other-header: x' {url}"),
            Ends::Status(200),
        )
        .await
}

async fn incomplete(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(scene, &["test:k=v,my_header=foo:1", "test:k=v:1"]).await?;
    let entries = json!([
        { "genericKey": { "key": "k", "value": "v" } },
        { "requestHeader": { "name": "my-header", "key": "my_header" } }
    ]);
    pair.set(scene, global(&host, descriptors(entries))).await?;
    let url = pair.url("/get");
    scene
        .curl(
            &pair.client,
            &format!("-H 'my-header: foo' {url}"),
            Ends::Status(429),
        )
        .await?;
    scene.curl(&pair.client, &url, Ends::Status(200)).await
}

async fn unreachable(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = format!("nobody.{}.svc.cluster.local", pair.servers);
    let entries = json!([{ "genericKey": { "value": "v" } }]);
    let closed = global(&host, descriptors(entries));
    pair.set(scene, closed.clone()).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(500))
        .await?;
    let open = with(
        closed,
        &["rateLimit", "global", "http", "failOpen"],
        json!(true),
    );
    pair.set(scene, open).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(200))
        .await
}

async fn headers(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::flaky(scene).await?;
    pair.open(scene).await?;
    let host = service(scene, &["test:k=v:2"]).await?;
    let rest = descriptors(json!([{ "genericKey": { "key": "k", "value": "v" } }]));
    let rest = with(rest, &["enableXRateLimitHeaders"], json!(true));
    let rest = with(rest, &["responseStatusCode"], json!(503));
    pair.set(scene, global(&host, rest)).await?;
    scene
        .curl(&pair.client, &pair.url("/get"), Ends::Status(503))
        .await?;
    let line = format!(
        "curl -s -o /dev/null -D - --max-time 10 {}",
        pair.url("/get")
    );
    let head = scene.sh(&pair.client, &line).await?;
    let told = [
        "x-ratelimit-limit: 2",
        "x-ratelimit-remaining: 0",
        "x-ratelimit-reset: ",
    ];
    ensure!(told.iter().all(|line| head.contains(line)), "{head}");
    Ok(())
}
