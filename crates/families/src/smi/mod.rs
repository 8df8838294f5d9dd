//! SMI: HTTPRouteGroup, TCPRoute, TrafficTarget, TrafficSplit.

mod routes;
mod split;
mod target;

pub(crate) use routes::group_matches;
pub(crate) use split::splits;
pub(crate) use target::authorizations;
