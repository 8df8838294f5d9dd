//! Sockets and streams: the one type that sets the options nobody may forget, and forwards vectored writes.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Probes after a minute of silence find peers that vanished; Linux' own two hours keep them for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection with bytes that were taken from it put back in front.
#[derive(Debug)]
pub struct Replay<S> {
    prefix: Bytes,
    inner: S,
}

/// A TCP connection with the bytes an inspector took from it put back in front.
pub type Socket = Replay<TcpStream>;

/// A connection as filters see it.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Socket),
    /// TLS, we are the server.
    Server(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// TLS, we are the client.
    Client(Box<tokio_rustls::client::TlsStream<Socket>>),
}

// === impl Replay ===

impl<S> Replay<S> {
    /// Puts bytes in front of what a stream yields.
    pub fn with_prefix(prefix: Bytes, inner: S) -> Replay<S> {
        Replay { prefix, inner }
    }

    /// Puts bytes in front of what is read next.
    pub fn replay(&mut self, prefix: Bytes) {
        self.prefix = prefix;
    }
}

impl Socket {
    /// Wraps a connection and sets its options.
    pub fn new(tcp: TcpStream) -> Socket {
        // Failing options only cost speed; the connection itself tells if it is gone.
        let _ = tcp.set_nodelay(true);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 4);
        let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
        Replay {
            prefix: Bytes::new(),
            inner: tcp,
        }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.inner
    }

    /// Connects.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        TcpStream::connect(address).await.map(Socket::new)
    }

    /// Makes the close a reset instead of an orderly end.
    pub fn reset_on_close(&self) {
        let _ = SockRef::from(&self.inner).set_linger(Some(Duration::ZERO));
    }
}

/// An address as configuration writes it: IPv4 that came in on an IPv6 socket is IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where a redirected connection was going; `None` if it was not redirected.
pub fn original_destination(tcp: &TcpStream, peer: IpAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    // The family is the packet's: on a dual-stack socket the v4 option works for v4 peers and only for them.
    let address = if peer.to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    address.ok()?.as_socket().map(canonical)
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(self.prefix.get(..length).unwrap_or_default());
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new(); // Lets the inspector's buffer go.
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

// === impl Stream ===

impl Stream {
    /// The connection underneath.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Server(tls) => tls.get_ref().0,
            Stream::Client(tls) => tls.get_ref().0,
        }
    }

    /// The application protocol TLS agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Server(tls) => tls.get_ref().1.alpn_protocol(),
            Stream::Client(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }
}

/// Runs one expression on whichever variant it is.
macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self {
            Stream::Plain($inner) => $call,
            Stream::Server($inner) => $call,
            Stream::Client($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_an_inspector_took_is_read_again_and_writes_are_vectored() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut socket = Socket::new(accepted.unwrap().0);
        socket.replay(Bytes::from_static(b"hello"));
        assert!(socket.is_write_vectored());
        let mut stream = Stream::Plain(socket);
        assert!(stream.is_write_vectored());
        drop(client);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"hello");
    }
}
