//! What clients outside the mesh may send to the application: chains beside those of the mesh.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{Tables, choice::route, inbound::local_name};
use crate::{
    config::{
        Access, IngressChain, IngressGate, RouteAction, RouteMatch, RouteTable, Rule, VirtualHost,
        WeightedCluster,
    },
    mesh::{Backing, Mesh},
    policy::{IngressClients, IngressRule, IngressTls, PortSet},
    service::Service,
};

/// Chains for the ports that the pod stands behind and that some policy opens.
pub(super) fn compile(
    mesh: &Mesh,
    backing: &[Backing],
    tables: &mut Tables,
) -> Vec<Arc<IngressChain>> {
    let mut chains = Vec::new();
    let mut taken = Taken::default();
    let mut seen = BTreeSet::new();
    for backing in backing {
        let Some(entry) = mesh.services.get(backing.service) else {
            continue;
        };
        // Two ports of a service may end at the same target port: its rules count once.
        if !seen.insert((backing.service, backing.target_port)) {
            continue;
        }
        let rules = mesh.ingress_on.get(&entry.key()).into_iter().flatten();
        for rule in rules.filter(|rule| rule.port == backing.target_port) {
            let chain = chain(mesh, &entry.service, rule, &mut taken);
            if let Some(chain) = chain {
                tables.route(table(&entry.service, rule));
                chains.push(Arc::new(chain));
            }
        }
    }
    chains
}

/// Kinds of connections that earlier chains take. Two chains for the same would void the listener.
type Taken = HashSet<Connections>;

/// Connections that differ in nothing a chain is chosen by.
#[derive(PartialEq, Eq, Hash)]
struct Connections {
    port: u16,
    tls: bool,
    server_name: Option<Arc<str>>,
    source: Option<IpNet>,
}

fn chain(
    mesh: &Mesh,
    service: &Service,
    rule: &IngressRule,
    taken: &mut Taken,
) -> Option<IngressChain> {
    let names = rule.tls.as_ref().map(|tls| tls.server_names.as_slice());
    let mut free = |source| {
        let mut take = |server_name: Option<&Arc<str>>| {
            taken.insert(Connections {
                port: rule.port,
                tls: names.is_some(),
                server_name: server_name.cloned(),
                source,
            })
        };
        match names.unwrap_or_default() {
            [] => take(None),
            // Not `all`: every name is taken, even if one was not free.
            names => names
                .iter()
                .map(|name| take(Some(name)))
                .fold(true, |all, one| all & one),
        }
    };
    let sources: Vec<IpNet> = match &rule.sources {
        None => free(None).then(Vec::new)?,
        Some(sources) => {
            let sources = sources.iter().filter(|source| free(Some(**source)));
            let sources: Vec<IpNet> = sources.copied().collect();
            // No source left must not come to mean any.
            (!sources.is_empty()).then_some(sources)?
        }
    };
    let protocol = if rule.tls.is_some() { "https" } else { "http" };
    Some(IngressChain {
        name: format!("ingress_{}_{}_{protocol}", service.key(), rule.port).into(),
        port: rule.port,
        sources,
        gate: gate(rule.tls.as_ref()),
        table: table_name(service, rule.port),
        requests: requests(mesh, rule),
        provenance: rule.provenance.clone(),
    })
}

fn gate(tls: Option<&IngressTls>) -> IngressGate {
    match tls {
        None => IngressGate::ClearText,
        Some(tls) => IngressGate::Tls {
            server_names: tls.server_names.clone(),
            verified: tls.clients != IngressClients::Anyone,
        },
    }
}

/// Who gets an answer. Paths and methods are not looked at: ingress is independent of TrafficTargets.
fn requests(mesh: &Mesh, rule: &IngressRule) -> Access {
    if mesh.settings.requests_blocked {
        return Access::Only(Vec::new().into());
    }
    let clients = rule.tls.as_ref().map(|tls| &tls.clients);
    let Some(IngressClients::Named(names)) = clients else {
        return Access::Everyone;
    };
    let rule = Rule {
        name: rule.provenance.to_string().into(),
        principals: names.iter().cloned().collect(),
        ports: PortSet::Any,
        http: None,
    };
    let rules = if rule.principals.is_empty() {
        Vec::new()
    } else {
        vec![rule]
    };
    Access::Only(rules.into())
}

fn table_name(service: &Service, port: u16) -> Arc<str> {
    format!("rds-ingress.{}.{port}", service.key()).into()
}

/// Every host and every path lead to the application.
fn table(service: &Service, rule: &IngressRule) -> RouteTable {
    let cluster = local_name(service, rule.port);
    RouteTable {
        name: table_name(service, rule.port),
        hosts: vec![Arc::new(VirtualHost {
            name: format!("ingress_virtual-host|{}", service.fqdn()).into(),
            domains: vec!["*".to_owned()],
            routes: vec![route(
                RouteMatch::Any,
                RouteAction::Forward(WeightedCluster::all(cluster)),
                &rule.provenance,
            )],
            retry: None,
            rate: None,
            counted: Vec::new(),
        })],
        inbound: true,
        // What stands before the mesh passes answers on to anybody.
        explained: false,
    }
}
