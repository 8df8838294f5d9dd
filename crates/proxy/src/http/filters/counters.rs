//! A filter's counters: named when configuration arrives, bound to the proxy's statistics at the first use.

use std::sync::{Arc, OnceLock};

use crate::stats::{Family, Scope, Stats};

/// The counters of a filter under Envoy's prefix, e.g. `http.ingress.ext_authz.`.
#[derive(Debug)]
pub struct Counters {
    family: Family,
    names: &'static [&'static str],
    bound: OnceLock<Arc<Scope>>,
}

impl Counters {
    /// Counters that nobody has counted with yet.
    pub fn new(family: Family, names: &'static [&'static str]) -> Counters {
        Counters {
            family,
            names,
            bound: OnceLock::new(),
        }
    }

    /// One more of the counter of that place in the list of names.
    pub fn increment(&self, stats: &Stats, index: usize) {
        self.scope(stats).counter(index).increment();
    }

    /// The numbers themselves.
    pub fn scope(&self, stats: &Stats) -> &Arc<Scope> {
        self.bound
            .get_or_init(|| stats.scope(self.family.clone(), self.names))
    }
}

/// The counters of a kind of filter for a cluster: `cluster.<name>.<kind>.`.
pub fn of_cluster(
    stats: &Stats,
    cluster: &str,
    kind: &str,
    names: &'static [&'static str],
) -> Arc<Scope> {
    let underscored = kind.replace('.', "_");
    let family = Family::new(
        format!("cluster.{cluster}.{kind}."),
        format!("envoy_cluster_{underscored}_"),
    );
    stats.scope(family.label("envoy_cluster_name", cluster), names)
}
