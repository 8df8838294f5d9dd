//! An upstream that notes exactly what it receives and plays what a test tells it to.
//!
//! One port speaks HTTP/1, HTTP/2 with prior knowledge, and TLS with either if it was given a certificate. It
//! listens on every address: what was received is kept by the local address, so that two proxies whose
//! resources differ in nothing but the endpoint's loopback address (127.0.0.2, 127.0.0.3) are told apart.

mod http1;
mod http2;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::message::{Fields, Transport};
use crate::ports;

/// A request's field that names the script to be played; without it: 200 with body `ok`.
pub const SCRIPT: &str = "x-script";

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
    pub version: String,
    /// Method.
    pub method: String,
    /// Target as it was written; HTTP/2: `:path`.
    pub target: String,
    /// HTTP/2: `:authority`.
    pub authority: Option<String>,
    /// Fields in order.
    pub fields: Fields,
    /// HTTP/1: the head's exact bytes.
    pub raw: Vec<u8>,
    /// Content, without framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Fields,
    /// Whether the body came to its end.
    pub is_complete: bool,
    /// Which connection of this backend, counted from 0.
    pub connection: usize,
    /// What the TLS handshake told.
    pub tls: Option<Tls>,
}

/// What the TLS handshake of an upstream connection told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Server name asked for.
    pub sni: Option<String>,
    /// Protocol agreed on.
    pub alpn: Option<String>,
    /// Whether a certificate was shown.
    pub has_certificate: bool,
}

/// What the backend does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A well-formed response.
    Answer {
        /// Status code.
        status: u16,
        /// Header fields; HTTP/1 adds the framing if none is among them.
        fields: Vec<(String, String)>,
        /// Content.
        body: Vec<u8>,
        /// Trailer fields.
        trailers: Vec<(String, String)>,
    },
    /// HTTP/1: these bytes; then the connection is closed, or kept.
    Raw(Vec<u8>, bool),
    /// The answer before the request's body is read.
    Early(Box<Reply>),
    /// Waits, then does.
    After(Duration, Box<Reply>),
    /// Resets the connection; HTTP/2: the stream, with this code.
    Reset(u32),
    /// Closes the connection without a word.
    Close,
    /// Never answers.
    Hang,
    /// HTTP/1: answers 101 and echoes bytes.
    Upgrade,
}

/// The upstream; it ends with this value.
#[derive(Debug)]
pub struct Backend {
    /// Its port, the same on all addresses.
    pub port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<HashMap<String, Vec<Reply>>>,
    sides: Mutex<HashMap<IpAddr, Side>>,
}

/// What is kept for one local address.
#[derive(Debug, Default)]
struct Side {
    received: VecDeque<Received>,
    /// How often each script was asked for.
    plays: HashMap<String, usize>,
    connections: usize,
}

/// One connection.
struct Session {
    state: Arc<State>,
    local: IpAddr,
    number: usize,
    tls: Option<Tls>,
}

/// Requests kept per address; benchmarks take none out.
const KEPT: usize = 1024;

/// A plain answer.
pub fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer {
        status,
        fields: Vec::new(),
        body: body.as_bytes().to_vec(),
        trailers: Vec::new(),
    }
}

/// A TCP server that sends back what it gets, and closes when its peer has: its port on all addresses.
pub async fn echo() -> u16 {
    let port = ports::free();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            });
        }
    });
    port
}

// === impl Backend ===

impl Backend {
    /// Starts on a free port.
    pub async fn start() -> Backend {
        Backend::serve(None).await
    }

