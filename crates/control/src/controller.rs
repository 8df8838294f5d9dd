//! `osm controller`: watches the cluster, serves proxies, checks policies.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ca::{Authority, ClientVerifier, Leaf, TrustStore};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use xds::certificate::CertificateServer;
use xds::resources::TrustBundle;

use crate::ads::{Ads, Shared, TURNS};
use crate::http::{self, Component, Ready};
use crate::indexer::{Indexer, Publisher};
use crate::inform;
use crate::issue::{Issuer, KubernetesReview, Review};
use crate::metrics::Metrics;
use crate::nacks::Nacks;
use crate::program::Program;
use crate::push::Push;
use crate::root::{self, SERVER_VALIDITY};
use crate::status::Findings;
use crate::validate::{QUESTIONS_BOUND, Validator};
use crate::world::Worlds;
use crate::{CommonArgs, ControllerArgs, admission, delta, events, gateway, status, tls, webhook};

/// Connections to the discovery port: two per proxy while it renews its certificate.
const CONNECTION_BOUND: usize = 40_000;

/// Keep-alive of idle streams: a proxy that vanished without a word is noticed in a minute; one that shares a processor
/// with thousands may take its time.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams of one connection; a proxy needs one for discovery and now and then one for a certificate.
const STREAMS_PER_CONNECTION: u32 = 16;

/// Runs `osm controller` until SIGTERM.
pub async fn controller(args: ControllerArgs) -> anyhow::Result<()> {
    let program = Program::start(&args.common).await?;
    program.clone().run(start(program, args)).await
}

/// Starts everything; it runs until the program ends.
async fn start(program: Program, args: ControllerArgs) -> anyhow::Result<()> {
    let common = args.common.clone();
    let (metrics, ready) = (Arc::new(Metrics::default()), Ready::default());
    program.spawn(
        "health and metrics",
        http::serve(
            Component::Controller,
            common.listen_address,
            common.http_port,
            common.osm_version.clone(),
            ready.clone(),
            metrics.clone(),
            program.stop.clone(),
        ),
    );
    let authority = Arc::new(root::load_or_create(&program.client, &common).await?);
    let (publish, worlds) = watch::channel(None);
    let worlds = Worlds::new(worlds);
    let (tell, findings) = watch::channel(Findings::default());
    let publisher = Publisher {
        worlds: publish,
        findings: tell,
    };
    let nacks = Arc::new(Nacks::default());
    let client = || program.client.clone();
    program.spawn(
        "status",
        status::run(client(), findings.clone(), nacks.clone(), status::RETRY),
    );
    program.spawn(
        "events",
        events::run(client(), findings, nacks.clone(), metrics.clone()),
    );
    let (ask, questions) = mpsc::channel(QUESTIONS_BOUND);
    let changes = inform::start(&program, &common, &metrics);
    let indexer = Indexer::new(&common, program.log.clone(), ready, metrics.clone());
    program.spawn("index", indexer.run(changes, questions, publisher));

    program.spawn(
        "gateway certificate",
        gateway::run(program.client.clone(), authority.clone(), worlds.clone()),
    );
    let validator = Validator {
        questions: ask,
        traffic_targets: args.validate_traffic_target,
    };
    serve_webhook(&program, &args, &authority, validator, metrics.clone()).await?;

    let listener = tls::bind(common.listen_address, args.ads_port)
        .await
        .context("discovery")?;
    let discovery = Discovery {
        authority: authority.clone(),
        trust_domain: common.trust_domain.clone(),
        leaf: discovery_leaf(&authority, &common)?,
        worlds,
        review: KubernetesReview(program.client.clone()),
        metrics,
        nacks,
        mesh_config: (
            common.osm_namespace.as_str().into(),
            common.osm_config_name.as_str().into(),
        ),
        stop: program.stop.clone(),
        tasks: program.tasks.clone(),
    };
    program.spawn("discovery", discovery.serve(listener));
    tracing::info!(mesh = common.mesh_name, "osm-controller is up");
    Ok(())
}

