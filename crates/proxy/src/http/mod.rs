//! HTTP: the server side, the router, the upstream side.
//!
//! A request is one async function: sanitize, find the route, filters in order, choose an endpoint, send, reply.

pub mod body;
pub mod exchange;
pub mod facts;
pub mod filters;
pub mod headers;
pub mod outgoing;
pub mod path;
pub mod pool;
pub mod reply;
pub mod retry;
pub mod router;
pub mod server;
pub mod timing;
pub mod upgrade;
