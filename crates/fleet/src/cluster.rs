//! The simulated cluster: this project's API server, and objects made through its HTTPS API as anybody would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use apiserver::{ClientUser, Config, ServerHandle};
use ca::Authority;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::plan::{self, PODS, PORT, Plan, Service, TARGET_PORT};

/// Namespace of the control plane.
pub const SYSTEM: &str = "osm-system";
/// Requests at a time.
const CONCURRENT: usize = 64;

/// A running API server with a client.
pub struct Cluster {
    server: ServerHandle,
    client: Client,
    plan: Plan,
    /// For the controller.
    pub kubeconfig: PathBuf,
}

// === impl Cluster ===

impl Cluster {
    /// Starts the API server.
    pub async fn start(folder: &Path, plan: Plan) -> anyhow::Result<Cluster> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let server = apiserver::start(Config {
            data_dir: folder.to_owned(),
            listeners: vec![listener],
            extra_sans: Vec::new(),
            service_cidrs: vec!["10.96.0.0/12".parse()?],
            advertise: None,
            backend: None,
        })
        .await?;
        let address = server.addresses().first().context("no address")?;
        let text = server.kubeconfig(&format!("https://{address}"), &ClientUser::admin())?;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, &text)?;
        let parsed = Kubeconfig::from_yaml(&text)?;
        let config =
            kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        Ok(Cluster {
            client: Client::try_from(config)?,
            server,
            plan,
            kubeconfig,
        })
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.server.shutdown().await;
    }

    /// Makes all objects but the controller's own. `webhook` is where the controller's validation will be.
    pub async fn populate(&self, webhook: u16) -> anyhow::Result<()> {
        for definition in api::crds() {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            self.post(path.to_owned(), serde_json::to_value(definition)?)
                .await?;
        }
        self.all(
            std::iter::once(namespace(SYSTEM, false))
                .chain(self.plan.namespaces().map(|name| namespace(&name, true))),
        )
        .await?;
        self.all(control_plane(webhook).into_iter()).await?;
        let plan = self.plan;
        self.all((0..plan.services).map(account)).await?;
        self.all((0..plan.services).map(service)).await?;
        self.all((0..plan.services).map(|service| endpoints(service, None)))
            .await?;
        self.all(plan.namespaces().map(|name| route_group(&name)))
            .await?;
        self.all((0..plan.services).flat_map(|service| traffic_targets(plan, service)))
            .await?;
        let pods = || (0..plan.services).flat_map(|s| (0..PODS).map(move |index| (s, index)));
        self.all(pods().map(|(service, index)| pod(service, index)))
            .await?;
        let running = futures::stream::iter(pods()).map(|(service, index)| {
            let namespace = plan::namespace(service);
            let name = plan::pod(service, index);
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
            let ip = plan::address(service, index);
            let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] });
            self.patch(path, json!({ "status": status }))
        });
        running
            .buffer_unordered(CONCURRENT)
            .try_collect::<()>()
            .await
    }

    /// The mesh's root, which the controller made.
    pub async fn authority(&self) -> anyhow::Result<Arc<Authority>> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        let data = secrets.get("osm-ca-bundle").await?.data.unwrap_or_default();
        let entry = |key: &str| -> anyhow::Result<&str> {
            let bytes = data.get(key).with_context(|| format!("no {key}"))?;
            Ok(std::str::from_utf8(&bytes.0)?)
        };
        let authority = Authority::from_pem(entry("ca.crt")?, entry("private.key")?)?;
        Ok(Arc::new(authority))
    }

    /// Makes one pod of the service ready or unready; the others are ready.
    pub async fn set_ready(&self, service: Service, unready: Option<usize>) -> anyhow::Result<()> {
        let (path, object) = endpoints(service, unready);
        let path = format!("{path}/{}", plan::name(service));
        self.patch(path, json!({ "subsets": object["subsets"] }))
            .await
    }

    /// Switches permissive mode.
    pub async fn set_permissive(&self, permissive: bool) -> anyhow::Result<()> {
        let path = format!(
            "/apis/config.openservicemesh.io/v1alpha2/namespaces/{SYSTEM}/meshconfigs/osm-mesh-config"
        );
        let traffic = json!({ "enablePermissiveTrafficPolicyMode": permissive });
        self.patch(path, json!({ "spec": { "traffic": traffic } }))
            .await
    }

    async fn all(&self, objects: impl Iterator<Item = (String, Value)>) -> anyhow::Result<()> {
        futures::stream::iter(objects)
            .map(|(path, object)| self.post(path, object))
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await
    }

    async fn post(&self, path: String, object: Value) -> anyhow::Result<()> {
        let request = http::Request::post(&path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&object)?)?;
        self.send(path, request).await
    }

    async fn patch(&self, path: String, patch: Value) -> anyhow::Result<()> {
        let request = http::Request::patch(&path)
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(&patch)?)?;
        self.send(path, request).await
    }

    async fn send(&self, path: String, request: http::Request<Vec<u8>>) -> anyhow::Result<()> {
        let answer = self.client.request::<Value>(request).await;
        answer.map(drop).with_context(|| path)
    }
}

