//! Route configurations from protobuf.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValueOption, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use envoy_types::pb::google::protobuf::Any;

use super::matching::{header, header_add, header_name, query, regex};
use super::{At, Checked, duration, each, extension, flag, limit, port, rbac, refuse};
use crate::matcher::{Affix, StringMatch};
use crate::route::{
    Action, Edits, Forward, HostRewrite, PathMatch, RbacOverride, Redirect, Route, RouteMatch,
    RouteTable, Target, VirtualHost, WeightedCluster,
};

/// Envoy's default route timeout.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn table(message: &pb::RouteConfiguration) -> Checked<RouteTable> {
    let hosts = each("virtual_hosts", &message.virtual_hosts, host)?;
    let mut table = RouteTable::new(message.name.as_str().into(), hosts).or_else(|domain| {
        refuse(format!("two virtual hosts claim the domain {domain:?}")).at("virtual_hosts")
    })?;
    table.ignore_port = message.ignore_port_in_host_matching;
    table.rbac = rbac_override(&message.typed_per_filter_config)?;
    table.edits = edits(
        (
            &message.request_headers_to_remove,
            &message.request_headers_to_add,
        ),
        (
            &message.response_headers_to_remove,
            &message.response_headers_to_add,
        ),
    )?;
    // Internal headers never pass from outside, which is what removing them from requests does here.
    table.edits.request_remove.extend(each(
        "internal_only_headers",
        &message.internal_only_headers,
        |n| header_name(n),
    )?);
    Ok(table)
}

fn host(message: &pb::VirtualHost) -> Checked<VirtualHost> {
    if message.domains.is_empty() {
        return refuse("at least one domain is needed").at("domains");
    }
    let domains = each("domains", &message.domains, |domain| {
        let inner = domain
            .strip_prefix('*')
            .or_else(|| domain.strip_suffix('*'))
            .unwrap_or(domain);
        if inner.contains('*') {
            return refuse(format!("{domain:?} has a star in its middle"));
        }
        Ok(domain.to_ascii_lowercase())
    })?;
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains,
        routes: each("routes", &message.routes, |message| {
            route(message).map(Arc::new)
        })?,
        edits: edits(
            (
                &message.request_headers_to_remove,
                &message.request_headers_to_add,
            ),
            (
                &message.response_headers_to_remove,
                &message.response_headers_to_add,
            ),
        )?,
        rbac: rbac_override(&message.typed_per_filter_config)?,
    })
}

fn route(message: &pb::Route) -> Checked<Route> {
    let Some(condition) = &message.r#match else {
        return refuse("a match is needed").at("match");
    };
    let action = match &message.action {
        Some(pb::route::Action::Route(action)) => {
            Action::Forward(Box::new(forward(action).at("route")?))
        }
        Some(pb::route::Action::Redirect(action)) => {
            Action::Redirect(Box::new(redirect(action).at("redirect")?))
        }
        Some(pb::route::Action::DirectResponse(action)) => respond(action).at("direct_response")?,
        _ => return refuse("route, redirect or direct_response is needed"),
    };
    Ok(Route {
        name: message.name.as_str().into(),
        condition: route_match(condition).at("match")?,
        action,
        edits: edits(
            (
                &message.request_headers_to_remove,
                &message.request_headers_to_add,
            ),
            (
                &message.response_headers_to_remove,
                &message.response_headers_to_add,
            ),
        )?,
        rbac: rbac_override(&message.typed_per_filter_config)?,
    })
}

fn route_match(message: &pb::RouteMatch) -> Checked<RouteMatch> {
    use pb::route_match::PathSpecifier as Path;
    let exact_case = flag(message.case_sensitive.as_ref(), true);
    let path = match &message.path_specifier {
        Some(Path::Prefix(prefix)) if exact_case => PathMatch::Prefix(prefix.clone()),
        Some(Path::Prefix(prefix)) => PathMatch::PrefixNoCase(prefix.to_ascii_lowercase()),
        Some(Path::Path(path)) if exact_case => PathMatch::Text(StringMatch::Exact(path.clone())),
        Some(Path::Path(path)) => {
            PathMatch::Text(StringMatch::NoCase(Affix::Whole, path.to_ascii_lowercase()))
        }
        Some(Path::SafeRegex(message)) => PathMatch::Text(regex(message).at("safe_regex")?),
        Some(Path::PathSeparatedPrefix(prefix)) if exact_case => {
            PathMatch::Segments(prefix.clone())
        }
        _ => return refuse("prefix, path, safe_regex or path_separated_prefix is needed"),
    };
    Ok(RouteMatch {
        path,
        headers: each("headers", &message.headers, header)?,
        query: each("query_parameters", &message.query_parameters, query)?,
        grpc: message.grpc.is_some(),
    })
}

