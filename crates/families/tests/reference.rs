//! SMI read a second time, straight from the objects: who may call whom. Compared with what two compiled
//! proxies do with the same call, on random clusters of fixed seeds.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{
    call::{Answer, call},
    cluster::{Cluster, Random},
    sidecar::Sidecar,
};

#[test]
fn compiled_proxies_allow_exactly_what_smi_says() {
    let (mut allowed, mut denied) = (0, 0);
    for seed in 1..=80_u64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let cluster = Cluster::random(&mut random);
        let mesh = cluster.world().mesh();
        let sidecars = mesh.workloads();
        let sidecars = sidecars.map(|workload| (&*workload.name, Sidecar::new(&mesh, workload)));
        let sidecars: BTreeMap<&str, Sidecar> = sidecars.collect();
        let clients = cluster
            .pods
            .iter()
            .filter(|pod| pod.namespace != "unmonitored");
        for client in clients {
            for service in &cluster.services {
                let sent = service.sent(&mut random);
                let pods: BTreeSet<usize> = service.pods.iter().copied().collect();
                let expected: BTreeSet<Answer> = pods
                    .into_iter()
                    .map(|pod| &cluster.pods[pod])
                    .filter(|server| cluster.allows(client, server, service.port, &sent))
                    .map(|server| Answer::Served(server.name.clone()))
                    .collect();
                let mut answers = call(&mesh, &client.name, &service.ip, service.port, &sent);
                answers.retain(|answer| matches!(answer, Answer::Served(_)));
                let (from, to) = (
                    &client.name,
                    format!("{}/{}", service.namespace, service.name),
                );
                assert_eq!(answers, expected, "seed {seed}: {from} to {to}: {sent:?}");
                // The server alone decides the same, whatever the client's sidecar lets out: as osm-proxy itself reads
                // and judges what it is told.
                let name = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
                for server in service.pods.iter().map(|pod| &cluster.pods[*pod]) {
                    let Some(sidecar) = sidecars.get(&*server.name) else {
                        continue;
                    };
                    let served = sidecar.serves(&client.spiffe(), &name, service.port, &sent);
                    let allowed = cluster.allows(client, server, service.port, &sent);
                    assert_eq!(
                        served, allowed,
                        "seed {seed}: {from} at {}: {sent:?}",
                        server.name
                    );
                }
                allowed += expected.len();
                denied += usize::from(expected.is_empty());
            }
        }
    }
    // Both kinds must occur often, or the comparison proves little.
    assert!(
        allowed > 200 && denied > 200,
        "{allowed} allowed, {denied} denied"
    );
}
