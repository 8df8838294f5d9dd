//! Outlier detection: endpoints that fail more than others are ejected for a while, as Envoy does it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Settings of a cluster; percentages are 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Failures in a row that eject, by cause, and the percentage of detections that are enforced.
    pub consecutive_5xx: Threshold,
    /// The same of 502, 503 and 504.
    pub consecutive_gateway_failure: Threshold,
    /// The same of connections that failed or timed out; only where the origins are split.
    pub consecutive_local_origin_failure: Threshold,
    /// Failures of the proxy's own making are judged apart from the endpoint's answers.
    pub split_origins: bool,
    /// Between two sweeps.
    pub interval: Duration,
    /// An ejection lasts this, times the number of ejections in short order …
    pub base_ejection_time: Duration,
    /// … and at most this …
    pub max_ejection_time: Duration,
    /// … plus something random up to this.
    pub max_ejection_time_jitter: Duration,
    /// No more endpoints than this percentage are ejected at once …
    pub max_ejection_percent: u32,
    /// … but one always may be.
    pub always_eject_one: bool,
    /// Ejection of those whose success rate is far below the others'.
    pub success_rate: SuccessRate,
    /// Ejection of those that fail more often than a fixed percentage.
    pub failure_percentage: FailurePercentage,
    /// An active health check that succeeds ends an ejection.
    pub health_check_unejects: bool,
}

/// A number of failures in a row, and whether it ejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Failures in a row.
    pub count: u32,
    /// The percentage of detections that eject.
    pub enforcing: u32,
}

/// Settings of ejection by success rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// With fewer endpoints that have enough requests there is no comparison.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
    /// How many standard deviations below the mean are too far.
    pub stdev_factor: f64,
    /// The percentage of detections that eject.
    pub enforcing: u32,
    /// The same for the proxy's own failures.
    pub enforcing_local: u32,
}

/// Settings of ejection by failure percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// From this percentage on.
    pub threshold: u32,
    /// With fewer endpoints that have enough requests nobody is judged.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u32,
    /// The percentage of detections that eject.
    pub enforcing: u32,
    /// The same for the proxy's own failures.
    pub enforcing_local: u32,
}

/// What came of a request, as it counts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The endpoint answered with this HTTP status.
    Status(u16),
    /// An opaque connection was opened.
    Connected,
    /// The connection failed, or broke before the answer.
    ConnectFailed,
    /// There was no answer in time.
    TimedOut,
}

/// Why an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// 5xx in a row.
    Consecutive5xx,
    /// 502, 503, 504 in a row.
    ConsecutiveGatewayFailure,
    /// Failed connections in a row.
    ConsecutiveLocalOriginFailure,
    /// Far less success than the others.
    SuccessRate,
    /// Far less success in connecting than the others.
    LocalOriginSuccessRate,
    /// Too many failures.
    FailurePercentage,
    /// Too many failed connections.
    LocalOriginFailurePercentage,
}

/// What is counted of an endpoint between sweeps, by all workers.
#[derive(Debug, Default)]
pub struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Bucket,
    local: Bucket,
}

#[derive(Debug, Default)]
struct Bucket {
    total: AtomicU64,
    success: AtomicU64,
}

/// An endpoint's ejections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ejection {
    since: Option<Instant>,
    jitter: Duration,
    times: u32,
}

/// The outcome of a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint is ejected.
    Ejected,
    /// It is an outlier, but the percentage of enforcement spares it.
    Spared,
    /// Too many are ejected.
    Overflow,
}

// === impl Settings ===

impl Default for Settings {
    /// Envoy's defaults.
    fn default() -> Settings {
        let five = |enforcing| Threshold {
            count: 5,
            enforcing,
        };
        Settings {
            consecutive_5xx: five(100),
            consecutive_gateway_failure: five(0),
            consecutive_local_origin_failure: five(100),
            split_origins: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1.9,
                enforcing: 100,
                enforcing_local: 100,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                minimum_hosts: 5,
                request_volume: 50,
                enforcing: 0,
                enforcing_local: 0,
            },
            health_check_unejects: true,
        }
    }
}

