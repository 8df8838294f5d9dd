//! Pods: from an object of the API to processes, and back to its status.

pub mod environment;
pub mod facts;
mod health;
mod names;
mod order;
mod run;
mod sandbox;
pub mod status;
mod task;
pub mod volumes;

pub use task::{Instance, PodTask, Shared};
