//! What proxies refused (NACK), and which objects the refused parts were made from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use families::Key;
use families::Kind as ObjectKind;
use tokio::sync::watch;
use xds::resources::origins;
use xds::server::Kind;
use xds::target::Layers;

/// Objects one refusal is laid upon; a path that covers more than this says nothing of any of them.
const OBJECTS_BOUND: usize = 8;

/// Refusals remembered: one per proxy and kind of resource, and there are as many as proxies at worst.
const REFUSALS_BOUND: usize = 20_000;

/// An object: kind as it is written, namespace, name.
pub(crate) type Subject = (String, Key);

/// Who a proxy is: namespace and name of its pod.
pub(crate) type Pod = Key;

/// What proxies refuse of one object now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// How many of them.
    pub(crate) proxies: usize,
    /// The words of one: kind of resource, resource, field path, why.
    pub(crate) words: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.proxies == 1 {
            "proxy"
        } else {
            "proxies"
        };
        write!(f, "refused by {} {noun}: {}", self.proxies, self.words)
    }
}

/// All refusals that stand. Others learn from [`Nacks::changes`] that they changed.
pub(crate) struct Nacks {
    standing: Mutex<BTreeMap<(String, Kind), Refusal>>,
    changes: watch::Sender<u64>,
}

/// One proxy's refusal of one kind.
struct Refusal {
    subjects: BTreeSet<Subject>,
    words: String,
}

// === impl Nacks ===

