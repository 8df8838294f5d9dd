//! The TCP proxy: one connection in, one out, bytes between.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWrite;
use tokio::time::{sleep, sleep_until};

use crate::access::{Line, milliseconds};
use crate::cluster::{ChoiceContext, Chosen, Cluster, Outcome as Judged, hash_source};
use crate::connection::Connection;
use crate::copy::{End, Outcome, both_until};
use crate::listener::{TcpProxy, Terminal};
use crate::net::Stream;
use crate::reason::Reason;
use crate::tls::Speaks;
use crate::upstream::{Connected, connect, settled};
use crate::worker::roll;

/// How long a connection of a chain that left the configuration may go on.
const DRAIN: Duration = Duration::from_secs(600);
/// How long a connection may go on once the proxy is told to stop.
const STOP: Duration = Duration::from_secs(5);

/// Serves one connection to its end.
pub async fn serve(mut stream: Stream, connection: Arc<Connection>) {
    let connection = connection.as_ref();
    let Terminal::Tcp(proxy) = &connection.chain.terminal else {
        return;
    };
    let started = Instant::now();
    let lives_until = proxy.max_duration.map(|longest| started + longest);
    let mut line = connection.line();
    line.start_time = crate::access::timestamp(SystemTime::now());
    line.begun = Some(started);
    line.route_name = Some(connection.chain.name.clone());
    // Boxed: what a handshake takes is given back before the bytes flow.
    match Box::pin(open(connection, proxy, &mut line)).await {
        Ok((mut upstream, chosen, _connected)) => {
            let until = told(connection, &chosen, lives_until);
            let outcome = both_until(&mut stream, &mut upstream, proxy.idle_timeout, until).await;
            if matches!(outcome.end, End::Idle | End::Told(_)) {
                close(&mut stream);
                close(&mut upstream);
            }
            finish(&outcome, &stream, &upstream, &chosen.cluster, &mut line);
        }
        Err(reason) => {
            stream.socket().reset_on_close();
            line.response_flags = reason.row().flag;
            line.response_code_details = reason.row().details.to_owned();
            line.blame = Some(reason.row().blame.as_str());
        }
    }
    line.duration = milliseconds(started.elapsed());
    connection.log(&line);
}

async fn open(
    connection: &Connection,
    proxy: &TcpProxy,
    line: &mut Line,
) -> Result<(Stream, Chosen, Connected), Reason> {
    let (name, _) = proxy.target.pick(roll()).ok_or(Reason::ClusterNotFound)?;
    line.upstream_cluster = Some(name.clone());
    let snapshot = connection.worker.shared.snapshot.load_full();
    let cluster = snapshot.clusters.get(name).ok_or(Reason::ClusterNotFound)?;
    settled(cluster).await;
    let mut reason = Reason::NoHealthyUpstream;
    for _ in 0..proxy.connect_attempts {
        let chosen = cluster.choose(&context(connection, proxy))?;
        line.upstream_host = Some(chosen.endpoint.config.address.to_string());
        match connect(&chosen, Speaks::Anything, false).await {
            Ok((stream, connected)) => {
                chosen.report(Judged::Connected);
                return Ok((stream, chosen, connected));
            }
            Err(error) => {
                error
                    .outcome()
                    .into_iter()
                    .for_each(|outcome| chosen.report(outcome));
                reason = error.reason();
            }
        }
    }
    Err(reason)
}

fn context(connection: &Connection, proxy: &TcpProxy) -> ChoiceContext<'static> {
    ChoiceContext {
        hash: proxy.hash_source.then(|| hash_source(connection.source)),
        ..ChoiceContext::new(connection, roll())
    }
}

/// Why a connection ends although both ends would go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Its chain left the configuration, or the proxy stops.
    Drained,
    /// It has lived as long as it may.
    TooOld,
    /// Its endpoint's health checks failed, and the cluster wants its connections closed then.
    Unhealthy,
}

async fn told(connection: &Connection, chosen: &Chosen, lives_until: Option<Instant>) -> Told {
    let stop = &connection.worker.shared.drain;
    let too_old = async {
        match lives_until {
            Some(end) => sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    };
    let endpoint = &chosen.endpoint;
    let unhealthy = async {
        match chosen.cluster.config.close_on_health_failure {
            true => endpoint.closing(endpoint.epoch()).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = async { connection.chain.drain.heard().await; sleep(DRAIN).await } => Told::Drained,
        () = async { stop.heard().await; sleep(STOP).await } => Told::Drained,
        () = too_old => Told::TooOld,
        () = unhealthy => Told::Unhealthy,
    }
}

fn finish(
    outcome: &Outcome<Told>,
    stream: &Stream,
    upstream: &Stream,
    cluster: &Cluster,
    line: &mut Line,
) {
    line.bytes_received = outcome.forward;
    line.bytes_sent = outcome.backward;
    cluster.stats.sent.add(outcome.forward);
    cluster.stats.received.add(outcome.backward);
    match &outcome.end {
        End::Closed => {}
        // A failure at one end is a reset at the other: nobody may take it for an orderly end.
        End::First(_) => {
            upstream.socket().reset_on_close();
            line.response_flags = "DC";
            line.response_code_details = Reason::ClientGone.row().details.to_owned();
        }
        End::Second(error) => {
            stream.socket().reset_on_close();
            line.response_flags = "UC";
            line.response_code_details = format!("upstream_connection_failed{{{}}}", error.kind());
            line.blame = Some("upstream");
        }
        End::Idle => {
            line.response_flags = "SI";
            line.response_code_details = "idle_timeout".to_owned();
        }
        End::Told(Told::Drained) => line.response_code_details = "drained".to_owned(),
        End::Told(Told::Unhealthy) => {
            line.response_flags = "UC";
            line.response_code_details = "upstream_unhealthy".to_owned();
            line.blame = Some("upstream");
        }
        End::Told(Told::TooOld) => {
            line.response_flags = "DT";
            line.response_code_details = "max_connection_duration_reached".to_owned();
        }
    }
}

/// Ends a connection in order although it was not its peer's wish: TLS says so, as far as the socket takes it at once.
fn close(stream: &mut Stream) {
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(stream).poll_shutdown(&mut cx);
}
