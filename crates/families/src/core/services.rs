//! Services with the pods behind them.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};
use model::{Endpoint, Problem, Protocol, Provenance, Service, ServiceAccount, ServicePort};

use super::{
    endpoints::EndpointsFacts,
    pods::{PodFacts, PodLookup},
};
use crate::index::{Index, Key};

/// What is read of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub external: bool,
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
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
    pub target: Target,
}

/// Where a port leads on pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Number(u16),
    /// The port that each pod calls so.
    Name(Arc<str>),
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
            selector: spec
                .selector
                .iter()
                .flatten()
                .map(|(label, value)| (label.as_str().into(), value.as_str().into()))
                .collect(),
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
        let target = match &port.target_port {
            Some(IntOrString::Int(target)) => {
                let target = u16::try_from(*target).ok().filter(|port| *port > 0);
                Target::Number(target.unwrap_or(number))
            }
            Some(IntOrString::String(name)) => Target::Name(name.as_str().into()),
            None => Target::Number(number),
        };
        Some(Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
            port: number,
            target,
        })
    }
}

/// Services of monitored namespaces that the mesh carries.
pub(crate) fn services(index: &Index, problems: &mut Vec<Problem>) -> Vec<Service> {
    let pods = PodLookup::new(index);
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
            .filter_map(|port| service_port(key, port, endpoints, &facts.selector, &pods, problems))
            .collect();
        // Without a selector and a pod behind it (the API server's service, say) it leads out of the
        // mesh, and is reached as such.
        let backed = ports.iter().any(|port| !port.endpoints.is_empty());
        if facts.selector.is_empty() && !backed {
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
    selector: &BTreeMap<Arc<str>, Arc<str>>,
    pods: &PodLookup<'_>,
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
            let Some((name, pod)) = pod else {
                problems.extend(stranger(key, address.ip, pods));
                continue;
            };
            found.push(Endpoint {
                address: SocketAddr::new(address.ip, *target),
                account: ServiceAccount::new(key.0.clone(), pod.account.clone()),
                pod: name,
                hostname: address.hostname.clone(),
                ready: address.ready,
            });
        }
    }
    // Pods that come or go are not among the endpoints, but serve who still knows them.
    let known: HashSet<Arc<str>> = found.iter().map(|found| found.pod.clone()).collect();
    for (name, pod) in pods.select(&key.0, selector) {
        let address = pod.ips.first().filter(|_| !known.contains(name));
        let Some((ip, target)) = address.zip(port.target.on(pod)) else {
            continue;
        };
        found.push(Endpoint {
            address: SocketAddr::new(*ip, target),
            account: ServiceAccount::new(key.0.clone(), pod.account.clone()),
            pod: name.clone(),
            hostname: pod.hostname_below(&key.1),
            ready: false,
        });
    }
    Some(ServicePort {
        port: port.port,
        protocol,
        target_port: match port.target {
            Target::Number(number) => number,
            Target::Name(_) => port.port,
        },
        endpoints: found,
    })
}

/// Says why a pod of another namespace is not behind a Service: whoever writes Endpoints here must not open ports there.
fn stranger(key: &Key, ip: IpAddr, pods: &PodLookup<'_>) -> Option<Problem> {
    let (namespace, name) = pods.owner(ip).filter(|owner| owner.0 != key.0)?;
    let message = format!(
        "address {ip} is pod {namespace}/{name}, of another namespace: it is not reached by this Service"
    );
    Some(Provenance::new("Service", &key.0, &key.1).problem(message))
}

impl Target {
    fn on(&self, pod: &PodFacts) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => {
                let named = pod.ports.iter().find(|(known, _)| known == name);
                named.map(|(_, number)| *number)
            }
        }
    }
}
