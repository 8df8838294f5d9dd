//! Injection: wrong annotations, other ways in and out of the mesh, dry runs, an injector that is down.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::inj::{INJECTION, admitted, injected, named};
use super::{Scenario, scenario};
use crate::manifest::{PORT, account, curl, deployment, egress, list, named_httpbin, pod, with};
use crate::scene::{Ends, Scene, skip, with_trust};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "INJ-03",
        P1,
        invalid_annotation,
        "an invalid annotation value blocks the pod"
    ),
    scenario!(
        "INJ-07",
        P1,
        by_hand,
        "joining by kubectl alone: only annotated pods"
    ),
    scenario!(
        "INJ-08",
        P1,
        removed,
        "a removed namespace: running sidecars stay as they are, new pods have none"
    ),
    scenario!(
        "INJ-09",
        P1,
        injector_down,
        "without the injector no pod of the mesh is made, others are",
        alone
    ),
    scenario!(
        "INJ-10",
        P1,
        dry_run,
        "a dry run shows the sidecar and leaves nothing"
    ),
    scenario!(
        "INJ-11",
        P1,
        owned_secrets,
        "bootstrap secrets are owned by their pods"
    ),
    scenario!(
        "INJ-12",
        P1,
        resources,
        "sidecar resources from the MeshConfig, for new pods",
        alone
    ),
];

async fn invalid_annotation(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let text = format!("Invalid annotation value for key \"{INJECTION}\": maybe");
    let refused = admitted(scene, &namespace, Some("maybe")).await;
    let error = format!("{:#}", refused.err().context("the pod was admitted")?);
    ensure!(error.contains(&text), "{error}");
    let object = deployment(&namespace, "client", pod("default", named_httpbin(PORT)));
    let annotations = ["spec", "template", "metadata", "annotations", INJECTION];
    scene
        .apply(&[with(object, &annotations, json!("maybe"))])
        .await?;
    e2e::eventually(Duration::from_secs(30), async || {
        let events = scene
            .stage
            .kubectl(&["get", "events", "-n", &namespace])
            .await?
            .text()?;
        ensure!(
            events.contains("FailedCreate"),
            "no event FailedCreate: {events}"
        );
        Ok(())
    })
    .await
}

async fn by_hand(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.plain_namespace("client").await?;
    scene
        .stage
        .kubectl(&[
            "label",
            "namespace",
            &namespace,
            "openservicemesh.io/monitored-by=osm",
        ])
        .await?
        .text()?;
    let plain = scene.client(&namespace, "plain").await?;
    let annotated = with(
        deployment(&namespace, "meshed", with_trust(pod("meshed", curl()))),
        &["spec", "template", "metadata", "annotations", INJECTION],
        json!("enabled"),
    );
    e2e::eventually(Duration::from_secs(10), async || {
        ensure!(
            injected(&admitted(scene, &namespace, Some("enabled")).await?),
            "the annotated pod is not injected"
        );
        Ok(())
    })
    .await?;
    scene
        .apply(&[account(&namespace, "meshed"), annotated])
        .await?;
    let meshed = scene.pod(&namespace, "meshed", "curl").await?;
    let names = scene
        .field(
            "pod",
            &namespace,
            &meshed.name,
            "{.spec.containers[*].name}",
        )
        .await?;
    ensure!(
        names.contains("sidecar"),
        "containers of the annotated pod are {names}"
    );
    let names = scene
        .field("pod", &namespace, &plain.name, "{.spec.containers[*].name}")
        .await?;
    ensure!(
        names.trim() == "curl",
        "containers of the other pod are {names}"
    );
    scene
        .head(&meshed, "http://httpbin.org/get", Ends::Exit(7))
        .await?;
    scene
        .head(&plain, "http://httpbin.org/get", Ends::Status(200))
        .await
}

