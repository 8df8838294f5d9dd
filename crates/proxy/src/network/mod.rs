//! Network filters: what a connection passes in order before its last filter.

pub mod connection_limit;
pub mod ext_authz;
pub mod facts;
pub mod local_rate_limit;
pub mod rate_limit;

use std::sync::Arc;

use self::connection_limit::{ConnectionLimit, Counted};
use self::ext_authz::NetworkExtAuthz;
use self::local_rate_limit::NetworkLocalRateLimit;
use self::rate_limit::NetworkRateLimit;
use crate::connection::Connection;
use crate::rbac::Rules;
use crate::reason::Reason;
use crate::stats::Scope;

/// A network filter.
#[derive(Debug)]
pub enum NetworkFilter {
    /// RBAC over connections.
    Rbac(Rules),
    /// A token per connection.
    LocalRateLimit(NetworkLocalRateLimit),
    /// A service is asked for a token per connection.
    RateLimit(Box<NetworkRateLimit>),
    /// A service decides over connections.
    ExtAuthz(Box<NetworkExtAuthz>),
    /// So many connections at a time.
    ConnectionLimit(ConnectionLimit),
}

/// A connection that is refused.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The policy that decided.
    pub policy: Option<Arc<str>>,
}

/// What a connection holds until its end.
#[derive(Debug)]
pub enum Hold {
    /// Its place under a limit.
    Counted(Counted),
    /// Its place in a gauge of a filter's statistics.
    Active(Active),
}

/// One in a gauge.
#[derive(Debug)]
pub struct Active(Arc<Scope>, usize);

impl Active {
    fn new(scope: &Arc<Scope>, index: usize) -> Active {
        scope.counter(index).increment();
        Active(scope.clone(), index)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.gauge(self.1).add(-1);
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Refused {
        Refused {
            reason,
            policy: None,
        }
    }
}

/// Asks the filters in order whether a connection may pass.
pub async fn admit(
    filters: &[NetworkFilter],
    connection: &Connection,
) -> Result<Vec<Hold>, Refused> {
    let mut holds = Vec::new();
    for filter in filters {
        match filter {
            NetworkFilter::Rbac(rules) => connection.judge(rules).map_err(|policy| Refused {
                reason: Reason::Denied,
                policy,
            })?,
            NetworkFilter::LocalRateLimit(limit) => limit.admit(connection)?,
            // Boxed: a connection that waits for nobody must not carry the size of one that does.
            NetworkFilter::RateLimit(limit) => {
                holds.push(Hold::Active(Box::pin(limit.admit(connection)).await?));
            }
            NetworkFilter::ExtAuthz(authz) => {
                holds.push(Hold::Active(Box::pin(authz.admit(connection)).await?));
            }
            NetworkFilter::ConnectionLimit(limit) => {
                holds.push(Hold::Counted(Box::pin(limit.admit(connection)).await?));
            }
        }
    }
    Ok(holds)
}
