//! What others may send to the application: one chain per service port that the pod stands behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{Tables, choice::route, ingress};
use crate::{
    config::{
        Access, Cluster, ClusterKind, Forward, Inbound, InboundChain, Route, RouteAction,
        RouteMatch, RouteTable, UpstreamHttp, VirtualHost, WeightedCluster,
    },
    identity::ServiceAccount,
    limits::{ConnectionLimits, PathLimit, RequestLimit, UpstreamSetting},
    mesh::{Backing, Mesh},
    policy::HttpMatch,
    provenance::Provenance,
    quota::{Counted, Descriptor, QuotaService, RequestQuota},
    service::{Protocol, Service, Workload, fqdn, host_names},
};

/// Virtual hosts of one target port, by full name.
type Hosts = BTreeMap<String, Host>;

struct Host {
    domains: BTreeSet<String>,
    cluster: Arc<str>,
    provenance: Provenance,
    rate: Option<RequestLimit>,
    counted: Vec<Counted>,
    /// Limits of requests whose path matches.
    paths: Vec<LimitedPath>,
}

/// A path with limits of its own.
#[derive(Clone)]
struct LimitedPath {
    path: Arc<str>,
    rate: Option<RequestLimit>,
    counted: Vec<Counted>,
}

/// Quotas of one target port. Every chain of the port reaches every host of it, so each service's descriptors are told
/// apart by the index of its quota, which becomes the stage of a filter.
#[derive(Default)]
struct Quotas(Vec<RequestQuota>);

/// Stages that Envoy knows: 0 to 10. A port behind services with more different quotas keeps the first.
const STAGES: usize = 11;

pub(super) fn compile(mesh: &Mesh, workload: &Workload, tables: &mut Tables) -> Option<Inbound> {
    let pod = (workload.namespace.clone(), workload.name.clone());
    let backing = mesh.backing.get(&pod)?;
    let access = Granted::new(mesh, &workload.account);
    let mut chains: BTreeMap<(usize, u16), InboundChain> = BTreeMap::new();
    let mut hosts: BTreeMap<u16, Hosts> = BTreeMap::new();
    let mut quotas: BTreeMap<u16, Quotas> = BTreeMap::new();
    for backing in backing {
        let Some((service, protocol)) = port_of(mesh, backing) else {
            continue;
        };
        // Two ports of a service may end at the same target port: one chain, the first's protocol.
        let key = (backing.service, backing.target_port);
        let chain = chains.entry(key).or_insert_with(|| {
            chain(
                mesh,
                service,
                protocol,
                backing.target_port,
                &access,
                tables,
            )
        });
        add_server_name(chain, service, backing);
        if matches!(chain.forward, Forward::Http(_)) {
            let hosts = hosts.entry(backing.target_port).or_default();
            let quotas = quotas.entry(backing.target_port).or_default();
            add_hosts(mesh, backing, &access, hosts, quotas);
        }
    }
    for (port, hosts) in hosts {
        // Every chain of the port reaches every host of the table.
        let is_limited = hosts.values().any(Host::is_limited);
        let quotas = quotas.remove(&port).unwrap_or_default().0;
        for quota in &quotas {
            tables.cluster(Arc::new(quota_cluster(&quota.service)));
        }
        for (_, chain) in chains.iter_mut().filter(|((_, number), _)| *number == port) {
            chain.limits_requests = is_limited;
            chain.request_quotas.clone_from(&quotas);
        }
        tables.route(route_table(port, hosts));
    }
    Some(Inbound {
        trust: format!("root-cert-for-mtls-inbound:{}", workload.account).into(),
        ingress: ingress::compile(mesh, backing, tables),
        chains: chains.into_values().map(Arc::new).collect(),
    })
}

/// The service is reached in clear text, as upstream does.
fn quota_cluster(service: &QuotaService) -> Cluster {
    Cluster {
        name: service.cluster().into(),
        kind: ClusterKind::Dns {
            host: service.host.clone(),
            port: service.port,
        },
        http: UpstreamHttp::Http2,
        limits: ConnectionLimits::default(),
    }
}

fn port_of<'m>(mesh: &'m Mesh, backing: &Backing) -> Option<(&'m Service, Protocol)> {
    let service = &mesh.services.get(backing.service)?.service;
    let port = service.ports.get(backing.port)?;
    Some((service, port.protocol))
}

