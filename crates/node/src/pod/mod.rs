//! Pods: from an object of the API to processes, and back to its status.

pub mod environment;
pub mod facts;
pub mod volumes;
