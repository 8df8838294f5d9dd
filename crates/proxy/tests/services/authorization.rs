//! Authorization services.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as authz;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkAuthz;
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use xds::client::{Any, Kind};

use crate::stage::{grpc, header, http_front, proxy, says, serve, status, timeout};
use crate::support::peers::{echo, get, raw};
use crate::support::{
    Authority, Http, Proxy, any, exact, listener, mesh_cluster, network_filter, static_cluster,
    tcp_chain, with_mtls,
};

fn ext_authz(cluster: &str, milliseconds: i32) -> authz::ExtAuthz {
    authz::ExtAuthz {
        services: Some(authz::ext_authz::Services::GrpcService(grpc(
            cluster,
            milliseconds,
        ))),
        transport_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

fn route_settings(settings: authz::CheckSettings) -> Any {
    any(&authz::ExtAuthzPerRoute {
        r#override: Some(authz::ext_authz_per_route::Override::CheckSettings(
            settings,
        )),
    })
}

#[tokio::test]
async fn an_authorization_service_sees_the_request_and_decides() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = authz::ExtAuthz {
        include_tls_session: true,
        disallowed_headers: Some(ListStringMatcher {
            patterns: vec![exact("x-secret")],
        }),
        ..ext_authz("services", 5000)
    };
    let front = http_front(&mut proxy, any(&filter), &["/off", "/.*"], |host| {
        let context = |key: &str, value: &str| {
            route_settings(authz::CheckSettings {
                context_extensions: [(key.into(), value.into()), ("level".into(), value.into())]
                    .into(),
                ..Default::default()
            })
        };
        host.typed_per_filter_config
            .insert("filter".into(), context("host", "h"));
        host.routes[1]
            .typed_per_filter_config
            .insert("filter".into(), context("route", "r"));
        let off = authz::ExtAuthzPerRoute {
            r#override: Some(authz::ext_authz_per_route::Override::Disabled(true)),
        };
        host.routes[0]
            .typed_per_filter_config
            .insert("filter".into(), any(&off));
    });

    let ok = get(front, "/get?a=1", "x-a: 1\r\nx-a: 2\r\nx-secret: s\r\n").await;
    assert_eq!(status(&ok), "200", "{ok}");
    let denied = get(front, "/deny", "").await;
    assert_eq!(status(&denied), "401", "{denied}");
    assert_eq!(header(&denied, "x-deny"), ["1", "2"]);
    assert!(denied.ends_with("\r\n\r\ngo away"), "{denied}");
    let refused = get(front, "/refuse", "").await;
    assert_eq!(status(&refused), "403", "{refused}");
    let grpc = get(front, "/refuse", "content-type: application/grpc\r\n").await;
    assert_eq!(header(&grpc, "grpc-status"), ["7"], "{grpc}");
    assert_eq!(status(&get(front, "/broken", "").await), "403");
    assert_eq!(status(&get(front, "/off", "").await), "200");
    let more = "x-set: old\r\nx-add: one\r\nx-gone: 1\r\n";
    let changed = get(front, "/change?q=1", more).await;
    assert!(changed.contains("GET /changed HTTP/1.1\n"), "{changed}");
    assert_eq!(header(&changed, "x-set"), ["new"]);
    assert_eq!(header(&changed, "x-add"), ["one,more"]);
    assert!(header(&changed, "x-absent").is_empty());
    assert!(header(&changed, "x-gone").is_empty());
    assert_eq!(header(&changed, "x-for-client"), ["yes"]);
    assert_eq!(header(&changed, "host"), ["web.ns"]);

    let asked = services.checks.lock().clone();
    assert_eq!(asked.len(), 6, "not for the route that is off");
    let attributes = asked[0].attributes.clone().unwrap();
    let request = attributes.request.unwrap().http.unwrap();
    assert_eq!(request.method, "GET");
    assert_eq!(request.path, "/get?a=1");
    assert_eq!(request.host, "web.ns");
    assert_eq!(request.scheme, "http");
    assert_eq!(request.protocol, "HTTP/1.1");
    assert_eq!(request.headers["x-a"], "1,2");
    assert_eq!(request.headers[":path"], "/get?a=1");
    assert!(!request.headers.contains_key("x-secret"));
    let context: std::collections::BTreeMap<_, _> =
        attributes.context_extensions.into_iter().collect();
    let text: Vec<String> = context.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(text, ["host=h", "level=r", "route=r"]);
    assert!(attributes.source.unwrap().principal.is_empty());
    let stats = proxy.stats();
    for line in ["ok: 2", "denied: 3", "error: 1"] {
        for prefix in ["http.test", "cluster.app"] {
            let line = format!("{prefix}.ext_authz.{line}");
            assert!(stats.contains(&line), "{line}\n{stats}");
        }
    }
}

