//! Bootstrap files as operators write them.

use super::*;

const FILE: &str = r#"
node: {id: sidecar-1, cluster: shop, metadata: {a: {b: 1}}, locality: {zone: z1}}
admin:
  access_log_path: /dev/null
  address: {socket_address: {address: 127.0.0.1, port_value: 15000}}
dynamicResources:
  adsConfig:
    apiType: DELTA_GRPC
    transportApiVersion: V3
    grpcServices: [{envoyGrpc: {clusterName: xds}}]
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 18000}}}}]}]
"#;

#[test]
fn a_sidecars_file_is_read_in_either_spelling() {
    let bootstrap = Bootstrap::read(FILE).unwrap();
    assert_eq!(
        (bootstrap.node.id.as_str(), bootstrap.node.cluster.as_str()),
        ("sidecar-1", "shop")
    );
    assert!(bootstrap.node.metadata.is_some() && bootstrap.node.locality.is_some());
    assert_eq!(bootstrap.admin, Some("127.0.0.1:15000".parse().unwrap()));
    let ads = AdsSource {
        cluster: "xds".into(),
        authority: String::new(),
        mode: Mode::Delta,
    };
    assert_eq!(bootstrap.ads, Some(ads));
    assert_eq!(bootstrap.resources.len(), 1);
    assert!(
        bootstrap
            .ignored
            .iter()
            .any(|(path, _)| path == "admin.access_log_path")
    );
}

#[test]
fn the_field_at_fault_is_named() {
    let cases = [
        (
            "cluster: shop",
            "clustr: shop",
            "node.clustr: envoy.config.core.v3.Node has no such field",
        ),
        (
            "127.0.0.1, port_value: 15000",
            "localhost, port_value: 15000",
            "admin.address: socket_address.address: \"localhost\" is not an IP address",
        ),
        (
            "clusterName: xds",
            "clusterName: xdz",
            "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: no static cluster is named \"xdz\"",
        ),
        (
            "DELTA_GRPC",
            "REST",
            "dynamic_resources: ads_config.api_type: GRPC or DELTA_GRPC is needed",
        ),
        (
            "ads: {}, resource",
            "path: /x, resource",
            "dynamic_resources.cds_config.path: this field changes the meaning and is not supported",
        ),
        (
            "connect_timeout: 1s",
            "connect_timeout: 1",
            "static_resources.clusters[0].connect_timeout: a duration such as 1.5s is needed",
        ),
        (
            "id: sidecar-1, ",
            "",
            "node.id: is needed to ask an xDS server for anything",
        ),
        (
            "connect_timeout: 1s",
            "metadata: {}\n    transport_socket: {name: x, typed_config: {\"@type\": x/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {tls_certificates: [{private_key: {filename: /no/such}}]}}}",
            "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.tls_certificates[0].private_key: /no/such: No such file or directory (os error 2)",
        ),
        (
            "  clusters:",
            "  secrets: [{name: a}, {name: a}]\n  clusters:",
            "static_resources.secrets[1].name: \"a\" is the name of static_resources.secrets[0], too",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(FILE.contains(from), "{from}");
        let error = Bootstrap::read(&FILE.replacen(from, to, 1)).unwrap_err();
        assert_eq!(format!("{error:#}"), expected);
    }
}

#[test]
fn files_and_secret_files_are_read_when_the_proxy_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (pem, sds) = (folder.path().join("ca.pem"), folder.path().join("sds.yaml"));
    std::fs::write(&pem, "PEM").unwrap();
    let secret = format!(
        "resources: [{{\"@type\": \"{}\", name: ca, validation_context: {{trusted_ca: {{filename: {}}}}}}}]",
        Kind::Secret.type_url(),
        pem.display()
    );
    std::fs::write(&sds, secret).unwrap();
    let tls = format!(
        "connect_timeout: 1s\n    transport_socket: {{name: tls, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{validation_context_sds_secret_config: {{name: ca, sds_config: {{path_config_source: {{path: {}}}}}}}}}}}}}",
        sds.display()
    );
    let bootstrap = Bootstrap::read(&FILE.replace("connect_timeout: 1s", &tls)).unwrap();
    let secret = &bootstrap.resources[0];
    assert_eq!((secret.kind, secret.name.as_str()), (Kind::Secret, "ca"));
    assert!(secret.any.value.windows(3).any(|part| part == b"PEM"));
}
