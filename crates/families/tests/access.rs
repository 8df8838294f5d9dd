//! Acceptance scenarios of SMI access control, on the compiled configurations.

mod support;

use serde_json::{Value, json};
use support::{
    call::{Answer::*, call, get, only},
    http_rules,
    shop::{WEB, all_of, http_port, served, shop, web},
};

#[test]
fn acl_01_default_deny() {
    assert_eq!(web(&shop(), "client1", "/"), Refused);
}

#[test]
fn acl_02_an_allow_opens_exactly_that_path_and_its_deletion_closes_it() {
    let mut world = shop();
    all_of(&mut world);
    assert_eq!(web(&world, "client1", "/x"), served());
    assert_eq!(web(&world, "client2", "/x"), Refused);
    world
        .index
        .remove(families::Kind::TrafficTarget, "shop", "web");
    assert_eq!(web(&world, "client1", "/x"), Refused);
}

#[test]
fn acl_04_per_route_identity() {
    let mut world = shop();
    world
        .route_group(
            "shop/routes",
            json!([
                {"name": "a", "pathRegex": "/anything", "methods": ["GET", "HEAD", "*"]},
                {"name": "b", "pathRegex": "/foo", "methods": ["GET"]},
            ]),
        )
        .target(
            "shop/one",
            "web",
            &["shop/client1"],
            json!([{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["a"]}]),
        )
        .target(
            "shop/two",
            "web",
            &["shop/client2"],
            json!([{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["b"]}]),
        );
    assert_eq!(web(&world, "client1", "/anything"), served());
    assert_eq!(web(&world, "client2", "/anything"), Status(403));
    assert_eq!(web(&world, "client2", "/foo"), served());
    world
        .index
        .remove(families::Kind::TrafficTarget, "shop", "two");
    assert_eq!(web(&world, "client2", "/anything"), Refused);
    assert_eq!(web(&world, "client1", "/anything"), served());
}

#[test]
fn acl_05_a_target_outside_the_destinations_namespace_is_void() {
    for namespace in [json!("shop"), Value::Null] {
        let mut world = shop();
        world.route_group("other/all", json!([{"name": "all"}]));
        world.apply::<api::access::v1alpha3::TrafficTarget>(json!({
            "metadata": {"namespace": "other", "name": "t"},
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": "web", "namespace": namespace},
                "sources": [{"kind": "ServiceAccount", "name": "client1", "namespace": "shop"}],
                "rules": [{"kind": "HTTPRouteGroup", "name": "all"}],
            },
        }));
        assert_eq!(web(&world, "client1", "/"), Refused, "{namespace}");
        assert!(
            world
                .problems()
                .iter()
                .any(|problem| problem.contains("destination.namespace"))
        );
    }
}

#[test]
fn acl_08_sources_of_one_and_of_several_targets_add_up() {
    let mut world = shop();
    all_of(&mut world);
    world.target(
        "shop/second",
        "web",
        &["shop/client2", "other/client1"],
        http_rules(&["all"]),
    );
    for client in ["client1", "client2", "stranger"] {
        assert_eq!(web(&world, client, "/"), served(), "{client}");
    }
    world
        .index
        .remove(families::Kind::TrafficTarget, "shop", "second");
    assert_eq!(web(&world, "client1", "/"), served());
    assert_eq!(web(&world, "client2", "/"), Refused);
}

#[test]
fn acl_08_a_narrow_grant_never_hides_a_wide_one() {
    // Upstream judges by the first route whose path matches, and denies client2 here.
    let mut world = shop();
    world
        .route_group(
            "shop/narrow",
            json!([{"name": "n", "pathRegex": "/books.*"}]),
        )
        .route_group("shop/wide", json!([{"name": "w", "pathRegex": ".*"}]))
        .target("shop/a", "web", &["shop/client1"], http_rules(&["narrow"]))
        .target("shop/b", "web", &["shop/client2"], http_rules(&["wide"]));
    assert_eq!(web(&world, "client2", "/books-bought"), served());
    assert_eq!(web(&world, "client1", "/books-bought"), served());
    assert_eq!(web(&world, "client1", "/admin"), Status(403));
}

#[test]
fn acl_09_the_same_account_name_in_another_namespace_is_another_identity() {
    let mut world = shop();
    all_of(&mut world);
    assert_eq!(web(&world, "client1", "/"), served());
    assert_eq!(web(&world, "stranger", "/"), Refused);
}

#[test]
fn acl_10_the_destination_is_the_account_not_the_service() {
    let mut world = shop();
    all_of(&mut world);
    world.service(
        "shop/web2",
        "10.96.0.11",
        http_port(),
        &[("web-0", "10.244.0.10")],
    );
    let mesh = world.mesh();
    for (ip, host) in [(WEB, "web.shop"), ("10.96.0.11", "web2.shop")] {
        assert_eq!(
            only(call(&mesh, "client1", ip, 80, &get(host, "/"))),
            served(),
            "{host}"
        );
    }
}

