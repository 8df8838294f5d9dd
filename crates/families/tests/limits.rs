//! Acceptance scenarios of connection limits, rate limits, retries and the external authorizer, on the compiled
//! configurations.

mod support;

use std::time::Duration;

use families::{Kind, Outcome};
use model::{
    Access, ConnectionLimits, Counted, DescriptorEntry, HeaderIs, ProxyConfig, RouteMatch,
    TokenBucket, UpstreamHttp, VirtualHost,
};
use serde_json::{Value, json};
use support::{World, http_rules, shop::shop};

const HOST: &str = "web.shop.svc.cluster.local";

fn config(world: &World, pod: &str) -> ProxyConfig {
    let mesh = world.mesh();
    mesh.compile(mesh.workload(pod).unwrap())
}

fn setting(world: &mut World, name: &str, spec: Value) {
    world.apply::<api::policy::v1alpha1::UpstreamTrafficSetting>(
        json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec}),
    );
}

fn outcome(world: &World, name: &str) -> Outcome {
    let key = ("shop".into(), name.into());
    world.index.build().statuses[&(Kind::UpstreamTrafficSetting, key)].clone()
}

/// The shop in permissive mode.
fn open() -> World {
    let mut world = shop();
    world.mesh_config(true, false);
    world
}

fn limits(world: &World) -> ConnectionLimits {
    config(world, "client1")
        .cluster("shop/web|8080")
        .unwrap()
        .limits
        .clone()
}

fn inbound_host(world: &World) -> std::sync::Arc<VirtualHost> {
    config(world, "web-0").routes["rds-inbound.8080"].hosts[0].clone()
}

#[test]
fn cb_02_10_limits_are_the_clients_and_go_with_the_object() {
    let mut world = open();
    assert_eq!(limits(&world), ConnectionLimits::default());
    let http = json!({"maxRequests": 3, "maxPendingRequests": 1, "maxRetries": 4, "maxRequestsPerConnection": 0});
    let tcp = json!({"maxConnections": 1, "connectTimeout": "2s"});
    let spec = json!({"host": HOST, "connectionSettings": {"tcp": tcp, "http": http}});
    setting(&mut world, "s", spec);
    let expected = ConnectionLimits {
        connections: Some(1),
        pending_requests: Some(1),
        requests: Some(3),
        retries: Some(4),
        requests_per_connection: None,
        connect_timeout: Some(Duration::from_secs(2)),
        breaker: None,
    };
    assert_eq!(limits(&world), expected);
    assert_eq!(outcome(&world, "s"), Outcome::Committed);
    world
        .index
        .remove(Kind::UpstreamTrafficSetting, "shop", "s");
    assert_eq!(limits(&world), ConnectionLimits::default());
}

#[test]
fn cb_11_of_two_settings_for_a_host_the_first_counts_and_the_other_is_told() {
    let mut world = open();
    let spec = |limit: u64| json!({"host": HOST, "connectionSettings": {"tcp": {"maxConnections": limit}}});
    setting(&mut world, "a", spec(1));
    setting(&mut world, "b", spec(2));
    assert_eq!(limits(&world).connections, Some(1));
    let (Outcome::Error(reason) | Outcome::Conflict(reason)) = outcome(&world, "b") else {
        panic!("b is committed")
    };
    assert!(reason.contains("shop/a already"), "{reason}");
}

#[test]
fn a_setting_of_another_namespace_or_with_a_short_host_is_of_no_effect() {
    let mut world = open();
    let tcp = json!({"tcp": {"maxConnections": 1}});
    setting(
        &mut world,
        "short",
        json!({"host": "web.shop", "connectionSettings": tcp}),
    );
    world.apply::<api::policy::v1alpha1::UpstreamTrafficSetting>(json!({
        "metadata": {"namespace": "other", "name": "s"},
        "spec": {"host": HOST, "connectionSettings": tcp},
    }));
    assert_eq!(limits(&world), ConnectionLimits::default());
}

