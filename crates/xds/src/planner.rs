//! What each proxy is to be told, from one mesh to the next: what did not change is not made again, and is the same by
//! pointer, so that a proxy which is not concerned is known by a comparison.
//!
//! The halves of a configuration are made once for all proxies that share them: the outbound one for an account, the
//! inbound one for an account and the places its pods stand in.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Mesh, Place, ServiceAccount, Workload};

use crate::client::Kind;
use crate::encoder::{Encoder, Part};
use crate::resources::TrustBundle;
use crate::target::{Item, Layers, Set, Target};

/// Makes targets.
#[derive(Debug)]
pub struct Planner {
    encoder: Encoder,
    outbound: Generations<(ServiceAccount, bool), Arc<Part>>,
    inbound: Generations<InboundKey, Arc<Part>>,
    targets: Generations<(usize, usize), Joined>,
}

/// What an inbound half depends on beside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InboundKey {
    account: ServiceAccount,
    places: Vec<Place>,
    scraped: bool,
    told_to_log: bool,
}

/// A target and the halves it was made of, which are held so that their addresses stay theirs.
#[derive(Clone, Debug)]
struct Joined {
    target: Target,
    _halves: [Arc<Part>; 2],
}

/// What was made for the present mesh and for the one before.
#[derive(Debug)]
struct Generations<K, V> {
    present: HashMap<K, V>,
    former: HashMap<K, V>,
}

// === impl Planner ===

impl Planner {
    /// Peers are verified by these certificates.
    pub fn new(trust: TrustBundle) -> Self {
        Self {
            encoder: Encoder::new(trust),
            outbound: Generations::default(),
            inbound: Generations::default(),
            targets: Generations::default(),
        }
    }

    /// From now on another mesh is asked about.
    pub fn turn(&mut self) {
        self.outbound.turn();
        self.inbound.turn();
        self.targets.turn();
        self.encoder.sweep();
    }

    /// What the proxy of `workload` is to be told; between two turns always of the same mesh.
    pub fn target(&mut self, mesh: &Mesh, workload: &Workload) -> Target {
        let outbound = self.outbound_part(mesh, workload);
        let inbound = self.inbound_part(mesh, workload);
        let key = (Arc::as_ptr(&outbound).addr(), Arc::as_ptr(&inbound).addr());
        let join = |former: Option<&Joined>| {
            former.cloned().unwrap_or_else(|| Joined {
                target: join(&outbound, &inbound),
                _halves: [outbound.clone(), inbound.clone()],
            })
        };
        self.targets.get(key, join).target
    }

    /// Everybody was asked about: what only earlier meshes needed can go.
    pub fn forget(&mut self) {
        self.outbound.former = HashMap::new();
        self.inbound.former = HashMap::new();
        self.targets.former = HashMap::new();
    }

    fn outbound_part(&mut self, mesh: &Mesh, workload: &Workload) -> Arc<Part> {
        let key = (workload.account.clone(), workload.told_to_log);
        let encoder = &mut self.encoder;
        self.outbound.get(key, |former| {
            let part = encoder.part(&mesh.compile_outbound(workload));
            keep(part, former)
        })
    }

    fn inbound_part(&mut self, mesh: &Mesh, workload: &Workload) -> Arc<Part> {
        let key = InboundKey {
            account: workload.account.clone(),
            places: mesh.places(workload),
            scraped: workload.scraped,
            told_to_log: workload.told_to_log,
        };
        let encoder = &mut self.encoder;
        self.inbound.get(key, |former| {
            let part = encoder.part(&mesh.compile_inbound(workload));
            keep(part, former)
        })
    }
}

fn keep(part: Part, former: Option<&Arc<Part>>) -> Arc<Part> {
    match former {
        Some(former) if former.is(&part) => former.clone(),
        _ => Arc::new(part),
    }
}

fn join(outbound: &Part, inbound: &Part) -> Target {
    let mut own: [Vec<Arc<Item>>; Kind::ALL.len()] = Default::default();
    for (kind, item) in outbound.items.iter().chain(&inbound.items) {
        if let Some(items) = own.get_mut(kind.index()) {
            items.push(item.clone());
        }
    }
    let mut own = own.into_iter();
    Target::new(Kind::ALL.map(|kind| {
        let common = outbound
            .common
            .as_ref()
            .and_then(|sets| sets.get(kind.index()));
        let own = own.next().unwrap_or_default();
        let own = if own.is_empty() {
            Set::nothing()
        } else {
            Arc::new(Set::new(own))
        };
        Layers::new(common.cloned().unwrap_or_else(Set::nothing), own)
    }))
}

// === impl Generations ===

impl<K: Eq + std::hash::Hash, V: Clone> Generations<K, V> {
    fn turn(&mut self) {
        self.former = std::mem::take(&mut self.present);
    }

    fn get(&mut self, key: K, make: impl FnOnce(Option<&V>) -> V) -> V {
        if let Some(known) = self.present.get(&key) {
            return known.clone();
        }
        let made = make(self.former.get(&key));
        self.present.insert(key, made.clone());
        made
    }
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self {
            present: HashMap::new(),
            former: HashMap::new(),
        }
    }
}