    /// Starts with TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Backend {
        Backend::serve(Some(TlsAcceptor::from(config))).await
    }

    async fn serve(acceptor: Option<TlsAcceptor>) -> Backend {
        let port = ports::free();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, acceptor) = (shared.clone(), acceptor.clone());
                tokio::spawn(async move { connection(state, stream, acceptor).await });
            }
        });
        Backend { port, state, task }
    }

    /// What requests with `x-script: <name>` are answered with: the first with the first reply, …; the last repeats.
    pub fn script(&self, name: &str, replies: Vec<Reply>) {
        self.state.scripts.lock().insert(name.to_owned(), replies);
    }

    /// What came to this local address since the last call; scripts begin anew.
    pub fn take(&self, local: IpAddr) -> Vec<Received> {
        let mut sides = self.state.sides.lock();
        let side = sides.entry(local).or_default();
        side.plays.clear();
        side.received.drain(..).collect()
    }

    /// Connections accepted at this local address since the start.
    pub fn connections(&self, local: IpAddr) -> usize {
        let mut sides = self.state.sides.lock();
        sides.entry(local).or_default().connections
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Received ===

impl Received {
    /// A field's first value.
    pub fn field(&self, name: &str) -> Option<&str> {
        crate::message::field(&self.fields, name)
    }
}

// === impl Session ===

impl Session {
    /// Notes a request as soon as its head is there; the number finds it again.
    fn note(&self, mut received: Received) -> Note {
        received.connection = self.number;
        received.tls = self.tls.clone();
        let mut sides = self.state.sides.lock();
        let side = sides.entry(self.local).or_default();
        let name = received.field(SCRIPT).map(str::to_owned);
        if side.received.len() < KEPT {
            side.received.push_back(received);
        }
        let Some(name) = name else {
            return Note {
                reply: answer(200, "ok"),
                index: side.received.len(),
            };
        };
        let play = side.plays.entry(name.clone()).or_default();
        let scripts = self.state.scripts.lock();
        let replies = scripts.get(&name).map(Vec::as_slice).unwrap_or_default();
        let reply = replies.get(*play).or(replies.last()).cloned();
        *play += 1;
        Note {
            reply: reply.unwrap_or_else(|| answer(200, "ok")),
            index: side.received.len(),
        }
    }

    /// Adds the body to the note, if it was not taken meanwhile.
    fn complete(&self, note: &Note, body: crate::message::Body) {
        let mut sides = self.state.sides.lock();
        let side = sides.entry(self.local).or_default();
        let index = note.index.wrapping_sub(1);
        if let Some(received) = side.received.get_mut(index)
            && received.connection == self.number
        {
            received.body = body.content;
            received.trailers = body.trailers;
            received.is_complete = body.is_complete;
        }
    }
}

struct Note {
    reply: Reply,
    index: usize,
}

async fn connection(state: Arc<State>, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let number = {
        let mut sides = state.sides.lock();
        let side = sides.entry(local.ip()).or_default();
        side.connections += 1;
        side.connections - 1
    };
    let mut session = Session {
        state,
        local: local.ip(),
        number,
        tls: None,
    };
    let socket = socket2::SockRef::from(&stream).try_clone().ok();
    let mut stream: Box<dyn Transport> = match acceptor {
        None => Box::new(stream),
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let state = stream.get_ref().1;
            let alpn = state.alpn_protocol();
            session.tls = Some(Tls {
                sni: state.server_name().map(str::to_owned),
                alpn: alpn.map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
                has_certificate: state.peer_certificates().is_some(),
            });
            Box::new(stream)
        }
    };
    let mut first = [0; 3];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let stream = Box::new(Rewound {
        first: first.to_vec(),
        stream,
    });
    match &first == b"PRI" {
        true => http2::serve(Arc::new(session), stream).await,
        false => http1::serve(session, stream, socket).await,
    }
}

/// A stream whose first bytes were read already.
struct Rewound {
    first: Vec<u8>,
    stream: Box<dyn Transport>,
}

mod rewound {
    use std::io::Result;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Rewound;

    impl AsyncRead for Rewound {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<Result<()>> {
            if self.first.is_empty() {
                return Pin::new(&mut self.stream).poll_read(context, buffer);
            }
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.drain(..length).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Rewound {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }
}