async fn dry_run(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let before = scene
        .stage
        .kubectl(&[
            "get",
            "secrets,pods,configmaps",
            "-n",
            &namespace,
            "-o",
            "name",
        ])
        .await?
        .text()?;
    ensure!(
        injected(&admitted(scene, &namespace, None).await?),
        "the dry run shows no sidecar"
    );
    let words = ["apply", "--dry-run=server", "-f", "-"];
    let object = deployment(&namespace, "client", pod("default", named_httpbin(PORT)));
    scene
        .stage
        .kubectl_with(&words, &list(&[object]))
        .await?
        .text()?;
    let after = scene
        .stage
        .kubectl(&[
            "get",
            "secrets,pods,configmaps",
            "-n",
            &namespace,
            "-o",
            "name",
        ])
        .await?
        .text()?;
    ensure!(before == after, "before: {before}, after: {after}");
    Ok(())
}

async fn owned_secrets(_: &Scene<'_>) -> Result<()> {
    skip("not applicable: no secret is made for a pod; INJ-01 looks that there is none")
}

async fn resources(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let limits = |pod: &Value| {
        named(&pod["spec"]["containers"], "sidecar")
            .map(|it| it["resources"].clone())
            .unwrap_or_default()
    };
    let before = limits(&admitted(scene, &namespace, None).await?);
    ensure!(
        before == json!({}) || before.is_null(),
        "resources without any in the MeshConfig: {before}"
    );
    let wanted = json!({ "limits": { "cpu": "2", "memory": "128M" }, "requests": { "cpu": "1", "memory": "64M" } });
    scene
        .mesh_config(json!({ "sidecar": { "resources": wanted } }))
        .await?;
    e2e::eventually(Duration::from_secs(10), async || {
        let seen = limits(&admitted(scene, &namespace, None).await?);
        ensure!(seen == wanted, "resources are {seen}");
        Ok(())
    })
    .await
}

async fn removed(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let client = scene.client(&namespace, "client").await?;
    let url = "http://httpbin.org/get";
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
    scene.head(&client, url, Ends::Status(200)).await?;
    scene
        .stage
        .osm(&["namespace", "remove", &namespace])
        .await?
        .text()?;
    scene.delete("egress", &namespace, "httpbin").await?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let seen = scene.requests(&client, url, 2).await?;
        ensure!(
            seen.iter().all(|one| *one == (200, 0)),
            "the running sidecar has changed: {seen:?}"
        );
    }
    let fresh = scene.client(&namespace, "fresh").await?;
    let names = scene
        .field("pod", &namespace, &fresh.name, "{.spec.containers[*].name}")
        .await?;
    ensure!(
        names.trim() == "curl",
        "containers of the new pod are {names}"
    );
    Ok(())
}

async fn injector_down(scene: &Scene<'_>) -> Result<()> {
    let (meshed, plain) = (
        scene.namespace("client").await?,
        scene.plain_namespace("plain").await?,
    );
    let scale = async |replicas: &str| {
        scene
            .stage
            .kubectl(&[
                "scale",
                "deployment/osm-injector",
                "-n",
                "osm-system",
                replicas,
            ])
            .await?
            .text()
    };
    scale("--replicas=0").await?;
    let seen = async {
        e2e::eventually(Duration::from_secs(60), async || {
            let pods = scene
                .stage
                .kubectl(&[
                    "get",
                    "pods",
                    "-n",
                    "osm-system",
                    "-l",
                    "app=osm-injector",
                    "-o",
                    "name",
                ])
                .await?;
            ensure!(
                pods.text()?.trim().is_empty(),
                "the injector is still there"
            );
            Ok(())
        })
        .await?;
        let refused = admitted(scene, &meshed, None).await;
        let error = format!(
            "{:#}",
            refused
                .err()
                .context("a pod of the mesh is made without the injector")?
        );
        ensure!(
            error.contains("osm-inject.k8s.io"),
            "the refusal does not name the webhook: {error}"
        );
        admitted(scene, &plain, None).await.map(drop)
    };
    let seen = seen.await;
    scale("--replicas=1").await?;
    let wait = [
        "rollout",
        "status",
        "deployment/osm-injector",
        "-n",
        "osm-system",
        "--timeout=50s",
    ];
    scene.stage.kubectl(&wait).await?.text()?;
    seen?;
    e2e::eventually(Duration::from_secs(20), async || {
        ensure!(
            injected(&admitted(scene, &meshed, None).await?),
            "the injector does not inject"
        );
        Ok(())
    })
    .await
}
