//! A server's sidecar as it really decides: the resources that are pushed to it, read by osm-proxy's own parser, and its
//! own choice of a chain, of a route, and its own RBAC.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use model::{Mesh, Workload};
use proxy::{
    chain::Arrival,
    config::{ConfigParser, Value},
    http::filters::HttpFilter,
    listener::{Chain, Listener, RouteSource, Terminal},
    matcher::RequestView,
    network::NetworkFilter,
    rbac::Peer,
    route::{Action, Certificate, Client, RouteTable},
};
use xds::{
    client::{Kind, Parser},
    resources::{LISTENER, ROUTES, TrustBundle, snapshot},
};

use super::call::{Request, Sent};

/// What one server's sidecar was told about connections that come in.
pub struct Sidecar {
    listener: Option<Arc<Listener>>,
    tables: HashMap<String, Arc<RouteTable>>,
}

impl Sidecar {
    pub fn new(mesh: &Mesh, workload: &Workload) -> Self {
        let trust = TrustBundle { pem: "pem".into() };
        let told = snapshot(&mesh.compile(workload), &trust);
        let mut parser = ConfigParser {
            own_certificate: "own".into(),
        };
        let mut sidecar = Self {
            listener: None,
            tables: HashMap::new(),
        };
        for (kind, url) in [(Kind::Listener, LISTENER), (Kind::Routes, ROUTES)] {
            for (name, resource) in &told.resources[url] {
                let parsed = parser.parse(kind, name, &resource.any);
                match parsed
                    .unwrap_or_else(|why| panic!("{name}: {why:?}"))
                    .value
                    .value
                {
                    Value::Listener(listener) if name == "inbound-listener" => {
                        sidecar.listener = Some(listener);
                    }
                    Value::Routes(table) => {
                        sidecar.tables.insert(name.clone(), table);
                    }
                    _ => {}
                }
            }
        }
        sidecar
    }

    /// Whether what `client` (a SPIFFE name) sends to a port under a server name reaches the application.
    pub fn serves(&self, client: &str, server_name: &str, port: u16, sent: &Sent) -> bool {
        let peer = Peer {
            destination: SocketAddr::from(([10, 244, 0, 9], port)),
            source: [10, 244, 0, 8].into(),
            names: Some(vec![client.to_owned()]),
            server_name: Some(server_name.to_owned()),
        };
        self.chain(&peer)
            .is_some_and(|chain| self.chain_serves(chain, &peer, sent))
    }

    fn chain(&self, peer: &Peer) -> Option<&Chain> {
        let listener = self.listener.as_ref()?;
        let index = listener.table.find(&Arrival {
            destination: peer.destination,
            source: SocketAddr::from((peer.source, 40000)),
            direct_source: peer.source,
            is_tls: true,
            server_name: peer.server_name.clone(),
            applications: vec!["osm".to_owned()],
        });
        match index {
            Some(index) => listener.chains.get(index).map(AsRef::as_ref),
            None => listener.default_chain.as_deref(),
        }
    }

    fn chain_serves(&self, chain: &Chain, peer: &Peer, sent: &Sent) -> bool {
        for filter in &chain.filters {
            match filter {
                NetworkFilter::Rbac(rules) => {
                    let rbac = rules.enforced.as_ref().expect("rules that enforce");
                    if !rbac.decide(peer, None).allowed {
                        return false;
                    }
                }
                other => panic!("a filter that grants nothing: {other:?}"),
            }
        }
        match (&chain.terminal, sent) {
            (Terminal::Tcp(_), _) => true,
            (Terminal::Http(manager), Sent::Http(request)) => {
                let RouteSource::Named(table) = &manager.routes else {
                    panic!("routes of the listener's own");
                };
                let headers = headers(request);
                let view = RequestView {
                    method: &request.method,
                    path_and_query: &request.path,
                    authority: &request.host,
                    scheme: "http",
                    headers: &headers,
                };
                let client = Client {
                    certificate: Certificate {
                        presented: true,
                        validated: true,
                    },
                    roll: 0,
                    addresses: None,
                };
                let found = self.tables[&**table].find(&view, &client);
                let forwards =
                    found.is_some_and(|found| matches!(found.route.action, Action::Forward(_)));
                forwards
                    && manager.filters.iter().all(|filter| match &filter.kind {
                        HttpFilter::Rbac(rules) => {
                            let rbac = rules.enforced.as_ref().expect("rules that enforce");
                            rbac.decide(peer, Some(&view)).allowed
                        }
                        _ => true,
                    })
            }
            (Terminal::Http(_), _) => false,
        }
    }
}

fn headers(request: &Request) -> HeaderMap {
    let pairs = request.headers.iter();
    pairs
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect()
}
