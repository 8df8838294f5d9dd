//! Outlier detection of a cluster: what workers report is judged, ejections are applied and ended.

use std::time::Instant;

use lb::outlier::{Cause, Event, Settings, Verdict};

use super::choice::Outcome;
use super::endpoint::{Endpoint, Flag};
use super::members::{Member, next};
use super::{Cluster, State};

impl From<Outcome> for Event {
    fn from(outcome: Outcome) -> Event {
        match outcome {
            Outcome::Status(status) => Event::Status(status.as_u16()),
            Outcome::Connected => Event::Connected,
            Outcome::ConnectFailed | Outcome::Reset => Event::ConnectFailed,
            Outcome::ConnectTimeout | Outcome::Timeout => Event::TimedOut,
        }
    }
}

impl Cluster {
    /// Judges what came of a request.
    pub(super) fn judge(&self, endpoint: &Endpoint, outcome: Outcome, roll: u64) {
        let Some(settings) = &self.config.outliers else {
            return;
        };
        if let Some(cause) = endpoint.monitor.record(settings, outcome.into()) {
            self.detected(settings, endpoint, cause, Instant::now(), roll);
        }
    }

    /// An endpoint is an outlier: failures in a row were counted.
    fn detected(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        cause: Cause,
        now: Instant,
        roll: u64,
    ) {
        let mut state = self.state.lock();
        let found = |member: &Member| std::ptr::eq(&*member.endpoint, endpoint);
        let Some(index) = state.members.iter().position(found) else {
            return; // It has left since.
        };
        if self.eject(settings, &mut state, index, cause, now, roll) {
            self.publish(&state);
        }
    }

    fn eject(
        &self,
        settings: &Settings,
        state: &mut State,
        index: usize,
        cause: Cause,
        now: Instant,
        roll: u64,
    ) -> bool {
        let hosts = state.members.len();
        let ejected = state.members.iter().filter(|m| m.ejection.is_on()).count();
        let Some(member) = state.members.get_mut(index) else {
            return false;
        };
        if member.ejection.is_on() {
            return false;
        }
        let stats = &self.balance.outliers;
        stats.detected(cause);
        let verdict = settings.judge(cause, &mut member.ejection, (ejected, hosts), now, roll);
        match verdict {
            Verdict::Ejected => {
                member.endpoint.set(Flag::FailedOutlierCheck, true);
                stats.enforced(cause);
                let address = member.config.address;
                tracing::info!(cluster = %self.config.name, %address, ?cause, "endpoint ejected");
            }
            Verdict::Spared => {}
            Verdict::Overflow => stats.overflow.increment(),
        }
        verdict == Verdict::Ejected
    }

    /// A sweep: ejections whose time is over end, and the interval's requests are compared.
    pub fn sweep(&self, now: Instant, roll: u64) {
        let Some(settings) = &self.config.outliers else {
            return;
        };
        let mut state = self.state.lock();
        let mut changed = false;
        for member in &mut state.members {
            if settings.pardon(&mut member.ejection, now) {
                readmit(member);
                changed = true;
            }
        }
        let mut roll = roll;
        for local in [false, true] {
            if local && !settings.split_origins {
                continue;
            }
            let volumes: Vec<_> = state
                .members
                .iter()
                .map(|member| {
                    let volume = member.endpoint.monitor.take(local);
                    (!member.ejection.is_on()).then_some(volume)
                })
                .collect();
            for (index, cause) in settings.compare(&volumes, local) {
                roll = next(roll);
                changed |= self.eject(settings, &mut state, index, cause, now, roll >> 16);
            }
        }
        if changed {
            self.publish(&state);
        }
    }
}

/// Ends what is left of an ejection: the endpoint serves again.
pub(super) fn readmit(member: &mut Member) {
    member.ejection.end();
    member.endpoint.set(Flag::FailedOutlierCheck, false);
    member.endpoint.monitor.forgive();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::StatusCode;

    use super::super::choice::ChoiceContext;
    use super::super::testing::{assignment, cluster_with, endpoint};
    use super::*;

    fn outlying(change: impl FnOnce(&mut Settings)) -> Arc<Cluster> {
        let mut settings = Settings {
            max_ejection_percent: 50,
            ..Settings::default()
        };
        change(&mut settings);
        let cluster = cluster_with(|config| config.outliers = Some(settings));
        cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
        cluster
    }

    fn ports(cluster: &Arc<Cluster>) -> Vec<u16> {
        let mut ports: Vec<u16> = (0..20)
            .map(|roll| {
                let chosen = cluster.choose(&ChoiceContext::of_proxy(roll)).unwrap();
                chosen.endpoint.config.address.port()
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    #[test]
    fn an_endpoint_that_fails_in_a_row_is_left_out_until_its_time_is_over() {
        let cluster = outlying(|_| {});
        let all = cluster.endpoints.load().all.clone();
        for _ in 0..5 {
            cluster.report(&all[0].endpoint, Outcome::Status(StatusCode::BAD_GATEWAY));
        }
        assert_eq!(ports(&cluster), [2]);
        assert_eq!(all[0].endpoint.health_flags(), "/failed_outlier_check");
        for _ in 0..5 {
            cluster.report(&all[1].endpoint, Outcome::ConnectFailed);
        }
        assert_eq!(ports(&cluster), [2], "not more than half are ejected");
        let (mut names, stats) = (Vec::new(), &cluster.balance);
        stats.numbers(&mut |name, _, value| {
            if name.starts_with("outlier_detection") && value != 0 {
                names.push((name.to_owned(), value));
            }
        });
        let expected = [
            ("outlier_detection.ejections_active", 1),
            ("outlier_detection.ejections_enforced_total", 1),
            ("outlier_detection.ejections_overflow", 1),
            ("outlier_detection.ejections_detected_consecutive_5xx", 2),
            ("outlier_detection.ejections_enforced_consecutive_5xx", 1),
        ];
        assert_eq!(
            names,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        let now = Instant::now();
        cluster.sweep(now + Duration::from_secs(29), 0);
        assert_eq!(ports(&cluster), [2]);
        cluster.sweep(now + Duration::from_secs(31), 0);
        assert_eq!(ports(&cluster), [1, 2]);
    }

    #[test]
    fn a_sweep_compares_what_came_of_the_intervals_requests() {
        let cluster = outlying(|settings| {
            settings.consecutive_5xx.enforcing = 0;
            settings.failure_percentage.minimum_hosts = 2;
            settings.failure_percentage.enforcing = 100;
        });
        let all = cluster.endpoints.load().all.clone();
        for _ in 0..50 {
            cluster.report(&all[0].endpoint, Outcome::Status(StatusCode::OK));
            cluster.report(&all[1].endpoint, Outcome::Timeout);
        }
        assert_eq!(ports(&cluster), [1, 2]);
        cluster.sweep(Instant::now(), 0);
        assert_eq!(ports(&cluster), [1]);
    }

    #[test]
    fn an_ejected_endpoint_that_leaves_and_comes_back_is_new() {
        let cluster = outlying(|_| {});
        let first = cluster.endpoints.load().all[0].endpoint.clone();
        (0..5).for_each(|_| cluster.report(&first, Outcome::Reset));
        cluster.assign(assignment(vec![endpoint(2, 1, 0)]));
        assert!(first.is_removed());
        cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
        assert_eq!(ports(&cluster), [1, 2]);
        (0..5).for_each(|_| cluster.report(&first, Outcome::Reset));
        assert_eq!(
            ports(&cluster),
            [1, 2],
            "the old one's failures are its own"
        );
    }
}
