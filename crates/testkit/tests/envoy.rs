//! The kit against a stock Envoy: what is pushed is served, what is wrong is refused, what arrives is noted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use testkit::backend::answer;
use testkit::client::{h1, h2, h2_raw};
use testkit::message::End;
use testkit::{Ads, Backend, Bootstrap, Process, Reply, Resources, ports};

const LIMIT: Duration = Duration::from_secs(5);
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn resources(port: u16, backend: u16) -> Resources {
    Resources::yaml(&format!(
        r#"
clusters:
- name: app
  type: STATIC
  connect_timeout: 5s
  load_assignment:
    cluster_name: app
    endpoints:
    - lb_endpoints:
      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
listeners:
- name: web
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: web
        rds: {{route_config_name: web, config_source: {{resource_api_version: V3, ads: {{}}}}}}
        http_filters:
        - name: router
          typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
routes:
- name: web
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {{prefix: /}}
      route: {{cluster: app}}
"#
    ))
}

async fn smoke(delta: bool) {
    let ads = Ads::start().await;
    let backend = Backend::start().await;
    let port = ports::free();
    ads.set("envoy", resources(port, backend.port));
    let bootstrap = Bootstrap {
        delta,
        ..Bootstrap::new("envoy", ads.address())
    };
    let Some(mut envoy) = Process::envoy(&bootstrap) else {
        eprintln!("skipped: no Envoy");
        return;
    };
    envoy.ready().await;
    ads.settled("envoy").await.unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port));

    backend.script("flaky", vec![answer(500, "no"), answer(200, "yes")]);
    let get = b"GET /a?b HTTP/1.1\r\nHost: x\r\nX-Script: flaky\r\n\r\n";
    for (status, body) in [(500, "no"), (200, "yes")] {
        let exchange = h1::exchange(at, get, &["GET"], LIMIT).await;
        assert_eq!(exchange.responses[0].status, status);
        assert_eq!(exchange.responses[0].text(), body);
        assert_eq!(exchange.end, End::Open);
    }
    let received = backend.take(LOCAL);
    assert_eq!(received.len(), 2);
    assert_eq!(
        (received[0].target.as_str(), received[0].field("host")),
        ("/a?b", Some("x"))
    );
    assert!(received[0].raw.starts_with(b"GET /a?b HTTP/1.1\r\n"));

    let trailers = vec![("x-end".to_owned(), "1".to_owned())];
    backend.script(
        "trailers",
        vec![Reply::Answer {
            status: 200,
            fields: Vec::new(),
            body: b"body".to_vec(),
            trailers,
        }],
    );
    let request = http::Request::post("http://x/up").header("x-script", "trailers");
    let answer = h2::request(at, request.body(()).unwrap(), b"hello", None, LIMIT)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"body".as_slice())
    );
    assert_eq!(backend.take(LOCAL)[0].body, b"hello");

    let bad = h2_raw::headers(
        1,
        &[(":method", "GET"), (":path", "/"), (":path", "/")],
        true,
    );
    let verdict = h2_raw::exchange(at, &bad, LIMIT).await;
    assert!(
        !matches!(verdict, h2_raw::Verdict::Status(Some(200))),
        "{verdict:?}"
    );

    let mut broken = resources(port, backend.port);
    broken.merge_yaml(
        "listeners: [{name: broken, address: {socket_address: {address: nowhere, port_value: 1}}}]",
    );
    ads.set("envoy", broken);
    let refusals = ads.settled("envoy").await.unwrap_err();
    assert!(refusals[0].message.contains("broken"), "{refusals:?}");
    let exchange = h1::exchange(at, b"GET / HTTP/1.0\r\n\r\n", &["GET"], LIMIT).await;
    assert_eq!(exchange.end, End::Closed, "{exchange:?}");
}

#[tokio::test]
async fn envoy_serves_what_delta_ads_pushes() {
    smoke(true).await;
}

#[tokio::test]
async fn envoy_serves_what_state_of_the_world_ads_pushes() {
    smoke(false).await;
}
