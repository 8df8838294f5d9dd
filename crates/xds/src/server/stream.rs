//! One stream: what its proxy holds, what it asked for, and the push in progress.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use super::subscription::{Change, Subscription};
use super::{Kind, Mode, Nack, Outcome, Refused, Request, Response, STEP_DEADLINE};
use crate::resources::{Resource, Snapshot};

/// Order of a push; removals follow as a last step.
const ORDER: [Kind; 5] = [
    Kind::Cluster,
    Kind::Secret,
    Kind::Endpoints,
    Kind::Listener,
    Kind::Routes,
];

/// Order of removals: a thing goes after what refers to it.
const REMOVALS: [Kind; 5] = [
    Kind::Listener,
    Kind::Routes,
    Kind::Cluster,
    Kind::Endpoints,
    Kind::Secret,
];

/// Version of a name the proxy was told does not exist.
const ABSENT: &str = "";

static NONE: BTreeMap<String, Resource> = BTreeMap::new();

/// The server's end of one ADS stream.
#[derive(Debug)]
pub struct Stream {
    mode: Mode,
    target: Arc<Snapshot>,
    kinds: BTreeMap<Kind, KindState>,
    /// Clusters that left the target but are still listed until the last step (state of the world).
    retained: BTreeMap<String, Resource>,
    push: Option<Push>,
    nonces: u64,
}

/// What a stream knows of one kind. Present once the proxy asked for the kind.
#[derive(Debug, Default)]
struct KindState {
    subscription: Subscription,
    /// Name to version of what was last sent, or [`ABSENT`].
    sent: BTreeMap<String, String>,
    /// Nonce of the last response; empty before the first.
    nonce: String,
    answered: bool,
}

/// A push of a new snapshot on its way through [`ORDER`].
#[derive(Debug)]
struct Push {
    step: usize,
    entered: bool,
    deadline: Instant,
    /// Clusters were sent, so the proxy is about to ask for endpoints.
    sent_clusters: bool,
}

// === impl Stream ===

impl Stream {
    /// A fresh stream that will be answered from `snapshot`.
    pub fn new(mode: Mode, snapshot: Arc<Snapshot>) -> Self {
        Self {
            mode,
            target: snapshot,
            kinds: BTreeMap::new(),
            retained: BTreeMap::new(),
            push: None,
            nonces: 0,
        }
    }

