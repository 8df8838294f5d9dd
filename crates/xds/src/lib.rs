//! The model's proxy configuration as Envoy xDS v3 resources, and the ADS state machines of both ends, without sockets

pub mod certificate;
pub mod client;
pub mod resources;
pub mod server;
pub mod target;
