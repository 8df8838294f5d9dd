//! What a pod's environment and volumes are made from: the pod itself, its addresses, ConfigMaps and Secrets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

/// The inputs, fetched before anything is made of them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The pod.
    pub pod: Pod,
    /// Its addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// The node's name.
    pub node: String,
    /// ConfigMaps the pod names and that exist.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets the pod names and that exist.
    pub secrets: BTreeMap<String, Secret>,
    /// Variables for the Services of the namespace.
    pub services: Vec<(String, String)>,
}

// === impl Facts ===

impl Facts {
    /// The value of a `fieldRef`.
    pub fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String> {
        let path = selector.field_path.as_str();
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(format!("unsupported fieldPath: {path}")),
            };
            return Ok(map
                .as_ref()
                .and_then(|m| m.get(key))
                .cloned()
                .unwrap_or_default());
        }
        let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
        let all = |ips: &[IpAddr]| {
            ips.iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        Ok(match path {
            "metadata.name" => self.pod.name_any(),
            "metadata.namespace" => self.pod.namespace().unwrap_or_default(),
            "metadata.uid" => self.pod.uid().unwrap_or_default(),
            "metadata.labels" => lines(meta.labels.as_ref()),
            "metadata.annotations" => lines(meta.annotations.as_ref()),
            "spec.nodeName" => self.node.clone(),
            "spec.serviceAccountName" => spec
                .and_then(|s| s.service_account_name.clone())
                .unwrap_or_default(),
            "status.podIP" => first(&self.pod_ips),
            "status.podIPs" => all(&self.pod_ips),
            "status.hostIP" => first(&self.host_ips),
            "status.hostIPs" => all(&self.host_ips),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        })
    }

    /// The value of a `resourceFieldRef`; `container` is the one it stands in, if any.
    pub fn resource(
        &self,
        selector: &ResourceFieldSelector,
        container: Option<&Container>,
    ) -> Result<String, String> {
        let named = |name: &String| {
            self.pod
                .spec
                .iter()
                .flat_map(|s| &s.containers)
                .find(|c| c.name == *name)
        };
        let container = selector
            .container_name
            .as_ref()
            .and_then(named)
            .or(container);
        let container = container
            .ok_or_else(|| format!("resourceFieldRef {}: no such container", selector.resource))?;
        let resources = container.resources.as_ref();
        let (kind, name) = selector.resource.split_once('.').unwrap_or_default();
        let list = |kind: &str| {
            resources.and_then(|r| {
                if kind == "limits" {
                    r.limits.as_ref()
                } else {
                    r.requests.as_ref()
                }
            })
        };
        let value = match list(kind).and_then(|l| l.get(name)).map(parse_quantity) {
            Some(value) => value?,
            None if kind == "requests" => 0.0,
            // Without a limit the node's capacity counts.
            None => match name {
                "cpu" => std::thread::available_parallelism().map_or(1, usize::from) as f64,
                "memory" => memory_bytes() as f64,
                _ => 0.0,
            },
        };
        let divisor = selector
            .divisor
            .as_ref()
            .map(parse_quantity)
            .transpose()?
            .filter(|d| *d > 0.0)
            .unwrap_or(1.0);
        Ok(format!("{:.0}", (value / divisor).ceil()))
    }
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    Some((map, key.trim_matches(['\'', '"'])))
}

/// The downward API's format of a map.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A Kubernetes quantity as a number.
pub fn parse_quantity(quantity: &Quantity) -> Result<f64, String> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let text = quantity.0.as_str();
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(s, f)| Some((text.strip_suffix(s)?, *f)))
        .unwrap_or((text, 1.0));
    number
        .parse::<f64>()
        .map(|n| n * factor)
        .map_err(|_| format!("{text:?} is not a quantity"))
}

/// Memory of this machine.
pub fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    total.unwrap_or(1 << 20) * 1024
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_paths_have_the_values_of_the_downward_api() {
        let facts = Facts {
            pod: serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x", "b": "\"q\""}},
                "spec": {"serviceAccountName": "sa", "containers": []}
            }))
            .unwrap(),
            pod_ips: vec!["10.244.0.2".parse().unwrap(), "fd44::2".parse().unwrap()],
            host_ips: vec!["172.31.255.1".parse().unwrap()],
            node: "node1".into(),
            ..Facts::default()
        };
        let cases = [
            ("metadata.labels['app']", Ok("x")),
            ("metadata.labels", Ok("app=\"x\"\nb=\"\\\"q\\\"\"")),
            ("metadata.annotations['none']", Ok("")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.podIPs", Ok("10.244.0.2,fd44::2")),
            ("status.hostIP", Ok("172.31.255.1")),
            ("spec.hostname", Err("unsupported fieldPath: spec.hostname")),
        ];
        for (path, expected) in cases {
            let selector = ObjectFieldSelector {
                field_path: path.into(),
                api_version: None,
            };
            assert_eq!(
                facts.field(&selector),
                expected.map(str::to_owned).map_err(str::to_owned),
                "{path}"
            );
        }
    }

    #[test]
    fn quantities_are_numbers() {
        for (text, value) in [
            ("500m", 0.5),
            ("2", 2.0),
            ("1Gi", 1_073_741_824.0),
            ("64M", 64e6),
            ("1e3", 1000.0),
        ] {
            assert_eq!(parse_quantity(&Quantity(text.into())), Ok(value), "{text}");
        }
        assert!(parse_quantity(&Quantity("x".into())).is_err());
    }
}
