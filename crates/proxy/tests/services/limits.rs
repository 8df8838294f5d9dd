//! Rate limit services.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3 as limits;
use envoy_types::pb::envoy::extensions::filters::network::ratelimit::v3::RateLimit as NetworkLimit;
use envoy_types::pb::envoy::r#type::v3 as kinds;

use crate::stage::{grpc, header, http_front, proxy, says, serve, status, tcp_front, timeout};
use crate::support::any;
use crate::support::peers::get;

fn generic(value: &str) -> route::RateLimit {
    use route::rate_limit::action::{ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders};
    let action = |specifier| route::rate_limit::Action {
        action_specifier: Some(specifier),
    };
    route::RateLimit {
        actions: vec![
            action(ActionSpecifier::GenericKey(GenericKey {
                descriptor_value: value.into(),
                ..Default::default()
            })),
            action(ActionSpecifier::RemoteAddress(RemoteAddress {})),
            action(ActionSpecifier::RequestHeaders(RequestHeaders {
                header_name: "x-who".into(),
                descriptor_key: "who".into(),
                skip_if_absent: value != "strict",
            })),
        ],
        ..Default::default()
    }
}

fn rate_limit(cluster: &str, deny: bool) -> limits::RateLimit {
    limits::RateLimit {
        domain: "dom".into(),
        timeout: Some(timeout(5000)),
        failure_mode_deny: deny,
        enable_x_ratelimit_headers: 1,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(grpc(cluster, 0)),
            transport_api_version: core::ApiVersion::V3.into(),
        }),
        ..Default::default()
    }
}

fn limited(host: &mut route::VirtualHost, words: &[&str]) {
    for (route, word) in host.routes.iter_mut().zip(words) {
        let Some(route::route::Action::Route(action)) = &mut route.action else {
            panic!("not a route");
        };
        action.rate_limits = vec![generic(word)];
    }
}

#[tokio::test]
async fn a_rate_limit_service_is_asked_by_descriptors_and_obeyed() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = any(&rate_limit("services", true));
    let paths = ["/ok", "/over", "/broken", "/strict"];
    let words = ["fine", "over", "broken", "strict"];
    let front = http_front(&mut proxy, filter, &paths, |host| limited(host, &words));

    let ok = get(front, "/ok", "x-who: me\r\n").await;
    assert_eq!(status(&ok), "200", "{ok}");
    assert_eq!(header(&ok, "x-rls"), ["answer"]);
    assert_eq!(header(&ok, "x-rls-request"), ["w"]);
    assert_eq!(
        header(&ok, "x-ratelimit-limit"),
        ["10, 10;w=60;name=\"nm\""]
    );
    assert_eq!(header(&ok, "x-ratelimit-reset"), ["42"]);
    let over = get(front, "/over", "").await;
    assert_eq!(status(&over), "429", "{over}");
    assert_eq!(header(&over, "x-envoy-ratelimited"), ["true"]);
    assert_eq!(header(&over, "x-rls"), ["answer"]);
    let broken = get(front, "/broken", "").await;
    assert_eq!(status(&broken), "500", "{broken}");
    // A descriptor that lacks an entry is no descriptor: nobody is asked.
    assert_eq!(status(&get(front, "/strict", "").await), "200");

    let asked = services.limits.lock().clone();
    assert_eq!(asked.len(), 3);
    let (first, by) = &asked[0];
    assert_eq!(by.as_deref(), Some("me"));
    assert_eq!(first.domain, "dom");
    let entries = |descriptor: &common::RateLimitDescriptor| -> Vec<String> {
        let entries = descriptor.entries.iter();
        entries
            .map(|entry| format!("{}={}", entry.key, entry.value))
            .collect()
    };
    assert_eq!(
        entries(&first.descriptors[0]),
        ["generic_key=fine", "remote_address=127.0.0.1", "who=me"]
    );
    let stats = proxy.stats();
    for line in ["ok: 1", "over_limit: 1", "error: 1"] {
        let line = format!("cluster.app.ratelimit.{line}");
        assert!(stats.contains(&line), "{line}\n{stats}");
    }
}

#[tokio::test]
async fn a_rate_limit_service_that_fails_is_passed_over_unless_it_must_not() {
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = any(&rate_limit("gone", false));
    let front = http_front(&mut proxy, filter, &["/get"], |host| limited(host, &["x"]));
    assert_eq!(status(&get(front, "/get", "").await), "200");
    let late = limits::RateLimit {
        timeout: Some(timeout(20)),
        status_on_error: Some(kinds::HttpStatus { code: 503 }),
        ..rate_limit("services", true)
    };
    let front = http_front(&mut proxy, any(&late), &["/get"], |host| {
        limited(host, &["slow"]);
    });
    assert_eq!(status(&get(front, "/get", "").await), "503");
}

#[tokio::test]
async fn connections_are_counted_by_a_rate_limit_service() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = |word: &str, deny| {
        let base = rate_limit("services", deny);
        any(&NetworkLimit {
            stat_prefix: "conn".into(),
            domain: "dom".into(),
            timeout: base.timeout,
            failure_mode_deny: deny,
            rate_limit_service: base.rate_limit_service,
            descriptors: vec![common::RateLimitDescriptor {
                entries: vec![common::rate_limit_descriptor::Entry {
                    key: word.into(),
                    value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".into(),
                }],
                ..Default::default()
            }],
        })
    };
    for (word, deny, expected) in [
        ("fine", true, "hi bye"),
        ("over", false, ""),
        ("broken", false, "hi bye"),
        ("broken", true, ""),
    ] {
        let front = tcp_front(&mut proxy, "front", filter(word, deny));
        assert_eq!(says(front).await, expected, "{word} {deny}");
    }
    let asked = services.limits.lock().clone();
    let entry = &asked[0].0.descriptors[0].entries[0];
    assert_eq!(entry.value, "127.0.0.1");
    let stats = proxy.stats();
    for line in [
        "total: 4",
        "ok: 1",
        "over_limit: 1",
        "error: 2",
        "failure_mode_allowed: 1",
        "cx_closed: 2",
    ] {
        let line = format!("ratelimit.conn.{line}");
        assert!(stats.contains(&line), "{line}\n{stats}");
    }
}
