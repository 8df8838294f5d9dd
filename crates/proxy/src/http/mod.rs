//! HTTP: the server side, the router, the upstream side.
//!
//! A request is one async function in one task: sanitize, find the route, filters in order, choose an endpoint, send and
//! await the answer's head ([`attempt`]), then pass both bodies by polling until the answer is through ([`deliver`]). The
//! client ([`downstream`]) and the upstream ([`upstream`]) are each HTTP/1 ([`h1`]) or HTTP/2 ([`h2`]).

pub mod attempt;
pub mod attempts;
pub mod body;
pub mod call;
pub mod date;
pub mod deliver;
pub mod downstream;
pub mod drain;
pub mod edge;
pub mod exchange;
pub mod facts;
pub mod filters;
pub mod h1;
pub mod h2;
pub mod headers;
pub mod limits;
pub mod local;
pub mod mapping;
pub mod outgoing;
pub mod path;
pub mod pool;
pub mod reply;
pub mod retry;
pub mod router;
pub mod server;
#[cfg(test)]
mod sizes;
pub mod timer;
pub mod timing;
mod traced;
pub mod tunnel;
pub mod upstream;
pub mod wire;
pub mod xfcc;
