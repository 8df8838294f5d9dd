//! The choice of an endpoint for a request or connection, and what is held and reported for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;

use super::breaker::{Overflow, Pending, RoutingPriority};
use super::{Cluster, Discovery, Endpoint};
use crate::rbac::Peer;
use crate::reason::{Reason, grpc_to_http};

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct ChoiceContext<'a> {
    /// Of the route's hash policies, for consistent hashing.
    pub hash: Option<u64>,
    /// Where the client was going, which is the endpoint of an original destination cluster.
    pub destination: Option<SocketAddr>,
    /// Endpoints of earlier attempts, which are passed over …
    pub tried: &'a [SocketAddr],
    /// … by choosing again at most so often.
    pub reselections: u32,
    /// Whose circuit breakers count.
    pub priority: RoutingPriority,
    /// Any number, even in distribution.
    pub roll: u64,
}

/// A chosen endpoint and the load on it, given back when dropped.
#[derive(Debug)]
pub struct Chosen {
    /// Its cluster.
    pub cluster: Arc<Cluster>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Whose circuit breakers count.
    pub priority: RoutingPriority,
    begun: bool,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is none that may be used.
    Unhealthy,
}

/// What came of a request or connection, for the judgement of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status; of gRPC see [`Outcome::grpc`].
    Status(StatusCode),
    /// An opaque connection was opened.
    Connected,
    /// The connection was refused, or TLS failed.
    ConnectFailed,
    /// The connection did not open in time.
    ConnectTimeout,
    /// The connection or stream ended before the answer's head.
    Reset,
    /// No answer within the route's or the attempt's timeout.
    Timeout,
}

// === impl ChoiceContext ===

impl<'a> ChoiceContext<'a> {
    /// A client's first attempt, without a hash, of default priority.
    pub fn new(peer: &Peer, roll: u64) -> ChoiceContext<'a> {
        ChoiceContext {
            destination: Some(peer.destination),
            ..ChoiceContext::of_proxy(roll)
        }
    }

    /// A connection of the proxy's own.
    pub fn of_proxy(roll: u64) -> ChoiceContext<'a> {
        ChoiceContext {
            hash: None,
            destination: None,
            tried: &[],
            reselections: 0,
            priority: RoutingPriority::Default,
            roll,
        }
    }
}

// === impl NoEndpoint ===

impl From<NoEndpoint> for Reason {
    fn from(no_endpoint: NoEndpoint) -> Reason {
        match no_endpoint {
            NoEndpoint::Unhealthy => Reason::NoHealthyUpstream,
        }
    }
}

impl From<Overflow> for Reason {
    fn from(_: Overflow) -> Reason {
        Reason::UpstreamOverflow
    }
}

// === impl Outcome ===

impl Outcome {
    /// A gRPC status, judged as the HTTP status it stands for.
    pub fn grpc(status: u32) -> Outcome {
        Outcome::Status(grpc_to_http(status))
    }
}

// === impl Chosen ===

impl Chosen {
    fn new(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, priority: RoutingPriority) -> Chosen {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        endpoint.stats.requests.increment();
        Chosen {
            cluster,
            endpoint,
            priority,
            begun: false,
        }
    }

    /// A place among those who wait for a connection: to be held from the moment that the pool has none ready until it
    /// has one.
    pub fn pend(&self) -> Result<Pending, Overflow> {
        self.cluster.pending(self.priority)
    }

    /// The request begins on a connection; its place among the requests in flight is held until `self` is dropped.
    pub fn begin(&mut self) -> Result<(), Overflow> {
        if self.begun {
            return Ok(());
        }
        let entered = self.cluster.breakers.enter_request(self.priority);
        if entered.is_err() {
            self.cluster.stats.pending_overflow.increment();
        }
        self.begun = entered.is_ok();
        entered
    }

