//! The life of a connection: original destination, inspection, chain, TLS, network filters, last filter.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ::http::HeaderValue;
use bytes::BytesMut;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access::{Line, Logger, milliseconds, timestamp};
use crate::chain::Arrival;
use crate::http::filters::local_rate_limit::{Limiter, LocalRateLimit};
use crate::http::server::Serving;
use crate::inspect;
use crate::listener::{Chain, ClientCert, Listener, Terminal};
use crate::net::{Socket, Stream, canonical};
use crate::network::{Hold, admit};
use crate::rbac::{Peer, Rules};
use crate::reason::Reason;
use crate::stats::{HttpStats, ListenerStats};
use crate::tls::{Names, TlsServer, encoded_pem, is_outlived, names};
use crate::worker::Worker;
use crate::{arrival, http, tcp};

/// The first read of an inspector; most ClientHellos and requests fit.
const FIRST_READ: usize = 2 << 10;

/// A connection that a chain took.
#[derive(Debug)]
pub struct Connection {
    /// As policies see it.
    pub peer: Peer,
    /// Where it comes from, with port.
    pub source: SocketAddr,
    /// Its destination is another than the socket it came in on: it was redirected, or a PROXY header says so.
    pub is_redirected: bool,
    /// It came over TLS that we terminated.
    pub is_tls: bool,
    /// What `x-forwarded-client-cert` says of the client, where it is to be told.
    pub client_cert: Option<HeaderValue>,
    /// The listener.
    pub listener: Arc<Listener>,
    /// The chain.
    pub chain: Arc<Chain>,
    /// The listener's counters.
    pub stats: Arc<ListenerStats>,
    /// The worker that serves it.
    pub worker: Worker,
    /// The client's certificate in DER, where a filter shows it to a service.
    pub certificate: Option<Box<[u8]>>,
    /// Rate limits of its own, by the address of their configuration.
    limiters: Mutex<Vec<(usize, Arc<Limiter>)>>,
}

/// Takes a connection in, and has it served to its end; `place` is dropped then.
pub async fn serve(
    tcp: TcpStream,
    source: SocketAddr,
    listener: Arc<Listener>,
    stats: Arc<ListenerStats>,
    worker: Worker,
    place: impl Send + 'static,
) {
    let established = establish(tcp, source, listener, stats, worker).await;
    let Some((stream, connection, holds)) = established else {
        return;
    };
    let logged = logged(&connection);
    let beginning = match &connection.chain.terminal {
        Terminal::Tcp(_) => Beginning::Tcp(Box::pin(tcp::serve(stream, connection))),
        Terminal::Http(_) => Beginning::Http(Box::pin(http::server::begin(stream, connection))),
    };
    // A task of its own: a connection rests far longer than it arrives, and must not carry the size of a handshake then.
    tokio::spawn(async move {
        let serving = match beginning {
            Beginning::Tcp(serving) => Some(serving),
            Beginning::Http(begins) => begins.await,
        };
        if let Some(serving) = serving {
            serving.await;
        }
        if let Some((mut line, connection)) = logged {
            line.duration = line.begun.map_or(0, |begun| milliseconds(begun.elapsed()));
            let shared = &connection.worker.shared;
            shared.log.emit(&line, &connection.listener.access_log);
        }
        drop((holds, place));
    });
}

/// What a connection's own task begins with.
enum Beginning {
    /// The bytes pass.
    Tcp(Serving),
    /// What follows depends on the HTTP the client speaks.
    Http(Pin<Box<dyn Future<Output = Option<Serving>> + Send>>),
}

/// The line of a connection whose listener logs connections.
fn logged(connection: &Arc<Connection>) -> Option<(Box<Line>, Arc<Connection>)> {
    if connection.listener.access_log.is_empty() {
        return None;
    }
    let mut line = Box::new(connection.line());
    line.begun = Some(Instant::now());
    line.start_time = timestamp(SystemTime::now());
    Some((line, connection.clone()))
}

/// A connection that its chain's last filter may have, and what the filters before hold of it.
type Established = (Stream, Arc<Connection>, Vec<Hold>);

