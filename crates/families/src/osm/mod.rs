//! OSM's own kinds: MeshConfig and policies.

mod egress;
mod ingress;
mod settings;

pub(crate) use egress::egress_rules;
pub(crate) use ingress::ingress_rules;
pub(crate) use settings::{mesh_settings, unsupported};
