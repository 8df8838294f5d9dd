//! The stage: one management server, both proxies, the backends behind them, certificates for all.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use testkit::authority::Names;
use testkit::{Ads, Authority, Backend, Bootstrap, Kind, Leaf, Process, Resources, backend, ports};

use crate::run::Side;
use crate::setup::{Setup, Values, complete};

/// The proxies: node id, loopback address.
pub const ENVOY: (&str, Ipv4Addr) = ("envoy", Ipv4Addr::new(127, 0, 0, 2));
/// As [`ENVOY`].
pub const OSM: (&str, Ipv4Addr) = ("osm-proxy", Ipv4Addr::new(127, 0, 0, 3));

/// How long listeners may take to open after a push.
const OPENING: Duration = Duration::from_secs(8);

/// Setups of one push: what both say about them fits into one refusal.
const PORTION: usize = 8;

/// Everything that runs.
pub struct World {
    /// The management server.
    pub ads: Ads,
    /// Stock Envoy.
    pub envoy: Process,
    /// Ours; none when only Envoy is to be looked at.
    pub osm: Option<Process>,
    backends: BTreeMap<&'static str, Backend>,
    leafs: BTreeMap<&'static str, Leaf>,
    values: Values,
    base: BTreeMap<&'static str, Resources>,
}

/// What a proxy refused of a push: setup to its words.
pub type Refused = BTreeMap<String, String>;

// === impl World ===

impl World {
    /// Starts everything; nothing is configured yet.
    pub async fn start(folder: &Path, only_envoy: bool, delta: bool) -> anyhow::Result<World> {
        let root = Authority::new();
        let other = Authority::new();
        let leafs = leafs(&root, &other);
        let mut backends: BTreeMap<&'static str, Backend> = BTreeMap::new();
        for name in ["a", "b", "c"] {
            backends.insert(name, Backend::start().await);
        }
        let tls = root.server(&leafs["server"], false, &["h2", "http/1.1"]);
        backends.insert("t", Backend::start_tls(tls).await);
        let mtls = root.server(&leafs["server"], true, &["h2", "http/1.1"]);
        backends.insert("m", Backend::start_tls(mtls).await);
        let foreign = other.server(&leafs["other-root"], false, &["h2", "http/1.1"]);
        backends.insert("f", Backend::start_tls(foreign).await);
        let expired = root.server(&leafs["expired"], false, &["http/1.1"]);
        backends.insert("e", Backend::start_tls(expired).await);

        let mut values = Values::default();
        let text = std::fs::read_to_string(folder.join("values.yaml"))?;
        if let Value::Object(map) = schema::parse_yaml(&text)? {
            values.0.extend(map);
        }
        for (name, backend) in &backends {
            values.set(name, json!(backend.port));
        }
        values.set("echo", json!(backend::echo().await));
        values.set("dead", json!(ports::free()));
        values.set("root", json!(root.pem));

        let ads = Ads::start().await;
        let bootstrap = |node: &str| Bootstrap {
            delta,
            ..Bootstrap::new(node, ads.address())
        };
        let envoy = Process::envoy(&bootstrap(ENVOY.0)).context("no Envoy to compare with")?;
        let osm = match only_envoy {
            true => None,
            false => Some(
                Process::osm_proxy(&bootstrap(OSM.0))
                    .context("osm-proxy is not built beside the oracle")?,
            ),
        };
        let mut world = World {
            ads,
            envoy,
            osm,
            backends,
            leafs,
            values,
            base: BTreeMap::new(),
        };
        for (node, ip) in [ENVOY, OSM] {
            let mut resources = Resources::default();
            for cluster in base_clusters() {
                let mut values = world.values.clone();
                values.set("ip", json!(ip.to_string()));
                resources.add(Kind::Cluster, &values.fill(&complete(&cluster)));
            }
            resources.extend(root.secret("root"));
            resources.extend(other.secret("other-root"));
            for (name, leaf) in &world.leafs {
                resources.extend(leaf.secret(name));
            }
            world.base.insert(node, resources);
        }
        Ok(world)
    }

    /// The proxies that run.
    pub fn nodes(&self) -> Vec<(&'static str, Ipv4Addr)> {
        match self.osm {
            Some(_) => vec![ENVOY, OSM],
            None => vec![ENVOY],
        }
    }

