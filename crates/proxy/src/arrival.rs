//! From the accept to the filter chain: PROXY protocol, original destination, the first bytes, the choice.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::chain::Arrival;
use crate::inspect::{self, Verdict};
use crate::listener::{Chain, Listener, Predicate};
use crate::net::{Socket, canonical, original_destination};
use crate::proxy_protocol::{self, Found};
use crate::reason::Reason;
use crate::worker::Worker;

/// The first read of an inspector; most ClientHellos and requests fit.
const FIRST_READ: usize = 2 << 10;

/// Learns what the listener's filters can tell and finds the chain. `listener` becomes another one where a connection
/// is handed over by its original destination.
pub(crate) async fn choose(
    socket: &mut Socket,
    arrival: &mut Arrival,
    listener: &mut Arc<Listener>,
    worker: &Worker,
) -> Result<Arc<Chain>, Reason> {
    let local = arrival.destination;
    if listener.original_destination && !listener.binding.transparent {
        // Not redirected, or redirected to ourselves: serving it would be a loop.
        arrival.destination = original_destination(socket.tcp(), arrival.source.ip())
            .filter(|destination| *destination != local)
            .ok_or(Reason::Loop)?;
    }
    inspect_within(socket, arrival, listener).await?;
    if listener.hands_over {
        let snapshot = worker.shared.snapshot.load();
        if let Some(other) = snapshot.handed(arrival.destination) {
            *listener = other.clone();
        }
    }
    match listener.table.find(arrival) {
        Some(index) => listener
            .chains
            .get(index)
            .cloned()
            .ok_or(Reason::NoFilterChain),
        None => listener.default_chain.clone().ok_or(Reason::NoFilterChain),
    }
}

async fn inspect_within(
    socket: &mut Socket,
    arrival: &mut Arrival,
    listener: &Listener,
) -> Result<(), Reason> {
    let is_quiet = listener.proxy_protocol.is_none()
        && listener.tls_inspector.is_none()
        && listener.http_inspector.is_none();
    if is_quiet {
        return Ok(());
    }
    let mut bytes = BytesMut::new();
    let reading = inspect(socket, &mut bytes, arrival, listener);
    let known = timeout(listener.inspection_timeout, reading).await;
    socket.replay(bytes.freeze());
    match known {
        Ok(known) => known,
        // Whose address is not known by then may not go on under the load balancer's.
        Err(_) if listener.continue_on_timeout && listener.proxy_protocol.is_none() => Ok(()),
        Err(_) => Err(Reason::InspectionTimeout),
    }
}

/// Reads until the filters know, or the client has no more to say. What was read and is the connection's stays in `bytes`.
async fn inspect(
    socket: &mut Socket,
    bytes: &mut BytesMut,
    arrival: &mut Arrival,
    listener: &Listener,
) -> Result<(), Reason> {
    if let Some(accepts) = listener.proxy_protocol {
        loop {
            match proxy_protocol::parse(bytes, accepts) {
                Found::Nothing => break,
                Found::Header(header) => {
                    bytes.advance(header.length);
                    if let Some((source, destination)) = header.addresses {
                        arrival.source = canonical(source);
                        arrival.destination = canonical(destination);
                    }
                    break;
                }
                Found::Refused(reason) => {
                    tracing::debug!(listener = %listener.name, source = %arrival.source, reason, "PROXY protocol");
                    return Err(Reason::ProxyProtocol);
                }
                Found::More => {
                    if !read(socket, bytes).await {
                        return Err(Reason::ProxyProtocol);
                    }
                }
            }
        }
    }
    first_bytes(socket, bytes, arrival, listener).await;
    Ok(())
}

/// TLS, or HTTP?
async fn first_bytes(
    socket: &mut Socket,
    bytes: &mut BytesMut,
    arrival: &mut Arrival,
    listener: &Listener,
) {
    let port = arrival.destination.port();
    let wants =
        |inspector: &Option<Predicate>| inspector.as_ref().is_some_and(|off| !off.holds(port));
    let mut tls = wants(&listener.tls_inspector);
    let mut http = wants(&listener.http_inspector);
    while tls || http {
        if tls {
            match inspect::tls(bytes) {
                Verdict::Is(hello) => {
                    arrival.is_tls = true;
                    arrival.server_name = hello.server_name;
                    arrival.applications = hello.applications;
                    return;
                }
                Verdict::IsNot => tls = false,
                Verdict::More => {}
            }
        }
        if http {
            match inspect::http(bytes) {
                Verdict::Is(application) => {
                    arrival.applications = vec![application.to_owned()];
                    return;
                }
                Verdict::IsNot => http = false,
                Verdict::More => {}
            }
        }
        if (tls || http) && !read(socket, bytes).await {
            return;
        }
    }
}

/// Reads more; false when there is no more.
async fn read(socket: &mut Socket, bytes: &mut BytesMut) -> bool {
    if bytes.capacity() == bytes.len() {
        bytes.reserve(FIRST_READ);
    }
    // Cancel-safe: what `read_buf` has read is in the buffer.
    matches!(socket.read_buf(bytes).await, Ok(count) if count > 0)
}

/// What is known of a connection when it is accepted.
pub(crate) fn arrival(local: SocketAddr, source: SocketAddr) -> Arrival {
    Arrival {
        destination: local,
        source,
        direct_source: source.ip(),
        is_tls: false,
        server_name: None,
        applications: Vec::new(),
    }
}
