//! What a cluster needs done in the background, by the control thread: lookups, sweeps, cleaning.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Cluster, Discovery, check};
use crate::dns;
use crate::snapshot::Snapshot;
use crate::worker::roll;

/// The background tasks of all clusters.
pub struct Upkeep {
    resolver: Option<Arc<TokioResolver>>,
    running: HashMap<Arc<str>, Tasks>,
}

/// The tasks of a cluster; they end with this.
struct Tasks {
    cluster: Arc<Cluster>,
    handles: Vec<JoinHandle<()>>,
}

// === impl Upkeep ===

impl Upkeep {
    /// Without clusters yet; names are looked up as the system's configuration says.
    pub fn new() -> Upkeep {
        Upkeep {
            resolver: dns::resolver().map(Arc::new),
            running: HashMap::new(),
        }
    }

    /// Begins with new clusters and ends with removed ones.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        self.running.retain(|name, tasks| {
            let now = snapshot.clusters.get(name);
            now.is_some_and(|now| Arc::ptr_eq(now, &tasks.cluster))
        });
        for (name, cluster) in &snapshot.clusters {
            if !self.running.contains_key(name) {
                let tasks = Tasks {
                    cluster: cluster.clone(),
                    handles: self.begin(cluster),
                };
                self.running.insert(name.clone(), tasks);
            }
        }
    }

    fn begin(&self, cluster: &Arc<Cluster>) -> Vec<JoinHandle<()>> {
        let mut handles = Vec::new();
        match &cluster.config.discovery {
            Discovery::Dns(dns) => handles.push(tokio::spawn(dns::watch(
                self.resolver.clone(),
                cluster.clone(),
                dns.clone(),
            ))),
            Discovery::OriginalDestination => handles.push(tokio::spawn(clean(
                cluster.clone(),
                cluster.config.cleanup_interval,
            ))),
            Discovery::Static(_) | Discovery::Eds(_) => {}
        }
        if let Some(outliers) = &cluster.config.outliers {
            handles.push(tokio::spawn(sweep(cluster.clone(), outliers.interval)));
        }
        if let Some(check) = &cluster.config.check {
            handles.push(tokio::spawn(check::watch(cluster.clone(), check.clone())));
        }
        handles
    }
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep::new()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.abort();
        }
    }
}

async fn clean(cluster: Arc<Cluster>, interval: Duration) {
    loop {
        sleep(interval).await;
        cluster.originals.clean();
    }
}

async fn sweep(cluster: Arc<Cluster>, interval: Duration) {
    loop {
        sleep(interval).await;
        cluster.sweep(Instant::now(), roll());
    }
}
