//! A circuit that breaks by what came of requests: too many errors or slow answers within a window, and for a while
//! nothing is sent any more. osm-edge's `circuitBreaking`; Envoy has nothing of the kind (its outlier detection ejects
//! endpoints, its circuit breakers bound load).

use std::time::{Duration, Instant};

/// One: the whole, in millionths.
pub const WHOLE: u64 = 1_000_000;

/// When the circuit breaks, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Requests are counted for so long, beginning with the first; then counting begins anew.
    pub window: Duration,
    /// Shares say nothing of fewer requests than this in a window; amounts always do.
    pub min_requests: u64,
    /// An answer that takes so long is slow.
    pub slow_after: Duration,
    /// How many errors break it.
    pub errors: Bound,
    /// How many slow answers break it.
    pub slow: Bound,
    /// It stays broken for so long, and begins anew then.
    pub open_for: Duration,
}

/// What is too much, by amount or by share; neither: nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    /// In one window; zero is no bound.
    pub amount: Option<u64>,
    /// Of the window's requests, in millionths; zero is no bound.
    pub share: Option<u64>,
}

/// The state of one destination's circuit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circuit {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed(Option<Window>),
    Open(Instant),
}

/// What a window has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    began: Instant,
    /// Requests.
    pub total: u64,
    /// Those that were errors.
    pub errors: u64,
    /// Those that were slow.
    pub slow: u64,
}

// === impl Circuit ===

impl Circuit {
    /// Whether a request may be sent. After its time an open circuit is closed, with nothing counted.
    pub fn admits(&mut self, settings: &Settings, now: Instant) -> bool {
        match self.state {
            State::Closed(_) => true,
            State::Open(since) if now.saturating_duration_since(since) < settings.open_for => false,
            State::Open(_) => {
                self.state = State::Closed(None);
                true
            }
        }
    }

    /// Counts what came of a request. If that breaks the circuit, says what its window has seen. Requests that were
    /// under way when it broke are not counted.
    pub fn record(
        &mut self,
        settings: &Settings,
        now: Instant,
        is_error: bool,
        took: Duration,
    ) -> Option<Window> {
        if !self.admits(settings, now) {
            return None;
        }
        let State::Closed(window) = self.state else {
            return None;
        };
        let current =
            window.filter(|seen| now.saturating_duration_since(seen.began) < settings.window);
        let mut window = current.unwrap_or(Window {
            began: now,
            total: 0,
            errors: 0,
            slow: 0,
        });
        window.total = window.total.saturating_add(1);
        window.errors = window.errors.saturating_add(u64::from(is_error));
        window.slow = window
            .slow
            .saturating_add(u64::from(took >= settings.slow_after));
        let enough = window.total >= settings.min_requests;
        let broken = settings
            .errors
            .is_reached(window.errors, window.total, enough)
            || settings.slow.is_reached(window.slow, window.total, enough);
        self.state = if broken {
            State::Open(now)
        } else {
            State::Closed(Some(window))
        };
        broken.then_some(window)
    }
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        State::Closed(None)
    }
}

// === impl Bound ===

