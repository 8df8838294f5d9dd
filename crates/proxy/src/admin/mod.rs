//! The administration on loopback, under Envoy's paths. What changes something wants POST; no key is ever shown.

mod dump;
pub(crate) mod pages;
mod query;
mod statistics;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::{Value as Json, json as literal};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use xds::client::Machine;

use crate::config::Resource;
use crate::listener::Direction;
use crate::listeners::Listeners;
use crate::route::without_port;
use crate::run::SetLevel;
use crate::settings::Settings;
use crate::worker::{Phase, Shared};
use query::Query;

/// Connections at a time.
const AT_ONCE: usize = 64;
/// A request's head, and an idle connection.
const IDLE: Duration = Duration::from_secs(60);

type Answer = Response<Full<Bytes>>;

/// What the administration shows and may change.
#[derive(Clone)]
pub struct Admin {
    /// Started with.
    pub settings: Settings,
    /// Running state.
    pub shared: Arc<Shared>,
    /// Received configuration.
    pub machine: Arc<Mutex<Machine<Resource>>>,
    /// Open sockets.
    pub listeners: Arc<Mutex<Listeners>>,
    /// Turned true to stop the proxy.
    pub quit: watch::Sender<bool>,
    /// Changes the log level.
    pub log: SetLevel,
}

/// What the proxy is at, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Draining,
    PreInitializing,
}

/// Serves for as long as the runtime lives.
pub async fn serve(admin: Admin) -> anyhow::Result<()> {
    let Some(address) = admin.settings.admin_address() else {
        return Ok(());
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("admin address {address}"))?;
    tokio::spawn(accept(admin, listener));
    Ok(())
}

/// Serves the connections of a listening socket for as long as the runtime lives.
pub async fn accept(admin: Admin, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(&request, peer)) }
            });
            let server = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service);
            let _ = server.await;
        });
    }
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>, peer: SocketAddr) -> Answer {
        let path = request.uri().path();
        let query = Query(request.uri().query().unwrap_or_default());
        // Scrapers come through the Prometheus listener under any name; everything else only under a loopback name,
        // so that no web page can ask for it through a name of its own.
        let is_public = matches!(path, "/ready" | "/stats/prometheus");
        if !is_public && !is_local(request.headers().get(HOST)) {
            let reason = "the Host must be an IP address or localhost\n";
            return text(StatusCode::FORBIDDEN, reason);
        }
        let is_change = CHANGES.contains(&path);
        match (is_change, request.method()) {
            (true, &Method::POST) | (false, &Method::GET | &Method::HEAD) => {}
            _ => {
                let reason = "Invalid request: POST changes, GET shows\n";
                return text(StatusCode::METHOD_NOT_ALLOWED, reason);
            }
        }
        if is_change && !may_change(request.headers(), peer) {
            let reason = "changes are taken from loopback only, and from no web page\n";
            return text(StatusCode::FORBIDDEN, reason);
        }
        if is_change {
            tracing::info!(path, query = query.0, %peer, "administration");
            self.change(path, &query)
        } else {
            self.show(path, &query)
        }
    }

    fn show(&self, path: &str, query: &Query<'_>) -> Answer {
        match path {
            "/" | "/help" => text(StatusCode::OK, HELP),
            "/ready" => self.ready(),
            "/stats" => self.stats(query),
            "/stats/prometheus" => self.prometheus(query),
            "/clusters" => self.clusters(query),
            "/listeners" => self.listeners(query),
            "/certs" => self.certs(),
            "/config_dump" => self.config_dump(query),
            "/server_info" => self.server_info(),
            "/memory" => pages::memory_page(),
            "/hot_restart_version" => text(StatusCode::OK, "disabled\n"),
            // There are no runtime keys: nothing can be overridden behind the configuration's back.
            "/runtime" => json(&literal!({ "layers": [], "entries": {} })),
            _ => text(
                StatusCode::NOT_FOUND,
                &format!("invalid path. admin commands are:\n{HELP}"),
            ),
        }
    }

    fn change(&self, path: &str, query: &Query<'_>) -> Answer {
        match path {
            "/quitquitquit" => {
                self.quit.send_replace(true);
            }
            "/healthcheck/fail" => self.shared.fail_health(true),
            "/healthcheck/ok" => self.shared.fail_health(false),
            "/reset_counters" => self.reset(),
            "/drain_listeners" => self.drain(query),
            "/logging" => return self.logging(query),
            _ => return text(StatusCode::NOT_FOUND, "invalid path\n"),
        }
        text(StatusCode::OK, "OK\n")
    }

    /// Whether the proxy can do its work: it has a certificate and a configuration.
    fn is_ready(&self) -> bool {
        match &self.settings.bootstrap {
            None => self.shared.own.current().is_some() && self.machine.lock().is_configured(),
            Some(bootstrap) => bootstrap.ads.is_none() || self.machine.lock().is_configured(),
        }
    }

    fn state(&self) -> State {
        match (self.shared.is_draining(), self.is_ready()) {
            (true, _) => State::Draining,
            (false, true) => State::Live,
            (false, false) => State::PreInitializing,
        }
    }

    fn ready(&self) -> Answer {
        let state = self.state();
        let status = match state {
            State::Live => StatusCode::OK,
            State::Draining | State::PreInitializing => StatusCode::SERVICE_UNAVAILABLE,
        };
        text(status, &format!("{}\n", state.as_str()))
    }

    fn reset(&self) {
        self.shared.stats.reset();
        for cluster in self.shared.snapshot.load().clusters.values() {
            cluster.stats.reset();
        }
    }

    /// Closes the listening sockets: at once, or with `graceful` after the grace in which connections are asked to leave.
    fn drain(&self, query: &Query<'_>) {
        let inbound_only = query.has("inboundonly");
        let listeners = self.listeners.clone();
        let close = move || {
            listeners
                .lock()
                .stop(|direction| !inbound_only || direction == Direction::Inbound);
        };
        if !query.has("graceful") {
            return close();
        }
        if !query.has("skip_exit") || !inbound_only {
            self.shared.enter_phase(Phase::Draining);
        }
        let grace = self.settings.grace();
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            close();
        });
    }

    fn logging(&self, query: &Query<'_>) -> Answer {
        let level = query.value("level").or_else(|| query.value("paths"));
        let Some(level) = level else {
            return text(StatusCode::BAD_REQUEST, "level= is needed\n");
        };
        // Envoy's names of the same levels.
        let level = match &*level {
            "warning" => "warn",
            "critical" => "error",
            other => other,
        };
        match (self.log)(level) {
            Ok(()) => text(StatusCode::OK, "OK\n"),
            Err(reason) => text(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        }
    }
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Live => "LIVE",
            State::Draining => "DRAINING",
            State::PreInitializing => "PRE_INITIALIZING",
        }
    }

    /// Envoy's number in `server.state`.
    fn number(self) -> i64 {
        match self {
            State::Live => 0,
            State::Draining => 1,
            State::PreInitializing => 2,
        }
    }
}

