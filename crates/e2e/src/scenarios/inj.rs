//! Membership of namespaces and injection of sidecars.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::{curl, deployment, named_httpbin, pod, with};
use crate::scene::{Scene, with_trust};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "INJ-01",
        P0,
        containers,
        "a pod of the mesh gets its init container and sidecar"
    ),
    scenario!(
        "INJ-02",
        P0,
        precedence,
        "precedence of labels and annotations"
    ),
    scenario!(
        "INJ-04",
        P0,
        host_network,
        "pods on the host's network are never injected"
    ),
    scenario!(
        "INJ-05",
        P0,
        protected,
        "protected namespaces are never injected",
        alone
    ),
    scenario!("INJ-06", P0, ignored, "an ignored namespace is left alone"),
];

pub(super) const INJECTION: &str = "openservicemesh.io/sidecar-injection";

async fn containers(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let client = scene.client(&namespace, "client").await?;
    let text = scene
        .stage
        .kubectl(&["get", "pod", &client.name, "-n", &namespace, "-o", "json"])
        .await?
        .text()?;
    let pod: Value = serde_json::from_str(&text)?;
    let init =
        named(&pod["spec"]["initContainers"], "osm-init").context("no init container osm-init")?;
    ensure!(
        init["securityContext"]["runAsUser"] == 0,
        "osm-init: {}",
        init["securityContext"]
    );
    ensure!(
        init["securityContext"]["capabilities"]["add"] == json!(["NET_ADMIN"]),
        "osm-init: {}",
        init["securityContext"]
    );
    ensure!(
        init["securityContext"]["privileged"] != true,
        "osm-init is privileged"
    );
    let sidecar = named(&pod["spec"]["containers"], "sidecar").context("no container sidecar")?;
    ensure!(
        sidecar["securityContext"]["runAsUser"] == 1500,
        "sidecar: {}",
        sidecar["securityContext"]
    );
    for (name, port) in [
        ("proxy-admin", 15000),
        ("proxy-inbound", 15003),
        ("proxy-metrics", 15010),
    ] {
        let there = named(&sidecar["ports"], name).is_some_and(|it| it["containerPort"] == port);
        ensure!(
            there,
            "sidecar has no port {name} {port}: {}",
            sidecar["ports"]
        );
    }
    let uuid = pod["metadata"]["labels"]["osm-proxy-uuid"]
        .as_str()
        .unwrap_or_default();
    ensure!(uuid.len() == 36, "label osm-proxy-uuid is {uuid:?}");
    let ready = pod["status"]["containerStatuses"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|it| it["ready"] == true).count());
    ensure!(ready == 2, "{ready} containers are ready");
    let user = scene
        .exec(
            &crate::scene::Pod {
                container: "sidecar".into(),
                ..client.clone()
            },
            &["id", "-u"],
        )
        .await;
    // The sidecar's image need not have `id`; where it has, it tells the truth.
    if let Ok(output) = user
        && output.succeeded()
    {
        ensure!(
            output.stdout.trim() == "1500",
            "the sidecar runs as {}",
            output.stdout
        );
    }
    let secrets = scene
        .stage
        .kubectl(&["get", "secrets", "-n", &namespace, "-o", "name"])
        .await?
        .text()?;
    ensure!(
        !secrets.contains("bootstrap-config"),
        "a secret per pod: {secrets}"
    );
    Ok(())
}

pub(super) fn named<'a>(items: &'a Value, name: &str) -> Option<&'a Value> {
    items.as_array()?.iter().find(|item| item["name"] == name)
}

/// A pod as the API server would make it, without making it.
pub(super) async fn admitted(
    scene: &Scene<'_>,
    namespace: &str,
    annotation: Option<&str>,
) -> Result<Value> {
    let bare = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "probe", "namespace": namespace },
        "spec": pod("default", curl())
    });
    let bare = with_trust_in(bare);
    let object = match annotation {
        Some(value) => with(bare, &["metadata", "annotations", INJECTION], json!(value)),
        None => bare,
    };
    let words = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let text = scene
        .stage
        .kubectl_with(&words, &object.to_string())
        .await?
        .text()?;
    Ok(serde_json::from_str(&text)?)
}

fn with_trust_in(object: Value) -> Value {
    let spec = with_trust(object["spec"].clone());
    with(object, &["spec"], spec)
}

pub(super) fn injected(pod: &Value) -> bool {
    named(&pod["spec"]["containers"], "sidecar").is_some()
}

