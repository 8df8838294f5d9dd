//! Health checks that the proxy answers itself, by the health of clusters.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::counters::Counters;
use super::{FilterContext, State, Verdict};
use crate::http::reply::LocalReply;
use crate::matcher::HeaderMatch;
use crate::reason::Reason;
use crate::route::AddMode;

const CHECKED_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

const TOTAL: usize = 0;
const OK: usize = 1;
const FAILED: usize = 2;
/// Names of the counters, under `http.<stat_prefix>.health_check.`.
pub const NAMES: &[&str] = &["request_total", "ok", "failed"];

/// The filter.
#[derive(Debug)]
pub struct HealthCheck {
    /// Checks go to the upstream, unless the administrator fails them.
    pub pass_through: bool,
    /// Requests with all of these are health checks.
    pub headers: Vec<HeaderMatch>,
    /// Clusters with the percentage of their endpoints that must be healthy.
    pub clusters: Vec<(Arc<str>, u64)>,
    /// Counters.
    pub counters: Counters,
}

/// Answers health checks; tells those who ask for anything else that checks fail.
pub(super) fn request(filter: &HealthCheck, context: &mut FilterContext<'_, '_>) -> Verdict {
    let view = context.view();
    let shared = &context.connection.worker.shared;
    let is_failing = shared.is_failing();
    if !filter.headers.iter().all(|header| header.matches(&view)) {
        let yes = HeaderValue::from_static("true");
        let told = vec![(AddMode::Overwrite, IMMEDIATE_FAIL, yes)];
        return Ok(is_failing.then_some(State::Headers(told)));
    }
    context.line.is_health_check = true;
    let cluster = HeaderValue::from_str(shared.service_cluster()).ok();
    let checked = cluster.map(|cluster| (AddMode::Overwrite, CHECKED_CLUSTER, cluster));
    if filter.pass_through && !is_failing {
        return Ok(Some(State::Headers(checked.into_iter().collect())));
    }
    filter.counters.increment(&shared.stats, TOTAL);
    let details = if is_failing {
        Err("health_check_failed")
    } else {
        judge(filter, |name| {
            let snapshot = shared.snapshot.load();
            snapshot.clusters.get(name).map(|cluster| cluster.health())
        })
    };
    let mut reply = match details {
        Ok(details) => LocalReply {
            status: StatusCode::OK,
            details: details.into(),
            ..LocalReply::default()
        },
        Err(details) => LocalReply {
            details: details.into(),
            ..LocalReply::from(Reason::HealthCheckFailed)
        },
    };
    let counter = if reply.reason.is_none() { OK } else { FAILED };
    filter.counters.increment(&shared.stats, counter);
    reply.headers.extend(checked);
    Err(Box::new(reply))
}

/// Judges by clusters; `health` says how many endpoints of one there are, and how many of them may be used.
fn judge(
    filter: &HealthCheck,
    health: impl Fn(&str) -> Option<(usize, usize)>,
) -> Result<&'static str, &'static str> {
    if filter.clusters.is_empty() {
        return Ok("health_check_ok");
    }
    for (name, percentage) in &filter.clusters {
        let Some((all, healthy)) = health(name) else {
            return Err("health_check_failed_cluster_not_found");
        };
        if all == 0 && *percentage > 0 {
            return Err("health_check_failed_cluster_empty");
        }
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        if number(healthy).saturating_mul(100) < number(all).saturating_mul(*percentage) {
            return Err("health_check_failed_cluster_unhealthy");
        }
    }
    Ok("health_check_ok_cluster_healthy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Family;

    #[test]
    fn clusters_are_judged_by_their_share_of_healthy_endpoints() {
        let cases = [
            (vec![], Ok("health_check_ok")),
            (vec![("full", 100)], Ok("health_check_ok_cluster_healthy")),
            (vec![("half", 50)], Ok("health_check_ok_cluster_healthy")),
            (
                vec![("full", 100), ("half", 51)],
                Err("health_check_failed_cluster_unhealthy"),
            ),
            (vec![("empty", 1)], Err("health_check_failed_cluster_empty")),
            (vec![("empty", 0)], Ok("health_check_ok_cluster_healthy")),
            (
                vec![("none", 0)],
                Err("health_check_failed_cluster_not_found"),
            ),
        ];
        for (clusters, expected) in cases {
            let filter = HealthCheck {
                pass_through: false,
                headers: Vec::new(),
                clusters: clusters
                    .iter()
                    .map(|(name, percentage)| ((*name).into(), *percentage))
                    .collect(),
                counters: Counters::new(Family::new("", ""), NAMES),
            };
            let health = |name: &str| match name {
                "full" => Some((2, 2)),
                "half" => Some((2, 1)),
                "empty" => Some((0, 0)),
                _ => None,
            };
            assert_eq!(judge(&filter, health), expected, "{clusters:?}");
        }
    }
}