#[test]
fn egr_17_an_egress_takes_the_limits_it_refers_to() {
    let mut world = shop();
    let tcp = json!({"maxConnections": 1});
    setting(
        &mut world,
        "s",
        json!({"host": "out.test", "connectionSettings": {"tcp": tcp}}),
    );
    world.egress(
        "shop/e",
        json!({
            "sources": [{"kind": "ServiceAccount", "name": "client1", "namespace": "shop"}],
            "hosts": ["out.test"], "ports": [{"number": 80, "protocol": "http"}],
            "matches": [{"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "s"}],
        }),
    );
    let config = config(&world, "client1");
    assert_eq!(
        config.cluster("out.test:80").unwrap().limits.connections,
        Some(1)
    );
}

#[test]
fn rl_01_02_04_a_services_limit_stands_at_its_pods() {
    let mut world = open();
    let headers = json!([{"name": "x-limited", "value": "yes"}]);
    let http = json!({"requests": 3, "unit": "minute", "burst": 10, "responseStatusCode": 503, "responseHeadersToAdd": headers});
    setting(
        &mut world,
        "s",
        json!({"host": HOST, "rateLimit": {"local": {"http": http}}}),
    );
    let rate = inbound_host(&world).rate.clone().unwrap();
    let bucket = TokenBucket {
        capacity: 13,
        fill: 3,
        interval: Duration::from_secs(60),
    };
    assert_eq!((rate.bucket, rate.status), (bucket, 503));
    assert_eq!(rate.headers, [("x-limited".into(), "yes".into())]);
    let inbound = config(&world, "web-0").inbound.unwrap();
    assert!(inbound.chains.iter().all(|chain| chain.limits_requests));
}

#[test]
fn rl_03_a_paths_limit_wants_the_granted_text() {
    let mut world = shop();
    let limit = |path: &str| json!({"path": path, "rateLimit": {"local": {"requests": 1, "unit": "minute"}}});
    let routes = json!([limit("/get"), limit("/ge.")]);
    setting(&mut world, "s", json!({"host": HOST, "httpRoutes": routes}));
    world
        .route_group("shop/r", json!([{"name": "get", "pathRegex": "/get"}]))
        .target("shop/t", "web", &["shop/client1"], http_rules(&["get"]));
    world.route_group("shop/routes", json!([{"name": "get", "pathRegex": "/get"}]));
    let limited = |world: &World| -> Vec<String> {
        let host = inbound_host(world);
        let limited = host.routes.iter().filter(|route| route.rate.is_some());
        limited
            .map(|route| match &route.matches {
                RouteMatch::Http(matches) => matches.path.as_deref().unwrap().to_owned(),
                RouteMatch::Any => "any".to_owned(),
            })
            .collect()
    };
    let group = json!([{"kind": "HTTPRouteGroup", "name": "r", "matches": ["get"]}]);
    world.target("shop/t", "web", &["shop/client1"], group);
    assert_eq!(limited(&world), ["/get"]);
    world.mesh_config(true, false);
    assert!(limited(&world).is_empty(), "permissive mode grants .*");
    setting(
        &mut world,
        "s",
        json!({"host": HOST, "httpRoutes": [limit(".*")]}),
    );
    assert_eq!(limited(&world), [".*"]);
}

#[test]
fn tcp_limits_stand_on_opaque_ports() {
    let mut world = open();
    world.service(
        "shop/db",
        "10.96.0.20",
        json!([{"port": 5432, "name": "tcp-db"}]),
        &[("web-0", "10.244.0.10")],
    );
    let tcp = json!({"connections": 5, "unit": "second", "burst": 1});
    let host = "db.shop.svc.cluster.local";
    setting(
        &mut world,
        "s",
        json!({"host": host, "rateLimit": {"local": {"tcp": tcp}}}),
    );
    let inbound = config(&world, "web-0").inbound.unwrap();
    let rates: Vec<_> = inbound
        .chains
        .iter()
        .map(|chain| {
            (
                chain.port,
                chain.connection_rate.clone().map(|rate| rate.capacity),
            )
        })
        .collect();
    assert!(
        rates.contains(&(5432, Some(6))) && rates.contains(&(8080, None)),
        "{rates:?}"
    );
}

#[test]
fn fields_that_cannot_be_read_are_named() {
    for (spec, part) in [
        (
            json!({"host": HOST, "connectionSettings": {"tcp": {"connectTimeout": "soon"}}}),
            "connectionSettings.tcp.connectTimeout",
        ),
        (
            json!({"host": HOST, "rateLimit": {"local": {"http": {"requests": 0, "unit": "minute"}}}}),
            "rateLimit.local.http.requests",
        ),
        (
            json!({"host": HOST, "rateLimit": {"local": {"http": {"requests": 1, "unit": "day"}}}}),
            "rateLimit.local.http.unit \"day\"",
        ),
        (
            json!({"host": HOST, "rateLimit": {"local": {"tcp": {"connections": 1, "unit": "hour", "burst": -1}}}}),
            "rateLimit.local.tcp.burst",
        ),
    ] {
        let mut world = open();
        setting(&mut world, "s", spec);
        let Outcome::Error(reason) = outcome(&world, "s") else {
            panic!("{part}: committed")
        };
        assert!(reason.contains(part), "{reason}");
        assert_eq!(limits(&world), ConnectionLimits::default());
    }
}

/// The retry conditions of a client's requests to the web service.
fn retried(world: &World, client: &str) -> Option<String> {
    let config = config(world, client);
    let host = &config.routes["rds-outbound.80"].hosts[0];
    host.retry
        .as_ref()
        .map(|retry| retry.conditions.to_string())
}

fn retry(world: &mut World, name: &str, source: (&str, &str), destinations: Value, on: &str) {
    let policy = json!({"retryOn": on, "numRetries": 5, "perTryTimeout": "1s", "retryBackoffBaseInterval": "1s"});
    world.apply::<api::policy::v1alpha1::Retry>(json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "source": {"kind": source.0, "name": source.1, "namespace": "shop"},
            "destinations": destinations, "retryPolicy": policy,
        },
    }));
}

