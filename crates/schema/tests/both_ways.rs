//! JSON becomes the protobuf that prost reads, and comes back.

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use prost::Message;
use schema::{Secrets, decode, encode};
use serde_json::json;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

#[test]
fn a_cluster_with_every_shape_of_field_survives_both_ways() {
    let written = json!({
        "name": "ns/svc|80",
        "connectTimeout": "1.500s",
        "type": "EDS",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 32768,
        "circuit_breakers": {"thresholds": [{"max_connections": 7, "track_remaining": true}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 12.5}},
        "outlier_detection": {"consecutive_5xx": 0},
        "metadata": {"filter_metadata": {"x": {"number": 1.5, "list": [1, "two", null, false], "deep": {"a": {}}}}},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}}
            }
        },
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": "::1", "port_value": 0}}}}]}]}
    });
    let bytes = encode(CLUSTER, &written).unwrap();
    let message = Cluster::decode(bytes.as_slice()).unwrap();
    assert_eq!(message.name, "ns/svc|80");
    assert_eq!(message.connect_timeout.unwrap().nanos, 500_000_000);
    assert_eq!(message.lb_policy, 1);
    let printed = decode(CLUSTER, &message.encode_to_vec(), Secrets::Redacted).unwrap();
    let mut expected = written;
    let timeout = expected
        .as_object_mut()
        .unwrap()
        .remove("connectTimeout")
        .unwrap();
    expected["connect_timeout"] = timeout;
    assert_eq!(printed, expected);
    assert_eq!(encode(CLUSTER, &printed).unwrap().len(), bytes.len());
}

#[test]
fn refusals_name_the_field() {
    let cases = [
        (
            json!({"nam": 1}),
            "nam: envoy.config.cluster.v3.Cluster has no such field",
        ),
        (json!({"name": 1}), "name: a string is needed"),
        (
            json!([]),
            "(root): an object is needed (envoy.config.cluster.v3.Cluster)",
        ),
        (
            json!({"connect_timeout": "5"}),
            "connect_timeout: a duration such as 1.5s is needed",
        ),
        (
            json!({"connect_timeout": 5}),
            "connect_timeout: a duration such as 1.5s is needed",
        ),
        (
            json!({"lb_policy": "FASTEST"}),
            "lb_policy: \"FASTEST\" is none of envoy.config.cluster.v3.Cluster.LbPolicy",
        ),
        (
            json!({"type": "EDS", "cluster_type": {}}),
            "type: only one of cluster_type and type may be set",
        ),
        (
            json!({"load_assignment": {"endpoints": [{}, {"priority": -1}]}}),
            "load_assignment.endpoints[1].priority: an integer within its range is needed",
        ),
        (
            json!({"transport_socket": {"typed_config": {"name": 1}}}),
            "transport_socket.typed_config: \"@type\" is needed",
        ),
        (
            json!({"transport_socket": {"typed_config": {"@type": "x/envoy.None"}}}),
            "transport_socket.typed_config: message envoy.None is not known",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(encode(CLUSTER, &json).unwrap_err().to_string(), expected);
    }
}

#[test]
fn secrets_are_redacted_wherever_they_stand() {
    let secret = json!({"name": "s", "tls_certificate": {
        "certificate_chain": {"inline_string": "public"},
        "private_key": {"inline_string": "very private"}
    }});
    let bytes = encode("envoy.extensions.transport_sockets.tls.v3.Secret", &secret).unwrap();
    let bootstrap = json!({"static_resources": {"secrets": [secret]}});
    let bootstrap = encode("envoy.config.bootstrap.v3.Bootstrap", &bootstrap).unwrap();
    assert!(
        Bootstrap::decode(bootstrap.as_slice())
            .unwrap()
            .static_resources
            .is_some()
    );
    for (name, bytes) in [
        ("envoy.extensions.transport_sockets.tls.v3.Secret", bytes),
        ("envoy.config.bootstrap.v3.Bootstrap", bootstrap),
    ] {
        let printed = decode(name, &bytes, Secrets::Redacted).unwrap().to_string();
        assert!(
            printed.contains("public") && printed.contains("[redacted]"),
            "{printed}"
        );
        assert!(!printed.contains("very private"), "{printed}");
        assert!(
            decode(name, &bytes, Secrets::Shown)
                .unwrap()
                .to_string()
                .contains("very private")
        );
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    for round in 0..20_000u32 {
        let mut bytes = Vec::new();
        for _ in 0..round % 60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(if state & 3 == 0 {
                (state >> 8) as u8
            } else {
                ((state >> 8) % 0x40) as u8
            });
        }
        for name in [
            CLUSTER,
            "envoy.config.listener.v3.Listener",
            "google.protobuf.Struct",
            "google.protobuf.Duration",
        ] {
            let _ = decode(name, &bytes, Secrets::Redacted);
        }
    }
}

#[test]
fn a_listener_from_yaml_comes_back_as_json() {
    let text = r#"
name: web
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- filters:
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: t
      cluster: c
      idle_timeout: 1.5s
"#;
    let listener = "envoy.config.listener.v3.Listener";
    let any = schema::yaml(listener, text).unwrap();
    let back = schema::json(&any).unwrap();
    let timeout = back.pointer("/filter_chains/0/filters/0/typed_config/idle_timeout");
    assert_eq!(timeout.unwrap(), "1.500s");
    assert_eq!(schema::any(listener, &back).unwrap(), any);
    assert_eq!(schema::redacted(&any), Ok(back));
    assert!(matches!(
        schema::yaml(listener, "a: b: c"),
        Err(schema::Error::Yaml(_))
    ));
}
