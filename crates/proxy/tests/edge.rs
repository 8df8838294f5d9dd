//! What a connection manager believes of requests and makes of their heads, as the application sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use support::peers::{application, get, raw};
use support::{Http, Proxy, any, http_chain, listener, routes, static_cluster};
use xds::client::{Any, Kind};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A proxy whose connection manager has these fields, too.
async fn proxy(manager: &str) -> (Proxy, SocketAddr) {
    let mut chain = http_chain("r", None);
    let more = schema::yaml(MANAGER, manager).unwrap();
    let Some(ConfigType::TypedConfig(config)) = &mut chain.filters[0].config_type else {
        panic!("no connection manager");
    };
    // Messages that stand behind each other are one message: protobuf's merge.
    config.value.extend(more.value);
    let mut proxy = Proxy::new(None);
    let cluster = static_cluster("app", &[application().await], Http::One);
    proxy.push(Kind::Cluster, vec![("app", any(&cluster))], &[]);
    let front = listener("l", vec![chain], false);
    proxy.push(Kind::Listener, vec![("l", any(&front))], &[]);
    let mut table = routes("r", vec![(".*", "app")]);
    table.virtual_hosts[0].domains = vec!["*".into()];
    table.internal_only_headers = vec!["x-inside".into()];
    let table: Any = any(&table);
    proxy.push(Kind::Routes, vec![("r", table)], &[]);
    let address = proxy.address("l");
    (proxy, address)
}

/// Fields, path, headers, what must and what must not be in the answer.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const CASES: [Case; 11] = [
    (
        "{via: own, use_remote_address: true, append_x_forwarded_port: true}",
        "/",
        "Via: front\r\nX-Inside: 1\r\nX-Request-Id: theirs\r\n",
        &[
            "via: front, own\n",
            "via: own\r\n",
            "x-forwarded-for: 127.0.0.1\n",
            "x-envoy-external-address: 127.0.0.1\n",
            "x-forwarded-port: ",
        ],
        &["x-inside", "theirs"],
    ),
    (
        "{use_remote_address: true, preserve_external_request_id: true, \
         internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}}",
        "/",
        "X-Inside: 1\r\nX-Request-Id: theirs\r\nx-envoy-upstream-rq-timeout-ms: 900\r\n",
        &[
            "x-inside: 1\n",
            "x-request-id: theirs\n",
            "x-envoy-internal: true\n",
            "x-envoy-expected-rq-timeout-ms: 900\n",
        ],
        &["external-address", "upstream-rq-timeout"],
    ),
    (
        "{path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT}",
        "/a%2Fb?c%2Fd",
        "",
        &["HTTP/1.1 307 ", "location: /a/b?c%2Fd\r\n"],
        &[],
    ),
    (
        "{path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD, merge_slashes: true}",
        "/a%2F%2Fb",
        "",
        &["GET /a/b HTTP/1.1\n"],
        &[],
    ),
    (
        "{path_with_escaped_slashes_action: REJECT_REQUEST}",
        "/a%5Cb",
        "",
        &["HTTP/1.1 400 "],
        &[],
    ),
    (
        "{path_with_escaped_slashes_action: KEEP_UNCHANGED}",
        "/a%2Fb",
        "",
        &["GET /a%2Fb HTTP/1.1\n"],
        &[],
    ),
    (
        "{common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}}",
        "/",
        "a_b: 1\r\na-b: 1\r\n",
        &["a-b: 1\n"],
        &["a_b"],
    ),
    (
        "{common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}}",
        "/",
        "a_b: 1\r\n",
        &["HTTP/1.1 400 "],
        &[],
    ),
    (
        "{strip_any_host_port: true, strip_trailing_host_dot: true}",
        "/",
        "",
        &["host: web.ns\n"],
        &[],
    ),
    (
        "{xff_num_trusted_hops: 1, use_remote_address: true}",
        "/",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n",
        &[
            "x-envoy-external-address: 203.0.113.7\n",
            "x-forwarded-proto: https\n",
            "x-forwarded-for: 203.0.113.7,127.0.0.1\n",
        ],
        &[],
    ),
    (
        "{request_timeout: 5s, common_http_protocol_options: {max_stream_duration: 20s}}",
        "/",
        "",
        &["HTTP/1.1 200 "],
        &[],
    ),
];

#[tokio::test]
async fn connection_managers_do_as_they_are_told() {
    for (manager, path, more, present, absent) in CASES {
        let (_proxy, front) = proxy(manager).await;
        let answer = get(front, path, more).await;
        for text in present {
            assert!(answer.contains(text), "{manager}: no {text:?} in {answer}");
        }
        for text in absent {
            assert!(!answer.contains(text), "{manager}: {text:?} in {answer}");
        }
    }
}

#[tokio::test]
async fn a_port_is_cut_off_only_where_it_is_the_listeners() {
    let (_proxy, front) = proxy("{strip_matching_host_port: true}").await;
    let port = front.port();
    for (host, expected) in [
        (format!("web.ns:{port}"), "host: web.ns\n".to_owned()),
        ("web.ns:1".to_owned(), "host: web.ns:1\n".to_owned()),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(front, request.as_bytes()).await.unwrap();
        assert!(answer.contains(&expected), "{host}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_end_in_time_is_refused() {
    let (_proxy, front) = proxy("{request_timeout: 0.2s}").await;
    let request = b"POST / HTTP/1.1\r\nHost: web.ns\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = raw(front, request).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("request timeout"),
        "{answer}"
    );
}
