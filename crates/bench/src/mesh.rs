//! The resources of the two sidecars, as the control plane compiles them, moved to loopback.
//!
//! Nothing redirects connections here: the listeners lose the original destination and listen where the chains'
//! ports and addresses say, so that everything else stays what a pod's sidecar is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{
    Address, DataSource, SocketAddress, address, data_source, socket_address,
};
use envoy_types::pb::envoy::config::listener::v3::{AdditionalAddress, Listener};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret, TlsCertificate, secret,
};
use envoy_types::pb::google::protobuf::Any;
use model::{
    Authorization, Endpoint, HttpGrant, HttpMatch, Mesh, MeshParts, MeshSettings, PortSet,
    Protocol, Provenance, Service, ServiceAccount, ServicePort, Workload,
};
use prost::{Message, Name};
use xds::resources::{LISTENER, Resource, SECRET, Snapshot, TrustBundle, snapshot};

use crate::backend::Ports;
use crate::certificates::Certificates;

/// The name requests ask for.
pub const HOST: &str = "web.shop";
/// The trust domain of all identities.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The namespace of everything.
pub const NAMESPACE: &str = "shop";
/// The clients' ServiceAccount, and its pod's id.
pub const CLIENT: &str = "client";
/// The servers' ServiceAccount, and its pod's id.
pub const SERVER: &str = "web";

/// Addresses of one pair.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where the outbound proxy listens: the services' address.
    pub outbound: Ipv4Addr,
    /// Where the inbound proxy listens: the pod's address.
    pub inbound: Ipv4Addr,
    /// Port numbers: of the services, of the pod, and of the backend on 127.0.0.1.
    pub ports: Ports,
}

/// What the client's sidecar and the server's sidecar are told.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The client's.
    pub outbound: Snapshot,
    /// The server's.
    pub inbound: Snapshot,
}

// === impl Place ===

impl Place {
    /// The pair's number sets its addresses; the ports are everybody's.
    pub fn new(number: u8, ports: Ports) -> Place {
        Place {
            outbound: Ipv4Addr::new(127, 0, 1, number),
            inbound: Ipv4Addr::new(127, 0, 2, number),
            ports,
        }
    }

    /// All ports.
    pub fn all_ports(&self) -> [u16; 4] {
        [
            self.ports.http1,
            self.ports.http2,
            self.ports.echo,
            self.ports.bulk,
        ]
    }
}

/// The resources of a pair, with so many services that nobody calls.
pub fn pair(
    place: &Place,
    certificates: &Certificates,
    idle_services: usize,
) -> anyhow::Result<Pair> {
    let mesh = Mesh::new(parts(place, idle_services));
    let trust = TrustBundle {
        pem: certificates.root.clone(),
    };
    let compiled =
        |account: &str, listener: &str, address: Ipv4Addr, leaf| -> anyhow::Result<Snapshot> {
            let workload = mesh
                .workload(account)
                .ok_or_else(|| anyhow::anyhow!("no workload {account}"))?;
            let config = mesh.compile(workload);
            let mut snapshot = snapshot(&config, &trust);
            relocate(&mut snapshot, listener, address, place)?;
            add_certificate(&mut snapshot, &config.own_certificate(), leaf);
            Ok(snapshot)
        };
    Ok(Pair {
        outbound: compiled(
            CLIENT,
            "outbound-listener",
            place.outbound,
            &certificates.client,
        )?,
        inbound: compiled(
            SERVER,
            "inbound-listener",
            place.inbound,
            &certificates.server,
        )?,
    })
}

fn parts(place: &Place, idle_services: usize) -> MeshParts {
    let Ports {
        http1,
        http2,
        echo,
        bulk,
    } = place.ports;
    let ports = [
        (http1, Protocol::Http),
        (http2, Protocol::Grpc),
        (echo, Protocol::Tcp),
        (bulk, Protocol::Tcp),
    ];
    let mut services = vec![service(
        SERVER,
        SERVER,
        place.outbound,
        place.inbound,
        &ports,
    )];
    for number in 0..idle_services {
        let bytes = u32::try_from(number).unwrap_or(0).to_be_bytes();
        let address = Ipv4Addr::new(10, bytes[1], bytes[2], bytes[3]);
        services.push(service(
            &format!("idle-{number:05}"),
            "elsewhere",
            address,
            address,
            &[(8080, Protocol::Http)],
        ));
    }
    let everything = HttpMatch::default();
    let target = Provenance::new("TrafficTarget", NAMESPACE, "web");
    let grant = |name: &str, matches: HttpMatch| HttpGrant {
        matches,
        provenance: target.rule(format!("HTTPRouteGroup/web/{name}")),
    };
    let books = HttpMatch {
        path: Some("/books.*".into()),
        ..HttpMatch::default()
    };
    let requests = Authorization {
        provenance: target.clone(),
        destination: account(SERVER),
        sources: [account(CLIENT)].into(),
        tcp: None,
        http: vec![grant("books", books), grant("all", everything)],
    };
    let connections = Authorization {
        provenance: Provenance::new("TrafficTarget", NAMESPACE, "web-tcp"),
        tcp: Some(PortSet::Only([echo, bulk].into())),
        http: Vec::new(),
        ..requests.clone()
    };
    MeshParts {
        settings: MeshSettings {
            trust_domain: TRUST_DOMAIN.into(),
            ..MeshSettings::default()
        },
        services,
        workloads: vec![
            workload(CLIENT, place.outbound),
            workload(SERVER, place.inbound),
        ],
        authorizations: vec![requests, connections],
        ..MeshParts::default()
    }
}

