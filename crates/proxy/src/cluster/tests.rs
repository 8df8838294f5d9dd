//! The choice over whole clusters: policies, priorities, localities, health.

use std::collections::BTreeMap;

use super::testing::{assignment, cluster_with, endpoint};
use super::*;

fn cluster(policy: LbPolicy) -> Arc<Cluster> {
    cluster_with(|config| config.policy = policy)
}

fn shares(cluster: &Arc<Cluster>, rounds: u64) -> Vec<(u16, u64)> {
    let mut counts = BTreeMap::new();
    for round in 0..rounds {
        let roll = round.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        if let Ok(chosen) = cluster.choose(&ChoiceContext::of_proxy(roll)) {
            *counts
                .entry(chosen.endpoint.config.address.port())
                .or_insert(0) += 1;
        }
    }
    counts.into_iter().collect()
}

fn with(health: Reported, config: EndpointConfig) -> EndpointConfig {
    EndpointConfig { health, ..config }
}

#[test]
fn round_robin_takes_turns_and_weights_count() {
    let cluster = cluster(LbPolicy::RoundRobin);
    assert_eq!(shares(&cluster, 3), []);
    cluster.assign(assignment(vec![
        endpoint(1, 1, 0),
        endpoint(2, 1, 0),
        endpoint(3, 1, 1),
    ]));
    assert_eq!(
        shares(&cluster, 10),
        [(1, 5), (2, 5)],
        "the second priority rests"
    );
    cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 3, 0)]));
    assert_eq!(shares(&cluster, 4000), [(1, 1000), (2, 3000)]);
}

#[test]
fn chance_is_even_and_least_request_goes_by_weight_while_all_is_idle() {
    let endpoints = || assignment(vec![endpoint(1, 1, 0), endpoint(2, 4, 0)]);
    let random = cluster(LbPolicy::Random);
    random.assign(endpoints());
    let even = shares(&random, 4000);
    assert!((1850..2150).contains(&even[0].1), "{even:?}");
    for contest in [Contest::Some(2), Contest::Some(5)] {
        let least = cluster(LbPolicy::LeastRequest(contest));
        least.assign(endpoints());
        let found = shares(&least, 4000);
        assert!((700..900).contains(&found[0].1), "{found:?}");
    }
}

#[test]
fn least_request_prefers_the_idle_one() {
    for contest in [Contest::Some(12), Contest::All] {
        let cluster = cluster(LbPolicy::LeastRequest(contest));
        cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
        let busy = cluster.choose(&ChoiceContext::of_proxy(0)).unwrap();
        let idle = 3 - busy.endpoint.config.address.port();
        let found = shares(&cluster, 400);
        let to_idle = found.iter().find(|(port, _)| *port == idle).unwrap().1;
        assert!(to_idle > 395, "{contest:?} {found:?}");
    }
}

#[test]
fn what_is_unhealthy_is_not_used_and_the_next_priority_steps_in() {
    let cluster = cluster(LbPolicy::RoundRobin);
    let bad = with(Reported::Unhealthy, endpoint(1, 1, 0));
    cluster.assign(assignment(vec![bad.clone(), endpoint(2, 1, 1)]));
    assert_eq!(shares(&cluster, 10), [(2, 10)]);
    // Half of the first priority is left: 70 % stay, the rest spills over.
    cluster.assign(assignment(vec![
        bad.clone(),
        endpoint(3, 1, 0),
        endpoint(2, 1, 1),
    ]));
    let found = shares(&cluster, 10_000);
    assert!(
        (2800..3200).contains(&found[0].1) && found.len() == 2,
        "{found:?}"
    );
    // Too few are healthy: panic, all are used.
    let worse = with(Reported::Draining, endpoint(4, 1, 0));
    cluster.assign(assignment(vec![bad, worse, endpoint(3, 1, 0)]));
    assert_eq!(shares(&cluster, 30), [(1, 10), (3, 10), (4, 10)]);
    assert!(cluster.balance.healthy_panic.get() >= 30);
}

#[test]
fn without_panic_the_few_that_are_healthy_carry_all_or_none_does() {
    let endpoints = assignment(vec![
        with(Reported::Unhealthy, endpoint(1, 1, 0)),
        with(Reported::Unhealthy, endpoint(2, 1, 0)),
        endpoint(3, 1, 0),
    ]);
    let calm = cluster_with(|config| config.balance.panic_threshold = 0.0);
    calm.assign(endpoints.clone());
    assert_eq!(shares(&calm, 10), [(3, 10)]);
    let failing = cluster_with(|config| config.balance.fail_in_panic = true);
    failing.assign(endpoints);
    assert_eq!(shares(&failing, 10), []);
}

#[test]
fn degraded_endpoints_fill_the_gap() {
    let cluster = cluster(LbPolicy::RoundRobin);
    let degraded = with(Reported::Degraded, endpoint(2, 1, 0));
    cluster.assign(assignment(vec![endpoint(1, 1, 0), degraded]));
    let found = shares(&cluster, 10_000);
    assert!((6800..7200).contains(&found[0].1), "{found:?}");
}

