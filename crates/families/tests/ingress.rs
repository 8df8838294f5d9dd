//! Acceptance scenarios of ingress, on the compiled configurations.

mod support;

use std::net::IpAddr;

use families::{Kind, Outcome};
use model::{Access, IngressChain, IngressGate};
use serde_json::{Value, json};
use support::{
    World,
    call::{Answer, Answer::*},
    http_rules,
    shop::shop,
};

/// How a client outside the mesh speaks.
enum Speaks<'a> {
    ClearText,
    /// TLS with this server name and a certificate of the mesh's root with this name, or without any.
    Tls(&'a str, Option<&'a str>),
}

/// What a client at `source` gets from `port` of pod `web-0`, by the rules of Envoy.
fn enter(world: &World, source: &str, port: u16, speaks: &Speaks<'_>) -> Answer {
    let mesh = world.mesh();
    let config = mesh.compile(mesh.workload("web-0").unwrap());
    let Some(inbound) = &config.inbound else {
        return Closed;
    };
    let source: IpAddr = source.parse().unwrap();
    let length = |chain: &IngressChain| match chain.sources.as_slice() {
        [] => Some(0),
        sources => {
            let hits = sources.iter().filter(|network| network.contains(&source));
            hits.map(|network| network.prefix_len() + 1).max()
        }
    };
    let speaks_so = |chain: &IngressChain| match (&chain.gate, speaks) {
        (IngressGate::ClearText, Speaks::ClearText) => true,
        (IngressGate::Tls { server_names, .. }, Speaks::Tls(name, _)) => {
            server_names.is_empty() || server_names.iter().any(|known| **known == **name)
        }
        _ => false,
    };
    let chains = inbound.ingress.iter().filter(|chain| chain.port == port);
    let chain = chains
        .filter(|chain| speaks_so(chain) && length(chain).is_some())
        .max_by_key(|chain| length(chain));
    let Some(chain) = chain else {
        return Closed;
    };
    let proven = match speaks {
        Speaks::ClearText => None,
        Speaks::Tls(_, proven) => *proven,
    };
    if matches!(chain.gate, IngressGate::Tls { verified: true, .. }) && proven.is_none() {
        return Closed;
    }
    assert!(config.routes.contains_key(&chain.table));
    let named = |rules: &[model::Rule]| {
        let mut principals = rules.iter().flat_map(|rule| &rule.principals);
        principals.any(|name| Some(&**name) == proven)
    };
    match &chain.requests {
        Access::Everyone => Served("web-0".into()),
        Access::Only(rules) if named(rules) => Served("web-0".into()),
        Access::Only(_) => Status(403),
    }
}

fn http(world: &World, source: &str) -> Answer {
    enter(world, source, 8080, &Speaks::ClearText)
}

fn served() -> Answer {
    Served("web-0".into())
}

fn backend(protocol: &str) -> Value {
    json!({"name": "web", "port": {"number": 8080, "protocol": protocol}})
}

fn https(skip: bool) -> Value {
    let mut backend = backend("https");
    backend["tls"] = json!({"skipClientCertValidation": skip});
    backend
}

fn principal(name: &str) -> Value {
    json!({"kind": "AuthenticatedPrincipal", "name": name})
}

fn gateway() -> Value {
    json!({"kind": "Service", "name": "gateway", "namespace": "edge"})
}

fn range(network: &str) -> Value {
    json!({"kind": "IPRange", "name": network})
}

/// The shop behind a gateway of two pods without sidecars.
fn edge() -> World {
    let mut world = shop();
    world.namespace("edge").service(
        "edge/gateway",
        "10.96.1.1",
        json!([{"port": 80}]),
        &[("gw-0", "10.244.9.1"), ("gw-1", "10.244.9.2")],
    );
    world
}

fn ingress(world: &mut World, name: &str, backends: Value, sources: Value) {
    world.apply::<api::policy::v1alpha1::IngressBackend>(json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"backends": backends, "sources": sources},
    }));
}

fn outcome(world: &World, name: &str) -> Outcome {
    let key = (Kind::IngressBackend, ("shop".into(), name.into()));
    world.index.build().statuses[&key].clone()
}

