//! `osm bootstrap`: the mesh's kinds and its first MeshConfig.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::config::v1alpha2::MeshConfig;
use api::labels;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::http::{self, Component, Ready};
use crate::metrics::Metrics;
use crate::program::Program;
use crate::{BootstrapArgs, CommonArgs};

/// Key of the preset in its ConfigMap.
const PRESET_KEY: &str = "preset-mesh-config.json";

/// kubectl's record of what it applied, so that a later `kubectl apply` can remove fields.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Time for one step to succeed: the API server may be starting, or slow to establish a kind.
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// Runs `osm bootstrap` until SIGTERM.
pub async fn bootstrap(args: BootstrapArgs) -> anyhow::Result<()> {
    let program = Program::start(&args.common).await?;
    program.clone().run(start(program, args)).await
}

/// Starts everything; it runs until the program ends.
async fn start(program: Program, args: BootstrapArgs) -> anyhow::Result<()> {
    let ready = Ready::default();
    let common = &args.common;
    program.spawn(
        "health and metrics",
        http::serve(
            Component::Bootstrap,
            common.listen_address,
            common.http_port,
            common.osm_version.clone(),
            ready.clone(),
            Arc::new(Metrics::default()),
            program.stop.clone(),
        ),
    );
    for definition in api::crds() {
        let name = definition.name_any();
        retrying(&name, async || {
            apply_definition(&program.client, common, definition.clone()).await
        })
        .await?;
    }
    for definition in api::crds() {
        let name = definition.name_any();
        retrying(&name, async || established(&program.client, &name).await).await?;
    }
    let place = format!(
        "MeshConfig {}/{}",
        common.osm_namespace, common.osm_config_name
    );
    retrying(&place, async || mesh_config(&program.client, &args).await).await?;
    ready.set();
    tracing::info!("osm-bootstrap is ready");
    Ok(())
}

async fn retrying<T>(
    what: &str,
    mut step: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(error).with_context(|| what.to_owned());
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "{what}, trying again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Creates a definition, or gives an existing one our spec and labels.
async fn apply_definition(
    client: &Client,
    args: &CommonArgs,
    mut wanted: CustomResourceDefinition,
) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = wanted.name_any();
    if args.enable_reconciler {
        wanted
            .labels_mut()
            .insert(labels::RECONCILE.to_owned(), args.osm_version.clone());
    }
    let Some(existing) = definitions.get_opt(&name).await? else {
        definitions.create(&PostParams::default(), &wanted).await?;
        tracing::info!(name, "made CustomResourceDefinition");
        return Ok(());
    };
    let mut replacement = existing.clone();
    replacement.labels_mut().extend(wanted.labels().clone());
    replacement.spec = wanted.spec;
    if replacement != existing {
        definitions
            .replace(&name, &PostParams::default(), &replacement)
            .await?;
        tracing::info!(name, "updated CustomResourceDefinition");
    }
    Ok(())
}

async fn established(client: &Client, name: &str) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let status = definitions.get(name).await?.status;
    let conditions = status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    anyhow::ensure!(
        conditions
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True"),
        "CustomResourceDefinition {name} is not established"
    );
    Ok(())
}

/// Creates the MeshConfig from the preset. An existing one is the user's and stays as it is.
async fn mesh_config(client: &Client, args: &BootstrapArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let kind = ApiResource::erase::<MeshConfig>(&());
    let configs: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &common.osm_namespace, &kind);
    if configs.get_opt(&common.osm_config_name).await?.is_some() {
        return Ok(());
    }
    let presets: Api<ConfigMap> = Api::namespaced(client.clone(), &common.osm_namespace);
    let place = format!(
        "ConfigMap {}/{}",
        common.osm_namespace, args.preset_config_map
    );
    let preset = presets
        .get(&args.preset_config_map)
        .await
        .with_context(|| place.clone())?;
    let text = preset.data.as_ref().and_then(|data| data.get(PRESET_KEY));
    let text = text.with_context(|| format!("{place}: no data[{PRESET_KEY:?}]"))?;
    let spec: Value =
        serde_json::from_str(text).with_context(|| format!("{place}: data[{PRESET_KEY:?}]"))?;
    let object: DynamicObject = serde_json::from_value(preset_object(common, spec))?;
    match configs.create(&PostParams::default(), &object).await {
        Ok(_) => tracing::info!(name = common.osm_config_name, "made MeshConfig"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn preset_object(args: &CommonArgs, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": { "name": args.osm_config_name, "namespace": args.osm_namespace },
        "spec": spec,
    });
    let applied = object.to_string();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".to_owned(), json!({ LAST_APPLIED: applied }));
    }
    object
}
