//! Whether a request is sent again: policy, state and outcome in, decision out. No clock, no socket, no chance but the
//! one that is given.
//!
//! A policy is explicit: where it names a condition that an outcome meets, the request is sent again whatever its
//! method, as Envoy does. Without a policy, or where it does not apply, only that is repeated which the server has
//! certainly not begun with; the caller sees to that and does not ask here.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;

use crate::matcher::{HeaderMatch, RequestView};

/// Envoy's shortest mean wait.
const BASE: Duration = Duration::from_millis(25);
/// Envoy's longest wait, as a multiple of the shortest.
const MOST: u32 = 10;
/// Envoy's longest wait that a response may ask for.
const RESET_MOST: Duration = Duration::from_secs(300);

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Conditions under which a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions(u32);

/// Envoy's names of conditions, each with its bit.
const CONDITIONS: [(&str, Conditions); 16] = [
    ("5xx", Conditions::SERVER_ERROR),
    ("gateway-error", Conditions::GATEWAY_ERROR),
    ("reset", Conditions::RESET),
    ("reset-before-request", Conditions::RESET_BEFORE_REQUEST),
    ("connect-failure", Conditions::CONNECT_FAILURE),
    ("refused-stream", Conditions::REFUSED_STREAM),
    ("retriable-4xx", Conditions::RETRIABLE_4XX),
    ("retriable-status-codes", Conditions::STATUS_CODES),
    ("retriable-headers", Conditions::HEADERS),
    ("envoy-ratelimited", Conditions::RATE_LIMITED),
    // Only with HTTP/3, which is not spoken.
    ("http3-post-connect-failure", Conditions(0)),
    ("cancelled", Conditions::CANCELLED),
    ("deadline-exceeded", Conditions::DEADLINE_EXCEEDED),
    ("resource-exhausted", Conditions::RESOURCE_EXHAUSTED),
    ("internal", Conditions::INTERNAL),
    ("unavailable", Conditions::UNAVAILABLE),
];

/// gRPC's statuses that may be retried, each with its condition.
const GRPC: [(&[u8], Conditions); 5] = [
    (b"1", Conditions::CANCELLED),
    (b"4", Conditions::DEADLINE_EXCEEDED),
    (b"8", Conditions::RESOURCE_EXHAUSTED),
    (b"13", Conditions::INTERNAL),
    (b"14", Conditions::UNAVAILABLE),
];

/// A route's or virtual host's policy.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// When.
    pub on: Conditions,
    /// How often, after the first attempt.
    pub retries: u32,
    /// For one attempt, its answer included.
    pub per_try_timeout: Option<Duration>,
    /// For one attempt without a byte.
    pub per_try_idle_timeout: Option<Duration>,
    /// The wait before the first retry is at most this; it doubles…
    pub base: Duration,
    /// … up to this.
    pub most: Duration,
    /// With `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// With `retriable-headers`: conditions on the response, one of which must hold.
    pub response_headers: Vec<HeaderMatch>,
    /// Conditions on the request, one of which must hold if there are any.
    pub request_headers: Vec<HeaderMatch>,
    /// Endpoints that were tried are passed over…
    pub previous_hosts: bool,
    /// … so many times at most.
    pub reselections: u32,
    /// Waits that a response asks for.
    pub resets: Option<Resets>,
}

/// Headers by which a response says when to come again.
#[derive(Debug, Clone)]
pub struct Resets {
    /// The first that can be read counts.
    pub headers: Vec<(HeaderName, ResetFormat)>,
    /// Longer waits are not believed.
    pub most: Duration,
}

/// How a response says when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    Unix,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// A response's head.
    Head(u16, &'a HeaderMap),
    /// None.
    Failed(Failed),
}

/// Why no response came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// There was no connection.
    Connect,
    /// The upstream refused the stream and has not begun with it.
    Refused,
    /// The connection or stream broke; whether anything of the request was sent before.
    Reset {
        /// Something was.
        sent: bool,
    },
    /// The attempt took too long.
    PerTryTimeout,
    /// A circuit breaker stood in the way.
    Overflow,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The outcome is the client's.
    Deliver,
    /// It would be sent again, but there were enough attempts (`URX`).
    Exhausted,
    /// It is sent again after this time.
    After(Duration),
}

/// A request that may be sent again.
#[derive(Debug, Clone)]
pub struct Retry {
    on: Conditions,
    left: u32,
    /// The next wait is shorter than this.
    interval: Duration,
    most: Duration,
    statuses: Vec<u16>,
    /// Response headers that a trusted client names.
    names: Vec<HeaderName>,
}

// === impl Conditions ===

