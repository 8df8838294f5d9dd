//! Rate limit descriptors: what `rate_limits` actions make of a request.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::matcher::{HeaderKey, HeaderMatch, QueryMatch, RequestView};
use crate::route::split;

/// One of the `rate_limits` of a route, virtual host or filter: its actions make one descriptor, or none.
#[derive(Debug)]
pub struct RateLimitPolicy {
    /// Only filters of this stage take it.
    pub stage: u32,
    /// In order.
    pub actions: Vec<DescriptorAction>,
    /// A limit that stands in place of the service's own: requests per unit.
    pub limit: Option<(u32, i32)>,
    /// What a request counts for.
    pub hits: Option<u64>,
}

/// What an action adds to a descriptor.
#[derive(Debug)]
pub enum DescriptorAction {
    /// `source_cluster`: the proxy's own service cluster.
    SourceCluster,
    /// `destination_cluster`: the cluster of the route.
    DestinationCluster,
    /// A header's value. Absent: no descriptor, or just no entry.
    RequestHeader {
        /// Which header.
        header: HeaderKey,
        /// Under this key.
        key: String,
        /// Only the entry is left out.
        skip_if_absent: bool,
    },
    /// A query parameter's value. Absent: no descriptor, or just no entry.
    QueryParameter {
        /// Which parameter.
        name: String,
        /// Under this key.
        key: String,
        /// Only the entry is left out.
        skip_if_absent: bool,
    },
    /// `remote_address`: the client's address.
    RemoteAddress,
    /// `masked_remote_address`: the client's network, by prefix lengths for IPv4 and IPv6.
    MaskedRemoteAddress(u8, u8),
    /// This entry.
    GenericKey(String, String),
    /// This entry if the headers match, or if they do not.
    HeaderValueMatch {
        /// The entry's key.
        key: String,
        /// The entry's value.
        value: String,
        /// They must match.
        expected: bool,
        /// All of them.
        headers: Vec<HeaderMatch>,
    },
    /// This entry if the query parameters match, or if they do not.
    QueryValueMatch {
        /// The entry's key.
        key: String,
        /// The entry's value.
        value: String,
        /// They must match.
        expected: bool,
        /// All of them.
        parameters: Vec<QueryMatch>,
    },
}

/// What descriptors are made of.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorFacts<'a> {
    /// The request.
    pub request: RequestView<'a>,
    /// The client's address.
    pub remote: IpAddr,
    /// The proxy's own service cluster.
    pub source_cluster: &'a str,
    /// The cluster of the route.
    pub destination_cluster: Option<&'a Arc<str>>,
}

/// Keys with values, and what they count for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// In order.
    pub entries: Vec<(String, String)>,
    /// A limit that stands in place of the service's own: requests per unit.
    pub limit: Option<(u32, i32)>,
    /// What the request counts for.
    pub hits: Option<u64>,
}

/// How the `rate_limits` of virtual hosts join those of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostLimits {
    /// They count where the route has none.
    Override,
    /// They always count.
    Include,
    /// They never count.
    Ignore,
}

// === impl RateLimitPolicy ===

impl RateLimitPolicy {
    /// The descriptor of a request; `None` if an action has nothing to say.
    pub fn descriptor(&self, facts: &DescriptorFacts<'_>) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            entries.extend(action.entry(facts)?);
        }
        (!entries.is_empty()).then_some(Descriptor {
            entries,
            limit: self.limit,
            hits: self.hits,
        })
    }
}

impl DescriptorAction {
    /// The entry; `None` makes the descriptor void, `Some(None)` leaves just the entry out.
    fn entry(&self, facts: &DescriptorFacts<'_>) -> Option<Option<(String, String)>> {
        let entry = |key: &str, value: &str| Some(Some((key.to_owned(), value.to_owned())));
        let found = |key: &str, value: Option<&str>, skip: bool| match value {
            Some(value) => entry(key, value),
            None => skip.then_some(None),
        };
        let request = &facts.request;
        match self {
            DescriptorAction::SourceCluster => entry("source_cluster", facts.source_cluster),
            DescriptorAction::DestinationCluster => {
                entry("destination_cluster", facts.destination_cluster?)
            }
            DescriptorAction::RequestHeader {
                header,
                key,
                skip_if_absent,
            } => {
                let value = first(header, request);
                found(key, value.as_deref(), *skip_if_absent)
            }
            DescriptorAction::QueryParameter {
                name,
                key,
                skip_if_absent,
            } => found(key, parameter(request, name), *skip_if_absent),
            DescriptorAction::RemoteAddress => entry("remote_address", &facts.remote.to_string()),
            DescriptorAction::MaskedRemoteAddress(v4, v6) => {
                let length = if facts.remote.is_ipv4() { *v4 } else { *v6 };
                let network = IpNet::new(facts.remote, length).ok()?.trunc();
                entry("masked_remote_address", &network.to_string())
            }
            DescriptorAction::GenericKey(key, value) => entry(key, value),
            DescriptorAction::HeaderValueMatch {
                key,
                value,
                expected,
                headers,
            } => {
                let matched = headers.iter().all(|header| header.matches(request));
                (matched == *expected).then(|| Some((key.clone(), value.clone())))
            }
            DescriptorAction::QueryValueMatch {
                key,
                value,
                expected,
                parameters,
            } => {
                let (_, query) = split(request.path_and_query);
                let matched = parameters.iter().all(|parameter| parameter.matches(query));
                (matched == *expected).then(|| Some((key.clone(), value.clone())))
            }
        }
    }
}

