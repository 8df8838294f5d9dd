//! Active health checks: what a result makes of an endpoint's health, and when the next check is due, as Envoy does it.

use std::time::Duration;

/// Settings of a checker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// For one check.
    pub timeout: Duration,
    /// Failures in a row of the network that make an endpoint unhealthy; a wrong answer does so at once.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again; the very first one does so at once.
    pub healthy_threshold: u32,
    /// Before the first check, a random time up to this.
    pub initial_jitter: Duration,
    /// Added to each wait: a random time up to this …
    pub interval_jitter: Duration,
    /// … and up to this percentage of the wait.
    pub interval_jitter_percent: u32,
    /// Waits between checks.
    pub intervals: Intervals,
}

/// Waits between checks, by circumstance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// While healthy.
    pub healthy: Duration,
    /// After having become healthy.
    pub healthy_edge: Duration,
    /// While unhealthy.
    pub unhealthy: Duration,
    /// After having become unhealthy.
    pub unhealthy_edge: Duration,
    /// While the cluster has never been used.
    pub no_traffic: Duration,
    /// The same, while healthy.
    pub no_traffic_healthy: Duration,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// The endpoint answered, and not as expected.
    Refused,
    /// The endpoint answered so that it counts as a failure of the network (`retriable_statuses`).
    Retriable,
    /// No connection, no answer, or not in time.
    Network,
}

/// The state of an endpoint's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    healthy: bool,
    first: bool,
    passed: u32,
    failed: u32,
}

/// What follows from a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Whether the endpoint is healthy now.
    pub healthy: bool,
    /// Whether it was otherwise before.
    pub changed: bool,
    /// Until the next check.
    pub wait: Duration,
}

// === impl Check ===

impl Default for Check {
    /// An endpoint nobody has looked at: unhealthy until the first check passes.
    fn default() -> Check {
        Check {
            healthy: false,
            first: true,
            passed: 0,
            failed: 0,
        }
    }
}

impl Check {
    /// An endpoint that was known before.
    pub fn known(healthy: bool) -> Check {
        Check {
            healthy,
            first: false,
            ..Check::default()
        }
    }

    /// Takes a result in. `used`: the cluster has had connections; `roll` is any number.
    pub fn after(&mut self, settings: &Settings, outcome: Outcome, used: bool, roll: u64) -> Step {
        let before = self.healthy;
        let first = std::mem::replace(&mut self.first, false);
        if outcome == Outcome::Passed {
            self.failed = 0;
            self.passed = self.passed.saturating_add(1);
            if first || self.passed >= settings.healthy_threshold {
                self.healthy = true;
            }
        } else {
            self.passed = 0;
            self.failed = self.failed.saturating_add(1);
            if outcome == Outcome::Refused || self.failed >= settings.unhealthy_threshold {
                self.healthy = false;
            }
        }
        let changed = self.healthy != before;
        Step {
            healthy: self.healthy,
            changed,
            wait: settings.wait(self.healthy, changed, used, roll),
        }
    }
}

// === impl Settings ===

impl Settings {
    fn wait(&self, healthy: bool, changed: bool, used: bool, roll: u64) -> Duration {
        let intervals = &self.intervals;
        let base = match (used, healthy, changed) {
            (false, false, _) => intervals.no_traffic,
            (false, true, _) => intervals.no_traffic_healthy,
            (true, true, false) => intervals.healthy,
            (true, true, true) => intervals.healthy_edge,
            (true, false, false) => intervals.unhealthy,
            (true, false, true) => intervals.unhealthy_edge,
        };
        let share = base.saturating_mul(self.interval_jitter_percent.min(100)) / 100;
        base.saturating_add(random(self.interval_jitter, roll))
            .saturating_add(random(share, roll.rotate_left(32)))
    }

    /// Before the first check.
    pub fn first_wait(&self, roll: u64) -> Duration {
        random(self.initial_jitter, roll)
    }
}

/// A time up to `most`, by lot, in milliseconds.
fn random(most: Duration, roll: u64) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(roll % most.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Network, Passed, Refused, Retriable};
    use super::*;

    fn settings() -> Settings {
        let seconds = Duration::from_secs;
        Settings {
            timeout: seconds(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            intervals: Intervals {
                healthy: seconds(10),
                healthy_edge: seconds(11),
                unhealthy: seconds(20),
                unhealthy_edge: seconds(21),
                no_traffic: seconds(60),
                no_traffic_healthy: seconds(50),
            },
        }
    }

    #[test]
    fn results_move_the_state_at_their_thresholds() {
        let cases: [(&[Outcome], bool); 10] = [
            (&[Passed], true),
            (&[Network], false),
            (&[Network, Passed], false),
            (&[Network, Passed, Passed], true),
            (&[Network, Passed, Network, Passed], false),
            (&[Passed, Network, Network], true),
            (&[Passed, Network, Network, Network], false),
            (&[Passed, Network, Network, Passed, Network], true),
            (&[Passed, Refused], false),
            (&[Passed, Retriable, Retriable], true),
        ];
        for (outcomes, expected) in cases {
            let mut check = Check::default();
            let last = outcomes
                .iter()
                .map(|o| check.after(&settings(), *o, true, 0))
                .last();
            assert_eq!(last.unwrap().healthy, expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_wait_follows_state_edge_and_traffic() {
        let cases: [(&[Outcome], bool, u64); 6] = [
            (&[Passed], true, 11),
            (&[Passed, Passed], true, 10),
            (&[Passed, Refused], true, 21),
            (&[Network], true, 20),
            (&[Passed], false, 50),
            (&[Network], false, 60),
        ];
        for (outcomes, used, seconds) in cases {
            let mut check = Check::default();
            let last = outcomes
                .iter()
                .map(|o| check.after(&settings(), *o, used, 0))
                .last();
            assert_eq!(last.unwrap().wait.as_secs(), seconds, "{outcomes:?}");
        }
    }

    #[test]
    fn jitter_adds_up_to_its_bounds() {
        let jittered = Settings {
            interval_jitter: Duration::from_secs(2),
            interval_jitter_percent: 50,
            initial_jitter: Duration::from_secs(3),
            ..settings()
        };
        for seed in 0..200u64 {
            let roll = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut check = Check::known(true);
            let wait = check.after(&jittered, Passed, true, roll).wait;
            assert!((10..=17).contains(&wait.as_secs()), "{wait:?}");
            assert!(jittered.first_wait(roll) <= Duration::from_secs(3));
        }
    }
}
