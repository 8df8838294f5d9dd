//! Envoy as a child, and its administration.

use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::warn;

use super::AgentArgs;

/// One question to the administration.
const ASK: Duration = Duration::from_secs(5);
/// Its longest answer of those we ask for.
const ANSWER: usize = 1 << 20;
/// From SIGTERM to the end of an Envoy without connections.
const STOP: Duration = Duration::from_secs(5);

/// A running Envoy.
pub(super) struct Envoy {
    child: Child,
    admin: SocketAddr,
}

// === impl Envoy ===

impl Envoy {
    /// Starts it. It logs where we log, and ends with us: we are the container's first process.
    pub(super) fn start(args: &AgentArgs, bootstrap: &str) -> anyhow::Result<Self> {
        let settings = &args.settings;
        let child = Command::new(&args.envoy)
            .args(["--config-yaml", bootstrap])
            .args(["--log-level", level(&settings.log_level)])
            .args(["--concurrency", &settings.workers.to_string()])
            // It would want shared memory for a successor that never comes: pods are replaced.
            .arg("--disable-hot-restart")
            .args(&args.arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", args.envoy.display()))?;
        Ok(Self {
            child,
            admin: settings.admin,
        })
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn stop(&mut self) -> io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            kill(Pid::from_raw(id), Signal::SIGTERM)?;
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => {
                warn!("Envoy does not end: it is killed");
                self.child.kill().await
            }
        }
    }

    /// Requests and opaque connections that are not done; a connection that rests between requests is nobody's loss.
    pub(super) async fn unfinished(&self) -> anyhow::Result<u64> {
        let text = self
            .ask("GET", "/stats?filter=downstream_(cx%7Crq)_active$&usedonly")
            .await?;
        Ok(unfinished(&text))
    }

    /// Asks its administration.
    pub(super) async fn ask(&self, method: &str, path: &str) -> anyhow::Result<String> {
        timeout(ASK, self.exchange(method, path))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {ASK:?}")))
            .with_context(|| format!("{method} {path}"))
    }

    async fn exchange(&self, method: &str, path: &str) -> anyhow::Result<String> {
        let stream = TcpStream::connect(self.admin).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            ensure!(status.is_success(), "answered {status}");
            let body = Limited::new(response.into_body(), ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("answer: {error}"))?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        };
        tokio::select! {
            answer = exchange => answer,
            ended = connection => Err(anyhow::anyhow!("closed: {ended:?}")),
        }
    }
}

/// From Envoy's gauges: connections of listeners that no connection manager has, and the requests of those.
/// What concerns the administration is not counted.
fn unfinished(stats: &str) -> u64 {
    let (mut connections, mut managed, mut requests) = (0u64, 0u64, 0u64);
    for line in stats.lines() {
        let Some((name, value)) = line.rsplit_once(": ") else {
            continue;
        };
        let value = value.trim().parse::<u64>().unwrap_or(0);
        let (sum, rest) = if let Some(rest) = name.strip_prefix("listener.") {
            // The same connections again, by thread.
            if rest.contains(".worker_") {
                continue;
            }
            (&mut connections, rest)
        } else if let Some(rest) = name.strip_prefix("http.") {
            let sum = if rest.ends_with(".downstream_rq_active") {
                &mut requests
            } else {
                &mut managed
            };
            (sum, rest)
        } else {
            continue;
        };
        if rest.split('.').next() != Some("admin") {
            *sum = sum.saturating_add(value);
        }
    }
    connections.saturating_sub(managed).saturating_add(requests)
}

/// Envoy's name of a level; of a filter by targets it can only take the general one.
fn level(ours: &str) -> &'static str {
    let general = ours.split(',').find(|part| !part.contains('='));
    match general.unwrap_or_default() {
        "trace" => "trace",
        "debug" => "debug",
        "warn" | "warning" => "warning",
        "error" => "error",
        "critical" => "critical",
        "off" => "off",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_opaque_connections_are_unfinished_and_resting_ones_are_not() {
        let admin = "http.admin.downstream_cx_active: 1\n\
            http.admin.downstream_rq_active: 1\n\
            listener.admin.downstream_cx_active: 1\n\
            listener.admin.main_thread.downstream_cx_active: 1\n";
        let resting = "http.inbound_shop/web_80_http.downstream_cx_active: 3\n\
            http.inbound_shop/web_80_http.downstream_rq_active: 0\n\
            listener.[__]_15003.downstream_cx_active: 3\n\
            listener.[__]_15003.worker_0.downstream_cx_active: 3\n";
        let opaque = "listener.[__]_15001.downstream_cx_active: 2\n\
            listener.[__]_15001.worker_0.downstream_cx_active: 2\n\
            listener.odd.downstream_cx_active: No recorded values\n";
        let asking = "http.outbound_shop/web_80_http.downstream_cx_active: 1\n\
            http.outbound_shop/web_80_http.downstream_rq_active: 4\n\
            listener.[__]_15002.downstream_cx_active: 1\n";
        for (stats, expected) in [
            (String::new(), 0),
            (admin.to_owned(), 0),
            ([admin, resting].concat(), 0),
            ([admin, resting, opaque].concat(), 2),
            ([admin, resting, opaque, asking].concat(), 6),
        ] {
            assert_eq!(unfinished(&stats), expected, "{stats}");
        }
    }

    #[test]
    fn levels_have_envoys_names() {
        for (ours, theirs) in [
            ("error", "error"),
            ("warn", "warning"),
            ("warning", "warning"),
            ("critical", "critical"),
            ("proxy=trace,debug", "debug"),
            ("proxy=debug", "info"),
            ("", "info"),
        ] {
            assert_eq!(level(ours), theirs, "{ours}");
        }
    }
}