/// The first value of a header, which is the one Envoy takes.
fn first(header: &HeaderKey, request: &RequestView<'_>) -> Option<String> {
    match header {
        HeaderKey::Name(name) => {
            let value = request.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        pseudo => pseudo.value(request).map(|value| value.into_owned()),
    }
}

fn parameter<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    let (_, query) = split(request.path_and_query);
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(of, _)| *of == name).map(|(_, value)| value)
}

/// The descriptors of a request: of the route's policies, and of the virtual host's as the options say.
pub fn descriptors<'a>(
    route: &'a [RateLimitPolicy],
    host: &'a [RateLimitPolicy],
    host_limits: HostLimits,
    stage: u32,
    facts: &DescriptorFacts<'_>,
) -> Vec<Descriptor> {
    let with_host = match host_limits {
        HostLimits::Override => route.is_empty(),
        HostLimits::Include => true,
        HostLimits::Ignore => false,
    };
    let host = if with_host { host } else { &[] };
    route
        .iter()
        .chain(host)
        .filter(|policy| policy.stage == stage)
        .filter_map(|policy| policy.descriptor(facts))
        .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::matcher::{HeaderCondition, StringMatch};

    fn policy(actions: Vec<DescriptorAction>) -> RateLimitPolicy {
        RateLimitPolicy {
            stage: 0,
            actions,
            limit: None,
            hits: None,
        }
    }

    fn text(descriptor: Option<Descriptor>) -> String {
        descriptor.map_or("none".to_owned(), |descriptor| {
            let entries = descriptor.entries.iter();
            entries
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
    }

    #[test]
    fn actions_make_one_descriptor_or_none() {
        let mut headers = HeaderMap::new();
        headers.append("x-h", "one".parse().unwrap());
        headers.append("x-h", "two".parse().unwrap());
        let cluster: Arc<str> = "app".into();
        let facts = DescriptorFacts {
            request: RequestView {
                method: "GET",
                path_and_query: "/p?q=5&e",
                authority: "host",
                scheme: "http",
                headers: &headers,
            },
            remote: "10.1.2.3".parse().unwrap(),
            source_cluster: "me",
            destination_cluster: Some(&cluster),
        };
        let header = |name: &str, skip_if_absent| DescriptorAction::RequestHeader {
            header: HeaderKey::parse(name).unwrap(),
            key: "k".into(),
            skip_if_absent,
        };
        let query = |name: &str, skip_if_absent| DescriptorAction::QueryParameter {
            name: name.into(),
            key: "q".into(),
            skip_if_absent,
        };
        let matches = |value: &str, expected| DescriptorAction::HeaderValueMatch {
            key: "header_match".into(),
            value: "v".into(),
            expected,
            headers: vec![HeaderMatch {
                key: HeaderKey::parse("x-h").unwrap(),
                condition: HeaderCondition::Value(StringMatch::Exact(value.into())),
                invert: false,
                missing_is_empty: false,
            }],
        };
        let generic = || DescriptorAction::GenericKey("generic_key".into(), "g".into());
        let cases = [
            (
                vec![
                    DescriptorAction::SourceCluster,
                    DescriptorAction::DestinationCluster,
                ],
                "source_cluster=me destination_cluster=app",
            ),
            (vec![header("x-h", false)], "k=one"),
            (vec![header(":path", false)], "k=/p?q=5&e"),
            (vec![generic(), header("x-none", false)], "none"),
            (vec![generic(), header("x-none", true)], "generic_key=g"),
            (vec![header("x-none", true)], "none"),
            (vec![query("q", false), query("e", false)], "q=5 q="),
            (vec![query("z", false), generic()], "none"),
            (vec![query("z", true), generic()], "generic_key=g"),
            (
                vec![DescriptorAction::RemoteAddress],
                "remote_address=10.1.2.3",
            ),
            (
                vec![DescriptorAction::MaskedRemoteAddress(16, 128)],
                "masked_remote_address=10.1.0.0/16",
            ),
            (vec![matches("one,two", true)], "header_match=v"),
            (vec![matches("one,two", false)], "none"),
            (vec![matches("three", false)], "header_match=v"),
            (vec![generic(), matches("three", true)], "none"),
        ];
        for (actions, expected) in cases {
            let shown = format!("{actions:?}");
            assert_eq!(
                text(policy(actions).descriptor(&facts)),
                expected,
                "{shown}"
            );
        }
        let one = [policy(vec![generic()])];
        let other = [policy(vec![DescriptorAction::RemoteAddress])];
        for (route, host_limits, count) in [
            (&one[..], HostLimits::Override, 1),
            (&[], HostLimits::Override, 1),
            (&one, HostLimits::Include, 2),
            (&[], HostLimits::Ignore, 0),
        ] {
            let found = descriptors(route, &other, host_limits, 0, &facts);
            assert_eq!(found.len(), count, "{host_limits:?}");
            assert!(descriptors(route, &other, host_limits, 1, &facts).is_empty());
        }
    }
}
