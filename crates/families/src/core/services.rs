//! Services with the pods behind them.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};
use model::{Endpoint, Problem, Protocol, Provenance, Service, ServiceAccount, ServicePort};

use super::{endpoints::EndpointsFacts, pods::PodsByAddress};
use crate::index::{Index, Key};

/// What is read of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub external: bool,
    pub has_selector: bool,
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    pub ports: Vec<PortFacts>,
}

/// One TCP port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFacts {
    pub name: Arc<str>,
    pub app_protocol: Option<Arc<str>>,
    pub port: u16,
    pub target_port: u16,
}

impl ServiceFacts {
    pub(crate) fn new(service: &k8s::Service) -> Self {
        let empty = k8s::ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let listed = spec.cluster_ips.as_deref().unwrap_or_default();
        let words = spec.cluster_ip.iter().chain(listed);
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for ip in words.clone().filter_map(|ip| ip.parse().ok()) {
            if !cluster_ips.contains(&ip) {
                cluster_ips.push(ip);
            }
        }
        let ports = spec.ports.as_deref().unwrap_or_default().iter();
        Self {
            external: spec.type_.as_deref() == Some("ExternalName"),
            has_selector: spec
                .selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty()),
            headless: words.into_iter().any(|ip| ip == "None"),
            cluster_ips,
            ports: ports.filter_map(PortFacts::new).collect(),
        }
    }
}

impl PortFacts {
    fn new(port: &k8s::ServicePort) -> Option<Self> {
        if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
            return None;
        }
        let number = u16::try_from(port.port).ok().filter(|port| *port > 0)?;
        let target_port = match &port.target_port {
            Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
            Some(IntOrString::String(_)) | None => None,
        };
        Some(Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
            port: number,
            target_port: target_port.filter(|port| *port > 0).unwrap_or(number),
        })
    }
}

/// Services of monitored namespaces that the mesh carries.
pub(crate) fn services(index: &Index, problems: &mut Vec<Problem>) -> Vec<Service> {
    let pods = PodsByAddress::new(index);
    let none = EndpointsFacts::default();
    let mut services = Vec::new();
    for (key, facts) in index.monitored(&index.services) {
        if facts.external {
            continue;
        }
        let endpoints = index.endpoints.get(key).unwrap_or(&none);
        let ports: Vec<ServicePort> = facts
            .ports
            .iter()
            .filter_map(|port| service_port(key, port, endpoints, &pods, problems))
            .collect();
        // Without a selector and a pod behind it (the API server's service, say) it leads out of the
        // mesh, and is reached as such.
        let backed = ports.iter().any(|port| !port.endpoints.is_empty());
        if !facts.has_selector && !backed {
            continue;
        }
        services.push(Service {
            namespace: key.0.clone(),
            name: key.1.clone(),
            cluster_ips: facts.cluster_ips.clone(),
            headless: facts.headless,
            ports,
        });
    }
    services
}

fn service_port(
    key: &Key,
    port: &PortFacts,
    endpoints: &EndpointsFacts,
    pods: &PodsByAddress<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ServicePort> {
    let Some(protocol) = Protocol::select(port.app_protocol.as_deref(), Some(&port.name)) else {
        let provenance = Provenance::new("Service", &key.0, &key.1);
        let word = port.app_protocol.as_deref().unwrap_or_default();
        let message =
            format!("E5020: appProtocol {word:?} is not supported: the port is unreachable");
        problems.push(
            provenance
                .rule(format!("port {}", port.port))
                .problem(message),
        );
        return None;
    };
    let mut found = Vec::new();
    for subset in &endpoints.subsets {
        let target = subset.ports.iter().find(|(name, _)| *name == port.name);
        let Some((_, target)) = target else { continue };
        for address in &subset.addresses {
            // An address that is no pod of the mesh has no identity to ask for.
            let pod = pods.find(&key.0, address.pod.as_ref(), address.ip);
            let Some((name, pod)) = pod else { continue };
            found.push(Endpoint {
                address: SocketAddr::new(address.ip, *target),
                account: ServiceAccount::new(key.0.clone(), pod.account.clone()),
                pod: name,
                hostname: address.hostname.clone(),
                ready: address.ready,
            });
        }
    }
    Some(ServicePort {
        port: port.port,
        protocol,
        target_port: port.target_port,
        endpoints: found,
    })
}
