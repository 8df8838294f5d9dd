//! Acceptance scenarios of HTTP matching and of TCP, on the compiled configurations.

mod support;

use serde_json::json;
use support::{
    World,
    call::{Answer, Answer::*, Sent, call, get, only, request},
    http_rules,
    shop::{WEB, all_of, http_port, served, shop, web},
    tcp_rules,
};

#[test]
fn spec_01_to_04_matches() {
    for (found, sent, expected) in [
        (
            json!({"pathRegex": "/books"}),
            get("web.shop", "/books"),
            true,
        ),
        (
            json!({"pathRegex": "/books"}),
            get("web.shop", "/books?x=1"),
            true,
        ),
        (
            json!({"pathRegex": "/books"}),
            get("web.shop", "/books/2"),
            false,
        ),
        (
            json!({"pathRegex": "/books"}),
            get("web.shop", "/x/books"),
            false,
        ),
        (
            json!({"pathRegex": "/status.*"}),
            get("web.shop", "/status/200"),
            true,
        ),
        (json!({"methods": ["GET"]}), get("web.shop", "/"), true),
        (
            json!({"methods": ["GET"]}),
            request("POST", "web.shop", "/", &[]),
            false,
        ),
        (
            json!({"methods": ["GET"]}),
            request("HEAD", "web.shop", "/", &[]),
            false,
        ),
        (
            json!({"methods": ["*"]}),
            request("PATCH", "web.shop", "/", &[]),
            true,
        ),
        (json!({}), request("DELETE", "web.shop", "/any", &[]), true),
        (
            json!({"headers": [{"user-agent": ".*-http-client/*.*"}, {"client-app": "bookbuyer"}]}),
            request(
                "GET",
                "web.shop",
                "/",
                &[
                    ("User-Agent", "Go-http-client/1.1"),
                    ("Client-App", "bookbuyer"),
                ],
            ),
            true,
        ),
        (
            json!({"headers": [{"user-agent": ".*-http-client/*.*"}, {"client-app": "bookbuyer"}]}),
            request(
                "GET",
                "web.shop",
                "/",
                &[("User-Agent", "Go-http-client/1.1")],
            ),
            false,
        ),
        (
            json!({"headers": [{"client-app": "bookbuyer"}]}),
            request("GET", "web.shop", "/", &[("client-app", "bookbuyers")]),
            false,
        ),
        (
            json!({"headers": [{"host": "web.shop"}]}),
            get("web.shop", "/"),
            true,
        ),
        (
            json!({"headers": [{"host": "web.shop"}]}),
            get("web", "/"),
            false,
        ),
    ] {
        let mut world = shop();
        let mut found = found;
        found["name"] = json!("m");
        world
            .route_group("shop/routes", json!([found.clone()]))
            .target("shop/t", "web", &["shop/client1"], http_rules(&["routes"]));
        let expected = if expected { served() } else { Status(403) };
        let answer = only(call(&world.mesh(), "client1", WEB, 80, &sent));
        assert_eq!(answer, expected, "{found} {sent:?}");
    }
}

#[test]
fn spec_07_hosts_of_a_service() {
    let mut world = shop();
    world.mesh_config(true, false);
    let names = [
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster",
        "web.shop.svc.cluster.local",
    ];
    for (client, host, expected) in names
        .iter()
        .flat_map(|name| {
            [
                ("client1", name.to_string()),
                ("stranger", name.to_string()),
            ]
        })
        .flat_map(|(client, host)| [(client, host.clone()), (client, format!("{host}:80"))])
        .map(|(client, host)| (client, host, served()))
        .chain([
            ("client1", "web".into(), served()),
            ("client1", "web:80".into(), served()),
            ("stranger", "web".into(), Status(404)),
            ("client1", "nobody.shop".into(), Status(404)),
            ("client1", WEB.into(), Status(404)),
        ])
    {
        let answer = only(call(&world.mesh(), client, WEB, 80, &get(&host, "/")));
        assert_eq!(answer, expected, "{client} {host}");
    }
}

