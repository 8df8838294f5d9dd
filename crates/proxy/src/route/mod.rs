//! Route tables: virtual hosts by domain, routes in order, and what a route does.

mod action;
mod condition;
mod edits;
mod hosts;

pub use action::{Action, Forward, HostRewrite, Redirect, Target, WeightedCluster};
pub use condition::{PathMatch, RouteMatch, is_grpc, is_grpc_type, split};
pub use edits::{AddMode, Edits, HeaderAdd};
pub use hosts::without_port;

use std::sync::Arc;

use crate::http::filters::overrides::Overrides;
use crate::matcher::RequestView;
use hosts::HostIndex;

/// A route configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// What its routes say about filters, if they do not say it themselves.
    pub overrides: Overrides,
    /// Ports are cut off the authority before a host is looked for.
    pub ignore_port: bool,
    hosts: Vec<VirtualHost>,
    index: HostIndex,
}

/// A virtual host.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Lower case; `*`, `*suffix`, `prefix*` or exact.
    pub domains: Vec<String>,
    /// Tried in order.
    pub routes: Vec<Arc<Route>>,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// What its routes say about filters, if they do not say it themselves.
    pub overrides: Overrides,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name, which carries the provenance.
    pub name: Arc<str>,
    /// Conditions.
    pub condition: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Changes to headers.
    pub edits: Edits,
    /// What it says about filters.
    pub overrides: Overrides,
}

/// A route that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// In this host.
    pub host: &'a VirtualHost,
    /// This route.
    pub route: &'a Arc<Route>,
}

impl RouteTable {
    /// A table over virtual hosts; `Err` names a domain that two of them claim.
    pub fn new(name: Arc<str>, hosts: Vec<VirtualHost>) -> Result<RouteTable, String> {
        let mut index = HostIndex::default();
        for (position, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                if !index.insert(domain, position) {
                    return Err(domain.clone());
                }
            }
        }
        index
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        index
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(RouteTable {
            name,
            hosts,
            index,
            ..RouteTable::default()
        })
    }

    /// The virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let lower = authority.to_ascii_lowercase();
        let host = if self.ignore_port {
            without_port(&lower)
        } else {
            &lower
        };
        self.index
            .find(host)
            .and_then(|position| self.hosts.get(position))
    }

    /// The first route of the authority's host whose conditions hold.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let host = self.host(request.authority)?;
        let route = host
            .routes
            .iter()
            .find(|route| route.condition.matches(request))?;
        Some(Found { host, route })
    }

    /// All virtual hosts.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }
}

#[cfg(test)]
mod tests;
