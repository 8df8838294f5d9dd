//! OSM's own kinds: MeshConfig and policies.

mod egress;
mod ingress;
mod retry;
mod settings;
mod upstream;

pub(crate) use egress::egress_rules;
pub(crate) use ingress::ingress_rules;
pub(crate) use retry::retry_rules;
pub(crate) use settings::mesh_settings;
pub(crate) use upstream::{egress_limits, upstream_settings};
