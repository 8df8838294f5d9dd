//! What a proxy is to be told, in a form that thousands share.
//!
//! A resource is encoded once ([`Item`]) and lives once; sets of them ([`Set`]) are immutable and shared by pointer. A
//! proxy's resources of one kind are two sets ([`Layers`]): what it has in common with others, and its own. So a proxy
//! costs pointers, a push to all of them is encoded once, and "nothing changed" is a comparison of pointers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::{Bytes, BytesMut};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::client::Kind;
use crate::resources::{Resource, Snapshot};

/// Field `resources` of a delta response.
const RESOURCES: u32 = 2;
/// Fields of one of them.
const VERSION: u32 = 1;
const BODY: u32 = 2;
const NAME: u32 = 3;

static NOTHING: LazyLock<Arc<Set>> = LazyLock::new(|| Arc::new(Set::new(Vec::new())));

/// A resource, encoded as a delta response carries it.
#[derive(Debug)]
pub struct Item {
    name: Box<str>,
    version: Box<str>,
    /// The field of the response, with its key and length.
    field: Bytes,
    /// The `Any` in it.
    body: Bytes,
}

/// Resources of one kind, in the order of their names.
#[derive(Debug)]
pub struct Set {
    items: Vec<Arc<Item>>,
    version: u64,
    fields: OnceLock<Bytes>,
}

/// One proxy's resources of one kind. No name is in both sets.
#[derive(Clone, Debug)]
pub struct Layers {
    common: Arc<Set>,
    own: Arc<Set>,
}

/// Everything one proxy is told.
#[derive(Clone, Debug)]
pub struct Target {
    kinds: [Layers; Kind::ALL.len()],
}

// === impl Item ===

impl Item {
    /// Encodes a resource.
    pub fn new(name: &str, resource: &Resource) -> Self {
        let body_length = resource.any.encoded_len();
        let text = |text: &str| 1 + encoded_len_varint(text.len() as u64) + text.len();
        let length = text(&resource.version)
            + 1
            + encoded_len_varint(body_length as u64)
            + body_length
            + text(name);
        let mut field = BytesMut::with_capacity(length + 8);
        encode_key(RESOURCES, WireType::LengthDelimited, &mut field);
        encode_varint(length as u64, &mut field);
        append_text(&mut field, VERSION, &resource.version);
        encode_key(BODY, WireType::LengthDelimited, &mut field);
        encode_varint(body_length as u64, &mut field);
        let start = field.len();
        resource.any.encode_raw(&mut field);
        let end = field.len();
        append_text(&mut field, NAME, name);
        let field = field.freeze();
        Self {
            name: name.into(),
            version: resource.version.as_str().into(),
            body: field.slice(start..end),
            field,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of its content.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The resource itself.
    pub fn any(&self) -> Any {
        // It was encoded above.
        Any::decode(self.body.clone()).unwrap_or_default()
    }

    /// The field of a delta response that carries it.
    pub fn field(&self) -> &Bytes {
        &self.field
    }

    /// Whether both are the same resource.
    pub fn is(&self, other: &Self) -> bool {
        self.field == other.field
    }
}

fn append_text(buffer: &mut BytesMut, tag: u32, text: &str) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(text.len() as u64, buffer);
    buffer.extend_from_slice(text.as_bytes());
}

// === impl Set ===

impl Set {
    /// Of several with one name the last counts.
    pub fn new(mut items: Vec<Arc<Item>>) -> Self {
        items.sort_by(|a, b| a.name.cmp(&b.name));
        items.reverse();
        items.dedup_by(|a, b| a.name == b.name);
        items.reverse();
        items.shrink_to_fit();
        let mut hasher = DefaultHasher::new();
        for item in &items {
            (&item.name, &item.version).hash(&mut hasher);
        }
        Self {
            items,
            version: hasher.finish(),
            fields: OnceLock::new(),
        }
    }

