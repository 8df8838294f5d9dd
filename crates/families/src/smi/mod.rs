//! SMI: HTTPRouteGroup, TCPRoute, TrafficTarget, TrafficSplit.

mod routes;
mod split;
mod target;

pub(crate) use routes::{check_group, check_regex, group_matches, header_name};
pub(crate) use split::{split, splits};
pub(crate) use target::{authorization, authorizations, check_route};
