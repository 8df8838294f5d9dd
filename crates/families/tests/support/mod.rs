//! A small cluster to write scenarios on, and a caller that behaves as two sidecars would.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod call;
pub mod cluster;
pub mod shop;
pub mod sidecar;

use families::{Index, Object, Settings};
use model::{Mesh, Problem};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Objects of a cluster, indexed.
pub struct World {
    pub index: Index,
}

impl World {
    /// A mesh in SMI mode without passthrough.
    pub fn new() -> Self {
        let index = Index::new(Settings {
            mesh_name: "osm".into(),
            osm_namespace: "osm-system".into(),
            trust_domain: "cluster.local".into(),
        });
        let mut world = Self { index };
        world.mesh_config(false, false);
        world
    }

    pub fn mesh(&self) -> Mesh {
        self.index.mesh()
    }

    pub fn problems(&self) -> Vec<String> {
        self.index
            .problems()
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    pub fn mesh_config(&mut self, permissive: bool, egress: bool) -> &mut Self {
        self.apply::<api::config::v1alpha2::MeshConfig>(json!({
            "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
            "spec": {
                "traffic": {"enablePermissiveTrafficPolicyMode": permissive, "enableEgress": egress},
                "featureFlags": {"enableEgressPolicy": true, "enableIngressBackendPolicy": true},
            },
        }))
    }

    pub fn namespace(&mut self, name: &str) -> &mut Self {
        self.apply::<k8s_openapi::api::core::v1::Namespace>(json!({
            "metadata": {"name": name, "labels": {"openservicemesh.io/monitored-by": "osm"}},
        }))
    }

    /// A pod with a sidecar; its UUID is its name.
    pub fn pod(&mut self, key: &str, account: &str, ip: &str) -> &mut Self {
        let (namespace, name) = split(key);
        self.apply::<k8s_openapi::api::core::v1::Pod>(json!({
            "metadata": {
                "namespace": namespace, "name": name, "uid": format!("uid-{name}"),
                "labels": {"osm-proxy-uuid": name},
            },
            "spec": {"serviceAccountName": account, "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        }))
    }

    /// A service over pods given as (name, ip); ports as in a manifest.
    pub fn service(
        &mut self,
        key: &str,
        ip: &str,
        ports: Value,
        pods: &[(&str, &str)],
    ) -> &mut Self {
        let (namespace, name) = split(key);
        let subset_ports: Vec<Value> = ports
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                let target = port.get("targetPort").unwrap_or(&port["port"]);
                json!({"name": port.get("name"), "port": target, "protocol": "TCP"})
            })
            .collect();
        self.apply::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "selector": {"app": name}, "ports": ports},
        }));
        let headless = ip == "None";
        let addresses: Vec<Value> = pods
            .iter()
            .map(|(pod, ip)| {
                let hostname = headless.then_some(*pod);
                let target = json!({"kind": "Pod", "namespace": namespace, "name": pod});
                json!({"ip": ip, "hostname": hostname, "targetRef": target})
            })
            .collect();
        self.apply::<k8s_openapi::api::core::v1::Endpoints>(json!({
            "metadata": {"namespace": namespace, "name": name},
            "subsets": [{"addresses": addresses, "ports": subset_ports}],
        }))
    }

    pub fn route_group(&mut self, key: &str, matches: Value) -> &mut Self {
        let (namespace, name) = split(key);
        self.apply::<api::specs::v1alpha4::HTTPRouteGroup>(json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": {"matches": matches},
        }))
    }

    pub fn tcp_route(&mut self, key: &str, ports: Value) -> &mut Self {
        let (namespace, name) = split(key);
        self.apply::<api::specs::v1alpha4::TCPRoute>(json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": {"matches": {"ports": ports}},
        }))
    }

    /// A TrafficTarget to account `destination` of its own namespace, from `namespace/account`s.
    pub fn target(
        &mut self,
        key: &str,
        destination: &str,
        sources: &[&str],
        rules: Value,
    ) -> &mut Self {
        let (namespace, name) = split(key);
        let sources: Vec<Value> = sources
            .iter()
            .map(|source| {
                let (namespace, name) = split(source);
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            })
            .collect();
        self.apply::<api::access::v1alpha3::TrafficTarget>(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "destination": {"kind": "ServiceAccount", "namespace": namespace, "name": destination},
                "sources": sources, "rules": rules,
            },
        }))
    }

    pub fn egress(&mut self, key: &str, spec: Value) -> &mut Self {
        let (namespace, name) = split(key);
        self.apply::<api::policy::v1alpha1::Egress>(json!({
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        }))
    }

    pub fn split(&mut self, key: &str, service: &str, backends: Value) -> &mut Self {
        let (namespace, name) = split(key);
        self.apply::<api::split::v1alpha4::TrafficSplit>(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"service": service, "backends": backends},
        }))
    }

    pub fn apply<T: DeserializeOwned + Into<Object>>(&mut self, object: Value) -> &mut Self {
        let object: T = serde_json::from_value(object).unwrap();
        self.index.apply(object.into());
        self
    }
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap()
}

/// Rules of a TrafficTarget that name these HTTPRouteGroups.
pub fn http_rules(groups: &[&str]) -> Value {
    let rules = groups
        .iter()
        .map(|name| json!({"kind": "HTTPRouteGroup", "name": name}));
    Value::Array(rules.collect())
}

/// Rules of a TrafficTarget that name these TCPRoutes.
pub fn tcp_rules(routes: &[&str]) -> Value {
    let rules = routes
        .iter()
        .map(|name| json!({"kind": "TCPRoute", "name": name}));
    Value::Array(rules.collect())
}
