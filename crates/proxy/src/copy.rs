//! Bytes both ways between two connections: half-close and reset pass through, an idle connection holds no buffer.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::gate::Gate;

/// What is read before it is written: four TLS records, which leave in one write. One buffer per worker; what the
/// writer does not take at once is kept with the connection until it does, and nothing is read meanwhile.
const CHUNK: usize = 64 << 10;

thread_local! {
    /// Taken while bytes are under way within one poll.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How a copy ended.
#[derive(Debug)]
pub struct Outcome<T> {
    /// Bytes from the first to the second.
    pub forward: u64,
    /// Bytes from the second to the first.
    pub backward: u64,
    /// Why it ended before both ends had closed.
    pub end: End<T>,
}

/// Why a copy ended.
#[derive(Debug)]
pub enum End<T> {
    /// Both ends have closed.
    Closed,
    /// The first connection failed.
    First(io::Error),
    /// The second connection failed.
    Second(io::Error),
    /// No byte for too long.
    Idle,
    /// It was told to end.
    Told(T),
}

/// Copies until both ends have closed, one fails, or nothing moved for `idle`.
pub async fn both<A, B>(
    first: &mut A,
    second: &mut B,
    idle: Option<Duration>,
) -> Outcome<Infallible>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    both_until(first, second, idle, std::future::pending()).await
}

/// The same, but also ends when `until` completes.
pub async fn both_until<A, B, U>(
    first: &mut A,
    second: &mut B,
    idle: Option<Duration>,
    until: U,
) -> Outcome<U::Output>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    U: Future,
{
    Both {
        first,
        second,
        forward: Way::default(),
        backward: Way::default(),
        idle,
        timer: None,
        until: std::pin::pin!(until),
        gate: Gate::default(),
    }
    .await
}

struct Both<'a, A, B, U> {
    first: &'a mut A,
    second: &'a mut B,
    forward: Way,
    backward: Way,
    idle: Option<Duration>,
    /// Made when there is first something to wait for.
    timer: Option<Silence>,
    until: Pin<&'a mut U>,
    gate: Gate,
}

/// How long nothing has moved, in ticks: the timer is not touched for the sake of bytes.
struct Silence {
    timer: Pin<Box<Sleep>>,
    /// Bytes at the last tick.
    moved: u64,
    /// Ticks since then without a byte.
    ticks: u32,
}

/// Ticks of the idle time: it ends between once and one and a quarter times its length after the last byte.
const TICKS: u32 = 4;

/// One direction.
#[derive(Default)]
struct Way {
    /// What the writer has not taken yet.
    held: Vec<u8>,
    /// How much of it has been taken since.
    taken: usize,
    moved: u64,
    state: State,
    unflushed: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Copying,
    /// The reader failed; what it gave before is on its way.
    Failed(io::Error),
    Closing,
    Done,
}

/// Which side of a direction failed.
enum Failed {
    Reader(io::Error),
    Writer(io::Error),
}

impl<A, B, U> Future for Both<'_, A, B, U>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    U: Future,
{
    type Output = Outcome<U::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
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
        // Neither the timer nor the order to end is looked at for the sake of bytes.
        let Some(waker) = this.gate.open(cx) else {
            return Poll::Pending;
        };
        let mut cx = Context::from_waker(&waker);
        if let Poll::Ready(told) = this.until.as_mut().poll(&mut cx) {
            return Poll::Ready(this.outcome(End::Told(told)));
        }
        this.poll_idle(&mut cx)
    }
}

fn end<T>(failed: Failed, forward: bool) -> End<T> {
    match (failed, forward) {
        (Failed::Reader(error), true) | (Failed::Writer(error), false) => End::First(error),
        (Failed::Reader(error), false) | (Failed::Writer(error), true) => End::Second(error),
    }
}