impl Settings {
    /// The percentage of detections by this cause that eject.
    fn enforcing(&self, cause: Cause) -> u32 {
        match cause {
            Cause::Consecutive5xx => self.consecutive_5xx.enforcing,
            Cause::ConsecutiveGatewayFailure => self.consecutive_gateway_failure.enforcing,
            Cause::ConsecutiveLocalOriginFailure => self.consecutive_local_origin_failure.enforcing,
            Cause::SuccessRate => self.success_rate.enforcing,
            Cause::LocalOriginSuccessRate => self.success_rate.enforcing_local,
            Cause::FailurePercentage => self.failure_percentage.enforcing,
            Cause::LocalOriginFailurePercentage => self.failure_percentage.enforcing_local,
        }
    }

    /// Decides on a detected outlier. `ejected` of `hosts` endpoints are ejected now; `roll` is any number.
    pub fn judge(
        &self,
        cause: Cause,
        ejection: &mut Ejection,
        (ejected, hosts): (usize, usize),
        now: Instant,
        roll: u64,
    ) -> Verdict {
        let percent = ejected.saturating_add(1).saturating_mul(100);
        let most = usize::try_from(self.max_ejection_percent.min(100)).unwrap_or(100);
        let fits = percent <= most.saturating_mul(hosts);
        let is_first = self.always_eject_one && ejected == 0;
        if !fits && !is_first {
            return Verdict::Overflow;
        }
        if roll % 100 >= u64::from(self.enforcing(cause)) {
            return Verdict::Spared;
        }
        ejection.since = Some(now);
        let jitter = u64::try_from(self.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
        ejection.jitter = Duration::from_millis((roll >> 8) % jitter.saturating_add(1));
        let most = self
            .max_ejection_time
            .saturating_add(self.base_ejection_time);
        if self.base_ejection_time.saturating_mul(ejection.times) < most {
            ejection.times = ejection.times.saturating_add(1);
        }
        Verdict::Ejected
    }

    /// A sweep over the endpoints' ejections: those whose time is over end, the others' count goes down while they
    /// behave. Yields whether this one has just ended.
    pub fn pardon(&self, ejection: &mut Ejection, now: Instant) -> bool {
        let Some(since) = ejection.since else {
            ejection.times = ejection.times.saturating_sub(1);
            return false;
        };
        let term = self.base_ejection_time.saturating_mul(ejection.times);
        let term = term
            .min(self.max_ejection_time)
            .saturating_add(ejection.jitter);
        let over = now.saturating_duration_since(since) >= term;
        if over {
            ejection.since = None;
        }
        over
    }

    /// The outliers of an interval: for each endpoint its requests of the interval, `None` for those ejected already.
    pub fn compare(&self, volumes: &[Option<Volume>], local: bool) -> Vec<(usize, Cause)> {
        let (rate_cause, percentage_cause) = if local {
            (
                Cause::LocalOriginSuccessRate,
                Cause::LocalOriginFailurePercentage,
            )
        } else {
            (Cause::SuccessRate, Cause::FailurePercentage)
        };
        let rate = self.success_rate;
        let percentage = self.failure_percentage;
        let mut outliers = Vec::new();
        let enough = |request_volume: u32| {
            let rates = volumes
                .iter()
                .enumerate()
                .filter_map(move |(index, volume)| {
                    let volume =
                        volume.filter(|v| v.total > 0 && v.total >= u64::from(request_volume))?;
                    Some((index, volume.rate()))
                });
            rates.collect::<Vec<(usize, f64)>>()
        };
        let rates = enough(rate.request_volume);
        if !rates.is_empty()
            && rates.len() >= usize::try_from(rate.minimum_hosts).unwrap_or(usize::MAX)
        {
            let threshold = far_below(&rates, rate.stdev_factor);
            let found = rates.iter().filter(|(_, rate)| *rate < threshold);
            outliers.extend(found.map(|(index, _)| (*index, rate_cause)));
        }
        let rates = enough(percentage.request_volume);
        if !rates.is_empty()
            && rates.len() >= usize::try_from(percentage.minimum_hosts).unwrap_or(usize::MAX)
        {
            let found = rates
                .iter()
                .filter(|(_, rate)| 100.0 - rate >= f64::from(percentage.threshold));
            outliers.extend(found.map(|(index, _)| (*index, percentage_cause)));
        }
        outliers
    }
}

/// The mean less so many standard deviations.
fn far_below(rates: &[(usize, f64)], factor: f64) -> f64 {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates
        .iter()
        .map(|(_, rate)| (rate - mean).powi(2))
        .sum::<f64>()
        / count;
    mean - factor * variance.sqrt()
}

/// Requests of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// All.
    pub total: u64,
    /// Those that went well.
    pub success: u64,
}

