//! Probes and HTTP hooks, issued from the node like the kubelet does.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::catalog::port_number;

/// How much of a failing answer is shown.
const BODY_SHOWN: usize = 10 * 1024;

/// When a probe runs and how many answers decide, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Before the first attempt.
    pub delay: Duration,
    /// Between attempts.
    pub period: Duration,
    /// For one attempt.
    pub timeout: Duration,
    /// So many good answers in a row mean good.
    pub successes: u32,
    /// So many bad answers in a row mean bad.
    pub failures: u32,
}

impl From<&Probe> for Schedule {
    fn from(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value
                    .and_then(|v| u64::try_from(v).ok())
                    .filter(|v| *v > 0)
                    .unwrap_or(default),
            )
        };
        let count = |value: Option<i32>, default| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// Counts answers in a row: a pure machine, so that thresholds can be tested.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    last_good: Option<bool>,
    run: u32,
}

impl Tally {
    /// Counts an answer; `Some` when a threshold is reached (again).
    pub fn count(&mut self, good: bool, schedule: &Schedule) -> Option<bool> {
        self.run = if self.last_good == Some(good) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last_good = Some(good);
        (self.run
            >= if good {
                schedule.successes
            } else {
                schedule.failures
            })
        .then_some(good)
    }
}

/// Sends an `httpGet`; the error is the kubelet's text.
pub async fn http_get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: IpAddr,
    timeout: Duration,
) -> Result<(), String> {
    let port = container_port(&action.port, container)?;
    let ip = match action.host.as_deref().filter(|h| !h.is_empty()) {
        Some(host) => host
            .parse()
            .map_err(|_| format!("httpGet.host {host:?} is not an address"))?,
        None => pod_ip,
    };
    let https = action.scheme.as_deref() == Some("HTTPS");
    let path = action
        .path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let address = SocketAddr::new(ip, port);
    let url = format!("{}://{address}{path}", if https { "https" } else { "http" });
    let mut request = http::Request::get(&path)
        .header("User-Agent", "kube-probe/1.33")
        .header("Accept", "*/*")
        .header("Connection", "close");
    let mut host = address.to_string();
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request
        .header("Host", host)
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("httpGet: {e}"))?;
    let answer = async {
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|e| format!("Get \"{url}\": dial tcp {address}: {}", plain(&e)))?;
        if https {
            let name = rustls::pki_types::ServerName::IpAddress(ip.into());
            let connector = tokio_rustls::TlsConnector::from(unverified());
            let tls = connector
                .connect(name, tcp)
                .await
                .map_err(|e| format!("Get \"{url}\": {e}"))?;
            exchange(tls, request, &url).await
        } else {
            exchange(tcp, request, &url).await
        }
    };
    tokio::time::timeout(timeout, answer)
        .await
        .unwrap_or_else(|_| Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")))
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
    url: &str,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| format!("Get \"{url}\": {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = tokio::spawn(connection);
    let result = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        if (200..400).contains(&status.as_u16()) {
            return Ok(());
        }
        // Read for the connection's sake; the kubelet shows the code only.
        let _ = Limited::new(answer.into_body(), BODY_SHOWN).collect().await;
        Err(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        ))
    }
    .await;
    connection.abort();
    result
}

/// Opens and closes a TCP connection.
pub async fn tcp_connect(
    host: Option<&str>,
    port: &IntOrString,
    container: &Container,
    pod_ip: IpAddr,
    timeout: Duration,
) -> Result<(), String> {
    let port = container_port(port, container)?;
    let ip = match host.filter(|h| !h.is_empty()) {
        Some(host) => host
            .parse()
            .map_err(|_| format!("tcpSocket.host {host:?} is not an address"))?,
        None => pod_ip,
    };
    let address = SocketAddr::new(ip, port);
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", plain(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// The words of Go's net package, which people search logs for.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}

fn container_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let named = |name: &str| {
        let port = container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))?;
        u16::try_from(port.container_port).ok()
    };
    port_number(port, named)
        .ok_or_else(|| format!("container {:?} has no port {port:?}", container.name))
}

/// A TLS configuration that takes any certificate: kubelets do not verify what they probe.
fn unverified() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = Arc::new(AnyCertificate(provider.clone()));
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider supports the default versions")
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let schedule = Schedule {
            successes: 2,
            failures: 3,
            ..Schedule::from(&Probe::default())
        };
        let mut tally = Tally::default();
        let answers = [
            true, true, false, false, true, false, false, false, false, true, true,
        ];
        let verdicts: Vec<_> = answers
            .iter()
            .map(|good| tally.count(*good, &schedule))
            .collect();
        let (up, down) = (Some(true), Some(false));
        assert_eq!(
            verdicts,
            [None, up, None, None, None, None, None, down, down, None, up]
        );
    }

    #[tokio::test]
    async fn a_refused_port_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let container = Container::default();
        let ip = "127.0.0.1".parse().unwrap();
        let number = IntOrString::Int(i32::from(port));
        assert_eq!(
            tcp_connect(None, &number, &container, ip, Duration::from_secs(1)).await,
            Ok(())
        );
        drop(listener);
        let error = tcp_connect(None, &number, &container, ip, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(
            error,
            format!("dial tcp 127.0.0.1:{port}: connect: connection refused")
        );
        let action = HTTPGetAction {
            port: number,
            ..HTTPGetAction::default()
        };
        let error = http_get(&action, &container, ip, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert!(error.contains("connection refused"), "{error}");
    }
}
