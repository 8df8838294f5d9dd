//! The control plane's programs: informers, index, ADS server, certificate issuing, webhooks, bootstrap.
//!
//! Policy is not decided here: objects go into `families`, come out as a `model::Mesh`, and leave as
//! xDS resources. This crate is the part that has sockets, clocks and a Kubernetes client.
//!
//! Life of a change: `inform` takes it from a watch, `indexer` makes a `World`, `push` plans it for all proxies and wakes
//! the sessions whose proxies are to be told something else; a `Session` sends what differs ([`xds::server`]).

mod admission;
mod ads;
mod args;
mod bootstrap;
#[cfg(test)]
mod broken_tests;
mod controller;
mod delta;
#[cfg(test)]
mod discovery_tests;
mod events;
#[cfg(test)]
mod fake_api;
mod gateway;
mod http;
mod indexer;
mod inform;
mod injector;
mod issue;
mod lenient;
mod metrics;
mod nacks;
mod program;
mod push;
mod root;
mod session;
mod status;
mod tls;
mod validate;
mod webhook;
mod world;

pub use args::{BootstrapArgs, CommonArgs, ControllerArgs, InjectorArgs};
pub use bootstrap::bootstrap;
pub use controller::controller;
pub use injector::injector;
