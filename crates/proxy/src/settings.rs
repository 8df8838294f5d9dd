//! What the proxy is started with: flags and environment, or Envoy's bootstrap file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use envoy_types::pb::envoy::config::core::v3::Node;
use serde::Deserialize;

use crate::bootstrap::Bootstrap;

/// Flags and environment of `osm-proxy run`; the injector sets the environment.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Envoy's bootstrap file, YAML or JSON: certificates then come over SDS, and no identity is asked for.
    #[arg(short = 'c', long, env = "OSM_PROXY_CONFIG_PATH")]
    pub config_path: Option<PathBuf>,
    /// What stands in that file.
    #[arg(skip)]
    pub bootstrap: Option<Arc<Bootstrap>>,
    /// The xDS node id, in place of the bootstrap file's.
    #[arg(long, requires = "config_path")]
    pub service_node: Option<String>,
    /// The xDS node cluster, in place of the bootstrap file's.
    #[arg(long, requires = "config_path")]
    pub service_cluster: Option<String>,
    /// Whether to serve, or only to read the configuration.
    #[arg(long, value_enum, default_value_t = RunMode::Serve)]
    pub mode: RunMode,
    /// Log level: error, warn, info, debug or trace, or a filter such as `proxy=debug`.
    #[arg(short = 'l', long, env = "OSM_PROXY_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Event loops that serve connections.
    #[arg(long, alias = "concurrency", env = "OSM_PROXY_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Where the administration listens; keep it on loopback.
    #[arg(long, env = "OSM_PROXY_ADMIN", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// The control plane, host:port.
    #[arg(long, env = "OSM_XDS_ADDRESS", default_value = "")]
    pub xds_address: String,
    /// The DNS name the control plane's certificate must have.
    #[arg(long, env = "OSM_XDS_SERVER_NAME", default_value = "")]
    pub xds_server_name: String,
    /// The mesh's root certificates, PEM.
    #[arg(long, env = "OSM_ROOT_CA", hide_env_values = true, default_value = "")]
    pub root_ca: String,
    /// The mesh's trust domain.
    #[arg(long, env = "OSM_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// The projected ServiceAccount token.
    #[arg(
        long,
        env = "OSM_TOKEN_PATH",
        default_value = "/var/run/secrets/openservicemesh.io/token"
    )]
    pub token_path: PathBuf,
    /// The pod's label `osm-proxy-uuid`.
    #[arg(long, env = "OSM_PROXY_UUID", default_value = "")]
    pub uuid: String,
    /// The pod's ServiceAccount.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "")]
    pub service_account: String,
    /// The pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub namespace: String,
    /// The pod's name, for logs.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Probes of the application, JSON.
    #[arg(long, env = "OSM_PROBES", default_value = "[]")]
    pub probes: String,
    /// Which ADS dialect.
    #[arg(long, env = "OSM_XDS_MODE", value_enum, default_value_t = XdsMode::Delta)]
    pub xds_mode: XdsMode,
    /// Connections at a time; 0 takes what the limit of file descriptors allows.
    #[arg(long, env = "OSM_PROXY_MAX_CONNECTIONS", default_value_t = 0)]
    pub max_connections: usize,
    /// Seconds that open requests get once the proxy is told to stop.
    #[arg(long, env = "OSM_PROXY_DRAIN_SECONDS", default_value_t = 15)]
    pub drain_seconds: u64,
    /// Seconds of those in which new connections are still taken: clients learn only by and by that we go.
    #[arg(long, env = "OSM_PROXY_DRAIN_GRACE_SECONDS", default_value_t = 5)]
    pub drain_grace_seconds: u64,
    /// Files that configuration names for access logs must be below this folder.
    #[arg(long, env = "OSM_PROXY_ACCESS_LOG_FOLDER")]
    pub access_log_folder: Option<PathBuf>,
    /// No access log where none is configured.
    #[arg(long, env = "OSM_PROXY_NO_ACCESS_LOG")]
    pub no_access_log: bool,
}