/// Everything before the last filter; nothing if the connection was refused.
async fn establish(
    tcp: TcpStream,
    source: SocketAddr,
    listener: Arc<Listener>,
    stats: Arc<ListenerStats>,
    worker: Worker,
) -> Option<Established> {
    let source = canonical(source);
    let local = tcp.local_addr().map(canonical).ok()?;
    let mut socket = Socket::new(tcp);
    let (mut arrival, mut listener) = (arrival::arrival(local, source), listener);
    if let Some(keepalive) = &listener.keepalive {
        let _ = SockRef::from(socket.tcp()).set_tcp_keepalive(keepalive);
    }
    let accepted = listener.clone();
    let chosen = arrival::choose(&mut socket, &mut arrival, &mut listener, &worker).await;
    let stats = if Arc::ptr_eq(&accepted, &listener) {
        stats
    } else {
        worker.shared.stats.listener(&listener.stat_name)
    };
    let refused = match chosen {
        Ok(chain) => {
            let peer = Peer {
                destination: arrival.destination,
                source: arrival.source.ip(),
                names: None,
                server_name: arrival.server_name,
            };
            let is_tls = chain.tls.is_some();
            let connection = Connection {
                peer,
                source: arrival.source,
                is_redirected: arrival.destination != local,
                is_tls,
                client_cert: None,
                listener,
                chain,
                stats,
                worker,
                certificate: None,
                limiters: Mutex::default(),
            };
            return prepare(socket, connection).await;
        }
        Err(reason) => reason,
    };
    match refused {
        Reason::NoFilterChain => stats.no_filter_chain.increment(),
        Reason::InspectionTimeout => stats.inspection_timeouts.increment(),
        // As Envoy, and always: else it would depend on how much of the rest has come.
        Reason::ProxyProtocol => socket.reset_on_close(),
        _ => {}
    }
    log_refusal(refused, &arrival, &listener, &worker);
    None
}

/// TLS, and the filters before the last.
async fn prepare(socket: Socket, mut connection: Connection) -> Option<Established> {
    let chain = connection.chain.clone();
    let stream = match accept(socket, &mut connection).await {
        Ok(stream) => stream,
        Err(reason) => {
            connection.refuse(reason, None);
            return None;
        }
    };
    match admit(&chain.filters, &connection).await {
        Ok(holds) => Some((stream, Arc::new(connection), holds)),
        Err(refused) => {
            connection.refuse(refused.reason, refused.policy);
            None
        }
    }
}

/// Terminates TLS where the chain wants it, and learns who the client is.
async fn accept(socket: Socket, connection: &mut Connection) -> Result<Stream, Reason> {
    let chain = &connection.chain;
    let Some(settings) = &chain.tls else {
        return Ok(Stream::Plain(socket));
    };
    let server = chain.tls_server.load_full().ok_or(Reason::SecretsMissing)?;
    let acceptor = TlsAcceptor::from(server.config.clone());
    let accepted = timeout(
        chain.handshake_timeout,
        acceptor.accept(socket.reading_ahead()),
    )
    .await;
    let tls = match accepted {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            connection.stats.handshake_errors.increment();
            tracing::debug!(chain = %chain.name, source = %connection.source, %error, "TLS handshake failed");
            return Err(Reason::DownstreamTls);
        }
        Err(_) => {
            connection.stats.handshake_errors.increment();
            return Err(Reason::DownstreamTls);
        }
    };
    connection.stats.handshakes.increment();
    let session = tls.get_ref().1;
    if is_outlived(session) {
        return Err(Reason::DownstreamTls);
    }
    let server_name = session.server_name().map(str::to_ascii_lowercase);
    if settings.require_sni && server_name.is_none() {
        return Err(Reason::DownstreamTls);
    }
    connection.peer.server_name = server_name.or(connection.peer.server_name.take());
    // rustls hands certificates out only after its verifier took them.
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let names_of_leaf = leaf.and_then(names);
    if let (Some(leaf), Some(names)) = (leaf, &names_of_leaf) {
        connection.client_cert = connection.describe(&server, leaf, names);
    }
    connection.peer.names = names_of_leaf.and_then(|names| names.principals());
    if chain.shows_certificate() {
        connection.certificate = leaf.map(|leaf| leaf.as_ref().into());
    }
    Ok(Stream::Server(Box::new(tls)))
}

impl Connection {
    /// What the chain's connection manager tells of a client that showed this certificate.
    fn describe(
        &self,
        server: &TlsServer,
        leaf: &CertificateDer<'_>,
        names_of_leaf: &Names,
    ) -> Option<HeaderValue> {
        let Terminal::Http(manager) = &self.chain.terminal else {
            return None;
        };
        match manager.edge.client_cert {
            ClientCert::Sanitize | ClientCert::AlwaysForwardOnly => return None,
            // Only that there is a certificate counts.
            ClientCert::ForwardOnly => return Some(HeaderValue::from_static("-")),
            ClientCert::AppendForward | ClientCert::SanitizeSet => {}
        }
        let fixed = server.inputs.certificate.clone();
        let own = fixed.or_else(|| self.worker.shared.own.current());
        let own = own.as_ref().and_then(|own| names(own.cert.first()?));
        let own = own.as_ref().and_then(|own| own.uris.first());
        let details = manager.cert_details;
        details.element(leaf, names_of_leaf, own.map(String::as_str))
    }

