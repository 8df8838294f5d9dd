//! Connections to one endpoint, one pool per worker: HTTP/1 by turns, HTTP/2 shared. Idle ones need no task: whether a
//! connection still lives is seen when it is taken, and a slow tick lets go of those nobody takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::h1::Client;
use super::h2::{self, Connection};
use crate::cluster::{Chosen, Cluster};
use crate::listener::H2;
use crate::tls::Speaks;
use crate::upstream::{ConnectError, connect};

/// Idle HTTP/1 connections kept per endpoint and worker; more are closed when they come back.
const IDLE: usize = 256;
/// How often idle connections are looked at, at most.
const TICK: Duration = Duration::from_secs(5);

/// The pools of an endpoint, one per worker.
#[derive(Debug)]
pub struct Pools(Vec<Arc<Pool>>);

/// A worker's connections to an endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    list: Mutex<List>,
    /// An async lock: the first request connects, those behind it share its connection.
    opening: tokio::sync::Mutex<()>,
    open: Arc<Open>,
}

/// The connections of a pool, lent and idle.
#[derive(Debug, Default)]
pub struct Open {
    count: AtomicUsize,
    /// Told when a connection or a place on one becomes free.
    pub freed: Notify,
}

/// One of them; counted while it lives.
#[derive(Debug)]
pub struct Counted(pub Arc<Open>);

#[derive(Debug, Default)]
struct List {
    /// The youngest last.
    #[allow(clippy::vec_box)]
    // They are lent for every request: a pointer moves, not the connection.
    idle: Vec<Box<Client>>,
    shared: Vec<Connection>,
    /// Somebody looks at them now and then.
    is_watched: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection's first words failed.
    #[error("HTTP/2 handshake: {0}")]
    Handshake(#[source] ::h2::Error),
}

// === impl Pools ===

impl Pools {
    /// Empty pools for this many workers.
    pub fn new(workers: usize) -> Pools {
        Pools((0..workers.max(1)).map(|_| Arc::default()).collect())
    }

    /// Lets go of all connections: idle ones close, those in use take no more requests.
    pub fn clear(&self) {
        self.0.iter().for_each(|pool| pool.clear());
    }

    /// The pool of a worker; for endpoints of one connection there is only the first.
    pub fn of(&self, worker: usize) -> Option<&Arc<Pool>> {
        self.0.get(worker).or_else(|| self.0.first())
    }
}

// === impl Pool ===

impl Pool {
    /// The youngest idle HTTP/1 connection that lives.
    pub fn take(&self, cluster: &Cluster) -> Option<Box<Client>> {
        let mut list = self.list.lock();
        while let Some(mut client) = list.idle.pop() {
            if client.since.elapsed() < cluster.config.idle_timeout
                && is_young(client.opened, cluster)
                && client.is_fresh()
            {
                return Some(client);
            }
        }
        None
    }