async fn precedence(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.plain_namespace("table").await?;
    // Monitored?, annotation of the namespace, annotation of the pod, injected?
    let table = [
        (false, None, None, false),
        (false, None, Some("enabled"), false),
        (false, Some("enabled"), Some("enabled"), false),
        (true, None, None, false),
        (true, None, Some("enabled"), true),
        (true, Some("disabled"), Some("enabled"), true),
        (true, Some("disabled"), None, false),
        (true, Some("enabled"), None, true),
        (true, Some("YES"), None, true),
        (true, Some("True"), Some("no"), false),
        (true, Some("enabled"), Some("Disabled"), false),
        (true, Some("enabled"), Some("FALSE"), false),
    ];
    for (monitored, on_namespace, on_pod, expected) in table {
        let patch = json!({ "metadata": {
            "labels": { "openservicemesh.io/monitored-by": monitored.then_some("osm") },
            "annotations": { INJECTION: on_namespace }
        }});
        let words = [
            "patch",
            "namespace",
            &namespace,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ];
        scene.stage.kubectl(&words).await?.text()?;
        // The injector learns of the namespace by its own watch.
        e2e::eventually(Duration::from_secs(10), async || {
            let seen = injected(&admitted(scene, &namespace, on_pod).await?);
            let case = format!("monitored {monitored}, namespace {on_namespace:?}, pod {on_pod:?}");
            ensure!(
                seen == expected,
                "{case}: injected is {seen}, not {expected}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn host_network(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let spec = with(
        pod("default", named_httpbin(24001)),
        &["hostNetwork"],
        json!(true),
    );
    scene.apply(&[deployment(&namespace, "host", spec)]).await?;
    let made = scene.pod(&namespace, "host", "httpbin").await?;
    let names = scene
        .field(
            "pod",
            &namespace,
            &made.name,
            "{.spec.initContainers[*].name} {.spec.containers[*].name}",
        )
        .await?;
    ensure!(names.trim() == "httpbin", "containers are {names}");
    Ok(())
}

async fn protected(scene: &Scene<'_>) -> Result<()> {
    for namespace in ["kube-system", "kube-public", "osm-system"] {
        let join = json!({ "metadata": {
            "labels": { "openservicemesh.io/monitored-by": "osm" }, "annotations": { INJECTION: "enabled" }
        }});
        let leave = json!({ "metadata": {
            "labels": { "openservicemesh.io/monitored-by": null }, "annotations": { INJECTION: null }
        }});
        let patch = async |patch: &Value| {
            scene
                .stage
                .kubectl(&[
                    "patch",
                    "namespace",
                    namespace,
                    "--type=merge",
                    "-p",
                    &patch.to_string(),
                ])
                .await?
                .text()
        };
        patch(&join).await?;
        let seen = still_not_injected(scene, namespace).await;
        patch(&leave).await?;
        seen?;
    }
    Ok(())
}

/// Looks for as long as an injector may need to learn of a namespace.
async fn still_not_injected(scene: &Scene<'_>, namespace: &str) -> Result<()> {
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        ensure!(
            !injected(&admitted(scene, namespace, Some("enabled")).await?),
            "a pod of {namespace} is injected"
        );
    }
    Ok(())
}

async fn ignored(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.plain_namespace("ignored").await?;
    scene
        .stage
        .kubectl(&[
            "label",
            "namespace",
            &namespace,
            "openservicemesh.io/ignore=true",
        ])
        .await?
        .text()?;
    let refused = scene.stage.osm(&["namespace", "add", &namespace]).await?;
    ensure!(
        !refused.succeeded() && refused.both().contains("Cannot add ignored namespace"),
        "{}",
        refused.complaint()
    );
    let by_hand = json!({ "metadata": {
        "labels": { "openservicemesh.io/monitored-by": "osm" }, "annotations": { INJECTION: "enabled" }
    }});
    let words = [
        "patch",
        "namespace",
        &namespace,
        "--type=merge",
        "-p",
        &by_hand.to_string(),
    ];
    scene.stage.kubectl(&words).await?.text()?;
    still_not_injected(scene, &namespace).await?;
    let client = scene.client(&namespace, "client").await?;
    let names = scene
        .field(
            "pod",
            &namespace,
            &client.name,
            "{.spec.containers[*].name}",
        )
        .await?;
    ensure!(names.trim() == "curl", "containers are {names}");
    Ok(())
}
