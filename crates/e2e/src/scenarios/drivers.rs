//! Two kinds of sidecars in one mesh: our own proxy and a stock Envoy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::{
    PORT, account, curl, deployment, named_httpbin, pod, routes, rule, service, target, with,
};
use crate::scene::{Ends, Pod, Scene, skip, with_trust};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "CFG-06",
        P0,
        mixed,
        "a mesh of both: osm-proxy calls Envoy, Envoy osm-proxy; an unknown class is refused"
    ),
    scenario!(
        "CFG-06b",
        P1,
        drained,
        "an Envoy that is told to stop ends what it has begun"
    ),
    scenario!(
        "CFG-06c",
        P1,
        renewed,
        "an Envoy gets its next certificate while it works, and says in its log who was refused",
        alone
    ),
];

const CLASS: &str = "openservicemesh.io/sidecar-class";
const OURS: &str = "osm-proxy";
const ENVOY: &str = "envoy";

/// A Deployment whose pods have a sidecar of this class.
fn with_class(deployment: Value, class: &str) -> Value {
    let path = ["spec", "template", "metadata", "annotations", CLASS];
    with(deployment, &path, json!(class))
}

async fn client(scene: &Scene<'_>, namespace: &str, class: &str) -> Result<Pod> {
    let client = deployment(namespace, class, with_trust(pod(class, curl())));
    scene
        .apply(&[account(namespace, class), with_class(client, class)])
        .await?;
    let pod = scene.pod(namespace, class, "curl").await?;
    runs(scene, &pod, class).await?;
    Ok(pod)
}

async fn server(scene: &Scene<'_>, namespace: &str, class: &str) -> Result<()> {
    let server = deployment(namespace, class, pod(class, named_httpbin(PORT)));
    scene
        .apply(&[
            account(namespace, class),
            service(namespace, class, class, "http", PORT),
            with_class(server, class),
        ])
        .await?;
    let pod = scene.pod(namespace, class, "httpbin").await?;
    runs(scene, &pod, class).await
}

/// What the sidecar really is.
async fn runs(scene: &Scene<'_>, pod: &Pod, class: &str) -> Result<()> {
    let sidecar = Pod {
        container: "sidecar".to_owned(),
        ..pod.clone()
    };
    let programs = scene.sh(&sidecar, "cat /proc/[0-9]*/comm").await?;
    let is_envoy = programs.lines().any(|program| program == ENVOY);
    ensure!(
        is_envoy == (class == ENVOY),
        "the sidecar of {} runs {programs:?}",
        pod.name
    );
    Ok(())
}

fn needs_envoy() -> Result<()> {
    match std::env::var("ENVOY_BIN") {
        Ok(path) if !path.is_empty() => Ok(()),
        _ => skip("no Envoy on this machine (ENVOY_BIN)"),
    }
}

async fn mixed(scene: &Scene<'_>) -> Result<()> {
    needs_envoy()?;
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    for class in [OURS, ENVOY] {
        server(scene, &servers, class).await?;
    }
    for (from, to) in [(OURS, ENVOY), (ENVOY, OURS)] {
        let client = client(scene, &clients, from).await?;
        let url = |path: &str| format!("http://{to}.{servers}:{PORT}{path}");
        scene.head(&client, &url("/get"), Ends::Exit(7)).await?;
        scene
            .apply(&[
                routes(&servers, to, &[("get", "/get")]),
                target(&servers, to, to, &[(&clients, from)], rule(to, &["get"])),
            ])
            .await?;
        scene.head(&client, &url("/get"), Ends::Status(200)).await?;
        // The client's sidecar sends whatever its identity may send somewhere; it is the server's that refuses.
        scene
            .head(&client, &url("/headers"), Ends::Status(403))
            .await?;
        scene.delete("traffictarget", &servers, to).await?;
        scene.head(&client, &url("/get"), Ends::Exit(7)).await?;
    }
    let broken = deployment(&clients, "broken", with_trust(pod(OURS, curl())));
    let broken = with(
        json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "broken", "namespace": clients, "annotations": { CLASS: "nginx" } } }),
        &["spec"],
        broken["spec"]["template"]["spec"].clone(),
    );
    let text = "must be osm-proxy, pipy or envoy";
    scene.refused(&[broken], text).await
}

