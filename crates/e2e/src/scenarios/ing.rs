//! Ingress: a real nginx outside the mesh in front of services in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{Scenario, acl::serve, scenario};
use crate::manifest::{PORT, account, deployment, object, pod, service, with};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "ING-01",
        P0,
        nobody_enters,
        "without an IngressBackend the gateway answers 502"
    ),
    scenario!(
        "ING-02",
        P0,
        the_gateway_enters,
        "an IngressBackend for the gateway's Service: 200, and the status says so"
    ),
    scenario!(
        "ING-03",
        P0,
        nobody_else_enters,
        "another pod outside the mesh does not get in beside the gateway"
    ),
    scenario!(
        "ING-04",
        P0,
        mutual_tls,
        "https from the gateway with the certificate the mesh issues for it",
        alone
    ),
    scenario!(
        "ING-05",
        P0,
        wrong_principal,
        "a certificate with another name: 403",
        alone
    ),
    scenario!(
        "ING-06",
        P1,
        unverified,
        "skipClientCertValidation: no certificate is asked for",
        alone
    ),
    scenario!(
        "ING-07",
        P0,
        pods_change,
        "new pods of the gateway are admitted"
    ),
    scenario!(
        "ING-08",
        P1,
        no_endpoints,
        "a source Service without endpoints: status error, healed when they arrive"
    ),
    scenario!(
        "ING-09",
        P1,
        target_port,
        "the port is the target port: the Service's own has no effect"
    ),
    scenario!("ING-10", P1, ip_range, "an IP range as source"),
    scenario!(
        "ING-11",
        P1,
        no_sources,
        "no sources: every client, several backends"
    ),
    scenario!(
        "ING-13",
        P1,
        independent,
        "ingress and TrafficTargets do not touch each other"
    ),
];

/// Longest wait for a status.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name that the mesh writes into the gateway's certificate.
const PRINCIPAL: &str = "gateway.edge.cluster.local";

/// Port of the gateway.
const FRONT: u16 = 8080;

/// A gateway in front of a server of the mesh.
struct Edge {
    servers: String,
    gateways: String,
    client: Pod,
}

impl Edge {
    /// nginx with this in its `location /`, and a server behind it.
    async fn new(scene: &Scene<'_>, scheme: &str, location: &str) -> Result<Self> {
        let servers = scene.namespace("server").await?;
        serve(scene, &servers, "server").await?;
        let gateways = gateway_namespace(scene).await?;
        scene.pod(&servers, "server", "httpbin").await?;
        let upstream = format!("{scheme}://server.{servers}.svc.cluster.local:{PORT}");
        gateway(scene, &gateways, &upstream, location).await?;
        let outside = scene.plain_namespace("outside").await?;
        let client = scene.client(&outside, "client").await?;
        Ok(Self {
            servers,
            gateways,
            client,
        })
    }

    /// What a client of the gateway gets.
    async fn get(&self, scene: &Scene<'_>, ends: Ends) -> Result<()> {
        let url = format!("http://gateway.{}:{FRONT}/get", self.gateways);
        scene.curl(&self.client, &url, ends).await
    }

    /// The IngressBackend of this scene.
    fn backend(&self, backend: Value, sources: &[Value]) -> Value {
        ingress(&self.servers, json!([backend]), sources)
    }

    fn source(&self) -> Value {
        json!({ "kind": "Service", "name": "gateway", "namespace": self.gateways })
    }

    /// The IngressBackend's status, as `currentStatus: reason`.
    async fn status(&self, scene: &Scene<'_>, wanted: &str) -> Result<()> {
        eventually(PATIENCE, async || {
            let path = "{.status.currentStatus}: {.status.reason}";
            let status = scene
                .field("ingressbackend", &self.servers, "server", path)
                .await?;
            ensure!(status == wanted, "status {status:?}, not {wanted:?}");
            Ok(())
        })
        .await
    }
}

/// A namespace of the mesh whose pods have no sidecar.
async fn gateway_namespace(scene: &Scene<'_>) -> Result<String> {
    let namespace = scene.plain_namespace("gateway").await?;
    scene
        .stage
        .osm(&[
            "namespace",
            "add",
            &namespace,
            "--disable-sidecar-injection",
        ])
        .await?
        .text()?;
    Ok(namespace)
}

