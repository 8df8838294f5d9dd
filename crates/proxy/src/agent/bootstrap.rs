//! Envoy's bootstrap: who it is, where the control plane and its certificate are. All else comes over ADS.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use xds::resources::OWN_CERTIFICATE_SOURCE;

use crate::settings::{Settings, XdsMode};

/// The cluster of the control plane.
const CONTROLLER: &str = "osm-controller";
const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const HTTP: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The bootstrap as JSON, which Envoy takes for YAML. There is no secret in it.
pub(super) fn bootstrap(settings: &Settings, socket: &Path) -> anyhow::Result<String> {
    let node = settings.node();
    let api = match settings.xds_mode {
        XdsMode::Delta => "DELTA_GRPC",
        XdsMode::Sotw => "GRPC",
    };
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let socket = socket.to_str().context("--folder is not UTF-8")?;
    let bootstrap = json!({
        "node": {
            "id": node.id, "cluster": node.cluster,
            // For those who read the controller's log or a dump; nothing depends on it.
            "metadata": { "sidecarClass": "envoy" },
        },
        "admin": { "address": address(&settings.admin.ip().to_string(), settings.admin.port()) },
        "dynamic_resources": {
            "ads_config": grpc(api, CONTROLLER),
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": { "clusters": [
            controller(settings)?,
            cluster(OWN_CERTIFICATE_SOURCE, "STATIC", json!({ "pipe": { "path": socket } })),
        ] },
    });
    Ok(bootstrap.to_string())
}

fn controller(settings: &Settings) -> anyhow::Result<Value> {
    let (host, port) = settings
        .xds_address
        .rsplit_once(':')
        .with_context(|| format!("OSM_XDS_ADDRESS {:?}: host:port", settings.xds_address))?;
    let port: u16 = port
        .parse()
        .with_context(|| format!("OSM_XDS_ADDRESS {:?}", settings.xds_address))?;
    let name = &settings.xds_server_name;
    let mut controller = cluster(CONTROLLER, "STRICT_DNS", address(host, port));
    let fields = json!({
        "connect_timeout": "5s",
        // A control plane that vanished must be noticed, or its last word would stand for ever.
        "upstream_connection_options": { "tcp_keepalive": {} },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": TLS,
            "sni": name,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [{
                    "name": settings.own_certificate(),
                    "sds_config": {
                        "api_config_source": grpc("DELTA_GRPC", OWN_CERTIFICATE_SOURCE),
                        "resource_api_version": "V3",
                    },
                }],
                "validation_context": {
                    "trusted_ca": { "inline_string": settings.root_ca },
                    "match_typed_subject_alt_names": [
                        { "san_type": "DNS", "matcher": { "exact": name } },
                    ],
                },
            },
        } },
    });
    if let (Some(controller), Value::Object(fields)) = (controller.as_object_mut(), fields) {
        controller.extend(fields);
    }
    Ok(controller)
}

fn cluster(name: &str, kind: &str, address: Value) -> Value {
    json!({
        "name": name,
        "type": kind,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": HTTP,
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "20s", "timeout": "10s" },
                } },
            },
        },
        "load_assignment": { "cluster_name": name, "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": address } }] },
        ] },
    })
}

fn address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn grpc(api: &str, cluster: &str) -> Value {
    json!({
        "api_type": api,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{ "envoy_grpc": { "cluster_name": cluster } }],
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::agent::AgentArgs;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn settings(xds_address: &str) -> Settings {
        let root = rcgen::generate_simple_self_signed(vec!["root".to_owned()]).unwrap();
        let flags = [
            "agent".to_owned(),
            format!("--xds-address={xds_address}"),
            "--xds-server-name=osm-controller.osm-system.svc".to_owned(),
            format!("--root-ca={}", root.cert.pem()),
            "--uuid=u-1".to_owned(),
            "--service-account=web".to_owned(),
            "--namespace=shop".to_owned(),
        ];
        let flags = Flags::try_parse_from(flags).unwrap();
        flags.agent.settings.complete().unwrap()
    }

    #[test]
    fn envoy_is_told_who_it_is_and_whom_to_ask() {
        let address = "osm-controller.osm-system.svc.cluster.local:15128";
        let socket = Path::new("/var/run/osm/agent.sock");
        let settings = settings(address);
        let text = bootstrap(&settings, socket).unwrap();
        // Every field exists in Envoy's own definition of the file.
        schema::yaml("envoy.config.bootstrap.v3.Bootstrap", &text).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["node"]["id"], "u-1.sidecar.web.shop.cluster.local");
        assert_eq!(
            json["admin"]["address"]["socket_address"],
            json!({ "address": "127.0.0.1", "port_value": 15000 })
        );
        let [controller, agent] = json["static_resources"]["clusters"]
            .as_array()
            .unwrap()
            .as_slice()
        else {
            panic!("two clusters")
        };
        let tls = &controller["transport_socket"]["typed_config"]["common_tls_context"];
        let own = &tls["tls_certificate_sds_secret_configs"][0];
        assert_eq!(own["name"], settings.own_certificate());
        let source = &own["sds_config"]["api_config_source"]["grpc_services"][0];
        assert_eq!(source["envoy_grpc"]["cluster_name"], agent["name"]);
        assert_eq!(agent["name"], OWN_CERTIFICATE_SOURCE);
    }

    #[test]
    fn a_stock_envoy_takes_it() {
        let Some(envoy) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) else {
            eprintln!("skipped: no Envoy in ENVOY_BIN");
            return;
        };
        let socket = Path::new("/var/run/osm/agent.sock");
        let text = bootstrap(&settings("controller.example:15128"), socket).unwrap();
        let output = std::process::Command::new(envoy)
            .args(["--mode", "validate", "--config-yaml", &text])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        assert!(!log.contains("[warning]"), "{log}");
    }

    #[test]
    fn an_address_without_a_port_is_named() {
        for address in ["osm-controller", "osm-controller:xds", "osm-controller:"] {
            let error = bootstrap(&settings(address), Path::new("s")).unwrap_err();
            assert!(
                format!("{error:#}").contains("OSM_XDS_ADDRESS"),
                "{error:#}"
            );
        }
    }
}