fn error(world: &World, name: &str) -> String {
    match outcome(world, name) {
        Outcome::Error(reason) | Outcome::Conflict(reason) => reason,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn ing_01_without_an_ingress_backend_nobody_enters() {
    let mut world = edge();
    assert_eq!(http(&world, "10.244.9.1"), Closed);
    support::shop::all_of(&mut world);
    assert_eq!(http(&world, "10.244.9.1"), Closed);
}

#[test]
fn ing_02_03_the_source_services_pods_enter_and_nobody_else() {
    let mut world = edge();
    ingress(
        &mut world,
        "in",
        json!([backend("http")]),
        json!([gateway()]),
    );
    assert_eq!(http(&world, "10.244.9.1"), served());
    assert_eq!(http(&world, "10.244.9.2"), served());
    assert_eq!(http(&world, "10.244.9.3"), Closed);
    assert_eq!(
        http(&world, "10.244.0.1"),
        Closed,
        "a workload of the mesh is nobody special"
    );
    let outcome = outcome(&world, "in");
    assert_eq!(outcome.current_status(), "committed");
    assert_eq!(outcome.reason(), "successfully committed by the system");
    world.index.remove(Kind::IngressBackend, "shop", "in");
    assert_eq!(http(&world, "10.244.9.1"), Closed);
}

#[test]
fn ing_04_05_06_https_admits_by_principal_unless_it_skips() {
    let mut world = edge();
    let proven = Speaks::Tls("web", Some("gateway.edge.cluster.local"));
    let other = Speaks::Tls("web", Some("untrusted-client.cluster.local"));
    let bare = Speaks::Tls("web", None);
    let enter = |world: &World, speaks| enter(world, "10.244.9.1", 8080, speaks);
    let sources = json!([gateway(), principal("gateway.edge.cluster.local")]);
    ingress(&mut world, "in", json!([https(false)]), sources.clone());
    assert_eq!(enter(&world, &proven), served());
    assert_eq!(enter(&world, &other), Status(403));
    assert_eq!(enter(&world, &bare), Closed);
    assert_eq!(enter(&world, &Speaks::ClearText), Closed);

    ingress(&mut world, "in", json!([https(true)]), sources);
    assert_eq!(enter(&world, &other), served());
    assert_eq!(enter(&world, &bare), served());

    let anybody = json!([gateway(), principal("*")]);
    ingress(&mut world, "in", json!([https(false)]), anybody);
    assert_eq!(enter(&world, &other), served());
    assert_eq!(enter(&world, &bare), Closed);
}

#[test]
fn https_without_a_principal_admits_nobody() {
    let mut world = edge();
    ingress(&mut world, "in", json!([https(false)]), json!([gateway()]));
    assert!(error(&world, "in").contains("at least one 'AuthenticatedPrincipal`"));
    let workload = Speaks::Tls("web", Some("spiffe://cluster.local/client1/shop"));
    assert_eq!(enter(&world, "10.244.9.1", 8080, &workload), Closed);
}

#[test]
fn ing_07_08_pods_of_the_source_are_followed_and_none_is_an_error_that_heals() {
    let mut world = edge();
    ingress(
        &mut world,
        "in",
        json!([backend("http")]),
        json!([gateway()]),
    );
    let ports = || json!([{"port": 80}]);
    world.service(
        "edge/gateway",
        "10.96.1.1",
        ports(),
        &[("gw-2", "10.244.9.7")],
    );
    assert_eq!(http(&world, "10.244.9.7"), served());
    assert_eq!(http(&world, "10.244.9.1"), Closed);
    world.service("edge/gateway", "10.96.1.1", ports(), &[]);
    assert_eq!(
        http(&world, "10.244.9.7"),
        Closed,
        "nobody must not become anybody"
    );
    assert_eq!(
        error(&world, "in"),
        "endpoints not found for service edge/gateway"
    );
    world.service(
        "edge/gateway",
        "10.96.1.1",
        ports(),
        &[("gw-3", "10.244.9.8")],
    );
    assert_eq!(http(&world, "10.244.9.8"), served());
    assert_eq!(outcome(&world, "in"), Outcome::Committed);
}

#[test]
fn a_source_in_a_namespace_outside_the_mesh_has_no_endpoints() {
    let mut world = shop();
    world.service(
        "far/gateway",
        "10.96.1.1",
        json!([{"port": 80}]),
        &[("gw-0", "10.244.9.1")],
    );
    let far = json!({"kind": "Service", "name": "gateway", "namespace": "far"});
    ingress(&mut world, "in", json!([backend("http")]), json!([far]));
    assert!(error(&world, "in").starts_with("endpoints not found"));
}

#[test]
fn ing_09_the_port_is_the_target_port() {
    let mut world = edge();
    let service_port = json!({"name": "web", "port": {"number": 80, "protocol": "http"}});
    ingress(&mut world, "in", json!([service_port]), json!([gateway()]));
    assert_eq!(enter(&world, "10.244.9.1", 80, &Speaks::ClearText), Closed);
    assert_eq!(http(&world, "10.244.9.1"), Closed);
}

#[test]
fn ing_10_ip_ranges_are_sources() {
    let mut world = edge();
    let sources = json!([range("10.1.2.3/8"), range("2001:db8::/32")]);
    ingress(&mut world, "in", json!([backend("http")]), sources);
    assert_eq!(http(&world, "10.244.9.3"), served());
    assert_eq!(http(&world, "192.0.2.1"), Closed);
    assert_eq!(http(&world, "2001:db8::1"), served());
    ingress(
        &mut world,
        "in",
        json!([backend("http")]),
        json!([range("10.0.0.0")]),
    );
    assert!(error(&world, "in").contains("Expected CIDR notation"));
    assert_eq!(http(&world, "10.244.9.3"), Closed);
}

#[test]
fn ing_11_no_sources_admit_everybody_and_backends_add_up() {
    let mut world = edge();
    let admin = json!({"name": "admin", "port": {"number": 9090, "protocol": "http"}});
    world.service(
        "shop/admin",
        "10.96.0.11",
        json!([{"port": 90, "name": "http", "targetPort": 9090}]),
        &[("web-0", "10.244.0.10")],
    );
    ingress(&mut world, "in", json!([backend("http"), admin]), json!([]));
    assert_eq!(http(&world, "192.0.2.1"), served());
    let other = enter(&world, "192.0.2.1", 9090, &Speaks::ClearText);
    assert_eq!(other, served());
}

#[test]
fn ing_13_traffic_targets_neither_open_nor_narrow_ingress() {
    let mut world = edge();
    world
        .route_group("shop/one", json!([{"name": "one", "pathRegex": "/one"}]))
        .target("shop/t", "web", &["shop/client1"], http_rules(&["one"]));
    assert_eq!(http(&world, "10.244.9.1"), Closed);
    ingress(
        &mut world,
        "in",
        json!([backend("http")]),
        json!([gateway()]),
    );
    assert_eq!(http(&world, "10.244.9.1"), served());
}

#[test]
fn ing_19_only_the_server_names_listed() {
    let mut world = edge();
    let mut backend = https(true);
    backend["tls"]["sniHosts"] = json!(["Shop.example"]);
    ingress(&mut world, "in", json!([backend]), json!([gateway()]));
    let at = |name| enter(&world, "10.244.9.1", 8080, &Speaks::Tls(name, None));
    assert_eq!(at("shop.example"), served());
    assert_eq!(at("other.example"), Closed);
}

#[test]
fn of_two_objects_for_one_port_the_first_stands_and_the_other_is_told() {
    let mut world = edge();
    ingress(
        &mut world,
        "a",
        json!([backend("http")]),
        json!([gateway()]),
    );
    ingress(&mut world, "b", json!([backend("http")]), json!([]));
    assert_eq!(outcome(&world, "a"), Outcome::Committed);
    assert_eq!(
        error(&world, "b"),
        "backend web port 8080 conflicts with IngressBackend shop/a"
    );
    assert_eq!(http(&world, "192.0.2.1"), Closed);
}

#[test]
fn an_ingress_backend_opens_services_of_its_own_namespace_only() {
    let mut world = edge();
    world.apply::<api::policy::v1alpha1::IngressBackend>(json!({
        "metadata": {"namespace": "other", "name": "in"},
        "spec": {"backends": [backend("http")], "sources": []},
    }));
    assert_eq!(http(&world, "192.0.2.1"), Closed);
}

#[test]
fn matches_nobody_reads_open_nothing() {
    let mut world = edge();
    world.apply::<api::policy::v1alpha1::IngressBackend>(json!({
        "metadata": {"namespace": "shop", "name": "in"},
        "spec": {
            "backends": [backend("http")], "sources": [],
            "matches": [{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "x"}],
        },
    }));
    assert_eq!(error(&world, "in"), "matches is not supported");
    assert_eq!(http(&world, "192.0.2.1"), Closed);
}

#[test]
fn services_that_share_a_port_yield_one_chain_for_the_same_clients() {
    let mut world = edge();
    world.service(
        "shop/twin",
        "10.96.0.11",
        json!([{"port": 80, "name": "http", "targetPort": 8080}]),
        &[("web-0", "10.244.0.10")],
    );
    let twin = json!({"name": "twin", "port": {"number": 8080, "protocol": "http"}});
    ingress(
        &mut world,
        "a",
        json!([backend("http"), twin]),
        json!([gateway()]),
    );
    let mesh = world.mesh();
    let config = mesh.compile(mesh.workload("web-0").unwrap());
    assert_eq!(config.inbound.unwrap().ingress.len(), 1);
    assert_eq!(http(&world, "10.244.9.1"), served());
}
