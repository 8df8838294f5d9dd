//! Bytes both ways between two connections: half-close and reset pass through, buffers grow with use.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection begins with this much buffer each way …
const SMALL: usize = 2 << 10;
/// … and gets this much once a read has filled the small one: one TLS record.
const LARGE: usize = 16 << 10;

/// How a copy ended.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes from the first to the second.
    pub forward: u64,
    /// Bytes from the second to the first.
    pub backward: u64,
    /// Why it ended before both ends had closed.
    pub end: End,
}

/// Why a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both ends have closed.
    Closed,
    /// The first connection failed.
    First(io::Error),
    /// The second connection failed.
    Second(io::Error),
    /// No byte for too long.
    Idle,
}

/// Copies until both ends have closed, one fails, or nothing moved for `idle`.
pub async fn both<A, B>(first: &mut A, second: &mut B, idle: Option<Duration>) -> Outcome
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    Both {
        first,
        second,
        forward: Way::default(),
        backward: Way::default(),
        idle,
        timer: None,
    }
    .await
}

struct Both<'a, A, B> {
    first: &'a mut A,
    second: &'a mut B,
    forward: Way,
    backward: Way,
    idle: Option<Duration>,
    /// Made when there is first something to wait for.
    timer: Option<(Pin<Box<Sleep>>, u64)>,
}

/// One direction.
#[derive(Default)]
struct Way {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    moved: u64,
    state: State,
    unflushed: bool,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    Closing,
    Done,
}

/// Which side of a direction failed.
enum Failed {
    Reader(io::Error),
    Writer(io::Error),
}

impl<A, B> Future for Both<'_, A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let forward = match this.forward.poll(cx, this.first, this.second) {
            Poll::Ready(Err(failed)) => return Poll::Ready(this.outcome(end(failed, true))),
            other => other.is_ready(),
        };
        let backward = match this.backward.poll(cx, this.second, this.first) {
            Poll::Ready(Err(failed)) => return Poll::Ready(this.outcome(end(failed, false))),
            other => other.is_ready(),
        };
        if forward && backward {
            return Poll::Ready(this.outcome(End::Closed));
        }
        this.poll_idle(cx)
    }
}

fn end(failed: Failed, forward: bool) -> End {
    match (failed, forward) {
        (Failed::Reader(error), true) | (Failed::Writer(error), false) => End::First(error),
        (Failed::Reader(error), false) | (Failed::Writer(error), true) => End::Second(error),
    }
}

impl<A, B> Both<'_, A, B> {
    fn outcome(&self, end: End) -> Outcome {
        Outcome {
            forward: self.forward.moved,
            backward: self.backward.moved,
            end,
        }
    }

    /// Ends the copy if nothing moved since the timer was set; else sets it anew.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(idle) = self.idle else {
            return Poll::Pending;
        };
        let moved = self.forward.moved.saturating_add(self.backward.moved);
        let (timer, seen) = self
            .timer
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(idle)), moved));
        loop {
            ready!(timer.as_mut().poll(cx));
            if *seen == moved {
                return Poll::Ready(self.outcome(End::Idle));
            }
            *seen = moved;
            timer.as_mut().reset(Instant::now() + idle);
        }
    }
}

impl Way {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Writer)?;
                    self.state = State::Done;
                }
                State::Copying if self.start < self.end => {
                    let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
                    let written = ready!(Pin::new(&mut *writer).poll_write(cx, waiting))
                        .map_err(Failed::Writer)?;
                    if written == 0 {
                        return Poll::Ready(Err(Failed::Writer(io::ErrorKind::WriteZero.into())));
                    }
                    self.start = self.start.saturating_add(written);
                    self.moved = self
                        .moved
                        .saturating_add(u64::try_from(written).unwrap_or(0));
                    self.unflushed = true;
                }
                State::Copying => ready!(self.poll_fill(cx, reader, writer))?,
            }
        }
    }

    fn poll_fill<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.buffer.is_empty() {
            self.buffer.resize(SMALL, 0);
        } else if self.end == self.buffer.len() && self.end < LARGE {
            self.buffer.resize(LARGE, 0); // The last read filled it: there is more where that came from.
        }
        let mut free = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut *reader).poll_read(cx, &mut free) {
            Poll::Pending => {
                // Nothing to read: what TLS holds back goes out before we sleep.
                if self.unflushed {
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Writer)?;
                    self.unflushed = false;
                }
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Failed::Reader(error))),
            Poll::Ready(Ok(())) => {
                self.start = 0;
                self.end = free.filled().len();
                if self.end == 0 {
                    self.state = State::Closing;
                    self.buffer = Vec::new();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_half_closed_side_still_receives() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let copy = tokio::spawn(async move { both(&mut near, &mut far, None).await });
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = Vec::new();
        server.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"request");
        server.write_all(b"late answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"late answer");
        let outcome = copy.await.unwrap();
        assert!(matches!(outcome.end, End::Closed));
        assert_eq!((outcome.forward, outcome.backward), (7, 11));
    }

    #[tokio::test]
    async fn much_passes_and_a_slow_reader_holds_the_writer_back() {
        let (mut client, mut near) = duplex(1000);
        let (mut far, mut server) = duplex(1000);
        let copy = tokio::spawn(async move { both(&mut near, &mut far, None).await });
        let writer = tokio::spawn(async move {
            for chunk in 0..200u8 {
                client.write_all(&[chunk; 1777]).await.unwrap();
            }
        });
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        drop(server);
        writer.await.unwrap();
        assert_eq!(all.len(), 200 * 1777);
        assert!(
            all.chunks(1777)
                .zip(0u8..)
                .all(|(chunk, value)| chunk.iter().all(|byte| *byte == value))
        );
        assert_eq!(copy.await.unwrap().forward, 200 * 1777);
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let (_client, mut near) = duplex(64);
        let (mut far, _server) = duplex(64);
        let outcome = both(&mut near, &mut far, Some(Duration::from_millis(20))).await;
        assert!(matches!(outcome.end, End::Idle));
    }
}
