//! How long a request and its attempts may take: route, connection manager, trusted headers, gRPC's deadline.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::access::milliseconds;
use crate::route::Forward;

const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Digits of a `grpc-timeout`, by gRPC's protocol.
const GRPC_DIGITS: usize = 8;

/// How long a request may take. `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// All attempts and the answer, from the end of the request on: a request that goes on is not cut.
    pub whole: Option<Duration>,
    /// One attempt and its answer, from the end of the request on, or from its connection if that is later.
    pub attempt: Option<Duration>,
    /// One attempt without a byte from the upstream.
    pub attempt_idle: Option<Duration>,
    /// Request and answer without a byte in either direction.
    pub idle: Option<Duration>,
    /// The client takes nothing of what it was sent.
    pub flush: Option<Duration>,
    /// Request and answer together, from the request's beginning on.
    pub stream: Option<Duration>,
    /// The request, from its beginning to its end.
    pub request: Option<Duration>,
}

/// What the connection manager and the router say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaults {
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// Request and answer together.
    pub stream: Option<Duration>,
    /// The request.
    pub request: Option<Duration>,
    /// The proxy before has said how long it waits, and it is believed.
    pub respect_expected: bool,
    /// The next is not told how long it has.
    pub suppress: bool,
}

impl Timing {
    /// The times of a request. Takes from its headers what was meant for this proxy (requests from outside have lost it
    /// before) and tells the next how long it has.
    pub fn new(
        action: &Forward,
        defaults: Defaults,
        headers: &mut HeaderMap,
        is_grpc: bool,
    ) -> Timing {
        let retry = action.retry.as_deref();
        let mut whole = match action.stream_duration {
            // As in Envoy: who limits the stream leaves the answer's limit to headers.
            Some(_) => None,
            None => action.timeout,
        };
        let expected = headers.get(EXPECTED).and_then(number);
        let told = expected.filter(|_| defaults.respect_expected);
        match told {
            Some(told) => whole = positive(told),
            None => {
                if let Some(wanted) = take(headers, REQUEST_TIMEOUT) {
                    whole = positive(wanted);
                }
            }
        }
        let mut attempt = retry.and_then(|retry| retry.per_try_timeout);
        if let Some(wanted) = take(headers, TRY_TIMEOUT) {
            attempt = positive(wanted);
        }
        // An attempt that may take as long as all of them has no limit of its own.
        attempt = attempt.filter(|attempt| whole.is_none_or(|whole| *attempt < whole));
        if let Some(told) = attempt.or(whole)
            && !defaults.suppress
            && (!defaults.respect_expected || expected.is_none())
        {
            headers.insert(EXPECTED, HeaderValue::from(milliseconds(told)));
        }
        let idle = match action.idle_timeout {
            Some(idle) => Some(idle).filter(|idle| !idle.is_zero()),
            None => defaults.idle,
        };
        Timing {
            whole,
            attempt,
            attempt_idle: retry.and_then(|retry| retry.per_try_idle_timeout),
            idle,
            flush: action
                .flush_timeout
                .or(idle)
                .filter(|flush| !flush.is_zero()),
            stream: stream(action, defaults, headers, is_grpc),
            request: defaults.request,
        }
    }
}

/// The limit of request and answer together; gRPC's deadline counts where the route says so.
fn stream(
    action: &Forward,
    defaults: Defaults,
    headers: &mut HeaderMap,
    is_grpc: bool,
) -> Option<Duration> {
    let duration = action.stream_duration.unwrap_or_default();
    let deadline = headers
        .get(GRPC_TIMEOUT)
        .and_then(|value| grpc_timeout(value.to_str().ok()?));
    let (Some(most), Some(deadline), true) = (duration.grpc_most, deadline, is_grpc) else {
        return match duration.limit {
            Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
            None => defaults.stream,
        };
    };
    let mut limit = deadline;
    if !most.is_zero() {
        limit = limit.min(most);
    }
    limit = limit.saturating_sub(duration.grpc_less.unwrap_or_default());
    if let Ok(value) = HeaderValue::from_str(&write_grpc_timeout(limit)) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    Some(limit)
}

