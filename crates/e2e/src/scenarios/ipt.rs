//! Interception: what goes through the sidecar and what does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::acl::{pair, serve};
use super::{Scenario, scenario};
use crate::manifest::{PORT, account, allow, curl, deployment, named_httpbin, pod, service, with};
use crate::scene::{Ends, Scene, with_trust};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "IPT-01",
        P0,
        both_ways,
        "all TCP of the application passes the sidecar, loopback and its own address do not",
        alone
    ),
    scenario!(
        "IPT-02",
        P0,
        own_ports,
        "the sidecar's own ports are reachable, the application's are not"
    ),
    scenario!(
        "IPT-03",
        P1,
        excluded_address,
        "addresses excluded in the MeshConfig, for new pods",
        alone
    ),
    scenario!(
        "IPT-05",
        P1,
        excluded_port,
        "ports excluded in the MeshConfig",
        alone
    ),
    scenario!(
        "IPT-06",
        P1,
        annotated_port,
        "ports excluded by a pod's annotation"
    ),
    scenario!(
        "IPT-07",
        P1,
        invalid_exclusions,
        "invalid exclusions block the pod"
    ),
    scenario!(
        "IPT-08",
        P1,
        included_addresses,
        "an inclusion list leaves all else alone",
        alone
    ),
    scenario!(
        "IPT-10",
        P0,
        pod_ip,
        "localProxyMode PodIP reaches a server on the pod's address",
        alone
    ),
    scenario!("IPT-13", P1, udp, "UDP is untouched"),
];

async fn both_ways(scene: &Scene<'_>) -> Result<()> {
    scene
        .mesh_config(json!({ "traffic": { "enablePermissiveTrafficPolicyMode": true } }))
        .await?;
    let (client, servers, url) = pair(scene).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    let cluster = scene
        .field("service", &servers, "server", "{.spec.clusterIP}")
        .await?;
    scene
        .head(
            &client,
            &format!("-H 'Host: server.{servers}' http://{cluster}:{PORT}/get"),
            Ends::Status(200),
        )
        .await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    let address = scene
        .field("pod", &servers, &server.name, "{.status.podIP}")
        .await?;
    // Through the sidecars or not at all: the server's never lets clear text pass.
    let seen = scene
        .requests(&client, &format!("http://{address}:{PORT}/get"), 5)
        .await?;
    ensure!(
        seen.iter()
            .all(|(status, exit)| *exit != 0 || *status == 404),
        "by pod IP: {seen:?}"
    );
    // The server itself: its Service through both sides of its sidecar; loopback and its own address directly.
    for request in [
        url.clone(),
        format!("http://127.0.0.1:{PORT}/get"),
        format!("http://{address}:{PORT}/get"),
    ] {
        scene.head(&server, &request, Ends::Status(200)).await?;
    }
    Ok(())
}

async fn own_ports(scene: &Scene<'_>) -> Result<()> {
    let servers = scene.namespace("server").await?;
    // As upstream, only pods that Prometheus is to scrape serve their metrics.
    let annotate = [
        "annotate",
        "namespace",
        &servers,
        "openservicemesh.io/metrics=enabled",
    ];
    scene.stage.kubectl(&annotate).await?.text()?;
    let probe = json!({ "httpGet": { "path": "/get", "port": PORT }, "periodSeconds": 2 });
    let container = with(
        with(named_httpbin(PORT), &["readinessProbe"], probe.clone()),
        &["livenessProbe"],
        probe,
    );
    scene
        .apply(&[
            account(&servers, "server"),
            deployment(&servers, "server", pod("server", container)),
        ])
        .await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    let address = scene
        .field("pod", &servers, &server.name, "{.status.podIP}")
        .await?;
    let plain = scene.plain_namespace("plain").await?;
    let stranger = scene.client(&plain, "stranger").await?;
    let at = |port: u16, path: &str| format!("http://{address}:{port}{path}");
    scene
        .curl(
            &stranger,
            &at(15010, "/stats/prometheus"),
            Ends::Status(200),
        )
        .await?;
    scene
        .curl(
            &stranger,
            &at(15901, "/osm-liveness-probe/httpbin"),
            Ends::Status(200),
        )
        .await?;
    scene
        .curl(
            &stranger,
            &at(15902, "/osm-readiness-probe/httpbin"),
            Ends::Status(200),
        )
        .await?;
    scene
        .curl(&stranger, &at(PORT, "/get"), Ends::Closed)
        .await?;
    scene.curl(&stranger, &at(15000, "/"), Ends::Closed).await?;
    scene
        .curl(&server, "http://127.0.0.1:15000/ready", Ends::Status(200))
        .await
}