async fn gateway(scene: &Scene<'_>, namespace: &str, upstream: &str, location: &str) -> Result<()> {
    let nginx = format!(
        "daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
         events {{}}
         http {{
           access_log off;
           client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
           uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
           server {{ listen {FRONT}; location / {{ proxy_pass {upstream}; proxy_http_version 1.1; {location} }} }}
         }}"
    );
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "nginx", "namespace": namespace },
        "data": { "nginx.conf": nginx }
    });
    let container = json!({
        "name": "nginx", "image": "nginx", "imagePullPolicy": "IfNotPresent",
        "command": ["nginx", "-c", "/etc/gateway/nginx.conf", "-e", "stderr"],
        "ports": [{ "containerPort": FRONT }],
        "readinessProbe": { "tcpSocket": { "port": FRONT }, "periodSeconds": 1 },
        "volumeMounts": [
            { "name": "config", "mountPath": "/etc/gateway" },
            { "name": "certificate", "mountPath": "/etc/certificate" }
        ]
    });
    let volumes = json!([
        { "name": "config", "configMap": { "name": "nginx" } },
        { "name": "certificate", "secret": { "secretName": "client-cert", "optional": true } }
    ]);
    let spec = with(pod("gateway", container), &["volumes"], volumes);
    scene
        .apply(&[
            config,
            account(namespace, "gateway"),
            service(namespace, "gateway", "gateway", "http", FRONT),
            deployment(namespace, "gateway", spec),
        ])
        .await?;
    scene.pod(namespace, "gateway", "nginx").await.map(drop)
}

fn ingress(namespace: &str, backends: Value, sources: &[Value]) -> Value {
    object(
        "policy.openservicemesh.io/v1alpha1",
        "IngressBackend",
        namespace,
        "server",
        json!({ "backends": backends, "sources": sources }),
    )
}

fn http(port: u16) -> Value {
    json!({ "name": "server", "port": { "number": port, "protocol": "http" } })
}

fn https(skip: bool) -> Value {
    json!({
        "name": "server", "port": { "number": PORT, "protocol": "https" },
        "tls": { "skipClientCertValidation": skip }
    })
}

async fn nobody_enters(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    edge.get(scene, Ends::Status(502)).await
}

