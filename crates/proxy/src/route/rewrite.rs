//! How routes change path and authority.

use regex::Regex;

use super::{PathMatch, split};
use crate::format::{Facts, Missing, Template};

/// A regular expression and what stands in the place of what it matches.
#[derive(Debug, Clone)]
pub struct Substitution {
    regex: Regex,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

/// What becomes of a path.
#[derive(Debug, Default)]
pub enum PathRewrite {
    /// It stays.
    #[default]
    Keep,
    /// The matched prefix is replaced.
    Prefix(String),
    /// What a regular expression matches is replaced.
    Regex(Substitution),
    /// The path is replaced, unless by nothing.
    Template(Template),
}

/// The authority the upstream sees.
#[derive(Debug, Default)]
pub enum HostRewrite {
    /// The client's.
    #[default]
    Keep,
    /// This one.
    Literal(String),
    /// The endpoint's host name.
    Endpoint,
    /// The value of a header, if there is one.
    Header(http::header::HeaderName),
    /// Made of the path.
    Path(Substitution),
    /// Made of whatever it names, unless that is nothing.
    Template(Template),
}

// === impl Substitution ===

impl Substitution {
    /// `replacement` in RE2's syntax: `\0` is all that matched, `\1` to `\9` are groups, `\\` is a backslash.
    pub fn new(regex: Regex, replacement: &str) -> Result<Substitution, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut letters = replacement.chars();
        while let Some(letter) = letters.next() {
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            match letters.next() {
                Some('\\') => text.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit.to_digit(10).and_then(|d| usize::try_from(d).ok());
                    let group = group.filter(|group| *group < regex.captures_len());
                    let Some(group) = group else {
                        return Err(format!("\\{digit} names no group of the expression"));
                    };
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => return Err(format!("{replacement:?} has an incorrect backslash")),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Substitution { regex, pieces })
    }

    /// The text with every match replaced.
    pub fn apply(&self, text: &str) -> String {
        let replaced = self
            .regex
            .replace_all(text, |groups: &regex::Captures<'_>| {
                let mut out = String::new();
                for piece in &self.pieces {
                    match piece {
                        Piece::Text(text) => out.push_str(text),
                        Piece::Group(group) => {
                            out.push_str(groups.get(*group).map_or("", |group| group.as_str()));
                        }
                    }
                }
                out
            });
        replaced.into_owned()
    }
}

// === impl PathRewrite ===

impl PathRewrite {
    /// The new path with the old query; `None` if it stays.
    pub fn apply(
        &self,
        matched: &PathMatch,
        path_and_query: &str,
        facts: &dyn Facts,
    ) -> Option<String> {
        let (path, _) = split(path_and_query);
        let query = path_and_query.get(path.len()..).unwrap_or_default();
        match self {
            PathRewrite::Keep => None,
            PathRewrite::Prefix(prefix) => {
                let rest = path.get(matched.matched_length(path)..).unwrap_or_default();
                Some(format!("{prefix}{rest}{query}"))
            }
            PathRewrite::Regex(substitution) => {
                let path = substitution.apply(path);
                // As Envoy: a path that would vanish stays.
                (!path.is_empty()).then(|| format!("{path}{query}"))
            }
            PathRewrite::Template(template) => {
                let path = template.format(facts, Missing::Empty);
                (!path.is_empty()).then(|| format!("{path}{query}"))
            }
        }
    }
}

// === impl HostRewrite ===

impl HostRewrite {
    /// The new authority; `None` if it stays. `endpoint` is the endpoint's host name.
    pub fn apply(&self, facts: &dyn Facts, endpoint: &str) -> Option<String> {
        let request = facts.request();
        let host = match self {
            HostRewrite::Keep => return None,
            HostRewrite::Literal(host) => host.clone(),
            HostRewrite::Endpoint => endpoint.to_owned(),
            HostRewrite::Header(name) => {
                let value = request.as_ref()?.headers.get(name)?;
                value.to_str().ok()?.to_owned()
            }
            HostRewrite::Path(substitution) => {
                let (path, _) = split(request?.path_and_query);
                substitution.apply(path)
            }
            HostRewrite::Template(template) => template.format(facts, Missing::Empty),
        };
        (!host.is_empty()).then_some(host)
    }
}
