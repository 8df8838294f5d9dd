//! Permissive mode: what every proxy may dial, made once for all, and kept as it was where it did not change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    outbound::{Host, OutboundParts},
    reach::Reach,
};
use crate::{
    config::{Common, Outbound, RouteTable, VirtualHost},
    mesh::Mesh,
};

/// The outbound half of a permissive mesh.
#[derive(Debug)]
pub(crate) struct Everything {
    pub(super) parts: OutboundParts,
    pub(super) common: Arc<Common>,
    pub(super) outbound: Arc<Outbound>,
    explained: bool,
    /// Route tables by the namespace of their readers.
    tables: Mutex<Tables>,
    /// The same of the mesh before.
    former: Tables,
}

type Tables = HashMap<Arc<str>, Vec<Arc<RouteTable>>>;

impl Everything {
    /// Values that are as in `former` are those of `former`: who compares pointers sees what changed.
    pub(crate) fn new(mesh: &Mesh, former: Option<&Self>) -> Self {
        let mut parts = OutboundParts::new(mesh, &Reach::Everything);
        let mut outbound = Arc::new(parts.outbound(&mesh.settings));
        let mut tables = Tables::new();
        if let Some(former) = former {
            for (name, cluster) in &mut parts.common.clusters {
                keep(cluster, former.common.clusters.get(name));
            }
            for (name, trust) in &mut parts.common.trust {
                keep(trust, former.common.trust.get(name));
            }
            keep_hosts(&mut parts, &former.parts);
            keep(&mut outbound, Some(&former.outbound));
            tables = former.lock().clone();
        }
        let mut common = Arc::new(std::mem::take(&mut parts.common));
        keep(&mut common, former.map(|former| &former.common));
        Self {
            parts,
            common,
            outbound,
            explained: mesh.settings.refusals_explained,
            tables: Mutex::default(),
            former: tables,
        }
    }

    /// The tables for clients of this namespace.
    pub(super) fn tables(&self, namespace: &Arc<str>) -> Vec<Arc<RouteTable>> {
        let mut known = self.lock();
        if let Some(tables) = known.get(namespace) {
            return tables.clone();
        }
        let mut tables = self.parts.tables(namespace, self.explained);
        let former = self.former.get(namespace).map(Vec::as_slice);
        for table in &mut tables {
            let former = former.unwrap_or_default().iter();
            keep(
                table,
                former.into_iter().find(|former| former.name == table.name),
            );
        }
        known.insert(namespace.clone(), tables.clone());
        tables
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep<T: Eq>(value: &mut Arc<T>, former: Option<&Arc<T>>) {
    if let Some(former) = former.filter(|former| *former == value) {
        *value = former.clone();
    }
}

fn keep_hosts(parts: &mut OutboundParts, former: &OutboundParts) {
    for (port, hosts) in &mut parts.hosts {
        let known: HashMap<&str, (&Arc<VirtualHost>, &Arc<VirtualHost>)> = former
            .hosts
            .get(port)
            .into_iter()
            .flatten()
            .map(|Host { near, far, .. }| (&*near.name, (near, far)))
            .collect();
        for host in hosts {
            if let Some((near, far)) = known.get(&*host.near.name) {
                keep(&mut host.near, Some(near));
                keep(&mut host.far, Some(far));
            }
        }
    }
}
