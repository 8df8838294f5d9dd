//! Counters of a cluster's balance and health, under Envoy's names.

use lb::outlier::Cause;

use super::Cluster;
use super::breaker::{Breaker, RoutingPriority};
use super::members::Counts;
use crate::stats::{Counter, Gauge};

/// Counters of a cluster's balance and health.
#[derive(Debug, Default)]
pub struct BalanceStats {
    /// Changes of its endpoints.
    pub membership_change: Counter,
    total: Gauge,
    healthy: Gauge,
    degraded: Gauge,
    excluded: Gauge,
    /// Choices among all endpoints, since too few are healthy.
    pub healthy_panic: Counter,
    /// Requests dropped as the control plane wants it.
    pub dropped: Counter,
    /// Lookups of names: tried, done, failed.
    pub lookups: [Counter; 3],
    /// Seconds since the last good lookup, if the latest failed.
    pub lookup_age: Gauge,
    /// Outlier detection.
    pub outliers: OutlierStats,
    /// Active health checks.
    pub checks: CheckStats,
}

/// Counters of outlier detection.
#[derive(Debug, Default)]
pub struct OutlierStats {
    active: Gauge,
    enforced_total: Counter,
    /// Outliers not ejected: too many are.
    pub overflow: Counter,
    detected: [Counter; 7],
    enforced: [Counter; 7],
}

/// Counters of active health checks.
#[derive(Debug, Default)]
pub struct CheckStats {
    /// Checks.
    pub attempts: Counter,
    /// Checks passed.
    pub successes: Counter,
    /// Checks failed.
    pub failures: Counter,
    /// Checks failed by the network, time-outs among them.
    pub network_failures: Counter,
}

// === impl BalanceStats ===

impl BalanceStats {
    /// The endpoints have changed.
    pub(super) fn counted(&self, counts: Counts, ejected: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.total.set(gauge(counts.total));
        self.healthy.set(gauge(counts.healthy));
        self.degraded.set(gauge(counts.degraded));
        self.excluded.set(gauge(counts.excluded));
        self.outliers.active.set(gauge(ejected));
    }

    /// All numbers: Envoy's name below the cluster, whether it is a gauge, the value.
    pub fn numbers(&self, each: &mut dyn FnMut(&str, bool, i64)) {
        let signed = |counter: &Counter| i64::try_from(counter.get()).unwrap_or(i64::MAX);
        let gauges = [
            ("membership_total", &self.total),
            ("membership_healthy", &self.healthy),
            ("membership_degraded", &self.degraded),
            ("membership_excluded", &self.excluded),
            ("osm_lookup_age_seconds", &self.lookup_age),
            ("outlier_detection.ejections_active", &self.outliers.active),
            ("health_check.healthy", &self.healthy),
        ];
        for (name, gauge) in gauges {
            each(name, true, gauge.get());
        }
        let [tried, done, failed] = &self.lookups;
        let counters = [
            ("membership_change", &self.membership_change),
            ("lb_healthy_panic", &self.healthy_panic),
            ("upstream_rq_drop_overload", &self.dropped),
            ("update_attempt", tried),
            ("update_success", done),
            ("update_failure", failed),
            ("health_check.attempt", &self.checks.attempts),
            ("health_check.success", &self.checks.successes),
            ("health_check.failure", &self.checks.failures),
            (
                "health_check.network_failure",
                &self.checks.network_failures,
            ),
            (
                "outlier_detection.ejections_enforced_total",
                &self.outliers.enforced_total,
            ),
            (
                "outlier_detection.ejections_overflow",
                &self.outliers.overflow,
            ),
        ];
        for (name, counter) in counters {
            each(name, false, signed(counter));
        }
        let outliers = &self.outliers;
        for ((cause, detected), enforced) in CAUSES
            .iter()
            .zip(&outliers.detected)
            .zip(&outliers.enforced)
        {
            each(
                &format!("outlier_detection.ejections_detected_{cause}"),
                false,
                signed(detected),
            );
            each(
                &format!("outlier_detection.ejections_enforced_{cause}"),
                false,
                signed(enforced),
            );
        }
    }
}

/// Envoy's names, in the order of [`Cause`].
const CAUSES: [&str; 7] = [
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "success_rate",
    "local_origin_success_rate",
    "failure_percentage",
    "local_origin_failure_percentage",
];

impl OutlierStats {
    pub(super) fn detected(&self, cause: Cause) {
        if let Some(counter) = self.detected.get(cause as usize) {
            counter.increment();
        }
    }

    pub(super) fn enforced(&self, cause: Cause) {
        self.enforced_total.increment();
        if let Some(counter) = self.enforced.get(cause as usize) {
            counter.increment();
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// All numbers of its balance, health and circuit breakers: Envoy's name below the cluster, whether it is a gauge,
    /// the value.
    pub fn numbers(&self, each: &mut dyn FnMut(&str, bool, i64)) {
        self.balance.numbers(each);
        let priorities = [
            ("default", RoutingPriority::Default),
            ("high", RoutingPriority::High),
        ];
        for (name, priority) in priorities {
            breaker(name, self.breakers.of(priority), each);
        }
    }
}

fn breaker(priority: &str, breaker: &Breaker, each: &mut dyn FnMut(&str, bool, i64)) {
    for (what, used, limit) in breaker.gauges() {
        let open = i64::from(used >= limit);
        each(
            &format!("circuit_breakers.{priority}.{what}_open"),
            true,
            open,
        );
        if breaker.limits.track_remaining {
            let name = format!(
                "circuit_breakers.{priority}.remaining_{}",
                match what {
                    "rq_pending" => "pending",
                    "rq_retry" => "retries",
                    other => other,
                }
            );
            each(&name, true, i64::from(limit.saturating_sub(used)));
        }
    }
}
