//! From halves of configurations to resources, each encoded once: what is equal is one item, what is told to everybody
//! is one set.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use model::{
    Authorizer, Cluster, Common, Outbound, PeerTrust, ProxyConfig, RouteTable, TlsParameters,
    Tracing,
};

use crate::client::Kind;
use crate::resources::{self, Add, Resource, TrustBundle};
use crate::target::{Item, Set};

/// Items that nobody uses are looked for when there are this many more than at the last time.
const SWEEP: usize = 4096;

/// Encodes, and knows what it has encoded.
#[derive(Debug)]
pub(crate) struct Encoder {
    trust: TrustBundle,
    settings: Option<Settings>,
    items: HashMap<u64, Weak<Item>>,
    swept: usize,
    everybody: Everybody,
    tables: Memo<RouteTable>,
    outbounds: Memo<Outbound>,
    /// Those of proxies that are told to log.
    logged: Memo<Outbound>,
}

/// What is written into many resources.
#[derive(Debug, PartialEq)]
struct Settings {
    trust_domain: Arc<str>,
    tls: TlsParameters,
    authorizer: Option<Arc<Authorizer>>,
    tracing: Option<Arc<Tracing>>,
}

/// What is told to everybody.
#[derive(Debug, Default)]
struct Everybody {
    common: Option<(Arc<Common>, Sets)>,
    clusters: Memo<Cluster>,
    peers: Memo<PeerTrust>,
}

/// A set for each kind, in the order of [`Kind::ALL`].
pub(crate) type Sets = [Arc<Set>; Kind::ALL.len()];

/// Resources by the address of the value they were made from, which is held so that the address stays its own.
type Memo<T> = HashMap<usize, (Arc<T>, Vec<Resourced>)>;

/// An item and its kind.
type Resourced = (Kind, Arc<Item>);

/// The resources of one half of a configuration.
#[derive(Debug)]
pub(crate) struct Part {
    /// What everybody is told, in this half.
    pub(crate) common: Option<Sets>,
    /// The rest, in no order.
    pub(crate) items: Vec<Resourced>,
}

// === impl Part ===

impl Part {
    /// Whether both are the same items.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let sets = match (&self.common, &other.common) {
            (None, None) => true,
            (Some(these), Some(those)) => {
                let mut pairs = these.iter().zip(those);
                pairs.all(|(one, two)| Arc::ptr_eq(one, two))
            }
            _ => false,
        };
        let mut pairs = self.items.iter().zip(&other.items);
        sets && self.items.len() == other.items.len()
            && pairs.all(|((kind, one), (other, two))| kind == other && Arc::ptr_eq(one, two))
    }
}

// === impl Encoder ===

impl Encoder {
    pub(crate) fn new(trust: TrustBundle) -> Self {
        Self {
            trust,
            settings: None,
            items: HashMap::new(),
            swept: 0,
            everybody: Everybody::default(),
            tables: Memo::new(),
            outbounds: Memo::new(),
            logged: Memo::new(),
        }
    }

    /// Lets go of what only the encoder holds any more.
    pub(crate) fn sweep(&mut self) {
        self.tables
            .retain(|_, (value, _)| Arc::strong_count(value) > 1);
        self.outbounds
            .retain(|_, (value, _)| Arc::strong_count(value) > 1);
        self.logged
            .retain(|_, (value, _)| Arc::strong_count(value) > 1);
        if self.items.len() > self.swept + SWEEP {
            self.items.retain(|_, item| item.strong_count() > 0);
            self.swept = self.items.len();
        }
    }

    /// The resources of a half.
    pub(crate) fn part(&mut self, config: &ProxyConfig) -> Part {
        self.set_settings(config);
        let shared = config.common.is_some();
        let common = config
            .common
            .as_ref()
            .map(|common| self.everybody(config, common));
        let mut found = Vec::new();
        let trust = self.trust.clone();
        for cluster in config.clusters.values() {
            resources::add_cluster(config, cluster, &mut into(&mut found));
        }
        for peers in config.trust.values() {
            resources::add_peers(config, peers, &trust, &mut into(&mut found));
        }
        resources::add_inbound(config, &trust, &mut into(&mut found));
        let mut items: Vec<Resourced> = found
            .into_iter()
            .map(|(kind, name, resource)| (kind, intern(&mut self.items, kind, &name, &resource)))
            .collect();
        for table in config.routes.values() {
            // Tables of a permissive mesh are shared between readers, others are not.
            let known = if shared { Some(&mut self.tables) } else { None };
            let made = memo(known, &mut self.items, table, |add| {
                resources::add_table(table, add);
            });
            items.extend(made);
        }
        if let Some(outbound) = &config.outbound {
            let known = match (shared, config.told_to_log) {
                (true, false) => Some(&mut self.outbounds),
                (true, true) => Some(&mut self.logged),
                (false, _) => None,
            };
            let made = memo(known, &mut self.items, outbound, |add| {
                resources::add_outbound(config, outbound, add);
            });
            items.extend(made);
        }
        items.shrink_to_fit();
        Part { common, items }
    }