/// A TCP echo server on 9000 and 9001.
fn echo(app_protocol: &str) -> World {
    let mut world = World::new();
    let port =
        |name: &str, port: u16| json!({"name": name, "port": port, "appProtocol": app_protocol});
    world
        .namespace("tcp")
        .pod("tcp/client", "client", "10.244.0.1")
        .pod("tcp/echo", "echo", "10.244.0.10")
        .service(
            "tcp/echo",
            "10.96.0.20",
            json!([port("a", 9000), port("b", 9001)]),
            &[("echo", "10.244.0.10")],
        );
    world
}

fn dial(world: &World, port: u16) -> Answer {
    only(call(
        &world.mesh(),
        "client",
        "10.96.0.20",
        port,
        &Sent::Bytes,
    ))
}

#[test]
fn tcp_01_and_02_with_and_without_smi() {
    let mut world = echo("tcp");
    let served = Served("echo".into());
    assert_eq!(dial(&world, 9000), Refused);
    world.tcp_route("tcp/route", json!([9000])).target(
        "tcp/t",
        "echo",
        &["tcp/client"],
        tcp_rules(&["route"]),
    );
    assert_eq!(dial(&world, 9000), served);
    world
        .index
        .remove(families::Kind::TrafficTarget, "tcp", "t");
    assert_eq!(dial(&world, 9000), Refused);
    world.mesh_config(true, false);
    assert_eq!(dial(&world, 9000), served);
    assert_eq!(dial(&echo("tcp-server-first"), 9000), Refused);
}

#[test]
fn tcp_04_to_06_ports_of_tcp_routes() {
    let served = || Served("echo".into());
    for (routes, rules, a, b) in [
        (
            vec![("r", json!([]))],
            tcp_rules(&["r"]),
            served(),
            served(),
        ),
        (
            vec![("r", json!([9000]))],
            tcp_rules(&["r"]),
            served(),
            Closed,
        ),
        (
            vec![("r", json!([9000])), ("s", json!([9001]))],
            tcp_rules(&["r", "s"]),
            served(),
            served(),
        ),
        (
            vec![("r", json!([9000])), ("s", json!([]))],
            tcp_rules(&["r", "s"]),
            served(),
            served(),
        ),
        (
            vec![("r", json!([9000, 70000]))],
            tcp_rules(&["r"]),
            served(),
            Closed,
        ),
        (
            vec![("r", json!([70000]))],
            tcp_rules(&["r"]),
            Refused,
            Refused,
        ),
        (
            vec![("r", json!([9000]))],
            tcp_rules(&["r", "missing"]),
            Refused,
            Refused,
        ),
    ] {
        let mut world = echo("tcp");
        for (name, ports) in routes {
            world.tcp_route(&format!("tcp/{name}"), ports);
        }
        world.target("tcp/t", "echo", &["tcp/client"], rules.clone());
        assert_eq!((dial(&world, 9000), dial(&world, 9001)), (a, b), "{rules}");
    }
}

#[test]
fn tcp_05_ports_and_sources_of_several_targets_do_not_mix() {
    let mut world = echo("tcp");
    world
        .pod("tcp/second", "second", "10.244.0.2")
        .tcp_route("tcp/a", json!([9000]))
        .tcp_route("tcp/b", json!([9001]))
        .target("tcp/t1", "echo", &["tcp/client"], tcp_rules(&["a"]))
        .target("tcp/t2", "echo", &["tcp/second"], tcp_rules(&["b"]));
    let mesh = world.mesh();
    for (client, port, expected) in [
        ("client", 9000, Served("echo".into())),
        ("client", 9001, Closed),
        ("second", 9000, Closed),
        ("second", 9001, Served("echo".into())),
    ] {
        let answer = only(call(&mesh, client, "10.96.0.20", port, &Sent::Bytes));
        assert_eq!(answer, expected, "{client} {port}");
    }
}

