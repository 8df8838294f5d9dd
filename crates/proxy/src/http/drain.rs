//! When a connection must end although its client would go on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::server::HttpConnection;
use crate::bell::Seat;
use crate::connection::Connection;

/// How long a draining connection may take for the requests it has.
const DRAIN: Duration = Duration::from_secs(600);
/// The same once the proxy is told to stop.
const STOP: Duration = Duration::from_secs(15);

/// The end of a connection: told of, then due.
pub struct Drain {
    connection: Arc<Connection>,
    /// At the chain's bell.
    chain: Seat,
    /// At the proxy's.
    stop: Seat,
    /// The rest of its time, once it is told.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Drain {
    /// Listens for the connection's chain and the proxy.
    pub fn new(connection: &Arc<Connection>) -> Drain {
        Drain {
            connection: connection.clone(),
            chain: Seat::default(),
            stop: Seat::default(),
            rest: None,
        }
    }

    /// Ready once the connection is to take no more requests.
    pub fn poll(&mut self, cx: &mut Context<'_>, http: &HttpConnection) -> Poll<()> {
        if self.rest.is_none() {
            let left = ready!(self.poll_told(cx));
            http.drain();
            self.rest = Some(Box::pin(sleep_until(Instant::now() + left)));
        }
        Poll::Ready(())
    }

    /// Ready with the time that is left.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Connection { chain, worker, .. } = &*self.connection;
        if worker.shared.drain.poll(cx, &mut self.stop).is_ready() {
            return Poll::Ready(STOP);
        }
        chain.drain.poll(cx, &mut self.chain).map(|()| DRAIN)
    }

    /// Ready once its time is over.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, http: &HttpConnection) -> Poll<()> {
        ready!(self.poll(cx, http));
        match &mut self.rest {
            Some(rest) => rest.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Completes with the future, or with nothing once the connection's time is over.
    pub async fn guard<F: Future + Unpin>(
        &mut self,
        mut future: F,
        http: &HttpConnection,
    ) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll_over(cx, http).map(|()| None)
        })
        .await
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let Connection { chain, worker, .. } = &*self.connection;
        chain.drain.leave(&mut self.chain);
        worker.shared.drain.leave(&mut self.stop);
    }
}
