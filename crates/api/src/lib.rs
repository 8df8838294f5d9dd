//! The kinds users write (MeshConfig, Egress, SMI ...) as Rust types with derived CRDs, and the labels and annotations
//! of the mesh.
//!
//! The types are lenient where Kubernetes is: words from closed sets stay strings here (the CRD's `enum` rejects the
//! wrong ones) because one object that does not decode would stop a whole watch. Turning them into checked values is
//! the job of the API families. This crate knows nothing of proxies, xDS or the cluster it runs on.

mod crd;
pub mod duration;
mod kind;
pub mod labels;
pub mod shared;

/// MeshConfig: the settings of one mesh.
pub mod config {
    pub mod v1alpha2;
}

/// Egress, IngressBackend, Retry and UpstreamTrafficSetting.
pub mod policy {
    pub mod v1alpha1;
}

/// SMI HTTPRouteGroup and TCPRoute.
pub mod specs {
    pub mod v1alpha4;
}

/// SMI TrafficTarget.
pub mod access {
    pub mod v1alpha3;
}

/// SMI TrafficSplit.
pub mod split {
    pub mod v1alpha2;
    pub mod v1alpha4;
}

pub use crd::crds;
pub use labels::TOKEN_AUDIENCE;