async fn the_gateway_enters(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    scene
        .apply(&[edge.backend(http(PORT), &[edge.source()])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    edge.status(scene, "committed: successfully committed by the system")
        .await?;
    scene
        .delete("ingressbackend", &edge.servers, "server")
        .await?;
    edge.get(scene, Ends::Status(502)).await
}

async fn nobody_else_enters(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    scene
        .apply(&[edge.backend(http(PORT), &[edge.source()])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    let url = format!("http://server.{}:{PORT}/get", edge.servers);
    scene.curl(&edge.client, &url, Ends::Closed).await
}

/// nginx shows the mesh's client certificate and verifies the sidecar's.
fn verified(name: &str) -> String {
    format!(
        "proxy_ssl_certificate /etc/certificate/tls.crt; proxy_ssl_certificate_key /etc/certificate/tls.key;
         proxy_ssl_trusted_certificate /etc/certificate/ca.crt; proxy_ssl_verify on; proxy_ssl_name {name};"
    )
}

/// The mesh issues the gateway's certificate; nginx gets it beside itself, as an ingress controller would fetch it.
async fn tls_edge(scene: &Scene<'_>) -> Result<Edge> {
    let servers = scene.namespace("server").await?;
    serve(scene, &servers, "server").await?;
    let gateways = gateway_namespace(scene).await?;
    let secret = json!({ "name": "client-cert", "namespace": "osm-system" });
    let gateway_certificate = json!({
        "subjectAltNames": [PRINCIPAL], "validityDuration": "24h", "secret": secret
    });
    scene
        .mesh_config(json!({ "certificate": { "ingressGateway": gateway_certificate } }))
        .await?;
    let data = eventually(PATIENCE, async || {
        let data = scene
            .field("secret", "osm-system", "client-cert", "{.data}")
            .await?;
        Ok(serde_json::from_str::<Value>(&data)?)
    })
    .await?;
    scene
        .apply(&[json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": "client-cert", "namespace": gateways }, "data": data
        })])
        .await?;
    scene.pod(&servers, "server", "httpbin").await?;
    let upstream = format!("https://server.{servers}.svc.cluster.local:{PORT}");
    // The sidecar's certificate carries <account>.<namespace>.<trust domain>.
    let name = format!("server.{servers}.cluster.local");
    gateway(scene, &gateways, &upstream, &verified(&name)).await?;
    let outside = scene.plain_namespace("outside").await?;
    let client = scene.client(&outside, "client").await?;
    Ok(Edge {
        servers,
        gateways,
        client,
    })
}

async fn mutual_tls(scene: &Scene<'_>) -> Result<()> {
    let edge = tls_edge(scene).await?;
    let principal = json!({ "kind": "AuthenticatedPrincipal", "name": PRINCIPAL });
    scene
        .apply(&[edge.backend(https(false), &[edge.source(), principal])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    // Clear text does not get in beside it.
    let url = format!("http://server.{}:{PORT}/get", edge.servers);
    scene.curl(&edge.client, &url, Ends::Closed).await
}

async fn wrong_principal(scene: &Scene<'_>) -> Result<()> {
    let edge = tls_edge(scene).await?;
    let other =
        json!({ "kind": "AuthenticatedPrincipal", "name": "untrusted-client.cluster.local" });
    scene
        .apply(&[edge.backend(https(false), &[edge.source(), other])])
        .await?;
    edge.get(scene, Ends::Status(403)).await
}

async fn unverified(scene: &Scene<'_>) -> Result<()> {
    let edge = tls_edge(scene).await?;
    let other =
        json!({ "kind": "AuthenticatedPrincipal", "name": "untrusted-client.cluster.local" });
    scene
        .apply(&[edge.backend(https(true), &[edge.source(), other])])
        .await?;
    edge.get(scene, Ends::Status(200)).await
}

async fn pods_change(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    scene
        .apply(&[edge.backend(http(PORT), &[edge.source()])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    let old = scene.pod(&edge.gateways, "gateway", "nginx").await?;
    scene.delete("pod", &edge.gateways, &old.name).await?;
    scene.pod(&edge.gateways, "gateway", "nginx").await?;
    edge.get(scene, Ends::Status(200)).await
}

async fn no_endpoints(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    let missing = json!({ "kind": "Service", "name": "later", "namespace": edge.gateways });
    scene.apply(&[edge.backend(http(PORT), &[missing])]).await?;
    let error = format!(
        "error: endpoints not found for service {}/later",
        edge.gateways
    );
    edge.status(scene, &error).await?;
    edge.get(scene, Ends::Status(502)).await?;
    scene
        .apply(&[service(&edge.gateways, "later", "gateway", "http", FRONT)])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    edge.status(scene, "committed: successfully committed by the system")
        .await
}

async fn target_port(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    let front = json!({ "selector": { "app": "server" }, "ports": [{ "name": "http", "port": 80, "targetPort": PORT }] });
    scene
        .apply(&[
            object("v1", "Service", &edge.servers, "server", front),
            edge.backend(http(80), &[edge.source()]),
        ])
        .await?;
    let pod = scene.pod(&edge.servers, "server", "httpbin").await?;
    let ip = scene
        .field("pod", &edge.servers, &pod.name, "{.status.podIP}")
        .await?;
    let gateway_pod = scene.pod(&edge.gateways, "gateway", "nginx").await?;
    let direct = format!("http://{ip}:{PORT}/get");
    scene.curl(&gateway_pod, &direct, Ends::Closed).await?;
    scene
        .apply(&[edge.backend(http(PORT), &[edge.source()])])
        .await?;
    scene.curl(&gateway_pod, &direct, Ends::Status(200)).await
}

async fn ip_range(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    let range = |name: &str| json!({ "kind": "IPRange", "name": name });
    let pod = scene.pod(&edge.gateways, "gateway", "nginx").await?;
    let ip = scene
        .field("pod", &edge.gateways, &pod.name, "{.status.podIP}")
        .await?;
    scene
        .apply(&[edge.backend(http(PORT), &[range(&format!("{ip}/32"))])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    let url = format!("http://server.{}:{PORT}/get", edge.servers);
    scene.curl(&edge.client, &url, Ends::Closed).await?;
    scene
        .apply(&[edge.backend(http(PORT), &[range("192.0.2.0/24")])])
        .await?;
    edge.get(scene, Ends::Status(502)).await
}

async fn no_sources(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    serve(scene, &edge.servers, "second").await?;
    scene.pod(&edge.servers, "second", "httpbin").await?;
    let second = json!({ "name": "second", "port": { "number": PORT, "protocol": "http" } });
    let both = ingress(&edge.servers, json!([http(PORT), second]), &[]);
    scene.apply(&[both]).await?;
    for name in ["server", "second"] {
        let url = format!("http://{name}.{}:{PORT}/get", edge.servers);
        scene.curl(&edge.client, &url, Ends::Status(200)).await?;
    }
    edge.get(scene, Ends::Status(200)).await
}

async fn independent(scene: &Scene<'_>) -> Result<()> {
    let edge = Edge::new(scene, "http", "").await?;
    let inside = scene.client(&edge.servers, "inside").await?;
    let url = format!("http://server.{}:{PORT}/get", edge.servers);
    scene
        .apply(&[edge.backend(http(PORT), &[edge.source()])])
        .await?;
    edge.get(scene, Ends::Status(200)).await?;
    scene.curl(&inside, &url, Ends::Closed).await?;
    scene
        .apply(&crate::manifest::allow(
            &edge.servers,
            "server",
            &[(&edge.servers, "inside")],
        ))
        .await?;
    scene.curl(&inside, &url, Ends::Status(200)).await?;
    scene
        .delete("ingressbackend", &edge.servers, "server")
        .await?;
    edge.get(scene, Ends::Status(502)).await
}