#[test]
fn rty_02_06_retries_are_the_sources_to_the_destinations_only() {
    let mut world = open();
    let web = || json!([{"kind": "Service", "name": "web", "namespace": "shop"}]);
    retry(&mut world, "a", ("ServiceAccount", "client1"), web(), "5xx");
    assert_eq!(retried(&world, "client1"), None, "the feature is off");
    world.apply::<api::config::v1alpha2::MeshConfig>(json!({
        "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
        "spec": {
            "traffic": {"enablePermissiveTrafficPolicyMode": true},
            "featureFlags": {"enableRetryPolicy": true},
        },
    }));
    assert_eq!(retried(&world, "client1").as_deref(), Some("5xx"));
    assert_eq!(retried(&world, "client2"), None);
    retry(
        &mut world,
        "b",
        ("ServiceAccount", "client1"),
        web(),
        "reset",
    );
    assert_eq!(
        retried(&world, "client1").as_deref(),
        Some("5xx"),
        "the first counts"
    );
    retry(&mut world, "a", ("Pod", "client1"), web(), "5xx");
    assert_eq!(retried(&world, "client1").as_deref(), Some("reset"));
    let pods = json!([{"kind": "Pod", "name": "web", "namespace": "shop"}]);
    retry(&mut world, "b", ("ServiceAccount", "client1"), pods, "5xx");
    assert_eq!(retried(&world, "client1"), None);
}

#[test]
fn rty_bad_input_conditions_nobody_knows_are_reported_and_left_out() {
    let mut world = open();
    world.apply::<api::config::v1alpha2::MeshConfig>(json!({
        "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
        "spec": {
            "traffic": {"enablePermissiveTrafficPolicyMode": true},
            "featureFlags": {"enableRetryPolicy": true},
        },
    }));
    let web = || json!([{"kind": "Service", "name": "web", "namespace": "shop"}]);
    let client = ("ServiceAccount", "client1");
    retry(&mut world, "a", client, web(), "5xx, sometimes ,reset");
    assert_eq!(retried(&world, "client1").as_deref(), Some("5xx,reset"));
    let named = |problem: &String| problem.contains("retryOn: \"sometimes\"");
    assert!(world.problems().iter().any(named), "{:?}", world.problems());
    retry(&mut world, "a", client, web(), "sometimes");
    assert_eq!(retried(&world, "client1"), None);
}

