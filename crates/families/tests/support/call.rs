//! What a call comes to: a second reading of two proxies' configurations, by the rules of Envoy.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use model::{
    Access, ClusterKind, Connect, Forward, HttpMatch, Inbound, Mesh, OutboundChain, ProxyConfig,
    RouteAction, RouteMatch, RouteTable, Rule, WeightedCluster, Workload,
};
use regex::Regex;

/// What the client sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Nobody listens: connection refused.
    Refused,
    /// Accepted, then closed.
    Closed,
    /// Answered by a proxy with this status.
    Status(u16),
    /// Answered by this pod.
    Served(String),
    /// Left the mesh towards this host and port, or wherever it was dialled.
    Left(String),
}

/// What the client sends.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub host: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// First bytes of a connection.
#[derive(Clone, Debug)]
pub enum Sent {
    Http(Request),
    /// TLS with this server name.
    Tls(String),
    Bytes,
}

pub fn get(host: &str, path: &str) -> Sent {
    request("GET", host, path, &[])
}

pub fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Sent {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    Sent::Http(Request {
        host: host.into(),
        method: method.into(),
        path: path.into(),
        headers: headers.collect(),
    })
}

/// All answers that the pod with UUID `client` may get from `ip:port`.
pub fn call(mesh: &Mesh, client: &str, ip: &str, port: u16, sent: &Sent) -> BTreeSet<Answer> {
    let workload = mesh.workload(client).unwrap();
    let config = mesh.compile(workload);
    let ip: IpAddr = ip.parse().unwrap();
    let Some(outbound) = &config.outbound else {
        return BTreeSet::from([Answer::Refused]);
    };
    let Some(chain) = outbound_chain(&outbound.chains, ip, port, sent) else {
        let answer = if outbound.passthrough {
            Answer::Left(format!("{ip}:{port}"))
        } else {
            Answer::Closed
        };
        return BTreeSet::from([answer]);
    };
    match (&chain.forward, sent) {
        (Forward::Tcp(clusters), _) => through(mesh, &config, clusters, sent, ip, port),
        (Forward::Http(name), Sent::Http(request)) => match route(&config.routes[name], request) {
            None => BTreeSet::from([Answer::Status(404)]),
            Some(RouteAction::Respond(status)) => BTreeSet::from([Answer::Status(*status)]),
            Some(RouteAction::Forward(clusters)) => {
                through(mesh, &config, clusters, sent, ip, port)
            }
        },
        (Forward::Http(_), _) => BTreeSet::from([Answer::Closed]),
    }
}

/// The one answer.
pub fn only(answers: BTreeSet<Answer>) -> Answer {
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.into_iter().next().unwrap()
}

/// Step by step as Envoy does: port, longest prefix, server name, kind; never back.
fn outbound_chain<'a>(
    chains: &'a [std::sync::Arc<OutboundChain>],
    ip: IpAddr,
    port: u16,
    sent: &Sent,
) -> Option<&'a OutboundChain> {
    let on_port = chains.iter().filter(|chain| chain.matches.port == port);
    let prefix = |chain: &OutboundChain| -> Option<u8> {
        if chain.matches.addresses.is_empty() {
            return Some(0);
        }
        let hits = chain
            .matches
            .addresses
            .iter()
            .filter(|net| net.contains(&ip));
        hits.map(|net: &IpNet| net.prefix_len() + 1).max()
    };
    let hits: Vec<(u8, &OutboundChain)> = on_port
        .filter_map(|chain| Some((prefix(chain)?, chain.as_ref())))
        .collect();
    let longest = hits.iter().map(|(length, _)| *length).max()?;
    let hits: Vec<&OutboundChain> = hits
        .iter()
        .filter(|(length, _)| *length == longest)
        .map(|(_, chain)| *chain)
        .collect();
    let specific = hits
        .iter()
        .find(|chain| match (&chain.matches.connect, sent) {
            (Connect::Http, Sent::Http(_)) => true,
            (Connect::Tls(names), Sent::Tls(sni)) => {
                names.is_empty() || names.iter().any(|name| server_name(name, sni))
            }
            _ => false,
        });
    let any = hits
        .iter()
        .find(|chain| chain.matches.connect == Connect::Any);
    specific.or(any).copied()
}

fn server_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix) && name.len() > suffix.len(),
        None => pattern == name,
    }
}

fn route<'a>(table: &'a RouteTable, request: &Request) -> Option<&'a RouteAction> {
    let host = request.host.to_ascii_lowercase();
    let host = table
        .hosts
        .iter()
        .find(|candidate| candidate.domains.contains(&host))?;
    let found = host.routes.iter().find(|route| match &route.matches {
        RouteMatch::Any => true,
        RouteMatch::Http(conditions) => holds(conditions, request),
    });
    found.map(|route| &route.action)
}

