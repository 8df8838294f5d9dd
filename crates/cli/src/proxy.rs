//! `osm proxy get|set`: the administration of a pod's sidecar, which listens on the pod's loopback only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use crate::cluster::{connect, explain};
use crate::pods::{self, PodName};

/// `osm proxy`.
#[derive(Subcommand)]
pub enum Command {
    /// Print what the sidecar's administration answers: config_dump, clusters, listeners, stats, certs, ready, ...
    Get(QueryArgs),
    /// Change the sidecar by its administration: reset_counters, logging?level=debug, ...
    Set(QueryArgs),
}

/// `osm proxy get` and `osm proxy set`.
#[derive(Args)]
pub struct QueryArgs {
    /// Path and query, without the first slash
    query: String,
    /// Name of the pod
    pod: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// File for the answer, instead of the output
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Taken for upstream's sake: the API server forwards the request, no local port is needed
    #[arg(short = 'p', long, default_value_t = ADMINISTRATION, hide = true)]
    local_port: u16,
}

/// Port of the administration, on the pod's loopback.
const ADMINISTRATION: u16 = 15000;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let (method, args) = match command {
        Command::Get(args) => (Method::GET, args),
        Command::Set(args) => (Method::POST, args),
    };
    let name = PodName {
        namespace: args.namespace,
        name: args.pod,
    };
    let client = connect().await?;
    let pod = pods::find(&client, &name).await?;
    if !pods::is_meshed(&pod) {
        bail!("pod {name} is not a part of a mesh");
    }
    if !pods::is_running(&pod) {
        bail!("pod {name} is not running");
    }
    let answer = tokio::time::timeout(PATIENCE, ask(&client, &name, method, &args.query));
    let answer = answer
        .await
        .map_err(|_| anyhow!("no answer after {} s", PATIENCE.as_secs()))
        .flatten()
        .with_context(|| format!("sidecar of pod {name}"))?;
    match args.file {
        Some(file) => std::fs::write(&file, answer)
            .with_context(|| format!("{}: cannot be written", file.display())),
        None => {
            print!("{}", String::from_utf8_lossy(&answer));
            Ok(())
        }
    }
}

/// One request to the administration, through the API server.
async fn ask(
    client: &Client,
    name: &PodName,
    method: Method,
    query: &str,
) -> anyhow::Result<Vec<u8>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let forwarder = pods.portforward(&name.name, &[ADMINISTRATION]).await;
    let mut forwarder = forwarder.map_err(|error| anyhow!("port-forward: {}", explain(&error)))?;
    let stream = forwarder
        .take_stream(ADMINISTRATION)
        .context("port-forward gives no stream")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer: the sender is dropped at the end of this function.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(format!("/{}", query.trim_start_matches('/')))
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<&[u8]>::new())
        .with_context(|| format!("query {query:?}"))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes().to_vec();
    connection.abort();
    ensure!(
        status.is_success(),
        "/{query} is answered with {status}: {}",
        String::from_utf8_lossy(&body).trim()
    );
    Ok(body)
}