type Object = (String, Value);

fn namespace(name: &str, monitored: bool) -> Object {
    let labels = if monitored {
        json!({ "openservicemesh.io/monitored-by": "osm" })
    } else {
        json!({})
    };
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    ("/api/v1/namespaces".to_owned(), object)
}

fn core(service: Service, plural: &str) -> String {
    format!("/api/v1/namespaces/{}/{plural}", plan::namespace(service))
}

fn account(service: Service) -> Object {
    let name = plan::name(service);
    let object =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
    (core(service, "serviceaccounts"), object)
}

fn service(service: Service) -> Object {
    let name = plan::name(service);
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "selector": { "app": name },
            "ports": [{ "name": "http-web", "port": PORT, "targetPort": TARGET_PORT }],
        },
    });
    (core(service, "services"), object)
}

fn endpoints(service: Service, unready: Option<usize>) -> Object {
    let of = |wanted: bool| -> Vec<Value> {
        let indices = (0..PODS).filter(|index| (unready != Some(*index)) == wanted);
        let address = |index| {
            json!({
                "ip": plan::address(service, index),
                "targetRef": { "kind": "Pod", "namespace": plan::namespace(service), "name": plan::pod(service, index) },
            })
        };
        indices.map(address).collect()
    };
    let mut subset = json!({
        "addresses": of(true),
        "ports": [{ "name": "http-web", "port": TARGET_PORT, "protocol": "TCP" }],
    });
    if unready.is_some() {
        subset["notReadyAddresses"] = json!(of(false));
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": plan::name(service) },
        "subsets": [subset],
    });
    (core(service, "endpoints"), object)
}

fn pod(service: Service, index: usize) -> Object {
    let name = plan::name(service);
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": plan::pod(service, index),
            "labels": { "app": name, "osm-proxy-uuid": plan::uuid(service, index) },
        },
        "spec": {
            "serviceAccountName": name,
            "containers": [
                { "name": "app", "image": "app:1", "ports": [{ "containerPort": TARGET_PORT }] },
                { "name": "sidecar", "image": "osm-proxy:1" },
            ],
        },
    });
    (core(service, "pods"), object)
}

fn route_group(namespace: &str) -> Object {
    let object = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
        "metadata": { "name": "routes" },
        "spec": { "matches": [
            { "name": "read", "pathRegex": "/api/.*", "methods": ["GET"] },
            { "name": "write", "pathRegex": "/api/orders", "methods": ["POST", "PUT"] },
        ] },
    });
    let path = format!("/apis/specs.smi-spec.io/v1alpha4/namespaces/{namespace}/httproutegroups");
    (path, object)
}

fn traffic_targets(plan: Plan, service: Service) -> Vec<Object> {
    let namespace = plan::namespace(service);
    let subject = |service: Service| json!({ "kind": "ServiceAccount", "name": plan::name(service), "namespace": plan::namespace(service) });
    let callers = plan.callers(service);
    let one = |caller: &Service| {
        let name = format!("{}-to-{}", plan::name(*caller), plan::name(service));
        let object = json!({
            "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
            "metadata": { "name": name },
            "spec": {
                "destination": subject(service),
                "sources": [subject(*caller)],
                "rules": [{ "kind": "HTTPRouteGroup", "name": "routes", "matches": ["read", "write"] }],
            },
        });
        let path =
            format!("/apis/access.smi-spec.io/v1alpha3/namespaces/{namespace}/traffictargets");
        (path, object)
    };
    callers.iter().map(one).collect()
}

/// The MeshConfig, and the Service through which the API server asks the controller's validation.
fn control_plane(webhook: u16) -> Vec<Object> {
    let mesh_config = json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
        "metadata": { "name": "osm-mesh-config" },
        "spec": {
            "sidecar": {}, "observability": { "osmLogLevel": "warn" }, "featureFlags": {},
            "traffic": { "enableEgress": false, "enablePermissiveTrafficPolicyMode": false },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "osm-validator" },
        "spec": { "ports": [{ "name": "webhook", "port": 9093, "targetPort": webhook }] },
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "osm-validator" },
        "subsets": [{ "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "name": "webhook", "port": webhook }] }],
    });
    let core = |plural: &str| format!("/api/v1/namespaces/{SYSTEM}/{plural}");
    let meshes =
        format!("/apis/config.openservicemesh.io/v1alpha2/namespaces/{SYSTEM}/meshconfigs");
    vec![
        (meshes, mesh_config),
        (core("services"), service),
        (core("endpoints"), endpoints),
    ]
}