pub fn holds(conditions: &HttpMatch, request: &Request) -> bool {
    let path = request.path.split('?').next().unwrap();
    let full = |regex: &str, value: &str| {
        Regex::new(&format!("^(?:{regex})$"))
            .unwrap()
            .is_match(value)
    };
    let path_holds = conditions
        .path
        .as_deref()
        .is_none_or(|regex| full(regex, path));
    let methods = &conditions.methods;
    let method_holds = methods.is_empty() || methods.contains(request.method.as_str());
    let headers_hold = conditions.headers.iter().all(|(name, regex)| {
        if &**name == ":authority" {
            return full(regex, &request.host);
        }
        let mut sent = request.headers.iter();
        sent.any(|(sent, value)| sent.eq_ignore_ascii_case(name) && full(regex, value))
    });
    path_holds && method_holds && headers_hold
}

fn through(
    mesh: &Mesh,
    config: &ProxyConfig,
    clusters: &[WeightedCluster],
    sent: &Sent,
    ip: IpAddr,
    port: u16,
) -> BTreeSet<Answer> {
    let mut answers = BTreeSet::new();
    for cluster in clusters {
        assert!(cluster.weight > 0, "{cluster:?}");
        match &config.cluster(&cluster.name).unwrap().kind {
            ClusterKind::Dns { host, port } => {
                answers.insert(Answer::Left(format!("{host}:{port}")));
            }
            ClusterKind::OriginalDestination => {
                answers.insert(Answer::Left(format!("{ip}:{port}")));
            }
            ClusterKind::Local(_) => panic!("outbound to a local cluster"),
            ClusterKind::Mesh {
                server_name,
                trust,
                endpoints,
            } => {
                if endpoints.is_empty() {
                    let http = matches!(sent, Sent::Http(_));
                    answers.insert(if http {
                        Answer::Status(503)
                    } else {
                        Answer::Closed
                    });
                }
                for endpoint in endpoints {
                    let Some(server) = mesh.workloads().find(|w| w.ips.contains(&endpoint.ip()))
                    else {
                        answers.insert(Answer::Closed);
                        continue;
                    };
                    let spiffe: std::sync::Arc<str> =
                        mesh.identity(&server.account).spiffe().into();
                    assert!(
                        config.peer_trust(trust).unwrap().names.contains(&spiffe),
                        "{spiffe} not trusted"
                    );
                    let client = config.identity.spiffe();
                    let answer = arrive(mesh, server, &client, server_name, endpoint.port(), sent);
                    answers.insert(answer);
                }
            }
        }
    }
    answers
}

/// What the server's sidecar does with a connection of `client`.
pub fn arrive(
    mesh: &Mesh,
    server: &Workload,
    client: &str,
    server_name: &str,
    port: u16,
    sent: &Sent,
) -> Answer {
    let config = mesh.compile(server);
    let Some(Inbound { chains, .. }) = &config.inbound else {
        return Answer::Refused;
    };
    let chain = chains.iter().find(|chain| {
        chain.port == port && chain.server_names.iter().any(|name| **name == *server_name)
    });
    let Some(chain) = chain else {
        return Answer::Closed;
    };
    if !admits(&chain.connections, client, port, None) {
        return Answer::Closed;
    }
    match (&chain.forward, sent) {
        (Forward::Tcp(_), _) => Answer::Served(server.name.to_string()),
        (Forward::Http(table), Sent::Http(request)) => {
            match route(&config.routes[table], request) {
                None => Answer::Status(404),
                Some(_) if !admits(&chain.requests, client, port, Some(request)) => {
                    Answer::Status(403)
                }
                Some(RouteAction::Respond(status)) => Answer::Status(*status),
                Some(RouteAction::Forward(_)) => Answer::Served(server.name.to_string()),
            }
        }
        (Forward::Http(_), _) => Answer::Closed,
    }
}

fn admits(access: &Access, client: &str, port: u16, request: Option<&Request>) -> bool {
    let Access::Only(rules) = access else {
        return true;
    };
    let rule_admits = |rule: &Rule| {
        let named = rule
            .principals
            .iter()
            .any(|principal| **principal == *client);
        let http = match (&rule.http, request) {
            (None, _) => true,
            (Some(conditions), Some(request)) => holds(conditions, request),
            (Some(_), None) => false,
        };
        named && rule.ports.contains(port) && http
    };
    rules.iter().any(rule_admits)
}