/// Whether to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunMode {
    /// Serves.
    Serve,
    /// Reads the configuration and says whether it would serve.
    Validate,
}

/// Which ADS dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdsMode {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// A probe of the application that the proxy answers in its place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Where the kubelet asks: 15901, 15902 or 15903.
    pub port: u16,
    /// The path it asks for.
    #[serde(default)]
    pub path: String,
    /// `HTTP` or `HTTPS`.
    #[serde(default = "http")]
    pub scheme: String,
    /// The application's port.
    pub target_port: u16,
    /// The application's path, perhaps with a query.
    #[serde(default)]
    pub target_path: String,
    /// The probe's own timeout.
    #[serde(default = "one")]
    pub timeout_seconds: u64,
}

fn http() -> String {
    "HTTP".to_owned()
}

fn one() -> u64 {
    1
}

// === impl Settings ===

impl Settings {
    /// Reads the bootstrap file if there is one, and says what is missing without.
    pub fn complete(mut self) -> anyhow::Result<Settings> {
        if let Some(path) = &self.config_path {
            self.bootstrap = Some(Arc::new(Bootstrap::load(path).context("bootstrap file")?));
            return Ok(self);
        }
        for (flag, value) in [
            ("--xds-address (OSM_XDS_ADDRESS)", &self.xds_address),
            (
                "--xds-server-name (OSM_XDS_SERVER_NAME)",
                &self.xds_server_name,
            ),
            ("--root-ca (OSM_ROOT_CA)", &self.root_ca),
            ("--uuid (OSM_PROXY_UUID)", &self.uuid),
            ("--service-account (SERVICE_ACCOUNT)", &self.service_account),
            ("--namespace (POD_NAMESPACE)", &self.namespace),
        ] {
            ensure!(!value.is_empty(), "{flag} is needed, or --config-path");
        }
        Ok(self)
    }

    /// The xDS node.
    pub fn node(&self) -> Node {
        let mut node = match &self.bootstrap {
            Some(bootstrap) => bootstrap.node.clone(),
            None => Node {
                id: format!(
                    "{}.sidecar.{}.{}.{}",
                    self.uuid, self.service_account, self.namespace, self.trust_domain
                ),
                cluster: format!("{}.{}", self.service_account, self.namespace),
                user_agent_name: "osm-proxy".to_owned(),
                ..Node::default()
            },
        };
        node.id = self.service_node.clone().unwrap_or(node.id);
        node.cluster = self.service_cluster.clone().unwrap_or(node.cluster);
        node
    }

    /// Where the administration listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        match &self.bootstrap {
            Some(bootstrap) => bootstrap.admin,
            None => Some(self.admin),
        }
    }

    /// The name of the secret that is our own certificate; empty if all certificates come over SDS.
    pub fn own_certificate(&self) -> String {
        if self.bootstrap.is_some() {
            return String::new();
        }
        "service-cert".to_owned()
    }

    /// The probes.
    pub fn probes(&self) -> anyhow::Result<Vec<Probe>> {
        serde_json::from_str(&self.probes).map_err(|error| anyhow::anyhow!("OSM_PROBES: {error}"))
    }

    /// How long new connections are still taken.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_seconds.min(self.drain_seconds))
    }

    /// How long open requests get.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_read_as_the_injector_writes_them() {
        let text = r#"[{"port":15901,"path":"/osm-liveness-probe/app","scheme":"HTTP","targetPort":8080,"targetPath":"/healthz","timeoutSeconds":1}]"#;
        let probes: Vec<Probe> = serde_json::from_str(text).unwrap();
        assert_eq!(
            (
                probes[0].port,
                probes[0].target_port,
                probes[0].target_path.as_str()
            ),
            (15901, 8080, "/healthz")
        );
    }
}
