//! The MeshConfig as live configuration.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{
    Scenario,
    acl::{pair, serve},
    scenario,
};
use crate::manifest::{PORT, allow, egress, object};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "CFG-01",
        P0,
        live,
        "live keys take effect on running pods, the others on new ones",
        alone
    ),
    scenario!(
        "CFG-03",
        P1,
        schema,
        "the schema's errors name the field and what was expected"
    ),
    scenario!(
        "CFG-04",
        P1,
        flags,
        "feature flags: all are known, unknown ones are pruned, switches switch",
        alone
    ),
    scenario!(
        "CFG-50",
        P1,
        service_or_namespace_alone,
        "a change of a Service or Namespace alone takes effect at once"
    ),
];

const SOON: Duration = Duration::from_secs(30);

/// The log of the controller, its newest lines.
async fn controller_log(scene: &Scene<'_>) -> Result<String> {
    let words = [
        "logs",
        "-n",
        "osm-system",
        "deploy/osm-controller",
        "--tail=200",
    ];
    Ok(scene.stage.kubectl(&words).await?.both())
}

async fn live(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let host = "http://httpbin.org/get";
    scene.head(&client, host, Ends::Closed).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": true } }))
        .await?;
    scene.head(&client, host, Ends::Status(200)).await?;
    scene
        .mesh_config(json!({ "traffic": { "enableEgress": false } }))
        .await?;
    scene.head(&client, host, Ends::Closed).await?;

    let permissive = |on: bool| json!({ "traffic": { "enablePermissiveTrafficPolicyMode": on } });
    scene.head(&client, &url, Ends::Closed).await?;
    scene.mesh_config(permissive(true)).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene.mesh_config(permissive(false)).await?;
    scene.head(&client, &url, Ends::Closed).await?;

    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    // Nobody answers there: what must be asked is refused.
    let asked = json!({ "enable": true, "address": "127.0.0.1", "port": 1, "timeout": "1s", "failureModeAllow": false });
    let authorization =
        |asked: Value| json!({ "traffic": { "inboundExternalAuthorization": asked } });
    scene.mesh_config(authorization(asked)).await?;
    scene.head(&client, &url, Ends::Status(403)).await?;
    scene.mesh_config(authorization(Value::Null)).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;

    scene
        .mesh_config(json!({ "observability": { "osmLogLevel": "debug" } }))
        .await?;
    eventually(SOON, async || {
        let log = controller_log(scene).await?.to_lowercase();
        ensure!(
            log.contains("debug"),
            "no line of level debug in the controller's log"
        );
        Ok(())
    })
    .await?;
    scene
        .mesh_config(json!({ "observability": { "osmLogLevel": "info" } }))
        .await?;
    new_pods(scene, &servers).await
}

/// Keys that count for pods created from now on.
async fn new_pods(scene: &Scene<'_>, servers: &str) -> Result<()> {
    scene
        .mesh_config(json!({
            "sidecar": { "logLevel": "debug", "resources": { "requests": { "memory": "17Mi" } } },
            "traffic": { "outboundPortExclusionList": [6379] },
            "certificate": { "serviceCertValidityDuration": "2h" }
        }))
        .await?;
    let spec = "{.items[*].spec.containers[?(@.name==\"sidecar\")]}";
    let path = format!("jsonpath={spec}");
    let of = [
        "get",
        "pods",
        "-n",
        servers,
        "-l",
        "app=server",
        "-o",
        &path,
    ];
    let before = scene.stage.kubectl(&of).await?.text()?;
    ensure!(!before.contains("17Mi"), "a running pod changed: {before}");
    let remove = ["delete", "pods", "-n", servers, "-l", "app=server"];
    scene.stage.kubectl(&remove).await?.text()?;
    let server = scene.pod(servers, "server", "httpbin").await?;
    let after = scene.stage.kubectl(&of).await?.text()?;
    ensure!(after.contains("17Mi") && after.contains("debug"), "{after}");
    let init = "{.spec.initContainers[?(@.name==\"osm-init\")]}";
    let init = scene.field("pod", servers, &server.name, init).await?;
    ensure!(init.contains("6379"), "{init}");
    let hours = validity(scene, &server).await?;
    ensure!(
        (1.0..=3.0).contains(&hours),
        "the certificate is valid for {hours} h, not 2"
    );
    Ok(())
}