fn positive(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

/// Takes a number of milliseconds from the headers; what is no number stays, as in Envoy.
fn take(headers: &mut HeaderMap, name: HeaderName) -> Option<u64> {
    let found = headers.get(&name).and_then(number)?;
    headers.remove(name);
    Some(found)
}

/// Reads gRPC's deadline: up to eight digits and a unit.
pub fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty()
        || digits.len() > GRPC_DIGITS
        || !digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes gRPC's deadline in the finest unit from milliseconds on that its digits hold.
fn write_grpc_timeout(limit: Duration) -> String {
    let most: u128 = 99_999_999;
    let milliseconds = limit.as_millis();
    let units = [("m", 1), ("S", 1000), ("M", 60_000), ("H", 3_600_000)];
    let fits = units
        .iter()
        .find(|(_, unit)| milliseconds / unit <= most)
        .map(|(name, unit)| format!("{}{name}", milliseconds / unit));
    fits.unwrap_or_else(|| format!("{most}H"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::retry::RetryPolicy;
    use crate::route::{HostRewrite, PathRewrite, StreamDuration, Target};

    fn action() -> Forward {
        Forward {
            subset: Default::default(),
            hash: Vec::new(),
            priority: Default::default(),
            target: Target::Cluster("c".into()),
            timeout: Some(Duration::from_secs(15)),
            idle_timeout: None,
            flush_timeout: None,
            stream_duration: None,
            path_rewrite: PathRewrite::Keep,
            host_rewrite: HostRewrite::Keep,
            append_forwarded_host: false,
            upgrades: Vec::new(),
            not_found: 503,
            retry: None,
            rate_limits: Vec::new(),
            include_host_rate_limits: false,
            cors: None,
        }
    }

    fn ms(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    fn timing(
        action: &Forward,
        defaults: Defaults,
        request: &[(&'static str, &str)],
    ) -> (Timing, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in request {
            headers.insert(*name, value.parse().unwrap());
        }
        let timing = Timing::new(action, defaults, &mut headers, true);
        (timing, headers)
    }

    #[test]
    fn trusted_headers_count_and_the_next_is_told() {
        type Case = (
            &'static [(&'static str, &'static str)],
            Option<Duration>,
            Option<Duration>,
            Option<&'static str>,
        );
        let cases: [Case; 7] = [
            (&[], ms(15_000), ms(300), Some("300")),
            (
                &[("x-envoy-upstream-rq-timeout-ms", "2000")],
                ms(2000),
                ms(300),
                Some("300"),
            ),
            (
                &[("x-envoy-upstream-rq-timeout-ms", "200")],
                ms(200),
                None,
                Some("200"),
            ),
            (
                &[("x-envoy-upstream-rq-timeout-ms", "0")],
                None,
                ms(300),
                Some("300"),
            ),
            (
                &[("x-envoy-upstream-rq-timeout-ms", "x")],
                ms(15_000),
                ms(300),
                Some("300"),
            ),
            (
                &[("x-envoy-upstream-rq-per-try-timeout-ms", "40")],
                ms(15_000),
                ms(40),
                Some("40"),
            ),
            (
                &[("x-envoy-upstream-rq-per-try-timeout-ms", "0")],
                ms(15_000),
                None,
                Some("15000"),
            ),
        ];
        for (request, whole, attempt, told) in cases {
            let mut action = action();
            action.retry = Some(Arc::new(RetryPolicy {
                per_try_timeout: ms(300),
                ..RetryPolicy::default()
            }));
            let (timing, headers) = timing(&action, Defaults::default(), request);
            assert_eq!(
                (timing.whole, timing.attempt),
                (whole, attempt),
                "{request:?}"
            );
            let found = headers.get(EXPECTED).map(|value| value.to_str().unwrap());
            assert_eq!(found, told, "{request:?}");
        }
    }

    #[test]
    fn what_the_proxy_before_expects_is_respected_where_configured() {
        let request = [
            ("x-envoy-expected-rq-timeout-ms", "70"),
            ("x-envoy-upstream-rq-timeout-ms", "90"),
        ];
        for (respect_expected, whole, told) in [(true, ms(70), "70"), (false, ms(90), "90")] {
            let defaults = Defaults {
                respect_expected,
                ..Defaults::default()
            };
            let (timing, headers) = timing(&action(), defaults, &request);
            assert_eq!(timing.whole, whole);
            assert_eq!(headers[EXPECTED], told);
        }
        let silent = Defaults {
            suppress: true,
            ..Defaults::default()
        };
        assert!(!timing(&action(), silent, &[]).1.contains_key(EXPECTED));
    }

    #[test]
    fn idle_times_of_the_route_come_before_those_of_the_manager() {
        let defaults = Defaults {
            idle: ms(300_000),
            ..Defaults::default()
        };
        for (route, expected) in [(None, ms(300_000)), (ms(7), ms(7)), (ms(0), None)] {
            let mut action = action();
            action.idle_timeout = route;
            let (timing, _) = timing(&action, defaults, &[]);
            assert_eq!((timing.idle, timing.flush), (expected, expected));
        }
    }

    #[test]
    fn grpcs_deadline_counts_where_the_route_says_so() {
        let duration = |limit, grpc_most, grpc_less| {
            Some(StreamDuration {
                limit,
                grpc_most,
                grpc_less,
            })
        };
        let cases = [
            (None, "1S", ms(9000), "1S"),
            (duration(ms(2000), None, None), "1S", ms(2000), "1S"),
            (duration(ms(0), None, None), "1S", None, "1S"),
            (duration(ms(2000), ms(0), None), "5S", ms(5000), "5000m"),
            (duration(ms(2000), ms(3000), None), "5S", ms(3000), "3000m"),
            (duration(None, ms(3000), ms(100)), "1S", ms(900), "900m"),
            (duration(None, ms(3000), ms(5000)), "1S", ms(0), "0m"),
            (duration(None, ms(3000), None), "soon", ms(9000), "soon"),
        ];
        for (stream_duration, deadline, expected, told) in cases {
            let mut action = action();
            action.stream_duration = stream_duration;
            let defaults = Defaults {
                stream: ms(9000),
                ..Defaults::default()
            };
            let (timing, headers) = timing(&action, defaults, &[("grpc-timeout", deadline)]);
            assert_eq!(timing.stream, expected, "{stream_duration:?} {deadline}");
            assert_eq!(headers[GRPC_TIMEOUT], told, "{stream_duration:?}");
            assert_eq!(timing.whole.is_none(), stream_duration.is_some());
        }
    }

    #[test]
    fn grpc_deadlines_are_read_strictly_and_written_to_fit() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789n", None),
            ("S", None),
            ("+1S", None),
            ("1s", None),
            ("", None),
            ("1é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
        assert_eq!(write_grpc_timeout(Duration::from_secs(99_999)), "99999000m");
        assert_eq!(write_grpc_timeout(Duration::from_secs(100_000)), "100000S");
    }
}
