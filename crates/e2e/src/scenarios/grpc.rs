//! gRPC, as requests with routes and as TLS that the mesh does not look into.

use anyhow::{Result, ensure};
use e2e::steadily;
use serde_json::json;

use super::traffic::{PATIENCE, Pair, client, serve};
use super::{Scenario, scenario, tcp};
use crate::manifest::{routes, rule, target, with};
use crate::scene::{Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "GRPC-01",
        P0,
        plain,
        "gRPC in clear text: health, a stream both ways; closed with the policies"
    ),
    scenario!(
        "GRPC-02",
        P0,
        encrypted,
        "gRPC in the application's own TLS, over a TCPRoute"
    ),
    scenario!(
        "GRPC-03",
        P1,
        methods,
        "a path grants one method and no other"
    ),
];

const PORT: u16 = 9001;

const HEALTH: &str = "grpc.health.v1.Health/Check";
const HELLO: &str = "hello.HelloService/SayHello";
const BIDI: &str = "hello.HelloService/BidiHello a b c";

/// A call says this, five times in a row.
async fn says(scene: &Scene<'_>, tools: &Pod, url: &str, call: &str, wanted: &str) -> Result<()> {
    let line = format!("timeout 20 osm-apps grpc-call {url} {call}");
    steadily(5, PATIENCE, async || {
        let said = scene.sh(tools, &line).await?;
        ensure!(said.contains(wanted), "{call}: {said:?}, not {wanted:?}");
        Ok(())
    })
    .await
}

/// A call fails, five times in a row.
async fn fails(scene: &Scene<'_>, tools: &Pod, url: &str, call: &str) -> Result<()> {
    says(scene, tools, url, call, "osm-apps: ").await
}

async fn plain(scene: &Scene<'_>) -> Result<()> {
    // The Service's appProtocol says what it is, not the name of its port.
    let pair = Pair::new(scene, &["grpc"], ("web", PORT)).await?;
    let service = crate::manifest::service(&pair.servers, "server", "server", "web", PORT);
    let service = with(
        service,
        &["spec", "ports", "0", "appProtocol"],
        json!("grpc"),
    );
    scene.apply(&[service]).await?;
    let url = format!("http://{}:{PORT}", pair.host());
    says(scene, &pair.tools, &url, HEALTH, "SERVING").await?;
    says(scene, &pair.tools, &url, HELLO, "hello world").await?;
    says(scene, &pair.tools, &url, BIDI, "hello a\nhello b\nhello c").await?;
    // The server's own statuses pass.
    says(
        scene,
        &pair.tools,
        &url,
        "hello.HelloService/Nothing",
        "Unimplemented: no such method",
    )
    .await?;
    scene
        .delete("traffictarget", &pair.servers, "server")
        .await?;
    scene
        .delete("httproutegroup", &pair.servers, "server")
        .await?;
    fails(scene, &pair.tools, &url, HEALTH).await
}

async fn encrypted(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    serve(
        scene,
        &servers,
        "server",
        &["grpc", "--tls"],
        ("tcp-grpc", PORT),
    )
    .await?;
    let (_, tools) = client(scene, &clients, "client").await?;
    scene.pod(&servers, "server", "server").await?;
    let url = format!("https://server.{servers}.svc.cluster.local:{PORT}");
    fails(scene, &tools, &url, HELLO).await?;
    scene
        .apply(&[
            tcp::route(&servers, "grpc", &[PORT]),
            target(
                &servers,
                "server",
                "server",
                &[(&clients, "client")],
                tcp::rule("grpc"),
            ),
        ])
        .await?;
    says(scene, &tools, &url, HELLO, "hello world").await?;
    says(scene, &tools, &url, BIDI, "hello a\nhello b\nhello c").await?;
    scene.delete("traffictarget", &servers, "server").await?;
    scene.delete("tcproute", &servers, "grpc").await?;
    fails(scene, &tools, &url, HELLO).await
}

async fn methods(scene: &Scene<'_>) -> Result<()> {
    let pair = Pair::new(scene, &["grpc"], ("grpc", PORT)).await?;
    scene
        .apply(&[
            routes(
                &pair.servers,
                "server",
                &[("hello", r"/hello\.HelloService/SayHello")],
            ),
            target(
                &pair.servers,
                "server",
                "server",
                &[(&pair.clients, "client")],
                rule("server", &["hello"]),
            ),
        ])
        .await?;
    let url = format!("http://{}:{PORT}", pair.host());
    says(scene, &pair.tools, &url, BIDI, "PermissionDenied").await?;
    says(scene, &pair.tools, &url, HEALTH, "PermissionDenied").await?;
    says(scene, &pair.tools, &url, HELLO, "hello world").await
}
