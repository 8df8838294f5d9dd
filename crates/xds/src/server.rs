//! The ADS server's state machine: what a stream knows, what it is owed. No sockets, no clock.
//!
//! One [`Stream`] per gRPC stream. Requests and new snapshots go in with the time, the responses to
//! send come out. It speaks both variants of the protocol and holds to these rules:
//!
//! * Only what changed (by content hash) is sent; a state-of-the-world response for clusters or
//!   listeners has to be complete, and is sent only when something in it changed.
//! * Make before break: clusters, their secrets, endpoints, listeners, routes, and last the removals.
//!   The next kind is sent when the previous is answered, or after [`STEP_DEADLINE`]. Secrets come
//!   second because new endpoints are reachable only once their names are accepted.
//! * A kind that was refused (NACK) is not sent again before its content changes.

mod sent;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use crate::client::Kind;
pub use stream::Stream;

use crate::target::{Item, Set};

/// How long a step of a push waits for the proxy's answer before the next kind is sent anyway:
/// ten round trips of a slow network, and four of them stay far below a second.
pub const STEP_DEADLINE: Duration = Duration::from_millis(200);

/// Most names one request may carry, and a stream may subscribe to, per kind.
pub const NAMES_BOUND: usize = 20_000;

/// Longest resource name: cluster names are `<namespace>/<service>|<port>`, well below.
pub const NAME_LENGTH_BOUND: usize = 1024;

/// Longest part of a proxy's refusal that is kept.
const MESSAGE_BOUND: usize = 1024;

/// Variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// State of the world: `StreamAggregatedResources`.
    StateOfTheWorld,
    /// Incremental: `DeltaAggregatedResources`.
    Delta,
}

/// A request, independent of the variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Type URL of the resources asked for.
    pub type_url: String,
    /// Nonce of the response this answers; empty for a first request.
    pub nonce: String,
    /// State of the world: the version the proxy holds.
    pub version: String,
    /// Why the proxy refuses the response, if it does.
    pub refusal: Option<String>,
    /// State of the world: all names; delta: names to add.
    pub subscribe: Vec<String>,
    /// Delta: names to drop.
    pub unsubscribe: Vec<String>,
    /// Delta, first request: what the proxy still holds from an earlier stream.
    pub held: Vec<(String, String)>,
}

/// A response, independent of the variant.
#[derive(Clone, Debug)]
pub struct Response {
    /// Kind of the resources.
    pub kind: Kind,
    /// State of the world: version of the whole answer.
    pub version: String,
    /// Names this response in the proxy's answer.
    pub nonce: String,
    /// Delta: all resources of this set …
    pub common: Option<Arc<Set>>,
    /// … and these.
    pub resources: Vec<Arc<Item>>,
    /// Delta: names that are gone.
    pub removed: Vec<String>,
}

// === impl Response ===

impl Response {
    /// All its resources.
    pub fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        let common = self.common.iter().flat_map(|set| set.items());
        common.chain(&self.resources)
    }
}

/// A proxy's refusal of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Kind of the refused resources.
    pub kind: Kind,
    /// The proxy's words.
    pub message: String,
}

/// What a request led to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To send, in this order.
    pub responses: Vec<Response>,
    /// Set when the request refused a response.
    pub nack: Option<Nack>,
    /// Set when the request accepted the newest response of this kind.
    pub ack: Option<Kind>,
}

/// A request that ends the stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many names.
    #[error("{kind}: more than {NAMES_BOUND} resource names", kind = .0.short())]
    TooManyNames(Kind),
    /// A name is too long.
    #[error("{kind}: a resource name is longer than {NAME_LENGTH_BOUND} bytes", kind = .0.short())]
    NameTooLong(Kind),
}
