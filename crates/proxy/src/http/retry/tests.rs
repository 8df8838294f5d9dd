//! Outcomes and decisions.

use super::*;
use crate::matcher::{HeaderCondition, HeaderKey, StringMatch};

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn policy(on: &str) -> RetryPolicy {
    RetryPolicy {
        on: Conditions::parse(on).unwrap(),
        ..RetryPolicy::default()
    }
}

fn start(policy: Option<&RetryPolicy>, request: &[(&'static str, &str)]) -> Option<Retry> {
    let mut headers = headers(request);
    let before = headers.clone();
    let view = RequestView {
        method: "POST",
        path_and_query: "/",
        authority: "h",
        scheme: "http",
        headers: &before,
    };
    let retry = Retry::new(policy, Wanted::take(&mut headers), &view);
    assert!(
        headers.keys().all(|name| !name.as_str().contains("-ret")),
        "its own headers are taken: {headers:?}"
    );
    retry
}

fn is_retried(policy: &RetryPolicy, outcome: Outcome<'_>) -> bool {
    let mut retry = start(Some(policy), &[]).unwrap();
    retry.decide(Some(policy), outcome, 0, 0) != Decision::Deliver
}

#[test]
fn each_condition_takes_its_outcomes() {
    let grpc = |status: &str| (200, headers(&[("grpc-status", status)]));
    let plain = |status| (status, HeaderMap::new());
    let cases = [
        ("5xx", plain(500), true),
        ("5xx", plain(599), true),
        ("5xx", plain(499), false),
        ("gateway-error", plain(500), false),
        ("gateway-error", plain(502), true),
        ("gateway-error", plain(504), true),
        ("gateway-error", plain(505), false),
        ("retriable-4xx", plain(409), true),
        ("retriable-4xx", plain(404), false),
        ("reset", plain(503), false),
        ("retriable-status-codes", plain(418), true),
        ("retriable-status-codes", plain(419), false),
        (
            "5xx",
            (503, headers(&[("x-envoy-ratelimited", "true")])),
            false,
        ),
        (
            "envoy-ratelimited",
            (429, headers(&[("x-envoy-ratelimited", "true")])),
            true,
        ),
        ("envoy-ratelimited", plain(429), false),
        (
            "retriable-headers",
            (200, headers(&[("x-again", "yes")])),
            true,
        ),
        (
            "retriable-headers",
            (200, headers(&[("x-again", "no")])),
            false,
        ),
        ("cancelled", grpc("1"), true),
        ("cancelled", grpc("14"), false),
        ("unavailable,cancelled", grpc("14"), true),
        ("deadline-exceeded", grpc("4"), true),
        ("resource-exhausted", grpc("8"), true),
        ("internal", grpc("13"), true),
        ("5xx", grpc("14"), false),
    ];
    for (on, (status, headers), expected) in cases {
        let mut policy = policy(on);
        policy.statuses = vec![418];
        policy.response_headers = vec![HeaderMatch {
            key: HeaderKey::parse("x-again").unwrap(),
            condition: HeaderCondition::Value(StringMatch::Exact("yes".into())),
            invert: false,
            missing_is_empty: false,
        }];
        let outcome = Outcome::Head(status, &headers);
        assert_eq!(
            is_retried(&policy, outcome),
            expected,
            "{on} {status} {headers:?}"
        );
    }
}

#[test]
fn failures_count_as_envoy_counts_them() {
    let all = [
        Failed::Connect,
        Failed::Refused,
        Failed::Reset { sent: false },
        Failed::Reset { sent: true },
        Failed::PerTryTimeout,
        Failed::Overflow,
    ];
    let cases = [
        ("5xx", [true, true, true, true, true, false]),
        ("gateway-error", [true, true, true, true, true, false]),
        ("reset", [true, true, true, true, true, false]),
        (
            "reset-before-request",
            [true, false, true, false, false, false],
        ),
        ("connect-failure", [true, false, false, false, false, false]),
        ("refused-stream", [false, true, false, false, false, false]),
        ("retriable-4xx", [false; 6]),
        ("unavailable", [false; 6]),
    ];
    for (on, expected) in cases {
        let is = all.map(|failed| is_retried(&policy(on), Outcome::Failed(failed)));
        assert_eq!(is, expected, "{on}");
    }
}

#[test]
fn retries_end_and_waits_double_up_to_the_most() {
    let mut policy = policy("5xx");
    policy.retries = 6;
    let mut retry = start(Some(&policy), &[]).unwrap();
    let failed = Outcome::Failed(Failed::Connect);
    let mut waits = Vec::new();
    // One nanosecond less than each bound is the longest wait.
    for bound in [25u64, 50, 100, 200, 250, 250] {
        match retry.decide(Some(&policy), failed, 0, bound * 1_000_000 - 1) {
            Decision::After(wait) => waits.push(wait.as_millis()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [24, 49, 99, 199, 249, 249]);
    assert_eq!(
        retry.decide(Some(&policy), failed, 0, 0),
        Decision::Exhausted
    );
    let delivered = retry.decide(Some(&policy), Outcome::Head(200, &HeaderMap::new()), 0, 0);
    assert_eq!(delivered, Decision::Deliver);
}

#[test]
fn a_response_may_ask_for_a_wait() {
    let mut policy = policy("5xx");
    policy.retries = 100;
    policy.resets = Some(Resets {
        headers: vec![
            (HeaderName::from_static("retry-after"), ResetFormat::Seconds),
            (HeaderName::from_static("x-reset"), ResetFormat::Unix),
        ],
        most: Duration::from_secs(60),
    });
    type Case = (&'static [(&'static str, &'static str)], Option<u64>);
    let cases: [Case; 7] = [
        (&[("retry-after", "10")], Some(10)),
        (&[("retry-after", "60")], Some(60)),
        (&[("retry-after", "61")], None),
        (&[("retry-after", "0")], None),
        (&[("retry-after", "soon"), ("x-reset", "1005")], Some(5)),
        (&[("x-reset", "999")], None),
        (&[], None),
    ];
    for (list, seconds) in cases {
        let mut retry = start(Some(&policy), &[]).unwrap();
        let map: HeaderMap = list
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let decision = retry.decide(Some(&policy), Outcome::Head(503, &map), 1000, 0);
        let expected = seconds.map_or(Duration::ZERO, Duration::from_secs);
        assert_eq!(decision, Decision::After(expected), "{list:?}");
    }
    let mut retry = start(Some(&policy), &[]).unwrap();
    let map = headers(&[("retry-after", "10")]);
    let decision = retry.decide(Some(&policy), Outcome::Head(503, &map), 0, 4_999_999_999);
    assert_eq!(
        decision,
        Decision::After(Duration::from_nanos(14_999_999_999))
    );
}

#[test]
fn a_trusted_request_may_add_to_the_policy_or_be_its_own() {
    assert!(start(None, &[]).is_none());
    assert!(start(None, &[("x-envoy-retry-on", "nonsense")]).is_none());
    let failed = Outcome::Failed(Failed::Connect);
    let mut own = start(
        None,
        &[
            (
                "x-envoy-retry-on",
                "connect-failure, retriable-status-codes",
            ),
            ("x-envoy-max-retries", "2"),
            ("x-envoy-retriable-status-codes", "404,x"),
        ],
    )
    .unwrap();
    assert!(matches!(own.decide(None, failed, 0, 0), Decision::After(_)));
    let nothing = HeaderMap::new();
    let missing = Outcome::Head(404, &nothing);
    assert!(matches!(
        own.decide(None, missing, 0, 0),
        Decision::After(_)
    ));
    assert_eq!(own.decide(None, failed, 0, 0), Decision::Exhausted);
    let policy = policy("refused-stream");
    let mut both = start(Some(&policy), &[("x-envoy-retry-grpc-on", "unavailable")]).unwrap();
    let unavailable = headers(&[("grpc-status", "14")]);
    assert!(matches!(
        both.decide(Some(&policy), Outcome::Head(200, &unavailable), 0, 0),
        Decision::After(_)
    ));
}

#[test]
fn conditions_on_the_request_must_hold() {
    let mut policy = policy("5xx");
    policy.request_headers = vec![HeaderMatch {
        key: HeaderKey::parse("x-may").unwrap(),
        condition: HeaderCondition::Present(true),
        invert: false,
        missing_is_empty: false,
    }];
    assert!(start(Some(&policy), &[]).is_none());
    assert!(start(Some(&policy), &[("x-may", "1")]).is_some());
}

#[test]
fn names_of_conditions_are_envoys() {
    assert_eq!(Conditions::parse(" 5xx , reset,"), Ok(Conditions(0b101)));
    assert_eq!(Conditions::parse("5XX"), Err("5XX".to_owned()));
    assert_eq!(Conditions::parse(""), Ok(Conditions::default()));
}
