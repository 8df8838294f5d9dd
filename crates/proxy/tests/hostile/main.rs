//! Hostile clients, servers and peers against the pair of sidecars, judged by the bytes that reach the other side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod downgrade;
mod floods;
mod frames;
mod headers;
mod identity;
mod paths;
mod recorder;
mod responses;
mod reuse;
mod rows;
mod slow;
mod smuggling;
mod stage;
#[path = "../support/mod.rs"]
mod support;
