//! What the programs call each other with: connections are kept, no wait is without end, tracing headers are passed on.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::IDENTITY;

/// A client of HTTP/1.1, in clear text and over TLS.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status; 0 if there was no answer, as in upstream's counts.
    pub status: u16,
    /// Who answered, by header `identity`.
    pub identity: Option<String>,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// Headers by which requests of one trace are known; whoever makes a request because of another takes them over.
/// B3 (single and several headers), W3C, Jaeger, Envoy.
const TRACING: [&str; 11] = [
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "uber-trace-id",
    "x-ot-span-context",
];

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read to its end; a longer one costs its connection.
const MAX_ANSWER: usize = 1024 * 1024;

/// What upstream's programs call themselves: HTTPRouteGroups of the demo look for it.
const AGENT: HeaderValue = HeaderValue::from_static("Go-http-client/1.1");

/// Authorities that are trusted for https, unless SSL_CERT_FILE names others.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

// === impl Client ===

impl Client {
    /// A client that trusts the authorities of SSL_CERT_FILE, else those of the system, for https.
    pub fn new() -> anyhow::Result<Self> {
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(authorities()?)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { pool })
    }

    /// GET of a URL with these headers.
    pub async fn get(&self, url: &str, headers: &[(&'static str, &str)]) -> Answer {
        let mut request = Request::get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default())).await
    }

    /// POST of a text with these headers.
    pub async fn post(&self, url: &str, headers: HeaderMap, text: String) -> Answer {
        let mut request = Request::post(url);
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        self.send(request.body(Full::from(text))).await
    }

    async fn send(&self, request: http::Result<Request<Full<Bytes>>>) -> Answer {
        match tokio::time::timeout(PATIENCE, self.exchange(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::none(&format!("{error:#}")),
            Err(_) => Answer::none(&format!("no answer after {} s", PATIENCE.as_secs())),
        }
    }

    async fn exchange(
        &self,
        request: http::Result<Request<Full<Bytes>>>,
    ) -> anyhow::Result<Answer> {
        let mut request = request?;
        request
            .headers_mut()
            .entry(header::USER_AGENT)
            .or_insert(AGENT);
        let response = self.pool.request(request).await?;
        let identity = response
            .headers()
            .get(IDENTITY)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let status = response.status().as_u16();
        // To its end, so that the connection can be used again.
        Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer breaks off: {error}"))?;
        Ok(Answer {
            status,
            identity,
            error: None,
        })
    }
}

// === impl Answer ===

impl Answer {
    fn none(error: &str) -> Self {
        Self {
            error: Some(error.to_owned()),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let identity = self.identity.as_deref().unwrap_or("n/a");
        match &self.error {
            Some(error) => write!(f, "{}, {error}", self.status),
            None => write!(f, "{}, identity {identity}", self.status),
        }
    }
}

/// The tracing headers among these.
pub fn tracing(headers: &HeaderMap) -> HeaderMap {
    TRACING
        .into_iter()
        .filter_map(|name| {
            let value = headers.get(name)?.clone();
            Some((http::HeaderName::from_static(name), value))
        })
        .collect()
}

fn authorities() -> anyhow::Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    let given = std::env::var("SSL_CERT_FILE").ok();
    let path = given.as_deref().unwrap_or(AUTHORITIES);
    if given.is_none() && !std::path::Path::new(path).exists() {
        // A machine without authorities calls no https, which is no reason not to start.
        return Ok(store);
    }
    let authorities = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{path}: authorities for https"))?;
    store.add_parsable_certificates(authorities);
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracing_headers_are_taken_over_and_nothing_else() {
        let incoming: HeaderMap = [
            ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
            (
                "traceparent",
                "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
            ),
            ("x-request-id", "a"),
            ("client-app", "bookbuyer"),
            ("authorization", "Bearer secret"),
        ]
        .into_iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
        let names: Vec<String> = tracing(&incoming)
            .keys()
            .map(|name| name.to_string())
            .collect();
        assert_eq!(names, ["x-request-id", "x-b3-traceid", "traceparent"]);
    }
}