impl Conditions {
    /// Statuses from 500 on, and no response at all.
    pub const SERVER_ERROR: Conditions = Conditions(1);
    /// Statuses 502, 503, 504, and no response at all.
    pub const GATEWAY_ERROR: Conditions = Conditions(1 << 1);
    /// No response at all.
    pub const RESET: Conditions = Conditions(1 << 2);
    /// No response to a request of which nothing was sent.
    pub const RESET_BEFORE_REQUEST: Conditions = Conditions(1 << 3);
    /// No connection.
    pub const CONNECT_FAILURE: Conditions = Conditions(1 << 4);
    /// The stream was refused.
    pub const REFUSED_STREAM: Conditions = Conditions(1 << 5);
    /// Status 409.
    pub const RETRIABLE_4XX: Conditions = Conditions(1 << 6);
    /// Statuses of a list.
    pub const STATUS_CODES: Conditions = Conditions(1 << 7);
    /// Headers of the response.
    pub const HEADERS: Conditions = Conditions(1 << 8);
    /// `x-envoy-ratelimited`.
    pub const RATE_LIMITED: Conditions = Conditions(1 << 9);
    /// gRPC status 1.
    pub const CANCELLED: Conditions = Conditions(1 << 10);
    /// gRPC status 4.
    pub const DEADLINE_EXCEEDED: Conditions = Conditions(1 << 11);
    /// gRPC status 8.
    pub const RESOURCE_EXHAUSTED: Conditions = Conditions(1 << 12);
    /// gRPC status 13.
    pub const INTERNAL: Conditions = Conditions(1 << 13);
    /// gRPC status 14.
    pub const UNAVAILABLE: Conditions = Conditions(1 << 14);

    /// Conditions by Envoy's names, comma-separated; `Err` is the first that has no such name.
    pub fn parse(list: &str) -> Result<Conditions, String> {
        let mut all = Conditions::default();
        for name in names(list) {
            match CONDITIONS.iter().find(|(known, _)| *known == name) {
                Some((_, one)) => all = all.and(*one),
                None => return Err(name.to_owned()),
            }
        }
        Ok(all)
    }

    /// As [`Conditions::parse`], but other names are passed over: a client's mistake is not ours.
    fn known(list: &str) -> Conditions {
        names(list)
            .filter_map(|name| CONDITIONS.iter().find(|(known, _)| *known == name))
            .fold(Conditions::default(), |all, (_, one)| all.and(*one))
    }

    fn and(self, other: Conditions) -> Conditions {
        Conditions(self.0 | other.0)
    }

    /// Whether one of the others is among them.
    fn any(self, others: Conditions) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

// === impl RetryPolicy ===

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            on: Conditions::default(),
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            base: BASE,
            most: BASE.saturating_mul(MOST),
            statuses: Vec::new(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            previous_hosts: false,
            reselections: 1,
            resets: None,
        }
    }
}

impl RetryPolicy {
    /// The longest wait where only the shortest is configured.
    pub fn most_of(base: Duration) -> Duration {
        base.saturating_mul(MOST)
    }

    /// The longest wait that a response may ask for where none is configured.
    pub fn reset_most() -> Duration {
        RESET_MOST
    }
}

// === impl Retry ===

impl Retry {
    /// The state of a request that is about to be sent, by policy and by what a trusted client wants.
    pub fn new(
        policy: Option<&RetryPolicy>,
        wanted: Wanted,
        request: &RequestView<'_>,
    ) -> Option<Retry> {
        let mut on = policy.map(|policy| policy.on).unwrap_or_default();
        let conditions = policy.map_or(&[][..], |policy| &policy.request_headers);
        on = on.and(wanted.on);
        if !conditions.is_empty() && !conditions.iter().any(|one| one.matches(request)) {
            on = Conditions::default();
        }
        if on.is_empty() {
            return None;
        }
        let default = RetryPolicy::default();
        let policy = policy.unwrap_or(&default);
        let mut statuses = policy.statuses.clone();
        statuses.extend(wanted.statuses);
        Some(Retry {
            on,
            left: wanted.retries.unwrap_or(policy.retries),
            interval: policy.base,
            most: policy.most,
            statuses,
            names: wanted.names,
        })
    }