    /// Tells what came of it.
    pub fn report(&self, outcome: Outcome) {
        self.cluster.report(&self.endpoint, outcome);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        if self.begun {
            self.cluster.breakers.leave_request(self.priority);
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Chooses an endpoint. The guards in what is returned count its load.
    pub fn choose(self: &Arc<Self>, context: &ChoiceContext<'_>) -> Result<Chosen, NoEndpoint> {
        let endpoint = match self.config.discovery {
            Discovery::OriginalDestination => context.destination.map(Endpoint::original),
            _ => self.untried(context),
        };
        match endpoint {
            Some(endpoint) => Ok(Chosen::new(self.clone(), endpoint, context.priority)),
            None => {
                self.stats.unhealthy.increment();
                Err(NoEndpoint::Unhealthy)
            }
        }
    }

    /// One that was not tried, if the choice finds one within its reselections.
    fn untried(&self, context: &ChoiceContext<'_>) -> Option<Arc<Endpoint>> {
        let mut roll = context.roll;
        let mut chosen = self.pick(roll)?;
        for _ in 0..context.reselections {
            if !context.tried.contains(&chosen.config.address) {
                break;
            }
            // splitmix64's step: the next number of the same quality.
            roll = roll.wrapping_add(0x9E37_79B9_7F4A_7C15).rotate_left(27);
            chosen = self.pick(roll)?;
        }
        Some(chosen)
    }

    /// Tells what came of a request or connection to an endpoint.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        let stats = &endpoint.stats;
        match outcome {
            Outcome::Status(status) if !status.is_server_error() => stats.successes.increment(),
            Outcome::Connected => stats.successes.increment(),
            Outcome::Status(_) | Outcome::Reset => stats.errors.increment(),
            Outcome::ConnectFailed | Outcome::ConnectTimeout => stats.errors.increment(),
            Outcome::Timeout => {
                stats.timeouts.increment();
                stats.errors.increment();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cluster_with, endpoint, peer};
    use super::*;

    #[test]
    fn what_was_tried_is_passed_over_while_there_is_another() {
        let cluster = cluster_with(|_| {});
        cluster.assign(&[endpoint(1, 1, 0, true), endpoint(2, 1, 0, true)]);
        let tried = [cluster.endpoints.load().all[0].config.address];
        let peer = peer();
        for roll in 0..8 {
            let context = ChoiceContext {
                tried: &tried,
                reselections: 3,
                ..ChoiceContext::new(&peer, roll)
            };
            let chosen = cluster.choose(&context).unwrap();
            assert_eq!(chosen.endpoint.config.address.port(), 2);
        }
        cluster.assign(&[endpoint(1, 1, 0, true)]);
        let context = ChoiceContext {
            tried: &tried,
            reselections: 3,
            ..ChoiceContext::new(&peer, 0)
        };
        assert!(cluster.choose(&context).is_ok(), "better than none");
    }

    #[test]
    fn load_is_held_while_the_choice_is() {
        let cluster = cluster_with(|config| config.thresholds.default.requests = 1);
        cluster.assign(&[endpoint(1, 1, 0, true)]);
        let peer = peer();
        let context = ChoiceContext::new(&peer, 0);
        let mut one = cluster.choose(&context).unwrap();
        let mut two = cluster.choose(&context).unwrap();
        let host = one.endpoint.clone();
        assert_eq!(host.active.load(Ordering::Relaxed), 2);
        one.begin().unwrap();
        one.begin().unwrap();
        assert_eq!(two.begin(), Err(Overflow));
        drop(one);
        two.begin().unwrap();
        drop(two);
        assert_eq!(host.active.load(Ordering::Relaxed), 0);
        assert_eq!(cluster.stats.pending_overflow.get(), 1);
    }

    #[test]
    fn outcomes_are_counted_at_their_endpoint() {
        let cluster = cluster_with(|_| {});
        cluster.assign(&[endpoint(1, 1, 0, true)]);
        let peer = peer();
        let chosen = cluster.choose(&ChoiceContext::new(&peer, 0)).unwrap();
        for outcome in [
            Outcome::grpc(0),
            Outcome::grpc(14),
            Outcome::Timeout,
            Outcome::Connected,
            Outcome::Reset,
        ] {
            chosen.report(outcome);
        }
        let stats = &chosen.endpoint.stats;
        let counts =
            [&stats.successes, &stats.errors, &stats.timeouts].map(|counter| counter.get());
        assert_eq!(counts, [2, 3, 1]);
    }
}
