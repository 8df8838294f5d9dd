//! The configuration that serves: made from what the xDS machine holds, swapped by one pointer.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::warn;
use xds::client::{Kind, Machine};

use crate::cluster::{Cluster, ClusterConfig, Discovery};
use crate::config::{Resource, Value};
use crate::listener::{Chain, Listener};
use crate::route::RouteTable;
use crate::tls::{Inputs, OwnCertificate, Secret, TlsServer, client, server};

/// An immutable view. What did not change is shared with the view before.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Clusters by name.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Route tables by name.
    pub routes: HashMap<Arc<str>, Arc<RouteTable>>,
    /// Listeners by name.
    pub listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    /// What the listeners were made from, to see at a glance that nothing changed.
    sources: HashMap<Arc<str>, Arc<Listener>>,
}

/// Makes the next snapshot.
#[derive(Debug)]
pub struct Builder {
    /// The proxy's own certificate.
    pub own: Arc<OwnCertificate>,
    /// How many workers there are.
    pub workers: usize,
}

impl Snapshot {
    /// The listener that takes a connection another one hands over: by its very address, or else by the port.
    pub fn handed(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let fitting = self
            .listeners
            .values()
            .filter(|listener| !listener.binding.bind_to_port);
        let exact =
            fitting.filter_map(|listener| Some((listener.binding.takes(destination)?, listener)));
        exact
            .max_by_key(|(exactness, _)| *exactness)
            .map(|(_, listener)| listener)
    }
}

impl Builder {
    /// The next snapshot after `old`.
    pub fn build(&self, machine: &Machine<Resource>, old: &Snapshot) -> Snapshot {
        let mut next = Snapshot::default();
        for (name, entry) in machine.active(Kind::Cluster) {
            if let Value::Cluster(config) = &entry.value.value {
                let kept = old
                    .clusters
                    .get(name)
                    .filter(|cluster| Arc::ptr_eq(&cluster.config, config));
                let cluster = kept
                    .cloned()
                    .unwrap_or_else(|| self.cluster(config, old.clusters.get(name)));
                self.assign(machine, &cluster);
                self.secure(machine, &cluster);
                next.clusters.insert(name.clone(), cluster);
            }
        }
        for (name, entry) in machine.active(Kind::Routes) {
            if let Value::Routes(table) = &entry.value.value {
                next.routes.insert(name.clone(), table.clone());
            }
        }
        for (name, entry) in machine.active(Kind::Listener) {
            if let Value::Listener(listener) = &entry.value.value {
                let same = old
                    .sources
                    .get(name)
                    .is_some_and(|source| Arc::ptr_eq(source, listener));
                next.sources.insert(name.clone(), listener.clone());
                let listener = match old.listeners.get(name) {
                    Some(serving) if same => serving.clone(),
                    serving => keep_chains(listener, serving),
                };
                for chain in listener.chains.iter().chain(&listener.default_chain) {
                    self.terminate(machine, chain);
                }
                next.listeners.insert(name.clone(), listener);
            }
        }
        next
    }

    /// A new cluster, which knows what an older one of its name knew.
    fn cluster(&self, config: &Arc<ClusterConfig>, old: Option<&Arc<Cluster>>) -> Arc<Cluster> {
        let cluster = Cluster::new(config.clone(), self.workers);
        if let Some(old) = old {
            cluster.inherit(old);
        }
        Arc::new(cluster)
    }

    fn assign(&self, machine: &Machine<Resource>, cluster: &Cluster) {
        let assignment = match &cluster.config.discovery {
            Discovery::Static(assignment) => Some(assignment.clone()),
            Discovery::Eds(name) => match machine
                .find(Kind::Endpoints, name)
                .map(|entry| &entry.value.value)
            {
                Some(Value::Endpoints(assignment)) => Some(assignment.clone()),
                _ => {
                    // The wait for them is over, or the cluster would not serve.
                    cluster.settle();
                    None
                }
            },
            Discovery::Dns(_) | Discovery::OriginalDestination => None,
        };
        if let Some(assignment) = assignment {
            cluster.assign(assignment);
        }
    }

    fn secure(&self, machine: &Machine<Resource>, cluster: &Cluster) {
        let Some(tls) = &cluster.config.tls else {
            return;
        };
        let current = cluster.tls.load_full();
        let made = Inputs::resolve(&tls.common, |name| secret(machine, name)).and_then(|inputs| {
            match &current {
                Some(current) if current.inputs.same(&inputs) => Ok(None),
                _ => client(tls, inputs, &self.own).map(Some),
            }
        });
        match made {
            Ok(None) => {}
            Ok(Some(made)) => {
                cluster.tls.store(Some(Arc::new(made)));
                if current.is_some() {
                    cluster.renew_connections();
                }
            }
            // The last good one stays; without any the cluster's connections fail.
            Err(error) => warn!(cluster = %cluster.config.name, %error, "no TLS configuration"),
        }
    }

    fn terminate(&self, machine: &Machine<Resource>, chain: &Chain) {
        let Some(tls) = &chain.tls else {
            return;
        };
        let current = chain.tls_server.load_full();
        let made = Inputs::resolve(&tls.common, |name| secret(machine, name)).and_then(|inputs| {
            match &current {
                Some(current) if current.inputs.same(&inputs) => Ok(None),
                _ => server(tls, inputs, &self.own).map(Some),
            }
        });
        match made {
            Ok(None) => {}
            Ok(Some(made)) => chain.tls_server.store(Some(Arc::<TlsServer>::new(made))),
            Err(error) => warn!(chain = %chain.name, %error, "no TLS configuration"),
        }
    }
}

fn secret<'a>(machine: &'a Machine<Resource>, name: &str) -> Option<&'a Secret> {
    match &machine.find(Kind::Secret, name)?.value.value {
        Value::Secret(secret) => Some(secret),
        _ => None,
    }
}

/// The new listener with every chain that did not change taken from the old one, so that its connections live on.
fn keep_chains(new: &Arc<Listener>, old: Option<&Arc<Listener>>) -> Arc<Listener> {
    let Some(old) = old else {
        return new.clone();
    };
    let keep = |chain: &Arc<Chain>| {
        let twin = old
            .chains
            .iter()
            .chain(&old.default_chain)
            .find(|kept| kept.source == chain.source);
        twin.unwrap_or(chain).clone()
    };
    Arc::new(Listener {
        chains: new.chains.iter().map(keep).collect(),
        default_chain: new.default_chain.as_ref().map(keep),
        ..Listener::clone(new)
    })
}

/// Tells every chain that is in `old` and no longer in `new` to drain.
pub fn drain_removed(old: &Snapshot, new: &Snapshot) {
    for (name, listener) in &old.listeners {
        let now = new.listeners.get(name);
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            let stays = now.is_some_and(|now| {
                now.chains
                    .iter()
                    .chain(&now.default_chain)
                    .any(|kept| Arc::ptr_eq(kept, chain))
            });
            if !stays {
                chain.drain.ring();
            }
        }
    }
}
