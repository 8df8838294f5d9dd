//! What a route does.

use std::sync::Arc;
use std::time::Duration;

use super::Edits;
use crate::http::filters::overrides::Overrides;

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends the request on.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers.
    Respond(u16, bytes::Bytes),
}

/// Where and how a request is sent on.
#[derive(Debug)]
pub struct Forward {
    /// The cluster, or several with weights.
    pub target: Target,
    /// For the whole answer; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Without a byte in either direction; `None` leaves it to the connection manager.
    pub idle_timeout: Option<Duration>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// Replaces the authority.
    pub host_rewrite: HostRewrite,
    /// Keeps the replaced authority in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Upgrades allowed or forbidden here, lower case.
    pub upgrades: Vec<(String, bool)>,
    /// Status when the cluster does not exist.
    pub not_found: u16,
}

/// The authority the upstream sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRewrite {
    /// The client's.
    Keep,
    /// This one.
    Literal(String),
    /// The endpoint's host name.
    Endpoint,
}

/// One cluster or several.
#[derive(Debug)]
pub enum Target {
    /// One.
    Cluster(Arc<str>),
    /// Several; the total is positive.
    Weighted {
        /// Sum of the weights.
        total: u32,
        /// Clusters with their weights.
        clusters: Vec<WeightedCluster>,
    },
}

/// A cluster with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Changes to headers.
    pub edits: Edits,
    /// What it says about filters.
    pub overrides: Overrides,
}

/// A redirect.
#[derive(Debug)]
pub struct Redirect {
    /// Scheme, if it changes.
    pub scheme: Option<String>,
    /// Host, if it changes.
    pub host: Option<String>,
    /// Port, if it changes.
    pub port: Option<u16>,
    /// Path (and query) in place of the request's.
    pub path: Option<String>,
    /// In place of the matched prefix.
    pub prefix: Option<String>,
    /// Status.
    pub status: u16,
    /// Without the query.
    pub strip_query: bool,
}

impl Target {
    /// Chooses a cluster; `roll` is any number, even in distribution.
    pub fn pick(&self, roll: u64) -> Option<(&Arc<str>, Option<&WeightedCluster>)> {
        match self {
            Target::Cluster(name) => Some((name, None)),
            Target::Weighted { total, clusters } => {
                let mut at = roll.checked_rem(u64::from(*total))?;
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
}