/// Who may use the chains of one identity.
struct Granted {
    tcp: Access,
    http: Access,
    requests: Access,
    permissive: bool,
}

impl Granted {
    fn new(mesh: &Mesh, account: &ServiceAccount) -> Self {
        let nobody = || Access::Only(Vec::new().into());
        let (tcp, http, requests) = if mesh.settings.permissive {
            (Access::Everyone, Access::Everyone, Access::Everyone)
        } else if let Some(grants) = mesh.granted_on.get(account) {
            let only = |rules: &Arc<[_]>| Access::Only(rules.clone());
            (
                only(&grants.tcp),
                only(&grants.http),
                only(&grants.requests),
            )
        } else {
            (nobody(), nobody(), nobody())
        };
        let requests = if mesh.settings.requests_blocked {
            nobody()
        } else {
            requests
        };
        Self {
            tcp,
            http,
            requests,
            permissive: mesh.settings.permissive,
        }
    }

    /// Whether requests are granted by a path of exactly this text.
    fn grants_path(&self, path: &str) -> bool {
        const ANY: &str = ".*";
        let Access::Only(rules) = &self.requests else {
            return self.permissive && path == ANY;
        };
        let grants = rules.iter().filter_map(|rule| rule.http.as_ref());
        let mut paths = grants.map(|http| http.path.as_deref().unwrap_or(ANY));
        paths.any(|granted| granted == path)
    }
}

fn chain(
    mesh: &Mesh,
    service: &Service,
    protocol: Protocol,
    port: u16,
    access: &Granted,
    tables: &mut Tables,
) -> InboundChain {
    let local = tables.cluster(Arc::new(local_cluster(service, protocol, port)));
    let (forward, connections) = if protocol.is_http() {
        (Forward::Http(table_name(port)), access.http.clone())
    } else {
        (
            Forward::Tcp(WeightedCluster::all(local)),
            access.tcp.clone(),
        )
    };
    let setting = mesh
        .settings_of
        .get(&(service.namespace.clone(), service.name.clone()));
    let setting = setting.filter(|_| !protocol.is_http());
    let connection_quota = setting.and_then(|setting| setting.connection_quota.clone());
    if let Some(quota) = &connection_quota {
        tables.cluster(Arc::new(quota_cluster(&quota.service)));
    }
    InboundChain {
        connection_rate: setting.and_then(|setting| setting.connection_rate.clone()),
        connection_quota,
        request_quotas: Vec::new(),
        limits_requests: false,
        name: format!("inbound_{}_{port}_{}", service.key(), protocol.as_str()).into(),
        port,
        server_names: vec![service.fqdn().into()],
        forward,
        connections,
        requests: access.requests.clone(),
        provenance: Provenance::new("Service", &service.namespace, &service.name),
    }
}

/// A pod below a headless service is also asked for by its own name.
fn add_server_name(chain: &mut InboundChain, service: &Service, backing: &Backing) {
    if let Some(hostname) = &backing.hostname {
        let name = fqdn(&format!("{hostname}.{}", service.name), &service.namespace);
        if !chain.server_names.iter().any(|known| **known == *name) {
            chain.server_names.push(name.into());
        }
    }
}

pub(super) fn local_name(service: &Service, port: u16) -> Arc<str> {
    format!("{}|{port}|local", service.key()).into()
}

