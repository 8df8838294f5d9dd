//! Random clusters, and SMI read a second time straight from their objects: who may call whom.

use regex::Regex;
use serde_json::{Value, json};

use super::{
    World,
    call::{Request, Sent},
};

/// xorshift64*: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn some<T: Clone>(&mut self, from: &[T], most: usize) -> Vec<T> {
        (0..self.below(most + 1))
            .map(|_| self.pick(from).clone())
            .collect()
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub const NAMESPACES: [&str; 3] = ["one", "two", "unmonitored"];
pub const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
pub const PORTS: [u16; 3] = [8080, 8081, 9000];
pub const PATHS: [&str; 5] = ["/", "/books", "/books/1", "/admin", "/books?x=/admin"];
pub const REGEXES: [&str; 5] = ["", ".*", "/books", "/books.*", "/adm[a-z]+"];
pub const METHODS: [&str; 3] = ["GET", "POST", "*"];

pub struct Pod {
    pub namespace: &'static str,
    pub name: String,
    pub account: &'static str,
    pub ip: String,
}

pub struct Service {
    pub namespace: &'static str,
    pub name: String,
    pub ip: String,
    pub port: u16,
    pub http: bool,
    pub pods: Vec<usize>,
}

/// The objects, as written.
pub struct Cluster {
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    pub groups: Vec<(String, Value)>,
    pub routes: Vec<(String, Value)>,
    /// Namespace, and spec.
    pub targets: Vec<(&'static str, Value)>,
}

impl Cluster {
    pub fn random(random: &mut Random) -> Self {
        let mut cluster = Self {
            pods: Vec::new(),
            services: Vec::new(),
            groups: Vec::new(),
            routes: Vec::new(),
            targets: Vec::new(),
        };
        for (index, namespace) in NAMESPACES.into_iter().enumerate() {
            let first = cluster.pods.len();
            cluster.pods.extend((0..4).map(|pod| Pod {
                namespace,
                name: format!("{namespace}-{pod}"),
                account: random.pick::<&str>(&ACCOUNTS),
                ip: format!("10.244.{index}.{pod}"),
            }));
            let pods: Vec<usize> = (first..cluster.pods.len()).collect();
            cluster.services.extend((0..3).map(|service| Service {
                namespace,
                name: format!("s{service}"),
                ip: format!("10.96.{index}.{service}"),
                port: *random.pick(&PORTS),
                http: random.chance(60),
                pods: random.some(&pods, 3),
            }));
            for name in ["g", "h"] {
                if random.chance(85) {
                    let matches = (0..random.below(3))
                        .map(|at| http_match(at, random))
                        .collect();
                    cluster
                        .groups
                        .push((format!("{namespace}/{name}"), Value::Array(matches)));
                }
            }
            for name in ["r", "q"] {
                if random.chance(85) {
                    let ports = json!(random.some(&PORTS, 2));
                    cluster.routes.push((format!("{namespace}/{name}"), ports));
                }
            }
            let targets = (0..9).map(|_| (namespace, target(namespace, random)));
            cluster.targets.extend(targets.collect::<Vec<_>>());
        }
        cluster
    }

    pub fn world(&self) -> World {
        let mut world = World::new();
        world.namespace("one").namespace("two");
        for pod in &self.pods {
            world.pod(
                &format!("{}/{}", pod.namespace, pod.name),
                pod.account,
                &pod.ip,
            );
        }
        for service in &self.services {
            let protocol = if service.http { "http" } else { "tcp" };
            let ports = json!([{"port": service.port, "appProtocol": protocol}]);
            let pods = service.pods.iter().map(|pod| &self.pods[*pod]);
            let pods: Vec<(&str, &str)> = pods.map(|pod| (&*pod.name, &*pod.ip)).collect();
            world.service(
                &format!("{}/{}", service.namespace, service.name),
                &service.ip,
                ports,
                &pods,
            );
        }
        for (key, matches) in &self.groups {
            world.route_group(key, matches.clone());
        }
        for (key, ports) in &self.routes {
            world.tcp_route(key, ports.clone());
        }
        for (index, (namespace, spec)) in self.targets.iter().enumerate() {
            world.apply::<api::access::v1alpha3::TrafficTarget>(json!({
                "metadata": {"namespace": namespace, "name": format!("t{index}")}, "spec": spec,
            }));
        }
        world
    }

    /// Whether some TrafficTarget lets `client` make this call to `server`.
    pub fn allows(&self, client: &Pod, server: &Pod, port: u16, sent: &Sent) -> bool {
        self.targets.iter().any(|(namespace, spec)| {
            let destination = &spec["destination"];
            let to_server = *namespace == server.namespace
                && destination["kind"] == "ServiceAccount"
                && destination["namespace"] == *namespace
                && destination["name"] == server.account;
            let from_client = spec["sources"].as_array().unwrap().iter().any(|source| {
                source["kind"] == "ServiceAccount"
                    && source["namespace"] == client.namespace
                    && source["name"] == client.account
            });
            let rules = spec["rules"].as_array().unwrap();
            let known = rules.iter().all(|rule| rule["kind"] != "UDPRoute");
            NAMESPACES[..2].contains(namespace)
                && to_server
                && from_client
                && known
                && self.rules_allow(namespace, rules, port, sent)
        })
    }