#[test]
fn localities_share_by_weight_and_health() {
    let locality = |name: &str, weight| Locality {
        name: [String::new(), name.into(), String::new()],
        weight,
    };
    let at = |locality, config| EndpointConfig { locality, ..config };
    let endpoints = vec![
        at(0, endpoint(1, 1, 0)),
        at(0, endpoint(2, 3, 0)),
        at(1, endpoint(3, 1, 0)),
        at(2, endpoint(4, 1, 0)),
    ];
    let list = Assignment {
        endpoints,
        localities: vec![locality("a", 1), locality("b", 3), locality("c", 0)],
        ..Assignment::default()
    };
    let weighted = cluster_with(|config| config.balance.locality_weighted = true);
    weighted.assign(Arc::new(list.clone()));
    let found = shares(&weighted, 16_000);
    for ((port, count), (expected, share)) in
        found.iter().zip([(1, 1000.0), (2, 3000.0), (3, 12_000.0)])
    {
        assert_eq!(
            *port, expected,
            "a locality without weight gets nothing: {found:?}"
        );
        assert!((*count as f64 - share).abs() / share < 0.02, "{found:?}");
    }
    // Locality b is ill: the others' share grows.
    let mut ill = list;
    ill.endpoints[2].health = Reported::Unhealthy;
    weighted.assign(Arc::new(ill));
    assert_eq!(shares(&weighted, 400), [(1, 100), (2, 300)]);
}

#[test]
fn equal_hashes_go_to_equal_endpoints_and_only_a_removed_ones_keys_move() {
    for policy in [
        LbPolicy::RingHash(lb::ring::Settings::default()),
        LbPolicy::Maglev(65_537),
    ] {
        let cluster = cluster(policy);
        let all: Vec<EndpointConfig> = (1..=8).map(|port| endpoint(port, 1, 0)).collect();
        let owners = || -> Vec<u16> {
            let keys = (0..2000u64).map(|key| lb::hash::xx64(&key.to_le_bytes(), 0));
            keys.map(|hash| {
                let context = ChoiceContext {
                    hash: Some(hash),
                    ..ChoiceContext::of_proxy(crate::worker::roll())
                };
                cluster
                    .choose(&context)
                    .unwrap()
                    .endpoint
                    .config
                    .address
                    .port()
            })
            .collect()
        };
        cluster.assign(assignment(all.clone()));
        let before = owners();
        assert_eq!(before, owners());
        cluster.assign(assignment(all[..7].to_vec()));
        let after = owners();
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != 8 && b != a);
        assert!(moved.count() < 300, "{policy:?}");
        assert!(!after.contains(&8));
    }
}

#[test]
fn endpoints_that_stay_keep_their_load_and_others_are_let_go() {
    let cluster = cluster(LbPolicy::RoundRobin);
    cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
    let first = cluster.endpoints.load().all[0].endpoint.clone();
    cluster.assign(assignment(vec![
        with(Reported::Unhealthy, endpoint(1, 5, 1)),
        endpoint(2, 1, 0),
    ]));
    let view = cluster.endpoints.load_full();
    assert!(
        Arc::ptr_eq(&first, &view.all[0].endpoint),
        "weight, priority and health are not the endpoint"
    );
    assert_eq!(first.health(), Health::Unhealthy);
    drop(view);
    cluster.assign(assignment(vec![endpoint(2, 1, 0)]));
    assert!(first.is_removed());
    assert_eq!(Arc::strong_count(&first), 1, "a removed endpoint is let go");
}

#[test]
fn an_original_destination_is_pooled_by_address() {
    let cluster = cluster_with(|config| config.discovery = Discovery::OriginalDestination);
    let context = |port| ChoiceContext {
        destination: Some(std::net::SocketAddr::from(([10, 0, 0, 1], port))),
        ..ChoiceContext::of_proxy(0)
    };
    let one = cluster.choose(&context(1)).unwrap();
    let same = cluster.choose(&context(1)).unwrap();
    let other = cluster.choose(&context(2)).unwrap();
    assert!(Arc::ptr_eq(&one.endpoint, &same.endpoint));
    assert!(!Arc::ptr_eq(&one.endpoint, &other.endpoint));
    assert!(cluster.choose(&ChoiceContext::of_proxy(0)).is_err());

    let named = cluster_with(|config| {
        config.discovery = Discovery::OriginalDestination;
        config.original.header = Some(http::HeaderName::from_static("x-to"));
        config.original.port = Some(9);
    });
    let mut headers = http::HeaderMap::new();
    headers.insert("x-to", "10.9.9.9:80".parse().unwrap());
    let by_header = ChoiceContext {
        headers: Some(&headers),
        ..ChoiceContext::of_proxy(0)
    };
    let chosen = named.choose(&by_header).unwrap();
    assert_eq!(chosen.endpoint.config.address.to_string(), "10.9.9.9:9");
    let chosen = named.choose(&context(1)).unwrap();
    assert_eq!(chosen.endpoint.config.address.to_string(), "10.0.0.1:9");
}
