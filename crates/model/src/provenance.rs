//! Where a value came from, so that a refusal can be explained down to the object that caused it.

use std::{fmt, sync::Arc};

/// The object, and the part of it, that a value was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Provenance {
    /// Kind of the object, e.g. `TrafficTarget`.
    pub kind: Arc<str>,
    /// Its namespace; empty for objects of the whole mesh.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The part of it (a rule, a match, a port); empty when the whole object is meant.
    pub rule: Arc<str>,
}

/// Something written by a user that cannot take effect as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object at fault.
    pub provenance: Provenance,
    /// What is wrong and what follows from it.
    pub message: String,
    /// How much of the object it takes.
    pub extent: Extent,
}

/// How much of an object a problem takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// A part of it has no effect.
    Part,
    /// Nothing of it has an effect.
    Whole,
    /// Nothing of it has an effect, because another object came first.
    Conflict,
}

// === impl Provenance ===

impl Provenance {
    /// The whole object `namespace/name` of `kind`.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            rule: "".into(),
        }
    }

    /// A part of the same object.
    pub fn rule(&self, rule: impl Into<Arc<str>>) -> Self {
        Self {
            rule: rule.into(),
            ..self.clone()
        }
    }

    /// This provenance as the subject of a problem that takes a part of the object.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        self.with_extent(message, Extent::Part)
    }

    /// This provenance as the subject of a problem that takes the whole object.
    pub fn void(&self, message: impl Into<String>) -> Problem {
        self.with_extent(message, Extent::Whole)
    }

    /// This provenance as the object that has no effect because another one, which the message names, came first.
    pub fn conflict(&self, message: impl Into<String>) -> Problem {
        self.with_extent(message, Extent::Conflict)
    }

    fn with_extent(&self, message: impl Into<String>, extent: Extent) -> Problem {
        Problem {
            provenance: self.clone(),
            message: message.into(),
            extent,
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if !self.rule.is_empty() {
            write!(f, " {}", self.rule)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.provenance, self.message)
    }
}