    /// Takes a request of the proxy. A kind we do not serve is never answered: Envoy asks for some
    /// only to learn whether they exist.
    pub fn request(&mut self, request: Request, now: Instant) -> Result<Outcome, Refused> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Ok(Outcome::default());
        };
        let mut outcome = Outcome::default();
        let first = !self.kinds.contains_key(&kind);
        let state = self.kinds.entry(kind).or_default();
        // Both nonces are empty when the proxy came back with what we have and was not answered.
        let current = !first && state.nonce == request.nonce;
        let repeated = current && state.answered;
        if current {
            state.answered = true;
            outcome.nack = request.refusal.map(|message| Nack { kind, message });
            // Later requests with the nonce change the subscription; they say nothing of the content.
            outcome.ack = Some(kind).filter(|_| !repeated && outcome.nack.is_none());
        }
        match self.mode {
            Mode::StateOfTheWorld => {
                if first || current {
                    let change = state.subscription.replace(kind, request.subscribe)?;
                    let refresh = repeated && outcome.nack.is_none();
                    let answer = self.answer_list(kind, first, refresh, change, &request.version);
                    outcome.responses.extend(answer);
                }
                // An older nonce: the proxy answers the newer response too, with its full list.
            }
            Mode::Delta => {
                let change = state.subscription.change(
                    kind,
                    first,
                    request.subscribe,
                    request.unsubscribe,
                )?;
                if first {
                    state.sent = request.held.into_iter().take(super::NAMES_BOUND).collect();
                }
                outcome
                    .responses
                    .extend(self.answer_delta(kind, first, change));
            }
        }
        outcome.responses.extend(self.advance(now));
        Ok(outcome)
    }

    /// Replaces the snapshot and starts to push what differs.
    pub fn update(&mut self, snapshot: Arc<Snapshot>, now: Instant) -> Vec<Response> {
        if Arc::ptr_eq(&self.target, &snapshot) {
            return Vec::new();
        }
        if self.mode == Mode::StateOfTheWorld {
            self.retain_clusters(&snapshot);
        }
        self.target = snapshot;
        // A push under way starts again at its first step, but with the patience it has left: a
        // stream of changes must not hold back listeners from a proxy that does not answer.
        let unfinished = self.push.take();
        self.push = Some(Push {
            step: 0,
            entered: false,
            deadline: unfinished
                .as_ref()
                .map_or(now + STEP_DEADLINE, |push| push.deadline),
            sent_clusters: unfinished.is_some_and(|push| push.sent_clusters),
        });
        self.advance(now)
    }

    /// The resources of a kind as they are to be, by name.
    pub fn resources(&self, kind: Kind) -> &BTreeMap<String, Resource> {
        resources(&self.target, kind)
    }

    /// When [`Stream::tick`] has to be called at the latest, if a push is waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.push.as_ref().map(|push| push.deadline)
    }

    /// Goes on with a push whose step was not answered in time.
    pub fn tick(&mut self, now: Instant) -> Vec<Response> {
        self.advance(now)
    }

    /// Whether the proxy answered everything it was sent.
    pub fn is_settled(&self) -> bool {
        self.push.is_none()
            && self
                .kinds
                .values()
                .all(|s| s.nonce.is_empty() || s.answered)
    }

    // --- answers to requests

    fn answer_list(
        &mut self,
        kind: Kind,
        first: bool,
        refresh: bool,
        change: Change,
        held_version: &str,
    ) -> Option<Response> {
        let target = self.target.clone();
        let state = self.kinds.get_mut(&kind)?;
        for name in &change.dropped {
            state.sent.remove(name);
        }
        let wanted = wanted(&target, kind, &state.subscription);
        if first && !held_version.is_empty() && held_version == list_version(&wanted) {
            // A proxy that reconnects with what we would send: nothing to say (a reconnect storm
            // after a restart of the controller costs no configuration traffic).
            state.sent = wanted
                .iter()
                .map(|(n, r)| ((*n).to_owned(), r.version.clone()))
                .collect();
            state.answered = true;
            return None;
        }
        if first || change.wildcard_on || (refresh && !kind.is_wildcard()) {
            // Refresh: Envoy asks again, with an answered nonce, when a cluster was changed and warms anew.
            if !state.subscription.is_wildcard() && state.subscription.names().next().is_none() {
                return None;
            }
            let names = wanted.keys().map(|name| (*name).to_owned()).collect();
            return Some(self.respond(kind, names, Vec::new()));
        }
        if change.added.is_empty() {
            return None;
        }
        let names = if kind.is_wildcard() {
            wanted.keys().map(|name| (*name).to_owned()).collect()
        } else {
            change.added
        };
        Some(self.respond(kind, names, Vec::new()))
    }

    fn answer_delta(&mut self, kind: Kind, first: bool, change: Change) -> Option<Response> {
        let target = self.target.clone();
        let state = self.kinds.get_mut(&kind)?;
        for name in &change.dropped {
            state.sent.remove(name);
        }
        let existing = resources(&target, kind);
        let mut names = Vec::new();
        let mut removed = Vec::new();
        for name in change.added {
            let version = existing
                .get(&name)
                .map_or(ABSENT, |resource| resource.version.as_str());
            // A name that is asked for again is sent again; on a new stream only if it differs.
            if first && version != ABSENT && state.sent.get(&name).is_some_and(|v| v == version) {
                continue;
            }
            if version == ABSENT {
                removed.push(name)
            } else {
                names.push(name)
            }
        }
        if first || change.wildcard_on {
            names.extend(
                changed(&target, kind, state)
                    .filter(|n| !names.contains(n))
                    .collect::<Vec<_>>(),
            );
            removed.extend(
                gone(&target, kind, state)
                    .filter(|n| !removed.contains(n))
                    .collect::<Vec<_>>(),
            );
        }
        let owed = first && state.subscription.is_wildcard() && state.sent.is_empty();
        (owed || !names.is_empty() || !removed.is_empty())
            .then(|| self.respond(kind, names, removed))
    }

    // --- pushes

    /// Runs the push as far as the proxy's answers and the deadline allow.
    fn advance(&mut self, now: Instant) -> Vec<Response> {
        let mut responses = Vec::new();
        while let Some(push) = &mut self.push {
            let Some(kind) = ORDER.get(push.step).copied() else {
                self.push = None;
                responses.extend(self.removals());
                break;
            };
            if !push.entered {
                push.entered = true;
                if push.step > 0 {
                    push.deadline = now + STEP_DEADLINE;
                }
                if let Some(response) = self.send_changed(kind) {
                    responses.push(response);
                    self.note_clusters(kind);
                }
            }
            if self.is_waiting(kind, now) {
                break;
            }
            if let Some(push) = &mut self.push {
                push.step += 1;
                push.entered = false;
            }
        }
        responses
    }

    fn note_clusters(&mut self, kind: Kind) {
        if let (Kind::Cluster, Some(push)) = (kind, &mut self.push) {
            push.sent_clusters = true;
        }
    }

    fn is_waiting(&self, kind: Kind, now: Instant) -> bool {
        let Some(push) = &self.push else { return false };
        if now >= push.deadline {
            return false;
        }
        let state = self.kinds.get(&kind);
        let unanswered = state.is_some_and(|state| !state.nonce.is_empty() && !state.answered);
        // New clusters warm until their endpoints came: routes must not point at them before.
        let unasked = kind == Kind::Endpoints
            && push.sent_clusters
            && resources(&self.target, kind)
                .keys()
                .any(|name| !state.is_some_and(|state| state.sent.contains_key(name)));
        unanswered || unasked
    }

    fn send_changed(&mut self, kind: Kind) -> Option<Response> {
        let target = self.target.clone();
        let state = self.kinds.get(&kind)?;
        let mut names: Vec<String> = changed(&target, kind, state).collect();
        let vanished = kind == Kind::Listener
            && state
                .sent
                .keys()
                .any(|name| !resources(&target, kind).contains_key(name));
        let complete = self.mode == Mode::StateOfTheWorld && kind.is_wildcard();
        if complete && (!names.is_empty() || vanished) {
            names = wanted(&target, kind, &state.subscription)
                .keys()
                .map(|n| (*n).to_owned())
                .collect();
            return Some(self.respond(kind, names, Vec::new()));
        }
        // A listener that is to go goes at once: it takes new connections until then.
        let removed: Vec<String> = match (self.mode, kind) {
            (Mode::Delta, Kind::Listener) => gone(&target, kind, state).collect(),
            _ => Vec::new(),
        };
        (!names.is_empty() || !removed.is_empty()).then(|| self.respond(kind, names, removed))
    }

    /// The last step: what is not in the snapshot any more.
    fn removals(&mut self) -> Vec<Response> {
        let target = self.target.clone();
        let retained = !std::mem::take(&mut self.retained).is_empty();
        let mut responses = Vec::new();
        for kind in REMOVALS {
            let Some(state) = self.kinds.get_mut(&kind) else {
                continue;
            };
            match self.mode {
                Mode::Delta => {
                    let removed: Vec<String> = gone(&target, kind, state).collect();
                    if !removed.is_empty() {
                        responses.push(self.respond(kind, Vec::new(), removed));
                    }
                }
                Mode::StateOfTheWorld if kind == Kind::Cluster => {
                    let vanished = state
                        .sent
                        .keys()
                        .any(|n| !resources(&target, kind).contains_key(n));
                    if retained || vanished {
                        let list = wanted(&target, kind, &state.subscription);
                        let names = list.keys().map(|n| (*n).to_owned()).collect();
                        responses.push(self.respond(kind, names, Vec::new()));
                    }
                }
                // Named kinds have no word for removal here: the proxy stops asking.
                Mode::StateOfTheWorld => {
                    state
                        .sent
                        .retain(|name, _| resources(&target, kind).contains_key(name));
                }
            }
        }
        responses
    }

    fn retain_clusters(&mut self, next: &Snapshot) {
        let Some(state) = self.kinds.get(&Kind::Cluster) else {
            return;
        };
        let next = resources(next, Kind::Cluster);
        self.retained.retain(|name, _| !next.contains_key(name));
        for (name, resource) in resources(&self.target, Kind::Cluster) {
            if !next.contains_key(name) && state.sent.contains_key(name) {
                self.retained.insert(name.clone(), resource.clone());
            }
        }
    }

    // --- composing

    fn respond(&mut self, kind: Kind, names: Vec<String>, removed: Vec<String>) -> Response {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let target = self.target.clone();
        let existing = resources(&target, kind);
        let state = self.kinds.entry(kind).or_default();
        let complete = self.mode == Mode::StateOfTheWorld && kind.is_wildcard();
        if complete {
            state.sent.clear();
        }
        let mut out = Vec::with_capacity(names.len());
        for name in names {
            if let Some(resource) = existing.get(&name) {
                state.sent.insert(name.clone(), resource.version.clone());
                out.push((name, resource.version.clone(), resource.any.clone()));
            }
        }
        if complete && kind == Kind::Cluster {
            for (name, resource) in &self.retained {
                state.sent.insert(name.clone(), resource.version.clone());
                out.push((name.clone(), resource.version.clone(), resource.any.clone()));
            }
        }
        for name in &removed {
            match state.sent.entry(name.clone()) {
                Entry::Occupied(entry) if !state.subscription.names().any(|n| n == name) => {
                    entry.remove();
                }
                Entry::Occupied(mut entry) => {
                    entry.insert(ABSENT.to_owned());
                }
                Entry::Vacant(entry) => {
                    entry.insert(ABSENT.to_owned());
                }
            }
        }
        state.nonce = nonce.clone();
        state.answered = false;
        let mut version = list_version(&wanted(&target, kind, &state.subscription));
        if complete && kind == Kind::Cluster && !self.retained.is_empty() {
            // Not the version of the list without them: who reconnects with it must be answered.
            version.push_str("-retained");
        }
        Response {
            kind,
            version,
            nonce,
            resources: out,
            removed,
        }
    }
}

