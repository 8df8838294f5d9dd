//! Subsets of a cluster's endpoints, by what their metadata say of them: Envoy's `lb_subset_config`.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{Assignment, ClusterConfig};
use super::members::{Endpoints, Member};

/// Names with values, in the order of the names: what an endpoint says of itself, or what a route asks for.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// Which subsets there are, and what is done where one is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subsetting {
    /// Each divides the endpoints by the values of its keys.
    pub selectors: Vec<Selector>,
    /// Where no selector says otherwise.
    pub fallback: Fallback,
    /// What `Fallback::Default` means.
    pub default: Labels,
    /// Where the default subset is empty, all endpoints may be used; as in Envoy no fallback stays none.
    pub panic_any: bool,
}

/// A way to divide endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Sorted.
    pub keys: Box<[Box<str>]>,
    /// Where no endpoint has the values asked for; `None` leaves it to the cluster.
    pub fallback: Option<Fallback>,
}

/// What is done where a subset is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallback {
    /// There is no endpoint.
    #[default]
    None,
    /// Any endpoint.
    Any,
    /// The cluster's default subset.
    Default,
    /// These keys only are asked for; fewer than the selector's, sorted.
    Keys(Box<[Box<str>]>),
}

/// The subsets of a cluster's endpoints.
#[derive(Debug, Default)]
pub(super) struct Subsets {
    by_labels: HashMap<Labels, Endpoints>,
    default: Endpoints,
}

/// Which endpoints serve a request.
pub(super) enum Found<'a> {
    /// All.
    All,
    /// These.
    Some(&'a Endpoints),
    /// None.
    None,
}

impl Subsets {
    /// Divides endpoints.
    pub(super) fn new(
        config: &ClusterConfig,
        subsetting: &Subsetting,
        assignment: &Arc<Assignment>,
        members: &[Member],
    ) -> Subsets {
        let mut groups: HashMap<Labels, Vec<Member>> = HashMap::new();
        for selector in &subsetting.selectors {
            for member in members {
                if let Some(labels) = select(&member.config.labels, &selector.keys) {
                    groups.entry(labels).or_default().push(member.clone());
                }
            }
        }
        let view = |members| Endpoints::undivided(config, assignment.clone(), members);
        let is_default = |member: &&Member| {
            let mut wanted = subsetting.default.iter();
            wanted.all(|label| member.config.labels.contains(label))
        };
        Subsets {
            default: match subsetting.uses_default() {
                true => view(members.iter().filter(is_default).cloned().collect()),
                false => Endpoints::default(),
            },
            by_labels: groups
                .into_iter()
                .map(|(labels, members)| (labels, view(members)))
                .collect(),
        }
    }

    /// The endpoints for a request that asks for these labels.
    pub(super) fn find(&self, subsetting: &Subsetting, wanted: &Labels) -> Found<'_> {
        let mut narrowed;
        let mut wanted = wanted;
        loop {
            let has_keys = |selector: &&Selector| {
                let keys = wanted.iter().map(|(key, _)| key);
                !wanted.is_empty() && keys.eq(selector.keys.iter())
            };
            let selector = subsetting.selectors.iter().find(has_keys);
            if selector.is_some()
                && let Some(found) = self.by_labels.get(wanted)
            {
                return Found::Some(found);
            }
            let own = selector.and_then(|selector| selector.fallback.as_ref());
            match own.unwrap_or(&subsetting.fallback) {
                Fallback::None => return Found::None,
                Fallback::Any => return Found::All,
                Fallback::Default => return Found::Some(&self.default),
                // Ends, because there are fewer each time.
                Fallback::Keys(keys) if keys.len() < wanted.len() => {
                    match select(wanted, keys) {
                        Some(fewer) => narrowed = fewer,
                        None => return Found::None,
                    }
                    wanted = &narrowed;
                }
                Fallback::Keys(_) => return Found::None,
            }
        }
    }
}

impl Subsetting {
    fn uses_default(&self) -> bool {
        let mut all = self.selectors.iter();
        self.fallback == Fallback::Default
            || all.any(|selector| selector.fallback == Some(Fallback::Default))
    }
}

/// The labels with these names; `None` if one is missing. Both are sorted.
fn select(labels: &Labels, keys: &[Box<str>]) -> Option<Labels> {
    let labelled = |key| labels.iter().find(|(name, _)| name == key).cloned();
    keys.iter().map(labelled).collect()
}

