//! What may leave the mesh.
//!
//! Envoy chooses a filter chain step by step (port, then the longest matching prefix, then SNI, then
//! application protocol) and never goes back. Rules overlap, so a chain for a prefix must hold what *every*
//! rule that covers the prefix allows: otherwise a narrow rule would take away what a wide one grants.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{Tables, choice::route};
use crate::{
    config::{
        Cluster, ClusterKind, Connect, Forward, Outbound, OutboundChain, OutboundMatch, Route,
        RouteAction, RouteMatch, RouteTable, UpstreamHttp, VirtualHost, WeightedCluster,
    },
    identity::ServiceAccount,
    limits::ConnectionLimits,
    mesh::Mesh,
    policy::{EgressProtocol, EgressRule},
};

/// A rule on one of its ports.
type Opening<'m> = (EgressProtocol, &'m EgressRule);

pub(super) fn compile(
    mesh: &Mesh,
    account: &ServiceAccount,
    taken: &HashSet<(u16, IpNet)>,
    outbound: &mut Outbound,
    tables: &mut Tables,
) {
    let mut ports: BTreeMap<u16, Vec<Opening<'_>>> = BTreeMap::new();
    for rule in mesh.egress_for.get(account).into_iter().flatten() {
        for port in &rule.ports {
            ports
                .entry(port.number)
                .or_default()
                .push((port.protocol, rule));
        }
    }
    for (port, openings) in ports {
        if openings
            .iter()
            .any(|(protocol, _)| *protocol == EgressProtocol::TcpServerFirst)
        {
            outbound.server_first.insert(port);
        }
        for class in classes(port, &openings, taken) {
            class.compile(port, outbound, tables);
        }
    }
}

/// Destinations that the same rules cover.
struct Class<'m> {
    /// Empty = any destination.
    addresses: Vec<IpNet>,
    openings: Vec<Opening<'m>>,
}

fn classes<'m>(
    port: u16,
    openings: &[Opening<'m>],
    taken: &HashSet<(u16, IpNet)>,
) -> Vec<Class<'m>> {
    let prefixes: BTreeSet<IpNet> = openings
        .iter()
        .filter_map(|(_, rule)| rule.addresses.as_deref())
        .flatten()
        .map(IpNet::trunc)
        // Services of the mesh go first.
        .filter(|prefix| !taken.contains(&(port, *prefix)))
        .collect();
    let mut by_cover: BTreeMap<Vec<usize>, Vec<IpNet>> = BTreeMap::new();
    for prefix in prefixes {
        let covering = openings.iter().enumerate();
        let covering = covering.filter(|(_, (_, rule))| covers(rule, &prefix));
        let key = covering.map(|(index, _)| index).collect();
        by_cover.entry(key).or_default().push(prefix);
    }
    let anywhere = openings.iter().filter(|(_, rule)| rule.addresses.is_none());
    let anywhere = Class {
        addresses: Vec::new(),
        openings: anywhere.copied().collect(),
    };
    let narrow = by_cover.into_iter().map(|(cover, addresses)| Class {
        addresses,
        openings: cover
            .iter()
            .filter_map(|index| openings.get(*index))
            .copied()
            .collect(),
    });
    std::iter::once(anywhere).chain(narrow).collect()
}

fn covers(rule: &EgressRule, prefix: &IpNet) -> bool {
    match &rule.addresses {
        None => true,
        Some(addresses) => addresses
            .iter()
            .any(|address| address.trunc().contains(prefix)),
    }
}

