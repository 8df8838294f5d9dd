//! The machine itself: one state per kind of resource, pure functions of (state, response, now).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::Any;

use super::wire::{Item, Mode, Request, Response};
use super::{Kind, Limits, Parser, Reference, Rejected};

mod requests;

/// One accepted resource.
#[derive(Debug)]
pub struct Entry<T> {
    /// The server's version of it.
    pub version: String,
    /// The bytes as they came, for `/config_dump`.
    pub any: Arc<Any>,
    /// The typed value.
    pub value: Arc<T>,
    /// What it needs.
    pub references: Vec<Reference>,
    /// When it was accepted.
    pub updated: Instant,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Entry {
            version: self.version.clone(),
            any: self.any.clone(),
            value: self.value.clone(),
            references: self.references.clone(),
            updated: self.updated,
        }
    }
}

struct Warming<T> {
    entry: Entry<T>,
    deadline: Instant,
}

struct State<T> {
    active: BTreeMap<Arc<str>, Entry<T>>,
    warming: BTreeMap<Arc<str>, Warming<T>>,
    /// Names asked for; empty for wildcard kinds.
    subscribed: BTreeSet<Arc<str>>,
    /// Names the server said do not exist: nobody waits for them.
    absent: BTreeSet<Arc<str>>,
    /// Names of the bootstrap file's resources: no server changes or removes them.
    fixed: BTreeSet<Arc<str>>,
    version: String,
    nonce: String,
    status: TypeStatus,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        State {
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            absent: BTreeSet::new(),
            fixed: BTreeSet::new(),
            version: String::new(),
            nonce: String::new(),
            status: TypeStatus::default(),
        }
    }
}

/// Counters of one kind, as Envoy's `update_*` statistics, and the last refusals.
#[derive(Debug, Clone, Default)]
pub struct TypeStatus {
    /// Responses accepted whole.
    pub success: u64,
    /// Responses of which something was refused.
    pub rejected: u64,
    /// The resources of the last refused response.
    pub errors: Vec<(String, Rejected)>,
}

/// What came of a response.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be sent, in order.
    pub requests: Vec<Request>,
    /// Something that serves has changed: build a new snapshot.
    pub changed: bool,
    /// What was refused, by resource name.
    pub rejected: Vec<(String, Rejected)>,
}

/// The xDS client's whole state. It outlives streams: the last good configuration stays.
pub struct Machine<T> {
    mode: Mode,
    limits: Limits,
    states: [State<T>; 5],
}

impl<T> Machine<T> {
    /// A machine that has heard of nothing yet.
    pub fn new(mode: Mode, limits: Limits) -> Machine<T> {
        Machine {
            mode,
            limits,
            states: Default::default(),
        }
    }

