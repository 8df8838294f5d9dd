//! `osm-apps bookwarehouse`: restocks the bookstore; the database keeps the count.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::client::tracing;
use super::{IDENTITY, PORT, SUCCESS, database, page};
use crate::http::{listen, serve};

/// `osm-apps bookwarehouse`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the bookwarehouse
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// Its name in answers
    #[arg(long, env = "IDENTITY", default_value = "bookwarehouse")]
    identity: String,
    /// Host and port of the database
    #[arg(long, env = "DATABASE", default_value = "mysql.bookwarehouse:3306")]
    database: String,
}

struct Warehouse {
    identity: HeaderValue,
    database: String,
    /// Books restocked by this process.
    restocked: AtomicU64,
    /// What the database said last.
    total: AtomicU64,
    /// Orders that the database did not take.
    failed: AtomicU64,
    /// Tracing headers of the last orders, the newest last.
    traces: Mutex<VecDeque<Map<String, Value>>>,
}

/// Orders whose tracing headers are kept.
const TRACES: usize = 100;

/// The longest number that is read.
const MAX_BODY: usize = 64;

/// Books in the database that upstream's scripts call a success.
const ENOUGH: u64 = 3;

/// Restocks until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let warehouse = Arc::new(Warehouse {
        identity: HeaderValue::from_str(&options.identity)?,
        database: options.database,
        restocked: AtomicU64::new(0),
        total: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        traces: Mutex::default(),
    });
    let listener = listen(options.port).await?;
    println!("bookwarehouse on port {}", listener.local_addr()?.port());
    serve(listener, None, move |request, _| {
        let warehouse = warehouse.clone();
        async move { warehouse.answer(request).await }
    })
    .await
}

// === impl Warehouse ===

impl Warehouse {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let mut response = match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/" | "/restock-books") => self.restock(&parts.headers, body).await,
            (&Method::GET, "/raw") => page::json(&json!({
                "totalBooks": self.total.load(Ordering::Relaxed),
                "restocked": self.restocked.load(Ordering::Relaxed),
                "failedRestocks": self.failed.load(Ordering::Relaxed),
            })),
            (&Method::GET, "/traces") => page::json(&json!(*self.traces())),
            _ => page::missing(),
        };
        response
            .headers_mut()
            .insert(IDENTITY, self.identity.clone());
        response
    }

    async fn restock(&self, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let text = Limited::new(body, MAX_BODY).collect().await;
        let text = text.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        let Ok(books) = text.unwrap_or_default().trim().parse::<u64>() else {
            return page::text(
                StatusCode::BAD_REQUEST,
                "the body must be a number of books",
            );
        };
        self.remember(headers);
        match database::restock(&self.database, books).await {
            Ok(total) => {
                self.restocked.fetch_add(books, Ordering::Relaxed);
                self.total.store(total, Ordering::Relaxed);
                println!("restocking bookstore with {books} new books; total so far: {total}");
                if total >= ENOUGH {
                    println!("{SUCCESS}");
                }
                page::json(&json!({ "restocked": total }))
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                println!("restocking failed: {error:#}");
                page::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}"))
            }
        }
    }

    fn remember(&self, headers: &HeaderMap) {
        let headers = tracing(headers)
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), Value::from(value))
            })
            .collect();
        let mut traces = self.traces();
        if traces.len() == TRACES {
            traces.pop_front();
        }
        traces.push_back(headers);
    }

    fn traces(&self) -> std::sync::MutexGuard<'_, VecDeque<Map<String, Value>>> {
        // Nothing panics while it is held; and a list is a list.
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
