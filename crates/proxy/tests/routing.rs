//! What routes do to requests and answers, seen by a real client and a real application.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use support::peers::{application, get, raw};
use support::{Http, Proxy, any, http_chain, listener, static_cluster};
use xds::client::{Any, Kind};

const TABLE: &str = r#"
name: r
request_headers_to_add: [{header: {key: x-order, value: table}}]
virtual_hosts:
- name: web
  domains: [web.ns]
  request_headers_to_add: [{header: {key: x-order, value: host}}]
  response_headers_to_add:
  - {header: {key: x-method, value: "%REQ(:METHOD)% %RESPONSE_CODE%"}}
  - {header: {key: server, value: mine}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  routes:
  - match: {prefix: /strip/}
    route: {cluster: app, prefix_rewrite: /}
    request_headers_to_add:
    - {header: {key: x-order, value: route}}
    - {header: {key: x-from, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %PROTOCOL% %REQ(x-in?:path)%"}}
    - {header: {key: x-none, value: "%REQ(x-none)%"}}
    request_headers_to_remove: [x-secret]
  - match: {prefix: /regex}
    route:
      cluster: app
      regex_rewrite: {pattern: {regex: "^/regex/(\\w+)$"}, substitution: "/new/\\1"}
      host_rewrite_literal: other.example
      append_x_forwarded_host: true
  - match: {prefix: /by-header}
    route: {cluster_header: x-cluster, cluster_not_found_response_code: NOT_FOUND}
  - match: {prefix: /weighted}
    route:
      weighted_clusters:
        header_name: x-draw
        clusters:
        - {name: app, weight: 1, host_rewrite_literal: first.example}
        - name: app
          weight: 1
          request_headers_to_add: [{header: {key: x-order, value: second}}]
  - match: {prefix: /old}
    redirect: {prefix_rewrite: /new, host_redirect: other.example, response_code: FOUND}
  - match: {prefix: /direct}
    direct_response:
      status: 418
      body: {inline_string: teapot}
      body_format: {json_format: {body: "%LOCAL_REPLY_BODY%", code: "%RESPONSE_CODE%", path: "%REQ(:PATH)%"}}
  - match: {prefix: /cookie, cookies: [{name: id, string_match: {prefix: a}}]}
    direct_response: {status: 200, body: {inline_string: cookie}}
- name: secure
  domains: [secure.ns]
  require_tls: ALL
  routes: [{match: {prefix: /}, route: {cluster: app}}]
"#;

async fn proxy() -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let app = application().await;
    let cluster = static_cluster("app", &[app], Http::One);
    proxy.push(Kind::Cluster, vec![("app", any(&cluster))], &[]);
    let front = listener("l", vec![http_chain("r", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&front))], &[]);
    let table = schema::yaml("envoy.config.route.v3.RouteConfiguration", TABLE).unwrap();
    let table = Any {
        type_url: table.type_url,
        value: table.value,
    };
    proxy.push(Kind::Routes, vec![("r", table)], &[]);
    let address = proxy.address("l");
    (proxy, address)
}

/// What was asked, with which headers, and what must and must not be in the answer.
type Case = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const CASES: [Case; 9] = [
    (
        "/strip/get?q",
        "x-secret: 1\r\n",
        &[
            "GET /get HTTP/1.1\n",
            "x-order: route\nx-order: host\nx-order: table\n",
            "x-from: 127.0.0.1 HTTP/1.1 /strip/get?q\n",
            "x-envoy-original-path: /strip/get?q\n",
            "x-envoy-expected-rq-timeout-ms: 15000\n",
            "x-method: GET 200\r\n",
        ],
        &["x-secret", "x-none"],
    ),
    (
        "/strip/get",
        "x-in: here\r\n",
        &["x-from: 127.0.0.1 HTTP/1.1 here\n"],
        &[],
    ),
    (
        "/regex/word",
        "",
        &[
            "GET /new/word HTTP/1.1\n",
            "host: other.example\n",
            "x-forwarded-host: web.ns\n",
            "x-envoy-original-host: web.ns\n",
        ],
        &[],
    ),
    (
        "/by-header",
        "x-cluster: app\r\n",
        &["GET /by-header HTTP/1.1\n"],
        &[],
    ),
    ("/by-header", "x-cluster: none\r\n", &["HTTP/1.1 404 "], &[]),
    (
        "/weighted",
        "x-draw: 2\r\n",
        &["host: first.example\n"],
        &["second"],
    ),
    (
        "/weighted",
        "x-draw: 3\r\n",
        &[
            "host: web.ns\n",
            "x-order: second\nx-order: host\nx-order: table\n",
        ],
        &["first"],
    ),
    (
        "/old/page?q=1",
        "",
        &[
            "HTTP/1.1 302 Found\r\n",
            "location: http://other.example/new/page?q=1\r\n",
        ],
        &[],
    ),
    (
        "/direct?q",
        "",
        &[
            "HTTP/1.1 418 ",
            "content-type: application/json\r\n",
            "{\"body\":\"teapot\",\"code\":418,\"path\":\"/direct?q\"}",
        ],
        &[],
    ),
];

#[tokio::test]
async fn routes_change_requests_and_answers() {
    let (_proxy, front) = proxy().await;
    for (path, more, present, absent) in CASES {
        let answer = get(front, path, more).await;
        for text in present {
            assert!(answer.contains(text), "{path}: no {text:?} in {answer}");
        }
        for text in absent {
            assert!(!answer.contains(text), "{path}: {text:?} in {answer}");
        }
    }
    for (cookie, expected) in [("id=abc", "200"), ("id=b", "404")] {
        let answer = get(front, "/cookie", &format!("Cookie: {cookie}\r\n")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_host_that_requires_tls_redirects() {
    let (_proxy, front) = proxy().await;
    let request = b"GET /a?b HTTP/1.1\r\nHost: secure.ns\r\nConnection: close\r\n\r\n";
    let answer = raw(front, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(
        answer.contains("location: https://secure.ns/a?b\r\n"),
        "{answer}"
    );
}
