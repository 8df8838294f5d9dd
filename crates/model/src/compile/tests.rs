//! Compilation at size, and properties of its output that need no family.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use super::*;
use crate::{
    Authorization, ClusterKind, Endpoint, Forward, HttpGrant, HttpMatch, MeshParts, MeshSettings,
    Protocol, Provenance, RouteAction, Service, ServiceAccount, ServicePort,
};

/// `count` services with ten pods each; the pods of a service share an account.
fn large(count: usize, permissive: bool) -> MeshParts {
    let mut parts = MeshParts {
        settings: MeshSettings {
            trust_domain: "cluster.local".into(),
            permissive,
            ..MeshSettings::default()
        },
        ..MeshParts::default()
    };
    for index in 0..count {
        let (high, low) = (index / 200, index % 200);
        let namespace = format!("ns{}", index % 10);
        let account = ServiceAccount::new(namespace.as_str(), format!("account{index}"));
        let pods = (0..10).map(|pod| {
            let ip = format!("10.{pod}.{high}.{low}").parse().unwrap();
            (format!("pod{index}-{pod}"), ip)
        });
        let endpoints = pods.clone().map(|(pod, ip)| Endpoint {
            address: SocketAddr::new(ip, 8080),
            account: account.clone(),
            pod: pod.into(),
            hostname: None,
            ready: true,
        });
        parts.services.push(Service {
            namespace: namespace.as_str().into(),
            name: format!("service{index}").into(),
            cluster_ips: vec![format!("10.96.{high}.{low}").parse().unwrap()],
            headless: false,
            ports: vec![ServicePort {
                port: 80,
                protocol: Protocol::Http,
                target_port: 8080,
                endpoints: endpoints.collect(),
            }],
        });
        parts.workloads.extend(pods.map(|(pod, ip)| Workload {
            proxy_uuid: pod.as_str().into(),
            namespace: namespace.as_str().into(),
            name: pod.as_str().into(),
            uid: pod.as_str().into(),
            account: account.clone(),
            ips: vec![ip],
            scraped: false,
            told_to_log: false,
        }));
    }
    parts
}

/// Everything a listener or route refers to exists, and no two chains match alike.
fn assert_sound(config: &ProxyConfig) {
    let assert_forward = |forward: &Forward| match forward {
        Forward::Http(table) => assert!(config.routes.contains_key(table), "{table}"),
        Forward::Tcp(clusters) => {
            assert!(!clusters.is_empty());
            clusters
                .iter()
                .for_each(|c| assert!(config.cluster(&c.name).is_some()));
        }
    };
    let mut matches = BTreeSet::new();
    for chain in config.outbound.iter().flat_map(|outbound| &outbound.chains) {
        assert_forward(&chain.forward);
        for address in &chain.matches.addresses {
            let key = (
                chain.matches.port,
                *address,
                format!("{:?}", chain.matches.connect),
            );
            assert!(matches.insert(key), "{} twice", chain.name);
        }
    }
    for chain in config.inbound.iter().flat_map(|inbound| &inbound.chains) {
        assert_forward(&chain.forward);
    }
    for table in config.routes.values() {
        let mut domains = BTreeSet::new();
        for host in &table.hosts {
            for domain in &host.domains {
                assert!(domains.insert(domain), "{domain} twice in {}", table.name);
            }
            for route in &host.routes {
                if let RouteAction::Forward(clusters) = &route.action {
                    clusters
                        .iter()
                        .for_each(|c| assert!(config.cluster(&c.name).is_some()));
                }
            }
        }
    }
    for cluster in config.all_clusters() {
        if let ClusterKind::Mesh {
            trust, endpoints, ..
        } = &cluster.kind
        {
            let peers = config.peer_trust(trust).unwrap();
            assert!(
                endpoints.is_empty() || !peers.names.is_empty(),
                "{} trusts nobody",
                cluster.name
            );
        }
    }
}

#[test]
fn permissive_mode_at_a_thousand_services_is_shared_not_quadratic() {
    let mesh = Mesh::new(large(1000, true));
    let workloads: Vec<&Workload> = mesh.workloads().take(21).collect();
    let first = mesh.compile(workloads[0]);
    assert_sound(&first);
    assert_eq!(first.outbound.as_ref().unwrap().chains.len(), 1000);
    let start = Instant::now();
    for workload in &workloads[1..] {
        let other = mesh.compile(workload);
        let name = "ns0/service0|8080";
        assert!(Arc::ptr_eq(
            first.cluster(name).unwrap(),
            other.cluster(name).unwrap()
        ));
    }
    // Generous: this is no benchmark, it catches a square (which takes seconds).
    let each = start.elapsed() / 20;
    assert!(each.as_millis() < 100, "{each:?} per proxy");
    eprintln!("{each:?} per proxy");
}

#[test]
fn an_smi_proxy_is_told_only_what_it_may_reach() {
    let mut parts = large(1000, false);
    let grant = HttpGrant {
        matches: HttpMatch::default(),
        provenance: Provenance::new("TrafficTarget", "ns1", "t"),
    };
    parts.authorizations.push(Authorization {
        provenance: grant.provenance.clone(),
        destination: ServiceAccount::new("ns1", "account1"),
        sources: [ServiceAccount::new("ns0", "account0")].into(),
        tcp: None,
        http: vec![grant],
    });
    let mesh = Mesh::new(parts);
    let client = mesh.compile(mesh.workload("pod0-3").unwrap());
    assert_sound(&client);
    let names: Vec<&str> = client.clusters.keys().map(AsRef::as_ref).collect();
    assert_eq!(names, ["ns0/service0|8080|local", "ns1/service1|8080"]);
    assert_eq!(
        mesh.compile(mesh.workload("pod2-0").unwrap()).outbound,
        None
    );
}

#[test]
fn two_pods_with_one_uuid_are_both_nobody() {
    let mut parts = large(1, true);
    let mut copy = parts.workloads[0].clone();
    copy.name = "copy".into();
    let uuid = copy.proxy_uuid.clone();
    parts.workloads.push(copy);
    assert_eq!(Mesh::new(parts).workload(&uuid), None);
}

#[test]
fn two_ports_with_one_target_share_a_cluster_only_if_they_are_alike() {
    for (protocol, expected) in [
        (Protocol::Http, vec!["ns0/service0|8080"]),
        (
            Protocol::Tcp,
            vec!["ns0/service0|8080", "ns0/service0|8080|81"],
        ),
    ] {
        let mut parts = large(1, true);
        let mut second = parts.services[0].ports[0].clone();
        (second.port, second.protocol) = (81, protocol);
        parts.services[0].ports.push(second);
        parts.workloads[0].name = "outside".into();
        let mesh = Mesh::new(parts);
        let config = mesh.compile(mesh.workload("pod0-0").unwrap());
        assert_sound(&config);
        let clusters = config.all_clusters();
        let names: BTreeSet<&str> = clusters.map(|cluster| &*cluster.name).collect();
        let names: Vec<&str> = names.into_iter().collect();
        assert_eq!(names, expected, "{protocol:?}");
    }
}
