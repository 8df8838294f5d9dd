//! What a route does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;

use super::{Client, Edits, HostRewrite, PathRewrite, Redirect};
use crate::cluster::subset::Labels;
use crate::cluster::{HashPolicy, RoutingPriority, hash};
use crate::format::Body;
use crate::http::filters::cors::CorsPolicy;
use crate::http::filters::descriptors::RateLimitPolicy;
use crate::http::filters::overrides::Overrides;
use crate::http::retry::RetryPolicy;
use crate::matcher::RequestView;

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends the request on.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers.
    Respond(Box<Respond>),
}

/// An answer that stands in the configuration.
#[derive(Debug)]
pub struct Respond {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
    /// How the body is made, if it is not the one above.
    pub format: Option<Body>,
}

/// Where and how a request is sent on.
#[derive(Debug)]
pub struct Forward {
    /// The cluster, or several with weights.
    pub target: Target,
    /// For the whole answer, from the end of the request on; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Without a byte in either direction; `None` leaves it to the connection manager, zero switches off.
    pub idle_timeout: Option<Duration>,
    /// For the client to take what it was sent; `None` is the idle time.
    pub flush_timeout: Option<Duration>,
    /// For request and answer together.
    pub stream_duration: Option<StreamDuration>,
    /// What becomes of the path.
    pub path_rewrite: PathRewrite,
    /// Replaces the authority.
    pub host_rewrite: HostRewrite,
    /// Keeps the replaced authority in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Upgrades allowed or forbidden here, lower case.
    pub upgrades: Vec<(String, bool)>,
    /// Status when the cluster does not exist.
    pub not_found: u16,
    /// When it is sent again; the virtual host's where the route has none.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What consistent hashing goes by.
    pub hash: Vec<HashPolicy>,
    /// Of which subset of the cluster the endpoint is to be.
    pub subset: Labels,
    /// Whose circuit breakers count.
    pub priority: RoutingPriority,
    /// What requests count for at rate limits.
    pub rate_limits: Vec<RateLimitPolicy>,
    /// Those of the virtual host count, too.
    pub include_host_rate_limits: bool,
    /// Who may read its responses.
    pub cors: Option<CorsPolicy>,
}

/// How long request and answer may take together, and what gRPC's own deadline may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamDuration {
    /// At most; zero switches the connection manager's limit off, `None` leaves it to that.
    pub limit: Option<Duration>,
    /// `grpc-timeout` counts, up to this; zero is without bound.
    pub grpc_most: Option<Duration>,
    /// Taken off `grpc-timeout`.
    pub grpc_less: Option<Duration>,
}

/// One cluster or several.
#[derive(Debug)]
pub enum Target {
    /// One.
    Cluster(Arc<str>),
    /// The one a header of the request names.
    Header(HeaderName),
    /// Several; the total is positive.
    Weighted {
        /// Sum of the weights.
        total: u32,
        /// Clusters with their weights.
        clusters: Vec<WeightedCluster>,
        /// What decides instead of the lot.
        by: Lot,
    },
}

/// What decides between weighted clusters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Lot {
    /// Chance.
    #[default]
    Random,
    /// A number in this header, else chance.
    Header(HeaderName),
    /// The hash that also chooses the endpoint, else chance.
    Hash,
}

/// A cluster with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name; empty if a header names it.
    pub name: Arc<str>,
    /// The header that names it.
    pub header: Option<HeaderName>,
    /// Its share.
    pub weight: u32,
    /// Of which subset the endpoint is to be, the route's wishes included.
    pub subset: Labels,
    /// Replaces the authority.
    pub host: Option<String>,
    /// Changes to headers.
    pub edits: Edits,
    /// What it says about filters.
    pub overrides: Overrides,
}

// === impl Forward, Target ===

impl Forward {
    /// The number to pick a cluster with.
    pub fn draw(&self, request: &RequestView<'_>, client: &Client) -> u64 {
        let hash = match (&self.target, client.addresses) {
            (Target::Weighted { by: Lot::Hash, .. }, Some((source, destination))) => {
                hash(&self.hash, request, source, destination).hash
            }
            _ => None,
        };
        self.target.draw(request, client.roll, hash)
    }
}

impl Target {
    /// Chooses a cluster; `draw` is any number, even in distribution. A cluster that a header names is found with
    /// [`Target::named`].
    pub fn pick(&self, draw: u64) -> Option<(&Arc<str>, Option<&WeightedCluster>)> {
        match self {
            Target::Cluster(name) => Some((name, None)),
            Target::Header(_) => None,
            Target::Weighted {
                total, clusters, ..
            } => {
                let mut at = draw.checked_rem(u64::from(*total))?;
                for cluster in clusters {
                    let weight = u64::from(cluster.weight);
                    if at < weight {
                        return Some((&cluster.name, Some(cluster)));
                    }
                    at = at.saturating_sub(weight);
                }
                None
            }
        }
    }

    /// The number to pick with: chance, unless something else is to decide.
    pub fn draw(&self, request: &RequestView<'_>, roll: u64, hash: Option<u64>) -> u64 {
        let by = match self {
            Target::Weighted { by, .. } => by,
            Target::Cluster(_) | Target::Header(_) => return roll,
        };
        let decided = match by {
            Lot::Random => None,
            Lot::Hash => hash,
            Lot::Header(name) => {
                let value = request.headers.get(name);
                value.and_then(|value| value.to_str().ok()?.parse().ok())
            }
        };
        decided.unwrap_or(roll & u64::from(u32::MAX))
    }

    /// The cluster that a header of the request names, where the target or the picked cluster says so.
    pub fn named(
        &self,
        picked: Option<&WeightedCluster>,
        request: &RequestView<'_>,
    ) -> Option<Arc<str>> {
        let header = match self {
            Target::Header(name) => Some(name),
            _ => picked.and_then(|cluster| cluster.header.as_ref()),
        };
        let value = request.headers.get(header?)?.to_str().ok()?;
        (!value.is_empty()).then(|| value.into())
    }
}