async fn excluded_address(scene: &Scene<'_>) -> Result<()> {
    let plain = scene.plain_namespace("plain").await?;
    serve(scene, &plain, "server").await?;
    scene.pod(&plain, "server", "httpbin").await?;
    let address = scene
        .field("service", &plain, "server", "{.spec.clusterIP}")
        .await?;
    let clients = scene.namespace("client").await?;
    let url = format!("-4 http://server.{plain}:{PORT}/get");
    let before = scene.client(&clients, "before").await?;
    scene.head(&before, &url, Ends::Exit(7)).await?;
    scene
        .mesh_config(
            json!({ "traffic": { "outboundIPRangeExclusionList": [format!("{address}/32")] } }),
        )
        .await?;
    let after = scene.client(&clients, "after").await?;
    scene.head(&after, &url, Ends::Status(200)).await?;
    scene
        .head(&after, "http://httpbin.org/get", Ends::Exit(7))
        .await?;
    // IPT-04: a pod keeps the rules that it started with.
    scene.head(&before, &url, Ends::Exit(7)).await
}

async fn excluded_port(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    scene
        .mesh_config(json!({ "traffic": { "outboundPortExclusionList": [80] } }))
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene
        .head(&client, "http://httpbin.org/get", Ends::Status(200))
        .await?;
    scene
        .head(&client, "http://httpbin.org:8080/get", Ends::Exit(7))
        .await
}

async fn annotated_port(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let annotation = "openservicemesh.io/outbound-port-exclusion-list";
    let object = deployment(&clients, "annotated", with_trust(pod("annotated", curl())));
    let path = ["spec", "template", "metadata", "annotations", annotation];
    scene
        .apply(&[
            account(&clients, "annotated"),
            with(object, &path, json!("80, 8080")),
        ])
        .await?;
    let other = scene.client(&clients, "other").await?;
    let annotated = scene.pod(&clients, "annotated", "curl").await?;
    for url in ["http://httpbin.org/get", "http://httpbin.org:8080/get"] {
        scene.head(&annotated, url, Ends::Status(200)).await?;
        scene.head(&other, url, Ends::Exit(7)).await?;
    }
    scene
        .head(&annotated, "https://httpbin.org/get", Ends::Exit(7))
        .await
}

async fn invalid_exclusions(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("client").await?;
    let (ports, ranges) = (
        "openservicemesh.io/outbound-port-exclusion-list",
        "openservicemesh.io/outbound-ip-range-exclusion-list",
    );
    for (annotation, value, text) in [
        (
            ports,
            "6060, abc",
            format!("Invalid port value 'abc' specified for annotation '{ports}'"),
        ),
        (
            ports,
            "0",
            format!("Invalid port value '0' specified for annotation '{ports}'"),
        ),
        (
            ranges,
            "1.2.3.4",
            format!("Invalid IP range '1.2.3.4' specified for annotation '{ranges}'"),
        ),
        (
            ranges,
            "foo/32",
            format!("Invalid IP range 'foo/32' specified for annotation '{ranges}'"),
        ),
    ] {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "probe", "namespace": namespace, "annotations": { annotation: value } },
            "spec": pod("default", named_httpbin(PORT))
        });
        scene.refused(&[object], &text).await?;
    }
    Ok(())
}

async fn included_addresses(scene: &Scene<'_>) -> Result<()> {
    scene
        .mesh_config(json!({ "traffic": { "outboundIPRangeInclusionList": ["10.0.0.0/8"] } }))
        .await?;
    let (client, _, url) = pair(scene).await?;
    scene
        .head(&client, "-4 http://httpbin.org/get", Ends::Status(200))
        .await?;
    scene
        .head(&client, &format!("-4 {url}"), Ends::Exit(7))
        .await
}

async fn pod_ip(scene: &Scene<'_>) -> Result<()> {
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    let server = |name: &str| {
        let container = json!({
            "name": "httpbin", "image": "kennethreitz/httpbin", "imagePullPolicy": "IfNotPresent",
            "env": [{ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
            "command": ["gunicorn", "-b", "$(POD_IP):80", "httpbin:app", "-k", "gevent"]
        });
        let mut all = vec![
            account(&servers, name),
            service(&servers, name, name, "http", 80),
        ];
        all.push(deployment(&servers, name, pod(name, container)));
        all.extend(allow(&servers, name, &[(&clients, "client")]));
        all
    };
    scene.apply(&server("localhost")).await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "localhost", "httpbin").await?;
    scene
        .head(
            &client,
            &format!("http://localhost.{servers}/get"),
            Ends::Status(503),
        )
        .await?;
    scene
        .mesh_config(json!({ "sidecar": { "localProxyMode": "PodIP" } }))
        .await?;
    scene.apply(&server("podip")).await?;
    scene.pod(&servers, "podip", "httpbin").await?;
    scene
        .head(
            &client,
            &format!("http://podip.{servers}/get"),
            Ends::Status(200),
        )
        .await
}

async fn udp(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let client = scene.client(&clients, "client").await?;
    e2e::eventually(Duration::from_secs(20), async || {
        let found = scene
            .exec(
                &client,
                &["getent", "hosts", "kubernetes.default.svc.cluster.local"],
            )
            .await?;
        ensure!(found.succeeded(), "{}", found.complaint());
        Ok(())
    })
    .await?;
    scene
        .head(&client, "http://httpbin.org/get", Ends::Exit(7))
        .await
}
