//! `osm injector`: puts a sidecar into pods as they are created.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use api::config::v1alpha2::MeshConfig;
use inject::Settings;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client};

use crate::admission::{self, Decide, Request, Verdict};
use crate::http::{self, Component, Ready};
use crate::metrics::Metrics;
use crate::program::Program;
use crate::root::{self, SERVER_VALIDITY};
use crate::{InjectorArgs, tls, webhook};

/// Time for the reads behind one decision; the API server gives the whole webhook 20 s.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Runs `osm injector` until SIGTERM.
pub async fn injector(args: InjectorArgs) -> anyhow::Result<()> {
    let program = Program::start(&args.common).await?;
    program.clone().run(start(program, args)).await
}

/// Starts everything; it runs until the program ends.
async fn start(program: Program, args: InjectorArgs) -> anyhow::Result<()> {
    let (metrics, ready) = (Arc::new(Metrics::default()), Ready::default());
    let common = args.common.clone();
    program.spawn(
        "health and metrics",
        http::serve(
            Component::Injector,
            common.listen_address,
            common.http_port,
            common.osm_version.clone(),
            ready.clone(),
            metrics.clone(),
            program.stop.clone(),
        ),
    );

    let authority = root::load_or_create(&program.client, &common).await?;
    let host = common.service_host("osm-injector");
    let names = [host.as_str(), &format!("{host}.cluster.local")];
    let leaf = authority.issue_server(&names, SERVER_VALIDITY, SystemTime::now())?;
    let injection = Injection {
        client: program.client.clone(),
        osm_namespace: common.osm_namespace.clone(),
        mesh_config: common.osm_config_name.clone(),
        settings: Settings {
            mesh_name: common.mesh_name.clone(),
            osm_namespace: common.osm_namespace.clone(),
            trust_domain: common.trust_domain.clone(),
            root_ca_pem: authority.certificate_pem().to_owned(),
            sidecar_image: args.sidecar_image.clone(),
            envoy_image: args.envoy_image.clone(),
            init_container_image: args.init_container_image.clone(),
            image_pull_policy: args.osm_container_pull_policy.clone(),
        },
    };
    let listener = tls::bind(common.listen_address, args.webhook_port).await?;
    let config = admission::server_config(&leaf)?;
    let incoming = tls::accept(
        listener,
        config,
        admission::CONNECTION_BOUND,
        program.stop.clone(),
    )?;
    let router = admission::router(webhook::MUTATE_PATH, Arc::new(injection), metrics);
    let stop = program.stop.clone();
    program.spawn("mutating webhook", async move {
        axum::serve(incoming, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("mutating webhook")
    });

    // Only now, with somebody to answer: a configuration without a server stops all pod creation.
    let name = args
        .webhook_config_name
        .unwrap_or_else(|| format!("osm-webhook-{}", common.mesh_name));
    let wanted = webhook::mutating(
        &common,
        &name,
        args.webhook_timeout,
        authority.certificate_pem(),
    );
    webhook::apply(&program.client, wanted)
        .await
        .context("MutatingWebhookConfiguration")?;
    ready.set();
    tracing::info!(webhook = name, "osm-injector is ready");
    Ok(())
}

/// Decides about pods.
///
/// Namespace and MeshConfig are read at the moment of the decision, not from a cache: `osm namespace
/// add` followed at once by a deployment must not race with a watch.
struct Injection {
    client: Client,
    osm_namespace: String,
    mesh_config: String,
    settings: Settings,
}

// === impl Injection ===

impl Decide for Injection {
    async fn decide(&self, request: Request) -> Verdict {
        let namespace = request.namespace.clone();
        match self.patch(request).await {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::warn!(namespace, error = format!("{error:#}"), "pod refused");
                Verdict::Denied(format!("{error:#}"))
            }
        }
    }
}

impl Injection {
    async fn patch(&self, request: Request) -> anyhow::Result<Verdict> {
        if request.kind.kind != "Pod" || !request.kind.group.is_empty() {
            return Ok(Verdict::Allowed);
        }
        let pod: Pod = serde_json::from_value(request.object).context("pod")?;
        let (namespace, mesh_config) =
            tokio::time::timeout(READ_DEADLINE, self.read(&request.namespace))
                .await
                .with_context(|| {
                    format!("the API server did not answer within {READ_DEADLINE:?}")
                })??;
        let patch = inject::mutate(&pod, &namespace, &mesh_config, &self.settings)?;
        if patch.0.is_empty() {
            return Ok(Verdict::Allowed);
        }
        let name = pod
            .metadata
            .name
            .or(pod.metadata.generate_name)
            .unwrap_or_default();
        tracing::info!(
            namespace = request.namespace,
            pod = name,
            "injecting a sidecar"
        );
        Ok(Verdict::Patched(serde_json::to_value(patch)?))
    }

    async fn read(&self, namespace: &str) -> anyhow::Result<(Namespace, MeshConfig)> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let configs: Api<MeshConfig> = Api::namespaced(self.client.clone(), &self.osm_namespace);
        let (namespace_read, config) =
            tokio::join!(namespaces.get(namespace), configs.get(&self.mesh_config));
        let place = format!("MeshConfig {}/{}", self.osm_namespace, self.mesh_config);
        Ok((
            namespace_read.with_context(|| format!("Namespace {namespace}"))?,
            config.context(place)?,
        ))
    }
}
