//! Envoy's bootstrap file, YAML or JSON: who the proxy is, where its administration listens, which xDS it follows,
//! and resources that never change. What it says and we do not honour is an error that names file and field.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::bootstrap::v3 as pb;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::overload::v3 as pb_overload;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use prost::{Message, Name};
use serde_json::{Map, Value as Json};
use xds::client::{Any, Kind, Mode, Rejected};

use crate::config::{self, support};
use crate::overload;
use crate::spans::Tracer;

/// A bootstrap file is written by hand; a secret or a static route table fits well below this.
const LARGEST: u64 = 16 << 20;
/// Full name of the message.
const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";
/// Nesting of the file; deeper is nobody's configuration.
const DEPTH: usize = 100;

/// A bootstrap file that was understood.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Who the proxy is.
    pub node: core::Node,
    /// Where the administration listens; nowhere if absent.
    pub admin: Option<SocketAddr>,
    /// Which xDS it follows; none if absent.
    pub ads: Option<AdsSource>,
    /// Resources that never change, in the order in which they need each other.
    pub resources: Vec<StaticResource>,
    /// The tracer of connection managers that name none.
    pub tracer: Option<Arc<Tracer>>,
    /// What is done when something runs out, where it is said.
    pub overload: Option<overload::Settings>,
    /// Set, and of no effect.
    pub ignored: support::Ignored,
    /// All of it as protobuf, for `/config_dump`.
    pub bytes: Vec<u8>,
}

/// Where the ADS stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdsSource {
    /// The static cluster.
    pub cluster: String,
    /// `:authority` of the call; the cluster's name if empty.
    pub authority: String,
    /// The dialect.
    pub mode: Mode,
}

/// A resource of the file itself.
#[derive(Debug, Clone)]
pub struct StaticResource {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The resource.
    pub any: Any,
    /// Where it stands in the file.
    pub path: String,
}

impl Bootstrap {
    /// Reads the file.
    pub fn load(path: &Path) -> anyhow::Result<Bootstrap> {
        let text = text(path)?;
        Bootstrap::read(&text).with_context(|| path.display().to_string())
    }