    /// What is to be done about an outcome. `roll` is any number, even in distribution; `unix` is the time in seconds.
    pub fn decide(
        &mut self,
        policy: Option<&RetryPolicy>,
        outcome: Outcome<'_>,
        unix: u64,
        roll: u64,
    ) -> Decision {
        let wants = match outcome {
            Outcome::Head(status, headers) => self.wants_head(policy, status, headers),
            Outcome::Failed(failed) => self.wants_failed(failed),
        };
        if !wants {
            return Decision::Deliver;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Decision::Exhausted;
        };
        self.left = left;
        let resets = policy.and_then(|policy| policy.resets.as_ref());
        let asked = match (outcome, resets) {
            (Outcome::Head(_, headers), Some(resets)) => resets.wait(headers, unix),
            _ => None,
        };
        match asked {
            // Envoy's spread: up to half as long again, so that not all come at once.
            Some(wait) => Decision::After(wait.saturating_add(below(wait / 2, roll))),
            None => {
                let wait = below(self.interval, roll).min(self.most);
                self.interval = self.interval.saturating_mul(2).min(self.most);
                Decision::After(wait)
            }
        }
    }

    fn wants_head(&self, policy: Option<&RetryPolicy>, status: u16, headers: &HeaderMap) -> bool {
        if headers.contains_key(RATE_LIMITED) {
            return self.on.any(Conditions::RATE_LIMITED);
        }
        let meets = |condition: Conditions, holds: bool| holds && self.on.any(condition);
        meets(Conditions::SERVER_ERROR, (500..600).contains(&status))
            || meets(Conditions::GATEWAY_ERROR, (502..=504).contains(&status))
            || meets(Conditions::RETRIABLE_4XX, status == 409)
            || meets(Conditions::STATUS_CODES, self.statuses.contains(&status))
            || meets(Conditions::HEADERS, self.has_header(policy, headers))
            || headers.get(GRPC_STATUS).is_some_and(|status| {
                let of = GRPC.iter().find(|(code, _)| *code == status.as_bytes());
                of.is_some_and(|(_, condition)| self.on.any(*condition))
            })
    }

    fn has_header(&self, policy: Option<&RetryPolicy>, headers: &HeaderMap) -> bool {
        // Conditions on a response's headers are written as those on a request's.
        let view = RequestView {
            method: "",
            path_and_query: "",
            authority: "",
            scheme: "",
            headers,
        };
        let configured = policy.map_or(&[][..], |policy| &policy.response_headers);
        configured.iter().any(|one| one.matches(&view))
            || self.names.iter().any(|name| headers.contains_key(name))
    }

    fn wants_failed(&self, failed: Failed) -> bool {
        // Envoy counts no response as one with a status from 500 on.
        let always = Conditions::SERVER_ERROR
            .and(Conditions::GATEWAY_ERROR)
            .and(Conditions::RESET);
        let unsent = always.and(Conditions::RESET_BEFORE_REQUEST);
        self.on.any(match failed {
            Failed::Overflow => return false,
            Failed::Connect => unsent.and(Conditions::CONNECT_FAILURE),
            Failed::Refused => always.and(Conditions::REFUSED_STREAM),
            Failed::Reset { sent: false } => unsent,
            Failed::Reset { sent: true } | Failed::PerTryTimeout => always,
        })
    }
}

/// A time from zero up to, but without, `end`.
fn below(end: Duration, roll: u64) -> Duration {
    let nanos = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(roll.checked_rem(nanos).unwrap_or(0))
}

impl Resets {
    /// The wait a response asks for.
    fn wait(&self, headers: &HeaderMap, unix: u64) -> Option<Duration> {
        self.headers.iter().find_map(|(name, format)| {
            let seconds: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let seconds = match format {
                ResetFormat::Seconds => seconds,
                ResetFormat::Unix => seconds.checked_sub(unix)?,
            };
            let wait = Duration::from_secs(seconds);
            (!wait.is_zero() && wait <= self.most).then_some(wait)
        })
    }
}

/// What a trusted client wants, by its request's `x-envoy-…` headers. Requests from outside have lost theirs before.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    on: Conditions,
    retries: Option<u32>,
    statuses: Vec<u16>,
    names: Vec<HeaderName>,
}

impl Wanted {
    /// Takes it from the headers.
    pub fn take(headers: &mut HeaderMap) -> Wanted {
        let is_asked = headers
            .keys()
            .any(|name| name.as_str().starts_with("x-envoy-"));
        if !is_asked {
            return Wanted::default();
        }
        let mut text = |name: HeaderName| {
            let value = headers.remove(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let conditions = |list: Option<String>| Conditions::known(list.as_deref().unwrap_or(""));
        let on = conditions(text(RETRY_ON)).and(conditions(text(RETRY_GRPC_ON)));
        let retries = text(MAX_RETRIES).and_then(|number| number.trim().parse().ok());
        let list = |text: Option<String>| text.unwrap_or_default();
        let statuses = list(text(STATUS_CODES));
        let header_names = list(text(HEADER_NAMES));
        Wanted {
            on,
            retries,
            statuses: names(&statuses)
                .filter_map(|code| code.parse().ok())
                .collect(),
            names: names(&header_names)
                .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