/// Always loopback: in `PodIP` mode the pod's own interception rules turn it to the pod's address.
fn local_cluster(service: &Service, protocol: Protocol, port: u16) -> Cluster {
    Cluster {
        name: local_name(service, port),
        kind: ClusterKind::Local(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        http: match protocol {
            Protocol::Grpc => UpstreamHttp::Http2,
            Protocol::Http => UpstreamHttp::AsDownstream,
            Protocol::Tcp | Protocol::TcpServerFirst => UpstreamHttp::Opaque,
        },
        limits: ConnectionLimits::default(),
    }
}

fn table_name(port: u16) -> Arc<str> {
    format!("rds-inbound.{port}").into()
}

fn add_hosts(
    mesh: &Mesh,
    backing: &Backing,
    access: &Granted,
    hosts: &mut Hosts,
    quotas: &mut Quotas,
) {
    let Some(service) = mesh
        .services
        .get(backing.service)
        .map(|entry| &entry.service)
    else {
        return;
    };
    let Some(port) = service.ports.get(backing.port).map(|port| port.port) else {
        return;
    };
    let key = (service.namespace.clone(), service.name.clone());
    let setting = mesh.settings_of.get(&key);
    let quota = setting.and_then(|setting| quotas.index(setting.request_quota.as_ref()));
    let limits = setting.map(|setting| Limits::new(setting, quota, access));
    let limits = limits.unwrap_or_default();
    let mut add = |name: &str, provenance: Provenance| {
        let full_name = fqdn(name, &service.namespace);
        let host = hosts.entry(full_name).or_insert_with(|| Host {
            rate: limits.rate.clone(),
            counted: limits.counted.clone(),
            paths: limits.paths.clone(),
            domains: BTreeSet::new(),
            cluster: local_name(service, backing.target_port),
            provenance,
        });
        host.domains
            .extend(host_names(name, &service.namespace, port, true));
    };
    let provenance = Provenance::new("Service", &service.namespace, &service.name);
    add(&service.name, provenance.clone());
    if let Some(hostname) = &backing.hostname {
        add(&format!("{hostname}.{}", service.name), provenance);
    }
    // Requests that a split sends here still carry the apex's name.
    for split in mesh.splits_on.get(&key).into_iter().flatten() {
        add(&split.apex, split.provenance.clone());
    }
}

fn route_table(port: u16, hosts: Hosts) -> RouteTable {
    let hosts = hosts.into_iter().map(|(full_name, host)| {
        Arc::new(VirtualHost {
            name: format!("inbound_virtual-host|{full_name}").into(),
            domains: host.domains.into_iter().collect(),
            routes: routes(host.cluster, host.paths, &host.provenance),
            retry: None,
            rate: host.rate,
            counted: host.counted,
        })
    });
    RouteTable {
        name: table_name(port),
        hosts: hosts.collect(),
        inbound: true,
        explained: true,
    }
}

/// All requests go to the application; those with a limit of their own have a route of their own.
fn routes(cluster: Arc<str>, paths: Vec<LimitedPath>, provenance: &Provenance) -> Vec<Route> {
    let forward = || RouteAction::Forward(WeightedCluster::all(cluster.clone()));
    let limited = paths.into_iter().map(|limited| {
        let matches = HttpMatch {
            path: Some(limited.path),
            ..HttpMatch::default()
        };
        Route {
            rate: limited.rate,
            counted: limited.counted,
            ..route(RouteMatch::Http(matches), forward(), provenance)
        }
    });
    let rest = route(RouteMatch::Any, forward(), provenance);
    limited.chain([rest]).collect()
}

/// What one service's setting limits at this pod.
#[derive(Default)]
struct Limits {
    rate: Option<RequestLimit>,
    counted: Vec<Counted>,
    paths: Vec<LimitedPath>,
}

// === impl Host ===

impl Host {
    fn is_limited(&self) -> bool {
        self.rate.is_some() || self.paths.iter().any(|path| path.rate.is_some())
    }
}

// === impl Limits ===

impl Limits {
    fn new(setting: &UpstreamSetting, quota: Option<u32>, access: &Granted) -> Self {
        let counted = |descriptors: &[Descriptor]| -> Vec<Counted> {
            let Some(quota) = quota else {
                return Vec::new();
            };
            let descriptors = descriptors.iter().cloned();
            descriptors
                .map(|descriptor| Counted { quota, descriptor })
                .collect()
        };
        let path = |limit: &PathLimit| LimitedPath {
            path: limit.path.clone(),
            rate: limit.rate.clone(),
            counted: counted(&limit.counted),
        };
        let granted = setting.paths.iter();
        let granted = granted.filter(|limit| access.grants_path(&limit.path));
        Self {
            rate: setting.request_rate.clone(),
            counted: counted(&setting.counted),
            paths: granted.map(path).collect(),
        }
    }
}

// === impl Quotas ===

impl Quotas {
    /// The index of a quota, which is added if it is new.
    fn index(&mut self, quota: Option<&RequestQuota>) -> Option<u32> {
        let quota = quota?;
        let known = self.0.iter().position(|known| known == quota);
        if known.is_none() && self.0.len() < STAGES {
            self.0.push(quota.clone());
        }
        let index = known.or_else(|| self.0.iter().position(|known| known == quota));
        index.and_then(|index| u32::try_from(index).ok())
    }
}
