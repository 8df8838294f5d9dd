//! What the control plane knows at one moment, and how others learn of the next.

use std::sync::Arc;
use std::time::Duration;

use api::config::v1alpha2::MeshConfigSpec;
use model::{Mesh, Workload};
use tokio::sync::watch;

use crate::gateway::GatewayCertificate;

/// How long a proxy waits for its pod that the informers have not shown yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Validity of leaves when the MeshConfig says nothing, or nothing readable, as upstream.
const DEFAULT_LEAF_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The mesh and the settings of this crate's own work.
pub(crate) struct World {
    /// The mesh all proxies are compiled from.
    pub(crate) mesh: Mesh,
    /// Settings read by the servers.
    pub(crate) settings: Settings,
}

/// The MeshConfig's fields that the servers read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `certificate.serviceCertValidityDuration`
    pub(crate) leaf_validity: Duration,
    /// `sidecar.maxDataPlaneConnections`; `None`: no limit.
    pub(crate) stream_limit: Option<usize>,
    /// `certificate.ingressGateway`
    pub(crate) gateway: Option<GatewayCertificate>,
}

/// The newest world; nothing until all informers have shown what exists.
#[derive(Clone)]
pub(crate) struct Worlds {
    receiver: watch::Receiver<Option<Arc<World>>>,
    patience: Duration,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn new(spec: Option<&MeshConfigSpec>) -> Self {
        let validity = spec.and_then(|spec| spec.certificate.as_ref()).and_then(|certificate| {
            let text = &certificate.service_cert_validity_duration;
            let parsed = api::duration::parse(text).ok().filter(|validity| !validity.is_zero());
            if parsed.is_none() && !text.is_empty() {
                tracing::warn!(
                    value = text,
                    "MeshConfig spec.certificate.serviceCertValidityDuration is not a duration, using 24h"
                );
            }
            parsed
        });
        let limit = spec.map_or(0, |spec| spec.sidecar.max_data_plane_connections);
        let gateway = spec.map_or(Ok(None), GatewayCertificate::new);
        Self {
            gateway: gateway.unwrap_or_else(|problem| {
                tracing::warn!("{problem}");
                None
            }),
            leaf_validity: validity.unwrap_or(DEFAULT_LEAF_VALIDITY),
            stream_limit: usize::try_from(limit).ok().filter(|limit| *limit > 0),
        }
    }
}

// === impl Worlds ===

impl Worlds {
    pub(crate) fn new(receiver: watch::Receiver<Option<Arc<World>>>) -> Self {
        Self {
            receiver,
            patience: PATIENCE,
        }
    }

    /// As patient as another.
    pub(crate) fn with_patience_of(self, other: &Self) -> Self {
        Self {
            patience: other.patience,
            ..self
        }
    }

    /// With another patience, for tests.
    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The newest world, marked as seen.
    pub(crate) fn current(&mut self) -> Option<Arc<World>> {
        self.receiver.borrow_and_update().clone()
    }

    /// Waits for a world newer than the last one seen. Never returns once the control plane ends.
    pub(crate) async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The first workload that `find` picks, now or soon: a pod may start before the
    /// informers have shown it.
    pub(crate) async fn wait_for<F>(&mut self, find: F) -> Option<(Arc<World>, Workload)>
    where
        F: Fn(&World) -> Option<&Workload>,
    {
        let end = tokio::time::Instant::now() + self.patience;
        loop {
            if let Some(world) = self.current()
                && let Some(workload) = find(&world).cloned()
            {
                return Some((world, workload));
            }
            if tokio::time::timeout_at(end, self.changed()).await.is_err() {
                return None;
            }
        }
    }
}
