//! One pod behind a Service: its address in a family, its state, its ports

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pods::{is_ready, phase};

/// IP family, with Kubernetes' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

// === impl Family ===

impl Family {
    pub fn of(address: &str) -> Option<Self> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Self::V4),
            IpAddr::V6(_) => Some(Self::V6),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The families of a Service, the primary one first.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named: Vec<Family> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|f| Family::parse(f))
        .collect();
    if !named.is_empty() {
        return named;
    }
    let by_address = spec.and_then(|spec| Family::of(spec.cluster_ip.as_deref()?));
    vec![by_address.unwrap_or(Family::V4)]
}

/// The pod's address in the family.
pub(super) fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status
        .pod_ips
        .as_ref()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip_of(ip));
    listed
        .chain(status.pod_ip.as_deref())
        .find(|ip| Family::of(ip) == Some(family))
        .map(str::to_owned)
}

fn ip_of(ip: &k8s_openapi::api::core::v1::PodIP) -> Option<&str> {
    Some(ip.ip.as_str()).filter(|ip| !ip.is_empty())
}

/// What traffic may do with the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Takes new connections.
    pub ready: bool,
    /// Its readiness, also while it ends.
    pub serving: bool,
    pub terminating: bool,
}

/// The state of a pod that can have traffic at all.
pub(super) fn state(pod: &Pod, publish_not_ready: bool) -> Option<State> {
    if !may_run(pod) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    Some(State {
        ready: publish_not_ready || (serving && !terminating),
        serving,
        terminating,
    })
}

/// Not ended, or to be started again.
fn may_run(pod: &Pod) -> bool {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    match phase(pod) {
        "Failed" => policy == "OnFailure" || policy == "Always",
        "Succeeded" => policy == "Always",
        _ => true,
    }
}

/// The pod's host name if it has one within this Service.
pub(super) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let within = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname
        .clone()
        .filter(|hostname| within && !hostname.is_empty())
}

/// The number of the pod's port that the Service's port leads to.
pub(super) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let ports = spec
                .containers
                .iter()
                .flat_map(|container| container.ports.iter().flatten());
            let named = ports.filter(|p| {
                p.name.as_deref() == Some(name)
                    && p.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            named.map(|port| port.container_port).next()
        }
    }
}

/// How endpoints name the pod.
pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

pub(super) fn node_name(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}
