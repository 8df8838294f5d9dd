//! One bootstrap file for both proxies.

use std::net::SocketAddr;

use crate::ports;

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Node id: by it the management server knows the proxy.
    pub node: String,
    /// The management server.
    pub ads: SocketAddr,
    /// Incremental ADS, or state of the world.
    pub delta: bool,
    /// The administration's address.
    pub admin: SocketAddr,
    /// Further top-level fields, YAML.
    pub more: String,
}

// === impl Bootstrap ===

impl Bootstrap {
    /// Incremental ADS in the clear, the administration on a free port.
    pub fn new(node: &str, ads: SocketAddr) -> Bootstrap {
        Bootstrap {
            node: node.to_owned(),
            ads,
            delta: true,
            admin: SocketAddr::from(([127, 0, 0, 1], ports::free())),
            more: String::new(),
        }
    }

    /// The file.
    pub fn yaml(&self) -> String {
        let api = if self.delta { "DELTA_GRPC" } else { "GRPC" };
        let (node, more) = (&self.node, &self.more);
        let admin = format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            self.admin.ip(),
            self.admin.port()
        );
        let ads = format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            self.ads.ip(),
            self.ads.port()
        );
        format!(
            r#"node: {{id: "{node}", cluster: test}}
admin:
  address: {admin}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    grpc_services:
    - envoy_grpc: {{cluster_name: ads}}
  cds_config: {{resource_api_version: V3, ads: {{}}}}
  lds_config: {{resource_api_version: V3, ads: {{}}}}
static_resources:
  clusters:
  - name: ads
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: ads
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {ads}}}
{more}"#
        )
    }
}
