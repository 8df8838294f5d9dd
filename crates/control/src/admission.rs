//! The wire of admission webhooks: `AdmissionReview` v1 in and out, over TLS.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ca::Leaf;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::metrics::{Metric, Metrics};

/// Largest review: an object of etcd's 1.5 MiB limit, old and new, with their envelope.
const BODY_BOUND: usize = 8 * 1024 * 1024;

/// Connections of API servers: there are one to a few of them, each with a handful.
pub(crate) const CONNECTION_BOUND: usize = 1024;

/// What the API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    uid: String,
    /// Kind of the object.
    #[serde(default)]
    pub(crate) kind: Kind,
    /// Namespace of the object.
    #[serde(default)]
    pub(crate) namespace: String,
    /// The object as it would be stored.
    #[serde(default)]
    pub(crate) object: Value,
    /// The object as it is stored, if there is one.
    #[serde(default)]
    pub(crate) old_object: Option<Value>,
}

/// Group, version and kind of an object under admission.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Kind {
    /// API group.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Kind.
    pub(crate) kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    request: Option<Request>,
}

/// The decision about an object.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Take it as it is.
    Allowed,
    /// Take it as it is, and tell its author this.
    Warned(Vec<String>),
    /// Take it with this JSON patch.
    Patched(Value),
    /// Refuse it, with the words for its author.
    Denied(String),
}

/// Decides about one object.
pub(crate) trait Decide: Send + Sync + 'static {
    /// The decision.
    fn decide(&self, request: Request) -> impl Future<Output = Verdict> + Send;
}

/// Routes of a webhook server: `path` decides, `/healthz` answers.
pub(crate) fn router<D: Decide>(
    path: &'static str,
    decide: Arc<D>,
    metrics: Arc<Metrics>,
) -> Router {
    let handler = move |headers: HeaderMap, body: Bytes| {
        let (decide, metrics) = (decide.clone(), metrics.clone());
        async move { review(&*decide, &metrics, &headers, &body).await }
    };
    Router::new()
        .route(path, post(handler))
        .route("/healthz", get(|| async { "Service is ready" }))
        .layer(DefaultBodyLimit::max(BODY_BOUND))
}

async fn review<D: Decide>(
    decide: &D,
    metrics: &Metrics,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if content_type.map(|value| value.split(';').next().unwrap_or_default().trim())
        != Some("application/json")
    {
        let got = content_type.unwrap_or_default();
        let message = format!("Invalid Content-Type {got}; Expected application/json");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    let request = match serde_json::from_slice::<Review>(body) {
        Ok(Review {
            request: Some(request),
        }) => request,
        Ok(Review { request: None }) => {
            return (StatusCode::BAD_REQUEST, "nil admission request").into_response();
        }
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("AdmissionReview: {error}")).into_response();
        }
    };
    let (uid, kind) = (request.uid.clone(), request.kind.kind.clone());
    let verdict = decide.decide(request).await;
    let success = if matches!(verdict, Verdict::Denied(_)) {
        "false"
    } else {
        "true"
    };
    metrics.add(Metric::Admissions, &[&kind, success], 1);
    axum::Json(answer(&uid, verdict)).into_response()
}

fn answer(uid: &str, verdict: Verdict) -> Value {
    let response = match verdict {
        Verdict::Allowed => json!({ "uid": uid, "allowed": true }),
        Verdict::Warned(warnings) if warnings.is_empty() => json!({ "uid": uid, "allowed": true }),
        Verdict::Warned(warnings) => json!({ "uid": uid, "allowed": true, "warnings": warnings }),
        Verdict::Patched(patch) => json!({
            "uid": uid,
            "allowed": true,
            "patchType": "JSONPatch",
            "patch": STANDARD.encode(patch.to_string()),
        }),
        Verdict::Denied(message) => json!({
            "uid": uid,
            "allowed": false,
            "status": { "status": "Failure", "message": message },
        }),
    };
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

/// TLS of a webhook server.
pub(crate) fn server_config(leaf: &Leaf) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let resolver = rustls::sign::SingleCertAndKey::from(leaf.certified_key()?);
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Decide for Fixed {
        async fn decide(&self, request: Request) -> Verdict {
            match request.object.get("verdict").and_then(Value::as_str) {
                Some("deny") => Verdict::Denied("because".into()),
                Some("warn") => Verdict::Warned(vec!["void".into()]),
                Some("patch") => Verdict::Patched(json!([{ "op": "remove", "path": "/x" }])),
                _ => Verdict::Allowed,
            }
        }
    }

    async fn send(content_type: &str, body: &str) -> (StatusCode, Value) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let response = review(&Fixed, &Metrics::default(), &headers, body.as_bytes()).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), BODY_BOUND)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn body(verdict: &str) -> String {
        json!({ "request": { "uid": "u", "object": { "verdict": verdict } } }).to_string()
    }

    #[tokio::test]
    async fn reviews_are_answered_with_the_requests_uid() {
        let (_, allowed) = send("application/json", &body("allow")).await;
        assert_eq!(allowed["response"], json!({ "uid": "u", "allowed": true }));
        let (_, warned) = send("application/json", &body("warn")).await;
        assert_eq!(
            warned["response"],
            json!({ "uid": "u", "allowed": true, "warnings": ["void"] })
        );
        let (_, denied) = send("application/json; charset=utf-8", &body("deny")).await;
        assert_eq!(denied["response"]["status"]["message"], "because");
        let (_, patched) = send("application/json", &body("patch")).await;
        let patch = STANDARD
            .decode(patched["response"]["patch"].as_str().unwrap())
            .unwrap();
        assert_eq!(patch, br#"[{"op":"remove","path":"/x"}]"#);
    }

    #[tokio::test]
    async fn bad_reviews_are_http_errors() {
        for (content_type, body, status) in [
            ("text/plain", body("allow"), 415),
            ("application/json", "{".into(), 400),
            ("application/json", "{}".into(), 400),
            ("application/json", r#"{"request":{}}"#.into(), 400),
        ] {
            assert_eq!(
                send(content_type, &body).await.0,
                status,
                "{content_type} {body}"
            );
        }
    }
}
