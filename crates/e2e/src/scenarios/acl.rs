//! SMI access control: who may call what.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Scenario, scenario};
use crate::manifest::{
    PORT, account, allow, deployment, httpbin, named_httpbin, pod, routes, rule, service, target,
    with,
};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "ACL-01",
        P0,
        default_deny,
        "nothing is allowed without a TrafficTarget"
    ),
    scenario!(
        "ACL-02",
        P0,
        allow_and_delete,
        "a TrafficTarget opens exactly its path, deletion closes it"
    ),
    scenario!(
        "ACL-03",
        P0,
        client_without_service,
        "a client with a Service and one without are alike"
    ),
    scenario!(
        "ACL-04",
        P0,
        routes_by_identity,
        "one server, two clients, different routes"
    ),
    scenario!(
        "ACL-05",
        P0,
        wrong_namespace,
        "a TrafficTarget outside the destination's namespace is void"
    ),
    scenario!(
        "ACL-06",
        P0,
        webhook,
        "the webhook refuses such a TrafficTarget"
    ),
    scenario!(
        "ACL-07",
        P0,
        many_to_many,
        "five clients' namespaces, five replicas: everyone answers, by ClusterIP and headless"
    ),
    scenario!(
        "ACL-08",
        P0,
        union,
        "several sources, several TrafficTargets: the union"
    ),
    scenario!(
        "ACL-09",
        P0,
        same_name_elsewhere,
        "the same ServiceAccount name in another namespace is another identity"
    ),
    scenario!(
        "ACL-10",
        P0,
        destination_is_identity,
        "the destination is the ServiceAccount, not the Service"
    ),
];

/// Applies a server with its account, its Service and a Deployment of the real httpbin.
pub async fn serve(scene: &Scene<'_>, namespace: &str, name: &str) -> Result<()> {
    let spec = deployment(namespace, name, pod(name, httpbin(PORT)));
    scene
        .apply(&[
            account(namespace, name),
            service(namespace, name, name, "http", PORT),
            spec,
        ])
        .await
}

/// A client and a server in namespaces of their own, and the server's URL for `/get`.
pub async fn pair(scene: &Scene<'_>) -> Result<(Pod, String, String)> {
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    serve(scene, &servers, "server").await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "server", "httpbin").await?;
    let url = format!("http://server.{servers}:{PORT}/get");
    Ok((client, servers, url))
}

async fn default_deny(scene: &Scene<'_>) -> Result<()> {
    let (client, _, url) = pair(scene).await?;
    scene.head(&client, &url, Ends::Exit(7)).await
}

async fn allow_and_delete(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene.delete("traffictarget", &servers, "server").await?;
    scene.delete("httproutegroup", &servers, "server").await?;
    scene.head(&client, &url, Ends::Exit(7)).await
}

async fn client_without_service(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let with_service = scene.client(&client.namespace, "served").await?;
    scene
        .apply(&[service(&client.namespace, "served", "served", "http", 80)])
        .await?;
    let sources = [
        (client.namespace.as_str(), "client"),
        (client.namespace.as_str(), "served"),
    ];
    scene.apply(&allow(&servers, "server", &sources)).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene.head(&with_service, &url, Ends::Status(200)).await
}

async fn routes_by_identity(scene: &Scene<'_>) -> Result<()> {
    let (first, servers, _) = pair(scene).await?;
    let second = scene.client(&first.namespace, "second").await?;
    let url = format!("http://server.{servers}:{PORT}/anything");
    scene
        .apply(&[
            routes(&servers, "server", &[("a", "/anything"), ("b", "/foo")]),
            target(
                &servers,
                "first",
                "server",
                &[(&first.namespace, "client")],
                rule("server", &["a"]),
            ),
            target(
                &servers,
                "second",
                "server",
                &[(&first.namespace, "second")],
                rule("server", &["b"]),
            ),
        ])
        .await?;
    scene.head(&first, &url, Ends::Status(200)).await?;
    scene.head(&second, &url, Ends::Status(403)).await?;
    let body = scene.sh(&second, &format!("curl -s {url}")).await?;
    ensure!(body == "RBAC: access denied", "the refusal says {body:?}");
    scene.delete("traffictarget", &servers, "second").await?;
    scene.head(&second, &url, Ends::Exit(7)).await?;
    scene.head(&first, &url, Ends::Status(200)).await
}

