//! Whatever changes, what is made from the mesh before is what would be made from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use model::{
    Authorization, Backend, EgressPort, EgressProtocol, EgressRule, Endpoint, HttpGrant, HttpMatch,
    Mesh, MeshParts, MeshSettings, Protocol, Provenance, RetryPolicy, RetryRule, Service,
    ServiceAccount, ServicePort, Split, Workload,
};
use xds::client::Kind;
use xds::planner::Planner;
use xds::resources::{TrustBundle, snapshot};
use xds::target::Target;

const SERVICES: u64 = 8;
const PODS: u64 = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

fn namespace(service: u64) -> String {
    format!("ns{}", service % 2)
}

fn account(number: u64) -> ServiceAccount {
    ServiceAccount::new(namespace(number), format!("account{number}"))
}

/// A state of the cluster; each number is drawn anew now and then.
#[derive(Clone)]
struct Cluster {
    permissive: bool,
    passthrough: bool,
    minimum_tls: &'static str,
    /// Protocol, unready pods, pods that run as another account, host names.
    services: BTreeMap<u64, (u64, u64, u64, bool)>,
    grants: BTreeSet<(u64, u64, bool)>,
    splits: BTreeSet<(u64, u64, u64)>,
    egress: BTreeSet<(u64, u16)>,
    retries: BTreeSet<(u64, u64)>,
    scraped: u64,
    logging: u64,
}

impl Cluster {
    fn change(&mut self, random: &mut Random) {
        let (one, other, third) = (
            random.below(SERVICES),
            random.below(SERVICES),
            random.below(SERVICES),
        );
        match random.below(16) {
            0 => self.permissive = !self.permissive,
            1 if random.one_in(3) => self.passthrough = !self.passthrough,
            2 if random.one_in(3) => {
                self.minimum_tls = ["TLSv1_2", "TLSv1_3"][random.below(2) as usize];
            }
            3 => drop(self.services.remove(&one)),
            4 if random.one_in(2) => self.scraped = random.below(1 << PODS),
            4 => self.logging = random.below(1 << PODS),
            5..=7 => toggle(&mut self.grants, (one, other, random.one_in(2))),
            8 => toggle(&mut self.splits, (one, other, third)),
            9 => toggle(&mut self.egress, (one, 80 + random.below(2) as u16)),
            10 => toggle(&mut self.retries, (one, other)),
            _ => {
                let pods = |random: &mut Random| random.below(1 << PODS) & random.below(1 << PODS);
                let service = (
                    random.below(3),
                    pods(random),
                    pods(random),
                    random.one_in(6),
                );
                self.services.insert(one, service);
            }
        }
    }

    fn mesh(&self) -> Mesh {
        let mut parts = MeshParts {
            settings: MeshSettings {
                trust_domain: "cluster.local".into(),
                permissive: self.permissive,
                egress_passthrough: self.passthrough,
                ..MeshSettings::default()
            },
            ..MeshParts::default()
        };
        parts.settings.tls.minimum = self.minimum_tls.into();
        for (number, service) in &self.services {
            self.add_service(&mut parts, *number, *service);
        }
        for (source, destination, http) in &self.grants {
            let name = format!("{source}-{destination}-{http}");
            let provenance = Provenance::new("TrafficTarget", &namespace(*destination), &name);
            let grant = HttpGrant {
                matches: HttpMatch::default(),
                provenance: provenance.clone(),
            };
            parts.authorizations.push(Authorization {
                provenance,
                destination: account(*destination),
                sources: [account(*source)].into(),
                tcp: (!http).then_some(model::PortSet::Any),
                http: vec![grant],
            });
        }
        for (apex, one, other) in &self.splits {
            let backend = |number: &u64, weight| Backend {
                service: format!("service{number}").into(),
                weight,
            };
            parts.splits.push(Split {
                provenance: Provenance::new("TrafficSplit", &namespace(*apex), &apex.to_string()),
                namespace: namespace(*apex).into(),
                apex: format!("service{apex}").into(),
                matches: None,
                backends: vec![backend(one, 1), backend(other, 2)],
            });
        }
        for (source, port) in &self.egress {
            let name = format!("{source}-{port}");
            parts.egress.push(EgressRule {
                provenance: Provenance::new("Egress", &namespace(*source), &name),
                sources: [account(*source)].into(),
                hosts: vec!["out.test".into()],
                addresses: None,
                ports: vec![EgressPort {
                    number: *port,
                    protocol: EgressProtocol::Http,
                }],
                http: None,
                limits: Default::default(),
            });
        }
        for (source, destination) in &self.retries {
            let key = (
                Arc::from(namespace(*destination)),
                Arc::from(format!("service{destination}")),
            );
            parts.retries.push(RetryRule {
                provenance: Provenance::new("Retry", &namespace(*source), &source.to_string()),
                source: account(*source),
                services: vec![key],
                policy: RetryPolicy {
                    conditions: "5xx".into(),
                    retries: 2,
                    per_try_timeout: None,
                    back_off: None,
                },
            });
        }
        Mesh::new(parts)
    }

