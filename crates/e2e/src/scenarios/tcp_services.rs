//! Services of all kinds: pods with names of their own, endpoints written by hand, names that stand for others.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::{PORT, account, allow, deployment, named_httpbin, object, pod, service};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this file.
pub const ALL: &[Scenario] = &[
    scenario!(
        "TCP-14",
        P1,
        pods_by_name,
        "every pod of a StatefulSet by its own name"
    ),
    scenario!(
        "TCP-21",
        P1,
        by_hand,
        "endpoints written by hand and ExternalName lead to nobody whose identity is unknown"
    ),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// A StatefulSet of the small httpbin, and the headless Service that gives its pods names.
fn stateful(namespace: &str, name: &str, replicas: u32) -> [Value; 2] {
    let mut set = deployment(namespace, name, pod(name, named_httpbin(PORT)));
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!(name);
    set["spec"]["replicas"] = json!(replicas);
    let spec = json!({
        "clusterIP": "None", "selector": { "app": name },
        "ports": [{ "name": "http", "port": 80, "targetPort": PORT }]
    });
    [set, object("v1", "Service", namespace, name, spec)]
}

/// The pod that answers at a URL, five times in a row.
async fn answered_by(scene: &Scene<'_>, from: &Pod, url: &str, wanted: &str) -> Result<()> {
    let line = format!(
        "for i in 1 2 3 4 5; do curl -sI --max-time 10 {url} | tr -d '\\r' | sed -n 's/^podname: //p'; done"
    );
    eventually(PATIENCE, async || {
        let said = scene.sh(from, &line).await?;
        let names: Vec<&str> = said.lines().collect();
        ensure!(names == [wanted; 5], "{url} answered by {names:?}");
        Ok(())
    })
    .await
}

async fn pods_by_name(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let [set, headless] = stateful(&servers, "httpbin", 3);
    scene
        .apply(&[account(&servers, "httpbin"), headless, set])
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene.pods(&servers, "httpbin", "httpbin", 3).await?;
    let url = |pod: &str| format!("http://{pod}.httpbin.{servers}:80/get");
    // Nobody has granted anything.
    scene.curl(&client, &url("httpbin-0"), Ends::Closed).await?;
    scene
        .apply(&allow(&servers, "httpbin", &[(&clients, "client")]))
        .await?;
    for number in 0..3 {
        let name = format!("httpbin-{number}");
        answered_by(scene, &client, &url(&name), &name).await?;
    }
    let plain = format!("http://httpbin.{servers}:80/get");
    scene.everyone_answers(&client, &plain, 3).await?;
    // A pod that dies comes back under its name.
    scene.delete("pod", &servers, "httpbin-1").await?;
    answered_by(scene, &client, &url("httpbin-1"), "httpbin-1").await?;
    // The last go first.
    let words = [
        "scale",
        "statefulset/httpbin",
        "-n",
        &servers,
        "--replicas=1",
    ];
    scene.stage.kubectl(&words).await?.text()?;
    scene.pods(&servers, "httpbin", "httpbin", 1).await?;
    answered_by(scene, &client, &url("httpbin-0"), "httpbin-0").await
}

async fn by_hand(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let others = scene.namespace("other").await?;
    for namespace in [&servers, &others] {
        let [group, granted] = allow(namespace, "server", &[(&clients, "client")]);
        scene
            .apply(&[
                account(namespace, "server"),
                service(namespace, "server", "server", "http", PORT),
                deployment(namespace, "server", pod("server", named_httpbin(PORT))),
                group,
                granted,
            ])
            .await?;
    }
    let client = scene.client(&clients, "client").await?;
    let url = |name: &str| format!("http://{name}.{servers}:{PORT}/get");
    let mut leads_to = Vec::new();
    for (name, namespace) in [("near", &servers), ("far", &others)] {
        let server = scene.pod(namespace, "server", "httpbin").await?;
        let ip = scene
            .stage
            .kubectl(&[
                "get",
                "pod",
                &server.name,
                "-n",
                namespace,
                "-o",
                "jsonpath={.status.podIP}",
            ])
            .await?
            .text()?;
        leads_to.push((name, ip.trim().to_owned()));
    }
    for (name, ip) in &leads_to {
        let ports = json!([{ "name": "http", "port": PORT }]);
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": { "name": name, "namespace": servers },
            "subsets": [{ "addresses": [{ "ip": ip }], "ports": ports }]
        });
        let spec = json!({ "ports": [{ "name": "http", "port": PORT, "targetPort": PORT }] });
        let service = object("v1", "Service", &servers, name, spec);
        scene.apply(&[service, endpoints]).await?;
    }
    scene
        .curl(&client, &url("server"), Ends::Status(200))
        .await?;
    // A pod of the namespace itself has an identity to ask for, whoever wrote its address down.
    scene.curl(&client, &url("near"), Ends::Status(200)).await?;
    // One of another namespace has not: whoever writes Endpoints here must not open ports there.
    scene.curl(&client, &url("far"), Ends::Closed).await?;
    // An alias of DNS is none of the mesh: the connection goes where the name leads, under a host that is unknown there.
    let target = format!("server.{servers}.svc.cluster.local");
    let spec = json!({ "type": "ExternalName", "externalName": target });
    scene
        .apply(&[object("v1", "Service", &servers, "alias", spec)])
        .await?;
    scene
        .curl(&client, &url("alias"), Ends::Status(404))
        .await?;
    let right = format!("{} -H 'Host: server.{servers}'", url("alias"));
    scene.curl(&client, &right, Ends::Status(200)).await
}