    /// A proxy with its backends, to run checks on.
    pub fn side(&self, ip: Ipv4Addr) -> Side<'_> {
        Side {
            ip,
            backends: &self.backends,
            leafs: &self.leafs,
        }
    }

    /// A setup's resources for one proxy, with everything that all setups share.
    pub fn resources(&self, node: &str, ip: Ipv4Addr, setups: &[&Setup]) -> Resources {
        let mut resources = self.base[node].clone();
        for setup in setups {
            resources.extend(setup.resources(ip, &self.values));
        }
        resources
    }

    /// What stands for `${…}`, for one proxy.
    pub fn values(&self, ip: Ipv4Addr) -> Values {
        let mut values = self.values.clone();
        values.set("ip", json!(ip.to_string()));
        values
    }

    /// Tells the backends the setup's scripts.
    pub fn scripts(&self, setup: &Setup) {
        for (name, steps) in &setup.scripts {
            for backend in self.backends.values() {
                backend.script(name, steps.iter().map(crate::script::Step::reply).collect());
            }
        }
    }

    /// Gives both proxies these setups and waits until they serve; what each refused.
    pub async fn push(&mut self, setups: &[&Setup]) -> BTreeMap<&'static str, Refused> {
        let mut refused = BTreeMap::from_iter(
            self.nodes()
                .into_iter()
                .map(|(node, _)| (node, Refused::new())),
        );
        let before: BTreeMap<&str, usize> = BTreeMap::from_iter(
            self.nodes()
                .into_iter()
                .map(|(node, _)| (node, self.ads.history(node).len())),
        );
        // In portions: a proxy's refusal names only so many resources.
        for end in (PORTION..setups.len() + PORTION).step_by(PORTION) {
            let portion = &setups[..end.min(setups.len())];
            for (node, ip) in self.nodes() {
                self.ads.set(node, self.resources(node, ip, portion));
            }
            self.envoy.ready().await;
            if let Some(osm) = &mut self.osm {
                osm.ready().await;
            }
            for (node, ip) in self.nodes() {
                let _ = self.ads.settled(node).await;
                // A listener opens when its routes came or were refused.
                let refused = refused.entry(node).or_default();
                let until = Instant::now() + OPENING;
                for setup in &portion[end - PORTION..] {
                    let at = SocketAddr::from((ip, setup.port));
                    while tokio::net::TcpStream::connect(at).await.is_err() {
                        self.note(node, setup, refused);
                        if Instant::now() > until {
                            let words = format!("the listener of {} does not open", setup.name);
                            refused.entry(setup.name.clone()).or_insert(words);
                        }
                        if refused.contains_key(&setup.name) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                for setup in &portion[end - PORTION..] {
                    self.note(node, setup, refused);
                }
            }
        }
        for (node, _) in self.nodes() {
            for refusal in self.ads.history(node).into_iter().skip(before[node]) {
                let is_known = |setup: &&Setup| {
                    parts(setup)
                        .iter()
                        .any(|name| mentions(&refusal.message, name))
                };
                if !setups.iter().any(is_known) {
                    // Envoy refuses all of a response for one message that breaks its rules: the cases are void.
                    panic!("{node} refuses something: {}", refusal.message);
                }
            }
        }
        refused
    }

    /// Notes what the node said against a setup since the last change.
    fn note(&self, node: &str, setup: &Setup, refused: &mut Refused) {
        let names = parts(setup);
        let is_about = |message: &str| names.iter().any(|name| mentions(message, name));
        for refusal in self.ads.refusals(node) {
            if is_about(&refusal.message) {
                refused.insert(setup.name.clone(), excerpt(&refusal.message, &names));
            }
        }
    }
}

/// Names of the setup's resources.
fn parts(setup: &Setup) -> Vec<&str> {
    setup.cluster_names().chain([setup.name.as_str()]).collect()
}

/// Whether a refusal is about a resource: its name, not as a part of a longer one.
pub fn mentions(message: &str, name: &str) -> bool {
    message.match_indices(name).any(|(at, _)| {
        let is_part = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(byte))
        };
        let bytes = message.as_bytes();
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        !is_part(before) && !is_part(bytes.get(at + name.len()))
    })
}

/// The part of a refusal that is about these resources.
fn excerpt(message: &str, names: &[&str]) -> String {
    let line = message
        .split(['\n', ';'])
        .find(|part| names.iter().any(|name| mentions(part, name)));
    let mut text = line.unwrap_or(message).trim().to_owned();
    let end = (0..=300.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

/// Clusters that every setup may refer to.
fn base_clusters() -> Vec<Value> {
    let mut clusters: Vec<Value> = ["a", "b", "c"]
        .map(|name| json!({"name": name, "to": name}))
        .to_vec();
    clusters.push(json!({"name": "a2", "to": "a", "http": 2}));
    clusters.push(json!({"name": "auto", "to": "a", "http": "auto"}));
    clusters.push(json!({"name": "dead", "to": "dead"}));
    clusters.push(json!({"name": "empty", "to": ""}));
    clusters.push(json!({"name": "echo", "to": "echo"}));
    clusters
}

fn leafs(root: &Authority, other: &Authority) -> BTreeMap<&'static str, Leaf> {
    let uri = |name| format!("spiffe://cluster.local/{name}/ns");
    let names = |uris: &[&str], is_expired| {
        Names {
            uris,
            dns: &["oracle.test"],
            is_expired,
        }
        .issue(root)
    };
    BTreeMap::from([
        ("server", names(&[&uri("server")], false)),
        ("client", names(&[&uri("client")], false)),
        ("wrong-name", names(&[&uri("stranger")], false)),
        ("no-names", names(&[], false)),
        ("expired", names(&[&uri("client")], true)),
        (
            "other-root",
            Names {
                uris: &[&uri("client")],
                dns: &["oracle.test"],
                is_expired: false,
            }
            .issue(other),
        ),
    ])
}

trait Issue {
    fn issue(&self, authority: &Authority) -> Leaf;
}

impl Issue for Names<'_> {
    fn issue(&self, authority: &Authority) -> Leaf {
        authority.leaf(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_about_a_whole_name() {
        assert!(mentions("listener(s) rbac/one: no", "rbac/one"));
        assert!(!mentions("listener(s) rbac/one-more: no", "rbac/one"));
        assert!(!mentions("listener(s) x-rbac/one: no", "rbac/one"));
    }
}
