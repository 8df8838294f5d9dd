//! What the application may dial: services of the mesh, and egress.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Tables,
    choice::{Choice, Target, Targets, route},
    egress,
    reach::Reach,
};
use crate::{
    config::{
        Cluster, ClusterKind, Connect, Forward, Outbound, OutboundChain, OutboundMatch, PeerTrust,
        Route, RouteAction, RouteMatch, RouteTable, UpstreamHttp, VirtualHost, WeightedCluster,
    },
    identity::ServiceAccount,
    limits::{ConnectionLimits, RetryPolicy},
    mesh::{Key, Mesh, ServiceEntry},
    service::{Endpoint, Protocol, Service, ServicePort, Workload, fqdn, host_names},
};

/// Name of the cluster that leads wherever the application dialled.
const PASSTHROUGH: &str = "passthrough-outbound";

pub(super) fn compile(mesh: &Mesh, workload: &Workload, tables: &mut Tables) -> Option<Outbound> {
    let granted;
    let parts = if mesh.settings.permissive {
        mesh.everything
            .get_or_init(|| OutboundParts::new(mesh, &Reach::Everything))
    } else {
        let reach = Reach::of(mesh, &workload.account);
        granted = OutboundParts::new(mesh, &reach);
        &granted
    };
    let mut outbound = Outbound {
        chains: parts.chains.clone(),
        passthrough: mesh.settings.egress_passthrough,
        server_first: parts.server_first.clone(),
    };
    for (port, hosts) in &parts.hosts {
        let retries = mesh.retries_of.get(&workload.account);
        tables.route(route_table(*port, hosts, &workload.namespace, retries));
    }
    tables.clusters.extend(parts.clusters.clone());
    tables.trust.extend(parts.trust.clone());
    if outbound.passthrough {
        tables.cluster(Arc::new(Cluster {
            limits: ConnectionLimits::default(),
            name: PASSTHROUGH.into(),
            kind: ClusterKind::OriginalDestination,
            http: UpstreamHttp::Opaque,
        }));
    } else {
        egress::compile(mesh, workload, &parts.taken, &mut outbound, tables);
    }
    let idle = outbound.chains.is_empty() && !outbound.passthrough;
    (!idle).then_some(outbound)
}

/// What a client's requests to services are tried again by.
type Retries = HashMap<Key, Arc<RetryPolicy>>;

fn route_table(
    port: u16,
    hosts: &[Host],
    namespace: &str,
    retries: Option<&Retries>,
) -> RouteTable {
    let near = |host: &Host| {
        let near = *host.service.0 == *namespace;
        let chosen = if near { &host.near } else { &host.far };
        match retries.and_then(|retries| retries.get(&host.service)) {
            None => chosen.clone(),
            Some(policy) => Arc::new(VirtualHost {
                retry: Some(policy.clone()),
                ..(**chosen).clone()
            }),
        }
    };
    let (pods, services): (Vec<&Host>, Vec<&Host>) = hosts.iter().partition(|host| host.pod);
    let mut hosts: Vec<Arc<VirtualHost>> = services.into_iter().map(near).collect();
    if !pods.is_empty() {
        add_pods(&mut hosts, pods.into_iter().map(near));
    }
    RouteTable {
        name: table_name(port),
        hosts,
        inbound: false,
        explained: true,
    }
}

/// Adds hosts of single pods. Their names may collide with services' (`a.b` is pod `a` of service `b`
/// here, and service `a` of namespace `b` everywhere); one domain twice would void the whole table.
fn add_pods(hosts: &mut Vec<Arc<VirtualHost>>, pods: impl Iterator<Item = Arc<VirtualHost>>) {
    let services: Vec<Arc<VirtualHost>> = hosts.clone();
    let mut taken: HashSet<&str> = HashSet::new();
    taken.extend(
        services
            .iter()
            .flat_map(|host| &host.domains)
            .map(String::as_str),
    );
    for pod in pods {
        let free = pod
            .domains
            .iter()
            .filter(|domain| !taken.contains(domain.as_str()));
        let domains: Vec<String> = free.cloned().collect();
        if domains.len() == pod.domains.len() {
            hosts.push(pod);
        } else if !domains.is_empty() {
            hosts.push(Arc::new(VirtualHost {
                domains,
                ..(*pod).clone()
            }));
        }
    }
}

fn table_name(port: u16) -> Arc<str> {
    format!("rds-outbound.{port}").into()
}

