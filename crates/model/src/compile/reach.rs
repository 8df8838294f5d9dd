//! Which endpoints a client may reach.

use std::collections::{BTreeSet, HashMap};

use crate::{
    identity::ServiceAccount,
    mesh::Mesh,
    policy::Authorization,
    service::{Endpoint, Protocol},
};

/// Which endpoints a client may reach.
pub(super) enum Reach<'m> {
    /// All (permissive mode).
    Everything,
    /// Those of identities that some policy opens to the client.
    Granted(HashMap<&'m ServiceAccount, Vec<&'m Authorization>>),
}

impl<'m> Reach<'m> {
    pub(super) fn of(mesh: &'m Mesh, client: &ServiceAccount) -> Self {
        let mut granted: HashMap<_, Vec<_>> = HashMap::new();
        for authorization in mesh.granted_to.get(client).into_iter().flatten() {
            let authorization: &Authorization = authorization;
            granted
                .entry(&authorization.destination)
                .or_default()
                .push(authorization);
        }
        Self::Granted(granted)
    }

    pub(super) fn admits(&self, endpoint: &Endpoint, protocol: Protocol) -> bool {
        match self {
            Self::Everything => true,
            Self::Granted(granted) => granted.get(&endpoint.account).is_some_and(|grants| {
                let port = endpoint.address.port();
                grants
                    .iter()
                    .any(|grant| grant.admits(protocol.is_http(), port))
            }),
        }
    }

    /// Indices of services worth a look, in order.
    pub(super) fn candidates(&self, mesh: &Mesh) -> BTreeSet<usize> {
        let Self::Granted(granted) = self else {
            return (0..mesh.services.len()).collect();
        };
        let backed = granted
            .keys()
            .filter_map(|account| mesh.backed_by.get(*account));
        let mut candidates: BTreeSet<usize> = backed.flatten().copied().collect();
        // An apex need not have endpoints of its own.
        let apexes: Vec<usize> = candidates
            .iter()
            .filter_map(|index| mesh.services.get(*index))
            .filter_map(|entry| mesh.splits_on.get(&entry.key()))
            .flatten()
            .filter_map(|split| {
                let apex = (split.namespace.clone(), split.apex.clone());
                mesh.service_index.get(&apex).copied()
            })
            .collect();
        candidates.extend(apexes);
        candidates
    }
}
