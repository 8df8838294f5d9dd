//! What the scenarios of limits, retries and third parties share: a client with tools, a server that fails by rule,
//! and the objects they are governed by.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::eventually;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manifest::{PORT, account, allow, curl, deployment, object, pod, service, with};
use crate::scene::{Ends, Pod, Scene, with_trust};

/// Longest wait for a statement to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A client with tools, and a server in namespaces of their own.
pub struct Pair {
    /// The client's container with curl and a shell.
    pub client: Pod,
    /// Its container with osm-apps.
    pub tools: Pod,
    /// Namespace of the client.
    pub clients: String,
    /// Namespace of the server, whose name is `server`.
    pub servers: String,
}

/// What `osm-apps load` saw.
#[derive(Debug, Default, Deserialize)]
pub struct Tally {
    /// Answers by status.
    pub codes: BTreeMap<u16, u64>,
    /// The last body of each status.
    pub bodies: BTreeMap<u16, String>,
    /// What was no answer.
    pub errors: BTreeMap<String, u64>,
}

/// A container with a role of osm-apps that listens on a port.
pub fn apps(role: &[&str], port: u16) -> Value {
    let port_word = port.to_string();
    let mut command = vec!["osm-apps"];
    command.extend(role);
    command.extend(["--port", &port_word]);
    json!({
        "name": "server", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": command, "ports": [{ "containerPort": port }]
    })
}

/// A server of one pod behind a Service of its name, whose port's name tells the protocol.
pub async fn serve(
    scene: &Scene<'_>,
    namespace: &str,
    name: &str,
    role: &[&str],
    (port_name, port): (&str, u16),
) -> Result<()> {
    scene
        .apply(&[
            account(namespace, name),
            service(namespace, name, name, port_name, port),
            deployment(namespace, name, pod(name, apps(role, port))),
        ])
        .await
}

/// A client with curl in one container and osm-apps in another; gives both.
pub async fn client(scene: &Scene<'_>, namespace: &str, name: &str) -> Result<(Pod, Pod)> {
    let tools = json!({
        "name": "tools", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "365d"]
    });
    let spec = with(
        pod(name, json!({})),
        &["containers"],
        json!([curl(), tools]),
    );
    let spec = deployment(namespace, name, with_trust(spec));
    scene.apply(&[account(namespace, name), spec]).await?;
    let client = scene.pod(namespace, name, "curl").await?;
    let tools = Pod {
        container: "tools".to_owned(),
        ..client.clone()
    };
    Ok((client, tools))
}

/// An UpstreamTrafficSetting for a host.
pub fn setting(namespace: &str, name: &str, host: &str, rest: Value) -> Value {
    object(
        "policy.openservicemesh.io/v1alpha1",
        "UpstreamTrafficSetting",
        namespace,
        name,
        with(rest, &["host"], json!(host)),
    )
}

// === impl Pair ===

impl Pair {
    /// A server that fails by the path it is asked for.
    pub async fn flaky(scene: &Scene<'_>) -> Result<Self> {
        Self::new(scene, &["flaky"], ("http", PORT)).await
    }

    /// A server with this role of osm-apps; everything of it is granted to the client.
    pub async fn new(scene: &Scene<'_>, role: &[&str], port: (&str, u16)) -> Result<Self> {
        let clients = scene.namespace("client").await?;
        let servers = scene.namespace("server").await?;
        serve(scene, &servers, "server", role, port).await?;
        scene
            .apply(&allow(&servers, "server", &[(&clients, "client")]))
            .await?;
        let (client, tools) = client(scene, &clients, "client").await?;
        scene.pod(&servers, "server", "server").await?;
        let pair = Self {
            client,
            tools,
            clients,
            servers,
        };
        Ok(pair)
    }

    /// The server's full name.
    pub fn host(&self) -> String {
        format!("server.{}.svc.cluster.local", self.servers)
    }

    /// A page of the server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{PORT}{path}", self.host())
    }

    /// The setting of the server's host; the server's answers tell when it has arrived, if `check` asks them.
    pub async fn set(&self, scene: &Scene<'_>, rest: Value) -> Result<()> {
        let object = setting(&self.servers, "limits", &self.host(), rest);
        scene.apply(&[object]).await?;
        self.status(scene, "committed").await
    }

    /// The setting's status.
    pub async fn status(&self, scene: &Scene<'_>, wanted: &str) -> Result<()> {
        eventually(PATIENCE, async || {
            let path = "{.status.currentStatus}";
            let status = scene
                .field("upstreamtrafficsetting", &self.servers, "limits", path)
                .await?;
            ensure!(status == wanted, "status {status:?}, not {wanted}");
            Ok(())
        })
        .await
    }

    /// Removes the setting.
    pub async fn unset(&self, scene: &Scene<'_>) -> Result<()> {
        let kind = "upstreamtrafficsetting";
        scene.delete(kind, &self.servers, "limits").await
    }

    /// The server answers at all.
    pub async fn open(&self, scene: &Scene<'_>) -> Result<()> {
        let url = self.url("/ready");
        scene.curl(&self.client, &url, Ends::Status(200)).await
    }

    /// Load on a page of the server.
    pub async fn load(&self, scene: &Scene<'_>, path: &str, options: &str) -> Result<Tally> {
        load(scene, &self.tools, &self.url(path), options).await
    }

    /// How many requests for a path have reached the server.
    pub async fn seen(&self, scene: &Scene<'_>, path: &str) -> Result<u64> {
        let line = format!(
            "curl -s --max-time 10 {}",
            self.url(&format!("/seen{path}"))
        );
        let output = scene.exec(&self.client, &["sh", "-c", &line]).await?;
        let text = output.text()?;
        text.trim().parse().with_context(|| format!("{text:?}"))
    }

    /// Counters of the client's sidecar whose names contain all these words, added up.
    pub async fn counter(&self, scene: &Scene<'_>, words: &[&str]) -> Result<u64> {
        counter(scene, &self.client, words).await
    }
}

/// Load on a page.
pub async fn load(scene: &Scene<'_>, tools: &Pod, url: &str, options: &str) -> Result<Tally> {
    let line = format!("osm-apps load {options} {url}");
    let text = scene.exec(tools, &["sh", "-c", &line]).await?.text()?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Counters of a pod's sidecar whose names contain all these words, added up.
pub async fn counter(scene: &Scene<'_>, pod: &Pod, words: &[&str]) -> Result<u64> {
    let line = "curl -s --max-time 10 http://127.0.0.1:15000/stats/prometheus";
    let text = scene.exec(pod, &["sh", "-c", line]).await?.text()?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter(|line| words.iter().all(|word| line.contains(word)));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let sum = numbers.sum::<f64>() as u64;
    Ok(sum)
}

// === impl Tally ===

impl Tally {
    /// Answers with a status.
    pub fn of(&self, code: u16) -> u64 {
        self.codes.get(&code).copied().unwrap_or_default()
    }

    /// All answers.
    pub fn answers(&self) -> u64 {
        self.codes.values().sum()
    }
}
