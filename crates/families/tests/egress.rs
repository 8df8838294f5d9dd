//! Acceptance scenarios of egress, on the compiled configurations.

mod support;

use serde_json::{Value, json};
use support::{
    World,
    call::{Answer, Answer::*, Sent, call, get, only},
};

const OUTSIDE: &str = "198.51.100.7";

fn browser() -> World {
    let mut world = World::new();
    world
        .namespace("curl")
        .pod("curl/curl", "curl", "10.244.0.1")
        .pod("curl/other", "other", "10.244.0.2");
    world
}

fn policy(hosts: &[&str], number: u16, protocol: &str, rest: Value) -> Value {
    let mut spec = json!({
        "sources": [{"kind": "ServiceAccount", "name": "curl", "namespace": "curl"}],
        "hosts": hosts,
        "ports": [{"number": number, "protocol": protocol}],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    spec
}

fn out(world: &World, ip: &str, port: u16, sent: Sent) -> Answer {
    only(call(&world.mesh(), "curl", ip, port, &sent))
}

fn sni(name: &str) -> Sent {
    Sent::Tls(name.into())
}

#[test]
fn egr_01_to_03_passthrough() {
    let mut world = browser();
    for (egress, answer) in [(false, Refused), (true, Left("198.51.100.7:443".into()))] {
        world.mesh_config(false, egress);
        for sent in [sni("a.test"), Sent::Bytes, get("a.test", "/")] {
            assert_eq!(out(&world, OUTSIDE, 443, sent), answer);
        }
    }
}

#[test]
fn egr_04_http_host() {
    let mut world = browser();
    world.egress("curl/e", policy(&["httpbin.test"], 80, "http", json!({})));
    let left = Left("httpbin.test:80".into());
    assert_eq!(out(&world, OUTSIDE, 80, get("httpbin.test", "/x")), left);
    assert_eq!(out(&world, OUTSIDE, 80, get("httpbin.test:80", "/x")), left);
    assert_eq!(
        out(&world, OUTSIDE, 80, get("other.test", "/")),
        Status(404)
    );
    assert_eq!(out(&world, OUTSIDE, 81, get("httpbin.test", "/")), Closed);
    assert_eq!(out(&world, OUTSIDE, 80, sni("httpbin.test")), Closed);
    world.index.remove(families::Kind::Egress, "curl", "e");
    assert_eq!(out(&world, OUTSIDE, 80, get("httpbin.test", "/")), Refused);
}

#[test]
fn egr_05_https_by_server_name() {
    let mut world = browser();
    world.egress(
        "curl/e",
        policy(&["httpbin.test", "*.wild.test"], 443, "https", json!({})),
    );
    let left = Left("198.51.100.7:443".into());
    assert_eq!(out(&world, OUTSIDE, 443, sni("httpbin.test")), left);
    assert_eq!(out(&world, OUTSIDE, 443, sni("a.wild.test")), left);
    assert_eq!(out(&world, OUTSIDE, 443, sni("other.test")), Closed);
    assert_eq!(out(&world, OUTSIDE, 443, Sent::Bytes), Closed);
}

#[test]
fn egr_06_tcp_by_port_and_range() {
    let mut world = browser();
    world.egress("curl/e", policy(&["ignored.test"], 443, "tcp", json!({})));
    let left = Left("198.51.100.7:443".into());
    assert_eq!(out(&world, OUTSIDE, 443, sni("any.test")), left);
    world.egress(
        "curl/e",
        policy(&[], 443, "tcp", json!({"ipAddresses": ["198.51.100.0/24"]})),
    );
    assert_eq!(out(&world, OUTSIDE, 443, Sent::Bytes), left);
    assert_eq!(out(&world, "203.0.113.1", 443, Sent::Bytes), Closed);
}

#[test]
fn egr_07_routes() {
    let mut world = browser();
    let matches = json!({"matches": [
        {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "routes"},
    ]});
    world.egress("curl/e", policy(&["httpbin.test"], 80, "http", matches));
    let path = |world: &World, path: &str| out(world, OUTSIDE, 80, get("httpbin.test", path));
    assert_eq!(path(&world, "/get"), Status(404), "the group is missing");
    world.route_group("curl/routes", json!([{"name": "get", "pathRegex": "/get"}]));
    assert_eq!(path(&world, "/get"), Left("httpbin.test:80".into()));
    assert_eq!(path(&world, "/status/200"), Status(404));
    world.route_group(
        "curl/routes",
        json!([
            {"name": "get", "pathRegex": "/get"}, {"name": "status", "pathRegex": "/status.*"},
        ]),
    );
    assert_eq!(path(&world, "/status/200"), Left("httpbin.test:80".into()));
}

#[test]
fn egr_08_only_the_listed_accounts_and_only_policies_of_the_mesh() {
    let mut world = browser();
    world.egress("curl/e", policy(&["a.test"], 80, "http", json!({})));
    let other = call(&world.mesh(), "other", OUTSIDE, 80, &get("a.test", "/"));
    assert_eq!(only(other), Refused);
    let mut world = browser();
    world.egress("wild/e", policy(&["a.test"], 80, "http", json!({})));
    assert_eq!(out(&world, OUTSIDE, 80, get("a.test", "/")), Refused);
}

#[test]
fn egr_12_addresses_are_enforced_for_every_protocol() {
    for (protocol, sent) in [
        ("http", get("a.test", "/")),
        ("https", sni("a.test")),
        ("tcp", Sent::Bytes),
        ("tcp-server-first", Sent::Bytes),
    ] {
        let mut world = browser();
        let range = json!({"ipAddresses": ["198.51.100.0/24", "300.1.1.1/99"]});
        world.egress("curl/e", policy(&["a.test"], 80, protocol, range));
        assert!(
            matches!(out(&world, OUTSIDE, 80, sent.clone()), Left(_)),
            "{protocol}"
        );
        assert_eq!(
            out(&world, "203.0.113.1", 80, sent.clone()),
            Closed,
            "{protocol}"
        );
        // What cannot be read never turns a list into "anywhere".
        let nowhere = json!({"ipAddresses": ["300.1.1.1/99"]});
        world.egress("curl/e", policy(&["a.test"], 80, protocol, nowhere));
        let answer = out(&world, OUTSIDE, 80, sent);
        assert!(matches!(answer, Refused | Closed), "{protocol} {answer:?}");
    }
}

#[test]
fn overlapping_policies_add_up() {
    let mut world = browser();
    world
        .egress("curl/wide", policy(&["wide.test"], 80, "http", json!({})))
        .egress(
            "curl/net",
            policy(
                &["net.test"],
                80,
                "http",
                json!({"ipAddresses": ["198.51.0.0/16"]}),
            ),
        )
        .egress(
            "curl/sub",
            policy(&[], 80, "tcp", json!({"ipAddresses": ["198.51.100.0/24"]})),
        )
        .egress("curl/tls", policy(&["tls.test"], 80, "https", json!({})));
    for (ip, sent, expected) in [
        (OUTSIDE, get("wide.test", "/"), Left("wide.test:80".into())),
        (OUTSIDE, get("net.test", "/"), Left("net.test:80".into())),
        (OUTSIDE, sni("tls.test"), Left("198.51.100.7:80".into())),
        (OUTSIDE, sni("other.test"), Left("198.51.100.7:80".into())),
        (OUTSIDE, Sent::Bytes, Left("198.51.100.7:80".into())),
        (
            "198.51.7.7",
            get("wide.test", "/"),
            Left("wide.test:80".into()),
        ),
        (
            "198.51.7.7",
            get("net.test", "/"),
            Left("net.test:80".into()),
        ),
        ("198.51.7.7", sni("tls.test"), Left("198.51.7.7:80".into())),
        ("198.51.7.7", sni("other.test"), Closed),
        ("198.51.7.7", Sent::Bytes, Closed),
        (
            "203.0.113.1",
            get("wide.test", "/"),
            Left("wide.test:80".into()),
        ),
        ("203.0.113.1", get("net.test", "/"), Status(404)),
    ] {
        assert_eq!(out(&world, ip, 80, sent.clone()), expected, "{ip} {sent:?}");
    }
}

#[test]
fn egr_13_policies_are_idle_under_passthrough() {
    let mut world = browser();
    world
        .egress("curl/e", policy(&["a.test"], 80, "http", json!({})))
        .mesh_config(false, true);
    assert_eq!(
        out(&world, OUTSIDE, 80, get("b.test", "/")),
        Left("198.51.100.7:80".into())
    );
}

#[test]
fn egr_14_server_first_ports_are_not_inspected() {
    let mut world = browser();
    world.egress("curl/e", policy(&[], 3306, "tcp-server-first", json!({})));
    let mesh = world.mesh();
    let config = mesh.compile(mesh.workload("curl").unwrap());
    assert_eq!(
        config.outbound.as_ref().unwrap().server_first,
        [3306].into()
    );
}

#[test]
fn egr_17_a_missing_traffic_setting_voids_the_policy() {
    let mut world = browser();
    let matches = json!({"matches": [{
        "apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "u",
    }]});
    world.egress("curl/e", policy(&["a.test"], 80, "http", matches));
    assert_eq!(out(&world, OUTSIDE, 80, get("a.test", "/")), Refused);
    world.apply::<api::policy::v1alpha1::UpstreamTrafficSetting>(json!({
        "metadata": {"namespace": "curl", "name": "u"}, "spec": {"host": "a.test"},
    }));
    assert_eq!(
        out(&world, OUTSIDE, 80, get("a.test", "/")),
        Left("a.test:80".into())
    );
}

#[test]
fn egr_bad_input_opens_nothing_more() {
    for (hosts, port, protocol, expected) in [
        (&["a b"][..], 443, "https", Refused),
        (&["*"][..], 443, "https", Refused),
        (&[][..], 443, "https", Left("198.51.100.7:443".into())),
        (&["a.test"][..], 443, "quic", Refused),
        (
            &["a.test"][..],
            443,
            "HTTPS",
            Left("198.51.100.7:443".into()),
        ),
    ] {
        let mut world = browser();
        world.egress("curl/e", policy(hosts, port, protocol, json!({})));
        assert_eq!(
            out(&world, OUTSIDE, port, sni("a.test")),
            expected,
            "{hosts:?} {protocol}"
        );
    }
}
