//! Where the traffic of a service port goes, after splits.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::{Route, RouteAction, RouteMatch, WeightedCluster},
    limits::ConnectionLimits,
    mesh::{Mesh, ServiceEntry},
    policy::Split,
    provenance::Provenance,
    service::{Endpoint, ServicePort},
};

/// A service port that the client may reach.
pub(super) struct Target<'m> {
    pub cluster: Arc<str>,
    pub endpoints: Vec<&'m Endpoint>,
    pub limits: ConnectionLimits,
}

/// Reachable service ports by index of the service and number of the port.
pub(super) type Targets<'m> = HashMap<(usize, u16), Target<'m>>;

/// Where the traffic of one service port goes after splits are applied.
pub(super) struct Choice {
    pub routes: Vec<Route>,
    /// For opaque ports; empty = nowhere.
    pub connections: Vec<WeightedCluster>,
    /// Whether some split can serve the port.
    pub splits: bool,
    pub provenance: Provenance,
}

impl Choice {
    pub(super) fn new(
        mesh: &Mesh,
        targets: &Targets<'_>,
        target: Option<&Target<'_>>,
        splits: &[Arc<Split>],
        entry: &ServiceEntry,
        port: &ServicePort,
    ) -> Self {
        let service = &entry.service;
        let mut provenance = Provenance::new("Service", &service.namespace, &service.name);
        let own = target.map(|target| WeightedCluster::all(target.cluster.clone()));
        let mut connections = own.unwrap_or_default();
        let mut routes = Vec::new();
        let mut usable = false;
        for split in splits {
            let Some(matches) = &split.matches else {
                continue;
            };
            let backends = backends(mesh, targets, split, port);
            usable |= !backends.is_empty();
            for condition in matches {
                let matches = RouteMatch::Http(condition.clone());
                routes.push(route(matches, forward(backends.clone()), &split.provenance));
            }
        }
        // Requests that no conditional split takes go to the root service, as SMI says.
        if let Some(split) = splits.iter().find(|split| split.matches.is_none()) {
            connections = backends(mesh, targets, split, port);
            usable |= !connections.is_empty();
            provenance = split.provenance.clone();
        }
        routes.push(route(
            RouteMatch::Any,
            forward(connections.clone()),
            &provenance,
        ));
        Self {
            routes,
            connections,
            splits: usable,
            provenance,
        }
    }
}

/// The backends of a split that can take traffic on `port`: reachable, with that port, and a weight.
fn backends(
    mesh: &Mesh,
    targets: &Targets<'_>,
    split: &Split,
    port: &ServicePort,
) -> Vec<WeightedCluster> {
    let mut backends = Vec::new();
    for backend in split.backends.iter().filter(|backend| backend.weight > 0) {
        let key = (split.namespace.clone(), backend.service.clone());
        let Some(&index) = mesh.service_index.get(&key) else {
            continue;
        };
        let service = mesh.services.get(index).map(|entry| &entry.service);
        let own_port = service.and_then(|service| service.port(port.port));
        let speaks = own_port.is_some_and(|own| own.protocol.is_http() == port.protocol.is_http());
        if let Some(target) = targets.get(&(index, port.port)).filter(|_| speaks) {
            backends.push(WeightedCluster {
                name: target.cluster.clone(),
                weight: backend.weight,
            });
        }
    }
    backends
}

fn forward(clusters: Vec<WeightedCluster>) -> RouteAction {
    if clusters.is_empty() {
        RouteAction::Respond(503)
    } else {
        RouteAction::Forward(clusters)
    }
}

pub(super) fn route(matches: RouteMatch, action: RouteAction, provenance: &Provenance) -> Route {
    Route {
        rate: None,
        counted: Vec::new(),
        matches,
        action,
        provenance: provenance.clone(),
    }
}
