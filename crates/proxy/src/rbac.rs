//! Role-based access control as Envoy's RBAC filters decide it, over connections and requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::matcher::{HeaderMatch, RequestView, StringMatch};

/// A set of policies and what it means that one matches.
#[derive(Debug)]
pub struct Rbac {
    /// What a match does.
    pub action: Action,
    /// Policies by name, in name order.
    pub policies: Vec<Policy>,
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Only what matches passes.
    Allow,
    /// What matches is refused.
    Deny,
    /// Everything passes.
    Log,
}

/// Who (principals) may do what (permissions).
#[derive(Debug)]
pub struct Policy {
    /// Its name, which carries the provenance.
    pub name: Arc<str>,
    /// One of them must hold.
    pub permissions: Vec<Permission>,
    /// One of them must hold.
    pub principals: Vec<Principal>,
}

/// A condition on what is asked for.
#[derive(Debug)]
pub enum Permission {
    /// Everything.
    Any,
    /// All of them.
    And(Vec<Permission>),
    /// One of them.
    Or(Vec<Permission>),
    /// The contrary.
    Not(Box<Permission>),
    /// A header of the request.
    Header(HeaderMatch),
    /// The path without the query.
    Path(StringMatch),
    /// The destination's address.
    DestinationIp(IpNet),
    /// The destination's port, `[start, end)`.
    DestinationPort(u32, u32),
    /// The server name of the TLS handshake.
    ServerName(StringMatch),
}

/// A condition on who asks.
#[derive(Debug)]
pub enum Principal {
    /// Everybody.
    Any,
    /// All of them.
    And(Vec<Principal>),
    /// One of them.
    Or(Vec<Principal>),
    /// The contrary.
    Not(Box<Principal>),
    /// A verified certificate, with this name if one is given.
    Authenticated(Option<StringMatch>),
    /// The address of the connection's other end.
    SourceIp(IpNet),
    /// The client's address, as forwarding headers tell it where they are believed.
    RemoteIp(IpNet),
    /// A header of the request.
    Header(HeaderMatch),
    /// The path without the query.
    Path(StringMatch),
}

/// A connection as policies see it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where the connection was going.
    pub destination: SocketAddr,
    /// Where it comes from.
    pub source: IpAddr,
    /// The names of the verified certificate: URI names, else DNS names, else the subject.
    pub names: Option<Vec<String>>,
    /// The server name of the TLS handshake.
    pub server_name: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It may pass.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<Arc<str>>,
}

/// What a filter enforces, and what it would.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Without any, everything passes.
    pub enforced: Option<Arc<Rbac>>,
    /// Decided and counted, but of no effect.
    pub shadow: Option<Arc<Rbac>>,
}

/// What is asked: a connection, or a request on it.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    peer: &'a Peer,
    request: Option<&'a RequestView<'a>>,
    remote: IpAddr,
}

// === impl Rbac ===

impl Rbac {
    /// Decides over a connection (no request) or a request. Without a request, conditions on headers fail.
    pub fn decide(&self, peer: &Peer, request: Option<&RequestView<'_>>) -> Verdict {
        self.decide_from(peer, request, peer.source)
    }

    /// As [`Rbac::decide`], for a client whose address is another than the connection's.
    pub fn decide_from(
        &self,
        peer: &Peer,
        request: Option<&RequestView<'_>>,
        remote: IpAddr,
    ) -> Verdict {
        let asked = Asked {
            peer,
            request,
            remote,
        };
        let matched = self.policies.iter().find(|policy| policy.matches(asked));
        let policy = matched.map(|policy| policy.name.clone());
        let allowed = match self.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        };
        Verdict { allowed, policy }
    }
}

impl Policy {
    fn matches(&self, asked: Asked<'_>) -> bool {
        self.permissions
            .iter()
            .any(|permission| permission.holds(asked))
            && self
                .principals
                .iter()
                .any(|principal| principal.holds(asked))
    }
}

impl Permission {
    fn holds(&self, asked: Asked<'_>) -> bool {
        match self {
            Permission::Any => true,
            Permission::And(all) => all.iter().all(|one| one.holds(asked)),
            Permission::Or(some) => some.iter().any(|one| one.holds(asked)),
            Permission::Not(inner) => !inner.holds(asked),
            Permission::Header(matcher) => asked
                .request
                .is_some_and(|request| matcher.matches(request)),
            Permission::Path(matcher) => asked
                .request
                .is_some_and(|request| matcher.matches(path(request))),
            Permission::DestinationIp(range) => range.contains(&asked.peer.destination.ip()),
            Permission::DestinationPort(start, end) => {
                (*start..*end).contains(&u32::from(asked.peer.destination.port()))
            }
            Permission::ServerName(matcher) => {
                matcher.matches(asked.peer.server_name.as_deref().unwrap_or_default())
            }
        }
    }
}

impl Principal {
    fn holds(&self, asked: Asked<'_>) -> bool {
        match self {
            Principal::Any => true,
            Principal::And(all) => all.iter().all(|one| one.holds(asked)),
            Principal::Or(some) => some.iter().any(|one| one.holds(asked)),
            Principal::Not(inner) => !inner.holds(asked),
            Principal::Authenticated(None) => asked.peer.names.is_some(),
            Principal::Authenticated(Some(matcher)) => asked
                .peer
                .names
                .as_ref()
                .is_some_and(|names| names.iter().any(|name| matcher.matches(name))),
            Principal::SourceIp(range) => range.contains(&asked.peer.source),
            Principal::RemoteIp(range) => range.contains(&asked.remote),
            Principal::Header(matcher) => asked
                .request
                .is_some_and(|request| matcher.matches(request)),
            Principal::Path(matcher) => asked
                .request
                .is_some_and(|request| matcher.matches(path(request))),
        }
    }
}

