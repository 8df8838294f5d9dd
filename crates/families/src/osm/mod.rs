//! OSM's own kinds: MeshConfig and policies.

mod breaker;
mod egress;
mod ingress;
mod quota;
mod retry;
mod settings;
mod upstream;

pub(crate) use egress::{egress_rule, egress_rules};
pub(crate) use ingress::{Opened, ingress_object, ingress_rules};
pub(crate) use retry::{retry_rule, retry_rules};
pub(crate) use settings::mesh_settings;
pub(crate) use upstream::{egress_limits, upstream_object, upstream_settings};
