//! A client's and a server's sidecar as processes on loopback, with mutual TLS between them, driven by one ADS server.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use testkit::{Ads, Authority, Bootstrap, Process, ports};

use crate::gate::Gate;

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// HTTP; the application speaks 1.1, the hop between the sidecars what the client speaks.
    Http1,
    /// HTTP; the application speaks 2.
    Http2,
}

/// A service behind the server's sidecar.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: &'static str,
    pub protocol: Protocol,
    /// Where its endpoints are.
    pub applications: Vec<SocketAddr>,
    /// Where clients connect to.
    pub front: u16,
    /// Where the server's sidecar listens.
    pub inbound: u16,
    /// Where the client's sidecar finds the server's: elsewhere than `inbound` if something stands between.
    pub hop: SocketAddr,
}

/// Which program plays a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Osm,
    Envoy,
}

/// How the two sides are started.
#[derive(Debug, Clone)]
pub struct Plan {
    pub client: Program,
    pub server: Program,
    /// Words before the server's program, such as `ip netns exec x`.
    pub server_prefix: Vec<String>,
    /// Words before the client's program.
    pub client_prefix: Vec<String>,
    /// Where the ADS server listens.
    pub ads: IpAddr,
    /// Where the server's sidecar has its ports.
    pub server_address: IpAddr,
    /// More of the client's bootstrap file.
    pub client_more: String,
}

/// The pair.
pub struct Stage {
    pub ads: Ads,
    /// The way to it.
    pub gate: Gate,
    pub client: Process,
    pub server: Process,
    pub services: Vec<Service>,
    authority: Authority,
    leafs: [testkit::Leaf; 2],
}

pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            client: Program::Osm,
            server: Program::Osm,
            server_prefix: Vec::new(),
            client_prefix: Vec::new(),
            ads: LOCAL,
            server_address: LOCAL,
            client_more: String::new(),
        }
    }
}

impl Service {
    /// A service on free ports.
    pub fn new(name: &'static str, protocol: Protocol, application: SocketAddr) -> Service {
        let inbound = ports::free();
        Service {
            name,
            protocol,
            applications: vec![application],
            front: ports::free(),
            inbound,
            hop: SocketAddr::new(LOCAL, inbound),
        }
    }

    /// Where clients connect to.
    pub fn front(&self) -> SocketAddr {
        SocketAddr::new(LOCAL, self.front)
    }
}

impl Stage {
    /// Two of our proxies.
    pub async fn start(services: Vec<Service>) -> anyhow::Result<Stage> {
        Stage::plan(&Plan::default(), services).await
    }

    /// As the plan says.
    pub async fn plan(plan: &Plan, services: Vec<Service>) -> anyhow::Result<Stage> {
        let ads = Ads::start().await;
        let gate = Gate::new(SocketAddr::new(plan.ads, 0), ads.address()).await?;
        let authority = Authority::new();
        let leafs = [
            authority.workload("client", "ns"),
            authority.workload("server", "ns"),
        ];
        let start = |node: &str, program, prefix: &[String], admin, more: &str| {
            let mut bootstrap = Bootstrap::new(node, gate.address);
            more.clone_into(&mut bootstrap.more);
            bootstrap.admin.set_ip(admin);
            let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
            match program {
                Program::Osm => Process::osm_proxy_under(&prefix, &bootstrap),
                Program::Envoy => Process::envoy_under(&prefix, &bootstrap),
            }
        };
        let server = start(
            "server",
            plan.server,
            &plan.server_prefix,
            plan.server_address,
            "",
        );
        let more = &plan.client_more;
        let client = start("client", plan.client, &plan.client_prefix, LOCAL, more);
        let (Some(client), Some(server)) = (client, server) else {
            bail!("no proxy: build osm-proxy first (cargo build -p proxy), or set OSM_PROXY_BIN");
        };
        let mut stage = Stage {
            ads,
            gate,
            client,
            server,
            services,
            authority,
            leafs,
        };
        stage.push(plan.server_address, "").await?;
        stage.client.ready().await;
        stage.server.ready().await;
        Ok(stage)
    }

    /// Sends both sides the services as they are now, with more for the client.
    pub async fn push(&self, server_address: IpAddr, more: &str) -> anyhow::Result<()> {
        self.set(server_address, more);
        for node in ["server", "client"] {
            let refused = self.ads.settled(node).await;
            refused.map_err(|refusals| anyhow::anyhow!("{node}: {refusals:?}"))?;
        }
        Ok(())
    }

    /// As [`Stage::push`], without waiting for the answers.
    pub fn set(&self, server_address: IpAddr, more: &str) {
        let secrets = |leaf: &testkit::Leaf| {
            let mut secrets = self.authority.secret("trust");
            secrets.extend(leaf.secret("own"));
            secrets
        };
        let mut server = secrets(&self.leafs[1]);
        server.merge_yaml(&self.inbound(server_address));
        self.ads.set("server", server);
        let mut client = secrets(&self.leafs[0]);
        client.merge_yaml(&self.outbound());
        if !more.is_empty() {
            client.merge_yaml(more);
        }
        self.ads.set("client", client);
    }

