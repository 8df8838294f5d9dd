//! What configured access logs say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xds::client::Kind;

fn file(path: &std::path::Path, format: serde_json::Value) -> serde_json::Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path.display().to_string(),
        "log_format": format,
    }})
}

#[tokio::test]
async fn requests_and_connections_are_logged_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    proxy::access::allow(folder.path().to_owned());
    let at = |name: &str| folder.path().join(name);
    let mut errors = file(&at("errors"), json!({"text_format": "%RESPONSE_CODE%\n"}));
    errors["filter"] = json!({"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "x"}}}});
    let all = json!({"json_format": {
        "code": "%RESPONSE_CODE%", "way": "%REQ(:METHOD)% %REQ(:PATH)%", "agent": "%REQ(USER-AGENT)%", "server": "%RESP(SERVER)%",
        "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%", "route": "%ROUTE_NAME%", "none": "%REQ(X-NONE)%",
    }});
    let wanted = json!({
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "access_log": [file(&at("connections"), json!({"text_format": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %FILTER_CHAIN_NAME%\n"}))],
        "filter_chains": [{"name": "web", "filters": [{"name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "web",
            "access_log": [file(&at("requests"), all), errors],
            "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [
                {"name": "teapot", "match": {"path": "/tea"}, "direct_response": {"status": 418}},
                {"name": "broken", "match": {"path": "/broken"}, "route": {"cluster": "none"}},
            ]}]},
        }}]}],
    });
    let listener = schema::any("envoy.config.listener.v3.Listener", &wanted).unwrap();
    let mut proxy = Proxy::new(None);
    proxy.push(Kind::Listener, vec![("l", listener)], &[]);
    for path in ["/tea?x=1", "/broken"] {
        let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: test\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap_or_default();
    eventually("all lines are written", async || {
        read("requests").lines().count() == 2 && read("connections").lines().count() == 2
    })
    .await;
    let lines: Vec<serde_json::Value> = read("requests")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        json!({"code": 418, "way": "GET /tea?x=1", "agent": "test", "server": "envoy", "details": "direct_response", "flags": "-", "route": "teapot", "none": null})
    );
    assert_eq!(
        (&lines[1]["code"], &lines[1]["flags"]),
        (&json!(503), &json!("NC"))
    );
    assert_eq!(read("errors"), "503\n");
    assert_eq!(read("connections"), "127.0.0.1 web\n127.0.0.1 web\n");

    let mut outside = wanted;
    outside["access_log"] = json!([file(
        std::path::Path::new("/etc/log"),
        json!({"text_format": "x"})
    )]);
    let outside = schema::any("envoy.config.listener.v3.Listener", &outside).unwrap();
    let mut parser = proxy::config::ConfigParser {
        own_certificate: OWN.into(),
    };
    let refused = xds::client::Parser::parse(&mut parser, Kind::Listener, "l", &outside)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.path, "access_log[0].typed_config.path");
}