    /// Network RBAC; `Err` is the policy that denies.
    pub fn judge(&self, rules: &Rules) -> Result<(), Option<Arc<str>>> {
        let stats = &self.stats;
        if let Some(shadow) = &rules.shadow {
            if shadow.decide(&self.peer, None).allowed {
                stats.rbac_shadow_allowed.increment();
            } else {
                stats.rbac_shadow_denied.increment();
            }
        }
        let Some(enforced) = &rules.enforced else {
            return Ok(());
        };
        let verdict = enforced.decide(&self.peer, None);
        if !verdict.allowed {
            stats.rbac_denied.increment();
            return Err(verdict.policy);
        }
        stats.rbac_allowed.increment();
        Ok(())
    }

    /// The buckets of a local rate limit that every connection has for itself.
    pub fn limiter(&self, config: &Arc<LocalRateLimit>) -> Arc<Limiter> {
        let key = Arc::as_ptr(config).addr();
        let mut limiters = self.limiters.lock();
        if let Some((_, limiter)) = limiters.iter().find(|(of, _)| *of == key) {
            return limiter.clone();
        }
        let limiter = config.limiter_of_connection();
        limiters.push((key, limiter.clone()));
        limiter
    }

    /// The name in the proxy's own certificate.
    pub fn own_name(&self) -> Option<String> {
        let own = self.worker.shared.own.current()?;
        let names = own.cert.first().and_then(names)?.principals()?;
        names.into_iter().next()
    }

    /// The client's certificate as URL-encoded PEM, where a filter shows it.
    pub fn certificate_pem(&self) -> Option<String> {
        self.certificate.as_deref().map(encoded_pem)
    }

    /// A log line with what is known of every request of the connection.
    pub fn line(&self) -> Line {
        Line {
            direction: self.listener.direction.as_str(),
            requested_server_name: self.peer.server_name.clone(),
            downstream_remote_address: self.source.to_string(),
            downstream_local_address: self.peer.destination.to_string(),
            downstream_peer: self
                .peer
                .names
                .as_ref()
                .and_then(|names| names.first().cloned()),
            response_flags: "-",
            filter_chain: Some(self.chain.name.clone()),
            ..Line::default()
        }
    }

    /// The chain's access logs.
    pub fn loggers(&self) -> &[Logger] {
        match &self.chain.terminal {
            Terminal::Http(manager) => &manager.access_log,
            Terminal::Tcp(proxy) => &proxy.access_log,
        }
    }

    /// Whether anybody reads log lines.
    pub fn is_logged(&self) -> bool {
        self.worker.shared.log.is_on(self.loggers())
    }

    /// Writes the line of an exchange that is over.
    pub fn log(&self, line: &Line) {
        self.worker.shared.log.emit(line, self.loggers());
    }

    /// The counters of the chain's connection manager.
    pub fn http_stats(&self) -> &HttpStats {
        let chain = &self.chain;
        chain.http_stats.get_or_init(|| {
            let prefix = match &chain.terminal {
                Terminal::Http(manager) => &manager.stat_prefix,
                Terminal::Tcp(proxy) => &proxy.stat_prefix,
            };
            self.worker.shared.stats.http(prefix)
        })
    }

    fn refuse(&self, reason: Reason, policy: Option<Arc<str>>) {
        self.worker.shared.stats.refuse(reason);
        let row = reason.row();
        tracing::debug!(chain = %self.chain.name, source = %self.source, reason = row.details, "connection refused");
        let mut line = self.line();
        line.start_time = timestamp(SystemTime::now());
        line.route_name = Some(self.chain.name.clone());
        line.policy = policy;
        line.response_flags = row.flag;
        line.response_code_details = row.details.to_owned();
        line.blame = Some(row.blame.as_str());
        self.log(&line);
    }
}

fn log_refusal(reason: Reason, arrival: &Arrival, listener: &Listener, worker: &Worker) {
    worker.shared.stats.refuse(reason);
    let row = reason.row();
    let destination = arrival.destination;
    tracing::debug!(listener = %listener.name, %destination, reason = row.details, "connection refused");
    let line = Line {
        start_time: timestamp(SystemTime::now()),
        direction: listener.direction.as_str(),
        response_flags: row.flag,
        response_code_details: row.details.to_owned(),
        blame: Some(row.blame.as_str()),
        requested_server_name: arrival.server_name.clone(),
        downstream_remote_address: arrival.source.to_string(),
        downstream_local_address: destination.to_string(),
        ..Line::default()
    };
    worker.shared.log.emit(&line, &listener.access_log);
}

/// Reads until it is known whether the client speaks HTTP/2, and what was read.
pub async fn is_http2(stream: &mut Stream) -> std::io::Result<(bool, BytesMut)> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok((false, bytes));
        }
        if let Some(answer) = inspect::is_http2(&bytes) {
            return Ok((answer, bytes));
        }
    }
}
