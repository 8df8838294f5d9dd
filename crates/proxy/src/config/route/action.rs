//! Where requests are sent, from protobuf.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as pb;

use super::edits::edits;
use super::retry::retry;
use super::rewrite::{host_rewrite, path_rewrite};
use crate::cluster::RoutingPriority;
use crate::cluster::subset::{Labels, merged};
use crate::config::cluster::labels;
use crate::config::filters::{old_cors_policy, overrides, policies};
use crate::config::matching::header_name;
use crate::config::{At, Checked, duration, each, flag, hash, limit, refuse};
use crate::http::retry::RetryPolicy;
use crate::route::{Forward, Lot, StreamDuration, Target, WeightedCluster};

/// Envoy's default route timeout.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

#[allow(deprecated)] // Control planes still send the old fields.
pub(super) fn forward(
    message: &pb::RouteAction,
    of_host: Option<&Arc<RetryPolicy>>,
) -> Checked<Forward> {
    use pb::route_action::ClusterNotFoundResponseCode as NotFound;
    let not_found = match NotFound::try_from(message.cluster_not_found_response_code) {
        Ok(NotFound::ServiceUnavailable) => 503,
        Ok(NotFound::NotFound) => 404,
        Ok(NotFound::InternalServerError) => 500,
        Err(_) => return refuse("an unknown value").at("cluster_not_found_response_code"),
    };
    let optional = |value: Option<&_>| value.map(duration).transpose();
    Ok(Forward {
        target: target(message)?,
        timeout: limit(message.timeout.as_ref(), Some(ROUTE_TIMEOUT)).at("timeout")?,
        idle_timeout: optional(message.idle_timeout.as_ref()).at("idle_timeout")?,
        flush_timeout: optional(message.flush_timeout.as_ref()).at("flush_timeout")?,
        stream_duration: message
            .max_stream_duration
            .as_ref()
            .map(stream_duration)
            .transpose()
            .at("max_stream_duration")?,
        path_rewrite: path_rewrite(message)?,
        host_rewrite: host_rewrite(message)?,
        hash: hash::policies(&message.hash_policy)?,
        subset: labels(message.metadata_match.as_ref()),
        priority: match core::RoutingPriority::try_from(message.priority) {
            Ok(core::RoutingPriority::High) => RoutingPriority::High,
            _ => RoutingPriority::Default,
        },
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
        retry: match &message.retry_policy {
            Some(message) => Some(retry(message).at("retry_policy")?),
            None => of_host.cloned(),
        },
        rate_limits: policies(&message.rate_limits)?,
        include_host_rate_limits: flag(message.include_vh_rate_limits.as_ref(), false),
        cors: message
            .cors
            .as_ref()
            .map(old_cors_policy)
            .transpose()
            .at("cors")?,
    })
}

fn stream_duration(message: &pb::route_action::MaxStreamDuration) -> Checked<StreamDuration> {
    let optional = |value: Option<&_>| value.map(duration).transpose();
    Ok(StreamDuration {
        limit: optional(message.max_stream_duration.as_ref()).at("max_stream_duration")?,
        grpc_most: optional(message.grpc_timeout_header_max.as_ref())
            .at("grpc_timeout_header_max")?,
        grpc_less: optional(message.grpc_timeout_header_offset.as_ref())
            .at("grpc_timeout_header_offset")?,
    })
}

fn target(message: &pb::RouteAction) -> Checked<Target> {
    use pb::route_action::ClusterSpecifier;
    let of_route = message.metadata_match.as_ref();
    match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Ok(Target::Cluster(name.as_str().into()))
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            Ok(Target::Header(header_name(name).at("cluster_header")?))
        }
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            weighted(message, &labels(of_route)).at("weighted_clusters")
        }
        _ => refuse("cluster, cluster_header or weighted_clusters is needed"),
    }
}

fn weighted(message: &pb::WeightedCluster, of_route: &Labels) -> Checked<Target> {
    use pb::weighted_cluster::RandomValueSpecifier as By;
    let clusters = each("clusters", &message.clusters, |cluster| {
        weighted_cluster(cluster, of_route)
    })?;
    let by = match &message.random_value_specifier {
        None => Lot::Random,
        Some(By::HeaderName(name)) if name.is_empty() => Lot::Random,
        Some(By::HeaderName(name)) => Lot::Header(header_name(name).at("header_name")?),
        Some(By::UseHashPolicy(on)) if on.value => Lot::Hash,
        Some(By::UseHashPolicy(_)) => Lot::Random,
    };
    // Envoy's deprecated total_weight, where it is set, must be the sum; so it says nothing.
    let total = clusters
        .iter()
        .try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
    match total {
        Some(total) if total > 0 => Ok(Target::Weighted {
            total,
            clusters,
            by,
        }),
        _ => refuse("the weights must sum to a positive 32-bit number").at("clusters"),
    }
}

fn weighted_cluster(
    cluster: &pb::weighted_cluster::ClusterWeight,
    of_route: &Labels,
) -> Checked<WeightedCluster> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier as Host;
    let header = match (cluster.name.as_str(), cluster.cluster_header.as_str()) {
        ("", "") => return refuse("a name or cluster_header is needed").at("name"),
        (_, "") => None,
        ("", header) => Some(header_name(header).at("cluster_header")?),
        _ => return refuse("both name and cluster_header are set").at("name"),
    };
    Ok(WeightedCluster {
        name: cluster.name.as_str().into(),
        header,
        weight: cluster.weight.map_or(0, |weight| weight.value),
        subset: merged(of_route, &labels(cluster.metadata_match.as_ref())),
        host: cluster
            .host_rewrite_specifier
            .as_ref()
            .map(|Host::HostRewriteLiteral(host)| host.clone()),
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
}