    /// The dialect it speaks.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The requests that open a stream: what we hold is named with its version, so that only differences come.
    pub fn start(&mut self, node: Node) -> Vec<Request> {
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let state = self.state_mut(kind);
            state.nonce.clear();
            state.absent.clear();
            if kind.is_wildcard() || !state.subscribed.is_empty() {
                let names: Vec<Arc<str>> = state.subscribed.iter().cloned().collect();
                requests.push(self.subscribe(kind, &names, &[], true));
            }
        }
        if let Some(first) = requests.first_mut() {
            first.set_node(node);
        }
        requests
    }

    /// Holds a resource of the bootstrap file; call before [`Machine::start`]. What it needs is asked for.
    pub fn fix<P>(
        &mut self,
        kind: Kind,
        name: &str,
        any: Any,
        parser: &mut P,
        now: Instant,
    ) -> Result<(), Rejected>
    where
        P: Parser<Value = T>,
    {
        let parsed = parser.parse(kind, name, &any)?;
        let name: Arc<str> = name.into();
        let entry = Entry {
            version: String::new(),
            any: Arc::new(any),
            value: Arc::new(parsed.value),
            references: parsed.references,
            updated: now,
        };
        let deadline = now + self.limits.warming;
        let state = self.state_mut(kind);
        state.fixed.insert(name.clone());
        state.warming.insert(name, Warming { entry, deadline });
        self.promote(now);
        // No stream is open yet: `start` asks for what is subscribed by then.
        self.resubscribe();
        Ok(())
    }

    /// Whether a resource is one of the bootstrap file.
    pub fn is_fixed(&self, kind: Kind, name: &str) -> bool {
        self.state(kind).fixed.contains(name)
    }

    /// Applies a response: good resources are taken, refused ones keep their last good version.
    pub fn receive<P>(
        &mut self,
        response: impl Into<Response>,
        parser: &mut P,
        now: Instant,
    ) -> Outcome
    where
        P: Parser<Value = T>,
    {
        let response: Response = response.into();
        let Some(kind) = Kind::of(&response.type_url) else {
            return Outcome::default(); // A kind nobody asked for: nothing to acknowledge it against.
        };
        let mut outcome = Outcome::default();
        let named: BTreeSet<String> = response
            .items
            .iter()
            .map(|item| item.name.clone())
            .collect();
        for item in response.items {
            let name = item.name.clone();
            if let Err(rejected) = self.accept(kind, item, parser, now) {
                outcome.rejected.push((name, rejected));
            }
        }
        for name in &response.removed {
            self.remove(kind, name);
        }
        if response.complete && kind.is_wildcard() {
            self.retain(kind, &named);
        }
        outcome.requests.push(self.answer(
            kind,
            response.nonce,
            response.version,
            &outcome.rejected,
        ));
        // Removals and accepted resources both change what serves or what waits.
        self.promote(now);
        outcome.changed = true;
        outcome.requests.extend(self.resubscribe());
        outcome
    }

    /// Lets resources serve whose wait for others has lasted too long; true if any did.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.promote(now)
    }

    /// When [`Machine::tick`] should be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.states
            .iter()
            .flat_map(|state| state.warming.values())
            .map(|warming| warming.deadline)
            .min()
    }

    /// The resources of a kind that serve.
    pub fn active(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Entry<T>)> {
        self.state(kind).active.iter()
    }

    /// One resource that serves.
    pub fn find(&self, kind: Kind, name: &str) -> Option<&Entry<T>> {
        self.state(kind).active.get(name)
    }

    /// The resources of a kind that wait for others, with what they still miss.
    pub fn warming(&self, kind: Kind) -> Vec<(Arc<str>, Vec<Reference>)> {
        let state = self.state(kind);
        state
            .warming
            .iter()
            .map(|(name, warming)| (name.clone(), self.missing(&warming.entry.references)))
            .collect()
    }

    /// The same with the resources themselves.
    pub fn warming_entries(&self, kind: Kind) -> Vec<(&Arc<str>, &Entry<T>, Vec<Reference>)> {
        let warming = self.state(kind).warming.iter();
        warming
            .map(|(name, warming)| {
                let missing = self.missing(&warming.entry.references);
                (name, &warming.entry, missing)
            })
            .collect()
    }

    /// The version of the last response that was taken whole.
    pub fn version(&self, kind: Kind) -> &str {
        &self.state(kind).version
    }

    /// Counters and last refusals of a kind.
    pub fn status(&self, kind: Kind) -> &TypeStatus {
        &self.state(kind).status
    }

    /// Whether clusters and listeners were heard of at least once: the proxy has a configuration.
    pub fn is_configured(&self) -> bool {
        [Kind::Cluster, Kind::Listener].into_iter().all(|kind| {
            let status = &self.state(kind).status;
            status.success + status.rejected > 0
        })
    }

    // === taking resources in ===

    fn accept<P>(
        &mut self,
        kind: Kind,
        item: Item,
        parser: &mut P,
        now: Instant,
    ) -> Result<(), Rejected>
    where
        P: Parser<Value = T>,
    {
        if item.name.is_empty() {
            return Err(Rejected::new("name", "a resource without a name"));
        }
        let any = item
            .any
            .ok_or_else(|| Rejected::new("resource", "no resource in the response's entry"))?;
        if any.type_url != kind.type_url() {
            return Err(Rejected::new(
                "resource.type_url",
                format!("is {:?}, not {}", any.type_url, kind.type_url()),
            ));
        }
        if any.value.len() > self.limits.resource_bytes {
            return Err(Rejected::new(
                "resource",
                format!("larger than {} bytes", self.limits.resource_bytes),
            ));
        }
        let warming = self.limits.warming;
        let limit = self.limits.resources;
        let state = self.state(kind);
        let known = state.active.contains_key(item.name.as_str())
            || state.warming.contains_key(item.name.as_str());
        if !known && state.active.len() + state.warming.len() >= limit {
            return Err(Rejected::new(
                "name",
                format!("more than {limit} resources of this kind"),
            ));
        }
        if state.fixed.contains(item.name.as_str()) {
            return Ok(()); // As Envoy: a static resource wins over one of the same name that is sent.
        }
        if !kind.is_wildcard() && !state.subscribed.contains(item.name.as_str()) {
            return Ok(()); // Late news of something no longer wanted.
        }
        let parsed = parser.parse(kind, &item.name, &any)?;
        let name: Arc<str> = item.name.into();
        let entry = Entry {
            version: item.version,
            any: Arc::new(any),
            value: Arc::new(parsed.value),
            references: parsed.references,
            updated: now,
        };
        let state = self.state_mut(kind);
        state.absent.remove(&name);
        state.warming.insert(
            name,
            Warming {
                entry,
                deadline: now + warming,
            },
        );
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        let state = self.state_mut(kind);
        if state.fixed.contains(name) {
            return;
        }
        state.active.remove(name);
        state.warming.remove(name);
        if let Some(name) = state.subscribed.get(name).cloned() {
            state.absent.insert(name);
        }
    }

    fn retain(&mut self, kind: Kind, named: &BTreeSet<String>) {
        let State {
            active,
            warming,
            fixed,
            ..
        } = self.state_mut(kind);
        active.retain(|name, _| named.contains(&**name) || fixed.contains(name));
        warming.retain(|name, _| named.contains(&**name) || fixed.contains(name));
    }

    // === warming ===

    /// Moves what has everything it needs (or waited long enough) to the serving set.
    fn promote(&mut self, now: Instant) -> bool {
        let mut changed = false;
        // Endpoints, routes and secrets need nothing: first, so that clusters and listeners see them.
        for kind in [
            Kind::Endpoints,
            Kind::Secret,
            Kind::Routes,
            Kind::Cluster,
            Kind::Listener,
        ] {
            let ready: Vec<Arc<str>> = self
                .state(kind)
                .warming
                .iter()
                .filter(|(_, warming)| {
                    warming.deadline <= now || self.missing(&warming.entry.references).is_empty()
                })
                .map(|(name, _)| name.clone())
                .collect();
            let state = self.state_mut(kind);
            for name in ready {
                if let Some(warming) = state.warming.remove(&name) {
                    state.active.insert(name, warming.entry);
                    changed = true;
                }
            }
        }
        changed
    }

    fn missing(&self, references: &[Reference]) -> Vec<Reference> {
        references
            .iter()
            .filter(|reference| {
                let state = self.state(reference.kind);
                !state.active.contains_key(&reference.name)
                    && !state.warming.contains_key(&reference.name)
                    && !state.absent.contains(&reference.name)
            })
            .cloned()
            .collect()
    }

    fn state(&self, kind: Kind) -> &State<T> {
        let [cluster, endpoints, listener, routes, secret] = &self.states;
        match kind {
            Kind::Cluster => cluster,
            Kind::Endpoints => endpoints,
            Kind::Listener => listener,
            Kind::Routes => routes,
            Kind::Secret => secret,
        }
    }

    fn state_mut(&mut self, kind: Kind) -> &mut State<T> {
        let [cluster, endpoints, listener, routes, secret] = &mut self.states;
        match kind {
            Kind::Cluster => cluster,
            Kind::Endpoints => endpoints,
            Kind::Listener => listener,
            Kind::Routes => routes,
            Kind::Secret => secret,
        }
    }
}
