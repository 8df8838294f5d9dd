//! From the mesh to one proxy.

mod choice;
mod egress;
mod inbound;
mod ingress;
mod outbound;
mod reach;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use outbound::OutboundParts;

use crate::{
    config::{Cluster, PeerTrust, ProxyConfig, RouteTable},
    mesh::Mesh,
    service::Workload,
};

/// What the proxy of `workload` has to do.
pub(crate) fn compile(mesh: &Mesh, workload: &Workload) -> ProxyConfig {
    let mut tables = Tables {
        explained: mesh.settings.refusals_explained,
        ..Tables::default()
    };
    let outbound = outbound::compile(mesh, workload, &mut tables);
    let inbound = inbound::compile(mesh, workload, &mut tables);
    ProxyConfig {
        identity: mesh.identity(&workload.account),
        tls: mesh.settings.tls.clone(),
        authorizer: mesh.settings.authorizer.clone(),
        tracing: mesh.settings.tracing.clone(),
        outbound,
        inbound,
        scraped: workload.scraped,
        told_to_log: workload.told_to_log,
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