impl Bound {
    fn is_reached(&self, count: u64, total: u64, enough: bool) -> bool {
        let by_amount = |amount: u64| amount > 0 && count >= amount;
        // Wide: neither side can overflow.
        let by_share = |share: u64| {
            share > 0
                && u128::from(count).saturating_mul(u128::from(WHOLE))
                    >= u128::from(total).saturating_mul(u128::from(share))
        };
        self.amount.is_some_and(by_amount) || enough && self.share.is_some_and(by_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(200);

    fn settings() -> Settings {
        Settings {
            window: Duration::from_secs(60),
            min_requests: 200,
            slow_after: SLOW,
            errors: Bound::default(),
            slow: Bound::default(),
            open_for: Duration::from_secs(10),
        }
    }

    /// The load of the scenarios: 200 requests a second, each `every`th is bad. How many were sent before the circuit
    /// broke, and how many of them were bad.
    fn play(settings: &Settings, every: u64, bad: (bool, Duration)) -> (u64, u64) {
        let mut circuit = Circuit::default();
        let begin = Instant::now();
        let (mut sent, mut failed) = (0, 0);
        for number in 1..=1000_u64 {
            let now = begin + Duration::from_millis(5 * number);
            if !circuit.admits(settings, now) {
                continue;
            }
            let is_bad = number % every == 0;
            let (is_error, took) = if is_bad { bad } else { (false, QUICK) };
            sent += 1;
            failed += u64::from(is_bad);
            circuit.record(settings, now, is_error, took);
        }
        (sent, failed)
    }

    #[test]
    fn cb_06_an_amount_of_errors_breaks_it_at_once() {
        let errors = Bound {
            amount: Some(100),
            share: None,
        };
        let settings = Settings {
            errors,
            ..settings()
        };
        assert_eq!(play(&settings, 5, (true, QUICK)), (500, 100));
        // Ratios wait for the fewest requests, amounts do not.
        assert_eq!(play(&settings, 1, (true, QUICK)), (100, 100));
    }

    #[test]
    fn cb_07_a_share_of_errors_breaks_it_once_there_were_enough_requests() {
        let errors = Bound {
            amount: None,
            share: Some(WHOLE / 10),
        };
        let settings = Settings {
            errors,
            ..settings()
        };
        assert_eq!(play(&settings, 5, (true, QUICK)), (200, 40));
        assert_eq!(play(&settings, 11, (true, QUICK)), (1000, 90));
        // Exactly the share is enough.
        assert_eq!(play(&settings, 10, (true, QUICK)), (200, 20));
    }

    #[test]
    fn cb_08_so_do_slow_answers() {
        let slow = |amount, share| Settings {
            slow: Bound { amount, share },
            ..settings()
        };
        assert_eq!(play(&slow(Some(100), None), 5, (false, SLOW)), (500, 100));
        assert_eq!(
            play(&slow(None, Some(WHOLE / 10)), 5, (false, SLOW)),
            (200, 40)
        );
        let almost = SLOW - Duration::from_millis(1);
        assert_eq!(play(&slow(Some(1), None), 5, (false, almost)), (1000, 200));
        // What is slow is no error, and the other way round.
        assert_eq!(play(&slow(Some(1), None), 5, (true, QUICK)), (1000, 200));
    }

    #[test]
    fn nothing_is_no_bound_and_more_than_all_is_never_reached() {
        for bound in [
            Bound::default(),
            Bound {
                amount: Some(0),
                share: Some(0),
            },
            Bound {
                amount: None,
                share: Some(5 * WHOLE),
            },
        ] {
            let settings = Settings {
                errors: bound,
                slow: bound,
                ..settings()
            };
            assert_eq!(play(&settings, 1, (true, SLOW)), (1000, 1000), "{bound:?}");
        }
    }

    #[test]
    fn it_closes_after_its_time_and_counts_anew() {
        let errors = Bound {
            amount: Some(2),
            share: None,
        };
        let settings = Settings {
            errors,
            ..settings()
        };
        let mut circuit = Circuit::default();
        let begin = Instant::now();
        assert_eq!(circuit.record(&settings, begin, true, QUICK), None);
        let window = circuit.record(&settings, begin, true, QUICK).unwrap();
        assert_eq!((window.total, window.errors, window.slow), (2, 2, 0));
        let almost = begin + settings.open_for - QUICK;
        assert!(!circuit.admits(&settings, almost));
        // Somebody's late answer says nothing of what comes after.
        assert_eq!(circuit.record(&settings, almost, true, QUICK), None);
        let then = begin + settings.open_for;
        assert!(circuit.admits(&settings, then));
        assert_eq!(circuit.record(&settings, then, true, QUICK), None);
        assert!(circuit.record(&settings, then, true, QUICK).is_some());
    }

    #[test]
    fn a_window_ends() {
        let errors = Bound {
            amount: Some(2),
            share: None,
        };
        let settings = Settings {
            errors,
            ..settings()
        };
        let mut circuit = Circuit::default();
        let begin = Instant::now();
        assert_eq!(circuit.record(&settings, begin, true, QUICK), None);
        let later = begin + settings.window;
        assert_eq!(circuit.record(&settings, later, true, QUICK), None);
        let last = later + settings.window - QUICK;
        assert!(circuit.record(&settings, last, true, QUICK).is_some());
    }
}