async fn drained(scene: &Scene<'_>) -> Result<()> {
    needs_envoy()?;
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    server(scene, &servers, ENVOY).await?;
    let client = client(scene, &clients, ENVOY).await?;
    scene
        .apply(&[
            routes(&servers, ENVOY, &[("all", ".*")]),
            target(
                &servers,
                ENVOY,
                ENVOY,
                &[(&clients, ENVOY)],
                rule(ENVOY, &["all"]),
            ),
        ])
        .await?;
    let url = |path: &str| format!("http://{ENVOY}.{servers}:{PORT}{path}");
    scene.head(&client, &url("/get"), Ends::Status(200)).await?;
    // Its shell tells when the request is on its way; the pod is told to go only then.
    let begun = "/tmp/begun";
    let line = format!(
        "touch {begun}; curl -s -o /dev/null --max-time 30 -w '%{{http_code}}' {}",
        url("/delay/3")
    );
    let request = scene.sh(&client, &line);
    let end = async {
        let wait = format!("until [ -e {begun} ]; do sleep 0.05; done");
        scene.sh(&client, &wait).await?;
        scene
            .stage
            .kubectl(&[
                "delete",
                "pod",
                &client.name,
                "-n",
                &clients,
                "--grace-period=30",
                "--wait=false",
            ])
            .await?
            .text()
    };
    let (answer, deleted) = tokio::join!(request, end);
    deleted?;
    let answer = answer?;
    ensure!(
        answer == "200",
        "the request in flight ended with {answer:?}"
    );
    Ok(())
}

/// The serial number of the certificate that Envoy shows.
async fn serial(scene: &Scene<'_>, pod: &Pod) -> Result<String> {
    let line = "curl -s --max-time 5 http://127.0.0.1:15000/certs";
    let text = scene.sh(pod, line).await?;
    let certs: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let mut leaves = certs["certificates"].as_array().into_iter().flatten();
    let leaf = leaves.find_map(|one| one["cert_chain"][0]["serial_number"].as_str());
    leaf.map(str::to_owned)
        .with_context(|| format!("no certificate in {text}"))
}

async fn renewed(scene: &Scene<'_>) -> Result<()> {
    needs_envoy()?;
    scene
        .mesh_config(json!({ "certificate": { "serviceCertValidityDuration": "20s" } }))
        .await?;
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    server(scene, &servers, ENVOY).await?;
    let client = client(scene, &clients, ENVOY).await?;
    scene
        .apply(&[
            routes(&servers, ENVOY, &[("get", "/get")]),
            target(
                &servers,
                ENVOY,
                ENVOY,
                &[(&clients, ENVOY)],
                rule(ENVOY, &["get"]),
            ),
        ])
        .await?;
    let url = |path: &str| format!("http://{ENVOY}.{servers}:{PORT}{path}");
    scene.head(&client, &url("/get"), Ends::Status(200)).await?;
    let first = serial(scene, &client).await?;
    // Two further ones: by then the first has long ended.
    let mut seen = vec![first];
    eventually(Duration::from_secs(90), async || {
        let now = serial(scene, &client).await?;
        if !seen.contains(&now) {
            seen.push(now);
        }
        ensure!(seen.len() > 2, "certificates so far: {seen:?}");
        Ok(())
    })
    .await?;
    scene.head(&client, &url("/get"), Ends::Status(200)).await?;
    scene
        .head(&client, &url("/headers"), Ends::Status(403))
        .await?;
    refusal_is_logged(scene, &servers, &clients).await
}

/// The server's Envoy says whom it refused what.
async fn refusal_is_logged(scene: &Scene<'_>, servers: &str, clients: &str) -> Result<()> {
    let words = ["logs", "-n", servers, "deploy/envoy", "-c", "sidecar"];
    let peer = format!("spiffe://cluster.local/{ENVOY}/{clients}");
    eventually(Duration::from_secs(30), async || {
        let log = scene.stage.kubectl(&words).await?.text()?;
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refused = lines.find(|line| line["response_code"] == 403 && line["path"] == "/headers");
        let line = refused.with_context(|| format!("no refusal in the log:\n{log}"))?;
        ensure!(
            line["downstream_peer"] == *peer && line["route_name"] != Value::Null,
            "the line says {line}"
        );
        Ok(())
    })
    .await
}
