//! Opening and closing listening sockets as the configuration says, while connections live on.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::connection::serve;
use crate::listener::{Direction, Listener};
use crate::snapshot::Snapshot;
use crate::worker::{Shared, Worker};

/// How long the accept loop rests when the system refuses to accept: descriptors come back within this.
const REST: Duration = Duration::from_millis(50);

/// The sockets that are open.
pub struct Listeners {
    shared: Arc<Shared>,
    workers: Arc<Vec<(Handle, AtomicUsize)>>,
    open: BTreeMap<Arc<str>, Open>,
    /// Bindings that failed are tried again.
    failed: bool,
    /// Directions that listen no more.
    stopped: Vec<Direction>,
}

struct Open {
    addresses: Vec<(SocketAddr, bool)>,
    current: Arc<ArcSwap<Listener>>,
    bound: Vec<SocketAddr>,
    /// Dropping it closes the sockets.
    _close: watch::Sender<()>,
}

// === impl Listeners ===

impl Listeners {
    /// None open yet; connections go to these workers.
    pub fn new(shared: Arc<Shared>, workers: Vec<Handle>) -> Listeners {
        let workers = workers
            .into_iter()
            .map(|handle| (handle, AtomicUsize::new(0)))
            .collect();
        Listeners {
            shared,
            workers: Arc::new(workers),
            open: BTreeMap::new(),
            failed: false,
            stopped: Vec::new(),
        }
    }

    /// Opens, changes and closes what the snapshot says.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        self.failed = false;
        let gone: Vec<Arc<str>> = self
            .open
            .keys()
            .filter(|name| !snapshot.listeners.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.open.remove(&name);
            info!(listener = %name, "listener closed");
        }
        for (name, listener) in &snapshot.listeners {
            if self.stopped.contains(&listener.direction) {
                continue;
            }
            match self.open.get(name) {
                Some(open) if open.addresses == listener.addresses => {
                    open.current.store(listener.clone())
                }
                _ => {
                    self.open.remove(name);
                    self.open(name, listener);
                }
            }
        }
    }

    /// Whether a port could not be had; [`Listeners::apply`] should be called again.
    pub fn is_incomplete(&self) -> bool {
        self.failed
    }

    /// The addresses of the open listeners.
    pub fn bound(&self) -> BTreeMap<Arc<str>, Vec<SocketAddr>> {
        self.open
            .iter()
            .map(|(name, open)| (name.clone(), open.bound.clone()))
            .collect()
    }

    /// Closes the sockets of listeners in these directions for good; connections live on.
    pub fn stop(&mut self, closes: impl Fn(Direction) -> bool) {
        self.open
            .retain(|_, open| !closes(open.current.load().direction));
        for direction in [
            Direction::Unspecified,
            Direction::Inbound,
            Direction::Outbound,
        ] {
            if closes(direction) && !self.stopped.contains(&direction) {
                self.stopped.push(direction);
            }
        }
    }

    fn open(&mut self, name: &Arc<str>, listener: &Arc<Listener>) {
        let Some((control, _)) = self.workers.first() else {
            return;
        };
        let (close, closed) = watch::channel(());
        let current = Arc::new(ArcSwap::new(listener.clone()));
        let mut bound = Vec::new();
        for (address, v4_too) in &listener.addresses {
            let socket = match bind(*address, *v4_too, listener.backlog) {
                Ok(socket) => socket,
                Err(error) => {
                    warn!(listener = %name, %address, %error, "cannot listen");
                    self.failed = true;
                    return;
                }
            };
            bound.extend(socket.local_addr());
            let accepting = Accepting {
                current: current.clone(),
                shared: self.shared.clone(),
                workers: self.workers.clone(),
                closed: closed.clone(),
            };
            control.spawn(accepting.run(socket));
        }
        info!(listener = %name, addresses = ?bound, "listener open");
        let open = Open {
            addresses: listener.addresses.clone(),
            current,
            bound,
            _close: close,
        };
        self.open.insert(name.clone(), open);
    }
}

/// Binds a listening socket; `v4_too` takes IPv4 on an IPv6 socket.
fn bind(address: SocketAddr, v4_too: bool, backlog: u32) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!v4_too)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// An accept loop.
struct Accepting {
    current: Arc<ArcSwap<Listener>>,
    shared: Arc<Shared>,
    workers: Arc<Vec<(Handle, AtomicUsize)>>,
    closed: watch::Receiver<()>,
}

impl Accepting {
    async fn run(mut self, socket: std::net::TcpListener) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return warn!(%error, "cannot watch a listening socket"),
        };
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                // Its sender never sends: it only goes away. Cancel-safe: accept loses no connection.
                _ = self.closed.changed() => return,
            };
            match accepted {
                Ok((stream, source)) => self.take(stream, source),
                Err(error) => {
                    // Out of descriptors, or the client is already gone: neither is worth a busy loop.
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Hands a connection to the worker with the fewest.
    fn take(&self, stream: tokio::net::TcpStream, source: SocketAddr) {
        let listener = self.current.load_full();
        let stats = self.shared.stats.listener(&listener.stat_name);
        stats.connections.increment();
        let Some(place) = self.shared.enter() else {
            // At the limit: closing at once is the cheapest refusal.
            stats.global_overflow.increment();
            self.shared.stats.server.connections_refused.increment();
            return;
        };
        let least = self
            .workers
            .iter()
            .enumerate()
            .min_by_key(|(_, (_, count))| count.load(Ordering::Relaxed));
        let Some((index, (handle, count))) = least else {
            return;
        };
        count.fetch_add(1, Ordering::Relaxed);
        let workers = self.workers.clone();
        let worker = Worker {
            index,
            shared: self.shared.clone(),
        };
        let own = index == 0;
        let task = move |stream| async move {
            let _place = place;
            let begun = Instant::now();
            stats.connections_active.add(1);
            serve(stream, source, listener, stats.clone(), worker).await;
            stats.connections_active.add(-1);
            stats.connections_closed.increment();
            stats.connection_time.record(begun.elapsed());
            if let Some((_, count)) = workers.get(index) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        };
        if own {
            tokio::spawn(task(stream));
        } else if let Ok(stream) = stream.into_std() {
            // A socket belongs to the event loop that watches it: the other worker's.
            handle.spawn(async move {
                if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
                    task(stream).await;
                }
            });
        }
    }
}
