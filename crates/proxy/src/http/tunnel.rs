//! The bytes after a switch of protocols: a whole HTTP/1 connection, or one HTTP/2 stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Broken, Piece};
use super::h2::{Sink, Source};
use super::wire::Wire;

/// One end of a switched exchange.
pub enum Tunnel<'a> {
    /// A connection.
    Wire(&'a mut Wire),
    /// A stream: what is read of it, and what is written.
    Stream {
        /// From the peer.
        source: &'a mut Source,
        /// To the peer.
        sink: &'a mut Sink,
        /// Read and not yet taken.
        piece: Bytes,
    },
}

/// Bytes taken into one DATA frame at most.
const FRAME: usize = 16 << 10;

impl AsyncRead for Tunnel<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::Wire(wire) => Pin::new(&mut **wire).poll_read(cx, buf),
            Tunnel::Stream { source, piece, .. } => {
                while piece.is_empty() {
                    match ready!(source.poll_piece(cx)) {
                        Some(Ok(Piece::Data(data))) => *piece = data,
                        Some(Ok(Piece::Trailers(_))) | None => return Poll::Ready(Ok(())),
                        Some(Err(broken)) => return Poll::Ready(Err(error(broken))),
                    }
                }
                let length = piece.len().min(buf.remaining());
                buf.put_slice(piece.get(..length).unwrap_or_default());
                piece.advance(length);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Tunnel<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Tunnel::Wire(wire) => Pin::new(&mut **wire).poll_write(cx, bytes),
            Tunnel::Stream { sink, .. } => {
                ready!(sink.poll_ready(cx)).map_err(error)?;
                let taken = bytes.get(..bytes.len().min(FRAME)).unwrap_or_default();
                sink.push(Bytes::copy_from_slice(taken), false)
                    .map_err(error)?;
                Poll::Ready(Ok(taken.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::Wire(wire) => AsyncWrite::poll_flush(Pin::new(&mut **wire), cx),
            Tunnel::Stream { sink, .. } => sink.poll_ready(cx).map_err(error),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::Wire(wire) => AsyncWrite::poll_shutdown(Pin::new(&mut **wire), cx),
            Tunnel::Stream { sink, .. } => {
                ready!(sink.poll_ready(cx)).map_err(error)?;
                Poll::Ready(sink.finish(None).map_err(error))
            }
        }
    }
}

fn error(broken: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, broken)
}