#[test]
fn acl_10_only_pods_of_the_destination_account_take_the_traffic() {
    let mut world = shop();
    all_of(&mut world);
    let pods = [("web-0", "10.244.0.10"), ("web-1", "10.244.0.11")];
    world
        .pod("shop/web-1", "canary", "10.244.0.11")
        .service("shop/web", WEB, http_port(), &pods);
    assert_eq!(web(&world, "client1", "/"), served());
}

#[test]
fn acl_12_and_13_matches_of_a_rule() {
    for (matches, a, b) in [
        (json!([]), served(), served()),
        (json!(["a"]), served(), Status(403)),
        (json!(["a", "unknown"]), served(), Status(403)),
        (json!(["unknown"]), Refused, Refused),
    ] {
        let mut world = shop();
        let routes = json!([{"name": "a", "pathRegex": "/a"}, {"name": "b", "pathRegex": "/b"}]);
        let rules = json!([{"kind": "HTTPRouteGroup", "name": "routes", "matches": matches}]);
        world.route_group("shop/routes", routes);
        world.target("shop/t", "web", &["shop/client1"], rules.clone());
        assert_eq!(web(&world, "client1", "/a"), a, "{rules}");
        assert_eq!(web(&world, "client1", "/b"), b, "{rules}");
    }
}

#[test]
fn acl_14_a_missing_route_group_gives_nothing_until_it_exists() {
    let mut world = shop();
    world.target("shop/t", "web", &["shop/client1"], http_rules(&["all"]));
    assert_eq!(web(&world, "client1", "/"), Refused);
    assert!(
        world
            .problems()
            .iter()
            .any(|problem| problem.contains("E2005"))
    );
    world.route_group("shop/all", json!([{"name": "all"}]));
    assert_eq!(web(&world, "client1", "/"), served());
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn acl_15_and_16_invalid_parts() {
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": "shop"});
    let user = json!({"kind": "User", "name": "client2", "namespace": "shop"});
    let http = json!({"kind": "HTTPRouteGroup", "name": "all"});
    let udp = json!({"kind": "UDPRoute", "name": "udp"});
    let no_namespace = json!({"kind": "ServiceAccount", "name": "client1"});
    for (why, destination, sources, rules, expected) in [
        (
            "valid",
            account("web"),
            json!([account("client1")]),
            json!([http]),
            served(),
        ),
        (
            "one bad source",
            account("web"),
            json!([user, account("client1")]),
            json!([http]),
            served(),
        ),
        (
            "no source",
            account("web"),
            json!([]),
            json!([http]),
            Refused,
        ),
        (
            "source without namespace",
            account("web"),
            json!([no_namespace]),
            json!([http]),
            Refused,
        ),
        (
            "kind of destination",
            json!({"kind": "Group", "name": "web", "namespace": "shop"}),
            json!([account("client1")]),
            json!([http]),
            Refused,
        ),
        (
            "no rules",
            account("web"),
            json!([account("client1")]),
            json!([]),
            Refused,
        ),
        (
            "UDPRoute",
            account("web"),
            json!([account("client1")]),
            json!([http, udp]),
            Refused,
        ),
    ] {
        let mut world = shop();
        world.route_group("shop/all", json!([{"name": "all"}]));
        world.apply::<api::access::v1alpha3::TrafficTarget>(json!({
            "metadata": {"namespace": "shop", "name": "t"},
            "spec": {"destination": destination, "sources": sources, "rules": rules},
        }));
        assert_eq!(web(&world, "client1", "/"), expected, "{why}");
        assert_ne!(web(&world, "client2", "/"), served(), "{why}");
    }
}

#[test]
fn acl_18_a_certificate_of_another_account_is_judged_as_that_account() {
    let mut world = shop();
    all_of(&mut world);
    let mesh = world.mesh();
    let server = mesh.workload("web-0").unwrap();
    let name = "web.shop.svc.cluster.local";
    let arrive = |client: &str| {
        support::call::arrive(&mesh, server, client, name, 8080, &get("web.shop", "/"))
    };
    assert_eq!(arrive("spiffe://cluster.local/client1/shop"), served());
    assert_eq!(arrive("spiffe://cluster.local/client2/shop"), Closed);
    assert_eq!(arrive("spiffe://cluster.local/client1/other"), Closed);
    assert_eq!(arrive("spiffe://other.domain/client1/shop"), Closed);
}

#[test]
fn acl_19_no_way_around_by_address() {
    let mut world = shop();
    all_of(&mut world);
    let mesh = world.mesh();
    assert_eq!(
        only(call(
            &mesh,
            "client1",
            "10.244.0.10",
            8080,
            &get("web.shop", "/")
        )),
        Closed
    );
    assert_eq!(
        only(call(
            &mesh,
            "client2",
            "10.244.0.10",
            8080,
            &get("web.shop", "/")
        )),
        Refused
    );
}

#[test]
fn acl_21_traffic_within_one_account_needs_a_target_too() {
    let mut world = shop();
    world.pod("shop/web-1", "web", "10.244.0.11");
    assert_eq!(web(&world, "web-1", "/"), Refused);
    world
        .route_group("shop/all", json!([{"name": "all"}]))
        .target("shop/self", "web", &["shop/web"], http_rules(&["all"]));
    assert_eq!(web(&world, "web-1", "/"), served());
}
