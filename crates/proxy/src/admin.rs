//! The administration on loopback, under Envoy's paths. What changes something wants POST; no key is ever shown.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use xds::client::{Kind, Machine};

use crate::config::Resource;
use crate::listeners::Listeners;
use crate::route::without_port;
use crate::run::SetLevel;
use crate::settings::Settings;
use crate::stats;
use crate::tls::names;
use crate::worker::Shared;

/// Connections at a time.
const AT_ONCE: usize = 64;
/// What marks a private key in PEM.
const KEY_MARK: &[u8] = b"PRIVATE KEY";

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

/// Serves for as long as the runtime lives.
pub async fn serve(admin: Admin) -> anyhow::Result<()> {
    let Some(address) = admin.settings.admin_address() else {
        return Ok(());
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("admin address {address}"))?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(move |request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(&request)) }
                });
                let server = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .max_buf_size(64 << 10)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = server.await;
            });
        }
    });
    Ok(())
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        // Scrapers come through the Prometheus listener under any name; everything else only under a loopback name,
        // so that no web page can ask for it through a name of its own.
        if !matches!(path, "/ready" | "/stats/prometheus") && !is_local(request.headers().get(HOST))
        {
            return text(
                StatusCode::FORBIDDEN,
                "the Host must be an IP address or localhost\n",
            );
        }
        let is_change = matches!(path, "/quitquitquit" | "/logging");
        match (is_change, request.method()) {
            (true, &Method::POST) | (false, &Method::GET | &Method::HEAD) => {}
            _ => {
                return text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "Invalid request: POST changes, GET shows\n",
                );
            }
        }
        match path {
            "/" | "/help" => text(StatusCode::OK, HELP),
            "/ready" => self.ready(),
            "/stats" => self.stats(query),
            "/stats/prometheus" => text(StatusCode::OK, &self.prometheus()),
            "/clusters" => text(StatusCode::OK, &self.clusters()),
            "/listeners" => text(StatusCode::OK, &self.listeners()),
            "/certs" => answer_json(&self.certs()),
            "/config_dump" => answer_json(&self.config_dump()),
            "/server_info" => answer_json(&self.server_info()),
            "/quitquitquit" => {
                self.quit.send_replace(true);
                text(StatusCode::OK, "OK\n")
            }
            "/logging" => self.logging(query),
            _ => text(
                StatusCode::NOT_FOUND,
                "invalid path. admin commands are:\n/help\n",
            ),
        }
    }

    /// Whether the proxy can do its work: it has a certificate and a configuration.
    fn is_ready(&self) -> bool {
        match &self.settings.bootstrap {
            None => self.shared.own.current().is_some() && self.machine.lock().is_configured(),
            Some(bootstrap) => bootstrap.ads.is_none() || self.machine.lock().is_configured(),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match (self.is_ready(), *self.shared.drain.borrow()) {
            (_, true) => text(StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
            (true, false) => text(StatusCode::OK, "LIVE\n"),
            (false, false) => text(StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n"),
        }
    }

    fn samples(&self) -> Vec<stats::Sample> {
        let snapshot = self.shared.snapshot.load();
        let clusters = snapshot
            .clusters
            .iter()
            .map(|(name, cluster)| (&**name, &*cluster.stats));
        self.shared.stats.samples(clusters)
    }

    fn stats(&self, query: &str) -> Response<Full<Bytes>> {
        if query.split('&').any(|part| part == "format=prometheus") {
            return text(StatusCode::OK, &self.prometheus());
        }
        let mut plain = stats::plain(&self.samples());
        let machine = self.machine.lock();
        for kind in Kind::ALL {
            let status = machine.status(kind);
            let (short, active) = (kind.short(), machine.active(kind).count());
            let _ = writeln!(plain, "{short}.update_success: {}", status.success);
            let _ = writeln!(plain, "{short}.update_rejected: {}", status.rejected);
            let _ = writeln!(plain, "{short}.active: {active}");
            let _ = writeln!(plain, "{short}.warming: {}", machine.warming(kind).len());
        }
        text(StatusCode::OK, &plain)
    }

    fn prometheus(&self) -> String {
        stats::prometheus(&self.samples())
    }

    fn clusters(&self) -> String {
        let mut out = String::new();
        let snapshot = self.shared.snapshot.load();
        let mut clusters: Vec<_> = snapshot.clusters.values().collect();
        clusters.sort_by_key(|cluster| cluster.config.name.clone());
        for cluster in clusters {
            let name = &cluster.config.name;
            let _ = writeln!(out, "{name}::observability_name::{name}");
            for endpoint in &cluster.endpoints.load().all {
                let address = endpoint.config.address;
                let health = if endpoint.config.healthy {
                    "healthy"
                } else {
                    "/failed_eds_health"
                };
                let _ = writeln!(
                    out,
                    "{name}::{address}::rq_active::{}",
                    endpoint.active.load(Ordering::Relaxed)
                );
                let _ = writeln!(out, "{name}::{address}::health_flags::{health}");
                let _ = writeln!(out, "{name}::{address}::weight::{}", endpoint.config.weight);
                let _ = writeln!(
                    out,
                    "{name}::{address}::priority::{}",
                    endpoint.config.priority
                );
            }
        }
        out
    }

    fn listeners(&self) -> String {
        let bound = self.listeners.lock().bound();
        bound
            .iter()
            .flat_map(|(name, list)| {
                list.iter()
                    .map(move |address| format!("{name}::{address}\n"))
            })
            .collect()
    }

    fn certs(&self) -> Json {
        let own = self.shared.own.current();
        let chain = own.iter().flat_map(|own| own.cert.iter());
        let list: Vec<Json> = chain
            .filter_map(|certificate| {
                let names = names(certificate)?;
                let not_after = ca::server_leaf_not_after(certificate).ok().map(crate::access::timestamp);
                let alternative: Vec<Json> = (names.uris.iter().map(|uri| json!({ "uri": uri })))
                    .chain(names.dns.iter().map(|dns| json!({ "dns": dns })))
                    .collect();
                Some(json!({ "subject": names.subject, "subject_alt_names": alternative, "expiration_time": not_after }))
            })
            .collect();
        json!({ "certificates": [{ "cert_chain": list }] })
    }

    fn config_dump(&self) -> Json {
        let machine = self.machine.lock();
        let mut configs = serde_json::Map::new();
        for kind in Kind::ALL {
            let active: Vec<Json> = machine
                .active(kind)
                .map(|(name, entry)| {
                    let ignored: Vec<Json> =
                        entry.value.ignored.iter().map(|(path, why)| json!({ "field": path, "reason": why })).collect();
                    // Until every message has a JSON form, what is shown is the text of the decoded configuration.
                    let has_key = entry.any.value.windows(KEY_MARK.len()).any(|part| part == KEY_MARK);
                    let text = if has_key { "[redacted: holds a private key]".to_owned() } else { format!("{:?}", entry.value.value) };
                    json!({ "name": &**name, "version_info": entry.version, "ignored_fields": ignored, "debug_text": text })
                })
                .collect();
            let warming: Vec<Json> = machine
                .warming(kind)
                .into_iter()
                .map(|(name, missing)| {
                    let missing: Vec<String> = missing
                        .iter()
                        .map(|reference| format!("{}:{}", reference.kind.short(), reference.name))
                        .collect();
                    json!({ "name": &*name, "waits_for": missing })
                })
                .collect();
            let status = machine.status(kind);
            let errors: Vec<Json> = status
                .errors
                .iter()
                .map(|(name, error)| json!({ "name": name, "error": error.to_string() }))
                .collect();
            configs.insert(
                kind.short().to_owned(),
                json!({ "type_url": kind.type_url(), "active": active, "warming": warming, "last_rejected": errors }),
            );
        }
        json!({ "configs": configs })
    }

    fn server_info(&self) -> Json {
        let node = self.settings.node();
        let state = match (self.is_ready(), *self.shared.drain.borrow()) {
            (_, true) => "DRAINING",
            (true, false) => "LIVE",
            (false, false) => "PRE_INITIALIZING",
        };
        json!({
            "version": concat!("osm-proxy/", env!("CARGO_PKG_VERSION")),
            "state": state,
            "uptime_current_epoch": format!("{}s", self.shared.stats.uptime()),
            "node": { "id": node.id, "cluster": node.cluster },
            "connections": self.shared.connections(),
        })
    }

    fn logging(&self, query: &str) -> Response<Full<Bytes>> {
        let level = query
            .split('&')
            .find_map(|part| part.strip_prefix("level="));
        match level
            .ok_or_else(|| "level= is needed".to_owned())
            .and_then(|level| (self.log)(level))
        {
            Ok(()) => text(StatusCode::OK, "OK\n"),
            Err(reason) => text(StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        }
    }
}

const HELP: &str = "admin commands are:
  /certs: print certs of the proxy
  /clusters: upstream cluster status
  /config_dump: dump current configs
  /help: print out list of admin commands
  /listeners: print listener info
  /logging (POST): change the log level, ?level=info
  /quitquitquit (POST): exit the server
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /server_info: print server version/status information
  /stats: print server stats
  /stats/prometheus: print server stats in prometheus format
";

fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        return true; // HTTP/1.0: no browser.
    };
    let name = without_port(host).trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn answer_json(value: &Json) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
