//! What a route does, from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;

use super::{data, edits::edits};
use crate::config::filters::overrides;
use crate::config::{At, Checked, duration, each, flag, limit, port, refuse};
use crate::route::{Action, Forward, HostRewrite, Redirect, Target, WeightedCluster};

/// Envoy's default route timeout.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn forward(message: &pb::RouteAction) -> Checked<Forward> {
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
            overrides: overrides(&cluster.typed_per_filter_config)?,
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

pub(super) fn redirect(message: &pb::RedirectAction) -> Checked<Redirect> {
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

pub(super) fn respond(message: &pb::DirectResponseAction) -> Checked<Action> {
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
