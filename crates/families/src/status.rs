//! What became of objects, for their `status`.

use std::collections::BTreeMap;

use model::{Extent, Problem, Provenance};

use crate::{
    index::{Index, Key, Store},
    object::Kind,
};

/// What became of an object that has a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect.
    Committed,
    /// It is in effect but for these parts of it; never empty.
    Partly(Vec<String>),
    /// It is not, for this reason.
    Error(String),
    /// It is not, because another object, which the reason names, came first.
    Conflict(String),
}

/// Outcomes by kind and key. Objects that are not in the list are none of the mesh's business.
pub type Statuses = BTreeMap<(Kind, Key), Outcome>;

/// Parts named in a status; an object may have thousands.
const PARTS_BOUND: usize = 16;

/// Bytes of a reason, as long as what an Event may say.
const REASON_BOUND: usize = 1024;

// === impl Outcome ===

impl Outcome {
    /// `status.currentStatus`, in upstream's words.
    pub fn current_status(&self) -> &'static str {
        match self {
            Self::Committed | Self::Partly(_) => "committed",
            Self::Error(_) | Self::Conflict(_) => "error",
        }
    }

    /// `status.reason`, in upstream's words where it has any.
    pub fn reason(&self) -> &str {
        match self {
            Self::Committed => "successfully committed by the system",
            Self::Partly(_) => "successfully committed by the system, but for some parts",
            Self::Error(reason) | Self::Conflict(reason) => reason,
        }
    }

    /// The outcome of an object that a problem voids.
    pub(crate) fn without_effect(problem: &Problem) -> Self {
        let reason = problem.message.clone();
        match problem.extent {
            Extent::Conflict => Self::Conflict(reason),
            Extent::Part | Extent::Whole => Self::Error(reason),
        }
    }

    /// `status.problems`: the parts without effect.
    pub fn parts(&self) -> &[String] {
        match self {
            Self::Partly(parts) => parts,
            _ => &[],
        }
    }
}

/// Adds an outcome for every policy of a monitored namespace, as the problems have it.
pub(crate) fn complete(index: &Index, problems: &[Problem], statuses: &mut Statuses) {
    let config = index.mesh_config_provenance();
    if index.mesh_config.is_some() {
        let key = (config.namespace.clone(), config.name.clone());
        statuses.insert((Kind::MeshConfig, key), Outcome::Committed);
    }
    add(index, &index.egresses, Kind::Egress, statuses);
    add(index, &index.retries, Kind::Retry, statuses);
    add(index, &index.route_groups, Kind::HttpRouteGroup, statuses);
    add(index, &index.tcp_routes, Kind::TcpRoute, statuses);
    add(index, &index.traffic_targets, Kind::TrafficTarget, statuses);
    add(index, &index.splits, Kind::TrafficSplit, statuses);
    for problem in problems {
        let Provenance {
            kind,
            namespace,
            name,
            rule,
        } = &problem.provenance;
        let Some(kind) = Kind::of_policy(kind) else {
            continue;
        };
        let Some(outcome) = statuses.get_mut(&(kind, (namespace.clone(), name.clone()))) else {
            continue;
        };
        let message = if rule.is_empty() {
            problem.message.clone()
        } else {
            format!("{rule}: {}", problem.message)
        };
        outcome.worsen(problem.extent, message);
    }
}

fn add<T>(index: &Index, store: &Store<T>, kind: Kind, statuses: &mut Statuses) {
    for (key, _) in index.monitored(store) {
        statuses.insert((kind, key.clone()), Outcome::Committed);
    }
}

impl Outcome {
    fn worsen(&mut self, extent: Extent, message: String) {
        match (&mut *self, extent) {
            // What follows explains the first reason.
            (Self::Error(reason) | Self::Conflict(reason), _) => {
                if *reason != message && reason.len() + message.len() < REASON_BOUND {
                    reason.push_str("; ");
                    reason.push_str(&message);
                }
            }
            (_, Extent::Whole) => *self = Self::Error(message),
            (_, Extent::Conflict) => *self = Self::Conflict(message),
            (Self::Partly(parts), Extent::Part) if parts.len() < PARTS_BOUND => parts.push(message),
            (Self::Partly(_), Extent::Part) => {}
            (Self::Committed, Extent::Part) => *self = Self::Partly(vec![message]),
        }
    }
}

impl Kind {
    /// The kind of policy or setting of this name; `None` for all other kinds.
    pub fn of_policy(name: &str) -> Option<Self> {
        Some(match name {
            "MeshConfig" => Self::MeshConfig,
            "Egress" => Self::Egress,
            "IngressBackend" => Self::IngressBackend,
            "Retry" => Self::Retry,
            "UpstreamTrafficSetting" => Self::UpstreamTrafficSetting,
            "HTTPRouteGroup" => Self::HttpRouteGroup,
            "TCPRoute" => Self::TcpRoute,
            "TrafficTarget" => Self::TrafficTarget,
            "TrafficSplit" => Self::TrafficSplit,
            _ => return None,
        })
    }
}