#[test]
fn a_route_group_opens_no_tcp_port_and_a_tcp_route_no_request() {
    let mut world = echo("tcp");
    world
        .route_group("tcp/all", json!([{"name": "all"}]))
        .target("tcp/t", "echo", &["tcp/client"], http_rules(&["all"]));
    assert_eq!(dial(&world, 9000), Refused);
    let mut world = shop();
    world.tcp_route("shop/any", json!([])).target(
        "shop/t",
        "web",
        &["shop/client1"],
        tcp_rules(&["any"]),
    );
    assert_eq!(web(&world, "client1", "/"), Status(403));
}

#[test]
fn tcp_route_and_route_group_of_one_target_must_both_hold() {
    for (port, expected) in [(8080, served()), (9090, Closed)] {
        let mut world = shop();
        world
            .pod("shop/web-1", "web", "10.244.0.11")
            .service("shop/more", "10.96.0.30", json!([{"port": 9090}]), &[("web-1", "10.244.0.11")])
            .route_group("shop/all", json!([{"name": "all"}]))
            .tcp_route("shop/port", json!([port]))
            .target(
                "shop/t",
                "web",
                &["shop/client1"],
                json!([{"kind": "HTTPRouteGroup", "name": "all"}, {"kind": "TCPRoute", "name": "port"}]),
            );
        assert_eq!(web(&world, "client1", "/"), expected, "{port}");
    }
}

#[test]
fn tcp_12_named_target_ports_differ_per_pod() {
    let mut world = shop();
    all_of(&mut world);
    world.pod("shop/web-1", "web", "10.244.0.11");
    world.apply::<k8s_openapi::api::core::v1::Endpoints>(json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "subsets": [
            {"addresses": [{"ip": "10.244.0.10"}], "ports": [{"name": "http-web", "port": 8080}]},
            {"addresses": [{"ip": "10.244.0.11"}], "ports": [{"name": "http-web", "port": 9090}]},
        ],
    }));
    let answers = call(&world.mesh(), "client1", WEB, 80, &get("web.shop", "/"));
    assert_eq!(answers, [served(), Served("web-1".into())].into());
}

#[test]
fn tcp_14_and_15_headless_services() {
    let pods = [("web-0", "10.244.0.10"), ("web-1", "10.244.0.11")];
    let mut world = shop();
    all_of(&mut world);
    world
        .pod("shop/web-1", "web", "10.244.0.11")
        .service("shop/web", "None", http_port(), &pods);
    let mesh = world.mesh();
    let both = [served(), Served("web-1".into())].into();
    assert_eq!(
        call(&mesh, "client1", "10.244.0.11", 80, &get("web.shop", "/")),
        both
    );
    let one = call(
        &mesh,
        "client1",
        "10.244.0.10",
        80,
        &get("web-1.web.shop", "/"),
    );
    assert_eq!(only(one), Served("web-1".into()));

    let mut world = World::new();
    world
        .mesh_config(true, false)
        .namespace("shop")
        .pod("shop/client1", "client1", "10.244.0.1")
        .pod("shop/web-0", "web", "10.244.0.10")
        .pod("shop/web-1", "web", "10.244.0.11")
        .service(
            "shop/web",
            "None",
            json!([{"port": 2181, "name": "tcp-zk"}]),
            &pods,
        );
    let answer = call(&world.mesh(), "client1", "10.244.0.11", 2181, &Sent::Bytes);
    assert_eq!(only(answer), Served("web-1".into()));
}

