//! Calls a webhook over HTTPS: a Service through one of its endpoints in the cluster network, or a URL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::Server;
use crate::backend::Connection;
use crate::object::{items, text};
use crate::store::Key;

/// Why there is no answer, in the words of the real server where it has some.
#[derive(Debug)]
pub struct CallError(pub String);

/// The largest answer read: an answer carries a patch of one object.
const ANSWER_LIMIT: usize = 3 * 1024 * 1024;

struct Destination {
    /// As printed in errors.
    url: String,
    host: String,
    port: u16,
    path: String,
    address: Option<SocketAddr>,
}

/// Posts a review and returns the answer.
pub async fn call(server: &Server, webhook: &Value, review: &Value) -> Result<Value, CallError> {
    let seconds = webhook["timeoutSeconds"]
        .as_u64()
        .unwrap_or(10)
        .clamp(1, 30);
    let destination = resolve(server, &webhook["clientConfig"], seconds)?;
    let separator = if destination.path.contains('?') {
        '&'
    } else {
        '?'
    };
    let url = format!("{}{separator}timeout={seconds}s", destination.url);
    let path = format!("{}{separator}timeout={seconds}s", destination.path);
    let exchange = exchange(server, webhook, &destination, &path, review);
    let outcome = tokio::time::timeout(Duration::from_secs(seconds), exchange).await;
    let outcome = outcome.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
    outcome.map_err(|e| CallError(format!("failed to call webhook: Post {url:?}: {e}")))
}

fn resolve(server: &Server, config: &Value, seconds: u64) -> Result<Destination, CallError> {
    if let Some(url) = config["url"].as_str() {
        let uri: http::Uri = url
            .parse()
            .map_err(|e| CallError(format!("failed to call webhook: parse {url:?}: {e}")))?;
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let path = uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
            .to_owned();
        return Ok(Destination {
            url: url.to_owned(),
            host,
            port: uri.port_u16().unwrap_or(443),
            path,
            address: None,
        });
    }
    let service = &config["service"];
    let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
    let port = service["port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .unwrap_or(443);
    let path = service["path"].as_str().unwrap_or_default();
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let host = format!("{name}.{namespace}.svc");
    let url = format!("https://{host}:{port}{path}");
    let address = endpoint(server, namespace, name, port).map_err(|e| {
        CallError(format!(
            "failed to call webhook: Post {:?}: {e}",
            format!("{url}?timeout={seconds}s")
        ))
    })?;
    Ok(Destination {
        url,
        host,
        port,
        path,
        address: Some(address),
    })
}

/// An address behind a Service port, from the Endpoints object.
pub fn endpoint(
    server: &Server,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<SocketAddr, String> {
    let find = |resource: &str| {
        server
            .store
            .get(&Key::new(&Arc::from(resource), namespace, name))
            .map(|(o, _)| o)
    };
    let service = find("services").ok_or_else(|| format!("service {name:?} not found"))?;
    let wanted = items(&service, "/spec/ports").find(|p| p["port"] == port);
    let wanted =
        wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let none = || format!("no endpoints available for service {name:?}");
    let endpoints = find("endpoints").ok_or_else(none)?;
    let mut candidates = Vec::new();
    for subset in items(&endpoints, "/subsets") {
        let port = items(subset, "/ports").find(|p| text(p, "/name") == text(wanted, "/name"));
        let Some(port) = port
            .and_then(|p| p["port"].as_u64())
            .and_then(|p| u16::try_from(p).ok())
        else {
            continue;
        };
        let ips = items(subset, "/addresses").filter_map(|a| text(a, "/ip").parse().ok());
        candidates.extend(ips.map(|ip| SocketAddr::new(ip, port)));
    }
    let pick = uuid::Uuid::new_v4().as_u128() % (candidates.len().max(1) as u128);
    usize::try_from(pick)
        .ok()
        .and_then(|i| candidates.get(i))
        .copied()
        .ok_or_else(none)
}

/// Connects to an address of the cluster network: through the node if there is one.
pub async fn dial(server: &Server, address: SocketAddr) -> Result<Box<dyn Connection>, String> {
    let connected = match server.backend.get() {
        Some(backend) => backend.dial(address).await,
        None => tokio::net::TcpStream::connect(address)
            .await
            .map(|s| Box::new(s) as Box<dyn Connection>),
    };
    connected.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {address}: connect: connection refused")
        }
        _ => format!("dial tcp {address}: {e}"),
    })
}

async fn exchange(
    server: &Server,
    webhook: &Value,
    to: &Destination,
    path: &str,
    review: &Value,
) -> Result<Value, String> {
    let stream = match to.address {
        Some(address) => dial(server, address).await?,
        None => {
            let stream = tokio::net::TcpStream::connect((to.host.as_str(), to.port)).await;
            Box::new(stream.map_err(|e| format!("dial tcp: {e}"))?) as Box<dyn Connection>
        }
    };
    let tls = client_tls(webhook)?;
    let name = ServerName::try_from(to.host.clone()).map_err(|e| format!("{}: {e}", to.host))?;
    let stream = tls.connect(name, stream).await.map_err(|e| tls_error(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let body = serde_json::to_vec(review).map_err(|e| e.to_string())?;
    let request = http::Request::post(path)
        .header(http::header::HOST, format!("{}:{}", to.host, to.port))
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        Ok::<_, String>((status, body))
    };
    // The connection is driven only as long as the answer is awaited; it closes when both are dropped.
    tokio::pin!(connection);
    tokio::pin!(answer);
    let (status, body) = tokio::select! {
        answer = &mut answer => answer?,
        ended = &mut connection => {
            ended.map_err(|e| e.to_string())?;
            answer.await?
        }
    };
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(if text.is_empty() {
            format!("the server responded with {status}")
        } else {
            text
        });
    }
    serde_json::from_slice(&body)
        .map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))
}

fn client_tls(webhook: &Value) -> Result<TlsConnector, String> {
    let bundle = webhook
        .pointer("/clientConfig/caBundle")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD
        .decode(bundle)
        .map_err(|e| format!("caBundle: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|e| format!("unable to load root certificates: {e:?}"))?;
        roots
            .add(certificate)
            .map_err(|e| format!("unable to load root certificates: {e}"))?;
    }
    if roots.is_empty() {
        return Err(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
                .to_owned(),
        );
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|e| e.to_string())?
    .with_root_certificates(roots)
    .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn tls_error(error: &std::io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "tls: failed to verify certificate: x509: certificate signed by unknown authority"
            .to_owned(),
        Some(Error::InvalidCertificate(e)) => {
            format!("tls: failed to verify certificate: x509: {e}")
        }
        _ => error.to_string(),
    }
}
