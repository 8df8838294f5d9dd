//! TLS listeners of the control plane: handshakes off the accept path, bounded, with a deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use ca::Identity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// Time a peer has for its handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Accepted connections waiting for the server to take them.
const QUEUE_BOUND: usize = 64;

/// Pause after a failed accept: it fails for lack of file descriptors, which needs time to heal.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection after its handshake.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Counts against the listener's limit until the connection is dropped.
    _slot: OwnedSemaphorePermit,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// Who it is, if it showed a certificate and the listener's verifier accepted it.
    pub(crate) identity: Option<Identity>,
}

/// Connections as they finish their handshakes.
pub(crate) struct Incoming {
    connections: mpsc::Receiver<io::Result<Connection>>,
    address: SocketAddr,
}

/// Binds a TCP port; where the machine has no IPv6, all IPv4 addresses stand in for `::`.
pub(crate) async fn bind(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((address, port)).await {
        Ok(listener) => Ok(listener),
        Err(e) if address.is_unspecified() && e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .await
                .with_context(|| format!("port {port}"))
        }
        Err(e) => Err(e).with_context(|| format!("{address} port {port}")),
    }
}

/// Accepts connections of `listener` until `stop`; at most `limit` are open at a time.
pub(crate) fn accept(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    limit: usize,
    stop: CancellationToken,
) -> anyhow::Result<Incoming> {
    let address = listener.local_addr().context("address of a listener")?;
    let (sender, connections) = mpsc::channel(QUEUE_BOUND);
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(limit));
    // Ends with the receiver or `stop`, and handshakes end by their deadline.
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(listener, acceptor, slots, sender.clone()) => {}
            () = stop.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    Ok(Incoming {
        connections,
        address,
    })
}

async fn accept_all(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    slots: Arc<Semaphore>,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        // Without a free slot new connections wait in the kernel's queue.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(acceptor, tcp, address, slot))
                .await
            {
                Ok(Ok(connection)) => {
                    let _ = sender.send(Ok(connection)).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake"),
                Err(_) => {
                    tracing::debug!(%address, "TLS handshake took more than {HANDSHAKE_DEADLINE:?}")
                }
            }
        });
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let identity = match ca::peer_identity(stream.get_ref().1) {
        Some(Ok(identity)) => Some(identity),
        // Signed by the mesh's root but without a workload's name: nobody, as far as we care.
        Some(Err(error)) => {
            tracing::debug!(%address, %error, "client certificate");
            None
        }
        None => None,
    };
    Ok(Connection {
        stream,
        peer: Peer { address, identity },
        _slot: slot,
    })
}

// === impl Incoming ===

impl futures::Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx)
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(Ok(connection)) => {
                let address = connection.peer.address;
                (connection, address)
            }
            // The accept task ended; the server is about to be told so.
            _ => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

// === impl Connection ===

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
