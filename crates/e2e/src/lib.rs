//! The stage of the demos and of the acceptance scenarios: a cluster, the world outside it, and the real commands
//! (`kubectl`, `osm`, `curl` in a pod) run as a user would run them, with deadlines on every wait.
//!
//! It knows the mesh only from outside: through its command, its objects and what curl says.

pub mod bookstore;
pub mod broken;
pub mod command;
pub mod demos;
pub mod outside;
pub mod stage;
pub mod wait;

pub use command::Output;
pub use stage::{Cluster, Driver, Stage};
pub use wait::{eventually, steadily};
