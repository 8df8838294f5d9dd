//! Filters that ask services: rate limits and authorization, over gRPC and HTTP, with real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod authorization;
mod limits;
mod stage;
#[path = "../support/mod.rs"]
mod support;
