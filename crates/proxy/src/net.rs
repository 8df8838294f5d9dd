//! Sockets and streams: the one type that sets the options nobody may forget, and forwards vectored writes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// Probes after a minute of silence find peers that vanished; Linux' own two hours keep them for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bytes that a TLS stream is given ahead of what it asks for: rustls asks for 4 KiB at a time, a quarter of a record.
const AHEAD: usize = 64 << 10;

/// How connections are opened.
#[derive(Debug, Clone, Default)]
pub struct SocketOptions {
    /// The address they come from; a port of 0 is any.
    pub source: Option<SocketAddr>,
    /// Other keep-alive times than the proxy's own.
    pub keepalive: Option<TcpKeepalive>,
}

/// A connection with bytes that were taken from it put back in front.
#[derive(Debug)]
pub struct Replay<S> {
    prefix: Bytes,
    inner: S,
    ahead: Ahead,
}

/// Whether more is read than was asked for.
#[derive(Debug)]
enum Ahead {
    /// Never: the reader has a large buffer itself.
    Off,
    /// As soon as a read fills the reader's small buffer.
    Ready,
    /// The last read filled it: there is more where that came from.
    Wanted,
    /// What was read and what of it was not yet asked for.
    Filled {
        bytes: Box<[u8]>,
        start: usize,
        end: usize,
    },
}

thread_local! {
    /// The last buffer that was read empty: the next connection with much to read takes it.
    static SPARE: Cell<Box<[u8]>> = Cell::default();
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
        Replay {
            prefix,
            inner,
            ahead: Ahead::Off,
        }
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
            ahead: Ahead::Off,
        }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.inner
    }

    /// For TLS on top: reads more at a time than rustls asks for, once there is much to read.
    pub fn reading_ahead(mut self) -> Socket {
        self.ahead = Ahead::Ready;
        self
    }

    /// Connects.
    pub async fn connect(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        let tcp = match options.source {
            None => TcpStream::connect(address).await?,
            Some(source) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                socket.set_reuseaddr(true)?;
                socket.bind(source)?;
                socket.connect(address).await?
            }
        };
        let socket = Socket::new(tcp);
        if let Some(keepalive) = &options.keepalive {
            let _ = SockRef::from(&socket.inner).set_tcp_keepalive(keepalive);
        }
        Ok(socket)
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

impl<S: AsyncRead + Unpin> Replay<S> {
    fn poll_ahead(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.ahead {
            Ahead::Off => return Pin::new(&mut self.inner).poll_read(cx, buf),
            Ahead::Ready => {
                let before = buf.filled().len();
                ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
                if buf.remaining() == 0 && buf.filled().len() > before {
                    self.ahead = Ahead::Wanted;
                }
                return Poll::Ready(Ok(()));
            }
            Ahead::Wanted => {
                let mut bytes = SPARE.take();
                if bytes.is_empty() {
                    bytes = vec![0; AHEAD].into_boxed_slice();
                }
                self.ahead = Ahead::Filled {
                    bytes,
                    start: 0,
                    end: 0,
                };
            }
            Ahead::Filled { .. } => {}
        }
        let Ahead::Filled { bytes, start, end } = &mut self.ahead else {
            return Poll::Ready(Ok(()));
        };
        if start == end {
            let mut all = ReadBuf::new(bytes);
            let read = Pin::new(&mut self.inner).poll_read(cx, &mut all);
            (*start, *end) = (0, all.filled().len());
            if *end == 0 {
                // Nothing for now, or for ever: an idle connection holds no buffer.
                SPARE.set(std::mem::take(bytes));
                self.ahead = Ahead::Ready;
                return read;
            }
        }
        let length = end.saturating_sub(*start).min(buf.remaining());
        let next = start.saturating_add(length);
        buf.put_slice(bytes.get(*start..next).unwrap_or_default());
        *start = next;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return self.poll_ahead(cx, buf);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

    #[tokio::test]
    async fn reading_ahead_yields_the_same_bytes_and_then_holds_no_buffer() {
        let (mut client, near) = tokio::io::duplex(1 << 20);
        let mut socket = Replay {
            prefix: Bytes::from_static(b"first"),
            inner: near,
            ahead: Ahead::Ready,
        };
        let sent: Vec<u8> = (0u32..200_000).map(|n| (n % 251) as u8).collect();
        client.write_all(&sent).await.unwrap();
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while all.len() < sent.len() + 5 {
            let length = socket.read(&mut chunk).await.unwrap();
            all.extend_from_slice(&chunk[..length]);
        }
        assert!(all.starts_with(b"first") && all[5..] == sent);
        let read = socket.read(&mut chunk);
        assert!(futures::poll!(std::pin::pin!(read)).is_pending());
        assert!(matches!(socket.ahead, Ahead::Ready));
        drop(client);
        assert_eq!(socket.read(&mut chunk).await.unwrap(), 0);
    }
}