fn authorizer(world: &mut World, authorizer: Value) {
    world.apply::<api::config::v1alpha2::MeshConfig>(json!({
        "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
        "spec": {"traffic": {
            "enablePermissiveTrafficPolicyMode": true, "inboundExternalAuthorization": authorizer,
        }},
    }));
}

#[test]
fn ext_01_02_03_06_the_authorizer_of_the_mesh_config_is_asked() {
    let mut world = open();
    let asked = |world: &World| config(world, "web-0").authorizer;
    assert_eq!(asked(&world), None);
    let mut spec = json!({"enable": true, "address": "opa.opa.svc.cluster.local", "port": 9191, "timeout": "250ms"});
    authorizer(&mut world, spec.clone());
    let found = asked(&world).unwrap();
    assert_eq!(
        (&*found.host, found.port),
        ("opa.opa.svc.cluster.local", 9191)
    );
    assert_eq!(found.timeout, Duration::from_millis(250));
    assert_eq!(
        (found.fail_open, &*found.stat_prefix),
        (false, "inboundExtAuthz")
    );
    spec["timeout"] = json!("soon");
    authorizer(&mut world, spec.clone());
    assert_eq!(asked(&world).unwrap().timeout, Duration::from_secs(1));
    assert!(
        world
            .problems()
            .iter()
            .any(|problem| problem.contains("timeout"))
    );
    spec["enable"] = json!(false);
    authorizer(&mut world, spec);
    assert_eq!(asked(&world), None);
}

#[test]
fn an_authorizer_that_cannot_be_asked_lets_nobody_in() {
    let mut world = open();
    authorizer(
        &mut world,
        json!({"enable": true, "address": "", "port": 9191}),
    );
    let nobody = |world: &World| {
        let chains = config(world, "web-0").inbound.unwrap().chains;
        chains
            .iter()
            .all(|chain| matches!(&chain.requests, Access::Only(rules) if rules.is_empty()))
    };
    assert!(nobody(&world));
    authorizer(
        &mut world,
        json!({"enable": true, "address": "", "port": 9191, "failureModeAllow": true}),
    );
    assert!(!nobody(&world));
}

#[test]
fn cb_06_to_09_a_breaker_stands_at_the_client() {
    let mut world = open();
    let breaking = |breaking: Value| json!({"host": HOST, "connectionSettings": {"http": {"circuitBreaking": breaking}}});
    let given = json!({
        "statTimeWindow": "1m", "minRequestAmount": 200, "errorAmountThreshold": 100, "slowTimeThreshold": "200ms",
        "slowRatioThreshold": 0.1, "degradedTimeWindow": "10s", "degradedStatusCode": 503,
        "degradedResponseContent": "Service Unavailable!",
    });
    setting(&mut world, "s", breaking(given));
    let breaker = limits(&world).breaker.unwrap();
    assert_eq!(breaker.window, Duration::from_secs(60));
    assert_eq!(
        (breaker.errors.amount, breaker.errors.share),
        (Some(100), None)
    );
    assert_eq!(
        (breaker.slow.amount, breaker.slow.share),
        (None, Some(100_000))
    );
    assert_eq!(
        (breaker.status, &*breaker.body),
        (503, "Service Unavailable!")
    );
    // Defaults of osm-edge.
    setting(
        &mut world,
        "s",
        breaking(json!({"errorRatioThreshold": 0.5})),
    );
    let breaker = limits(&world).breaker.unwrap();
    assert_eq!(
        (breaker.window, breaker.open_for),
        (Duration::from_secs(30), Duration::from_secs(30))
    );
    assert_eq!(
        (breaker.min_requests, breaker.slow_after),
        (100, Duration::from_secs(5))
    );
    assert_eq!((breaker.status, &*breaker.body), (409, "Coming soon ..."));
    // Without a threshold it is off.
    for none in [
        json!({}),
        json!({"errorAmountThreshold": 0, "slowRatioThreshold": 0.0}),
    ] {
        setting(&mut world, "s", breaking(none));
        assert_eq!(limits(&world).breaker, None);
        assert_eq!(outcome(&world, "s"), Outcome::Committed);
    }
}

fn global(http: Value) -> Value {
    let service = json!({"host": "rls.rls-test.svc.cluster.local", "port": 8081});
    let mut http = http;
    http["rateLimitService"] = service;
    http["domain"] = json!("test");
    json!({"host": HOST, "rateLimit": {"global": {"http": http}}})
}

