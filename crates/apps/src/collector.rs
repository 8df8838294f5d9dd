//! `osm-apps zipkin`: takes spans by Zipkin's API and shows them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::{listen, serve};

/// `osm-apps zipkin`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the collector
    #[arg(long, default_value_t = 9411)]
    port: u16,
}

/// What was collected.
#[derive(Debug, Default)]
struct Spans {
    /// How many came.
    count: u64,
    /// The last of them, the newest last.
    last: VecDeque<Value>,
}

/// Spans that are kept.
const KEPT: usize = 500;

/// The largest batch that is taken.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// Collects until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let spans: Arc<Mutex<Spans>> = Arc::default();
    let listener = listen(options.port).await?;
    println!("zipkin on port {}", listener.local_addr()?.port());
    serve(listener, None, move |request, _| {
        let spans = spans.clone();
        async move { answer(request, &spans).await }
    })
    .await
}

async fn answer(request: Request<Incoming>, spans: &Mutex<Spans>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/api/v2/spans") => {
            let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                return page(StatusCode::PAYLOAD_TOO_LARGE, String::new());
            };
            match serde_json::from_slice::<Vec<Value>>(&body.to_bytes()) {
                Ok(batch) => {
                    lock(spans).add(batch);
                    page(StatusCode::ACCEPTED, String::new())
                }
                Err(error) => page(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        (&Method::GET, "/spans") => {
            let spans = lock(spans);
            let text = json!({ "count": spans.count, "last": spans.last }).to_string();
            page(StatusCode::OK, text)
        }
        _ => page(StatusCode::NOT_FOUND, String::new()),
    }
}

// === impl Spans ===

impl Spans {
    fn add(&mut self, batch: Vec<Value>) {
        for span in batch {
            self.count += 1;
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(span);
        }
    }
}

fn lock(spans: &Mutex<Spans>) -> std::sync::MutexGuard<'_, Spans> {
    // Nothing panics while it is held; and a list is a list.
    spans.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_spans_go_and_the_count_stays() {
        let mut spans = Spans::default();
        spans.add((0..=KEPT).map(|number| json!({ "id": number })).collect());
        assert_eq!(spans.count, KEPT as u64 + 1);
        assert_eq!(spans.last.len(), KEPT);
        assert_eq!(spans.last[0]["id"], 1);
    }
}