/// What a weighted cluster asks for, besides or instead of what its route does.
pub fn merged(route: &Labels, cluster: &Labels) -> Labels {
    let kept = route
        .iter()
        .filter(|(key, _)| !cluster.iter().any(|(own, _)| own == key));
    let mut all: Vec<(Box<str>, Box<str>)> = kept.chain(cluster.iter()).cloned().collect();
    all.sort();
    all.into()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::cluster::choice::ChoiceContext;
    use crate::cluster::testing::{assignment, cluster_with, endpoint};

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn keys(list: &[&str]) -> Box<[Box<str>]> {
        list.iter().map(|key| (*key).into()).collect()
    }

    /// The ports that requests for these labels reach, of v1 = 1, v1 in stage = 2, v2 = 3, nothing = 4.
    fn reached(subsetting: &Subsetting, wanted: &[(&str, &str)]) -> Vec<u16> {
        let cluster = cluster_with(|config| config.subsets = Some(subsetting.clone()));
        let labelled = |port, list: &[(&str, &str)]| {
            let mut endpoint = endpoint(port, 1, 0);
            endpoint.labels = labels(list);
            endpoint
        };
        cluster.assign(assignment(vec![
            labelled(1, &[("version", "1")]),
            labelled(2, &[("stage", "test"), ("version", "1")]),
            labelled(3, &[("version", "2")]),
            labelled(4, &[]),
        ]));
        let wanted = labels(wanted);
        let mut ports: Vec<u16> = (0..16)
            .filter_map(|roll| {
                let context = ChoiceContext {
                    subset: Some(&wanted),
                    ..ChoiceContext::of_proxy(roll)
                };
                let chosen = cluster.choose(&context).ok()?;
                Some(SocketAddr::port(&chosen.endpoint.config.address))
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    #[test]
    fn endpoints_are_chosen_by_their_labels_and_fall_back_as_configured() {
        let selector = |list: &[&str], fallback| Selector {
            keys: keys(list),
            fallback,
        };
        let with = |fallback| Subsetting {
            selectors: vec![
                selector(&["version"], None),
                selector(
                    &["stage", "version"],
                    Some(Fallback::Keys(keys(&["version"]))),
                ),
                selector(&["stage"], Some(Fallback::None)),
            ],
            fallback,
            default: labels(&[("version", "2")]),
            panic_any: false,
        };
        type Case<'a> = (Fallback, &'a [(&'a str, &'a str)], &'a [u16]);
        let cases: [Case<'_>; 10] = [
            (Fallback::None, &[("version", "1")], &[1, 2]),
            (Fallback::None, &[("version", "3")], &[]),
            (Fallback::Any, &[("version", "3")], &[1, 2, 3, 4]),
            (Fallback::Default, &[("version", "3")], &[3]),
            (Fallback::Default, &[], &[3]),
            (Fallback::None, &[], &[]),
            (Fallback::None, &[("stage", "test"), ("version", "1")], &[2]),
            (Fallback::None, &[("stage", "live"), ("version", "2")], &[3]),
            (Fallback::Any, &[("stage", "live")], &[]),
            (Fallback::Any, &[("unknown", "1")], &[1, 2, 3, 4]),
        ];
        for (fallback, wanted, expected) in cases {
            let found = reached(&with(fallback.clone()), wanted);
            assert_eq!(found, expected, "{fallback:?} {wanted:?}");
        }
        let panic = Subsetting {
            panic_any: true,
            default: labels(&[("version", "9")]),
            ..with(Fallback::Default)
        };
        assert_eq!(reached(&panic, &[("version", "3")]), [1, 2, 3, 4]);
        let none = Subsetting {
            fallback: Fallback::None,
            ..panic
        };
        assert!(reached(&none, &[("version", "3")]).is_empty());
    }

    #[test]
    fn a_weighted_cluster_overrules_its_route() {
        let route = labels(&[("a", "1"), ("b", "1")]);
        let cluster = labels(&[("b", "2"), ("c", "2")]);
        let both = labels(&[("a", "1"), ("b", "2"), ("c", "2")]);
        assert_eq!(merged(&route, &cluster), both);
    }
}
