//! Virtual hosts by domain.

use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct HostIndex {
    exact: HashMap<String, usize>,
    /// Suffixes (without the star), longest first.
    pub(super) suffixes: Vec<(String, usize)>,
    /// Prefixes (without the star), longest first.
    pub(super) prefixes: Vec<(String, usize)>,
    any: Option<usize>,
}

impl HostIndex {
    pub(super) fn insert(&mut self, domain: &str, position: usize) -> bool {
        if domain == "*" {
            return self.any.replace(position).is_none();
        }
        let list = if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, prefix)
        } else {
            return self.exact.insert(domain.to_owned(), position).is_none();
        };
        let (list, pattern) = list;
        if list.iter().any(|(known, _)| known == pattern) {
            return false;
        }
        list.push((pattern.to_owned(), position));
        true
    }

    pub(super) fn find(&self, host: &str) -> Option<usize> {
        let exact = self.exact.get(host).copied();
        // A star stands for at least one character.
        let suffix = || {
            self.suffixes
                .iter()
                .find(|(s, _)| host.len() > s.len() && host.ends_with(s.as_str()))
        };
        let prefix = || {
            self.prefixes
                .iter()
                .find(|(p, _)| host.len() > p.len() && host.starts_with(p.as_str()))
        };
        exact
            .or_else(|| suffix().map(|(_, at)| *at))
            .or_else(|| prefix().map(|(_, at)| *at))
            .or(self.any)
    }
}

/// The authority without its port, IPv6 literals included.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}