/// How long the certificate of a pod's sidecar is valid, in hours.
async fn validity(scene: &Scene<'_>, pod: &Pod) -> Result<f64> {
    let line = r#"python3 - <<'EOF'
import json, urllib.request, datetime
page = json.load(urllib.request.urlopen("http://127.0.0.1:15000/certs"))
chain = [one for entry in page["certificates"] for one in entry.get("cert_chain", [])]
at = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
spans = [(at(one["expiration_time"]) - at(one["valid_from"])).total_seconds() / 3600 for one in chain]
print(min(spans))
EOF"#;
    let said = scene.sh(pod, line).await?;
    let hours = said.trim().parse();
    hours.map_err(|_| anyhow::anyhow!("the sidecar's page of certificates: {said}"))
}

async fn schema(scene: &Scene<'_>) -> Result<()> {
    for (spec, texts) in [
        (
            json!({ "traffic": { "enableEgress": "no" } }),
            vec![
                "spec.traffic.enableEgress",
                "Invalid value: \"string\"",
                "must be of type boolean: \"string\"",
            ],
        ),
        (
            json!({ "sidecar": { "logLevel": "foo" } }),
            vec!["spec.sidecar.logLevel: Unsupported value: \"foo\""],
        ),
        (
            json!({ "traffic": { "inboundExternalAuthorization": { "port": 70000 } } }),
            vec![
                "spec.traffic.inboundExternalAuthorization.port",
                "should be less than or equal to 65535",
            ],
        ),
        (
            json!({ "certificate": { "ingressGateway": { "validityDuration": "1h", "subjectAltNames": ["a"] } } }),
            vec!["spec.certificate.ingressGateway.secret: Required value"],
        ),
        (
            json!({ "sidecar": { "sidecarClass": "haproxy" } }),
            vec!["spec.sidecar.sidecarClass: Unsupported value: \"haproxy\""],
        ),
        // Past the schema: the pattern of ranges is not anchored.
        (
            json!({ "traffic": { "outboundIPRangeExclusionList": ["x10.0.0.0/99"] } }),
            vec![
                "spec.traffic.outboundIPRangeExclusionList[0]: Invalid value: \"x10.0.0.0/99\": must be a CIDR",
            ],
        ),
        (
            json!({ "sidecar": { "tlsMinProtocolVersion": "TLSv1_3", "tlsMaxProtocolVersion": "TLSv1_2" } }),
            vec![
                "spec.sidecar.tlsMinProtocolVersion: Invalid value: TLSv1_3: must not be above tlsMaxProtocolVersion TLSv1_2",
            ],
        ),
    ] {
        let error = scene.mesh_config(spec.clone()).await;
        let Err(error) = error else {
            anyhow::bail!("{spec} was accepted");
        };
        let said = format!("{error:#}");
        ensure!(
            texts.iter().all(|text| said.contains(text)),
            "{said}, without {texts:?}"
        );
    }
    Ok(())
}

