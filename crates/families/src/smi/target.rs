//! TrafficTargets as authorizations.

use std::collections::BTreeSet;

use api::access::v1alpha3::{IdentityBindingSubject, TrafficTargetRule, TrafficTargetSpec};
use api::specs::v1alpha4::TCPRouteSpec;
use model::{Authorization, HttpGrant, PortSet, Problem, Provenance, ServiceAccount};

use super::group_matches;
use crate::{
    index::{Index, Key},
    names::is_name,
};

/// The valid TrafficTargets of monitored namespaces.
pub(crate) fn authorizations(index: &Index, problems: &mut Vec<Problem>) -> Vec<Authorization> {
    let targets = index.monitored(&index.traffic_targets);
    targets
        .filter_map(|(key, target)| authorization(index, key, target, problems))
        .collect()
}

/// What one TrafficTarget grants; `None` if nothing.
pub(crate) fn authorization(
    index: &Index,
    key: &Key,
    target: &TrafficTargetSpec,
    problems: &mut Vec<Problem>,
) -> Option<Authorization> {
    let provenance = Provenance::new("TrafficTarget", &key.0, &key.1);
    let destination = match destination(key, target) {
        Ok(destination) => destination,
        Err(message) => {
            problems.push(provenance.void(format!("{message}: the object is ignored")));
            return None;
        }
    };
    let sources = sources(target, &provenance, problems);
    let mut rules = Rules {
        index,
        key,
        target: &provenance,
        tcp: None,
        http: Vec::new(),
    };
    for rule in &target.rules {
        if let Err(problem) = rules.add(rule, problems) {
            problems.push(problem);
            return None;
        }
    }
    let (tcp, http) = (rules.tcp, rules.http);
    if tcp.is_none() && http.is_empty() {
        problems.push(provenance.void("its rules allow nothing"));
        return None;
    }
    Some(Authorization {
        provenance,
        destination,
        sources,
        tcp,
        http,
    })
}

/// The destination, if the object is valid as a whole.
fn destination(key: &Key, target: &TrafficTargetSpec) -> Result<ServiceAccount, String> {
    let destination = &target.destination;
    if destination.kind != "ServiceAccount" {
        let kind = &destination.kind;
        return Err(format!(
            "E2010: destination.kind is {kind:?}, not \"ServiceAccount\""
        ));
    }
    if destination.namespace.as_deref() != Some(&*key.0) {
        let namespace = destination.namespace.as_deref().unwrap_or_default();
        return Err(format!(
            "destination.namespace is {namespace:?}, not the object's own namespace"
        ));
    }
    if !is_name(&destination.name) {
        let name = &destination.name;
        return Err(format!(
            "destination.name {name:.253?} cannot be the name of a ServiceAccount"
        ));
    }
    if target.rules.is_empty() {
        return Err("rules is empty".to_owned());
    }
    let supported = |rule: &TrafficTargetRule| matches!(&*rule.kind, "HTTPRouteGroup" | "TCPRoute");
    if let Some(rule) = target.rules.iter().find(|rule| !supported(rule)) {
        return Err(format!(
            "rules names a {}, which is not supported",
            rule.kind
        ));
    }
    Ok(ServiceAccount::new(
        key.0.clone(),
        destination.name.as_str(),
    ))
}

/// The sources that name a ServiceAccount in full. None at all means nobody.
fn sources(
    target: &TrafficTargetSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> BTreeSet<ServiceAccount> {
    let mut sources = BTreeSet::new();
    for source in &target.sources {
        match account(source) {
            Ok(account) => {
                sources.insert(account);
            }
            Err(message) => problems.push(provenance.rule("sources").problem(message)),
        }
    }
    if sources.is_empty() {
        problems.push(provenance.void("it has no valid source: nobody is allowed"));
    }
    sources
}

fn account(source: &IdentityBindingSubject) -> Result<ServiceAccount, String> {
    let (kind, name) = (&source.kind, &source.name);
    if kind != "ServiceAccount" {
        return Err(format!(
            "E2011: source {name} has kind {kind:?}: it is ignored"
        ));
    }
    match source
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
    {
        Some(namespace) if is_name(name) && is_name(namespace) => {
            Ok(ServiceAccount::new(namespace, name.as_str()))
        }
        Some(namespace) => Err(format!(
            "source {namespace:.253}/{name:.253} cannot be the name of a ServiceAccount: it is ignored"
        )),
        _ => Err(format!("source {name:?} has no namespace: it is ignored")),
    }
}

/// Reports ports of a TCPRoute that are none, whether or not anybody refers to it.
pub(crate) fn check_route(key: &Key, route: &TCPRouteSpec, problems: &mut Vec<Problem>) {
    let ports = &route.matches.ports;
    for port in ports.iter().filter(|port| !is_port(**port)) {
        let provenance = Provenance::new("TCPRoute", &key.0, &key.1);
        problems.push(provenance.problem(format!("{port} is not a port: it is ignored")));
    }
}

fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}

/// What the rules read so far allow.
struct Rules<'a> {
    index: &'a Index,
    key: &'a Key,
    target: &'a Provenance,
    tcp: Option<PortSet>,
    http: Vec<HttpGrant>,
}

impl Rules<'_> {
    /// Adds a rule. An error voids the whole object: a TCPRoute that is missing restricts what the
    /// others allow, by ports that nobody knows.
    fn add(
        &mut self,
        rule: &TrafficTargetRule,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Problem> {
        let reference = (self.key.0.clone(), rule.name.as_str().into());
        let provenance = self.target.rule(format!("{}/{}", rule.kind, rule.name));
        if rule.kind == "TCPRoute" {
            let Some(route) = self.index.tcp_routes.get(&reference) else {
                let message = "the TCPRoute does not exist: the TrafficTarget allows nothing";
                return Err(provenance.void(message));
            };
            self.add_ports(&route.matches.ports, &provenance, problems);
            return Ok(());
        }
        match self.index.route_groups.get(&reference) {
            Some(group) => {
                let grants = group_matches(group, &rule.matches, &provenance, problems);
                self.http.extend(grants);
            }
            None => {
                let message = "E2005: the HTTPRouteGroup does not exist: the rule allows nothing";
                problems.push(provenance.problem(message));
            }
        }
        Ok(())
    }

    fn add_ports(&mut self, ports: &[i64], provenance: &Provenance, problems: &mut Vec<Problem>) {
        if ports.is_empty() {
            self.tcp = Some(PortSet::Any);
            return;
        }
        let mut valid = BTreeSet::new();
        for port in ports {
            match u16::try_from(*port) {
                Ok(number) if number > 0 => {
                    valid.insert(number);
                }
                _ => problems
                    .push(provenance.problem(format!("{port} is not a port: it is ignored"))),
            }
        }
        match self.tcp.get_or_insert(PortSet::Only(BTreeSet::new())) {
            PortSet::Any => {}
            PortSet::Only(ports) => ports.extend(valid),
        }
    }
}
