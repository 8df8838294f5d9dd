//! What the machine sends: answers, subscriptions.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::super::wire::{Mode, Request};
use super::super::{Kind, Rejected};
use super::Machine;

/// gRPC's INVALID_ARGUMENT, the code Envoy puts in a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// A NACK names every refused resource, but must fit a header-sized log line.
const ERROR_TEXT: usize = 4096;

impl<T> Machine<T> {
    pub(super) fn answer(
        &mut self,
        kind: Kind,
        nonce: String,
        version: String,
        rejected: &[(String, Rejected)],
    ) -> Request {
        let state = self.state_mut(kind);
        state.nonce = nonce.clone();
        let error_detail = if rejected.is_empty() {
            state.version = version;
            state.status.success += 1;
            state.status.errors.clear();
            None
        } else {
            state.status.rejected += 1;
            state.status.errors = rejected.to_vec();
            Some(Status {
                code: INVALID_ARGUMENT,
                message: error_text(rejected),
                details: Vec::new(),
            })
        };
        match self.mode {
            Mode::Delta => Request::Delta(Box::new(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                response_nonce: nonce,
                error_detail,
                ..Default::default()
            })),
            Mode::StateOfTheWorld => {
                let mut request = self.world(kind);
                request.error_detail = error_detail;
                Request::StateOfTheWorld(Box::new(request))
            }
        }
    }

    /// Asks for what is newly referenced and lets go of what no longer is.
    pub(super) fn resubscribe(&mut self) -> Vec<Request> {
        let mut wanted: [BTreeSet<Arc<str>>; 5] = Default::default();
        for state in &self.states {
            let entries = state
                .active
                .values()
                .chain(state.warming.values().map(|warming| &warming.entry));
            for reference in entries.flat_map(|entry| &entry.references) {
                if let Some(names) = wanted.get_mut(reference.kind.index()) {
                    names.insert(reference.name.clone());
                }
            }
        }
        let mut requests = Vec::new();
        for (kind, names) in Kind::ALL.into_iter().zip(wanted) {
            if kind.is_wildcard() {
                continue;
            }
            let state = self.state_mut(kind);
            let names: BTreeSet<Arc<str>> = names.difference(&state.fixed).cloned().collect();
            let added: Vec<Arc<str>> = names.difference(&state.subscribed).cloned().collect();
            let dropped: Vec<Arc<str>> = state.subscribed.difference(&names).cloned().collect();
            if added.is_empty() && dropped.is_empty() {
                continue;
            }
            let fixed = &state.fixed;
            let stays = |name: &Arc<str>| names.contains(name) || fixed.contains(name);
            state.active.retain(|name, _| stays(name));
            state.warming.retain(|name, _| stays(name));
            state.absent.retain(|name| names.contains(name));
            state.subscribed = names;
            requests.push(self.subscribe(kind, &added, &dropped, false));
        }
        requests
    }

    pub(super) fn subscribe(
        &self,
        kind: Kind,
        added: &[Arc<str>],
        dropped: &[Arc<str>],
        first: bool,
    ) -> Request {
        let state = self.state(kind);
        match self.mode {
            Mode::Delta => {
                let held = if first {
                    self.held(kind)
                } else {
                    Default::default()
                };
                Request::Delta(Box::new(DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: strings(added),
                    resource_names_unsubscribe: strings(dropped),
                    initial_resource_versions: held,
                    ..Default::default()
                }))
            }
            Mode::StateOfTheWorld => {
                let mut request = self.world(kind);
                request.response_nonce = if first {
                    String::new()
                } else {
                    state.nonce.clone()
                };
                Request::StateOfTheWorld(Box::new(request))
            }
        }
    }

    fn world(&self, kind: Kind) -> DiscoveryRequest {
        let state = self.state(kind);
        DiscoveryRequest {
            version_info: state.version.clone(),
            resource_names: state
                .subscribed
                .iter()
                .map(|name| name.to_string())
                .collect(),
            type_url: kind.type_url().to_owned(),
            response_nonce: state.nonce.clone(),
            ..Default::default()
        }
    }

    fn held(&self, kind: Kind) -> std::collections::HashMap<String, String> {
        let state = self.state(kind);
        let active = state
            .active
            .iter()
            .map(|(name, entry)| (name.to_string(), entry.version.clone()));
        let warming = state
            .warming
            .iter()
            .map(|(name, warming)| (name.to_string(), warming.entry.version.clone()));
        active
            .chain(warming)
            .filter(|(name, _)| !state.fixed.contains(name.as_str()))
            .collect()
    }
}

fn strings(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn error_text(rejected: &[(String, Rejected)]) -> String {
    let mut text = String::new();
    for (name, reason) in rejected {
        if text.len() > ERROR_TEXT {
            text.push_str("; …");
            break;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        // One hostile reason must not fill the message: each is cut at a character boundary.
        text.extend(format!("{name}: {reason}").chars().take(ERROR_TEXT / 2));
    }
    text
}
