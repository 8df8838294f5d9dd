//! HTTP/2 connections: clients', and ours to upstreams. Framing and flow control are the `h2` crate's.

mod alive;
mod client;
mod server;
mod stream;

pub use client::{ClientStream, Connection, open};
pub use server::{ServerStream, serve};
pub use stream::{Sink, Source};
