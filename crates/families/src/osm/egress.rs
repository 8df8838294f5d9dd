//! Egress policies.

use std::{collections::BTreeSet, sync::Arc};

use api::policy::v1alpha1::{EgressSource, EgressSpec};
use ipnet::IpNet;
use model::{
    ConnectionLimits, EgressPort, EgressProtocol, EgressRule, HttpGrant, Problem, Provenance,
    ServiceAccount,
};

use crate::{
    index::{Index, Key},
    names::is_name,
    osm::egress_limits,
    smi::group_matches,
};

const ROUTE_GROUP: (&str, &str) = ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup");
const UPSTREAM_SETTING: (&str, &str) = (
    "policy.openservicemesh.io/v1alpha1",
    "UpstreamTrafficSetting",
);

/// The valid Egress policies of monitored namespaces, unless the feature is off.
pub(crate) fn egress_rules(index: &Index, problems: &mut Vec<Problem>) -> Vec<EgressRule> {
    let flags = index
        .mesh_config
        .as_ref()
        .map(|config| &config.feature_flags);
    if !flags.is_some_and(|flags| flags.enable_egress_policy) {
        return Vec::new();
    }
    let policies = index.monitored(&index.egresses);
    policies
        .filter_map(|(key, spec)| egress_rule(index, key, spec, problems))
        .collect()
}

/// What one Egress opens; `None` if nothing.
pub(crate) fn egress_rule(
    index: &Index,
    key: &Key,
    spec: &EgressSpec,
    problems: &mut Vec<Problem>,
) -> Option<EgressRule> {
    let provenance = Provenance::new("Egress", &key.0, &key.1);
    let (http, limits) = match conditions(index, key, spec, &provenance, problems) {
        Ok(conditions) => conditions,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let hosts = hosts(spec, &provenance, problems);
    // An empty list of hosts means any: it must not become empty by what is left out of it.
    let lost_hosts = hosts.is_empty() && !spec.hosts.is_empty();
    Some(EgressRule {
        sources: sources(&spec.sources, &provenance, problems),
        addresses: addresses(spec, &provenance, problems),
        ports: ports(spec, lost_hosts, &provenance, problems),
        provenance,
        hosts,
        http,
        limits,
    })
}

fn sources(
    sources: &[EgressSource],
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> BTreeSet<ServiceAccount> {
    let mut accounts = BTreeSet::new();
    if sources.is_empty() {
        problems.push(provenance.void("sources is empty: nobody is let out"));
    }
    for source in sources {
        let provenance = provenance.rule(format!("source {}/{}", source.namespace, source.name));
        if source.kind != "ServiceAccount" {
            let message = format!(
                "kind {:?} is not \"ServiceAccount\": it is ignored",
                source.kind
            );
            problems.push(provenance.problem(message));
        } else if !(is_name(&source.name) && is_name(&source.namespace)) {
            let message = "cannot be the name of a ServiceAccount: it is ignored";
            problems.push(provenance.problem(message));
        } else if source.mtls.is_some() {
            // Clear text instead of the TLS that was asked for would be worse than nothing.
            problems.push(provenance.problem("mtls is not supported yet: the source is ignored"));
        } else {
            let account = ServiceAccount::new(source.namespace.as_str(), source.name.as_str());
            accounts.insert(account);
        }
    }
    accounts
}

/// `None` = anywhere; what cannot be read adds nothing, so that a list never becomes "anywhere".
fn addresses(
    spec: &EgressSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Option<Vec<IpNet>> {
    if spec.ip_addresses.is_empty() {
        return None;
    }
    let mut addresses = Vec::new();
    for word in &spec.ip_addresses {
        match word.parse::<IpNet>() {
            Ok(network) => addresses.push(network.trunc()),
            Err(_) => {
                let message = format!("E2002: ipAddresses: {word:?} is not a CIDR: it is ignored");
                problems.push(provenance.problem(message));
            }
        }
    }
    Some(addresses)
}

fn hosts(spec: &EgressSpec, provenance: &Provenance, problems: &mut Vec<Problem>) -> Vec<Arc<str>> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for host in &spec.hosts {
        if is_host(host) {
            hosts.push(host.as_str().into());
        } else {
            let message = format!("hosts: {host:?} is not a host name: it is ignored");
            problems.push(provenance.problem(message));
        }
    }
    hosts
}

/// A DNS name, or one below a wildcard (`*.example.com`): what Envoy takes as domain and server name.
fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(valid) && !name.starts_with('.')
}

fn ports(
    spec: &EgressSpec,
    lost_hosts: bool,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Vec<EgressPort> {
    let mut ports = Vec::new();
    if spec.ports.is_empty() {
        problems.push(provenance.void("ports is empty: nothing is opened"));
    }
    for port in &spec.ports {
        let Some(protocol) = EgressProtocol::parse(&port.protocol) else {
            let message = format!("protocol {:?} is not supported", port.protocol);
            problems.push(
                provenance
                    .rule(format!("port {}", port.number))
                    .problem(message),
            );
            continue;
        };
        let by_host = matches!(protocol, EgressProtocol::Http | EgressProtocol::Https);
        if port.number > 0 && !(lost_hosts && by_host) {
            ports.push(EgressPort {
                number: port.number,
                protocol,
            });
        }
    }
    ports
}

/// The requests allowed (all without a reference to an HTTPRouteGroup), and the limits on them. An error voids
/// the whole policy.
fn conditions(
    index: &Index,
    key: &Key,
    spec: &EgressSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Result<(Option<Vec<HttpGrant>>, ConnectionLimits), Problem> {
    let mut limits = ConnectionLimits::default();
    let mut grants: Option<Vec<HttpGrant>> = None;
    for reference in &spec.matches {
        let rule = provenance.rule(format!("{}/{}", reference.kind, reference.name));
        let target: Key = (key.0.clone(), reference.name.as_str().into());
        let kind = (reference.api_group.as_str(), reference.kind.as_str());
        if kind == UPSTREAM_SETTING {
            let Some(setting) = index.upstream_settings.get(&target) else {
                let message = "the UpstreamTrafficSetting does not exist: the policy is ignored";
                return Err(rule.void(message));
            };
            limits = egress_limits(setting)
                .map_err(|message| rule.void(format!("{message}: the policy is ignored")))?;
            continue;
        }
        if kind != ROUTE_GROUP {
            // A condition nobody can read must not be dropped: the policy would allow more.
            let group = &reference.api_group;
            return Err(rule.void(format!(
                "apiGroup {group:?} and kind: the policy is ignored"
            )));
        }
        let grants = grants.get_or_insert_default();
        match index.route_groups.get(&target) {
            Some(group) => grants.extend(group_matches(group, &[], &rule, problems)),
            None => problems.push(rule.problem("E2004: the HTTPRouteGroup does not exist")),
        }
    }
    Ok((grants, limits))
}