#[test]
fn rl_09_to_15_requests_are_described_to_the_service() {
    let mut world = open();
    let fixed = json!({"genericKey": {"value": "v"}});
    let header = json!({"requestHeader": {"name": "My-Header", "key": "my_header"}});
    let matched = json!({"headerValueMatch": {"value": "foo", "headers": [{"name": "other", "present": false}]}});
    let entries = json!([fixed, header, matched, {"remoteAddress": {}}]);
    let http = json!({"descriptors": [{"entries": entries}], "failOpen": false, "timeout": "1s", "responseStatusCode": 503});
    let mut spec = global(http);
    spec["httpRoutes"] = json!([{"path": ".*", "rateLimit": {"global": {"descriptors": [{"entries": [{"genericKey": {"key": "k", "value": "p"}}]}]}}}]);
    setting(&mut world, "s", spec);
    assert_eq!(outcome(&world, "s"), Outcome::Committed);
    let host = inbound_host(&world);
    assert_eq!(
        host.counted,
        [Counted {
            quota: 0,
            descriptor: vec![
                DescriptorEntry::Fixed {
                    key: None,
                    value: "v".into()
                },
                DescriptorEntry::Header {
                    key: "my_header".into(),
                    name: "my-header".into()
                },
                DescriptorEntry::HeaderMatch {
                    key: None,
                    value: "foo".into(),
                    expected: true,
                    headers: vec![("other".into(), HeaderIs::Present(false))],
                },
                DescriptorEntry::RemoteAddress,
            ],
        }]
    );
    let of_path: Vec<_> = host
        .routes
        .iter()
        .map(|route| route.counted.len())
        .collect();
    assert_eq!(of_path, [1, 0]);
    let config = config(&world, "web-0");
    let chain = &config.inbound.as_ref().unwrap().chains[0];
    let quota = &chain.request_quotas[0];
    assert_eq!(
        (quota.status, quota.told, quota.service.fail_open),
        (503, false, false)
    );
    assert_eq!(quota.service.timeout, Duration::from_secs(1));
    assert!(!chain.limits_requests, "nothing is counted here");
    let cluster = config
        .cluster("rls.rls-test.svc.cluster.local|8081")
        .unwrap();
    assert_eq!(cluster.http, UpstreamHttp::Http2);
}

#[test]
fn rl_08_connections_are_described_to_the_service() {
    let mut world = open();
    world.service(
        "shop/db",
        "10.96.0.20",
        json!([{"port": 5432, "name": "tcp-db"}]),
        &[("web-0", "10.244.0.10")],
    );
    let tcp = json!({
        "rateLimitService": {"host": "rls", "port": 8081}, "domain": "test",
        "descriptors": [{"entries": [{"key": "k", "value": "v"}]}],
    });
    let host = "db.shop.svc.cluster.local";
    setting(
        &mut world,
        "s",
        json!({"host": host, "rateLimit": {"global": {"tcp": tcp}}}),
    );
    let config = config(&world, "web-0");
    let inbound = config.inbound.as_ref().unwrap();
    let chain = inbound
        .chains
        .iter()
        .find(|chain| chain.port == 5432)
        .unwrap();
    let quota = chain.connection_quota.as_ref().unwrap();
    assert_eq!(quota.descriptors, [[("k".into(), "v".into())]]);
    // Upstream's defaults.
    assert_eq!(
        (quota.service.timeout, quota.service.fail_open),
        (Duration::from_millis(20), true)
    );
    assert!(config.cluster("rls|8081").is_some());
    let others = inbound.chains.iter().filter(|chain| chain.port != 5432);
    assert!(
        others
            .into_iter()
            .all(|chain| chain.connection_quota.is_none())
    );
}

