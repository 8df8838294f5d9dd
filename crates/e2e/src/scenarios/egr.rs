//! Egress: what leaves the mesh.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Scenario, cb::external, scenario};
use crate::manifest::{PORT, account, deployment, egress, httpbin, pod, routes, service, with};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "EGR-01",
        P0,
        passthrough_on,
        "mesh-wide passthrough on: every host, HTTP and HTTPS",
        alone
    ),
    scenario!(
        "EGR-02",
        P0,
        passthrough_off,
        "passthrough off: connection refused",
        alone
    ),
    scenario!(
        "EGR-03",
        P0,
        tcp_passthrough,
        "TCP passes with passthrough and does not without",
        alone
    ),
    scenario!("EGR-04", P0, http_host, "egress policy for an HTTP host"),
    scenario!(
        "EGR-05",
        P0,
        https_server_name,
        "egress policy for HTTPS by server name"
    ),
    scenario!(
        "EGR-06",
        P0,
        tcp_port,
        "egress policy for TCP by port and CIDR"
    ),
    scenario!(
        "EGR-07",
        P0,
        route_matches,
        "egress policy with HTTPRouteGroup matches"
    ),
    scenario!(
        "EGR-08",
        P1,
        listed_accounts,
        "only the listed ServiceAccounts"
    ),
    scenario!(
        "EGR-10",
        P1,
        host_forms,
        "the host with its port matches, an unlisted host is 404"
    ),
    scenario!(
        "EGR-12",
        P1,
        http_addresses,
        "ipAddresses count for HTTP too"
    ),
    scenario!(
        "EGR-13",
        P1,
        passthrough_wins,
        "policies do not narrow passthrough",
        alone
    ),
    scenario!(
        "EGR-14",
        P1,
        server_first,
        "an outside server that speaks first greets at once"
    ),
    scenario!(
        "EGR-15",
        P1,
        unmeshed_service,
        "egress to a service of the cluster outside the mesh"
    ),
    scenario!(
        "EGR-17",
        P1,
        external,
        "an Egress takes the limits it names; without them it is void"
    ),
];

const HTTP: &str = "http://httpbin.org/get";
const HTTP_STATUS: &str = "http://httpbin.org/status/200";
const HTTPS: &str = "https://httpbin.org/get";
const OTHER_HTTPS: &str = "https://openservicemesh.io/";

async fn client(scene: &Scene<'_>) -> Result<(String, Pod)> {
    let namespace = scene.namespace("client").await?;
    let client = scene.client(&namespace, "client").await?;
    Ok((namespace, client))
}

async fn passthrough_on(scene: &Scene<'_>) -> Result<()> {
    let (_, client) = client(scene).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": true } }))
        .await?;
    for url in [HTTP, "http://openservicemesh.io/", HTTPS, OTHER_HTTPS] {
        scene.head(&client, url, Ends::Status(200)).await?;
    }
    let issuer = scene
        .sh(
            &client,
            "curl -svI https://httpbin.org/get 2>&1 | grep -i issuer",
        )
        .await?;
    ensure!(
        issuer.contains("outside world demo CA"),
        "the certificate seen is not the server's: {issuer:?}"
    );
    Ok(())
}

async fn passthrough_off(scene: &Scene<'_>) -> Result<()> {
    let (_, client) = client(scene).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": true } }))
        .await?;
    scene.head(&client, HTTP, Ends::Status(200)).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": false } }))
        .await?;
    for url in [HTTP, "http://openservicemesh.io/", HTTPS, OTHER_HTTPS] {
        scene.head(&client, url, Ends::Exit(7)).await?;
    }
    Ok(())
}

async fn tcp_passthrough(scene: &Scene<'_>) -> Result<()> {
    let (_, client) = client(scene).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": true } }))
        .await?;
    echo(scene, &client, true).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": false } }))
        .await?;
    echo(scene, &client, false).await
}

async fn echo(scene: &Scene<'_>, client: &Pod, answered: bool) -> Result<()> {
    e2e::eventually(std::time::Duration::from_secs(60), async || {
        let said = scene
            .sh(client, "printf 'hello\\n' | nc -N -w 5 httpbin.org 9000")
            .await?;
        ensure!(
            said.contains("echo response: hello") == answered,
            "the echo says {said:?}"
        );
        Ok(())
    })
    .await
}

async fn http_host(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene.head(&client, HTTP, Ends::Exit(7)).await?;
    scene
        .apply(&[egress(
            &namespace,
            "httpbin",
            "client",
            &["httpbin.org"],
            80,
            "http",
        )])
        .await?;
    scene.head(&client, HTTP, Ends::Status(200)).await?;
    scene.delete("egress", &namespace, "httpbin").await?;
    scene.head(&client, HTTP, Ends::Exit(7)).await
}

async fn https_server_name(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene
        .apply(&[egress(
            &namespace,
            "httpbin",
            "client",
            &["httpbin.org"],
            443,
            "https",
        )])
        .await?;
    scene.head(&client, HTTPS, Ends::Status(200)).await?;
    scene.head(&client, OTHER_HTTPS, Ends::Closed).await?;
    scene.delete("egress", &namespace, "httpbin").await?;
    scene.head(&client, HTTPS, Ends::Exit(7)).await
}

async fn tcp_port(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    let any = egress(
        &namespace,
        "tcp",
        "client",
        &["no-such-host.example"],
        443,
        "tcp",
    );
    scene.apply(std::slice::from_ref(&any)).await?;
    for url in [HTTPS, OTHER_HTTPS, "https://example.net/get"] {
        scene.head(&client, url, Ends::Status(200)).await?;
    }
    scene
        .apply(&[with(
            any,
            &["spec", "ipAddresses"],
            json!(["203.0.113.11/32"]),
        )])
        .await?;
    scene
        .head(&client, "-4 https://httpbin.org/get", Ends::Closed)
        .await?;
    scene
        .head(&client, "-4 https://example.net/get", Ends::Status(200))
        .await?;
    scene.delete("egress", &namespace, "tcp").await?;
    scene.head(&client, HTTPS, Ends::Exit(7)).await
}

