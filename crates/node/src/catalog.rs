//! Services and who serves them: what balancing and DNS read.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::mirror::{Key, Mirror};

/// What balancing needs, shared between tasks.
pub type SharedCatalog = Arc<Catalog>;

/// What balancing and DNS read.
#[derive(Default)]
pub struct Catalog {
    /// All Services.
    pub services: Mirror<Service>,
    /// Their Endpoints.
    pub endpoints: Mirror<Endpoints>,
    /// Their EndpointSlices: the only place where addresses of a second family are.
    pub slices: Mirror<EndpointSlice>,
}

/// A ready endpoint of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Address of the pod.
    pub ip: IpAddr,
    /// Target port.
    pub port: u16,
    /// Host name of the pod, for DNS.
    pub hostname: Option<String>,
}

// === impl Catalog ===

impl Catalog {
    /// Ready endpoints of one port of a Service, per family from EndpointSlices or else from Endpoints.
    pub fn backends(&self, key: &Key, port: &ServicePort) -> Vec<Backend> {
        let mut found = BTreeSet::new();
        let slices = self.slices.snapshot();
        let of_service = slices
            .range((key.0.clone(), String::new())..)
            .take_while(|((namespace, _), _)| *namespace == key.0);
        for (_, slice) in of_service.filter(|(_, s)| service_of(s) == Some(&key.1)) {
            let ports = slice
                .ports
                .iter()
                .flatten()
                .filter(|p| same_port(p.name.as_deref(), p.protocol.as_deref(), port));
            for number in ports.filter_map(|p| u16::try_from(p.port?).ok()) {
                for endpoint in &slice.endpoints {
                    if endpoint
                        .conditions
                        .as_ref()
                        .and_then(|c| c.ready)
                        .unwrap_or(true)
                    {
                        found.extend(endpoint.addresses.iter().filter_map(|a| {
                            Some(Backend {
                                ip: a.parse().ok()?,
                                port: number,
                                hostname: endpoint.hostname.clone(),
                            })
                        }));
                    }
                }
            }
        }
        let families: BTreeSet<bool> = found.iter().map(|b: &Backend| b.ip.is_ipv4()).collect();
        if let Some(endpoints) = self.endpoints.object(&key.0, &key.1) {
            for subset in endpoints.subsets.iter().flatten() {
                let ports = subset
                    .ports
                    .iter()
                    .flatten()
                    .filter(|p| same_port(p.name.as_deref(), p.protocol.as_deref(), port));
                for number in ports.filter_map(|p| u16::try_from(p.port).ok()) {
                    found.extend(subset.addresses.iter().flatten().filter_map(|a| {
                        let ip: IpAddr = a.ip.parse().ok()?;
                        (!families.contains(&ip.is_ipv4())).then(|| Backend {
                            ip,
                            port: number,
                            hostname: a.hostname.clone(),
                        })
                    }));
                }
            }
        }
        found.into_iter().collect()
    }

    /// Ready endpoints of a Service whatever the port; a headless Service may have no ports at all.
    pub fn hosts(&self, key: &Key, service: &Service) -> Vec<Backend> {
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let mut found: BTreeSet<Backend> = ports
            .flat_map(|p| self.backends(key, p))
            .map(|b| Backend { port: 0, ..b })
            .collect();
        if found.is_empty()
            && let Some(endpoints) = self.endpoints.object(&key.0, &key.1)
        {
            let addresses = endpoints
                .subsets
                .iter()
                .flatten()
                .flat_map(|s| s.addresses.iter().flatten());
            found.extend(addresses.filter_map(|a| {
                Some(Backend {
                    ip: a.ip.parse().ok()?,
                    port: 0,
                    hostname: a.hostname.clone(),
                })
            }));
        }
        found.into_iter().collect()
    }
}

fn service_of(slice: &EndpointSlice) -> Option<&String> {
    slice
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")
}

fn same_port(name: Option<&str>, protocol: Option<&str>, port: &ServicePort) -> bool {
    name.unwrap_or_default() == port.name.as_deref().unwrap_or_default()
        && protocol.unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
}

/// The cluster addresses of a Service; none if it is headless.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let many = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|a| a.parse().ok())
        .collect::<Vec<_>>();
    if many.is_empty() {
        spec.cluster_ip
            .iter()
            .filter_map(|a| a.parse().ok())
            .collect()
    } else {
        many
    }
}

/// The port number of a `targetPort` or probe port that may be a name; `named` looks names up.
pub fn port_number(port: &IntOrString, named: impl Fn(&str) -> Option<u16>) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => name.parse().ok().or_else(|| named(name)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_add_the_second_family_and_unready_ones_are_left_out() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "10.96.1.1", "ports": [{"port": 80}]}
        }))
        .unwrap();
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "subsets": [{"addresses": [{"ip": "10.244.0.5"}, {"ip": "10.244.0.6"}], "ports": [{"port": 8080}]}]
        }))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": "web-6", "labels": {"kubernetes.io/service-name": "web"}
            },
            "addressType": "IPv6",
            "endpoints": [
                {"addresses": ["fd44::5"]}, {"addresses": ["fd44::6"], "conditions": {"ready": false}}
            ],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]
        }))
        .unwrap();
        let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].clone();
        let key = ("default".to_owned(), "web".to_owned());
        let catalog = Catalog {
            services: Mirror::fixed([service]),
            endpoints: Mirror::fixed([endpoints]),
            slices: Mirror::fixed([slice]),
        };
        let ips: Vec<_> = catalog
            .backends(&key, &port)
            .into_iter()
            .map(|b| b.ip.to_string())
            .collect();
        assert_eq!(ips, ["10.244.0.5", "10.244.0.6", "fd44::5"]);
    }
}
