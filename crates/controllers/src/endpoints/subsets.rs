//! Endpoints of a Service: addresses grouped by the ports they serve

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::backends::{address, families, hostname, node_name, reference, state, target_port};

/// Label of Endpoints whose Service has no address.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Whether the Service selects the pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        selector
            .iter()
            .all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

/// The Service's own labels and those of its kind.
pub(super) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
    {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// The Endpoints object of a Service with a selector.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let labels = labels(service);
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: (!labels.is_empty()).then_some(labels),
            ..ObjectMeta::default()
        },
        subsets: Some(subsets(service, pods)).filter(|subsets| !subsets.is_empty()),
    }
}

/// A port by what tells it from others, in the order Kubernetes shows: (name, number, protocol, application protocol).
type Port = (Option<String>, i32, String, Option<String>);
/// Addresses by (IP, ready).
type Addresses = BTreeMap<(String, bool), EndpointAddress>;

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let publish_not_ready = spec.publish_not_ready_addresses == Some(true);
    let Some(family) = families(service).first().copied() else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut by_port: BTreeMap<Option<Port>, Addresses> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| selects(service, pod)) {
        let (Some(ip), Some(state)) = (address(pod, family), state(pod, publish_not_ready)) else {
            continue;
        };
        if state.terminating && !publish_not_ready {
            continue;
        }
        let entry = EndpointAddress {
            ip: ip.clone(),
            hostname: hostname(pod, service),
            node_name: node_name(pod),
            target_ref: Some(reference(pod)),
        };
        let mut add = |port| {
            by_port
                .entry(port)
                .or_default()
                .insert((ip.clone(), state.ready), entry.clone())
        };
        if ports.is_empty() {
            // A headless Service may be without ports: only the addresses matter.
            add(None);
        }
        for port in ports {
            if let Some(number) = target_port(pod, port) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                add(Some((
                    port.name.clone(),
                    number,
                    protocol,
                    port.app_protocol.clone(),
                )));
            }
        }
    }
    group(by_port)
}

/// Ports with the very same addresses share a subset.
fn group(by_port: BTreeMap<Option<Port>, Addresses>) -> Vec<EndpointSubset> {
    let mut groups: Vec<(Addresses, Vec<EndpointPort>)> = Vec::new();
    for (port, addresses) in by_port {
        let port = port.map(|(name, port, protocol, app_protocol)| EndpointPort {
            name,
            port,
            protocol: Some(protocol),
            app_protocol,
        });
        match groups
            .iter_mut()
            .find(|(other, _)| other.keys().eq(addresses.keys()))
        {
            Some((_, ports)) => ports.extend(port),
            None => groups.push((addresses, port.into_iter().collect())),
        }
    }
    groups
        .into_iter()
        .map(|(addresses, ports)| subset(addresses, ports))
        .collect()
}