    fn add_service(
        &self,
        parts: &mut MeshParts,
        number: u64,
        (protocol, unready, strangers, headless): (u64, u64, u64, bool),
    ) {
        let namespace = namespace(number);
        let mut endpoints = Vec::new();
        for pod in 0..PODS {
            let runs_as = if strangers & (1 << pod) == 0 {
                number
            } else {
                // Of the same namespace.
                (number + 2) % SERVICES
            };
            let name = format!("pod{number}-{pod}");
            let ip: std::net::IpAddr = format!("10.1.{number}.{pod}").parse().unwrap();
            endpoints.push(Endpoint {
                address: SocketAddr::new(ip, 8080),
                account: account(runs_as),
                pod: name.as_str().into(),
                hostname: headless.then(|| format!("h{pod}").into()),
                ready: unready & (1 << pod) == 0,
            });
            parts.workloads.push(Workload {
                proxy_uuid: name.as_str().into(),
                namespace: namespace.as_str().into(),
                name: name.as_str().into(),
                uid: name.as_str().into(),
                account: account(runs_as),
                ips: vec![ip],
                scraped: self.scraped & (1 << pod) != 0,
                told_to_log: self.logging & (1 << pod) != 0,
            });
        }
        let protocol = [Protocol::Http, Protocol::Tcp, Protocol::Grpc]
            .into_iter()
            .nth(protocol as usize)
            .unwrap();
        parts.services.push(Service {
            namespace: namespace.as_str().into(),
            name: format!("service{number}").into(),
            cluster_ips: if headless {
                Vec::new()
            } else {
                vec![format!("10.96.0.{number}").parse().unwrap()]
            },
            headless,
            ports: vec![ServicePort {
                port: 80 + (number % 2) as u16,
                protocol,
                target_port: 8080,
                endpoints,
            }],
        });
    }
}

fn toggle<T: Ord>(set: &mut BTreeSet<T>, value: T) {
    if !set.remove(&value) {
        set.insert(value);
    }
}

fn contents(target: &Target) -> Vec<BTreeMap<String, Vec<u8>>> {
    let of = |kind| {
        let items = target.of(kind).iter();
        let items = items.map(|item| (item.name().to_owned(), item.field().to_vec()));
        items.collect()
    };
    Kind::ALL.into_iter().map(of).collect()
}

#[test]
fn from_the_mesh_before_is_as_from_nothing() {
    let trust = TrustBundle {
        pem: "root".to_owned(),
    };
    let (mut compared, mut kept) = (0u32, 0u32);
    for seed in 0..6 {
        let mut random = Random(seed * 7919 + 1);
        let mut cluster = Cluster {
            permissive: seed % 2 == 0,
            passthrough: false,
            minimum_tls: "TLSv1_2",
            services: (0..SERVICES)
                .map(|number| (number, (0, 0, 0, false)))
                .collect(),
            grants: BTreeSet::new(),
            splits: BTreeSet::new(),
            egress: BTreeSet::new(),
            retries: BTreeSet::new(),
            scraped: 0,
            logging: 0,
        };
        let mut planner = Planner::new(trust.clone());
        let mut mesh = cluster.mesh();
        let mut before: BTreeMap<Arc<str>, Target> = BTreeMap::new();
        for step in 0..30 {
            planner.turn();
            let nothing = cluster.mesh();
            for workload in mesh.workloads() {
                let made = planner.target(&mesh, workload);
                let expected = Target::from(&snapshot(&nothing.compile(workload), &trust));
                let name = &workload.name;
                for (made, expected) in contents(&made).iter().zip(contents(&expected)) {
                    let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect();
                    let (ours, theirs): (Vec<String>, Vec<String>) =
                        (names(made), names(&expected));
                    assert_eq!(ours, theirs, "seed {seed} step {step}: {name}");
                    let differ = |(name, _): &(&String, &Vec<u8>)| made[*name] != expected[*name];
                    let differing: Vec<_> =
                        made.iter().filter(differ).map(|(name, _)| name).collect();
                    assert!(
                        differing.is_empty(),
                        "seed {seed} step {step}: {name}: {differing:?}"
                    );
                }
                compared += 1;
                let former = before.insert(workload.proxy_uuid.clone(), made.clone());
                kept += u32::from(former.is_some_and(|former| former.is(&made)));
            }
            if random.one_in(2) {
                planner.forget();
            }
            cluster.change(&mut random);
            mesh = mesh.succeeded_by(cluster.mesh());
        }
    }
    // Most changes concern few proxies: the others' targets are the same by pointer.
    assert!(kept * 2 > compared, "{kept} of {compared}");
}