#[tokio::test]
async fn an_authorization_service_is_shown_as_much_of_the_body_as_it_wants() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let settings = |partial, bytes| authz::BufferSettings {
        max_request_bytes: 4,
        allow_partial_message: partial,
        pack_as_bytes: bytes,
    };
    let filter = authz::ExtAuthz {
        with_request_body: Some(settings(true, false)),
        ..ext_authz("services", 5000)
    };
    let paths = ["/whole", "/none", "/.*"];
    let front = http_front(&mut proxy, any(&filter), &paths, |host| {
        let whole = authz::CheckSettings {
            with_request_body: Some(settings(false, true)),
            ..Default::default()
        };
        let none = authz::CheckSettings {
            disable_request_body_buffering: true,
            ..Default::default()
        };
        for (index, settings) in [whole, none].into_iter().enumerate() {
            let config = route_settings(settings);
            let route = &mut host.routes[index];
            route
                .typed_per_filter_config
                .insert("filter".into(), config);
        }
    });
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunked = "POST /x HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    // The request, the answer's status, what the application got, what the service saw.
    let cases = [
        (
            post("/x", "hello world"),
            "200",
            "body: 11",
            Some(("hell", "true")),
        ),
        (post("/x", "hey"), "200", "body: 3", Some(("hey", "false"))),
        (chunked.to_owned(), "200", "body: 6", Some(("abcd", "true"))),
        (
            post("/whole", "four"),
            "200",
            "body: 4",
            Some(("four", "false")),
        ),
        (post("/whole", "fiver"), "413", "Payload Too Large", None),
        (post("/none", "hello"), "200", "body: 5", Some(("", ""))),
    ];
    for (request, expected, body, seen) in cases {
        let answer = raw(front, request.as_bytes()).await.unwrap();
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains(body), "{answer}");
        let asked = services.checks.lock().pop();
        let asked = asked.map(|asked| {
            let request = asked.attributes.unwrap().request.unwrap().http.unwrap();
            let partial = request.headers.get("x-envoy-auth-partial-body").cloned();
            let text = match request.body.is_empty() {
                true => String::from_utf8(request.raw_body).unwrap(),
                false => request.body,
            };
            (text, partial.unwrap_or_default())
        });
        let asked = asked
            .as_ref()
            .map(|(text, partial)| (text.as_str(), partial.as_str()));
        assert_eq!(asked, seen, "{request}");
    }
}

#[tokio::test]
async fn an_authorization_service_that_fails_is_passed_over_where_that_is_allowed() {
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    for (cluster, path, allowed, expected) in [
        ("gone", "/get", false, "403"),
        ("gone", "/get", true, "200"),
        ("services", "/slow", false, "403"),
        ("services", "/slow", true, "200"),
        ("unknown", "/get", false, "403"),
    ] {
        let filter = authz::ExtAuthz {
            failure_mode_allow: allowed,
            failure_mode_allow_header_add: true,
            ..ext_authz(cluster, 50)
        };
        let front = http_front(&mut proxy, any(&filter), &["/.*"], |_| ());
        let answer = get(front, path, "").await;
        assert_eq!(status(&answer), expected, "{cluster} {allowed}: {answer}");
        let told = header(&answer, "x-envoy-auth-failure-mode-allowed");
        assert_eq!(told.len(), usize::from(allowed), "{answer}");
    }
}