impl Volume {
    /// In percent.
    pub fn rate(&self) -> f64 {
        100.0 * self.success as f64 / self.total as f64
    }
}

// === impl Monitor ===

impl Monitor {
    /// Counts an event, and tells if it makes the endpoint an outlier.
    pub fn record(&self, settings: &Settings, event: Event) -> Option<Cause> {
        if settings.split_origins {
            return match event {
                Event::Status(status) => {
                    self.local_success();
                    self.answered(settings, status)
                }
                Event::Connected => {
                    self.local_success();
                    None
                }
                Event::ConnectFailed | Event::TimedOut => self.local_failure(settings),
            };
        }
        let status = match event {
            Event::Status(status) => status,
            Event::Connected => 200,
            Event::ConnectFailed => 503,
            Event::TimedOut => 504,
        };
        self.answered(settings, status)
    }

    fn answered(&self, settings: &Settings, status: u16) -> Option<Cause> {
        let is_failure = (500..600).contains(&status);
        self.external.count(!is_failure);
        if !is_failure {
            clear(&self.consecutive_5xx);
            clear(&self.consecutive_gateway);
            return None;
        }
        let mut cause = None;
        if matches!(status, 502..=504) {
            if reaches(
                &self.consecutive_gateway,
                settings.consecutive_gateway_failure,
            ) {
                cause = Some(Cause::ConsecutiveGatewayFailure);
            }
        } else {
            clear(&self.consecutive_gateway);
        }
        if reaches(&self.consecutive_5xx, settings.consecutive_5xx) {
            // Of two that are reached at once, the one that is enforced.
            let keep = cause.is_some() && settings.consecutive_5xx.enforcing == 0;
            cause = cause.filter(|_| keep).or(Some(Cause::Consecutive5xx));
        }
        cause
    }

    fn local_success(&self) {
        self.local.count(true);
        clear(&self.consecutive_local);
    }

    fn local_failure(&self, settings: &Settings) -> Option<Cause> {
        self.local.count(false);
        reaches(
            &self.consecutive_local,
            settings.consecutive_local_origin_failure,
        )
        .then_some(Cause::ConsecutiveLocalOriginFailure)
    }

    /// Forgets failures in a row: the endpoint gets a new chance.
    pub fn forgive(&self) {
        clear(&self.consecutive_5xx);
        clear(&self.consecutive_gateway);
        clear(&self.consecutive_local);
    }

    /// The interval's requests, the endpoint's answers or the proxy's connections; counting begins anew.
    pub fn take(&self, local: bool) -> Volume {
        let bucket = if local { &self.local } else { &self.external };
        Volume {
            total: bucket.total.swap(0, Ordering::Relaxed),
            success: bucket.success.swap(0, Ordering::Relaxed),
        }
    }
}

impl Bucket {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Ejection {
    /// Whether it lasts.
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.since = None;
    }
}

fn clear(counter: &AtomicU32) {
    // Reading first keeps the line shared while all is well.
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

/// Counts one more in a row; at the threshold counting begins anew, so that a next bout is seen, too.
fn reaches(counter: &AtomicU32, threshold: Threshold) -> bool {
    let reached =
        counter.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= threshold.count.max(1);
    if reached {
        counter.store(0, Ordering::Relaxed);
    }
    reached
}

#[cfg(test)]
mod tests;