/// Outbound configuration towards services, without what depends on the client's own namespace.
#[derive(Debug, Default)]
pub(crate) struct OutboundParts {
    chains: Vec<Arc<OutboundChain>>,
    hosts: BTreeMap<u16, Vec<Host>>,
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    trust: BTreeMap<Arc<str>, Arc<PeerTrust>>,
    server_first: BTreeSet<u16>,
    /// Destinations that chains match already: the same match twice is an error to Envoy.
    taken: HashSet<(u16, IpNet)>,
}

/// A virtual host in two forms: for clients of its namespace, which may use the bare name, and others.
#[derive(Debug)]
struct Host {
    service: Key,
    /// Of a single pod below a headless service.
    pod: bool,
    near: Arc<VirtualHost>,
    far: Arc<VirtualHost>,
}

impl OutboundParts {
    pub(super) fn new(mesh: &Mesh, reach: &Reach<'_>) -> Self {
        let mut parts = Self::default();
        let candidates = reach.candidates(mesh);
        let mut targets = Targets::new();
        for &index in &candidates {
            if let Some(entry) = mesh.services.get(index) {
                parts.add_targets(mesh, index, entry, reach, &mut targets);
            }
        }
        for &index in &candidates {
            let Some(entry) = mesh.services.get(index) else {
                continue;
            };
            for port in &entry.service.ports {
                let target = targets.get(&(index, port.port));
                let splits = mesh.splits_of.get(&entry.key());
                let splits = splits.map(Vec::as_slice).unwrap_or_default();
                let choice = Choice::new(mesh, &targets, target, splits, entry, port);
                if target.is_some() || choice.splits {
                    parts.add_port(&entry.service, port, target, &choice);
                }
            }
        }
        parts
    }

    fn add_targets<'m>(
        &mut self,
        mesh: &Mesh,
        index: usize,
        entry: &'m ServiceEntry,
        reach: &Reach<'_>,
        targets: &mut Targets<'m>,
    ) {
        let service = &entry.service;
        let trust: Arc<str> = format!("root-cert-for-mtls-outbound:{}", service.key()).into();
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut any = false;
        let setting = mesh.settings_of.get(&entry.key());
        let limits = setting.map(|setting| setting.connections.clone());
        let limits = limits.unwrap_or_default();
        for (port, cluster) in service.ports.iter().zip(&entry.clusters) {
            let admitted = port.endpoints.iter();
            let admitted = admitted.filter(|e| reach.admits(e, port.protocol));
            let endpoints: Vec<&Endpoint> = admitted.collect();
            if endpoints.is_empty() && matches!(reach, Reach::Granted(_)) {
                continue;
            }
            any = true;
            let accounts: BTreeSet<&ServiceAccount> =
                endpoints.iter().map(|e| &e.account).collect();
            let domain = &mesh.settings.trust_domain;
            names.extend(
                accounts
                    .into_iter()
                    .map(|account| account.spiffe(domain).into()),
            );
            let mut built =
                mesh_cluster(cluster, service.fqdn(), &trust, port.protocol, &endpoints);
            built.limits = limits.clone();
            self.clusters.insert(cluster.clone(), Arc::new(built));
            let target = Target {
                cluster: cluster.clone(),
                endpoints,
                limits: limits.clone(),
            };
            targets.insert((index, port.port), target);
        }
        if any {
            let names = names.into_iter().collect();
            let value = PeerTrust {
                name: trust.clone(),
                names,
            };
            self.trust.insert(trust, Arc::new(value));
        }
    }

    fn add_port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        target: Option<&Target<'_>>,
        choice: &Choice,
    ) {
        if port.protocol == Protocol::TcpServerFirst {
            self.server_first.insert(port.port);
        }
        let endpoints = target
            .map(|target| target.endpoints.as_slice())
            .unwrap_or_default();
        let limits = target.map(|target| target.limits.clone());
        let limits = &limits.unwrap_or_default();
        if port.protocol.is_http() {
            let addresses = addresses(service, endpoints);
            let forward = Forward::Http(table_name(port.port));
            self.add_host(service, &service.name, port.port, &choice.routes);
            self.add_chain(service, &service.name, port, addresses, forward, choice);
            for (hostname, endpoints) in by_hostname(service, endpoints) {
                let name = format!("{hostname}.{}", service.name);
                let cluster = self.add_pod_cluster(service, &name, port, &endpoints, limits);
                let action = RouteAction::Forward(WeightedCluster::all(cluster));
                let routes = vec![route(RouteMatch::Any, action, &choice.provenance)];
                self.add_host(service, &name, port.port, &routes);
            }
            return;
        }
        // Opaque connections to a pod of a headless service must reach that very pod.
        for (hostname, endpoints) in by_hostname(service, endpoints) {
            let name = format!("{hostname}.{}", service.name);
            let cluster = self.add_pod_cluster(service, &name, port, &endpoints, limits);
            let forward = Forward::Tcp(WeightedCluster::all(cluster));
            let addresses = addresses(service, &endpoints);
            self.add_chain(service, &name, port, addresses, forward, choice);
        }
        if !choice.connections.is_empty() {
            let forward = Forward::Tcp(choice.connections.clone());
            let addresses = addresses(service, endpoints);
            self.add_chain(service, &service.name, port, addresses, forward, choice);
        }
    }

    fn add_pod_cluster(
        &mut self,
        service: &Service,
        name: &str,
        port: &ServicePort,
        endpoints: &[&Endpoint],
        limits: &ConnectionLimits,
    ) -> Arc<str> {
        let target_ports = endpoints.iter().map(|e| e.address.port());
        let target_port = target_ports.min().unwrap_or(port.target_port);
        let cluster: Arc<str> = format!("{}/{name}|{target_port}", service.namespace).into();
        let trust: Arc<str> = format!("root-cert-for-mtls-outbound:{}", service.key()).into();
        let server_name = fqdn(name, &service.namespace);
        let mut built = mesh_cluster(&cluster, server_name, &trust, port.protocol, endpoints);
        built.limits = limits.clone();
        self.clusters.insert(cluster.clone(), Arc::new(built));
        cluster
    }

    fn add_host(&mut self, service: &Service, name: &str, port: u16, routes: &[Route]) {
        let host = |short| {
            Arc::new(VirtualHost {
                name: format!("outbound_virtual-host|{}", fqdn(name, &service.namespace)).into(),
                domains: host_names(name, &service.namespace, port, short),
                routes: routes.to_vec(),
                retry: None,
                rate: None,
                counted: Vec::new(),
            })
        };
        self.hosts.entry(port).or_default().push(Host {
            service: (service.namespace.clone(), service.name.clone()),
            pod: *name != *service.name,
            near: host(true),
            far: host(false),
        });
    }

    /// Adds a chain for those of the addresses that no chain has taken.
    fn add_chain(
        &mut self,
        service: &Service,
        name: &str,
        port: &ServicePort,
        mut addresses: Vec<IpNet>,
        forward: Forward,
        choice: &Choice,
    ) {
        addresses.retain(|address| self.taken.insert((port.port, *address)));
        if addresses.is_empty() {
            return;
        }
        let (namespace, protocol) = (&service.namespace, port.protocol.as_str());
        self.chains.push(Arc::new(OutboundChain {
            name: format!("outbound_{namespace}/{name}_{}_{protocol}", port.port).into(),
            matches: OutboundMatch {
                port: port.port,
                addresses,
                connect: Connect::Any,
            },
            forward,
            provenance: choice.provenance.clone(),
        }));
    }
}

