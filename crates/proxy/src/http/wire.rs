//! A connection with the bytes that were read and not yet understood, and those to be written.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::net::Stream;

/// What one read takes while nothing is known of what comes: one TLS record.
const SCRATCH: usize = 16 << 10;
/// The largest buffer of its own for a body that is known to be large.
const LARGE: u64 = 32 << 10;
/// From here on a body is read into a buffer of its own rather than through the worker's.
const DIRECT: u64 = 4 << 10;
/// Pieces up to this are copied behind the head: cheaper than another slice of a vectored write.
const COPIED: usize = 2 << 10;
/// So much may wait to be written before the writer has to wait.
const WAITING: usize = 16 << 10;
/// A buffer that has grown beyond this is not kept for the next message.
const KEPT: usize = 4 << 10;

thread_local! {
    /// The worker's read buffer: connections that wait for bytes hold none.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A connection and its buffers.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// Read and not yet understood.
    pub inbox: BytesMut,
    /// Not yet written.
    pub outbox: Outbox,
}

/// Bytes to be written: small ones gathered, at most one large piece, small ones behind it. One vectored write takes
/// all three.
#[derive(Debug, Default)]
pub struct Outbox {
    front: Vec<u8>,
    written: usize,
    piece: Bytes,
    back: Vec<u8>,
    /// Something was handed to the stream that it may hold back (TLS).
    unflushed: bool,
}

// === impl Wire ===

impl Wire {
    /// A connection from which `inbox` has been read already.
    pub fn new(stream: Stream, inbox: BytesMut) -> Wire {
        Wire {
            stream,
            inbox,
            outbox: Outbox::default(),
        }
    }

    /// The connection itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Reads once into the inbox; 0 is the end. `wanted` bytes at least are known to come.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: u64) -> Poll<io::Result<usize>> {
        let Wire { stream, inbox, .. } = self;
        if wanted >= DIRECT {
            // At most 32 KiB.
            inbox.reserve(usize::try_from(wanted.min(LARGE)).unwrap_or(SCRATCH));
            return poll_read_buf(Pin::new(stream), cx, inbox);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
            inbox.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Writes until nothing waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Wire { stream, outbox, .. } = self;
        while !outbox.is_empty() {
            let written = ready!(outbox.poll_write(Pin::new(stream), cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outbox.advance(written);
            outbox.unflushed = true;
        }
        if outbox.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            outbox.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Lets go of buffers: the connection rests.
    pub fn rest(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        if self.outbox.is_empty() {
            self.outbox.front = Vec::new();
            self.outbox.back = Vec::new();
        }
    }

    /// Whether a resting connection may be used: it has neither ended nor said anything unasked. Costs no system call
    /// unless the kernel has told of something.
    pub fn is_fresh(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.inbox.is_empty() && self.poll_fill(&mut cx, 0).is_pending()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.inbox.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let length = this.inbox.len().min(buf.remaining());
        buf.put_slice(this.inbox.get(..length).unwrap_or_default());
        this.inbox.advance(length);
        if this.inbox.is_empty() {
            this.inbox = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_flush(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Wire::poll_flush(this, cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Wire::poll_shutdown(self.get_mut(), cx)
    }
}

// === impl Outbox ===

impl Outbox {
    /// Where heads and other small things are appended.
    pub fn small(&mut self) -> &mut Vec<u8> {
        let tail = if self.piece.is_empty() {
            &mut self.front
        } else {
            &mut self.back
        };
        if tail.capacity() == 0 {
            tail.reserve(1 << 10);
        }
        tail
    }

    /// Appends a piece of a body.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPIED || !self.piece.is_empty() {
            self.small().extend_from_slice(&piece);
        } else {
            self.piece = piece;
        }
    }

    /// Whether more may be appended before something was written.
    pub fn has_room(&self) -> bool {
        self.piece.is_empty() && self.front.len() < WAITING
    }

    /// Whether all was handed to the stream.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && self.piece.is_empty() && self.back.is_empty()
    }

    fn poll_write(
        &self,
        stream: Pin<&mut Stream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let front = self.front.get(self.written..).unwrap_or_default();
        if self.piece.is_empty() {
            return stream.poll_write(cx, front);
        }
        let slices = [
            IoSlice::new(front),
            IoSlice::new(&self.piece),
            IoSlice::new(&self.back),
        ];
        let first = usize::from(front.is_empty());
        stream.poll_write_vectored(cx, slices.get(first..).unwrap_or_default())
    }

    fn advance(&mut self, written: usize) {
        let mut left = written;
        let of_front = left.min(self.front.len().saturating_sub(self.written));
        self.written = self.written.saturating_add(of_front);
        left = left.saturating_sub(of_front);
        if self.written < self.front.len() {
            return;
        }
        self.front.clear();
        self.written = 0;
        if self.front.capacity() > KEPT {
            self.front = Vec::new();
        }
        let of_piece = left.min(self.piece.len());
        self.piece.advance(of_piece);
        left = left.saturating_sub(of_piece);
        if self.piece.is_empty() {
            self.piece = Bytes::new(); // Lets the read buffer go.
            // What stood behind the piece is now in front, written as far as `left` says.
            std::mem::swap(&mut self.front, &mut self.back);
            self.written = left;
            if self.written >= self.front.len() {
                self.front.clear();
                self.written = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_leaves_in_order() {
        for step in [1, 2, 3, 7, 64, 5000] {
            let mut outbox = Outbox::default();
            outbox.small().extend_from_slice(b"head|");
            outbox.push(Bytes::from_static(b"small|"));
            outbox.push(Bytes::from(vec![b'x'; COPIED + 1]));
            assert!(!outbox.has_room());
            outbox.small().extend_from_slice(b"|tail");
            let mut all = Vec::new();
            while !outbox.is_empty() {
                let waiting: Vec<u8> = [
                    outbox.front.get(outbox.written..).unwrap(),
                    &outbox.piece,
                    &outbox.back,
                ]
                .concat();
                let written = step.min(waiting.len());
                all.extend_from_slice(&waiting[..written]);
                outbox.advance(written);
            }
            let expected = [b"head|small|", &[b'x'; COPIED + 1][..], b"|tail"].concat();
            assert_eq!(all, expected, "{step}");
            assert!(outbox.has_room());
        }
    }
}
