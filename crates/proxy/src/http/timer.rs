//! One timer for all limits of a connection or stream: set anew only when it fires.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is made when there is first something to wait for.
///
/// It may stand earlier than the limit asked for; then it fires once in vain and is set anew. A request under a
/// 15-second limit thus costs no operation on the runtime's timers but one in 15 seconds.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once the time has come.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn limits_may_come_nearer_and_go_farther() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        for (asked, then) in [(60_000, 5), (5, 30), (30, 30)] {
            poll_fn(|cx| {
                let _ = timer.poll_until(cx, after(asked));
                timer.poll_until(cx, after(then))
            })
            .await;
            assert!(Instant::now() >= after(then));
        }
        assert!(Instant::now() < after(60_000));
    }
}
