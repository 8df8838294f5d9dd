//! Changes to headers.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Changes to headers.
#[derive(Debug, Default)]
pub struct Edits {
    /// Removed from requests, before anything is added.
    pub request_remove: Vec<HeaderName>,
    /// Added to requests.
    pub request_add: Vec<HeaderAdd>,
    /// Removed from responses.
    pub response_remove: Vec<HeaderName>,
    /// Added to responses.
    pub response_add: Vec<HeaderAdd>,
}

/// A header to be added.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// How it meets one that is there.
    pub mode: AddMode,
}

/// How an added header meets one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddMode {
    /// Beside it.
    Append,
    /// Only if there is none.
    IfAbsent,
    /// In its place.
    Overwrite,
    /// In its place, only if there is one.
    OverwriteIfPresent,
}

impl AddMode {
    /// Puts a header among others.
    pub fn apply(self, headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
        let present = headers.contains_key(&name);
        match self {
            AddMode::Append => {
                headers.append(name, value);
            }
            AddMode::IfAbsent if present => {}
            AddMode::OverwriteIfPresent if !present => {}
            AddMode::IfAbsent | AddMode::Overwrite | AddMode::OverwriteIfPresent => {
                headers.insert(name, value);
            }
        }
    }
}