#[test]
fn services_behind_one_port_keep_their_own_quotas() {
    let mut world = open();
    world.service(
        "shop/also",
        "10.96.0.20",
        json!([{"port": 8080, "name": "http"}]),
        &[("web-0", "10.244.0.10")],
    );
    let entries = json!([{"entries": [{"genericKey": {"value": "v"}}]}]);
    let one = global(json!({"descriptors": entries}));
    let mut other = one.clone();
    other["host"] = json!("also.shop.svc.cluster.local");
    other["rateLimit"]["global"]["http"]["domain"] = json!("other");
    setting(&mut world, "a", one);
    setting(&mut world, "b", other);
    let config = config(&world, "web-0");
    let inbound = config.inbound.as_ref().unwrap();
    for chain in inbound.chains.iter().filter(|chain| chain.port == 8080) {
        for host in &config.routes["rds-inbound.8080"].hosts {
            let index = usize::try_from(host.counted[0].quota).unwrap();
            let expected = if host.name.contains("also") {
                "other"
            } else {
                "test"
            };
            assert_eq!(
                &*chain.request_quotas[index].service.domain, expected,
                "{}",
                host.name
            );
        }
    }
}

#[test]
fn limits_that_cannot_be_read_are_named() {
    let breaking = |breaking: Value| json!({"host": HOST, "connectionSettings": {"http": {"circuitBreaking": breaking}}});
    let entry = |entry: Value| global(json!({"descriptors": [{"entries": [entry]}]}));
    let headers =
        |header: Value| entry(json!({"headerValueMatch": {"value": "v", "headers": [header]}}));
    for (spec, part) in [
        (
            breaking(json!({"statTimeWindow": "long"})),
            "circuitBreaking.statTimeWindow",
        ),
        (
            breaking(json!({"errorRatioThreshold": -0.1})),
            "circuitBreaking.errorRatioThreshold -0.1",
        ),
        (
            breaking(json!({"degradedStatusCode": 1000})),
            "circuitBreaking.degradedStatusCode 1000",
        ),
        (
            global(json!({"timeout": "soon"})),
            "rateLimit.global.http.timeout",
        ),
        (
            global(json!({"responseStatusCode": 200})),
            "rateLimit.global.http.responseStatusCode 200",
        ),
        (
            global(json!({"responseStatusCode": 456})),
            "responseStatusCode 456 is not a status that proxies know",
        ),
        (
            entry(json!({})),
            "descriptors[0].entries[0]: exactly one of",
        ),
        (
            entry(json!({"remoteAddress": {}, "genericKey": {"value": "v"}})),
            "exactly one of genericKey",
        ),
        (
            entry(json!({"requestHeader": {"name": "a b", "key": "k"}})),
            "requestHeader.name \"a b\"",
        ),
        (
            headers(json!({"name": "a"})),
            "headerValueMatch.headers[0]: exactly one of exact",
        ),
        (
            headers(json!({"name": "a", "regex": "("})),
            "headers[0].regex",
        ),
        (
            json!({"host": HOST, "httpRoutes": [{"path": ".*", "rateLimit": {"global": {"descriptors": []}}}]}),
            "httpRoutes[0].rateLimit.global needs rateLimit.global.http",
        ),
        (
            json!({"host": HOST, "rateLimit": {"local": {"http": {"requests": 1, "unit": "hour", "responseHeadersToAdd": [{"name": "a b", "value": "c"}]}}}}),
            "responseHeadersToAdd: \"a b\"",
        ),
    ] {
        let mut world = open();
        setting(&mut world, "s", spec);
        let Outcome::Error(reason) = outcome(&world, "s") else {
            panic!("{part}: committed")
        };
        assert!(reason.contains(part), "{part}: {reason}");
        // Nothing of a broken object takes effect.
        assert_eq!(limits(&world), ConnectionLimits::default(), "{part}");
        assert!(inbound_host(&world).counted.is_empty(), "{part}");
    }
}

#[test]
fn a_breaker_that_envoy_does_without_is_reported() {
    let mut world = open();
    let spec = json!({"host": HOST, "connectionSettings": {"http": {"circuitBreaking": {"errorAmountThreshold": 1}}}});
    setting(&mut world, "s", spec);
    assert_eq!(world.problems(), [""; 0]);
    world.apply::<api::config::v1alpha2::MeshConfig>(json!({
        "metadata": {"namespace": "osm-system", "name": "osm-mesh-config"},
        "spec": {"sidecar": {"sidecarClass": "envoy"}},
    }));
    let problems = world.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("circuitBreaking: no effect")),
        "{problems:?}"
    );
}
