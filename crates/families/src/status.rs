//! What became of objects, for their `status`.

use std::collections::BTreeMap;

use crate::{index::Key, object::Kind};

/// What became of an object that has a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect.
    Committed,
    /// It is not, for this reason.
    Error(String),
}

/// Outcomes by kind and key. Objects that are not in the list are none of the mesh's business.
pub type Statuses = BTreeMap<(Kind, Key), Outcome>;

// === impl Outcome ===

impl Outcome {
    /// `status.currentStatus`, in upstream's words.
    pub fn current_status(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Error(_) => "error",
        }
    }

    /// `status.reason`, in upstream's words where it has any.
    pub fn reason(&self) -> &str {
        match self {
            Self::Committed => "successfully committed by the system",
            Self::Error(reason) => reason,
        }
    }
}