    /// An HTTP/1 connection that came back meanwhile, or a new one. `true` if it has served before.
    pub async fn take_or_open(&self, chosen: &Chosen) -> Result<(Box<Client>, bool), OpenError> {
        loop {
            // Listen first, look then: what is told in between is not missed.
            let mut freed = std::pin::pin!(self.open.freed.notified());
            freed.as_mut().enable();
            if let Some(client) = self.take(&chosen.cluster) {
                return Ok((client, true));
            }
            match connect(chosen, Speaks::Http1, self.open.is_none()).await {
                Ok((stream, connected)) => {
                    let counted = Counted::new(&self.open);
                    return Ok((Box::new(Client::new(stream, (connected, counted))), false));
                }
                // As many as there may be: the next that comes back is ours.
                Err(ConnectError::Overflow(_)) => freed.await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes an HTTP/1 connection back, if it may serve again.
    pub fn give_back(self: &Arc<Self>, mut client: Box<Client>, chosen: &Chosen) {
        let cluster = &chosen.cluster;
        if chosen.endpoint.is_removed()
            || !client.settle(cluster.config.max_requests_per_connection)
            || !is_young(client.opened, cluster)
        {
            return;
        }
        let mut list = self.list.lock();
        if list.idle.len() < IDLE {
            list.idle.push(client);
            self.open.freed.notify_one();
        }
        self.watch(&mut list, cluster);
    }

    /// A place on an HTTP/2 connection that is open.
    pub fn enter(&self, cluster: &Cluster, settings: H2) -> Option<Connection> {
        let limit = cluster.config.max_requests_per_connection;
        let mut list = self.list.lock();
        list.shared.retain(|connection| {
            !connection.is_worn(limit) && is_young(connection.opened(), cluster)
        });
        let mut roomy = list.shared.iter();
        roomy
            .find(|connection| connection.has_room(settings, limit))
            .map(Connection::enter)
    }

    /// A place on an HTTP/2 connection; opens one where there is no room. `true` if it has served before.
    pub async fn enter_or_open(
        self: &Arc<Self>,
        chosen: &Chosen,
        settings: H2,
    ) -> Result<(Connection, bool), OpenError> {
        let cluster = &chosen.cluster;
        let _turn = self.opening.lock().await;
        loop {
            let mut freed = std::pin::pin!(self.open.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.enter(cluster, settings) {
                return Ok((place, true));
            }
            let (stream, connected) =
                match connect(chosen, Speaks::Http2, self.open.is_none()).await {
                    Ok(opened) => opened,
                    Err(ConnectError::Overflow(_)) => {
                        freed.await;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
            let counted = Counted::new(&self.open);
            let opened = h2::open(stream, (connected, counted), settings).await;
            let connection = opened.map_err(OpenError::Handshake)?;
            let place = connection.enter();
            let mut list = self.list.lock();
            list.shared.push(connection);
            self.watch(&mut list, cluster);
            return Ok((place, false));
        }
    }

    /// Lets go of all connections: idle ones close, those in use take no more requests.
    fn clear(&self) {
        let mut list = self.list.lock();
        list.idle.clear();
        for connection in list.shared.drain(..) {
            connection.close();
        }
    }

    /// Sees to it that idle connections are let go.
    fn watch(self: &Arc<Self>, list: &mut List, cluster: &Cluster) {
        if std::mem::replace(&mut list.is_watched, true) {
            return;
        }
        let timeout = cluster.config.idle_timeout;
        let limit = cluster.config.max_requests_per_connection;
        // Ends when there is nothing left to look at, or nobody left to look for.
        tokio::spawn(tick(Arc::downgrade(self), timeout, limit));
    }

    /// Lets go of what is idle for too long or was closed; `false` if nothing is left.
    fn sweep(&self, timeout: Duration, limit: Option<u64>) -> bool {
        let mut list = self.list.lock();
        list.idle
            .retain_mut(|client| client.since.elapsed() < timeout && client.is_fresh());
        list.shared
            .retain(|connection| !connection.is_worn(limit) && !connection.is_idle(timeout));
        list.is_watched = !list.idle.is_empty() || !list.shared.is_empty();
        list.is_watched
    }
}

// === impl Open, Counted ===

impl Open {
    fn is_none(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

impl Counted {
    fn new(open: &Arc<Open>) -> Counted {
        open.count.fetch_add(1, Ordering::Relaxed);
        Counted(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// Whether a connection may take another request, having been opened then.
fn is_young(opened: Instant, cluster: &Cluster) -> bool {
    let longest = cluster.config.max_connection_duration;
    longest.is_none_or(|longest| opened.elapsed() < longest)
}

async fn tick(pool: Weak<Pool>, timeout: Duration, limit: Option<u64>) {
    let tick = timeout.clamp(Duration::from_millis(50), TICK);
    loop {
        sleep(tick).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep(timeout, limit) => {}
            _ => return,
        }
    }
}