    fn rules_allow(&self, namespace: &str, rules: &[Value], port: u16, sent: &Sent) -> bool {
        let find = |list: &[(String, Value)], rule: &Value| {
            let key = format!("{namespace}/{}", rule["name"].as_str().unwrap());
            list.iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.clone())
        };
        let of_kind = |kind: &str| {
            rules
                .iter()
                .filter(|rule| rule["kind"] == kind)
                .collect::<Vec<_>>()
        };
        let tcp: Vec<Option<Value>> = of_kind("TCPRoute")
            .into_iter()
            .map(|rule| find(&self.routes, rule))
            .collect();
        let on_port = tcp.iter().flatten().any(|ports| {
            let ports = ports.as_array().unwrap();
            ports.is_empty() || ports.contains(&json!(port))
        });
        if tcp.contains(&None) || (!tcp.is_empty() && !on_port) {
            return false;
        }
        let Sent::Http(request) = sent else {
            return on_port;
        };
        of_kind("HTTPRouteGroup").into_iter().any(|rule| {
            let wanted = rule["matches"].as_array().cloned().unwrap_or_default();
            let group = find(&self.groups, rule).unwrap_or(json!([]));
            let chosen = |found: &Value| wanted.is_empty() || wanted.contains(&found["name"]);
            let matches = group.as_array().unwrap();
            matches
                .iter()
                .any(|found| chosen(found) && holds(found, request))
        })
    }
}

pub fn http_match(at: usize, random: &mut Random) -> Value {
    let headers = if random.chance(30) {
        json!([{"X-Who": "a|b"}])
    } else {
        json!([])
    };
    json!({
        "name": format!("m{at}"),
        "pathRegex": random.pick(&REGEXES),
        "methods": random.some(&METHODS, 2),
        "headers": headers,
    })
}

pub fn target(namespace: &str, random: &mut Random) -> Value {
    let account = |random: &mut Random, namespace: &str| {
        let kind = if random.chance(95) {
            "ServiceAccount"
        } else {
            "User"
        };
        json!({"kind": kind, "namespace": namespace, "name": random.pick(&ACCOUNTS)})
    };
    let sources = (0..random.below(4)).map(|_| {
        let namespace = random.pick(&NAMESPACES);
        account(random, namespace)
    });
    let sources: Vec<Value> = sources.collect();
    let rules = (0..random.below(4)).map(|_| match random.below(20) {
        0 => json!({"kind": "UDPRoute", "name": "u"}),
        1..8 => json!({"kind": "TCPRoute", "name": random.pick(&["r", "q"])}),
        _ => json!({
            "kind": "HTTPRouteGroup", "name": random.pick(&["g", "h"]),
            "matches": random.some(&["m0", "m1", "m9"], 2),
        }),
    });
    let rules: Vec<Value> = rules.collect();
    let own = if random.chance(90) { namespace } else { "one" };
    json!({"destination": account(random, own), "sources": sources, "rules": rules})
}

fn holds(found: &Value, request: &Request) -> bool {
    let full = |regex: &str, text: &str| {
        Regex::new(&format!(r"\A(?:{regex})\z"))
            .unwrap()
            .is_match(text)
    };
    let path = request.path.split('?').next().unwrap();
    let regex = found["pathRegex"].as_str().unwrap();
    let methods = found["methods"].as_array().unwrap();
    let headers = found["headers"].as_array().unwrap();
    (regex.is_empty() || full(regex, path))
        && (methods.is_empty() || methods.iter().any(|m| *m == "*" || *m == *request.method))
        && headers
            .iter()
            .all(|_| request.headers.iter().any(|(_, value)| full("a|b", value)))
}

impl Pod {
    /// The name in its certificate.
    pub fn spiffe(&self) -> String {
        format!("spiffe://cluster.local/{}/{}", self.account, self.namespace)
    }
}

impl Service {
    /// Something that a client may send to it.
    pub fn sent(&self, random: &mut Random) -> Sent {
        if !self.http {
            return Sent::Bytes;
        }
        let who = ["a", "c"].map(|who| vec![("x-who".to_owned(), who.to_owned())]);
        Sent::Http(Request {
            host: format!("{}.{}", self.name, self.namespace),
            method: (*random.pick(&METHODS[..2])).to_owned(),
            path: (*random.pick(&PATHS)).to_owned(),
            headers: random.pick(&who).clone(),
        })
    }
}