impl Default for Nacks {
    fn default() -> Self {
        Self {
            standing: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Nacks {
    /// A proxy refused resources of a kind. `subjects` are the objects behind them.
    pub(crate) fn refused(
        &self,
        uuid: &str,
        pod: &Pod,
        kind: Kind,
        message: &str,
        subjects: BTreeSet<Subject>,
    ) {
        let mut subjects = subjects;
        // Whoever looks at the pod is to see it in any case.
        subjects.insert(("Pod".to_owned(), pod.clone()));
        let words = format!("{}: {message}", kind.short());
        let refusal = Refusal { subjects, words };
        {
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (uuid.to_owned(), kind);
            if standing.len() >= REFUSALS_BOUND && !standing.contains_key(&key) {
                return;
            }
            standing.insert(key, refusal);
        }
        self.changed();
    }

    /// The proxy took the kind's newest resources.
    pub(crate) fn accepted(&self, uuid: &str, kind: Kind) {
        let removed = {
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            standing.remove(&(uuid.to_owned(), kind)).is_some()
        };
        if removed {
            self.changed();
        }
    }

    /// The proxy is gone.
    pub(crate) fn forget(&self, uuid: &str) {
        let before = {
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            let before = standing.len();
            if before > 0 {
                standing.retain(|(known, _), _| known != uuid);
            }
            before != standing.len()
        };
        if before {
            self.changed();
        }
    }

    /// What is refused of each object.
    pub(crate) fn by_subject(&self) -> BTreeMap<Subject, Refused> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut proxies: BTreeMap<&Subject, (BTreeSet<&str>, &str)> = BTreeMap::new();
        for ((uuid, _), refusal) in &*standing {
            for subject in &refusal.subjects {
                let entry = proxies
                    .entry(subject)
                    .or_insert((BTreeSet::new(), &refusal.words));
                entry.0.insert(uuid);
            }
        }
        proxies
            .into_iter()
            .map(|(subject, (proxies, words))| {
                let (proxies, words) = (proxies.len(), words.to_owned());
                (subject.clone(), Refused { proxies, words })
            })
            .collect()
    }

    /// Changes whenever [`Nacks::by_subject`] does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The objects behind what a proxy refused: those its words name, else those from which the fields came that its
/// words lead to. `settings` is the MeshConfig, from which TLS parameters and the authorizer come.
pub(crate) fn subjects(message: &str, resources: &Layers, settings: &Key) -> BTreeSet<Subject> {
    const OF_SETTINGS: [&str; 5] = ["tls_params", "cipher", "ecdh", "curve", "ext_authz"];
    let lower = message.to_ascii_lowercase();
    if OF_SETTINGS.iter().any(|word| lower.contains(word)) {
        return BTreeSet::from([("MeshConfig".to_owned(), settings.clone())]);
    }
    let mut found = mentioned(message);
    if found.is_empty() {
        for item in resources.iter() {
            let Some((_, rest)) = message.split_once(item.name()) else {
                continue;
            };
            let path = rest.trim_start_matches([':', ' ']);
            let path = path.split(": ").next().unwrap_or_default();
            found.extend(
                origins(&item.any(), path)
                    .iter()
                    .filter_map(|text| subject(text)),
            );
        }
    }
    if found.len() > OBJECTS_BOUND {
        found.clear();
    }
    found
}

/// Objects that a text names as their provenance is written: `TrafficTarget shop/web …`.
fn mentioned(text: &str) -> BTreeSet<Subject> {
    let mut words = text.split(|c: char| c.is_whitespace() || "\"'`()[],;".contains(c));
    let mut found = BTreeSet::new();
    let mut before = "";
    for word in words.by_ref() {
        if ObjectKind::of_policy(before).is_some() {
            found.extend(subject(&format!("{before} {}", word.trim_end_matches(':'))));
        }
        before = word;
    }
    found
}

/// `<kind> <namespace>/<name> …` of a kind that users write.
fn subject(origin: &str) -> Option<Subject> {
    let mut words = origin.split(' ');
    let kind = words.next()?;
    ObjectKind::of_policy(kind)?;
    let (namespace, name) = words.next()?.split_once('/')?;
    Some((kind.to_owned(), (namespace.into(), name.into())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
    use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
    use prost::{Message, Name};

    use xds::resources::Resource;
    use xds::target::{Item, Set};

    use super::*;

    fn metadata(origin: &str) -> Option<Metadata> {
        let text = Value {
            kind: Some(value::Kind::StringValue(origin.to_owned())),
        };
        let entry = Struct {
            fields: [("origin".to_owned(), text)].into(),
        };
        Some(Metadata {
            filter_metadata: [("osm".to_owned(), entry)].into(),
            ..Metadata::default()
        })
    }

    fn table() -> Layers {
        let route = |origin: &str| Route {
            metadata: metadata(origin),
            ..Route::default()
        };
        let table = RouteConfiguration {
            virtual_hosts: vec![VirtualHost {
                routes: vec![
                    route("TrafficTarget shop/web HTTPRouteGroup/all/get"),
                    route("TrafficSplit shop/canary"),
                ],
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        };
        let any = Any {
            type_url: RouteConfiguration::type_url(),
            value: table.encode_to_vec(),
        };
        let item = Item::new("rds-inbound.80", &Resource::new(any));
        let own = Set::new(vec![Arc::new(item)]);
        Layers::new(Set::nothing(), Arc::new(own))
    }

    fn key(namespace: &str, name: &str) -> Key {
        (namespace.into(), name.into())
    }

    #[test]
    fn a_refusal_is_laid_upon_the_objects_behind_it() {
        let settings = key("osm-system", "osm-mesh-config");
        for (message, expected) in [
            (
                "rds-inbound.80: virtual_hosts[0].routes[1].route: bad",
                vec!["TrafficSplit shop/canary"],
            ),
            (
                "rds-inbound.80: virtual_hosts[0].routes[0].match.safe_regex: bad: really",
                vec!["TrafficTarget shop/web"],
            ),
            (
                "rds-inbound.80: ignore_port_in_host_matching: bad",
                vec!["TrafficSplit shop/canary", "TrafficTarget shop/web"],
            ),
            (
                "Invalid regex in route 'Egress shop/out port 80': x",
                vec!["Egress shop/out"],
            ),
            (
                "inbound-listener: filter_chains[0].transport_socket.typed_config.common_tls_context.tls_params: x",
                vec!["MeshConfig osm-system/osm-mesh-config"],
            ),
            ("rds-inbound.81: whatever", vec![]),
            ("", vec![]),
            ("TrafficTarget", vec![]),
            ("TrafficTarget x", vec![]),
        ] {
            let found: Vec<String> = subjects(message, &table(), &settings)
                .into_iter()
                .map(|(kind, (namespace, name))| format!("{kind} {namespace}/{name}"))
                .collect();
            assert_eq!(found, expected, "{message}");
        }
    }

    #[test]
    fn refusals_stand_until_they_are_accepted_or_the_proxy_is_gone() {
        let nacks = Nacks::default();
        let mut changes = nacks.changes();
        let target = ("TrafficTarget".to_owned(), key("shop", "web"));
        let subjects = || BTreeSet::from([target.clone()]);
        for uuid in ["a", "b"] {
            let pod = key("shop", uuid);
            nacks.refused(uuid, &pod, Kind::Routes, "r: f: why", subjects());
        }
        nacks.refused(
            "a",
            &key("shop", "a"),
            Kind::Listener,
            "l: f: why",
            subjects(),
        );
        let all = nacks.by_subject();
        assert_eq!(all[&target].proxies, 2);
        assert!(all[&target].words.ends_with(": f: why"), "{all:?}");
        assert_eq!(all.len(), 3, "the target and two pods");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        nacks.accepted("a", Kind::Cluster);
        nacks.forget("c");
        assert!(!changes.has_changed().unwrap(), "nothing was refused there");
        nacks.accepted("a", Kind::Routes);
        nacks.forget("b");
        assert_eq!(nacks.by_subject()[&target].proxies, 1);
        nacks.accepted("a", Kind::Listener);
        assert!(nacks.by_subject().is_empty());
    }
}
