//! Real processes on loopback for tests and benchmarks: a management server, Envoy and osm-proxy, certificates,
//! recording backends, raw clients.
//!
//! Test code: it panics where a test would. Every wait has a deadline, every process dies with its handle.
//!
//! ```no_run
//! # async fn example() {
//! use testkit::{Ads, Bootstrap, Process, Resources, eventually, ports};
//! let ads = Ads::start().await;
//! let port = ports::free();
//! ads.set("envoy", Resources::yaml(&format!(
//! r#"listeners:
//! - name: web
//!   address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
//!   filter_chains: []
//! "#)));
//! let mut envoy = Process::envoy(&Bootstrap::new("envoy", ads.address())).unwrap();
//! envoy.ready().await;
//! ads.settled("envoy").await.unwrap();
//! # }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod ads;
pub mod authority;
pub mod backend;
pub mod bootstrap;
pub mod client;
pub mod message;
pub mod ports;
pub mod process;
pub mod resources;

use std::time::{Duration, Instant};

pub use ads::{Ads, Refusal};
pub use authority::{Authority, Leaf};
pub use backend::{Backend, Received, Reply};
pub use bootstrap::Bootstrap;
pub use process::Process;
pub use resources::Resources;
pub use xds::client::{Any, Kind};

/// Longest wait for anything that must happen; generous, the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
