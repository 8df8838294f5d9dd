//! Outlier detection, event by event.

use super::*;

const FAIL: Event = Event::Status(500);
const FINE: Event = Event::Status(200);
const GATEWAY: Event = Event::Status(503);

#[test]
fn failures_in_a_row_are_found_at_the_threshold() {
    let plain = Settings::default();
    let split = Settings {
        split_origins: true,
        ..plain
    };
    let gateway = Settings {
        consecutive_gateway_failure: Threshold {
            count: 3,
            enforcing: 100,
        },
        ..plain
    };
    let failed = [Event::ConnectFailed, Event::TimedOut];
    let cases: [(Settings, Vec<Event>, Option<Cause>); 9] = [
        (plain, vec![FAIL; 4], None),
        (plain, vec![FAIL; 5], Some(Cause::Consecutive5xx)),
        (plain, vec![FAIL, FAIL, FAIL, FAIL, FINE, FAIL], None),
        (
            plain,
            [failed, failed, failed].concat()[..5].to_vec(),
            Some(Cause::Consecutive5xx),
        ),
        (
            gateway,
            vec![GATEWAY; 3],
            Some(Cause::ConsecutiveGatewayFailure),
        ),
        (gateway, vec![GATEWAY, GATEWAY, FAIL, GATEWAY], None),
        (
            split,
            vec![Event::ConnectFailed; 5],
            Some(Cause::ConsecutiveLocalOriginFailure),
        ),
        (
            split,
            [
                vec![Event::ConnectFailed; 4],
                vec![FAIL],
                vec![Event::TimedOut],
            ]
            .concat(),
            None,
        ),
        (split, vec![FAIL; 5], Some(Cause::Consecutive5xx)),
    ];
    for (settings, events, expected) in cases {
        let monitor = Monitor::default();
        let last = events
            .iter()
            .map(|event| monitor.record(&settings, *event))
            .last();
        assert_eq!(last.flatten(), expected, "{events:?}");
    }
    let monitor = Monitor::default();
    let found = (0..10).filter(|_| monitor.record(&plain, FAIL).is_some());
    assert_eq!(found.count(), 2, "a second bout is seen");
}

#[test]
fn no_more_than_the_percentage_is_ejected() {
    let half = Settings {
        max_ejection_percent: 50,
        ..Settings::default()
    };
    let one = Settings {
        always_eject_one: true,
        ..Settings::default()
    };
    let spared = Settings {
        max_ejection_percent: 100,
        consecutive_5xx: Threshold {
            count: 5,
            enforcing: 0,
        },
        ..Settings::default()
    };
    let cases = [
        (Settings::default(), (0, 9), Verdict::Overflow),
        (Settings::default(), (0, 10), Verdict::Ejected),
        (half, (0, 2), Verdict::Ejected),
        (half, (1, 2), Verdict::Overflow),
        (half, (1, 4), Verdict::Ejected),
        (one, (0, 2), Verdict::Ejected),
        (one, (1, 2), Verdict::Overflow),
        (spared, (0, 2), Verdict::Spared),
    ];
    for (settings, counts, expected) in cases {
        let mut ejection = Ejection::default();
        let verdict = settings.judge(
            Cause::Consecutive5xx,
            &mut ejection,
            counts,
            Instant::now(),
            7,
        );
        assert_eq!(
            (verdict, ejection.is_on()),
            (expected, expected == Verdict::Ejected),
            "{counts:?}"
        );
    }
}

#[test]
fn ejections_last_longer_each_time_up_to_a_bound_and_good_conduct_counts() {
    let settings = Settings {
        max_ejection_percent: 100,
        max_ejection_time: Duration::from_secs(70),
        ..Settings::default()
    };
    let start = Instant::now();
    let mut ejection = Ejection::default();
    let mut lasted = Vec::new();
    for _ in 0..4 {
        settings.judge(Cause::Consecutive5xx, &mut ejection, (0, 1), start, 0);
        let ends =
            (0..200).find(|s| settings.pardon(&mut ejection, start + Duration::from_secs(*s)));
        lasted.push(ends.unwrap());
    }
    assert_eq!(lasted, [30, 60, 70, 70]);
    while ejection.times > 0 {
        assert!(!settings.pardon(&mut ejection, start));
    }
    settings.judge(Cause::Consecutive5xx, &mut ejection, (0, 1), start, 0);
    assert!(settings.pardon(&mut ejection, start + Duration::from_secs(30)));
    let jittered = Settings {
        max_ejection_time_jitter: Duration::from_secs(5),
        ..settings
    };
    let mut ejection = Ejection::default();
    jittered.judge(
        Cause::Consecutive5xx,
        &mut ejection,
        (0, 1),
        start,
        4000 << 8,
    );
    assert!(!jittered.pardon(&mut ejection, start + Duration::from_secs(33)));
    assert!(jittered.pardon(&mut ejection, start + Duration::from_secs(34)));
}

#[test]
fn whoever_is_far_below_the_others_or_fails_too_often_is_an_outlier() {
    let volume = |total, success| Some(Volume { total, success });
    let settings = Settings::default();
    // Envoy's documentation: rates 50, 100, 100, 100, 100 have their threshold at 52.
    let rates = [
        volume(100, 50),
        volume(100, 100),
        volume(200, 200),
        volume(100, 100),
        volume(100, 100),
    ];
    assert_eq!(settings.compare(&rates, false), [(0, Cause::SuccessRate)]);
    assert_eq!(
        settings.compare(&rates, true),
        [(0, Cause::LocalOriginSuccessRate)]
    );
    assert_eq!(
        settings.compare(&rates[..4], false),
        [],
        "too few to compare"
    );
    let mut quiet = rates;
    quiet[0] = volume(99, 0);
    assert_eq!(
        settings.compare(&quiet, false),
        [(0, Cause::FailurePercentage)],
        "too few requests for a rate"
    );
    let failing = [
        volume(50, 7),
        volume(50, 8),
        volume(50, 7),
        volume(60, 60),
        volume(70, 70),
        None,
    ];
    let found = settings.compare(&failing, false);
    assert_eq!(
        found,
        [(0, Cause::FailurePercentage), (2, Cause::FailurePercentage)]
    );
    assert_eq!(settings.compare(&[], false), []);
}

#[test]
fn an_intervals_requests_are_taken_once() {
    let monitor = Monitor::default();
    monitor.record(&Settings::default(), FINE);
    monitor.record(&Settings::default(), FAIL);
    assert_eq!(
        monitor.take(false),
        Volume {
            total: 2,
            success: 1
        }
    );
    assert_eq!(
        monitor.take(false),
        Volume {
            total: 0,
            success: 0
        }
    );
}
