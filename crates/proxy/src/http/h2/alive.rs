//! Signs of life: a peer that does not answer a ping is gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Pings at intervals.
pub struct KeepAlive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    waits: bool,
}

impl KeepAlive {
    /// Pings every `interval`; an answer must come within `timeout`.
    pub fn new(pings: PingPong, interval: Duration, timeout: Duration) -> KeepAlive {
        KeepAlive {
            pings,
            timer: Box::pin(sleep(interval)),
            interval,
            timeout,
            waits: false,
        }
    }

    /// Ready once the peer has been silent for too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waits && self.pings.poll_pong(cx).is_ready() {
                self.waits = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            // A ping that cannot be sent is one on a connection that ends; its own future tells.
            if self.waits || self.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.waits = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
