//! How long an exchange may still take: all its limits as instants, of which the nearest counts.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::timer::Timer;
use super::timing::Timing;
use crate::reason::Reason;

/// How long an exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    timing: Timing,
    /// When request and response must be over.
    stream: Option<Instant>,
    /// When the request must be here.
    request: Option<Instant>,
    /// When the response must be over; known once the request has ended.
    whole: Option<Instant>,
    /// When this attempt's response must have begun; known once the request has ended and there is a connection.
    attempt: Option<Instant>,
    phase: Phase,
    is_ended: bool,
    /// When the last byte passed.
    last: Instant,
}

/// Where the exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no connection to the upstream.
    Before,
    /// There is, but no response.
    Attempt,
    /// The response has begun.
    Response,
    /// The response has come whole, and leaves.
    Flush,
}

impl Limits {
    /// Limits of an exchange that began at `started`.
    pub fn new(timing: Timing, started: Instant) -> Limits {
        Limits {
            timing,
            stream: timing.stream.and_then(|limit| started.checked_add(limit)),
            request: timing.request.and_then(|limit| started.checked_add(limit)),
            whole: None,
            attempt: None,
            phase: Phase::Before,
            is_ended: false,
            last: Instant::now(),
        }
    }

    /// Only silence is limited.
    pub fn idle(idle: Option<Duration>) -> Limits {
        let timing = Timing {
            idle,
            ..Timing::default()
        };
        Limits::new(timing, Instant::now())
    }

    /// Another attempt is about to begin.
    pub fn attempt_begins(&mut self) {
        self.phase = Phase::Before;
        self.attempt = None;
        self.last = Instant::now();
    }

    /// The attempt has its connection.
    pub fn connected(&mut self) {
        self.phase = Phase::Attempt;
        self.arm();
    }

    /// The request has ended: the time for the response runs.
    pub fn request_ended(&mut self) {
        self.is_ended = true;
        self.request = None;
        if self.whole.is_none() {
            self.whole = self.timing.whole.map(|limit| Instant::now() + limit);
        }
        self.arm();
    }

    /// The response has begun.
    pub fn response_begins(&mut self) {
        self.phase = Phase::Response;
        self.attempt = None;
        self.progress();
    }

    /// A byte has passed.
    pub fn progress(&mut self) {
        if self.timing.idle.is_some() || self.timing.attempt_idle.is_some() {
            self.last = Instant::now();
        }
    }

    /// The response has come whole: what is left is the client's to read, within a time of its own.
    pub fn flushes(&mut self) {
        if self.phase != Phase::Flush {
            self.phase = Phase::Flush;
            self.whole = None;
            self.last = Instant::now();
        }
    }

    /// How long it may be silent.
    pub fn silence(&self) -> Option<Duration> {
        self.timing.idle
    }

    fn arm(&mut self) {
        if self.is_ended && self.phase == Phase::Attempt && self.attempt.is_none() {
            self.attempt = self.timing.attempt.map(|limit| Instant::now() + limit);
        }
    }

    /// Ready once a limit has passed.
    pub fn poll(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Reason> {
        match self.next() {
            Some((at, reason)) => timer.poll_until(cx, at).map(|()| reason),
            None => Poll::Pending,
        }
    }

    /// The nearest limit, and what it means that it passes.
    fn next(&self) -> Option<(Instant, Reason)> {
        let silent = |limit: Option<Duration>| limit.map(|limit| self.last + limit);
        let attempt_idle = self.timing.attempt_idle;
        let attempt_idle =
            attempt_idle.filter(|_| !matches!(self.phase, Phase::Before | Phase::Flush));
        let idle = match self.phase {
            Phase::Flush => self.timing.flush,
            _ => self.timing.idle,
        };
        let all = [
            (self.whole, Reason::Timeout),
            (self.attempt, Reason::PerTryTimeout),
            (silent(attempt_idle), Reason::PerTryIdleTimeout),
            (silent(idle), Reason::IdleTimeout),
            (self.stream, Reason::MaxDuration),
            (self.request, Reason::RequestTimeout),
        ];
        all.into_iter()
            .filter_map(|(at, reason)| Some((at?, reason)))
            .min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(timing: Timing) -> Limits {
        Limits::new(timing, Instant::now())
    }

    fn reason(limits: &Limits) -> Option<Reason> {
        limits.next().map(|(_, reason)| reason)
    }

    #[test]
    fn the_response_has_its_time_from_the_requests_end_on() {
        let mut limits = limits(Timing {
            whole: Some(Duration::from_secs(15)),
            attempt: Some(Duration::from_secs(1)),
            ..Timing::default()
        });
        limits.attempt_begins();
        limits.connected();
        assert_eq!(reason(&limits), None, "an open request is not cut");
        limits.request_ended();
        assert_eq!(reason(&limits), Some(Reason::PerTryTimeout));
        limits.response_begins();
        assert_eq!(reason(&limits), Some(Reason::Timeout));
        let whole = limits.whole;
        limits.attempt_begins();
        assert_eq!(reason(&limits), Some(Reason::Timeout));
        limits.connected();
        assert_eq!(reason(&limits), Some(Reason::PerTryTimeout));
        assert_eq!(limits.whole, whole, "all attempts together");
    }

    #[test]
    fn what_has_come_whole_has_its_own_time_to_leave() {
        let mut limits = limits(Timing {
            whole: Some(Duration::from_secs(1)),
            idle: Some(Duration::from_secs(300)),
            attempt_idle: Some(Duration::from_secs(2)),
            flush: Some(Duration::from_secs(7)),
            ..Timing::default()
        });
        limits.request_ended();
        limits.connected();
        limits.response_begins();
        assert_eq!(reason(&limits), Some(Reason::Timeout));
        let before = Instant::now();
        limits.flushes();
        let (at, why) = limits.next().unwrap();
        assert_eq!(why, Reason::IdleTimeout);
        assert!(at >= before + Duration::from_secs(7));
        assert!(at < before + Duration::from_secs(60));
        limits.timing.flush = None;
        assert_eq!(reason(&limits), None, "zero switches it off");
    }

    #[test]
    fn the_nearest_limit_counts() {
        let timing = Timing {
            stream: Some(Duration::from_secs(9)),
            request: Some(Duration::from_secs(8)),
            idle: Some(Duration::from_secs(7)),
            attempt_idle: Some(Duration::from_secs(6)),
            ..Timing::default()
        };
        let mut limits = limits(timing);
        assert_eq!(reason(&limits), Some(Reason::IdleTimeout));
        limits.connected();
        assert_eq!(reason(&limits), Some(Reason::PerTryIdleTimeout));
        limits.timing.idle = None;
        limits.timing.attempt_idle = None;
        assert_eq!(reason(&limits), Some(Reason::RequestTimeout));
        limits.request_ended();
        assert_eq!(reason(&limits), Some(Reason::MaxDuration));
    }
}