async fn route_matches(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene
        .apply(&[
            routes(&namespace, "routes", &[("get", "/get")]),
            with_routes(&namespace, "routes"),
        ])
        .await?;
    scene.head(&client, HTTP, Ends::Status(200)).await?;
    scene.head(&client, HTTP_STATUS, Ends::Status(404)).await?;
    scene
        .apply(&[routes(
            &namespace,
            "routes",
            &[("get", "/get"), ("status", "/status.*")],
        )])
        .await?;
    scene.head(&client, HTTP_STATUS, Ends::Status(200)).await?;
    scene.head(&client, HTTP, Ends::Status(200)).await
}

/// The policy for httpbin.org with a route group.
fn with_routes(namespace: &str, group: &str) -> Value {
    let matches = json!([{ "apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": group }]);
    with(
        egress(namespace, "httpbin", "client", &["httpbin.org"], 80, "http"),
        &["spec", "matches"],
        matches,
    )
}

async fn listed_accounts(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    let other = scene.client(&namespace, "other").await?;
    let elsewhere = scene.namespace("policies").await?;
    scene
        .apply(&[egress(
            &namespace,
            "httpbin",
            "client",
            &["httpbin.org"],
            80,
            "http",
        )])
        .await?;
    scene.head(&client, HTTP, Ends::Status(200)).await?;
    scene.head(&other, HTTP, Ends::Exit(7)).await?;
    let policy = egress(&elsewhere, "httpbin", "other", &["httpbin.org"], 80, "http");
    scene
        .apply(&[with(
            policy,
            &["spec", "sources", "0", "namespace"],
            json!(namespace),
        )])
        .await?;
    scene.head(&other, HTTP, Ends::Status(200)).await
}

async fn host_forms(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene
        .apply(&[egress(
            &namespace,
            "httpbin",
            "client",
            &["httpbin.org"],
            80,
            "http",
        )])
        .await?;
    scene
        .head(&client, "http://httpbin.org:80/get", Ends::Status(200))
        .await?;
    scene
        .head(
            &client,
            "-H 'Host: httpbin.org:80' http://httpbin.org/get",
            Ends::Status(200),
        )
        .await?;
    scene
        .head(&client, "http://openservicemesh.io/", Ends::Status(404))
        .await
}

async fn http_addresses(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    let policy = egress(
        &namespace,
        "httpbin",
        "client",
        &["httpbin.org"],
        80,
        "http",
    );
    let other = with(
        policy.clone(),
        &["spec", "ipAddresses"],
        json!(["203.0.113.11/32"]),
    );
    scene.apply(&[other]).await?;
    scene
        .head(&client, "-4 http://httpbin.org/get", Ends::Closed)
        .await?;
    scene
        .apply(&[with(
            policy,
            &["spec", "ipAddresses"],
            json!(["203.0.113.10/32"]),
        )])
        .await?;
    scene
        .head(&client, "-4 http://httpbin.org/get", Ends::Status(200))
        .await
}

async fn passthrough_wins(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene
        .apply(&[egress(
            &namespace,
            "example",
            "client",
            &["example.net"],
            8080,
            "http",
        )])
        .await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": true } }))
        .await?;
    for url in [HTTP, HTTPS, OTHER_HTTPS, "http://example.net/get"] {
        scene.head(&client, url, Ends::Status(200)).await?;
    }
    Ok(())
}

async fn server_first(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    scene
        .apply(&[egress(
            &namespace,
            "banner",
            "client",
            &[],
            3306,
            "tcp-server-first",
        )])
        .await?;
    e2e::eventually(std::time::Duration::from_secs(60), async || {
        let line = "begin=$(date +%s%N); (sleep 3 | nc -w 3 httpbin.org 3306) | head -n 1; end=$(date +%s%N); echo $(((end-begin)/1000000))";
        let said = scene.sh(&client, line).await?;
        ensure!(said.contains("220 banner ready"), "the server says {said:?}");
        Ok(())
    })
    .await?;
    // The pipe ends when nc does, so the time is taken by a reader that stops at the greeting.
    let timed = "begin=$(date +%s%N); exec 3<>/dev/tcp/httpbin.org/3306; head -n 1 <&3; end=$(date +%s%N); echo $(((end-begin)/1000000))";
    let said = scene.exec(&client, &["bash", "-c", timed]).await?.text()?;
    let milliseconds: u64 = said.lines().last().unwrap_or_default().parse()?;
    ensure!(milliseconds < 1000, "the greeting took {milliseconds} ms");
    Ok(())
}

async fn unmeshed_service(scene: &Scene<'_>) -> Result<()> {
    let (namespace, client) = client(scene).await?;
    let plain = scene.plain_namespace("plain").await?;
    scene
        .apply(&[
            account(&plain, "httpbin"),
            deployment(&plain, "httpbin", pod("httpbin", httpbin(PORT))),
            service(&plain, "httpbin", "httpbin", "http", PORT),
        ])
        .await?;
    scene.pod(&plain, "httpbin", "httpbin").await?;
    let host = format!("httpbin.{plain}.svc.cluster.local");
    let url = format!("http://{host}:{PORT}/get");
    scene.head(&client, &url, Ends::Exit(7)).await?;
    scene
        .apply(&[egress(
            &namespace,
            "httpbin",
            "client",
            &[&host],
            PORT,
            "http",
        )])
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await
}
