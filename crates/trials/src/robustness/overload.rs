//! A sidecar that is short of something refuses new work, says so, and takes it again when the want is over. Envoy does
//! the same on the same words, where there is one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use testkit::process::envoy_binary;
use testkit::{Process, client::h1};

use super::application::Application;
use crate::Outcome;
use crate::stage::{Plan, Program, Protocol, Service, Stage};

const LIMIT: Duration = Duration::from_secs(20);

pub async fn injected() -> anyhow::Result<Outcome> {
    let mut programs = vec![Program::Osm];
    if envoy_binary().is_some() {
        programs.push(Program::Envoy);
    }
    for program in &programs {
        trial(*program)
            .await
            .map_err(|error| error.context(format!("{program:?}")))?;
    }
    Ok(Outcome::Good(format!(
        "{programs:?}: refused with 503, counted, taken again; connections waited and were served"
    )))
}

async fn trial(program: Program) -> anyhow::Result<()> {
    let application = Application::start("a").await;
    let folder = tempfile::tempdir()?;
    let (requests, connections) = (
        folder.path().join("requests"),
        folder.path().join("connections"),
    );
    set(&requests, 0.1)?;
    set(&connections, 0.1)?;
    let monitor = |name: &str, file: &Path| {
        format!(
            "  - {{name: {name}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: {}}}}}\n",
            file.display()
        )
    };
    let plan = Plan {
        client: program,
        client_more: format!(
            "overload_manager:\n  refresh_interval: 0.1s\n  resource_monitors:\n{}{}  actions:\n  - {{name: envoy.overload_actions.stop_accepting_requests, triggers: [{{name: requests, threshold: {{value: 0.9}}}}]}}\n  - {{name: envoy.overload_actions.stop_accepting_connections, triggers: [{{name: connections, threshold: {{value: 0.9}}}}]}}\n",
            monitor("requests", &requests),
            monitor("connections", &connections)
        ),
        ..Plan::default()
    };
    let services = vec![Service::new("web", Protocol::Http1, application.address)];
    let stage = Stage::plan(&plan, services).await?;
    let front = stage.service("web")?.front();
    ensure!(ask(front).await?.0 == 200, "before");
    set(&requests, 0.95)?;
    active(&stage.client, "stop_accepting_requests", 1).await?;
    let (status, body) = ask(front).await?;
    ensure!(
        (status, body.as_str()) == (503, "envoy overloaded"),
        "{status} {body}"
    );
    pressure(&stage.client, "requests", 95).await?;
    set(&requests, 0.5)?;
    active(&stage.client, "stop_accepting_requests", 0).await?;
    ensure!(ask(front).await?.0 == 200, "after");
    set(&connections, 1.0)?;
    active(&stage.client, "stop_accepting_connections", 1).await?;
    let waiting = tokio::spawn(ask(front));
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(
        !waiting.is_finished(),
        "a connection was taken while none may be"
    );
    set(&connections, 0.0)?;
    let (status, _) = waiting.await??;
    ensure!(status == 200, "the connection that waited: {status}");
    Ok(())
}

/// Sets a pressure; in one step, as a monitor may read at any time.
fn set(file: &Path, pressure: f64) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, pressure.to_string())?;
    std::fs::rename(new, file)?;
    Ok(())
}

async fn ask(front: SocketAddr) -> anyhow::Result<(u16, String)> {
    let request = b"GET /x HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
    let exchange = h1::exchange(front, request, &["GET"], LIMIT).await;
    match exchange.responses.first() {
        Some(answer) => Ok((answer.status, answer.text())),
        None => bail!("no answer: {:?}", exchange.end),
    }
}

async fn active(process: &Process, action: &str, value: u64) -> anyhow::Result<()> {
    let line = format!("overload.envoy.overload_actions.{action}.active: {value}\n");
    shown(process, &line).await
}

async fn pressure(process: &Process, monitor: &str, percent: u64) -> anyhow::Result<()> {
    shown(
        process,
        &format!("overload.{monitor}.pressure: {percent}\n"),
    )
    .await
}

/// Waits until the statistics say so.
async fn shown(process: &Process, line: &str) -> anyhow::Result<()> {
    let end = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < end {
        let (_, stats) = process
            .admin("/stats?filter=overload")
            .await
            .unwrap_or_default();
        if stats.contains(line) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stats = process.admin("/stats?filter=overload").await;
    bail!("the statistics never say {line:?}, but {stats:?}")
}
