//! What routes say about filters: per table, virtual host, route and weighted cluster, by the filter's name.

use std::any::Any;
use std::sync::Arc;

use super::Filter;
use super::cors::CorsPolicy;
use super::ext_authz::ExtAuthzRoute;
use super::fault::FaultSettings;
use super::header_mutation::Mutations;
use super::local_rate_limit::LocalRateLimit;
use super::rate_limit::RateLimitRoute;
use crate::matcher::RequestView;
use crate::rbac::Rules;
use crate::route::{Action, Client, Edits, Found, RouteTable, WeightedCluster};

/// The `typed_per_filter_config` of one level: filter names with their settings. Few, so a list.
#[derive(Debug, Default)]
pub struct Overrides(Vec<(Arc<str>, Setting)>);

/// What a level says about a filter.
#[derive(Debug)]
pub enum Setting {
    /// It is off.
    Off,
    /// It is on, with this in its configuration's place or beside it.
    On(Box<Override>),
}

/// A filter's configuration of a level.
#[derive(Debug)]
pub enum Override {
    /// These rules instead.
    Rbac(Rules),
    /// These mutations, too.
    HeaderMutation(Mutations),
    /// This policy; what it leaves open, less specific levels say.
    Cors(CorsPolicy),
    /// These faults instead.
    Fault(FaultSettings),
    /// This limit instead.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Other policies, or another domain.
    RateLimit(RateLimitRoute),
    /// So many bytes instead.
    Buffer(usize),
    /// More for the authorization service, or another one.
    ExtAuthz(ExtAuthzRoute),
    /// An extension's.
    Extension(Arc<dyn Any + Send + Sync>),
}

/// A request's route: what was found and, where there are several, the cluster that was drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Routing<'r> {
    /// The table, if it has arrived.
    pub table: Option<&'r RouteTable>,
    /// Virtual host and route, if one matches.
    pub found: Option<Found<'r>>,
    /// The cluster of a route that forwards.
    pub cluster: Option<&'r Arc<str>>,
    /// Its place in a weighted list.
    pub weighted: Option<&'r WeightedCluster>,
}

// === impl Overrides ===

impl Overrides {
    /// The settings of a level; a name stands once.
    pub fn new(settings: Vec<(Arc<str>, Setting)>) -> Overrides {
        Overrides(settings)
    }

    /// What the level says about a filter.
    pub fn find(&self, name: &str) -> Option<&Setting> {
        let mut settings = self.0.iter();
        settings
            .find(|(of, _)| &**of == name)
            .map(|(_, setting)| setting)
    }
}

// === impl Routing ===

impl<'r> Routing<'r> {
    /// The route of a request.
    pub fn find(
        table: Option<&'r RouteTable>,
        request: &RequestView<'_>,
        client: &Client,
    ) -> Routing<'r> {
        let found = table.and_then(|table| table.find(request, client));
        let picked = match found.map(|found| &found.route.action) {
            Some(Action::Forward(forward)) => {
                let draw = forward.draw(request, client);
                forward.target.pick(draw)
            }
            _ => None,
        };
        Routing {
            table,
            found,
            cluster: picked.map(|(name, _)| name),
            weighted: picked.and_then(|(_, weighted)| weighted),
        }
    }

    /// Changes to headers, in the order in which they are made.
    pub fn edits(&self) -> impl Iterator<Item = &'r Edits> + use<'r> {
        let weighted = self.weighted;
        let levels = self.table.zip(self.found);
        levels
            .into_iter()
            .flat_map(move |(table, found)| table.edits(&found, weighted))
    }

    /// The levels that may say something about filters, the most specific first.
    fn levels(&self) -> impl Iterator<Item = &'r Overrides> + use<'r> {
        let of_cluster = self.weighted.map(|weighted| &weighted.overrides);
        let of_route = self.found.map(|found| &found.route.overrides);
        let of_host = self.found.map(|found| &found.host.overrides);
        let of_table = self.table.map(|table| &table.overrides);
        [of_cluster, of_route, of_host, of_table]
            .into_iter()
            .flatten()
    }

    /// Whether a filter does not run: the most specific level that names it decides, else its own default.
    pub fn is_off(&self, filter: &Filter) -> bool {
        match self.levels().find_map(|level| level.find(&filter.name)) {
            Some(setting) => matches!(setting, Setting::Off),
            None => filter.disabled,
        }
    }

    /// All levels' configuration of a filter, the most specific first.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'r Override> + use<'r, 'n> {
        self.levels()
            .filter_map(move |level| match level.find(name) {
                Some(Setting::On(config)) => Some(&**config),
                Some(Setting::Off) | None => None,
            })
    }

    /// The most specific configuration of a filter.
    pub fn specific(&self, name: &str) -> Option<&'r Override> {
        self.all(name).next()
    }
}
