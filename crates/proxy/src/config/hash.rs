//! Hash policies of routes and of the TCP proxy from protobuf.

use envoy_types::pb::envoy::config::route::v3::route_action as pb;
use http::header::HeaderName;
use pb::hash_policy::PolicySpecifier;

use super::{At, Checked, duration, each, refuse};
use crate::cluster::{HashCookie, HashPolicy, HashSource};

/// The `hash_policy` of a route.
pub(super) fn policies(list: &[pb::HashPolicy]) -> Checked<Vec<HashPolicy>> {
    let policies = each("hash_policy", list, policy)?;
    Ok(policies.into_iter().flatten().collect())
}

fn policy(message: &pb::HashPolicy) -> Checked<Option<HashPolicy>> {
    let source = match &message.policy_specifier {
        Some(PolicySpecifier::Header(header)) => match header.header_name.as_str() {
            ":authority" | "host" => HashSource::Authority,
            ":path" => HashSource::Path,
            name => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => HashSource::Header(name),
                Err(_) => {
                    return refuse(format!("{name:?} is no header's name"))
                        .at("header.header_name");
                }
            },
        },
        Some(PolicySpecifier::Cookie(cookie)) => {
            HashSource::Cookie(self::cookie(cookie).at("cookie")?)
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => {
            HashSource::SourceAddress
        }
        // Names nothing to hash: without effect, as in Envoy.
        Some(PolicySpecifier::ConnectionProperties(_)) => return Ok(None),
        Some(PolicySpecifier::QueryParameter(query)) => HashSource::Query(query.name.clone()),
        Some(PolicySpecifier::FilterState(_)) => return refuse("not supported").at("filter_state"),
        None => return refuse("a policy_specifier is needed"),
    };
    Ok(Some(HashPolicy {
        source,
        terminal: message.terminal,
    }))
}

fn cookie(message: &pb::hash_policy::Cookie) -> Checked<HashCookie> {
    if message.name.is_empty() {
        return refuse("is needed").at("name");
    }
    let lifetime = message.ttl.as_ref().map(duration).transpose();
    Ok(HashCookie {
        name: message.name.clone(),
        lifetime: lifetime.at("ttl")?,
        path: message.path.clone(),
        attributes: message
            .attributes
            .iter()
            .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
            .collect(),
    })
}
