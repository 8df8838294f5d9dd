//! The model's proxy configuration as Envoy xDS v3 resources, and the ADS state machines of both ends, without sockets

pub mod certificate;
pub mod client;
mod encoder;
pub mod planner;
pub mod resources;
pub mod server;
pub mod target;