impl<A, B, U: Future> Both<'_, A, B, U> {
    fn outcome(&self, end: End<U::Output>) -> Outcome<U::Output> {
        Outcome {
            forward: self.forward.moved,
            backward: self.backward.moved,
            end,
        }
    }

    /// Ends the copy if nothing moved for the idle time.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<U::Output>> {
        let Some(idle) = self.idle else {
            return Poll::Pending;
        };
        let tick = idle / TICKS;
        let moved = self.forward.moved.saturating_add(self.backward.moved);
        let silence = self.timer.get_or_insert_with(|| Silence {
            timer: Box::pin(tokio::time::sleep(tick)),
            moved,
            ticks: 0,
        });
        loop {
            ready!(silence.timer.as_mut().poll(cx));
            silence.ticks = match silence.moved == moved {
                true => silence.ticks.saturating_add(1),
                false => 0,
            };
            silence.moved = moved;
            if silence.ticks >= TICKS {
                return Poll::Ready(self.outcome(End::Idle));
            }
            silence.timer.as_mut().reset(Instant::now() + tick);
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
            if self.taken < self.held.len() {
                let waiting = self.held.get(self.taken..).unwrap_or_default();
                let written = ready!(write(cx, writer, waiting))?;
                self.count(written);
                self.taken = self.taken.saturating_add(written);
                if self.taken == self.held.len() {
                    (self.held, self.taken) = (Vec::new(), 0);
                }
                continue;
            }
            match &mut self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Failed(error) => {
                    let error = std::mem::replace(error, io::ErrorKind::Other.into());
                    return Poll::Ready(Err(Failed::Reader(error)));
                }
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Writer)?;
                    self.state = State::Done;
                }
                State::Copying => {
                    let mut scratch = SCRATCH.take();
                    if scratch.is_empty() {
                        scratch.resize(CHUNK, 0);
                    }
                    let moved = self.poll_move(cx, reader, writer, &mut scratch);
                    SCRATCH.set(scratch);
                    ready!(moved)?;
                }
            }
        }
    }

    /// Reads all there is, up to the scratch buffer's length, and writes it.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut read = ReadBuf::new(scratch);
        let mut pending = false;
        // A TLS stream yields one record at a time; what is behind it is gathered, so that it leaves in one write.
        while read.remaining() > 0 {
            let before = read.filled().len();
            match Pin::new(&mut *reader).poll_read(cx, &mut read) {
                Poll::Pending => pending = true,
                Poll::Ready(Err(error)) => self.state = State::Failed(error),
                Poll::Ready(Ok(())) if read.filled().len() > before => continue,
                Poll::Ready(Ok(())) => self.state = State::Closing,
            }
            break;
        }
        let mut bytes = read.filled();
        while !bytes.is_empty() {
            let Poll::Ready(written) = write(cx, writer, bytes) else {
                self.held = bytes.to_vec();
                return Poll::Pending;
            };
            let written = written?;
            self.count(written);
            bytes = bytes.get(written..).unwrap_or_default();
        }
        if !pending {
            return Poll::Ready(Ok(()));
        }
        // Nothing more to read: what TLS holds back goes out before we sleep.
        if self.unflushed {
            ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Writer)?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn count(&mut self, written: usize) {
        let written = u64::try_from(written).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(written);
        self.unflushed = true;
    }
}

/// Writes some of the bytes, at least one.
fn write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    writer: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Failed>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Failed::Writer(io::ErrorKind::WriteZero.into()))),
        Ok(written) => Poll::Ready(Ok(written)),
        Err(error) => Poll::Ready(Err(Failed::Writer(error))),
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

    #[tokio::test]
    async fn an_order_to_end_ends_it_in_the_middle_of_a_stream() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let (tell, told) = tokio::sync::oneshot::channel::<u8>();
        let copy = tokio::spawn(async move { both_until(&mut near, &mut far, None, told).await });
        client.write_all(b"request").await.unwrap();
        server.read_exact(&mut [0; 7]).await.unwrap();
        tell.send(7).unwrap();
        let outcome = copy.await.unwrap();
        assert!(matches!(outcome.end, End::Told(Ok(7))), "{outcome:?}");
        assert_eq!(outcome.forward, 7);
    }

    #[tokio::test]
    async fn while_bytes_move_it_is_not_idle() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let idle = Duration::from_millis(20);
        let copy = tokio::spawn(async move { both(&mut near, &mut far, Some(idle)).await });
        let started = Instant::now();
        while started.elapsed() < 3 * idle {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
        }
        let last = Instant::now();
        assert!(matches!(copy.await.unwrap().end, End::Idle));
        assert!(last.elapsed() >= idle - idle / TICKS);
    }

    #[test]
    fn an_idle_direction_holds_no_buffer() {
        assert_eq!(Way::default().held.capacity(), 0);
        assert!(size_of::<Way>() <= 72, "{}", size_of::<Way>());
    }
}