/// Paths that change something.
const CHANGES: [&str; 6] = [
    "/quitquitquit",
    "/logging",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/reset_counters",
    "/drain_listeners",
];

const HELP: &str = "admin commands are:
  /certs: print certs on machine
  /clusters[?format=json]: upstream cluster status
  /config_dump[?resource=&mask=&name_regex=&include_eds]: dump current configs and the fields that were ignored
  /drain_listeners[?graceful&inboundonly] (POST): drain listeners
  /healthcheck/fail (POST): cause the server to fail health checks
  /healthcheck/ok (POST): cause the server to pass health checks
  /help: print out list of admin commands
  /hot_restart_version: print the hot restart compatibility version
  /listeners[?format=json]: print listener info
  /logging?level= (POST): change the log level
  /memory: print current memory usage
  /quitquitquit (POST): exit the server
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /reset_counters (POST): reset all counters to zero
  /runtime: print runtime values (there are none)
  /server_info: print server version/status information
  /stats[?filter=&format=text|json|prometheus&type=&usedonly]: print server stats
  /stats/prometheus: print server stats in prometheus format
";

fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else {
        return true; // HTTP/1.0: no browser.
    };
    host.to_str().is_ok_and(is_local_name)
}

fn is_local_name(host: &str) -> bool {
    let name = without_port(host).trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// From the machine itself, and not in the name of a web page that its user happens to look at: a browser sends
/// `Origin` with every POST.
fn may_change(headers: &HeaderMap, peer: SocketAddr) -> bool {
    let origin = headers
        .get(ORIGIN)
        .map(|origin| origin.to_str().unwrap_or_default());
    let is_own = origin.is_none_or(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_some_and(is_local_name)
    });
    is_own && peer.ip().to_canonical().is_loopback()
}

fn text(status: StatusCode, body: &str) -> Answer {
    answer(
        status,
        "text/plain; charset=UTF-8",
        body.as_bytes().to_vec(),
    )
}

fn json(value: &Json) -> Answer {
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    answer(StatusCode::OK, "application/json", body)
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
