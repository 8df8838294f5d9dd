//! One proxy as the control plane sees it: it subscribes to what its clusters and listeners refer to, acknowledges, and
//! knows when it has everything. It reads no more of the resources than their references.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::wire::{text, walk};

/// A resource's name, once for all proxies.
type Name = u32;

/// Kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    Secret,
}

/// What all proxies know together: each resource is read once, however many proxies are told it.
#[derive(Debug, Default)]
pub struct Knowledge {
    names: HashMap<Arc<str>, Name>,
    texts: Vec<Arc<str>>,
    references: HashMap<u64, Arc<References>>,
}

/// What a cluster or listener refers to.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    endpoints: Vec<Name>,
    routes: Vec<Name>,
    secrets: Vec<Name>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Everything that was asked for has come.
    Complete,
    /// The endpoints of a cluster with, or without, an address.
    Endpoints {
        cluster: String,
        address: String,
        present: bool,
    },
    /// Between so many services a proxy may reach, with new listeners and everything complete.
    Reach { least: usize, most: usize },
}

/// A proxy.
#[derive(Debug, Default)]
pub struct Proxy {
    clusters: HashMap<Name, Arc<References>>,
    listeners: HashMap<Name, Arc<References>>,
    /// Endpoints, routes, secrets.
    wanted: [Vec<Name>; 3],
    held: [HashMap<Name, u64>; 3],
    answered: [bool; 2],
    /// Since the present goal was set.
    listeners_changed: bool,
    hit: bool,
    message: Message,
}

/// The response that is being read.
#[derive(Debug, Default)]
struct Message {
    kind: Option<Kind>,
    nonce: String,
    removed: Vec<Name>,
}

// === impl Kind ===

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Routes,
        Kind::Secret,
    ];

    fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    /// Place among the kinds that are asked for by name.
    fn place(self) -> Option<usize> {
        match self {
            Kind::Cluster | Kind::Listener => None,
            Kind::Endpoints => Some(0),
            Kind::Routes => Some(1),
            Kind::Secret => Some(2),
        }
    }
}

// === impl Knowledge ===

impl Knowledge {
    fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return *name;
        }
        let name = Name::try_from(self.texts.len()).unwrap_or(Name::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.names.insert(text, name);
        name
    }

    fn texts(&self, names: impl Iterator<Item = Name>) -> Vec<String> {
        let texts = names.filter_map(|name| self.texts.get(name as usize));
        texts.map(|text| text.to_string()).collect()
    }

    fn references(&mut self, kind: Kind, name: &str, body: &[u8]) -> Arc<References> {
        let hash = hash(body);
        if let Some(known) = self.references.get(&hash) {
            return known.clone();
        }
        let mut found = References::default();
        match kind {
            Kind::Cluster => {
                let mut discovered = false;
                walk(body, &[3], &mut |_| discovered = true);
                if discovered {
                    found.endpoints.push(self.name(name));
                }
                self.secrets(body, &[24, 3, 2, 1], &mut found);
            }
            _ => {
                self.secrets(body, &[3, 6, 3, 2, 1], &mut found);
                let mut tables = Vec::new();
                for chain in [3, 25] {
                    walk(body, &[chain, 3, 4], &mut |any| {
                        let manager = text(any, &[1])
                            .is_some_and(|url| url.ends_with(".HttpConnectionManager"));
                        if manager {
                            tables.extend(text(any, &[2, 3, 2]));
                        }
                    });
                }
                found.routes = tables.into_iter().map(|table| self.name(table)).collect();
            }
        }
        let found = Arc::new(found);
        self.references.insert(hash, found.clone());
        found
    }

    /// Names of validation contexts below a common TLS context. A proxy has its own certificate itself.
    fn secrets(&mut self, body: &[u8], context: &[u32], found: &mut References) {
        for path in [&[7, 1][..], &[8, 2, 1]] {
            let path: Vec<u32> = context.iter().chain(path).copied().collect();
            walk(body, &path, &mut |value| {
                if let Ok(text) = std::str::from_utf8(value) {
                    found.secrets.push(self.name(text));
                }
            });
        }
    }
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}

// === impl Proxy ===