/// The resources of a kind in a snapshot.
fn resources(snapshot: &Snapshot, kind: Kind) -> &BTreeMap<String, Resource> {
    snapshot.resources.get(kind.type_url()).unwrap_or(&NONE)
}

/// The existing resources a subscription covers.
fn wanted<'a>(
    snapshot: &'a Snapshot,
    kind: Kind,
    subscription: &Subscription,
) -> BTreeMap<&'a str, &'a Resource> {
    let existing = resources(snapshot, kind);
    if subscription.is_wildcard() {
        return existing
            .iter()
            .map(|(name, resource)| (name.as_str(), resource))
            .collect();
    }
    subscription
        .names()
        .filter_map(|name| existing.get_key_value(name))
        .map(|(name, resource)| (name.as_str(), resource))
        .collect()
}

/// Wanted resources whose version is not the one sent.
fn changed<'a>(
    snapshot: &'a Snapshot,
    kind: Kind,
    state: &'a KindState,
) -> impl Iterator<Item = String> + 'a {
    resources(snapshot, kind)
        .iter()
        .filter(|(name, _)| state.subscription.wants(name))
        .filter(|(name, resource)| state.sent.get(*name) != Some(&resource.version))
        .map(|(name, _)| name.clone())
}

/// Names the proxy holds and the snapshot does not.
fn gone<'a>(
    snapshot: &'a Snapshot,
    kind: Kind,
    state: &'a KindState,
) -> impl Iterator<Item = String> + 'a {
    let existing = resources(snapshot, kind);
    state
        .sent
        .iter()
        .filter(|(name, version)| *version != ABSENT && !existing.contains_key(*name))
        .map(|(name, _)| name.clone())
}

/// A version for a whole list: equal lists have equal versions, also from another controller of
/// the same build.
fn list_version(list: &BTreeMap<&str, &Resource>) -> String {
    let mut hasher = DefaultHasher::new();
    for (name, resource) in list {
        name.hash(&mut hasher);
        resource.version.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
