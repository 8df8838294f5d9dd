//! The embedded cluster's node: pods as processes in network namespaces, volumes, probes, logs, cluster DNS, Service balancing
//!
//! It plays the kubelet, kube-proxy and the cluster DNS against any API server, and [`local`] is the launcher
//! (`osm local …`) that puts API server, controllers and node into private namespaces. It must know nothing of meshes.

mod backend;
pub mod catalog;
pub mod config;
pub mod container;
pub mod dns;
mod events;
pub mod image;
pub mod local;
pub mod logs;
mod mirror;
pub mod netns;
pub mod network;
mod node;
pub mod pod;
mod probe;
pub mod services;

pub use config::NodeConfig;
pub use node::Node;
