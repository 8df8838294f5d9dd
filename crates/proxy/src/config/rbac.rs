//! RBAC policies from protobuf.

use std::sync::Arc;

use envoy_types::pb::envoy::config::rbac::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};

use super::matching::{header, range, string};
use super::{At, Checked, each, refuse};
use crate::matcher::StringMatch;
use crate::rbac::{Action, Permission, Policy, Principal, Rbac, Rules};

pub(super) fn rbac(message: &pb::Rbac) -> Checked<Arc<Rbac>> {
    let action = match pb::rbac::Action::try_from(message.action) {
        Ok(pb::rbac::Action::Allow) => Action::Allow,
        Ok(pb::rbac::Action::Deny) => Action::Deny,
        Ok(pb::rbac::Action::Log) => Action::Log,
        Err(_) => return refuse("an unknown action").at("action"),
    };
    let mut policies = message
        .policies
        .iter()
        .map(|(name, message)| policy(name, message).at(format_args!("policies[{name:?}]")))
        .collect::<Checked<Vec<Policy>>>()?;
    policies.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Arc::new(Rbac { action, policies }))
}

/// What a filter enforces, and what it would.
pub(super) fn rules(enforced: Option<&pb::Rbac>, shadow: Option<&pb::Rbac>) -> Checked<Rules> {
    Ok(Rules {
        enforced: enforced.map(rbac).transpose().at("rules")?,
        shadow: shadow.map(rbac).transpose().at("shadow_rules")?,
    })
}

fn policy(name: &str, message: &pb::Policy) -> Checked<Policy> {
    if message.permissions.is_empty() || message.principals.is_empty() {
        return refuse("a policy needs permissions and principals");
    }
    Ok(Policy {
        name: name.into(),
        permissions: each("permissions", &message.permissions, permission)?,
        principals: each("principals", &message.principals, principal)?,
    })
}

fn permission(message: &pb::Permission) -> Checked<Permission> {
    use pb::permission::Rule;
    Ok(match &message.rule {
        Some(Rule::Any(true)) => Permission::Any,
        Some(Rule::AndRules(set)) => {
            Permission::And(each("and_rules.rules", &set.rules, permission)?)
        }
        Some(Rule::OrRules(set)) => Permission::Or(each("or_rules.rules", &set.rules, permission)?),
        Some(Rule::NotRule(inner)) => Permission::Not(Box::new(permission(inner).at("not_rule")?)),
        Some(Rule::Header(message)) => Permission::Header(header(message).at("header")?),
        Some(Rule::UrlPath(message)) => Permission::Path(path(message).at("url_path")?),
        Some(Rule::DestinationIp(message)) => {
            Permission::DestinationIp(range(message).at("destination_ip")?)
        }
        Some(Rule::DestinationPort(port)) if *port <= u32::from(u16::MAX) => {
            Permission::DestinationPort(*port, port.saturating_add(1))
        }
        Some(Rule::DestinationPortRange(ports)) => {
            match (u32::try_from(ports.start), u32::try_from(ports.end)) {
                (Ok(start), Ok(end)) => Permission::DestinationPort(start, end),
                _ => return refuse("not a range of ports").at("destination_port_range"),
            }
        }
        Some(Rule::RequestedServerName(message)) => {
            Permission::ServerName(string(message).at("requested_server_name")?)
        }
        _ => return refuse("this kind of permission is not supported"),
    })
}

fn principal(message: &pb::Principal) -> Checked<Principal> {
    use pb::principal::Identifier;
    Ok(match &message.identifier {
        Some(Identifier::Any(true)) => Principal::Any,
        Some(Identifier::AndIds(set)) => Principal::And(each("and_ids.ids", &set.ids, principal)?),
        Some(Identifier::OrIds(set)) => Principal::Or(each("or_ids.ids", &set.ids, principal)?),
        Some(Identifier::NotId(inner)) => Principal::Not(Box::new(principal(inner).at("not_id")?)),
        Some(Identifier::Authenticated(message)) => {
            let name = message.principal_name.as_ref();
            Principal::Authenticated(
                name.map(string)
                    .transpose()
                    .at("authenticated.principal_name")?,
            )
        }
        #[allow(deprecated)]
        Some(Identifier::SourceIp(message)) => Principal::SourceIp(range(message).at("source_ip")?),
        Some(Identifier::DirectRemoteIp(message)) => {
            Principal::SourceIp(range(message).at("direct_remote_ip")?)
        }
        Some(Identifier::RemoteIp(message)) => Principal::RemoteIp(range(message).at("remote_ip")?),
        Some(Identifier::Header(message)) => Principal::Header(header(message).at("header")?),
        Some(Identifier::UrlPath(message)) => Principal::Path(path(message).at("url_path")?),
        _ => return refuse("this kind of principal is not supported"),
    })
}

fn path(message: &PathMatcher) -> Checked<StringMatch> {
    match &message.rule {
        Some(path_matcher::Rule::Path(matcher)) => string(matcher).at("path"),
        None => refuse("a path is needed"),
    }
}
