//! Command line of the three control plane programs. Flag names are upstream's where upstream has one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use api::labels;
use clap::{ArgAction, Args};

/// Flags common to controller, injector and bootstrap.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Namespace of the control plane
    #[arg(long, default_value = "osm-system")]
    pub osm_namespace: String,
    /// Name of the mesh
    #[arg(long, default_value = "osm")]
    pub mesh_name: String,
    /// Trust domain of the mesh's certificates
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// Secret with the mesh's root certificate and its key
    #[arg(long, default_value = "osm-ca-bundle")]
    pub ca_bundle_secret_name: String,
    /// Name of the MeshConfig object in the control plane's namespace
    #[arg(long, default_value = "osm-mesh-config")]
    pub osm_config_name: String,
    /// Version written on objects the program creates
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    pub osm_version: String,
    /// Log level until the MeshConfig says otherwise
    #[arg(long, short = 'v', alias = "log-level", default_value = "info")]
    pub verbosity: String,
    /// Certificate provider
    #[arg(long, default_value = "tresor", value_parser = ["tresor"])]
    pub certificate_manager: String,
    /// Keep the objects the program creates as it created them
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_reconciler: bool,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED), hide = true)]
    pub listen_address: IpAddr,
    /// Port of health, metrics and version
    #[arg(long, default_value_t = 9091, hide = true)]
    pub http_port: u16,
}

/// `osm controller`
#[derive(Args, Clone, Debug)]
pub struct ControllerArgs {
    /// Common flags
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of the ValidatingWebhookConfiguration [default: osm-validator-mesh-MESH]
    #[arg(long)]
    pub validator_webhook_config: Option<String>,
    /// Refuse TrafficTargets outside their destination's namespace
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub validate_traffic_target: bool,
    /// ServiceAccount of the control plane; accepted for upstream's sake
    #[arg(long, default_value = "osm")]
    pub osm_service_account: String,
    /// Port of the aggregated discovery and certificate services
    #[arg(long, default_value_t = 15128, hide = true)]
    pub ads_port: u16,
    /// Port of the validating webhook
    #[arg(long, default_value_t = 9093, hide = true)]
    pub webhook_port: u16,
}

/// `osm injector`
#[derive(Args, Clone, Debug)]
pub struct InjectorArgs {
    /// Common flags
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of the MutatingWebhookConfiguration [default: osm-webhook-MESH]
    #[arg(long)]
    pub webhook_config_name: Option<String>,
    /// Seconds the API server waits for the webhook
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=30))]
    pub webhook_timeout: i32,
    /// Pull policy of the containers put into pods
    #[arg(long, default_value = "IfNotPresent")]
    pub osm_container_pull_policy: String,
    /// Image of the sidecar unless the MeshConfig names one
    #[arg(long, env = "OSM_DEFAULT_SIDECAR_IMAGE", default_value = "")]
    pub sidecar_image: String,
    /// Image of sidecars of class `envoy` unless the MeshConfig names one
    #[arg(long, env = "OSM_DEFAULT_ENVOY_IMAGE", default_value = "")]
    pub envoy_image: String,
    /// Image of the init container unless the MeshConfig names one
    #[arg(long, env = "OSM_DEFAULT_INIT_CONTAINER_IMAGE", default_value = "")]
    pub init_container_image: String,
    /// Port of the mutating webhook
    #[arg(long, default_value_t = 9090, hide = true)]
    pub webhook_port: u16,
}

/// `osm bootstrap`
#[derive(Args, Clone, Debug)]
pub struct BootstrapArgs {
    /// Common flags
    #[command(flatten)]
    pub common: CommonArgs,
    /// ConfigMap with the MeshConfig to create when there is none
    #[arg(long, default_value = "preset-mesh-config")]
    pub preset_config_map: String,
}

// === impl CommonArgs ===

impl CommonArgs {
    /// The labels of objects the programs create.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (
                labels::APP_NAME.to_owned(),
                labels::APP_NAME_VALUE.to_owned(),
            ),
            (labels::APP_INSTANCE.to_owned(), self.mesh_name.clone()),
            (labels::APP_VERSION.to_owned(), self.osm_version.clone()),
        ])
    }

    /// The name of a Service of the control plane inside the cluster.
    pub(crate) fn service_host(&self, service: &str) -> String {
        format!("{service}.{}.svc", self.osm_namespace)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: ControllerArgs,
    }

    #[test]
    fn booleans_take_upstreams_spellings() {
        for (flags, validate, reconcile) in [
            (vec!["x"], true, false),
            (
                vec![
                    "x",
                    "--validate-traffic-target=false",
                    "--enable-reconciler",
                ],
                false,
                true,
            ),
            (
                vec!["x", "--validate-traffic-target", "--enable-reconciler=true"],
                true,
                true,
            ),
        ] {
            let args = Program::parse_from(&flags).args;
            assert_eq!(args.validate_traffic_target, validate, "{flags:?}");
            assert_eq!(args.common.enable_reconciler, reconcile, "{flags:?}");
        }
    }
}