    fn set_settings(&mut self, config: &ProxyConfig) {
        let settings = Settings {
            trust_domain: config.identity.trust_domain.clone(),
            tls: config.tls.clone(),
            authorizer: config.authorizer.clone(),
            tracing: config.tracing.clone(),
        };
        if self.settings.as_ref() != Some(&settings) {
            self.settings = Some(settings);
            self.everybody = Everybody::default();
            self.tables.clear();
            self.outbounds.clear();
            self.logged.clear();
        }
    }

    fn everybody(&mut self, config: &ProxyConfig, common: &Arc<Common>) -> Sets {
        if let Some((known, sets)) = &self.everybody.common
            && Arc::ptr_eq(known, common)
        {
            return sets.clone();
        }
        let mut former = std::mem::take(&mut self.everybody);
        let mut next = Everybody::default();
        let mut items: [Vec<Arc<Item>>; Kind::ALL.len()] = Default::default();
        let mut take = |made: Vec<Resourced>| {
            for (kind, item) in made {
                if let Some(items) = items.get_mut(kind.index()) {
                    items.push(item);
                }
            }
        };
        for cluster in common.clusters.values() {
            carry(&mut former.clusters, &mut next.clusters, cluster);
            take(memo(
                Some(&mut next.clusters),
                &mut self.items,
                cluster,
                |add| {
                    resources::add_cluster(config, cluster, add);
                },
            ));
        }
        let trust = &self.trust;
        for peers in common.trust.values() {
            carry(&mut former.peers, &mut next.peers, peers);
            take(memo(Some(&mut next.peers), &mut self.items, peers, |add| {
                resources::add_peers(config, peers, trust, add);
            }));
        }
        let mut sets = items.map(|items| Arc::new(Set::new(items)));
        let former = former.common.into_iter().flat_map(|(_, sets)| sets);
        for (set, former) in sets.iter_mut().zip(former) {
            if set.is(&former) {
                *set = former;
            }
        }
        next.common = Some((common.clone(), sets.clone()));
        self.everybody = next;
        sets
    }
}

/// Takes what is known of a value along.
fn carry<T>(former: &mut Memo<T>, next: &mut Memo<T>, value: &Arc<T>) {
    let address = Arc::as_ptr(value).addr();
    if let Some(known) = former.remove(&address) {
        next.insert(address, known);
    }
}

/// What `value` becomes; remembered if there is a memory.
fn memo<T>(
    known: Option<&mut Memo<T>>,
    items: &mut HashMap<u64, Weak<Item>>,
    value: &Arc<T>,
    make: impl FnOnce(&mut Add<'_>),
) -> Vec<Resourced> {
    let address = Arc::as_ptr(value).addr();
    if let Some((_, made)) = known.as_ref().and_then(|known| known.get(&address)) {
        return made.clone();
    }
    let mut found = Vec::new();
    make(&mut into(&mut found));
    let made: Vec<Resourced> = found
        .into_iter()
        .map(|(kind, name, resource)| (kind, intern(items, kind, &name, &resource)))
        .collect();
    if let Some(known) = known {
        known.insert(address, (value.clone(), made.clone()));
    }
    made
}

type Found = Vec<(Kind, String, Resource)>;

fn into(
    found: &mut Found,
) -> impl FnMut(&'static str, &str, envoy_types::pb::google::protobuf::Any) {
    |type_url, name, any| {
        if let Some(kind) = Kind::of(type_url) {
            found.push((kind, name.to_owned(), Resource::new(any)));
        }
    }
}

/// The item with this content, made unless there is one.
fn intern(
    items: &mut HashMap<u64, Weak<Item>>,
    kind: Kind,
    name: &str,
    resource: &Resource,
) -> Arc<Item> {
    let mut hasher = DefaultHasher::new();
    (kind, name, &resource.version).hash(&mut hasher);
    let item = Arc::new(Item::new(name, resource));
    let slot = items.entry(hasher.finish()).or_default();
    match slot.upgrade().filter(|known| known.is(&item)) {
        Some(known) => known,
        None => {
            *slot = Arc::downgrade(&item);
            item
        }
    }
}
