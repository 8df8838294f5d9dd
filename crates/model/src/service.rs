//! Services, their endpoints, and the workloads behind them.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use crate::identity::ServiceAccount;

/// DNS domain of cluster services. OSM hard-codes it, independently of the trust domain.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// What a service port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.x or HTTP/2.
    Http,
    /// gRPC: HTTP/2 to the application as well.
    Grpc,
    /// Opaque bytes; the client speaks first.
    Tcp,
    /// Opaque bytes; the server speaks first, so nothing may wait for the client's bytes.
    TcpServerFirst,
}

/// A Service of a monitored namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// ClusterIPs of all families; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether clients dial the endpoints themselves.
    pub headless: bool,
    /// TCP ports whose protocol the mesh supports.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service with the endpoints behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Number that clients dial.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Declared target port, for naming while there are no endpoints.
    pub target_port: u16,
    /// Pods behind the port.
    pub endpoints: Vec<Endpoint>,
}

/// One pod behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and target port; pods of one service may differ in the port (named target ports).
    pub address: SocketAddr,
    /// Identity the pod must prove.
    pub account: ServiceAccount,
    /// Name of the pod, in the service's namespace.
    pub pod: Arc<str>,
    /// Host name below a headless service (`<hostname>.<service>`).
    pub hostname: Option<Arc<str>>,
    /// Whether it takes traffic. An unready endpoint still gets its inbound configuration.
    pub ready: bool,
}

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Value of the pod's label `osm-proxy-uuid`.
    pub proxy_uuid: Arc<str>,
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// UID of the pod.
    pub uid: Arc<str>,
    /// Its identity.
    pub account: ServiceAccount,
    /// Its addresses, of all families.
    pub ips: Vec<IpAddr>,
    /// Whether the proxy serves its metrics to Prometheus (annotation `prometheus.io/scrape`).
    pub scraped: bool,
    /// Whether the proxy has to be told what to log: a stock Envoy writes nothing by itself.
    pub told_to_log: bool,
}

// === impl Protocol ===

impl Protocol {
    /// The protocol of a service port by OSM's rule: `appProtocol` wins, else the prefix of the port's
    /// name, else HTTP. `None`: an application protocol that the mesh does not carry.
    pub fn select(app_protocol: Option<&str>, port_name: Option<&str>) -> Option<Self> {
        if let Some(name) = app_protocol.filter(|name| !name.is_empty()) {
            return Self::parse(&name.to_ascii_lowercase());
        }
        let name = port_name.unwrap_or_default();
        // Longest first: "tcp-server-first-x" also starts with "tcp-".
        let prefixes = [
            ("tcp-server-first-", Self::TcpServerFirst),
            ("http-", Self::Http),
            ("tcp-", Self::Tcp),
            ("grpc-", Self::Grpc),
        ];
        let known = prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
        Some(known.map_or(Self::Http, |(_, protocol)| *protocol))
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "grpc" => Some(Self::Grpc),
            "tcp" => Some(Self::Tcp),
            "tcp-server-first" => Some(Self::TcpServerFirst),
            _ => None,
        }
    }

    /// The name used in resource names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::TcpServerFirst => "tcp-server-first",
        }
    }

    /// Whether requests are routed one by one.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }
}

// === impl Service ===

impl Service {
    /// `<namespace>/<name>`, the stem of resource names.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Full name of the service, also the SNI of connections to it.
    pub fn fqdn(&self) -> String {
        fqdn(&self.name, &self.namespace)
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// Full name of `service` (or `<hostname>.<service>`) in `namespace`.
pub(crate) fn fqdn(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Every host name by which `service` may be called on `port`; the bare name only when `short`.
pub(crate) fn host_names(service: &str, namespace: &str, port: u16, short: bool) -> Vec<String> {
    let mut names = Vec::with_capacity(10);
    if short {
        names.push(service.to_owned());
    }
    let mut name = format!("{service}.{namespace}");
    names.push(name.clone());
    for label in std::iter::once("svc").chain(CLUSTER_DOMAIN.split('.')) {
        name.push('.');
        name.push_str(label);
        names.push(name.clone());
    }
    let with_port: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
    names.extend(with_port);
    names
}

// === impl ServicePort ===

impl ServicePort {
    /// The target port that names this port's cluster: the lowest in use, else the declared one.
    pub fn naming_port(&self) -> u16 {
        let used = self.endpoints.iter().map(|e| e.address.port());
        used.min().unwrap_or(self.target_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_09_protocol_selection() {
        use Protocol::*;
        for (app, name, expected) in [
            (Some("http"), None, Some(Http)),
            (Some("gRPC"), None, Some(Grpc)),
            (Some("TCP"), Some("http-x"), Some(Tcp)),
            (Some("tcp-server-first"), None, Some(TcpServerFirst)),
            (Some("https"), Some("http-x"), None),
            (Some("kubernetes.io/h2c"), None, None),
            (Some(""), Some("grpc-x"), Some(Grpc)),
            (None, Some("http-x"), Some(Http)),
            (None, Some("tcp-x"), Some(Tcp)),
            (None, Some("tcp-server-first-x"), Some(TcpServerFirst)),
            (None, Some("grpc-x"), Some(Grpc)),
            (None, Some("tcp"), Some(Http)),
            (None, Some("https"), Some(Http)),
            (None, None, Some(Http)),
        ] {
            assert_eq!(Protocol::select(app, name), expected, "{app:?} {name:?}");
        }
    }

    #[test]
    fn spec_07_host_names_of_a_service() {
        let names = host_names("web", "shop", 80, true);
        let expected = [
            "web",
            "web.shop",
            "web.shop.svc",
            "web.shop.svc.cluster",
            "web.shop.svc.cluster.local",
        ];
        let with_port = expected.iter().map(|name| format!("{name}:80"));
        let all: Vec<String> = expected
            .iter()
            .map(|s| s.to_string())
            .chain(with_port)
            .collect();
        assert_eq!(names, all);
        assert!(!host_names("web", "shop", 80, false).contains(&"web".to_string()));
    }
}