async fn wrong_namespace(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    // Outside the mesh the webhook does not look, so the object gets in.
    let elsewhere = scene.plain_namespace("elsewhere").await?;
    let [group, target] = allow(&elsewhere, "server", &[(&client.namespace, "client")]);
    let target = with(
        target,
        &["spec", "destination", "namespace"],
        json!(servers),
    );
    scene.apply(&[group, target]).await?;
    let flags = ["namespace", "add", &elsewhere];
    scene.stage.osm(&flags).await?.text()?;
    scene.head(&client, &url, Ends::Exit(7)).await
}

async fn webhook(scene: &Scene<'_>) -> Result<()> {
    let (inside, outside) = (
        scene.namespace("a").await?,
        scene.plain_namespace("plain").await?,
    );
    let wrong = |namespace: &str| {
        let [_, target] = allow(namespace, "server", &[(namespace, "client")]);
        with(target, &["spec", "destination", "namespace"], json!("b"))
    };
    let text = format!(
        "The traffic target namespace ({inside}) must match spec.Destination.Namespace (b)"
    );
    scene.refused(&[wrong(&inside)], &text).await?;
    scene.apply(&[wrong(&outside)]).await
}

async fn many_to_many(scene: &Scene<'_>) -> Result<()> {
    let servers = scene.namespace("server").await?;
    let replicas = with(
        deployment(&servers, "server", pod("server", named_httpbin(PORT))),
        &["spec", "replicas"],
        json!(5),
    );
    let headless = with(
        service(&servers, "headless", "server", "http", PORT),
        &["spec", "clusterIP"],
        json!("None"),
    );
    scene
        .apply(&[
            account(&servers, "server"),
            service(&servers, "server", "server", "http", PORT),
            headless,
            replicas,
        ])
        .await?;
    let mut clients = Vec::new();
    for index in 1..=5 {
        let namespace = scene.namespace(&format!("client{index}")).await?;
        clients.push(scene.client(&namespace, "client").await?);
    }
    scene.pods(&servers, "server", "httpbin", 5).await?;
    scene
        .apply(&[routes(&servers, "server", &[("everything", ".*")])])
        .await?;
    for client in &clients {
        let sources = [(client.namespace.as_str(), "client")];
        scene
            .apply(&[target(
                &servers,
                &client.namespace,
                "server",
                &sources,
                rule("server", &["everything"]),
            )])
            .await?;
    }
    for name in ["server", "headless"] {
        for client in &clients {
            let url = format!("http://{name}.{servers}:{PORT}/get");
            scene.head(client, &url, Ends::Status(200)).await?;
            if name == "server" {
                scene.everyone_answers(client, &url, 5).await?;
            }
        }
    }
    Ok(())
}

async fn union(scene: &Scene<'_>) -> Result<()> {
    let (one, servers, url) = pair(scene).await?;
    let (two, three) = (
        scene.client(&one.namespace, "two").await?,
        scene.client(&one.namespace, "three").await?,
    );
    let everything = || rule("server", &["everything"]);
    let sources = |names: &[&'static str]| {
        names
            .iter()
            .map(|name| (one.namespace.as_str(), *name))
            .collect::<Vec<_>>()
    };
    scene
        .apply(&[
            routes(&servers, "server", &[("everything", ".*")]),
            target(
                &servers,
                "both",
                "server",
                &sources(&["client", "two"]),
                everything(),
            ),
            target(
                &servers,
                "third",
                "server",
                &sources(&["three"]),
                everything(),
            ),
        ])
        .await?;
    for client in [&one, &two, &three] {
        scene.head(client, &url, Ends::Status(200)).await?;
    }
    scene.delete("traffictarget", &servers, "third").await?;
    scene.head(&three, &url, Ends::Exit(7)).await?;
    scene.head(&one, &url, Ends::Status(200)).await?;
    scene.head(&two, &url, Ends::Status(200)).await
}

async fn same_name_elsewhere(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let elsewhere = scene.namespace("other").await?;
    let namesake = scene.client(&elsewhere, "client").await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene.head(&namesake, &url, Ends::Exit(7)).await
}

async fn destination_is_identity(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&[service(&servers, "second", "server", "http", PORT)])
        .await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene
        .head(
            &client,
            &format!("http://second.{servers}:{PORT}/get"),
            Ends::Status(200),
        )
        .await
}
