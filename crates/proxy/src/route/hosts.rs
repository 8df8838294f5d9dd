//! Virtual hosts by domain: one hash for exact names, one per length of a wildcard.

use std::borrow::Cow;
use std::collections::HashMap;

/// Domains and the virtual hosts they stand for.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: HashMap<String, usize>,
    /// Suffixes (without the star) of one length, the longest first.
    suffixes: Vec<SameLength>,
    /// Prefixes (without the star) of one length, the longest first.
    prefixes: Vec<SameLength>,
    any: Option<usize>,
}

#[derive(Debug)]
struct SameLength {
    length: usize,
    hosts: HashMap<String, usize>,
}

impl HostIndex {
    /// Adds a domain; `false` if it is taken.
    pub(super) fn insert(&mut self, domain: &str, position: usize) -> bool {
        if domain == "*" {
            return self.any.replace(position).is_none();
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            return insert(&mut self.suffixes, suffix, position);
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return insert(&mut self.prefixes, prefix, position);
        }
        self.exact.insert(domain.to_owned(), position).is_none()
    }

    /// The host of a name in lower case: exact, then by suffix, then by prefix (longest first), then any.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        if let Some(position) = self.exact.get(name) {
            return Some(*position);
        }
        // A star stands for at least one character.
        let longer = |group: &&SameLength| name.len() > group.length;
        let suffix = |group: &SameLength| {
            let start = name.len().checked_sub(group.length)?;
            group.hosts.get(name.get(start..)?).copied()
        };
        let prefix = |group: &SameLength| group.hosts.get(name.get(..group.length)?).copied();
        let suffixed = self.suffixes.iter().filter(longer).find_map(suffix);
        suffixed
            .or_else(|| self.prefixes.iter().filter(longer).find_map(prefix))
            .or(self.any)
    }
}

fn insert(groups: &mut Vec<SameLength>, pattern: &str, position: usize) -> bool {
    let length = pattern.len();
    let at = groups.partition_point(|group| group.length > length);
    if groups.get(at).is_none_or(|group| group.length != length) {
        let hosts = HashMap::new();
        groups.insert(at, SameLength { length, hosts });
    }
    groups.get_mut(at).is_some_and(|group| {
        let taken = group.hosts.insert(pattern.to_owned(), position);
        taken.is_none()
    })
}

/// A name in lower case, copied only if it is not.
pub(super) fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// The authority without its port, IPv6 literals included.
pub fn without_port(authority: &str) -> &str {
    port_of(authority).map_or(authority, |(host, _)| host)
}

/// Host and port of an authority that has a port.
pub fn port_of(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_port = !port.contains(']') && (!host.contains(':') || host.ends_with(']'));
    is_port.then_some((host, port))
}
