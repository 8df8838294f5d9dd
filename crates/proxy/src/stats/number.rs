//! Counters and gauges: relaxed atomics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use http::StatusCode;

use super::Histogram;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Responses by the first digit of their status.
#[derive(Debug, Default)]
pub struct Classes([Counter; 5]);

/// Something that is shown.
pub trait Metric {
    /// What it shows.
    fn value(&self) -> Value<'_>;
    /// Starts anew, if it counts.
    fn reset(&self);
}

/// What is shown.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A number that only grows.
    Counter(u64),
    /// A number that goes up and down.
    Gauge(i64),
    /// Responses of the classes 1xx to 5xx.
    Classes([u64; 5]),
    /// Times.
    Histogram(&'a Histogram),
}

// === impl Counter ===

impl Counter {
    /// Zero.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Zero again.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Metric for Counter {
    fn value(&self) -> Value<'_> {
        Value::Counter(self.get())
    }

    fn reset(&self) {
        Counter::reset(self);
    }
}

// === impl Gauge ===

impl Gauge {
    /// Zero.
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Goes up or down.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metric for Gauge {
    fn value(&self) -> Value<'_> {
        Value::Gauge(self.get())
    }

    fn reset(&self) {}
}

// === impl Classes ===

impl Classes {
    /// Counts a response.
    pub fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.increment();
        }
    }
}

impl Metric for Classes {
    fn value(&self) -> Value<'_> {
        Value::Classes(self.0.each_ref().map(Counter::get))
    }

    fn reset(&self) {
        self.0.iter().for_each(Counter::reset);
    }
}
