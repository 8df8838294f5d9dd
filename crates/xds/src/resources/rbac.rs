//! Grants as RBAC filters. What no policy allows is denied; no policy at all denies everybody.

use envoy_types::pb::{
    envoy::{
        config::rbac::v3::{Permission, Policy, Principal, Rbac, permission, principal},
        extensions::filters::{http, network},
        r#type::matcher::v3::{PathMatcher, path_matcher},
    },
    google::protobuf::Any,
};
use model::{PortSet, Rule};
use prost::Message;

use super::{build, route};

/// Field `policies` of the RBAC message, a map.
const POLICIES: u32 = 2;
/// Field `rules` of both filters.
const RULES: u32 = 1;

/// The filter for connections.
pub(super) fn network_filter(rules: &[Rule], stat_prefix: &str) -> Any {
    let filter = network::rbac::v3::Rbac {
        stat_prefix: stat_prefix.to_owned(),
        ..Default::default()
    };
    build::any_with_field(&filter, RULES, &encode(rules))
}

/// The filter for requests.
pub(super) fn http_filter(rules: &[Rule]) -> Any {
    let filter = http::rbac::v3::Rbac::default();
    build::any_with_field(&filter, RULES, &encode(rules))
}

/// An RBAC message that allows by these rules, its map in the order of names.
fn encode(rules: &[Rule]) -> Vec<u8> {
    // Action ALLOW is the zero value.
    let mut encoded = Rbac::default().encode_to_vec();
    let mut rules: Vec<&Rule> = rules
        .iter()
        .filter(|rule| !rule.principals.is_empty())
        .collect();
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    for rule in rules {
        let mut entry = Vec::new();
        build::append_field(&mut entry, 1, rule.name.as_bytes());
        build::append_field(&mut entry, 2, &policy(rule).encode_to_vec());
        build::append_field(&mut encoded, POLICIES, &entry);
    }
    encoded
}

fn policy(rule: &Rule) -> Policy {
    Policy {
        permissions: vec![permission(rule)],
        principals: rule.principals.iter().map(|name| principal(name)).collect(),
        ..Default::default()
    }
}

/// The peer's certificate carries this SPIFFE name.
fn principal(name: &str) -> Principal {
    Principal {
        identifier: Some(principal::Identifier::Authenticated(
            principal::Authenticated {
                principal_name: Some(build::exact(name)),
            },
        )),
    }
}

fn permission(rule: &Rule) -> Permission {
    let mut conditions = Vec::new();
    if let PortSet::Only(ports) = &rule.ports {
        let ports = ports
            .iter()
            .map(|port| allow(permission::Rule::DestinationPort((*port).into())));
        conditions.push(allow(permission::Rule::OrRules(permission::Set {
            rules: ports.collect(),
        })));
    }
    if let Some(http) = &rule.http {
        if let Some(path) = &http.path {
            let matcher = path_matcher::Rule::Path(build::matching(path));
            conditions.push(allow(permission::Rule::UrlPath(PathMatcher {
                rule: Some(matcher),
            })));
        }
        let headers = route::headers(http).into_iter();
        conditions.extend(headers.map(|header| allow(permission::Rule::Header(header))));
    }
    if conditions.is_empty() {
        return allow(permission::Rule::Any(true));
    }
    allow(permission::Rule::AndRules(permission::Set {
        rules: conditions,
    }))
}

fn allow(rule: permission::Rule) -> Permission {
    Permission { rule: Some(rule) }
}
