//! One stream: what its proxy holds, what it asked for, and the push in progress.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use super::sent::{Load, Sent};
use super::subscription::{Change, Subscription};
use super::{Kind, Mode, Nack, Outcome, Refused, Request, Response, STEP_DEADLINE};
use crate::target::{Item, Layers, Target};

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

/// The server's end of one ADS stream.
#[derive(Debug)]
pub struct Stream {
    mode: Mode,
    target: Target,
    kinds: BTreeMap<Kind, KindState>,
    /// Clusters that left the target but are still listed until the last step (state of the world).
    retained: BTreeMap<String, Arc<Item>>,
    push: Option<Push>,
    nonces: u64,
}

/// What a stream knows of one kind. Present once the proxy asked for the kind.
#[derive(Debug, Default)]
struct KindState {
    subscription: Subscription,
    /// What it was last sent.
    sent: Sent,
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
    /// A fresh stream that will be answered from `target`.
    pub fn new(mode: Mode, target: impl Into<Target>) -> Self {
        Self {
            mode,
            target: target.into(),
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
                    self.target.of(kind).common(),
                )?;
                if first {
                    let held = request.held.into_iter().take(super::NAMES_BOUND);
                    state.sent = Sent::claimed(held);
                }
                outcome
                    .responses
                    .extend(self.answer_delta(kind, first, change));
            }
        }
        outcome.responses.extend(self.advance(now));
        Ok(outcome)
    }

    /// Replaces the target and starts to push what differs.
    pub fn update(&mut self, target: impl Into<Target>, now: Instant) -> Vec<Response> {
        let target = target.into();
        if self.target.is(&target) {
            return Vec::new();
        }
        if self.mode == Mode::StateOfTheWorld {
            self.retain_clusters(&target);
        }
        self.target = target;
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

    /// The resources of a kind as they are to be.
    pub fn resources(&self, kind: Kind) -> &Layers {
        self.target.of(kind)
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

    /// Resources and names kept for this proxy alone; none once it has what it is to have.
    #[cfg(test)]
    pub(super) fn differences(&self) -> usize {
        let kinds = self.kinds.values();
        kinds
            .map(|state| state.sent.differences() + state.subscription.differences())
            .sum()
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
        let state = self.kinds.get_mut(&kind)?;
        for name in &change.dropped {
            state.sent.forget(name);
        }
        let wanted = wanted(self.target.of(kind), &state.subscription);
        if first && !held_version.is_empty() && held_version == list_version(&wanted) {
            // A proxy that reconnects with what we would send: nothing to say (a reconnect storm
            // after a restart of the controller costs no configuration traffic).
            state.sent.replace(&wanted);
            state.answered = true;
            return None;
        }
        if first || change.wildcard_on || (refresh && !kind.is_wildcard()) {
            // Refresh: Envoy asks again, with an answered nonce, when a cluster was changed and warms anew.
            if state.subscription.is_empty() {
                return None;
            }
            return Some(self.respond_list(kind, wanted));
        }
        if change.added.is_empty() {
            return None;
        }
        let items = if kind.is_wildcard() {
            wanted
        } else {
            let target = self.target.of(kind);
            let added = change.added.iter().filter_map(|name| target.get(name));
            added.cloned().collect()
        };
        Some(self.respond_list(kind, items))
    }

    fn answer_delta(&mut self, kind: Kind, first: bool, change: Change) -> Option<Response> {
        let state = self.kinds.get_mut(&kind)?;
        for name in &change.dropped {
            state.sent.forget(name);
        }
        let target = self.target.of(kind);
        let mut load = Load {
            // On a new stream only what differs from what the proxy holds is sent.
            common: change.added_set.filter(|_| !first),
            items: Vec::new(),
        };
        let mut removed = Vec::new();
        for name in change.added {
            match target.get(&name) {
                // A name that is asked for again is sent again; on a new stream only if it differs.
                Some(item) if first && state.sent.version(&name) == Some(item.version()) => {}
                Some(item) => load.items.push(item.clone()),
                None => removed.push(name),
            }
        }
        if first || change.wildcard_on {
            load.extend(state.sent.owed(target, &state.subscription));
            let gone = state.sent.gone(target);
            removed.extend(
                gone.into_iter()
                    .filter(|name| !removed.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        let owed = first && state.subscription.is_wildcard() && state.sent.is_empty();
        (owed || !load.is_empty() || !removed.is_empty())
            .then(|| self.respond_delta(kind, load, removed))
    }

    // --- pushes

    /// Runs the push as far as the proxy's answers and the deadline allow.
    fn advance(&mut self, now: Instant) -> Vec<Response> {
        let mut responses = Vec::new();
        while let Some(push) = &mut self.push {
            let Some(kind) = ORDER.get(push.step).copied() else {
                self.push = None;
                responses.extend(self.removals());
                self.settle();
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
        let endpoints = self.target.of(kind);
        let unasked = || match state {
            Some(state) => !state.sent.has_all(endpoints),
            None => endpoints.iter().next().is_some(),
        };
        unanswered || (kind == Kind::Endpoints && push.sent_clusters && unasked())
    }

    fn send_changed(&mut self, kind: Kind) -> Option<Response> {
        let state = self.kinds.get(&kind)?;
        let target = self.target.of(kind);
        let load = state.sent.owed(target, &state.subscription);
        if self.mode == Mode::StateOfTheWorld {
            let vanished = || kind == Kind::Listener && !state.sent.gone(target).is_empty();
            if load.is_empty() && !vanished() {
                return None;
            }
            let items = if kind.is_wildcard() {
                wanted(target, &state.subscription)
            } else {
                load.into_items()
            };
            return Some(self.respond_list(kind, items));
        }
        // A listener that is to go goes at once: it takes new connections until then.
        let removed = match kind {
            Kind::Listener => state.sent.gone(target),
            _ => Vec::new(),
        };
        (!load.is_empty() || !removed.is_empty()).then(|| self.respond_delta(kind, load, removed))
    }

    /// The last step: what is not in the target any more.
    fn removals(&mut self) -> Vec<Response> {
        let retained = !std::mem::take(&mut self.retained).is_empty();
        let mut responses = Vec::new();
        for kind in REMOVALS {
            let Some(state) = self.kinds.get_mut(&kind) else {
                continue;
            };
            let target = self.target.of(kind);
            match self.mode {
                Mode::Delta => {
                    let removed = state.sent.gone(target);
                    if !removed.is_empty() {
                        state.sent.forget_gone(target);
                        responses.push(self.respond_delta(kind, Load::default(), removed));
                    }
                }
                Mode::StateOfTheWorld if kind == Kind::Cluster => {
                    if retained || !state.sent.gone(target).is_empty() {
                        let items = wanted(target, &state.subscription);
                        responses.push(self.respond_list(kind, items));
                    }
                }
                // Named kinds have no word for removal here: the proxy stops asking.
                Mode::StateOfTheWorld => state.sent.forget_gone(target),
            }
        }
        responses
    }

    fn retain_clusters(&mut self, next: &Target) {
        let Some(state) = self.kinds.get(&Kind::Cluster) else {
            return;
        };
        let next = next.of(Kind::Cluster);
        self.retained.retain(|name, _| next.get(name).is_none());
        for item in self.target.of(Kind::Cluster).iter() {
            if next.get(item.name()).is_none() && state.sent.has(item.name()) {
                self.retained.insert(item.name().to_owned(), item.clone());
            }
        }
    }

    /// Lets go of what only tells how the proxy came to have the target.
    fn settle(&mut self) {
        for (kind, state) in &mut self.kinds {
            let target = self.target.of(*kind);
            state.sent.settle(target);
            state.subscription.settle(target.common());
        }
    }

    // --- composing

    /// State of the world: everything wanted of the wildcard kinds, of the others what is listed.
    fn respond_list(&mut self, kind: Kind, mut items: Vec<Arc<Item>>) -> Response {
        let nonce = self.next_nonce();
        let target = self.target.of(kind);
        let state = self.kinds.entry(kind).or_default();
        let mut version = list_version(&wanted(target, &state.subscription));
        if kind == Kind::Cluster && !self.retained.is_empty() {
            items.extend(self.retained.values().cloned());
            // Not the version of the list without them: who reconnects with it must be answered.
            version.push_str("-retained");
        }
        if kind.is_wildcard() {
            state.sent.replace(&items);
        } else {
            for item in &items {
                state.sent.put(item);
            }
        }
        state.nonce.clone_from(&nonce);
        state.answered = false;
        Response {
            kind,
            version,
            nonce,
            common: None,
            resources: items,
            removed: Vec::new(),
        }
    }

    fn respond_delta(&mut self, kind: Kind, load: Load, removed: Vec<String>) -> Response {
        let nonce = self.next_nonce();
        let target = self.target.of(kind);
        let state = self.kinds.entry(kind).or_default();
        state.sent.note(&load);
        for name in &removed {
            if state.sent.has(name) {
                state.sent.forget(name);
            }
        }
        state.sent.settle(target);
        state.nonce.clone_from(&nonce);
        state.answered = false;
        Response {
            kind,
            version: target.version(),
            nonce,
            common: load.common,
            resources: load.items,
            removed,
        }
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }
}

/// The existing resources a subscription covers, by name.
fn wanted(target: &Layers, subscription: &Subscription) -> Vec<Arc<Item>> {
    let mut items: Vec<Arc<Item>> = if subscription.is_wildcard() {
        target.iter().cloned().collect()
    } else {
        let names = subscription.names();
        names.filter_map(|name| target.get(name)).cloned().collect()
    };
    items.sort_by(|a, b| a.name().cmp(b.name()));
    items
}

/// A version for a whole list: equal lists have equal versions, also from another controller of
/// the same build.
fn list_version(list: &[Arc<Item>]) -> String {
    let mut hasher = DefaultHasher::new();
    for item in list {
        item.name().hash(&mut hasher);
        item.version().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