#[test]
fn tcp_20_and_21_services_without_pods() {
    let mut world = shop();
    world
        .mesh_config(true, false)
        .service("shop/web", WEB, http_port(), &[]);
    assert_eq!(web(&world, "client1", "/"), Status(503));
    // A service without selector whose endpoints are no pods is outside the mesh.
    world.apply::<k8s_openapi::api::core::v1::Service>(json!({
        "metadata": {"namespace": "shop", "name": "kubernetes"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "name": "https"}]},
    }));
    let answer = call(
        &world.mesh(),
        "client1",
        "10.96.0.1",
        443,
        &Sent::Tls("kubernetes".into()),
    );
    assert_eq!(only(answer), Closed);
    world.egress(
        "shop/api",
        json!({
            "sources": [{"kind": "ServiceAccount", "name": "client1", "namespace": "shop"}],
            "ipAddresses": ["10.96.0.1/32"], "ports": [{"number": 443, "protocol": "https"}],
        }),
    );
    let answer = call(
        &world.mesh(),
        "client1",
        "10.96.0.1",
        443,
        &Sent::Tls("kubernetes".into()),
    );
    assert_eq!(only(answer), Left("10.96.0.1:443".into()));
}

#[test]
fn tcp_21_endpoints_written_by_hand_lead_to_pods_of_their_own_namespace_only() {
    let mut world = shop();
    world
        .mesh_config(true, false)
        .namespace("other")
        .pod("other/db-0", "db", "10.244.0.50");
    for (name, cluster_ip, ip) in [
        ("near", "10.96.0.41", "10.244.0.10"),
        ("far", "10.96.0.42", "10.244.0.50"),
        ("outside", "10.96.0.43", "192.0.2.1"),
    ] {
        world
            .apply::<k8s_openapi::api::core::v1::Service>(json!({
                "metadata": {"namespace": "shop", "name": name},
                "spec": {"clusterIP": cluster_ip, "ports": http_port()},
            }))
            .apply::<k8s_openapi::api::core::v1::Endpoints>(json!({
                "metadata": {"namespace": "shop", "name": name},
                "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "http-web", "port": 8080}]}],
            }));
    }
    let mesh = world.mesh();
    for (name, cluster_ip, expected) in [
        ("near", "10.96.0.41", served()),
        ("far", "10.96.0.42", Closed),
        ("outside", "10.96.0.43", Closed),
    ] {
        let sent = get(&format!("{name}.shop"), "/");
        let answer = only(call(&mesh, "client1", cluster_ip, 80, &sent));
        assert_eq!(answer, expected, "{name}");
    }
    let problems = world.problems();
    let told = "Service shop/far: address 10.244.0.50 is pod other/db-0, of another namespace: it is not reached by this Service";
    assert_eq!(problems, [told]);
}

#[test]
fn tcp_19_a_pod_that_leaves_the_endpoints_serves_on_but_gets_nothing_new() {
    use support::call::arrive;
    let mut world = shop();
    world
        .route_group("shop/all", json!([{"name": "all"}]))
        .target("shop/t", "web", &["shop/client1"], http_rules(&["all"]));
    world.apply::<k8s_openapi::api::core::v1::Pod>(json!({
        "metadata": {
            "namespace": "shop", "name": "web-1", "uid": "u",
            "labels": {"osm-proxy-uuid": "web-1", "app": "web"},
        },
        "spec": {"serviceAccountName": "web", "containers": [
            {"name": "c", "ports": [{"name": "main", "containerPort": 9090}]},
        ]},
        "status": {"phase": "Running", "podIP": "10.244.0.11"},
    }));
    for (target, port) in [(json!(8080), 8080), (json!("main"), 9090)] {
        let ports = json!([{"port": 80, "name": "http-web", "targetPort": target}]);
        world.apply::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": WEB, "selector": {"app": "web"}, "ports": ports},
        }));
        let mesh = world.mesh();
        let leaving = mesh.workload("web-1").unwrap();
        let client = "spiffe://cluster.local/client1/shop";
        let sent = get("web.shop", "/");
        let name = "web.shop.svc.cluster.local";
        let answer = arrive(&mesh, leaving, client, name, port, &sent);
        assert_eq!(answer, Served("web-1".into()), "{port}");
        assert_eq!(web(&world, "client1", "/"), served());
    }
}
