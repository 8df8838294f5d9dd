//! The objects an index takes.

use api::{
    access::v1alpha3::TrafficTarget,
    config::v1alpha2::MeshConfig,
    policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting},
    specs::v1alpha4::{HTTPRouteGroup, TCPRoute},
    split::v1alpha4::TrafficSplit,
};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod, Service, ServiceAccount};

use crate::index::{Key, key};

macro_rules! objects {
    ($($(#[$meta:meta])* $variant:ident($kind:ty)),* $(,)?) => {
        /// An object of a kind that matters to the mesh. Made by `From`.
        #[derive(Clone, Debug)]
        pub enum Object {
            $($(#[$meta])* $variant(Box<$kind>),)*
        }

        /// The kinds of [`Object`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$meta])* $variant,)*
        }

        impl Object {
            /// The kind of the object.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$variant(_) => Kind::$variant,)*
                }
            }

            /// Namespace (empty for objects of the whole cluster) and name.
            pub fn key(&self) -> Key {
                let metadata = match self {
                    $(Self::$variant(object) => &object.metadata,)*
                };
                key(metadata)
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$variant(Box::new(object))
            }
        })*
    };
}

objects! {
    /// core/v1
    Namespace(Namespace),
    /// core/v1
    Pod(Pod),
    /// core/v1
    Service(Service),
    /// core/v1: the only form of endpoints that every supported Kubernetes has
    Endpoints(Endpoints),
    /// core/v1
    ServiceAccount(ServiceAccount),
    /// config.openservicemesh.io
    MeshConfig(MeshConfig),
    /// policy.openservicemesh.io
    Egress(Egress),
    /// policy.openservicemesh.io
    IngressBackend(IngressBackend),
    /// policy.openservicemesh.io
    Retry(Retry),
    /// policy.openservicemesh.io
    UpstreamTrafficSetting(UpstreamTrafficSetting),
    /// specs.smi-spec.io
    HttpRouteGroup(HTTPRouteGroup),
    /// specs.smi-spec.io
    TcpRoute(TCPRoute),
    /// access.smi-spec.io
    TrafficTarget(TrafficTarget),
    /// split.smi-spec.io, read as v1alpha4
    TrafficSplit(TrafficSplit),
}