    /// Reads the file's text.
    #[allow(deprecated)] // `tracing` still stands where a connection manager names no tracer.
    pub fn read(text: &str) -> anyhow::Result<Bootstrap> {
        let mut json = schema::parse_yaml(text)?;
        let secrets = inline(&mut json)?;
        let bytes = schema::encode(MESSAGE, &json)?;
        let ignored = support::check_bootstrap(&bytes)?;
        let message = pb::Bootstrap::decode(bytes.as_slice())?;
        let admin = message.admin.and_then(|admin| admin.address);
        let mut node = message.node.unwrap_or_default();
        node.user_agent_name = "osm-proxy".to_owned();
        let mut resources = secrets;
        resources.extend(of(&message.static_resources.unwrap_or_default()));
        let bootstrap = Bootstrap {
            node,
            admin: admin
                .map(|admin| address(&admin))
                .transpose()
                .context("admin.address")?,
            ads: ads(message.dynamic_resources.as_ref()).context("dynamic_resources")?,
            resources,
            tracer: tracer(message.tracing.as_ref())?,
            overload: overload(message.overload_manager.as_ref())?,
            ignored,
            bytes,
        };
        bootstrap.check()?;
        Ok(bootstrap)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (index, resource) in self.resources.iter().enumerate() {
            ensure!(
                !resource.name.is_empty(),
                "{}.name: is needed",
                resource.path
            );
            let twin = self
                .resources
                .iter()
                .take(index)
                .find(|other| other.kind == resource.kind && other.name == resource.name);
            if let Some(twin) = twin {
                bail!(
                    "{}.name: {:?} is the name of {}, too",
                    resource.path,
                    resource.name,
                    twin.path
                );
            }
        }
        let Some(ads) = &self.ads else {
            return Ok(());
        };
        let is_there = (self.resources.iter())
            .any(|resource| resource.kind == Kind::Cluster && resource.name == ads.cluster);
        ensure!(
            is_there,
            "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: no static cluster is named {:?}",
            ads.cluster
        );
        ensure!(
            !self.node.id.is_empty(),
            "node.id: is needed to ask an xDS server for anything"
        );
        Ok(())
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let name = || path.display().to_string();
    let size = std::fs::metadata(path).with_context(name)?.len();
    ensure!(size <= LARGEST, "{}: {size} bytes are too many", name());
    std::fs::read_to_string(path).with_context(name)
}

/// Puts the content of files and of environment variables in the place of their names, as Envoy does when it starts,
/// and collects the secrets that are to come from files.
fn inline(json: &mut Json) -> anyhow::Result<Vec<StaticResource>> {
    let mut secrets = Vec::new();
    walk(json, &mut String::new(), 0, &mut secrets)?;
    Ok(secrets)
}

fn walk(
    json: &mut Json,
    path: &mut String,
    depth: usize,
    secrets: &mut Vec<StaticResource>,
) -> anyhow::Result<()> {
    ensure!(depth < DEPTH, "{path}: nested too deeply");
    let length = path.len();
    match json {
        Json::Object(members) => {
            source(members).with_context(|| path.clone())?;
            secret_file(members, secrets).with_context(|| path.clone())?;
            for (name, member) in members.iter_mut() {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                walk(member, path, depth + 1, secrets)?;
                path.truncate(length);
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(item, path, depth + 1, secrets)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

/// A data source that names a file or a variable becomes one that holds its bytes.
fn source(members: &mut Map<String, Json>) -> anyhow::Result<()> {
    if members.len() != 1 {
        return Ok(());
    }
    let text_of = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| members.get(*name));
        found.and_then(Json::as_str).map(str::to_owned)
    };
    let bytes = if let Some(file) = text_of(["filename", "filename"]) {
        text(Path::new(&file))?.into_bytes()
    } else if let Some(name) = text_of(["environment_variable", "environmentVariable"]) {
        std::env::var(&name)
            .with_context(|| format!("environment variable {name}"))?
            .into_bytes()
    } else {
        return Ok(());
    };
    members.clear();
    members.insert("inline_bytes".to_owned(), STANDARD.encode(bytes).into());
    Ok(())
}

/// `sds_config.path_config_source`: the file is a discovery response with secrets in it.
fn secret_file(
    members: &mut Map<String, Json>,
    secrets: &mut Vec<StaticResource>,
) -> anyhow::Result<()> {
    let config = members.get("sds_config").or(members.get("sdsConfig"));
    let old = config.and_then(|config| config.get("path"));
    let new = config.and_then(|config| {
        let source = config
            .get("path_config_source")
            .or(config.get("pathConfigSource"));
        source?.get("path")
    });
    let Some(file) = old.or(new).and_then(Json::as_str) else {
        return Ok(());
    };
    let name = members.get("name").and_then(Json::as_str);
    let name = name.context("name: is needed")?.to_owned();
    let read = || -> anyhow::Result<StaticResource> {
        let mut json = schema::parse_yaml(&text(Path::new(file))?)?;
        inline(&mut json)?;
        let list = json.get("resources").and_then(Json::as_array);
        let found = list
            .into_iter()
            .flatten()
            .find(|resource| resource.get("name").and_then(Json::as_str) == Some(&name));
        let resource = found.with_context(|| format!("resources: no secret {name:?}"))?;
        let any = schema::encode("google.protobuf.Any", resource)?;
        let any = Any::decode(any.as_slice())?;
        ensure!(
            any.type_url == Kind::Secret.type_url(),
            "resources: {name:?} is a {}",
            any.type_url
        );
        Ok(StaticResource {
            kind: Kind::Secret,
            name: name.clone(),
            any,
            path: format!("{file}: secret {name:?}"),
        })
    };
    let known = secrets.iter().any(|secret| secret.name == name);
    if !known {
        secrets.push(read().with_context(|| file.to_owned())?);
    }
    Ok(())
}

/// The static resources: secrets, then clusters, then listeners.
fn of(message: &pb::bootstrap::StaticResources) -> Vec<StaticResource> {
    fn each<M: Message + Name>(
        kind: Kind,
        field: &str,
        list: &[M],
        name: fn(&M) -> &str,
    ) -> Vec<StaticResource> {
        let resources = list
            .iter()
            .enumerate()
            .map(|(index, resource)| StaticResource {
                kind,
                name: name(resource).to_owned(),
                any: Any {
                    type_url: kind.type_url().to_owned(),
                    value: resource.encode_to_vec(),
                },
                path: format!("static_resources.{field}[{index}]"),
            });
        resources.collect()
    }
    let mut all = each(Kind::Secret, "secrets", &message.secrets, |secret| {
        &secret.name
    });
    all.extend(each(
        Kind::Cluster,
        "clusters",
        &message.clusters,
        |cluster| &cluster.name,
    ));
    all.extend(each(
        Kind::Listener,
        "listeners",
        &message.listeners,
        |listener| &listener.name,
    ));
    all
}

fn tracer(message: Option<&trace::Tracing>) -> anyhow::Result<Option<Arc<Tracer>>> {
    let Some(provider) = message.and_then(|message| message.http.as_ref()) else {
        return Ok(None);
    };
    let made = config::tracing::tracer(provider);
    let made =
        made.map_err(|Rejected { path, reason }| anyhow!("tracing.http.{path}: {reason}"))?;
    Ok(Some(Arc::new(made)))
}

fn overload(
    message: Option<&pb_overload::OverloadManager>,
) -> anyhow::Result<Option<overload::Settings>> {
    let made = message.map(config::overload::settings).transpose();
    made.map_err(|Rejected { path, reason }| anyhow!("overload_manager.{path}: {reason}"))
}

fn address(message: &core::Address) -> anyhow::Result<SocketAddr> {
    let Some(core::address::Address::SocketAddress(socket)) = &message.address else {
        bail!("a socket_address is needed");
    };
    let ip = socket.address.parse();
    let ip = ip.map_err(|_| {
        anyhow!(
            "socket_address.address: {:?} is not an IP address",
            socket.address
        )
    })?;
    match socket.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => {
            let port = u16::try_from(port).context("socket_address.port_value")?;
            Ok(SocketAddr::new(ip, port))
        }
        _ => bail!("socket_address.port_value: is needed"),
    }
}

fn ads(message: Option<&pb::bootstrap::DynamicResources>) -> anyhow::Result<Option<AdsSource>> {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    let Some(message) = message else {
        return Ok(None);
    };
    let Some(config) = &message.ads_config else {
        let other = message.cds_config.is_some() || message.lds_config.is_some();
        ensure!(
            !other,
            "ads_config: is needed, clusters and listeners come over ADS"
        );
        return Ok(None);
    };
    for (name, source) in [
        ("cds_config", &message.cds_config),
        ("lds_config", &message.lds_config),
    ] {
        let is_ads = source.as_ref().is_some_and(|source| {
            matches!(
                source.config_source_specifier,
                Some(core::config_source::ConfigSourceSpecifier::Ads(_))
            )
        });
        ensure!(is_ads, "{name}.ads: is needed beside ads_config");
    }
    let mode = match ApiType::try_from(config.api_type) {
        Ok(ApiType::Grpc) => Mode::StateOfTheWorld,
        Ok(ApiType::DeltaGrpc) => Mode::Delta,
        _ => bail!("ads_config.api_type: GRPC or DELTA_GRPC is needed"),
    };
    ensure!(
        config.transport_api_version == i32::from(core::ApiVersion::V3),
        "ads_config.transport_api_version: V3 is needed"
    );
    let [service] = config.grpc_services.as_slice() else {
        bail!("ads_config.grpc_services: exactly one is needed");
    };
    match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => Ok(Some(AdsSource {
            cluster: grpc.cluster_name.clone(),
            authority: grpc.authority.clone(),
            mode,
        })),
        _ => bail!("ads_config.grpc_services[0].envoy_grpc: is needed"),
    }
}

#[cfg(test)]
mod tests;
