//! Two kinds of sidecars in one mesh: our own proxy and a stock Envoy.

use anyhow::{Result, ensure};
use serde_json::json;

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
];

const CLASS: &str = "openservicemesh.io/sidecar-class";
const OURS: &str = "osm-proxy";
const ENVOY: &str = "envoy";

/// A Deployment whose pods have a sidecar of this class.
fn with_class(deployment: serde_json::Value, class: &str) -> serde_json::Value {
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