    /// No resources.
    pub fn nothing() -> Arc<Self> {
        NOTHING.clone()
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Item>> {
        let found = self.items.binary_search_by(|item| (*item.name).cmp(name));
        found.ok().and_then(|index| self.items.get(index))
    }

    /// All, by name.
    pub fn items(&self) -> &[Arc<Item>] {
        &self.items
    }

    /// The fields of a delta response that carries all of them, encoded once for everybody.
    pub fn fields(&self) -> &Bytes {
        self.fields.get_or_init(|| {
            let length = self.items.iter().map(|item| item.field.len()).sum();
            let mut fields = BytesMut::with_capacity(length);
            for item in &self.items {
                fields.extend_from_slice(&item.field);
            }
            fields.freeze()
        })
    }

    /// Whether both hold the same items, not only equal ones.
    pub fn is(&self, other: &Self) -> bool {
        let pairs = self.items.iter().zip(&other.items);
        self.items.len() == other.items.len()
            && pairs.into_iter().all(|(one, two)| Arc::ptr_eq(one, two))
    }

    /// What `self` has that `earlier` has not or has otherwise, and what only `earlier` has.
    pub(crate) fn since<'a>(
        &'a self,
        earlier: &'a Self,
        changed: &mut dyn FnMut(&'a Arc<Item>),
        gone: &mut dyn FnMut(&'a Arc<Item>),
    ) {
        if std::ptr::eq(self, earlier) {
            return;
        }
        let (mut new, mut old) = (self.items.iter(), earlier.items.iter());
        let (mut next, mut last) = (new.next(), old.next());
        loop {
            match (next, last) {
                (None, None) => return,
                (Some(item), Some(former)) if Arc::ptr_eq(item, former) => {
                    (next, last) = (new.next(), old.next());
                }
                (Some(item), Some(former)) if item.name == former.name => {
                    if item.version != former.version {
                        changed(item);
                    }
                    (next, last) = (new.next(), old.next());
                }
                (Some(item), former) if former.is_none_or(|former| item.name < former.name) => {
                    changed(item);
                    next = new.next();
                }
                (_, Some(former)) => {
                    gone(former);
                    last = old.next();
                }
                // The guard above takes every item without a former one.
                (Some(_), None) => return,
            }
        }
    }
}

// === impl Layers ===

impl Layers {
    /// What is in `own`, and of `common` what `own` does not have otherwise.
    pub fn new(common: Arc<Set>, own: Arc<Set>) -> Self {
        if own
            .items
            .iter()
            .any(|item| common.get(&item.name).is_some())
        {
            let both = common.items.iter().chain(&own.items).cloned().collect();
            return Self::new(Set::nothing(), Arc::new(Set::new(both)));
        }
        Self { common, own }
    }

    /// What many proxies have.
    pub fn common(&self) -> &Arc<Set> {
        &self.common
    }

    /// What this proxy has beside.
    pub fn own(&self) -> &Arc<Set> {
        &self.own
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Item>> {
        self.own.get(name).or_else(|| self.common.get(name))
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.own.items.iter().chain(&self.common.items)
    }

    /// Whether both are the same sets.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.common, &other.common) && Arc::ptr_eq(&self.own, &other.own)
    }

    /// Equal for equal resources that are shared alike.
    pub(crate) fn version(&self) -> String {
        format!(
            "{:016x}",
            self.common.version ^ self.own.version.rotate_left(1)
        )
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self {
            common: Set::nothing(),
            own: Set::nothing(),
        }
    }
}

// === impl Target ===

impl Target {
    /// From the resources of each kind, in the order of [`Kind::ALL`].
    pub fn new(kinds: [Layers; Kind::ALL.len()]) -> Self {
        Self { kinds }
    }

    /// The resources of a kind.
    pub fn of(&self, kind: Kind) -> &Layers {
        let [clusters, endpoints, listeners, routes, secrets] = &self.kinds;
        match kind {
            Kind::Cluster => clusters,
            Kind::Endpoints => endpoints,
            Kind::Listener => listeners,
            Kind::Routes => routes,
            Kind::Secret => secrets,
        }
    }

    /// Whether both are the same sets: then nobody has to be told anything.
    pub fn is(&self, other: &Self) -> bool {
        let mut pairs = self.kinds.iter().zip(&other.kinds);
        pairs.all(|(one, two)| one.is(two))
    }
}

impl From<&Snapshot> for Target {
    fn from(snapshot: &Snapshot) -> Self {
        Self::new(Kind::ALL.map(|kind| {
            let resources = snapshot.resources.get(kind.type_url());
            let items = resources.into_iter().flatten();
            let items = items.map(|(name, resource)| Arc::new(Item::new(name, resource)));
            Layers::new(Set::nothing(), Arc::new(Set::new(items.collect())))
        }))
    }
}

impl From<Arc<Snapshot>> for Target {
    fn from(snapshot: Arc<Snapshot>) -> Self {
        Self::from(&*snapshot)
    }
}
