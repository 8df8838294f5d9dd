//! Acceptance scenarios of permissive mode and splits, on the compiled configurations.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{
    World,
    call::{Answer, Answer::*, Sent, call, get, only},
    http_rules,
};

const APEX: &str = "10.96.0.1";

/// An apex over two versions with accounts of their own, and a client.
fn versions(port: Value) -> World {
    let mut world = World::new();
    let all = [("v1", "10.244.0.11"), ("v2", "10.244.0.12")];
    world
        .namespace("shop")
        .pod("shop/client", "client", "10.244.0.1")
        .pod("shop/v1", "v1", "10.244.0.11")
        .pod("shop/v2", "v2", "10.244.0.12")
        .service("shop/web", APEX, json!([port.clone()]), &all)
        .service("shop/web-v1", "10.96.0.2", json!([port.clone()]), &all[..1])
        .service("shop/web-v2", "10.96.0.3", json!([port]), &all[1..])
        .route_group("shop/all", json!([{"name": "all"}]));
    world
}

fn http() -> Value {
    json!({"port": 80, "targetPort": 8080})
}

fn apex(world: &World) -> BTreeSet<Answer> {
    call(&world.mesh(), "client", APEX, 80, &get("web.shop", "/"))
}

fn pods(names: &[&str]) -> BTreeSet<Answer> {
    names.iter().map(|name| Served(name.to_string())).collect()
}

#[test]
fn perm_01_and_03_the_switch() {
    let mut world = versions(http());
    world.mesh_config(true, false);
    assert_eq!(apex(&world), pods(&["v1", "v2"]));
    world.mesh_config(false, false);
    assert_eq!(apex(&world), [Refused].into());
}

#[test]
fn perm_02_mutual_tls_stays_mandatory() {
    let mut world = versions(http());
    world.mesh_config(true, false);
    let mesh = world.mesh();
    let config = mesh.compile(mesh.workload("v1").unwrap());
    let inbound = config.inbound.unwrap();
    assert_eq!(&*inbound.trust, "root-cert-for-mtls-inbound:shop/v1");
    assert!(
        inbound
            .chains
            .iter()
            .all(|chain| !chain.server_names.is_empty())
    );
}

#[test]
fn perm_05_targets_are_ignored_and_splits_honoured() {
    let mut world = versions(http());
    world
        .mesh_config(true, false)
        .target("shop/t", "v1", &["shop/nobody"], http_rules(&["all"]))
        .split("shop/s", "web", json!([{"service": "web-v2", "weight": 1}]));
    assert_eq!(apex(&world), pods(&["v2"]));
}

#[test]
fn perm_06_and_07_services_of_unmonitored_namespaces_are_outside() {
    let mut world = versions(http());
    world
        .mesh_config(true, false)
        .pod("wild/w", "w", "10.244.0.40")
        .service(
            "wild/w",
            "10.96.0.40",
            json!([{"port": 80}]),
            &[("w", "10.244.0.40")],
        );
    let answer = |world: &World| {
        only(call(
            &world.mesh(),
            "client",
            "10.96.0.40",
            80,
            &get("w.wild", "/"),
        ))
    };
    assert_eq!(answer(&world), Closed);
    assert!(world.mesh().workload("w").is_none());
    world.mesh_config(true, true);
    assert_eq!(answer(&world), Left("10.96.0.40:80".into()));
}

#[test]
fn without_a_mesh_config_nothing_is_allowed() {
    let mut world = versions(http());
    world.mesh_config(true, true);
    world
        .index
        .remove(families::Kind::MeshConfig, "osm-system", "osm-mesh-config");
    assert_eq!(apex(&world), [Refused].into());
}

#[test]
fn an_external_authorizer_that_cannot_be_asked_lets_nobody_in() {
    for (failure_mode_allow, expected) in
        [(false, [Status(403)].into()), (true, pods(&["v1", "v2"]))]
    {
        let mut world = versions(http());
        world.apply::<api::config::v1alpha2::MeshConfig>(json!({
            "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
            "spec": {"traffic": {
                "enablePermissiveTrafficPolicyMode": true,
                "inboundExternalAuthorization": {"enable": true, "failureModeAllow": failure_mode_allow},
            }},
        }));
        assert_eq!(apex(&world), expected);
        assert!(!world.problems().is_empty());
    }
}

