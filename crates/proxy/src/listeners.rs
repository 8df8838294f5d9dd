//! Opening and closing listening sockets as the configuration says, while connections live on.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::connection::serve;
use crate::listener::{Address, Binding, Direction, Listener};
use crate::overload::Action;
use crate::snapshot::Snapshot;
use crate::socket_options::{Family, Moment, Setting, apply};
use crate::stats::ListenerStats;
use crate::worker::{Place, Shared, Worker};

/// How long the accept loop rests when the system refuses to accept: descriptors come back within this.
const REST: Duration = Duration::from_millis(50);

/// The process has as many files open as it may …
const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
/// … or the system has.
const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;

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
    current: Arc<ArcSwap<Listener>>,
    sockets: Vec<Socket>,
}

/// A listening socket.
struct Socket {
    /// What it was made from.
    address: Address,
    /// The listener's part of it.
    binding: Arc<Binding>,
    bound: SocketAddr,
    /// Dropping it closes the socket.
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
            self.shared.stats.server.listeners_removed.increment();
            info!(listener = %name, "listener closed");
        }
        for (name, listener) in &snapshot.listeners {
            if self.stopped.contains(&listener.direction) {
                continue;
            }
            self.change(name, listener);
        }
        let active = i64::try_from(self.open.len()).unwrap_or(i64::MAX);
        self.shared.stats.server.listeners_active.set(active);
    }

    /// Whether a port could not be had; [`Listeners::apply`] should be called again.
    pub fn is_incomplete(&self) -> bool {
        self.failed
    }

    /// The addresses of the open listeners.
    pub fn bound(&self) -> BTreeMap<Arc<str>, Vec<SocketAddr>> {
        self.open
            .iter()
            .map(|(name, open)| {
                let bound = open.sockets.iter().map(|socket| socket.bound);
                (name.clone(), bound.collect())
            })
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

    /// Opens the sockets a listener has not yet, and closes those it has no more; the others stay as they are.
    fn change(&mut self, name: &Arc<str>, listener: &Arc<Listener>) {
        if !listener.binding.bind_to_port {
            self.open.remove(name);
            return;
        }
        let stats = &self.shared.stats.server;
        let (current, mut old) = match self.open.remove(name) {
            Some(open) => {
                if !Arc::ptr_eq(&open.current.load(), listener) {
                    stats.listeners_modified.increment();
                    open.current.store(listener.clone());
                }
                (open.current, open.sockets)
            }
            None => {
                stats.listeners_added.increment();
                (Arc::new(ArcSwap::new(listener.clone())), Vec::new())
            }
        };
        let mut sockets = Vec::new();
        for address in &listener.binding.addresses {
            let kept = old.iter().position(|socket| {
                socket.address == *address && socket.binding.is_like(&listener.binding)
            });
            match kept {
                Some(index) => sockets.push(old.swap_remove(index)),
                None => match self.listen(address, listener, &current) {
                    Ok(socket) => sockets.push(socket),
                    Err(error) => {
                        warn!(listener = %name, address = %address.at, %error, "cannot listen");
                        self.shared.stats.server.listeners_failed.increment();
                        self.failed = true;
                    }
                },
            }
        }
        self.open.insert(name.clone(), Open { current, sockets });
    }

    fn listen(
        &self,
        address: &Address,
        listener: &Arc<Listener>,
        current: &Arc<ArcSwap<Listener>>,
    ) -> io::Result<Socket> {
        let Some((first, _)) = self.workers.first() else {
            return Err(io::Error::other("there is no worker"));
        };
        let socket = bind(address, &listener.binding)?;
        let bound = socket.local_addr()?;
        let (close, closed) = watch::channel(());
        let accepting = Accepting {
            current: current.clone(),
            shared: self.shared.clone(),
            workers: self.workers.clone(),
            closed,
        };
        first.spawn(accepting.run(socket));
        self.shared.stats.server.listeners_created.increment();
        info!(listener = %listener.name, address = %bound, "listener open");
        Ok(Socket {
            address: address.clone(),
            binding: listener.binding.clone(),
            bound,
            _close: close,
        })
    }
}

/// Makes a listening socket.
fn bind(address: &Address, binding: &Binding) -> io::Result<std::net::TcpListener> {
    let at = address.at;
    let socket = socket2::Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    let options = SockRef::from(&socket);
    let family = if at.is_ipv6() { Family::V6 } else { Family::V4 };
    options.set_reuse_address(true)?;
    if at.is_ipv6() {
        options.set_only_v6(!address.v4_too)?;
    }
    if binding.transparent {
        Setting::Transparent(true).set(&options, family)?;
        if at.is_ipv6() && address.v4_too {
            Setting::Transparent(true).set(&options, Family::V4)?;
        }
    }
    if binding.freebind {
        Setting::Freebind(true).set(&options, family)?;
    }
    apply(&address.options, Moment::Created, &options, family)?;
    socket.bind(&at.into())?;
    apply(&address.options, Moment::Bound, &options, family)?;
    socket.listen(i32::try_from(binding.backlog).unwrap_or(i32::MAX))?;
    apply(&address.options, Moment::Listening, &options, family)?;
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
                _ = self.closed.changed() => return self.finish(socket),
            };
            match accepted {
                Ok((stream, source)) => {
                    self.hold().await;
                    self.take(stream, source);
                }
                Err(error) => {
                    // Out of descriptors, or the client is already gone: neither is worth a busy loop.
                    tracing::debug!(%error, "accept failed");
                    if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                        self.shared.overload.exhausted();
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Waits while the overload manager lets no connection in, if the listener stays: those behind this one wait in the
    /// kernel's queue.
    async fn hold(&self) {
        while self.shared.overload.is(Action::StopConnections) && self.closed.has_changed().is_ok()
        {
            tokio::time::sleep(REST).await;
        }
    }

    /// Takes the connections that the kernel has accepted already: closing the socket would reset them.
    fn finish(&self, socket: TcpListener) {
        // By the system's own accept: the event loop need not have heard of them yet.
        let Ok(socket) = socket.into_std() else {
            return;
        };
        while let Ok((stream, source)) = socket.accept() {
            let stream = (stream.set_nonblocking(true)).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.take(stream, source);
            }
        }
    }

    /// Hands a connection to the worker with the fewest.
    fn take(&self, stream: TcpStream, source: SocketAddr) {
        let listener = self.current.load_full();
        let stats = self.shared.stats.listener(&listener.stat_name);
        stats.connections.increment();
        if self.shared.overload.is(Action::RejectConnections) {
            stats.overload_refused.increment();
            return;
        }
        let Some(place) = self.shared.enter(listener.ignores_limit) else {
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
        stats.connections_active.add(1);
        let taken = Taken {
            _place: place,
            begun: Instant::now(),
            stats: stats.clone(),
            workers,
            index,
        };
        let task = move |stream| serve(stream, source, listener, stats, worker, taken);
        if own {
            tokio::spawn(task(stream));
        } else if let Ok(stream) = stream.into_std() {
            // A socket belongs to the event loop that watches it: the other worker's.
            handle.spawn(async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    task(stream).await;
                }
            });
        }
    }
}

/// Counts a connection for as long as it lives.
struct Taken {
    _place: Place,
    begun: Instant,
    stats: Arc<ListenerStats>,
    workers: Arc<Vec<(Handle, AtomicUsize)>>,
    index: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.stats.connections_active.add(-1);
        self.stats.connections_closed.increment();
        self.stats.connection_time.record(self.begun.elapsed());
        if let Some((_, count)) = self.workers.get(self.index) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
