//! The xDS client's state machine, without sockets: subscriptions, versions, ACK and NACK, warming.
//!
//! It speaks delta and state-of-the-world ADS. A response goes in, the requests that answer it come out; what
//! a resource means is the caller's business (the [`Parser`]). Nothing here panics, whatever the server sends.
//!
//! Warming follows Envoy: a cluster serves once its endpoints and secrets arrived, a listener once its routes
//! and secrets did. Until then the previous version keeps serving.

mod machine;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use envoy_types::pb::google::protobuf::Any;
pub use machine::{Entry, Machine, Outcome, TypeStatus};
pub use wire::{Mode, Request, Response};

/// A kind of resource, in the order in which Envoy applies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Routes,
    /// SDS.
    Secret,
}

impl Kind {
    /// Every kind, in application order.
    pub const ALL: [Kind; 5] = [
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Routes,
        Kind::Secret,
    ];

    /// The protobuf type URL of the resource.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The kind a type URL names, if we know it.
    pub fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    /// Envoy's short name, as in its statistics.
    pub fn short(self) -> &'static str {
        match self {
            Kind::Cluster => "cds",
            Kind::Endpoints => "eds",
            Kind::Listener => "lds",
            Kind::Routes => "rds",
            Kind::Secret => "sds",
        }
    }

    /// Whether the subscription covers all resources of the server rather than names.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }

    /// Its place in [`Kind::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Kind::Cluster => 0,
            Kind::Endpoints => 1,
            Kind::Listener => 2,
            Kind::Routes => 3,
            Kind::Secret => 4,
        }
    }
}

/// Another resource that a resource needs before it can serve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What kind of resource is needed.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

/// A resource that was understood.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The typed, checked value.
    pub value: T,
    /// What it needs before it serves.
    pub references: Vec<Reference>,
}

/// Why a resource was refused; becomes the NACK's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Rejected {
    /// The field, from the resource's root: `filter_chains[0].filters[1].typed_config`.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Rejected {
    /// A refusal of one field.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Rejected {
        Rejected {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// Turns a resource's protobuf into the caller's typed value.
pub trait Parser {
    /// The typed value.
    type Value;
    /// Parses one resource, or names the field that cannot be honoured.
    fn parse(&mut self, kind: Kind, name: &str, any: &Any)
    -> Result<Parsed<Self::Value>, Rejected>;
}

/// Bounds on what a control plane may make us hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Resources of one kind. 100 000 clusters is ten times the largest mesh in the scale tests.
    pub resources: usize,
    /// Bytes of one resource: 16 MiB holds a route table of some 100 000 routes.
    pub resource_bytes: usize,
    /// How long a resource waits for what it needs before it serves without (Envoy's initial_fetch_timeout).
    pub warming: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            resources: 100_000,
            resource_bytes: 16 << 20,
            warming: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests;
