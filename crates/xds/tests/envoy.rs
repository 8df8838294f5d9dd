//! A stock Envoy accepts the resources: each case as a static bootstrap through `envoy --mode validate`.
//!
//! Static, because validation asks no server: routes, endpoints and secrets are put where they are used.

mod support;

use std::{collections::HashMap, env, fs, path::PathBuf, process::Command};

use envoy_types::pb::{
    envoy::{
        config::{
            bootstrap::v3::{Bootstrap, bootstrap},
            cluster::v3::{Cluster, cluster},
            core::v3::{DataSource, data_source, transport_socket},
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::{Listener, filter},
            route::v3::RouteConfiguration,
        },
        extensions::{
            filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, Secret, TlsCertificate, UpstreamTlsContext,
                common_tls_context::ValidationContextType, secret,
            },
        },
    },
    google::protobuf::Any,
};
use model::ProxyConfig;
use prost::{Message, Name};
use xds::resources::{
    CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Snapshot, TrustBundle, snapshot,
};

#[test]
fn envoy_accepts_every_case() {
    let Some(envoy) = envoy() else {
        eprintln!("skipped: no Envoy in ENVOY_BIN or on PATH");
        return;
    };
    let key = rcgen::generate_simple_self_signed(vec!["root".into()]).unwrap();
    let trust = TrustBundle {
        pem: key.cert.pem(),
    };
    let folder = tempfile::tempdir().unwrap();
    let accepts = |name: &str, bootstrap: &Bootstrap| {
        let file = folder.path().join(format!("{name}.pb"));
        fs::write(&file, bootstrap.encode_to_vec()).unwrap();
        let output = Command::new(&envoy)
            .args(["--mode", "validate", "--log-level", "warning", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(log)
        }
    };
    for (name, config) in support::cases() {
        let certificate = TlsCertificate {
            certificate_chain: inline(key.cert.pem()),
            private_key: inline(key.signing_key.serialize_pem()),
            ..Default::default()
        };
        let mut bootstrap = bootstrap(&config, &snapshot(&config, &trust), certificate);
        accepts(name, &bootstrap).unwrap_or_else(|log| panic!("{name}: {log}"));
        // The check itself is checked: a table that refers to a missing cluster is not accepted.
        if config.routes.is_empty() {
            continue;
        }
        if let Some(resources) = &mut bootstrap.static_resources {
            resources.clusters.clear();
        }
        let log = accepts(name, &bootstrap).unwrap_err();
        assert!(
            log.contains("unknown") && log.contains("cluster"),
            "{name}: {log}"
        );
    }
}

fn envoy() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ENVOY_BIN") {
        return Some(path.into());
    }
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths)
        .map(|folder| folder.join("envoy"))
        .find(|path| path.is_file())
}

fn inline(text: String) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text)),
        ..Default::default()
    })
}

fn bootstrap(config: &ProxyConfig, snapshot: &Snapshot, own: TlsCertificate) -> Bootstrap {
    let routes: HashMap<String, RouteConfiguration> = all(snapshot, ROUTES)
        .into_iter()
        .map(|table: RouteConfiguration| (table.name.clone(), table))
        .collect();
    let endpoints: HashMap<String, ClusterLoadAssignment> = all(snapshot, ENDPOINTS)
        .into_iter()
        .map(|e: ClusterLoadAssignment| (e.cluster_name.clone(), e))
        .collect();
    let mut clusters: Vec<Cluster> = all(snapshot, CLUSTER);
    for cluster in &mut clusters {
        if let Some(endpoints) = endpoints.get(&cluster.name) {
            cluster.eds_cluster_config = None;
            cluster.load_assignment = Some(endpoints.clone());
            let fixed = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into());
            cluster.cluster_discovery_type = Some(fixed);
        }
        if let Some(transport_socket::ConfigType::TypedConfig(any)) = cluster
            .transport_socket
            .as_mut()
            .and_then(|socket| socket.config_type.as_mut())
        {
            edit(any, |tls: &mut UpstreamTlsContext| {
                without_sds(tls.common_tls_context.as_mut())
            });
        }
    }
    let mut listeners: Vec<Listener> = all(snapshot, LISTENER);
    for chain in listeners
        .iter_mut()
        .flat_map(|listener| &mut listener.filter_chains)
    {
        if let Some(transport_socket::ConfigType::TypedConfig(any)) = chain
            .transport_socket
            .as_mut()
            .and_then(|socket| socket.config_type.as_mut())
        {
            edit(any, |tls: &mut DownstreamTlsContext| {
                without_sds(tls.common_tls_context.as_mut())
            });
        }
        for filter in &mut chain.filters {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url == HttpConnectionManager::type_url()
            {
                edit(any, |manager: &mut HttpConnectionManager| {
                    if let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier {
                        let table = routes[&rds.route_config_name].clone();
                        manager.route_specifier = Some(RouteSpecifier::RouteConfig(table));
                    }
                });
            }
        }
    }
    let mut secrets: Vec<Secret> = all(snapshot, SECRET);
    secrets.push(Secret {
        name: config.own_certificate(),
        r#type: Some(secret::Type::TlsCertificate(own)),
    });
    Bootstrap {
        static_resources: Some(bootstrap::StaticResources {
            listeners,
            clusters,
            secrets,
        }),
        ..Default::default()
    }
}

fn all<M: Message + Default>(snapshot: &Snapshot, kind: &str) -> Vec<M> {
    let resources = snapshot.resources[kind].values();
    resources
        .map(|resource| M::decode(resource.any.value.as_slice()).unwrap())
        .collect()
}

fn edit<M: Message + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    let mut message = M::decode(any.value.as_slice()).unwrap();
    change(&mut message);
    any.value = message.encode_to_vec();
}

/// Secrets without a source are looked up among the static ones.
fn without_sds(context: Option<&mut CommonTlsContext>) {
    let Some(context) = context else { return };
    for secret in &mut context.tls_certificate_sds_secret_configs {
        secret.sds_config = None;
    }
    if let Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) =
        &mut context.validation_context_type
    {
        secret.sds_config = None;
    }
}
