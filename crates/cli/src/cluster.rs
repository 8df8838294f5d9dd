//! The connection to the cluster that `KUBECONFIG` names.

use std::error::Error;
use std::time::Duration;

use anyhow::anyhow;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};

/// How long the API server may take to be there. The command is for people, who want to be told.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pod of the control plane may take to answer through the API server.
const POD_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for the current context, once the API server has answered.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(error) => Config::incluster().map_err(|_| {
            let reason = chain(&error);
            anyhow!("no usable kubeconfig: {reason} (set KUBECONFIG, or run in a pod)")
        })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config)
        .map_err(|error| anyhow!("kubeconfig cannot be used: {}", root_cause(&error)))?;
    let version = tokio::time::timeout(CONNECT_TIMEOUT, client.apiserver_version()).await;
    match version {
        Ok(Ok(_)) => Ok(client),
        Ok(Err(error)) => Err(anyhow!(
            "Kubernetes API at {address} cannot be used: {}",
            explain(&error)
        )),
        Err(_) => Err(anyhow!(
            "Kubernetes API at {address} cannot be used: no answer within {} s",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}

/// An error of the API as one line: the server's own message where it sent one.
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => root_cause(other),
    }
}

/// True if the object asked for does not exist, or its kind does not.
pub fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some errors print their cause themselves.
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What a pod answers to `GET http://pod:port/path`, asked by the API server.
pub async fn ask_pod(client: &Client, pod: &Pod, port: u16, path: &str) -> anyhow::Result<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let uri = format!("/api/v1/namespaces/{namespace}/pods/http:{name}:{port}/proxy{path}");
    let request = Request::get(uri).body(Vec::new())?;
    let answer = tokio::time::timeout(POD_TIMEOUT, client.request_text(request)).await;
    answer
        .map_err(|_| anyhow!("pod {namespace}/{name} does not answer"))?
        .map_err(|error| anyhow!(explain(&error)))
}

/// The pods of a namespace with this label that run.
pub async fn running_pods(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> anyhow::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels(selector))
        .await
        .map_err(|error| anyhow!(explain(&error)))?;
    let runs = |pod: &Pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Running")
            && pod.metadata.deletion_timestamp.is_none()
    };
    Ok(pods.items.into_iter().filter(runs).collect())
}