fn mesh_cluster(
    name: &Arc<str>,
    server_name: String,
    trust: &Arc<str>,
    protocol: Protocol,
    endpoints: &[&Endpoint],
) -> Cluster {
    let ready = endpoints.iter().filter(|endpoint| endpoint.ready);
    let addresses: BTreeSet<_> = ready.map(|endpoint| endpoint.address).collect();
    Cluster {
        name: name.clone(),
        kind: ClusterKind::Mesh {
            server_name: server_name.into(),
            trust: trust.clone(),
            endpoints: addresses.into_iter().collect(),
        },
        http: match protocol {
            Protocol::Grpc => UpstreamHttp::Http2,
            // The application's version of HTTP is kept end to end: nobody knows what the server can.
            Protocol::Http => UpstreamHttp::AsDownstream,
            Protocol::Tcp | Protocol::TcpServerFirst => UpstreamHttp::Opaque,
        },
        limits: ConnectionLimits::default(),
    }
}

/// Addresses that clients dial: the ClusterIPs, or a headless service's endpoints.
fn addresses(service: &Service, endpoints: &[&Endpoint]) -> Vec<IpNet> {
    let addresses: BTreeSet<IpAddr> = if service.headless {
        endpoints
            .iter()
            .map(|endpoint| endpoint.address.ip())
            .collect()
    } else {
        service.cluster_ips.iter().copied().collect()
    };
    addresses.into_iter().map(IpNet::from).collect()
}

/// Endpoints of a headless service that have names of their own.
fn by_hostname<'m>(
    service: &Service,
    endpoints: &[&'m Endpoint],
) -> BTreeMap<&'m str, Vec<&'m Endpoint>> {
    let mut named: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    for &endpoint in endpoints.iter().filter(|_| service.headless) {
        if let Some(hostname) = &endpoint.hostname {
            named.entry(hostname).or_default().push(endpoint);
        }
    }
    named
}
