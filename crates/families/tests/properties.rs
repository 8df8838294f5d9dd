//! What must hold for every cluster: without a TrafficTarget nobody gets in, and no object takes away what another
//! grants. Random clusters of fixed seeds, judged by the server's sidecar as osm-proxy itself reads it.

mod support;

use std::collections::BTreeMap;

use model::Mesh;
use serde_json::{Value, json};
use support::{
    World,
    call::Sent,
    cluster::{ACCOUNTS, Cluster, NAMESPACES, PORTS, Random, http_match, target},
    sidecar::Sidecar,
};

fn random(seed: u64) -> Random {
    Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed))
}

/// A call at a server: indices of pods and service, and what is sent.
#[derive(Debug, Clone)]
struct Call {
    client: usize,
    server: usize,
    service: usize,
    sent: Sent,
}

/// One call of every client at every pod of every service.
fn calls(cluster: &Cluster, random: &mut Random) -> Vec<Call> {
    let mut calls = Vec::new();
    for client in 0..cluster.pods.len() {
        for (service, of) in cluster.services.iter().enumerate() {
            for server in &of.pods {
                calls.push(Call {
                    client,
                    server: *server,
                    service,
                    sent: of.sent(random),
                });
            }
        }
    }
    calls
}

struct Sidecars(BTreeMap<String, Sidecar>);

impl Sidecars {
    fn new(mesh: &Mesh) -> Self {
        let all = mesh.workloads();
        let all = all.map(|workload| (workload.name.to_string(), Sidecar::new(mesh, workload)));
        Self(all.collect())
    }

    fn serves(&self, cluster: &Cluster, call: &Call) -> bool {
        let (client, server) = (&cluster.pods[call.client], &cluster.pods[call.server]);
        let service = &cluster.services[call.service];
        let name = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
        let sidecar = self.0.get(&server.name);
        sidecar.is_some_and(|it| it.serves(&client.spiffe(), &name, service.port, &call.sent))
    }
}

/// An object that is not there yet. What it is about may be anything that is.
fn add_object(world: &mut World, random: &mut Random, number: usize) -> String {
    let own = format!("new{number}");
    let namespace = *random.pick(&NAMESPACES);
    let service = format!("s{}", random.below(3));
    let host = format!("{service}.{namespace}.svc.cluster.local");
    let key = |name: &str| format!("{namespace}/{name}");
    let policy =
        |spec: Value| json!({"metadata": {"namespace": namespace, "name": own}, "spec": spec});
    // TrafficTargets most often: what they grant is what could be lost.
    let kind = random.below(13).saturating_sub(5);
    match kind {
        0 => {
            let spec = target(namespace, random);
            world.apply::<api::access::v1alpha3::TrafficTarget>(policy(spec));
        }
        1 => {
            let matches = json!([http_match(0, random), http_match(1, random)]);
            world.route_group(&key(&own), matches);
        }
        2 => {
            let ports = json!(random.some(&PORTS, 2));
            world.tcp_route(&key(&own), ports);
        }
        3 => {
            let backends = json!([{"service": "s0", "weight": 50}, {"service": "s1", "weight": random.below(2)}]);
            world.split(&key(&own), &service, backends);
        }
        4 => {
            let local = json!({"http": {"requests": 1, "unit": "hour"}, "tcp": {"connections": 1, "unit": "hour"}});
            let route = json!({"path": random.pick(&["/books", ".*"]), "rateLimit": {"local": {"requests": 1, "unit": "hour"}}});
            let spec = json!({"host": host, "httpRoutes": [route], "connectionSettings": {"tcp": {"maxConnections": 0}}});
            let spec = if random.chance(50) {
                json!({"host": host, "rateLimit": {"local": {"http": local["http"]}}})
            } else {
                spec
            };
            world.apply::<api::policy::v1alpha1::UpstreamTrafficSetting>(policy(spec));
        }
        5 => {
            let backend = json!({"name": service, "port": {"number": random.pick(&PORTS), "protocol": random.pick(&["http", "https"])},
                "tls": {"skipClientCertValidation": random.chance(50)}});
            let spec = json!({"backends": [backend], "sources": [
                {"kind": "IPRange", "name": "10.0.0.0/8"}, {"kind": "AuthenticatedPrincipal", "name": "gateway"}
            ]});
            world.apply::<api::policy::v1alpha1::IngressBackend>(policy(spec));
        }
        6 => {
            let account = random.pick(&ACCOUNTS);
            world.egress(&key(&own), json!({
                "sources": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
                "hosts": [host], "ports": [{"number": random.pick(&PORTS), "protocol": random.pick(&["http", "tcp"])}],
            }));
        }
        _ => {
            // Another Service over the same pods, perhaps on the same port and with another protocol.
            let index = NAMESPACES
                .iter()
                .position(|known| known == &namespace)
                .unwrap();
            let names = [0, 1].map(|pod| {
                (
                    format!("{namespace}-{pod}"),
                    format!("10.244.{index}.{pod}"),
                )
            });
            let pods = names.each_ref().map(|(name, ip)| (&**name, &**ip));
            let ports = json!([{"port": random.pick(&PORTS), "appProtocol": random.pick(&["http", "tcp", "grpc"])}]);
            world.service(&key(&own), &format!("10.97.{index}.1"), ports, &pods);
        }
    }
    format!("kind {kind} in {namespace}")
}

#[test]
fn without_a_traffic_target_nobody_gets_in() {
    let mut tried = 0;
    for seed in 1..=50 {
        let mut random = random(seed);
        let mut cluster = Cluster::random(&mut random);
        cluster.targets.clear();
        let mut world = cluster.world();
        for number in 0..4 {
            add_object(&mut world, &mut random, number);
        }
        for (namespace, number) in NAMESPACES
            .into_iter()
            .flat_map(|it| (0..4).map(move |n| (it, n)))
        {
            let name = format!("new{number}");
            world
                .index
                .remove(families::Kind::TrafficTarget, namespace, &name);
        }
        let sidecars = Sidecars::new(&world.mesh());
        for call in calls(&cluster, &mut random) {
            assert!(!sidecars.serves(&cluster, &call), "seed {seed}: {call:?}");
            tried += 1;
        }
    }
    assert!(tried > 2_000, "{tried} calls");
}

#[test]
fn no_object_takes_away_what_another_grants() {
    let (mut kept, mut gained) = (0, 0);
    for seed in 1..=40 {
        let mut random = random(seed);
        let cluster = Cluster::random(&mut random);
        let mut world = cluster.world();
        let calls = calls(&cluster, &mut random);
        let mut before = Sidecars::new(&world.mesh());
        for number in 0..4 {
            let added = add_object(&mut world, &mut random, number);
            let after = Sidecars::new(&world.mesh());
            for call in &calls {
                let (was, is) = (before.serves(&cluster, call), after.serves(&cluster, call));
                assert!(is || !was, "seed {seed}: {added} takes away {call:?}");
                kept += usize::from(was);
                gained += usize::from(is && !was);
            }
            before = after;
        }
    }
    // Both must occur often, or nothing is proved.
    assert!(kept > 1_000 && gained > 20, "{kept} kept, {gained} gained");
}