#[tokio::test]
async fn an_authorization_service_learns_both_identities_of_a_connection() {
    let ca = Authority::new();
    let (services, at) = serve().await;
    let mut server = Proxy::new(Some(ca.leaf("server")));
    for cluster in [
        static_cluster("echo", &[echo().await], Http::One),
        static_cluster("services", &[at], Http::Two),
    ] {
        server.push(Kind::Cluster, vec![(&cluster.name, any(&cluster))], &[]);
    }
    let config = NetworkAuthz {
        stat_prefix: "conn".into(),
        grpc_service: Some(grpc("services", 5000)),
        transport_api_version: core::ApiVersion::V3.into(),
        include_peer_certificate: true,
        include_tls_session: true,
        ..Default::default()
    };
    let mut chain = tcp_chain("echo");
    chain
        .filters
        .insert(0, network_filter("authz", any(&config)));
    let front = listener("inbound", vec![with_mtls(chain, &ca)], true);
    server.push(Kind::Listener, vec![("inbound", any(&front))], &[]);
    let mut client = Proxy::new(Some(ca.leaf("client")));
    let expected = "spiffe://cluster.local/server/ns";
    let mesh = mesh_cluster(
        "mesh",
        server.address("inbound"),
        Http::One,
        &ca,
        &[expected],
    );
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let front = listener("outbound", vec![tcp_chain("mesh")], false);
    client.push(Kind::Listener, vec![("outbound", any(&front))], &[]);
    assert_eq!(says(client.address("outbound")).await, "hi bye");
    let asked = services.checks.lock()[0].attributes.clone().unwrap();
    let source = asked.source.unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/client/ns");
    let certificate = source.certificate;
    assert!(
        certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0AMI"),
        "{certificate}"
    );
    assert_eq!(asked.destination.unwrap().principal, expected);
    assert_eq!(asked.tls_session.unwrap().sni, "web.ns.svc.cluster.local");
    let stats = server.stats();
    assert!(stats.contains("ext_authz.conn.ok: 1"), "{stats}");
}

#[tokio::test]
async fn an_http_service_may_decide_too() {
    // The application stands in for the service: it answers 200 and repeats what it was asked.
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let service = |cluster: &str| authz::HttpService {
        server_uri: Some(core::HttpUri {
            uri: "http://ignored".into(),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster.into())),
            timeout: Some(timeout(5000)),
        }),
        path_prefix: "/authz".into(),
        authorization_response: Some(authz::AuthorizationResponse {
            allowed_upstream_headers: Some(ListStringMatcher {
                patterns: vec![exact("x-verdict")],
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let filter = |cluster: &str| authz::ExtAuthz {
        services: Some(authz::ext_authz::Services::HttpService(service(cluster))),
        allowed_headers: Some(ListStringMatcher {
            patterns: vec![exact("x-shown")],
        }),
        ..Default::default()
    };
    let judge = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = static_cluster("judge", &[judge.local_addr().unwrap()], Http::One);
    proxy.push(Kind::Cluster, vec![("judge", any(&cluster))], &[]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = judge.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                    let answer = if text.contains("/deny") {
                        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 3\r\n\r\nno!"
                    } else {
                        "HTTP/1.1 200 OK\r\nx-verdict: fine\r\nx-other: 1\r\ncontent-length: 0\r\n\r\n"
                    };
                    asked.lock().push(text);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let front = http_front(&mut proxy, any(&filter("judge")), &["/.*"], |_| ());
    let more = "x-shown: 1\r\nx-hidden: 1\r\nauthorization: token\r\n";
    let ok = get(front, "/get?q=1", more).await;
    assert_eq!(status(&ok), "200", "{ok}");
    assert_eq!(header(&ok, "x-verdict"), ["fine"]);
    assert!(header(&ok, "x-other").is_empty(), "{ok}");
    let denied = get(front, "/deny", "").await;
    assert_eq!(status(&denied), "302", "{denied}");
    assert_eq!(header(&denied, "location"), ["/login"]);
    assert!(denied.ends_with("\r\n\r\nno!"), "{denied}");
    let asked = seen.lock().clone();
    assert!(
        asked[0].starts_with("GET /authz/get?q=1 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    for (line, present) in [
        ("x-shown: 1", true),
        ("authorization: token", true),
        ("host: web.ns", true),
        ("x-hidden", false),
    ] {
        assert_eq!(asked[0].contains(line), present, "{line}: {}", asked[0]);
    }
    let front = http_front(&mut proxy, any(&filter("gone")), &["/.*"], |_| ());
    assert_eq!(
        status(
            &raw(
                front,
                b"GET /x HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n"
            )
            .await
            .unwrap()
        ),
        "403"
    );
}
