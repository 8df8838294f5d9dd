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
        Cluster, ClusterKind, Common, Connect, Forward, Outbound, OutboundChain, OutboundMatch,
        PeerTrust, Route, RouteAction, RouteMatch, RouteTable, UpstreamHttp, VirtualHost,
        WeightedCluster,
    },
    identity::ServiceAccount,
    limits::{ConnectionLimits, RetryPolicy},
    mesh::{Key, Mesh, MeshSettings, ServiceEntry},
    service::{Endpoint, Protocol, Service, ServicePort, fqdn, host_names},
};

/// Name of the cluster that leads wherever the application dialled.
const PASSTHROUGH: &str = "passthrough-outbound";

pub(super) fn compile(
    mesh: &Mesh,
    account: &ServiceAccount,
    tables: &mut Tables,
) -> (Option<Arc<Outbound>>, Option<Arc<Common>>) {
    let settings = &mesh.settings;
    let retries = mesh.retries_of.get(account);
    if settings.permissive {
        let everything = mesh.everything();
        if retries.is_some() {
            tables.routes_of(&everything.parts, account, retries);
        } else {
            for table in everything.tables(&account.namespace) {
                tables.routes.insert(table.name.clone(), table);
            }
        }
        let egress = !settings.egress_passthrough && mesh.egress_for.contains_key(account);
        let outbound = if egress {
            let mut outbound = (*everything.outbound).clone();
            egress::compile(
                mesh,
                account,
                &everything.parts.taken,
                &mut outbound,
                tables,
            );
            Arc::new(outbound)
        } else {
            tables.passthrough(&everything.outbound);
            everything.outbound.clone()
        };
        return (used(outbound), Some(everything.common.clone()));
    }
    let mut parts = OutboundParts::new(mesh, &Reach::of(mesh, account));
    tables.routes_of(&parts, account, retries);
    let common = std::mem::take(&mut parts.common);
    tables.clusters.extend(common.clusters);
    tables.trust.extend(common.trust);
    let mut outbound = parts.outbound(settings);
    tables.passthrough(&outbound);
    if !outbound.passthrough {
        egress::compile(mesh, account, &parts.taken, &mut outbound, tables);
    }
    (used(Arc::new(outbound)), None)
}

/// Nothing to dial: the port is not even open.
fn used(outbound: Arc<Outbound>) -> Option<Arc<Outbound>> {
    let idle = outbound.chains.is_empty() && !outbound.passthrough;
    (!idle).then_some(outbound)
}

impl Tables {
    fn routes_of(
        &mut self,
        parts: &OutboundParts,
        account: &ServiceAccount,
        retries: Option<&Retries>,
    ) {
        for (port, hosts) in &parts.hosts {
            self.route(route_table(*port, hosts, &account.namespace, retries));
        }
    }

    fn passthrough(&mut self, outbound: &Outbound) {
        if outbound.passthrough {
            self.cluster(Arc::new(Cluster {
                limits: ConnectionLimits::default(),
                name: PASSTHROUGH.into(),
                kind: ClusterKind::OriginalDestination,
                http: UpstreamHttp::Opaque,
            }));
        }
    }
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
    pub(super) chains: Vec<Arc<OutboundChain>>,
    pub(super) hosts: BTreeMap<u16, Vec<Host>>,
    pub(super) common: Common,
    server_first: BTreeSet<u16>,
    /// Destinations that chains match already: the same match twice is an error to Envoy.
    taken: HashSet<(u16, IpNet)>,
}

/// A virtual host in two forms: for clients of its namespace, which may use the bare name, and others.
#[derive(Debug)]
pub(super) struct Host {
    service: Key,
    /// Of a single pod below a headless service.
    pod: bool,
    pub(super) near: Arc<VirtualHost>,
    pub(super) far: Arc<VirtualHost>,
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

    /// The listener, without egress.
    pub(super) fn outbound(&self, settings: &MeshSettings) -> Outbound {
        Outbound {
            chains: self.chains.clone(),
            passthrough: settings.egress_passthrough,
            server_first: self.server_first.clone(),
        }
    }

    /// The tables for clients of this namespace.
    pub(super) fn tables(&self, namespace: &str, explained: bool) -> Vec<Arc<RouteTable>> {
        let tables = self.hosts.iter();
        let tables = tables.map(|(port, hosts)| {
            let mut table = route_table(*port, hosts, namespace, None);
            table.explained &= explained;
            Arc::new(table)
        });
        tables.collect()
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
            self.common
                .clusters
                .insert(cluster.clone(), Arc::new(built));
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
            self.common.trust.insert(trust, Arc::new(value));
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
        self.common
            .clusters
            .insert(cluster.clone(), Arc::new(built));
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
