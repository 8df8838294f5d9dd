//! Sidecar injection: whether a pod gets a sidecar, and the patch that gives it one.
//!
//! Pure: objects in, a JSON patch or a refusal out. The admission server around it is elsewhere, and so is everything
//! that needs a cluster. What a refusal says is what the user reads from `kubectl`, so the messages are upstream's.

mod class;
mod containers;
mod decide;
mod error;
mod exclusions;
mod mutate;
mod probes;
mod resources;
mod settings;

pub use class::SidecarClass;
pub use containers::{INIT_CONTAINER, SIDECAR_CONTAINER};
pub use decide::{Decision, Skipped, decide};
pub use error::InjectError;
pub use exclusions::interception;
pub use mutate::mutate;
pub use probes::{Probe, Scheme};
pub use settings::{
    DEFAULT_ENVOY_IMAGE_ENV, DEFAULT_INIT_CONTAINER_IMAGE_ENV, DEFAULT_SIDECAR_IMAGE_ENV, Settings,
};
