//! Circuit breakers from protobuf.

use envoy_types::pb::envoy::config::cluster::v3::CircuitBreakers;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers as pb;
use envoy_types::pb::envoy::config::core::v3::RoutingPriority as Priority;

use super::super::{At, Checked, refuse};
use crate::cluster::{Limits, RetryLimit, Thresholds};

/// Envoy's defaults of a retry budget.
const BUDGET: f64 = 20.0;
const BUDGET_LEAST: u32 = 3;

pub(super) fn thresholds(message: Option<&CircuitBreakers>) -> Checked<Thresholds> {
    let Some(message) = message else {
        return Ok(Thresholds::default());
    };
    // Of several with one priority, the first counts.
    let of = |priority: Priority| {
        let mut found = message.thresholds.iter().enumerate();
        match found.find(|(_, t)| t.priority == i32::from(priority)) {
            Some((index, t)) => limits(t).at(format_args!("thresholds[{index}]")),
            None => Ok(Limits::default()),
        }
    };
    let per_host = message.per_host_thresholds.first();
    Ok(Thresholds {
        default: of(Priority::Default)?,
        high: of(Priority::High)?,
        connections_per_endpoint: per_host
            .and_then(|t| t.max_connections)
            .map(|limit| limit.value),
    })
}

fn limits(message: &pb::Thresholds) -> Checked<Limits> {
    let default = Limits::default();
    let retries = match (&message.retry_budget, &message.max_retries) {
        (Some(budget), _) => {
            let percent = budget.budget_percent.as_ref().map_or(BUDGET, |p| p.value);
            if !(0.0..=100.0).contains(&percent) {
                return refuse(format!("{percent} is not from 0 to 100"))
                    .at("retry_budget.budget_percent");
            }
            let least = budget
                .min_retry_concurrency
                .map_or(BUDGET_LEAST, |v| v.value);
            RetryLimit::Budget { percent, least }
        }
        (None, Some(count)) => RetryLimit::Count(count.value),
        (None, None) => default.retries,
    };
    Ok(Limits {
        connections: message
            .max_connections
            .map_or(default.connections, |v| v.value),
        pending: message
            .max_pending_requests
            .map_or(default.pending, |v| v.value),
        requests: message.max_requests.map_or(default.requests, |v| v.value),
        retries,
        track_remaining: message.track_remaining,
    })
}