impl Proxy {
    /// The requests that open the stream.
    pub fn greet(&self, node_id: String) -> [DeltaDiscoveryRequest; 2] {
        let ask = |kind: Kind, node| DeltaDiscoveryRequest {
            node,
            type_url: kind.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let node = Node {
            id: node_id,
            ..Node::default()
        };
        [ask(Kind::Cluster, Some(node)), ask(Kind::Listener, None)]
    }

    /// A new goal was set.
    pub fn start(&mut self) {
        self.listeners_changed = false;
        self.hit = false;
    }

    /// A field of a response.
    pub fn field(&mut self, know: &mut Knowledge, goal: &Goal, tag: u32, value: &Bytes) {
        let as_text = || std::str::from_utf8(value).unwrap_or_default();
        match tag {
            2 => self.resource(know, goal, value),
            4 => self.message.kind = Kind::of(as_text()),
            5 => self.message.nonce = as_text().to_owned(),
            6 => {
                let name = know.name(as_text());
                self.message.removed.push(name);
            }
            _ => {}
        }
    }

    fn resource(&mut self, know: &mut Knowledge, goal: &Goal, resource: &[u8]) {
        let Some(text_of_name) = text(resource, &[3]) else {
            return;
        };
        let Some(kind) = text(resource, &[2, 1]).and_then(Kind::of) else {
            return;
        };
        let mut body: &[u8] = &[];
        walk(resource, &[2, 2], &mut |value| body = value);
        let name = know.name(text_of_name);
        match kind {
            Kind::Cluster => {
                let references = know.references(kind, text_of_name, body);
                self.clusters.insert(name, references);
            }
            Kind::Listener => {
                self.listeners_changed = true;
                let references = know.references(kind, text_of_name, body);
                self.listeners.insert(name, references);
            }
            Kind::Endpoints | Kind::Routes | Kind::Secret => {
                if let Goal::Endpoints {
                    cluster,
                    address,
                    present,
                } = goal
                    && kind == Kind::Endpoints
                    && cluster == text_of_name
                {
                    let found = memchr::memmem::find(body, address.as_bytes()).is_some();
                    self.hit |= found == *present;
                }
                if let Some(held) = kind.place().and_then(|place| self.held.get_mut(place)) {
                    held.insert(name, hash(body));
                }
            }
        }
    }

    /// The response is complete: its answer, and what is asked for or given up because of it.
    pub fn end(&mut self, know: &mut Knowledge) -> Vec<DeltaDiscoveryRequest> {
        let Message {
            kind,
            nonce,
            removed,
        } = std::mem::take(&mut self.message);
        let Some(kind) = kind else { return Vec::new() };
        for name in removed {
            match kind {
                Kind::Cluster => drop(self.clusters.remove(&name)),
                Kind::Listener => {
                    self.listeners_changed = true;
                    drop(self.listeners.remove(&name));
                }
                _ => {
                    if let Some(held) = kind.place().and_then(|place| self.held.get_mut(place)) {
                        held.remove(&name);
                    }
                }
            }
        }
        let mut requests = vec![DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            ..DeltaDiscoveryRequest::default()
        }];
        match kind {
            Kind::Cluster => self.answered[0] = true,
            Kind::Listener => self.answered[1] = true,
            _ => return requests,
        }
        let all = || self.clusters.values().chain(self.listeners.values());
        let wanted = [
            union(all().map(|found| &found.endpoints)),
            union(all().map(|found| &found.routes)),
            union(all().map(|found| &found.secrets)),
        ];
        for kind in [Kind::Secret, Kind::Endpoints, Kind::Routes] {
            let Some(place) = kind.place() else { continue };
            let (Some(new), Some(old)) = (wanted.get(place), self.wanted.get(place)) else {
                continue;
            };
            let subscribe = know.texts(missing(new, old));
            let unsubscribe = know.texts(missing(old, new));
            if subscribe.is_empty() && unsubscribe.is_empty() {
                continue;
            }
            if let Some(held) = self.held.get_mut(place) {
                held.retain(|name, _| new.binary_search(name).is_ok());
            }
            requests.push(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..DeltaDiscoveryRequest::default()
            });
        }
        self.wanted = wanted;
        requests
    }

    /// Whether the goal is reached.
    pub fn has(&self, goal: &Goal) -> bool {
        match goal {
            Goal::Complete => self.is_complete(),
            Goal::Endpoints { .. } => self.hit,
            Goal::Reach { least, most } => {
                let reached = self.wanted.first().map_or(0, Vec::len);
                (*least..=*most).contains(&reached) && self.listeners_changed && self.is_complete()
            }
        }
    }

    fn is_complete(&self) -> bool {
        let mut kinds = self.wanted.iter().zip(&self.held);
        self.answered == [true, true]
            && kinds.all(|(wanted, held)| {
                wanted.len() <= held.len() && wanted.iter().all(|name| held.contains_key(name))
            })
    }
}

fn union<'a>(lists: impl Iterator<Item = &'a Vec<Name>>) -> Vec<Name> {
    let mut names: Vec<Name> = lists.flatten().copied().collect();
    names.sort_unstable();
    names.dedup();
    names.shrink_to_fit();
    names
}

fn missing<'a>(these: &'a [Name], those: &'a [Name]) -> impl Iterator<Item = Name> + 'a {
    these
        .iter()
        .filter(|name| those.binary_search(name).is_err())
        .copied()
}