impl Class<'_> {
    fn compile(&self, port: u16, outbound: &mut Outbound, tables: &mut Tables) {
        let speaking = |wanted: EgressProtocol| {
            let openings = self.openings.iter();
            openings
                .filter(move |(protocol, _)| *protocol == wanted)
                .map(|(_, rule)| *rule)
        };
        let http: Vec<&EgressRule> = speaking(EgressProtocol::Http).collect();
        if !http.is_empty() {
            let table = self.http_table(port, &http, tables);
            let forward = Forward::Http(tables.route(table));
            self.chain(
                EgressProtocol::Http,
                port,
                Connect::Http,
                forward,
                &http,
                outbound,
            );
        }
        let https: Vec<&EgressRule> = speaking(EgressProtocol::Https).collect();
        if !https.is_empty() {
            let connect = Connect::Tls(server_names(&https));
            let forward = original_destination(port, tables);
            self.chain(
                EgressProtocol::Https,
                port,
                connect,
                forward,
                &https,
                outbound,
            );
        }
        for protocol in [EgressProtocol::TcpServerFirst, EgressProtocol::Tcp] {
            let tcp: Vec<&EgressRule> = speaking(protocol).collect();
            if !tcp.is_empty() {
                let forward = original_destination(port, tables);
                self.chain(protocol, port, Connect::Any, forward, &tcp, outbound);
                // Both kinds match the same connections.
                break;
            }
        }
    }

    fn chain(
        &self,
        protocol: EgressProtocol,
        port: u16,
        connect: Connect,
        forward: Forward,
        rules: &[&EgressRule],
        outbound: &mut Outbound,
    ) {
        let Some(rule) = rules.first() else { return };
        outbound.chains.push(Arc::new(OutboundChain {
            name: format!("egress-{}.{port}{}", protocol.as_str(), self.suffix()).into(),
            matches: OutboundMatch {
                port,
                addresses: self.addresses.clone(),
                connect,
            },
            forward,
            provenance: rule.provenance.clone(),
        }));
    }

    /// Tells chains and tables of one port apart; the one for any destination has the plain name.
    fn suffix(&self) -> String {
        let first = self.addresses.first();
        first
            .map(|address| format!("|{address}"))
            .unwrap_or_default()
    }

    fn http_table(&self, port: u16, rules: &[&EgressRule], tables: &mut Tables) -> RouteTable {
        let mut hosts: BTreeMap<String, (Arc<str>, Vec<Route>)> = BTreeMap::new();
        for rule in rules {
            for host in &rule.hosts {
                let cluster = dns_cluster(host, port, &rule.limits, tables);
                let key = host.to_ascii_lowercase();
                let (_, routes) = hosts.entry(key).or_insert((host.clone(), Vec::new()));
                routes.extend(http_routes(rule, &cluster));
            }
        }
        let hosts = hosts.into_iter().map(|(domain, (host, mut routes))| {
            // Everything first: a rule with conditions never narrows one without.
            routes.sort_by_key(|route| route.matches != RouteMatch::Any);
            let with_port = format!("{domain}:{port}");
            Arc::new(VirtualHost {
                name: format!("egress_virtual-host|{host}").into(),
                domains: vec![domain, with_port],
                routes,
                retry: None,
                rate: None,
                counted: Vec::new(),
            })
        });
        RouteTable {
            name: format!("rds-egress.{port}{}", self.suffix()).into(),
            hosts: hosts.collect(),
            inbound: false,
            explained: true,
        }
    }
}

fn http_routes(rule: &EgressRule, cluster: &Arc<str>) -> Vec<Route> {
    let forward = || RouteAction::Forward(WeightedCluster::all(cluster.clone()));
    match &rule.http {
        None => vec![route(RouteMatch::Any, forward(), &rule.provenance)],
        Some(grants) => grants
            .iter()
            .map(|grant| {
                let matches = RouteMatch::Http(grant.matches.clone());
                route(matches, forward(), &grant.provenance)
            })
            .collect(),
    }
}

/// Server names of all rules; empty (any) as soon as one rule names none.
fn server_names(rules: &[&EgressRule]) -> Vec<Arc<str>> {
    if rules.iter().any(|rule| rule.hosts.is_empty()) {
        return Vec::new();
    }
    let names = rules.iter().flat_map(|rule| &rule.hosts);
    let names: BTreeSet<Arc<str>> = names.map(|host| host.to_ascii_lowercase().into()).collect();
    names.into_iter().collect()
}

/// One cluster for a host and port. Several policies may lead to it: the first one's limits count.
fn dns_cluster(
    host: &Arc<str>,
    port: u16,
    limits: &ConnectionLimits,
    tables: &mut Tables,
) -> Arc<str> {
    tables.cluster(Arc::new(Cluster {
        limits: limits.clone(),
        name: format!("{host}:{port}").into(),
        kind: ClusterKind::Dns {
            host: host.clone(),
            port,
        },
        http: UpstreamHttp::AsDownstream,
    }))
}

fn original_destination(port: u16, tables: &mut Tables) -> Forward {
    let name = tables.cluster(Arc::new(Cluster {
        limits: ConnectionLimits::default(),
        name: port.to_string().into(),
        kind: ClusterKind::OriginalDestination,
        http: UpstreamHttp::Opaque,
    }));
    Forward::Tcp(WeightedCluster::all(name))
}