fn forward(message: &pb::RouteAction) -> Checked<Forward> {
    use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let target = match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Target::Cluster(name.as_str().into())
        }
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            weighted(message).at("weighted_clusters")?
        }
        _ => return refuse("cluster or weighted_clusters is needed"),
    };
    let host_rewrite = match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => HostRewrite::Literal(host.clone()),
        Some(HostRewriteSpecifier::AutoHostRewrite(on)) if on.value => HostRewrite::Endpoint,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(_) => return refuse("this host rewrite is not supported"),
    };
    let not_found = match pb::route_action::ClusterNotFoundResponseCode::try_from(
        message.cluster_not_found_response_code,
    ) {
        Ok(pb::route_action::ClusterNotFoundResponseCode::NotFound) => 404,
        Ok(pb::route_action::ClusterNotFoundResponseCode::InternalServerError) => 500,
        _ => 503,
    };
    Ok(Forward {
        target,
        timeout: limit(message.timeout.as_ref(), Some(ROUTE_TIMEOUT)).at("timeout")?,
        idle_timeout: message
            .idle_timeout
            .as_ref()
            .map(duration)
            .transpose()
            .at("idle_timeout")?,
        prefix_rewrite: Some(message.prefix_rewrite.clone()).filter(|prefix| !prefix.is_empty()),
        host_rewrite,
        append_forwarded_host: message.append_x_forwarded_host,
        upgrades: message
            .upgrade_configs
            .iter()
            .map(|upgrade| {
                (
                    upgrade.upgrade_type.to_ascii_lowercase(),
                    flag(upgrade.enabled.as_ref(), true),
                )
            })
            .collect(),
        not_found,
    })
}

fn weighted(message: &pb::WeightedCluster) -> Checked<Target> {
    let clusters = each("clusters", &message.clusters, |cluster| {
        if cluster.name.is_empty() {
            return refuse("a cluster's name is needed").at("name");
        }
        Ok(WeightedCluster {
            name: cluster.name.as_str().into(),
            weight: cluster.weight.map_or(0, |weight| weight.value),
            edits: edits(
                (
                    &cluster.request_headers_to_remove,
                    &cluster.request_headers_to_add,
                ),
                (
                    &cluster.response_headers_to_remove,
                    &cluster.response_headers_to_add,
                ),
            )?,
        })
    })?;
    let total = clusters
        .iter()
        .try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
    match total {
        Some(total) if total > 0 => Ok(Target::Weighted { total, clusters }),
        _ => refuse("the weights must sum to a positive 32-bit number").at("clusters"),
    }
}

fn redirect(message: &pb::RedirectAction) -> Checked<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let scheme = match &message.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
    };
    let (path, prefix) = match &message.path_rewrite_specifier {
        None => (None, None),
        Some(PathRewriteSpecifier::PathRedirect(path)) => (Some(path.clone()), None),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => (None, Some(prefix.clone())),
        Some(_) => return refuse("this path rewrite is not supported"),
    };
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        _ => 301,
    };
    let host = Some(message.host_redirect.clone()).filter(|host| !host.is_empty());
    let port = Some(port(message.port_redirect).at("port_redirect")?).filter(|port| *port != 0);
    Ok(Redirect {
        scheme,
        host,
        port,
        path,
        prefix,
        status,
        strip_query: message.strip_query,
    })
}

fn respond(message: &pb::DirectResponseAction) -> Checked<Action> {
    let status = u16::try_from(message.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let Some(status) = status else {
        return refuse(format!(
            "{} is not a status from 200 to 599",
            message.status
        ))
        .at("status");
    };
    let body = message
        .body
        .as_ref()
        .map(data)
        .transpose()
        .at("body")?
        .unwrap_or_default();
    Ok(Action::Respond(status, body.into()))
}

/// The bytes of a source that is in the configuration itself; files of the pod are not read for a control plane.
pub(super) fn data(message: &DataSource) -> Checked<Vec<u8>> {
    match &message.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(data_source::Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        _ => refuse("inline_bytes or inline_string is needed"),
    }
}

fn edits(
    request: (&[String], &[HeaderValueOption]),
    response: (&[String], &[HeaderValueOption]),
) -> Checked<Edits> {
    Ok(Edits {
        request_remove: each("request_headers_to_remove", request.0, |name| {
            header_name(name)
        })?,
        request_add: each("request_headers_to_add", request.1, header_add)?,
        response_remove: each("response_headers_to_remove", response.0, |name| {
            header_name(name)
        })?,
        response_add: each("response_headers_to_add", response.1, header_add)?,
    })
}

fn rbac_override(configs: &HashMap<String, Any>) -> Checked<Option<RbacOverride>> {
    let mut found = None;
    for (name, any) in configs {
        let message: RbacPerRoute = match extension(any) {
            Some(message) => message.at(format_args!("typed_per_filter_config[{name:?}]"))?,
            None => continue, // The support table lets nothing else pass.
        };
        let rules = message.rbac.as_ref().and_then(|rbac| rbac.rules.as_ref());
        let rules = rules.map(rbac::rbac).transpose();
        found = Some(rules.at(format_args!("typed_per_filter_config[{name:?}].rbac.rules"))?);
    }
    Ok(found)
}