fn path<'a>(request: &RequestView<'a>) -> &'a str {
    request
        .path_and_query
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: Option<&str>, port: u16) -> Peer {
        Peer {
            destination: SocketAddr::from(([10, 0, 0, 1], port)),
            source: [10, 0, 0, 9].into(),
            names: name.map(|name| vec![name.to_owned()]),
            server_name: Some("web.default.svc.cluster.local".into()),
        }
    }

    fn allow(permissions: Vec<Permission>, principals: Vec<Principal>) -> Rbac {
        Rbac {
            action: Action::Allow,
            policies: vec![Policy {
                name: "p".into(),
                permissions,
                principals,
            }],
        }
    }

    fn named(name: &str) -> Principal {
        Principal::Authenticated(Some(StringMatch::Exact(name.into())))
    }

    #[test]
    fn identities_are_compared_exactly_and_only_when_verified() {
        let rbac = allow(
            vec![Permission::Any],
            vec![named("spiffe://cluster.local/a/b")],
        );
        let cases = [
            (Some("spiffe://cluster.local/a/b"), true),
            (Some("spiffe://cluster.local/a/bb"), false),
            (Some("spiffe://clusterXlocal/a/b"), false),
            (None, false),
        ];
        for (name, expected) in cases {
            assert_eq!(
                rbac.decide(&peer(name, 80), None).allowed,
                expected,
                "{name:?}"
            );
        }
    }

    #[test]
    fn no_policy_allows_nobody_and_denies_nobody() {
        for (action, allowed) in [
            (Action::Allow, false),
            (Action::Deny, true),
            (Action::Log, true),
        ] {
            let rbac = Rbac {
                action,
                policies: Vec::new(),
            };
            assert_eq!(
                rbac.decide(&peer(None, 80), None),
                Verdict {
                    allowed,
                    policy: None
                }
            );
        }
    }

    #[test]
    fn permissions_combine() {
        let port = |port| Permission::DestinationPort(port, port + 1);
        let cases = [
            (Permission::Or(vec![port(80), port(90)]), 90, true),
            (Permission::Or(vec![]), 90, false),
            (
                Permission::And(vec![port(80), Permission::Not(Box::new(port(90)))]),
                80,
                true,
            ),
            (
                Permission::DestinationIp("10.0.0.0/24".parse().unwrap()),
                1,
                true,
            ),
            (
                Permission::ServerName(StringMatch::Affix(
                    crate::matcher::Affix::Suffix,
                    ".local".into(),
                )),
                1,
                true,
            ),
            (Permission::Path(StringMatch::Any), 1, false),
        ];
        for (permission, to, expected) in cases {
            let text = format!("{permission:?}");
            let rbac = allow(vec![permission], vec![Principal::Any]);
            assert_eq!(
                rbac.decide(&peer(None, to), None).allowed,
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn the_clients_address_may_be_another_than_the_connections() {
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        let remote: IpAddr = [203, 0, 113, 7].into();
        let cases = [
            (Principal::SourceIp(range("10.0.0.9/32")), true),
            (Principal::SourceIp(range("203.0.113.0/24")), false),
            (Principal::RemoteIp(range("203.0.113.0/24")), true),
            (Principal::RemoteIp(range("10.0.0.9/32")), false),
        ];
        for (principal, expected) in cases {
            let text = format!("{principal:?}");
            let rbac = allow(vec![Permission::Any], vec![principal]);
            let verdict = rbac.decide_from(&peer(None, 1), None, remote);
            assert_eq!(verdict.allowed, expected, "{text}");
        }
        let direct = allow(
            vec![Permission::Any],
            vec![Principal::RemoteIp(range("10.0.0.9/32"))],
        );
        assert!(direct.decide(&peer(None, 1), None).allowed);
    }

    #[test]
    fn what_is_denied_stays_denied_in_every_spelling_of_its_path() {
        let deny = Rbac {
            action: Action::Deny,
            policies: vec![Policy {
                name: "p".into(),
                permissions: vec![Permission::Path(StringMatch::Affix(
                    crate::matcher::Affix::Prefix,
                    "/admin".into(),
                ))],
                principals: vec![Principal::Any],
            }],
        };
        let spellings = [
            "%61dmin",
            "a%64min",
            "./admin",
            "x/../admin",
            "x/%2e%2E/admin",
            ".//../admin",
        ];
        let headers = http::HeaderMap::new();
        for spelling in spellings {
            for prefix in ["/", "/./", "/y/../", "//", "/.\\"] {
                let raw = format!("{prefix}{spelling}/x");
                let normal = crate::http::path::normalize(&raw, true).unwrap();
                let request = RequestView {
                    method: "GET",
                    path_and_query: &normal,
                    authority: "h",
                    scheme: "http",
                    headers: &headers,
                };
                let verdict = deny.decide(&peer(None, 1), Some(&request));
                assert!(!verdict.allowed, "{raw} became {normal}");
            }
        }
    }

    #[test]
    fn the_matching_policy_is_told() {
        let verdict =
            allow(vec![Permission::Any], vec![Principal::Any]).decide(&peer(None, 1), None);
        assert_eq!(verdict.policy.as_deref(), Some("p"));
    }
}
