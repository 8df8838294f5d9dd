//! When a connection must end although its client would go on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::server::HttpConnection;
use crate::connection::Connection;
use crate::tcp::turned;

/// How long a draining connection may take for the requests it has.
const DRAIN: Duration = Duration::from_secs(600);
/// The same once the proxy is told to stop.
const STOP: Duration = Duration::from_secs(15);

/// The end of a connection: told of, then due.
pub struct Drain(State);

enum State {
    /// Completes with the time that is left.
    Waiting(Pin<Box<dyn Future<Output = Duration> + Send>>),
    /// The rest of it.
    Draining(Pin<Box<Sleep>>),
}

impl Drain {
    /// Watches the connection's chain and the proxy.
    pub fn new(connection: &Connection) -> Drain {
        let mut chain = connection.chain.drain.subscribe();
        let mut stop = connection.worker.shared.drain.subscribe();
        let told = async move {
            tokio::select! {
                () = turned(&mut chain) => DRAIN,
                () = turned(&mut stop) => STOP,
            }
        };
        Drain(State::Waiting(Box::pin(told)))
    }

    /// Ready once the connection is to take no more requests.
    pub fn poll(&mut self, cx: &mut Context<'_>, http: &HttpConnection) -> Poll<()> {
        if let State::Waiting(told) = &mut self.0 {
            let left = ready!(told.as_mut().poll(cx));
            http.drain();
            self.0 = State::Draining(Box::pin(sleep_until(Instant::now() + left)));
        }
        Poll::Ready(())
    }

    /// Ready once its time is over.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, http: &HttpConnection) -> Poll<()> {
        ready!(self.poll(cx, http));
        match &mut self.0 {
            State::Draining(rest) => rest.as_mut().poll(cx),
            State::Waiting(_) => Poll::Pending,
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
