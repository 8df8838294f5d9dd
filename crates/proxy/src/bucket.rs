//! Envoy's token bucket: it fills continuously, and a thousand workers may take from it without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketLimits {
    /// Tokens it holds at most, and at first. Of none, every request is refused.
    pub max_tokens: u32,
    /// Tokens that come …
    pub tokens_per_fill: u32,
    /// … in this time, evenly. Not zero.
    pub fill_interval: Duration,
}

/// A bucket. Its state is one number, the moment at which it was (or would have been) empty: what came since is there.
#[derive(Debug)]
pub struct TokenBucket {
    /// Its limits.
    pub limits: BucketLimits,
    /// Seconds on the clock of the caller, as the bits of an `f64`.
    empty_at: AtomicU64,
}

// === impl TokenBucket ===

impl TokenBucket {
    /// A full bucket.
    pub fn new(limits: BucketLimits) -> TokenBucket {
        TokenBucket {
            limits,
            // Empty an eternity ago: full by now.
            empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
        }
    }

    /// Takes tokens, all or none.
    pub fn take(&self, tokens: u32, now: Duration) -> bool {
        let mut before = self.empty_at.load(Ordering::Relaxed);
        loop {
            let there = self.there(f64::from_bits(before), now);
            let rest = there - f64::from(tokens);
            if rest < 0.0 {
                return false;
            }
            let after = (now.as_secs_f64() - rest / self.limits.per_second()).to_bits();
            match self.empty_at.compare_exchange_weak(
                before,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(other) => before = other,
            }
        }
    }

    /// Whole tokens that are there.
    pub fn remaining(&self, now: Duration) -> u32 {
        let there = self.there(f64::from_bits(self.empty_at.load(Ordering::Relaxed)), now);
        // Not negative and at most `max_tokens`.
        there as u32
    }

    /// Seconds until there is a token, rounded up; 0 if there is one.
    pub fn seconds_to_next(&self, now: Duration) -> u64 {
        let there = self.there(f64::from_bits(self.empty_at.load(Ordering::Relaxed)), now);
        if there >= 1.0 {
            return 0;
        }
        ((1.0 - there) / self.limits.per_second()).ceil() as u64
    }

    fn there(&self, empty_at: f64, now: Duration) -> f64 {
        let came = (now.as_secs_f64() - empty_at) * self.limits.per_second();
        came.clamp(0.0, f64::from(self.limits.max_tokens))
    }
}

impl BucketLimits {
    /// Tokens that come in a second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.tokens_per_fill) / self.fill_interval.as_secs_f64()
    }
}

/// The clock buckets are asked by: time since the first call.
pub fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(max_tokens: u32, tokens_per_fill: u32, seconds: u64) -> TokenBucket {
        TokenBucket::new(BucketLimits {
            max_tokens,
            tokens_per_fill,
            fill_interval: Duration::from_secs(seconds),
        })
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_burst_passes_and_then_one_per_share_of_the_interval() {
        let bucket = bucket(3, 2, 60);
        // (time in milliseconds, passes, remaining afterwards, seconds until the next token)
        let steps = [
            (0, true, 2, 0),
            (0, true, 1, 0),
            (1, true, 0, 30),
            (2, false, 0, 30),
            (29_000, false, 0, 1),
            (30_002, true, 0, 30),
            (30_003, false, 0, 30),
            (1_000_000, true, 2, 0),
            (1_000_000, true, 1, 0),
            (1_000_000, true, 0, 30),
            (1_000_000, false, 0, 30),
        ];
        for (time, passes, remaining, next) in steps {
            assert_eq!(bucket.take(1, at(time)), passes, "at {time}");
            assert_eq!(bucket.remaining(at(time)), remaining, "at {time}");
            assert_eq!(bucket.seconds_to_next(at(time)), next, "at {time}");
        }
    }

    #[test]
    fn an_empty_bucket_refuses_for_ever() {
        let bucket = bucket(0, 1000, 1);
        for time in [0, 1, 1_000_000] {
            assert!(!bucket.take(1, at(time)));
        }
    }

    #[test]
    fn tokens_are_taken_all_or_none() {
        let bucket = bucket(5, 1, 1);
        assert!(!bucket.take(6, at(0)));
        assert!(bucket.take(5, at(0)));
        assert!(!bucket.take(2, at(1500)));
        assert!(bucket.take(1, at(1500)));
        assert!(bucket.take(0, at(1500)));
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let bucket = bucket(1000, 1, 3600);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(1, at(5))).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn a_clock_that_lags_behind_another_workers_takes_nothing_extra() {
        let bucket = bucket(1, 1, 1);
        assert!(bucket.take(1, at(5000)));
        assert!(!bucket.take(1, at(4000)));
        assert!(!bucket.take(1, at(5999)));
        assert!(bucket.take(1, at(6000)));
    }
}