async fn flags(scene: &Scene<'_>) -> Result<()> {
    let all = [
        "enableWASMStats",
        "enableEgressPolicy",
        "enableSnapshotCacheMode",
        "enableAsyncProxyServiceMapping",
        "enableIngressBackendPolicy",
        "enableRetryPolicy",
        "enableEnvoyActiveHealthChecks",
        "enableMeshRootCertificate",
        "enableSidecarActiveHealthChecks",
        "enableAccessControlPolicy",
        "enableAccessCertPolicy",
        "enablePluginPolicy",
    ];
    let wanted: serde_json::Map<String, Value> = all
        .iter()
        .map(|name| ((*name).to_owned(), json!(true)))
        .collect();
    let mut patch = wanted.clone();
    patch.insert("enableTimeTravel".to_owned(), json!(true));
    scene.mesh_config(json!({ "featureFlags": patch })).await?;
    let stored = scene
        .field(
            "meshconfig",
            "osm-system",
            "osm-mesh-config",
            "{.spec.featureFlags}",
        )
        .await?;
    let stored: Value = serde_json::from_str(&stored)?;
    for name in all {
        ensure!(stored[name] == true, "{name} is not stored: {stored}");
    }
    ensure!(stored.get("enableTimeTravel").is_none(), "{stored}");
    // What was switched on and does nothing yet goes off again.
    let off: serde_json::Map<String, Value> = all
        .iter()
        .filter(|name| !matches!(**name, "enableEgressPolicy" | "enableIngressBackendPolicy"))
        .map(|name| ((*name).to_owned(), json!(false)))
        .collect();
    scene.mesh_config(json!({ "featureFlags": off })).await?;

    let meshed = scene.namespace("mesh").await?;
    let client = scene.client(&meshed, "client").await?;
    scene
        .apply(&[egress(
            &meshed,
            "out",
            "client",
            &["httpbin.org"],
            80,
            "http",
        )])
        .await?;
    let host = "http://httpbin.org/get";
    scene.head(&client, host, Ends::Status(200)).await?;
    scene
        .mesh_config(json!({ "featureFlags": { "enableEgressPolicy": false } }))
        .await?;
    scene.head(&client, host, Ends::Closed).await?;
    scene
        .mesh_config(json!({ "featureFlags": { "enableEgressPolicy": true } }))
        .await?;
    scene.head(&client, host, Ends::Status(200)).await?;

    serve(scene, &meshed, "server").await?;
    scene.pod(&meshed, "server", "httpbin").await?;
    let backend = json!({ "name": "server", "port": { "number": PORT, "protocol": "http" } });
    let spec =
        json!({ "backends": [backend], "sources": [{ "kind": "IPRange", "name": "0.0.0.0/0" }] });
    let open = object(
        "policy.openservicemesh.io/v1alpha1",
        "IngressBackend",
        &meshed,
        "in",
        spec,
    );
    scene.apply(&[open]).await?;
    let plain = scene.plain_namespace("plain").await?;
    let outsider = scene.client(&plain, "outsider").await?;
    let url = format!("http://server.{meshed}:{PORT}/get");
    scene.head(&outsider, &url, Ends::Status(200)).await?;
    scene
        .mesh_config(json!({ "featureFlags": { "enableIngressBackendPolicy": false } }))
        .await?;
    scene.head(&outsider, &url, Ends::Closed).await?;
    scene
        .mesh_config(json!({ "featureFlags": { "enableIngressBackendPolicy": true } }))
        .await?;
    scene.head(&outsider, &url, Ends::Status(200)).await
}

async fn service_or_namespace_alone(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    // Another port in front of the same pods: no Endpoints object changes by that.
    let patch =
        json!([{ "op": "replace", "path": "/spec/ports/0/port", "value": 8088 }]).to_string();
    let words = [
        "patch",
        "service",
        "server",
        "-n",
        &servers,
        "--type=json",
        "-p",
        &patch,
    ];
    scene.stage.kubectl(&words).await?.text()?;
    let moved = url.replace(&PORT.to_string(), "8088");
    scene.head(&client, &moved, Ends::Status(200)).await?;
    scene.head(&client, &url, Ends::Closed).await?;
    // The namespace leaves the mesh, and comes back.
    let label = |value: &str| format!("openservicemesh.io/monitored-by{value}");
    for (value, ends) in [("-", Ends::Closed), ("=osm", Ends::Status(200))] {
        let words = ["label", "namespace", &servers, &label(value)];
        scene.stage.kubectl(&words).await?.text()?;
        scene.head(&client, &moved, ends).await?;
    }
    Ok(())
}
