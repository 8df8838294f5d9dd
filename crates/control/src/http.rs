//! The plain HTTP port of each program: health, metrics, version.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metric, Metrics};
use crate::tls::bind;

/// Git commit and build date as the build was told them; a build from a source archive knows neither.
const GIT_COMMIT: &str = match option_env!("OSM_GIT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
const BUILD_DATE: &str = match option_env!("OSM_BUILD_DATE") {
    Some(date) => date,
    None => "unknown",
};

/// Whether a program can do its work yet.
#[derive(Clone, Default)]
pub(crate) struct Ready(Arc<AtomicBool>);

/// What the health answers say in their bodies.
#[derive(Clone, Copy)]
pub(crate) enum Component {
    /// `/health/ready`, `/health/alive`, `/smi/version`
    Controller,
    /// `/healthz`
    Injector,
    /// `/healthz`
    Bootstrap,
}

// === impl Ready ===

impl Ready {
    /// From now on the program works.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves the port until `stop`.
pub(crate) async fn serve(
    component: Component,
    address: IpAddr,
    port: u16,
    version: String,
    ready: Ready,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    metrics.add(Metric::Version, &[&version, BUILD_DATE, GIT_COMMIT], 1);
    let listener = bind(address, port).await.context("health and metrics")?;
    axum::serve(listener, router(component, version, ready, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("health and metrics")
}

fn router(component: Component, version: String, ready: Ready, metrics: Arc<Metrics>) -> Router {
    let readiness = get(move || async move {
        if ready.is_set() {
            (StatusCode::OK, "Service is ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "Service is not ready")
        }
    });
    let version = json!({ "version": version, "git_commit": GIT_COMMIT, "build_date": BUILD_DATE });
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move { text(metrics.render()) }),
        )
        .route("/version", get(move || async move { axum::Json(version) }))
        .route("/healthz", readiness.clone());
    match component {
        Component::Injector | Component::Bootstrap => router,
        Component::Controller => router
            .route("/health/ready", readiness)
            .route("/health/alive", get(|| async { "Service is alive" }))
            .route("/smi/version", get(|| async { axum::Json(smi_versions()) })),
    }
}

fn text(body: String) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        body,
    )
        .into_response()
}

/// The SMI versions the control plane reads, for `osm mesh list`.
fn smi_versions() -> serde_json::Value {
    json!({
        "HTTPRouteGroup": "specs.smi-spec.io/v1alpha4",
        "TCPRoute": "specs.smi-spec.io/v1alpha4",
        "TrafficSplit": "split.smi-spec.io/v1alpha4",
        "TrafficTarget": "access.smi-spec.io/v1alpha3",
    })
}
