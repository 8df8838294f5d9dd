//! Reads the kinds of each API family into values of the model: a folder per family, pure functions only.
//!
//! An [`Index`] takes Kubernetes objects as they come and go and yields the [`model::Mesh`] they make,
//! with a list of [`model::Problem`]s: what users wrote and cannot take effect. A bad object never
//! disturbs others, and never panics. It knows neither watches nor xDS.

mod core;
mod index;
mod judge;
mod names;
mod object;
mod osm;
mod smi;
mod status;

pub use index::{Built, Index, Key, Settings};
pub use judge::Judgement;
pub use model::{Extent, Problem, Provenance};
pub use object::{Kind, Object};
pub use status::{Outcome, Statuses};
