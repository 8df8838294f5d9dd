//! From the mesh to one proxy.

mod choice;
mod egress;
mod everything;
mod inbound;
mod ingress;
mod outbound;
mod reach;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use everything::Everything;

use crate::{
    config::{Cluster, PeerTrust, ProxyConfig, RouteTable},
    mesh::Mesh,
    service::Workload,
};

/// What the proxy of `workload` may dial: the same for all workloads of the account whose proxies log alike.
pub(crate) fn outbound(mesh: &Mesh, workload: &Workload) -> ProxyConfig {
    let mut tables = Tables::new(mesh);
    let (outbound, common) = outbound::compile(mesh, &workload.account, &mut tables);
    ProxyConfig {
        outbound,
        common,
        ..half(mesh, workload, tables)
    }
}

/// What others may send to the proxy of `workload`.
pub(crate) fn inbound(mesh: &Mesh, workload: &Workload) -> ProxyConfig {
    let mut tables = Tables::new(mesh);
    let inbound = inbound::compile(mesh, workload, &mut tables);
    ProxyConfig {
        inbound,
        scraped: workload.scraped,
        ..half(mesh, workload, tables)
    }
}

fn half(mesh: &Mesh, workload: &Workload, tables: Tables) -> ProxyConfig {
    ProxyConfig {
        identity: mesh.identity(&workload.account),
        told_to_log: workload.told_to_log,
        tls: mesh.settings.tls.clone(),
        authorizer: mesh.settings.authorizer.clone(),
        tracing: mesh.settings.tracing.clone(),
        outbound: None,
        inbound: None,
        scraped: false,
        common: None,
        routes: tables.routes,
        clusters: tables.clusters,
        trust: tables.trust,
    }
}

/// Named values that listeners refer to, collected from all directions.
#[derive(Default)]
struct Tables {
    routes: BTreeMap<Arc<str>, Arc<RouteTable>>,
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    trust: BTreeMap<Arc<str>, Arc<PeerTrust>>,
    /// Tables that may be explained are.
    explained: bool,
}

impl Tables {
    fn new(mesh: &Mesh) -> Self {
        Self {
            explained: mesh.settings.refusals_explained,
            ..Self::default()
        }
    }

    fn route(&mut self, mut table: RouteTable) -> Arc<str> {
        table.explained &= self.explained;
        let name = table.name.clone();
        self.routes.insert(name.clone(), Arc::new(table));
        name
    }

    fn cluster(&mut self, cluster: Arc<Cluster>) -> Arc<str> {
        let name = cluster.name.clone();
        self.clusters.entry(name.clone()).or_insert(cluster);
        name
    }
}