fn subset(addresses: Addresses, ports: Vec<EndpointPort>) -> EndpointSubset {
    let (ready, not_ready): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|((_, ready), _)| *ready);
    let list = |addresses: Vec<(_, EndpointAddress)>| {
        let addresses: Vec<EndpointAddress> =
            addresses.into_iter().map(|(_, address)| address).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn pod(name: &str, ips: &[&str], ready: bool, spec: Value) -> Arc<Pod> {
        let mut spec = spec;
        spec["nodeName"] = "node1".into();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": spec,
            "status": {"phase": "Running", "podIP": ips.first(), "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                "conditions": [{"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    pub fn service(spec: Value) -> Service {
        let mut spec = spec;
        spec["selector"] = json!({"app": "web"});
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec}),
        )
        .unwrap()
    }

    /// `ready|notReady@name:port` per subset.
    fn shown(endpoints: &Endpoints) -> Vec<String> {
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            addresses
                .iter()
                .flatten()
                .map(|a| a.hostname.clone().unwrap_or(a.ip.clone()))
                .collect::<Vec<_>>()
                .join(",")
        };
        let ports = |subset: &EndpointSubset| {
            let ports = subset
                .ports
                .iter()
                .flatten()
                .map(|p| format!("{}:{}", p.name.clone().unwrap_or_default(), p.port));
            ports.collect::<Vec<_>>().join(",")
        };
        let subsets = endpoints.subsets.iter().flatten();
        subsets
            .map(|s| {
                format!(
                    "{}|{}@{}",
                    ips(&s.addresses),
                    ips(&s.not_ready_addresses),
                    ports(s)
                )
            })
            .collect()
    }

    #[test]
    fn subsets_by_ports_and_readiness() {
        let named = |port: u16| json!({"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]});
        let plain = || json!({});
        let cases = [
            (
                "ready and not",
                json!({"ports": [{"port": 80, "targetPort": 8080}]}),
                vec![
                    pod("a", &["10.0.0.1"], true, plain()),
                    pod("b", &["10.0.0.2"], false, plain()),
                ],
                vec!["10.0.0.1|10.0.0.2@:8080"],
            ),
            (
                "no target port means the same number",
                json!({"ports": [{"name": "x", "port": 80}]}),
                vec![pod("a", &["10.0.0.1"], true, plain())],
                vec!["10.0.0.1|@x:80"],
            ),
            (
                "named target port, two numbers",
                json!({"ports": [{"port": 80, "targetPort": "http"}]}),
                vec![
                    pod("a", &["10.0.0.1"], true, named(1)),
                    pod("b", &["10.0.0.2"], true, named(2)),
                    pod("c", &["10.0.0.3"], true, plain()),
                ],
                vec!["10.0.0.1|@:1", "10.0.0.2|@:2"],
            ),
            (
                "two ports, one subset",
                json!({"ports": [{"name": "b", "port": 81}, {"name": "a", "port": 80}]}),
                vec![pod("a", &["10.0.0.1"], true, plain())],
                vec!["10.0.0.1|@a:80,b:81"],
            ),
            (
                "headless without ports",
                json!({"clusterIP": "None"}),
                vec![pod("a", &["10.0.0.1"], true, plain())],
                vec!["10.0.0.1|@"],
            ),
            (
                "publishNotReadyAddresses",
                json!({"publishNotReadyAddresses": true, "ports": [{"port": 1}]}),
                vec![pod("a", &["10.0.0.1"], false, plain())],
                vec!["10.0.0.1|@:1"],
            ),
            (
                "primary family only",
                json!({"ipFamilies": ["IPv6", "IPv4"], "ports": [{"port": 1}]}),
                vec![pod("a", &["10.0.0.1", "fd00::1"], true, plain())],
                vec!["fd00::1|@:1"],
            ),
            (
                "host names within the Service",
                json!({"clusterIP": "None", "ports": [{"port": 1}]}),
                vec![
                    pod(
                        "a",
                        &["10.0.0.1"],
                        true,
                        json!({"hostname": "a-0", "subdomain": "web"}),
                    ),
                    pod(
                        "b",
                        &["10.0.0.2"],
                        true,
                        json!({"hostname": "b-0", "subdomain": "other"}),
                    ),
                ],
                vec!["a-0,10.0.0.2|@:1"],
            ),
            (
                "no address yet",
                json!({"ports": [{"port": 1}]}),
                vec![pod("a", &[], true, plain())],
                vec![],
            ),
        ];
        for (why, spec, pods, wanted) in cases {
            assert_eq!(shown(&endpoints(&service(spec), &pods)), wanted, "{why}");
        }
    }

    #[test]
    fn ended_and_terminating_pods_are_left_out() {
        let mut failed =
            (*pod("a", &["10.0.0.1"], true, json!({"restartPolicy": "Never"}))).clone();
        failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        let mut going = (*pod("b", &["10.0.0.2"], true, json!({}))).clone();
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pods = [Arc::new(failed), Arc::new(going)];
        let strict = endpoints(&service(json!({"ports": [{"port": 1}]})), &pods);
        assert_eq!(shown(&strict), Vec::<String>::new());
        let tolerant = endpoints(
            &service(json!({"publishNotReadyAddresses": true, "ports": [{"port": 1}]})),
            &pods,
        );
        assert_eq!(shown(&tolerant), ["10.0.0.2|@:1"]);
    }

    #[test]
    fn headless_is_a_label() {
        let headless = endpoints(&service(json!({"clusterIP": "None"})), &[]);
        assert_eq!(headless.labels()[HEADLESS], "");
        assert_eq!(
            endpoints(&service(json!({"clusterIP": "10.96.0.9"})), &[])
                .metadata
                .labels,
            None
        );
    }
}