fn service(
    name: &str,
    pod_name: &str,
    cluster_ip: Ipv4Addr,
    pod: Ipv4Addr,
    ports: &[(u16, Protocol)],
) -> Service {
    let endpoint = |port| Endpoint {
        address: SocketAddr::new(IpAddr::V4(pod), port),
        account: account(SERVER),
        pod: pod_name.into(),
        hostname: None,
        ready: true,
    };
    Service {
        namespace: NAMESPACE.into(),
        name: name.into(),
        cluster_ips: vec![IpAddr::V4(cluster_ip)],
        headless: false,
        ports: ports
            .iter()
            .map(|&(port, protocol)| ServicePort {
                port,
                protocol,
                target_port: port,
                endpoints: vec![endpoint(port)],
            })
            .collect(),
    }
}

fn workload(name: &str, ip: Ipv4Addr) -> Workload {
    Workload {
        proxy_uuid: name.into(),
        namespace: NAMESPACE.into(),
        name: name.into(),
        uid: name.into(),
        account: account(name),
        ips: vec![IpAddr::V4(ip)],
        scraped: false,
        told_to_log: false,
    }
}

fn account(name: &str) -> ServiceAccount {
    ServiceAccount::new(NAMESPACE, name)
}

/// Makes the listener listen where its chains' ports are, and leaves the other direction's out.
fn relocate(
    snapshot: &mut Snapshot,
    name: &str,
    address: Ipv4Addr,
    place: &Place,
) -> anyhow::Result<()> {
    let listeners = snapshot.resources.entry(LISTENER).or_default();
    listeners.retain(|listener, _| listener == name);
    let ports = place.all_ports();
    for resource in listeners.values_mut() {
        let mut listener = Listener::decode(resource.any.value.as_slice())?;
        listener
            .listener_filters
            .retain(|filter| filter.name != "envoy.filters.listener.original_dst");
        let mut at = ports.iter().map(|port| Some(socket(address, *port)));
        listener.address = at.next().flatten();
        listener.additional_addresses = at
            .map(|address| AdditionalAddress {
                address,
                ..AdditionalAddress::default()
            })
            .collect();
        *resource = Resource::new(any(&listener));
    }
    Ok(())
}

fn add_certificate(snapshot: &mut Snapshot, name: &str, leaf: &crate::certificates::Leaf) {
    let inline = |text: &str| {
        let specifier = Some(data_source::Specifier::InlineString(text.to_owned()));
        Some(DataSource {
            specifier,
            ..DataSource::default()
        })
    };
    let certificate = TlsCertificate {
        certificate_chain: inline(&leaf.chain),
        private_key: inline(&leaf.key),
        ..TlsCertificate::default()
    };
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(certificate)),
    };
    let secrets = snapshot.resources.entry(SECRET).or_default();
    secrets.insert(name.to_owned(), Resource::new(any(&secret)));
}

fn socket(address: Ipv4Addr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds::resources::ENDPOINTS;

    #[test]
    fn listeners_listen_where_their_chains_are_and_nothing_wants_the_original_destination() {
        let ports = Ports {
            http1: 1,
            http2: 2,
            echo: 3,
            bulk: 4,
        };
        let place = Place::new(7, ports);
        let pair = pair(&place, &Certificates::issue().unwrap(), 3).unwrap();
        for (snapshot, address) in [(&pair.outbound, "127.0.1.7"), (&pair.inbound, "127.0.2.7")] {
            let listeners = &snapshot.resources[LISTENER];
            assert_eq!(listeners.len(), 1);
            let listener =
                Listener::decode(listeners.values().next().unwrap().any.value.as_slice()).unwrap();
            let first = listener.address.unwrap();
            assert_eq!(first, socket(address.parse().unwrap(), 1));
            assert_eq!(listener.additional_addresses.len(), 3);
            assert!(
                listener
                    .listener_filters
                    .iter()
                    .all(|filter| !filter.name.contains("original"))
            );
            assert!(
                listener.filter_chains.len() >= 4,
                "{}",
                listener.filter_chains.len()
            );
        }
        assert_eq!(pair.outbound.resources[ENDPOINTS].len(), 4 + 3);
    }
}