fn discovery_leaf(authority: &Authority, args: &CommonArgs) -> Result<Leaf, ca::Error> {
    let host = args.service_host("osm-controller");
    let names = [host.as_str(), &format!("{host}.cluster.local")];
    authority.issue_server(&names, SERVER_VALIDITY, SystemTime::now())
}

async fn serve_webhook(
    program: &Program,
    args: &ControllerArgs,
    authority: &Authority,
    validator: Validator,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let common = &args.common;
    let host = common.service_host("osm-validator");
    let names = [host.as_str(), &format!("{host}.cluster.local")];
    let leaf = authority.issue_server(&names, SERVER_VALIDITY, SystemTime::now())?;
    let listener = tls::bind(common.listen_address, args.webhook_port)
        .await
        .context("validating webhook")?;
    let config = admission::server_config(&leaf)?;
    let incoming = tls::accept(
        listener,
        config,
        admission::CONNECTION_BOUND,
        program.stop.clone(),
    )?;
    let router = admission::router(webhook::VALIDATE_PATH, Arc::new(validator), metrics);
    let stop = program.stop.clone();
    program.spawn("validating webhook", async move {
        axum::serve(incoming, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("validating webhook")
    });
    let default = || format!("osm-validator-mesh-{}", common.mesh_name);
    let name = args
        .validator_webhook_config
        .clone()
        .unwrap_or_else(default);
    let wanted = webhook::validating(
        common,
        &name,
        args.validate_traffic_target,
        authority.certificate_pem(),
    );
    let client = program.client.clone();
    let stop = program.stop.clone();
    // In the background: proxies need the controller more than it needs this object.
    program.tasks.spawn(async move {
        tokio::select! {
            applied = webhook::apply(&client, wanted) => if let Err(error) = applied {
                tracing::error!(error = format!("{error:#}"), "ValidatingWebhookConfiguration {name}");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

/// The port proxies talk to: discovery and certificates.
pub(crate) struct Discovery<R> {
    pub(crate) authority: Arc<Authority>,
    pub(crate) trust_domain: String,
    pub(crate) leaf: Leaf,
    pub(crate) worlds: Worlds,
    pub(crate) review: R,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) nacks: Arc<Nacks>,
    pub(crate) mesh_config: families::Key,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

// === impl Discovery ===

impl<R: Review> Discovery<R> {
    /// Serves until the program ends.
    pub(crate) async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let root = self.authority.certificate_pem();
        let verifier = ClientVerifier::optional(TrustStore::from_pem(root)?);
        let resolver = rustls::sign::SingleCertAndKey::from(self.leaf.certified_key()?);
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let incoming = tls::accept(
            listener,
            Arc::new(config),
            CONNECTION_BOUND,
            self.stop.clone(),
        )?;

        let trust = TrustBundle {
            pem: root.to_owned(),
        };
        let push = Push::new(trust);
        self.tasks
            .spawn(push.clone().run(self.worlds.clone(), self.stop.clone()));
        let shared = Arc::new(Shared {
            worlds: self.worlds.clone(),
            trust_domain: self.trust_domain.clone(),
            metrics: self.metrics.clone(),
            nacks: self.nacks,
            mesh_config: self.mesh_config,
            push,
            turns: Arc::new(Semaphore::new(TURNS)),
            streams: AtomicUsize::new(0),
            stop: self.stop.clone(),
            tasks: self.tasks,
        });
        let issuer = Issuer::new(
            self.authority.clone(),
            self.trust_domain,
            self.worlds,
            self.review,
            self.metrics,
        );
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .add_service(delta::Discovery::new(Arc::new(Ads { shared })))
            .add_service(CertificateServer::new(issuer))
            .serve_with_incoming_shutdown(incoming, self.stop.cancelled_owned())
            .await
            .context("discovery")
    }
}