#[test]
fn obs_06_the_collector_of_the_mesh_config_is_told() {
    let tracing = |spec: serde_json::Value| {
        let mut world = versions(http());
        world.apply::<api::config::v1alpha2::MeshConfig>(json!({
            "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
            "spec": {"observability": {"tracing": spec}},
        }));
        let mesh = world.mesh();
        let workload = mesh.workload("client").unwrap();
        let tracing = mesh.compile(workload).tracing;
        let tracing = tracing.map(|t| format!("{}:{}{} {}", t.host, t.port, t.path, t.sampled));
        (tracing, world.problems().len())
    };
    let own = "jaeger.osm-system.svc.cluster.local:9411/api/v2/spans";
    for (spec, expected, problems) in [
        (json!({"enable": false, "address": "x"}), None, 0),
        (json!({"enable": true}), Some(format!("{own} 10000")), 0),
        (
            json!({"enable": true, "address": "zipkin.obs", "port": 65535, "endpoint": "/s", "sampledFraction": "0.25"}),
            Some("zipkin.obs:65535/s 2500".to_owned()),
            0,
        ),
        (
            json!({"enable": true, "sampledFraction": 0}),
            Some(format!("{own} 0")),
            0,
        ),
        (
            json!({"enable": true, "sampledFraction": "1.5"}),
            Some(format!("{own} 10000")),
            1,
        ),
        (
            json!({"enable": true, "endpoint": "spans"}),
            Some(format!("{own} 10000")),
            1,
        ),
        (json!({"enable": true, "port": 0}), None, 1),
    ] {
        assert_eq!(tracing(spec.clone()), (expected, problems), "{spec}");
    }
}

#[test]
fn split_01_to_07_weights() {
    for (v1, v2, expected) in [
        (100.0, 0.0, pods(&["v1"])),
        (50.0, 50.0, pods(&["v1", "v2"])),
        (0.0, 100.0, pods(&["v2"])),
        (0.5, 0.25, pods(&["v1", "v2"])),
        (-1.0, 1.0, pods(&["v2"])),
        (0.0, 0.0, [Status(503)].into()),
    ] {
        for permissive in [true, false] {
            let mut world = versions(http());
            world
                .mesh_config(permissive, false)
                .target("shop/t1", "v1", &["shop/client"], http_rules(&["all"]))
                .target("shop/t2", "v2", &["shop/client"], http_rules(&["all"]))
                .split(
                    "shop/s",
                    "web",
                    json!([
                        {"service": "web-v1", "weight": v1}, {"service": "web-v2", "weight": v2},
                    ]),
                );
            assert_eq!(apex(&world), expected, "{v1} {v2} {permissive}");
            // Backends stay reachable by their own names.
            let direct = call(
                &world.mesh(),
                "client",
                "10.96.0.2",
                80,
                &get("web-v1", "/"),
            );
            assert_eq!(direct, pods(&["v1"]));
        }
    }
}

#[test]
fn split_03_tcp() {
    let mut world = versions(json!({"port": 80, "targetPort": 8080, "name": "tcp-x"}));
    world.mesh_config(true, false).split(
        "shop/s",
        "web.shop.svc.cluster.local",
        json!([{"service": "web-v1", "weight": 1}]),
    );
    assert_eq!(
        call(&world.mesh(), "client", APEX, 80, &Sent::Bytes),
        pods(&["v1"])
    );
}

#[test]
fn split_grants_nothing_and_leaves_out_what_is_not_granted() {
    let mut world = versions(http());
    world.split(
        "shop/s",
        "web",
        json!([
            {"service": "web-v1", "weight": 1}, {"service": "web-v2", "weight": 1},
            {"service": "missing", "weight": 1},
        ]),
    );
    assert_eq!(apex(&world), [Refused].into());
    world.target("shop/t", "v1", &["shop/client"], http_rules(&["all"]));
    assert_eq!(apex(&world), pods(&["v1"]));
    assert!(
        world
            .problems()
            .iter()
            .any(|problem| problem.contains("backend missing"))
    );
}

#[test]
fn split_01_an_apex_without_endpoints() {
    let mut world = versions(http());
    world
        .service("shop/web", APEX, json!([http()]), &[])
        .target("shop/t", "v2", &["shop/client"], http_rules(&["all"]))
        .split("shop/s", "web", json!([{"service": "web-v2", "weight": 1}]));
    assert_eq!(apex(&world), pods(&["v2"]));
}

#[test]
fn split_18_requests_without_match_go_to_the_root_service() {
    let mut world = versions(http());
    world
        .mesh_config(true, false)
        .service("shop/web", APEX, json!([http()]), &[("v1", "10.244.0.11")])
        .route_group(
            "shop/firefox",
            json!([{"name": "f", "headers": [{"user-agent": ".*Firefox.*"}]}]),
        )
        .apply::<api::split::v1alpha4::TrafficSplit>(json!({
            "metadata": {"namespace": "shop", "name": "s"},
            "spec": {
                "service": "web",
                "matches": [{"kind": "HTTPRouteGroup", "name": "firefox"}],
                "backends": [{"service": "web-v2", "weight": 1}],
            },
        }));
    assert_eq!(apex(&world), pods(&["v1"]));
    let firefox = support::call::request("GET", "web", "/", &[("user-agent", "A Firefox 1")]);
    assert_eq!(
        call(&world.mesh(), "client", APEX, 80, &firefox),
        pods(&["v2"])
    );
}