    fn inbound(&self, at: IpAddr) -> String {
        let (mut clusters, mut listeners) =
            (String::from("clusters:\n"), String::from("listeners:\n"));
        for service in &self.services {
            let name = service.name;
            cluster(
                &mut clusters,
                &format!("local-{name}"),
                service.protocol,
                &service.applications,
                "",
            );
            let socket = tls(
                "DownstreamTlsContext",
                "require_client_certificate: true",
                "client",
            );
            listener(
                &mut listeners,
                name,
                at,
                service.inbound,
                service.protocol,
                &format!("local-{name}"),
                &socket,
            );
        }
        clusters + &listeners
    }

    fn outbound(&self) -> String {
        let (mut clusters, mut listeners) =
            (String::from("clusters:\n"), String::from("listeners:\n"));
        for service in &self.services {
            let name = service.name;
            let socket = tls("UpstreamTlsContext", "sni: server.ns", "server");
            // The hop speaks what the client speaks.
            let options = "use_downstream_protocol_config: {http2_protocol_options: {}}";
            let is_http = service.protocol != Protocol::Tcp;
            let mesh = format!("mesh-{name}");
            cluster_with(
                &mut clusters,
                &mesh,
                options,
                is_http,
                &[service.hop],
                &socket,
            );
            listener(
                &mut listeners,
                name,
                LOCAL,
                service.front,
                service.protocol,
                &format!("mesh-{name}"),
                "",
            );
        }
        clusters + &listeners
    }

    /// A service by its name.
    pub fn service(&self, name: &str) -> anyhow::Result<&Service> {
        self.services
            .iter()
            .find(|service| service.name == name)
            .context("no such service")
    }
}

fn cluster(out: &mut String, name: &str, protocol: Protocol, at: &[SocketAddr], socket: &str) {
    let options = match protocol {
        Protocol::Http2 => "explicit_http_config: {http2_protocol_options: {}}",
        Protocol::Tcp | Protocol::Http1 => "explicit_http_config: {http_protocol_options: {}}",
    };
    cluster_with(out, name, options, protocol != Protocol::Tcp, at, socket);
}

fn cluster_with(
    out: &mut String,
    name: &str,
    options: &str,
    is_http: bool,
    at: &[SocketAddr],
    socket: &str,
) {
    let endpoints = at.iter().map(|at| {
        format!(
            "      - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
            at.ip(),
            at.port()
        )
    });
    let endpoints: String = endpoints.collect();
    let options = match is_http {
        true => format!(
            r#"  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      {options}
"#
        ),
        false => String::new(),
    };
    let _ = write!(
        out,
        r#"- name: {name}
  type: STATIC
  connect_timeout: 5s
{options}{socket}  load_assignment:
    cluster_name: {name}
    endpoints:
    - lb_endpoints:
{endpoints}"#
    );
}

fn tls(context: &str, more: &str, peer: &str) -> String {
    format!(
        r#"  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}
      {more}
      common_tls_context:
        tls_certificate_sds_secret_configs: [{{name: own, sds_config: {{resource_api_version: V3, ads: {{}}}}}}]
        combined_validation_context:
          default_validation_context:
            match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: "spiffe://cluster.local/{peer}/ns"}}}}]
          validation_context_sds_secret_config: {{name: trust, sds_config: {{resource_api_version: V3, ads: {{}}}}}}
"#
    )
}

fn listener(
    out: &mut String,
    name: &str,
    at: IpAddr,
    port: u16,
    protocol: Protocol,
    cluster: &str,
    socket: &str,
) {
    let filter = match protocol {
        Protocol::Tcp => format!(
            r#"    - name: tcp
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: {name}
        cluster: {cluster}
"#
        ),
        Protocol::Http1 | Protocol::Http2 => format!(
            r#"    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: {name}
        upgrade_configs: [{{upgrade_type: websocket}}]
        http2_protocol_options: {{allow_connect: true}}
        http_filters:
        - name: router
          typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
        route_config:
          name: {name}
          virtual_hosts:
          - name: all
            domains: ["*"]
            routes:
            - match: {{prefix: /}}
              route: {{cluster: {cluster}, timeout: 0s}}
"#
        ),
    };
    // One level deeper than in a cluster.
    let socket: String = socket.lines().map(|line| format!("  {line}\n")).collect();
    let _ = write!(
        out,
        r#"- name: {name}
  address: {{socket_address: {{address: {at}, port_value: {port}}}}}
  filter_chains:
  - name: {name}
    filters:
{filter}{socket}"#
    );
}
