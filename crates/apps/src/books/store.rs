//! `osm-apps bookstore`: sells books, and asks the bookwarehouse for another each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;

use super::client::{Client, tracing};
use super::{BOOKS_BOUGHT, IDENTITY, PORT, page};
use crate::http::{listen, serve};

/// `osm-apps bookstore`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the shop
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// Which bookstore this is; buyers count by what it begins with, bookstore-v1 or bookstore-v2
    #[arg(
        long,
        visible_alias = "ident",
        env = "IDENTITY",
        default_value = "unidentified"
    )]
    identity: String,
    /// Service of the bookwarehouse
    #[arg(long, env = "WAREHOUSE_SVC", default_value = "bookwarehouse")]
    bookwarehouse: String,
    /// Namespace of the bookwarehouse
    #[arg(long, env = "BOOKWAREHOUSE_NAMESPACE", default_value = "bookwarehouse")]
    bookwarehouse_namespace: String,
    /// Host and port of the bookwarehouse, instead of its Service
    #[arg(long)]
    bookwarehouse_address: Option<String>,
}

struct Store {
    identity: HeaderValue,
    /// URL and Host of the bookwarehouse.
    warehouse: (String, HeaderValue),
    client: Client,
    sold: AtomicU64,
    restocked: AtomicU64,
    failed: AtomicU64,
    /// Requests to the bookwarehouse that may be under way.
    orders: Arc<Semaphore>,
}

/// Orders under way at most; a book sold while so many wait is not restocked, and counted as that.
const MAX_ORDERS: usize = 64;

/// The longest number that is read.
const MAX_BODY: usize = 64;

/// Sells until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let service = format!(
        "{}.{}",
        options.bookwarehouse, options.bookwarehouse_namespace
    );
    let address = options
        .bookwarehouse_address
        .unwrap_or_else(|| format!("{service}:{PORT}"));
    let store = Arc::new(Store {
        identity: HeaderValue::from_str(&options.identity)?,
        warehouse: (
            format!("http://{address}/restock-books"),
            HeaderValue::from_str(&service)?,
        ),
        client: Client::new()?,
        sold: AtomicU64::new(0),
        restocked: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        orders: Arc::new(Semaphore::new(MAX_ORDERS)),
    });
    let listener = listen(options.port).await?;
    println!("bookstore on port {}", listener.local_addr()?.port());
    serve(listener, None, move |request, _| {
        let store = store.clone();
        async move { store.answer(request).await }
    })
    .await
}

// === impl Store ===

impl Store {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let mut response = match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/buy-a-book/new") => {
                self.sold.fetch_add(1, Ordering::Relaxed);
                println!("selling a book; headers: {:?}", tracing(&parts.headers));
                self.clone().order(&parts.headers);
                self.index()
            }
            (&Method::GET, "/" | "/books-bought" | "/liveness" | "/readiness" | "/startup") => {
                self.index()
            }
            (&Method::POST, "/books-bought") => self.set(body).await,
            (&Method::GET, "/raw") => page::json(&json!({
                "booksSold": self.sold.load(Ordering::Relaxed),
                "restocked": self.restocked.load(Ordering::Relaxed),
                "failedRestocks": self.failed.load(Ordering::Relaxed),
            })),
            (&Method::GET, "/reset") => {
                self.sold.store(0, Ordering::Relaxed);
                self.index()
            }
            _ => page::missing(),
        };
        let sold = HeaderValue::from(self.sold.load(Ordering::Relaxed));
        response.headers_mut().insert(BOOKS_BOUGHT, sold);
        response
            .headers_mut()
            .insert(IDENTITY, self.identity.clone());
        response
    }

    fn index(&self) -> Response<Full<Bytes>> {
        let identity = String::from_utf8_lossy(self.identity.as_bytes());
        let sold = self.sold.load(Ordering::Relaxed);
        page::html(
            &format!("{identity}: books sold"),
            &[("all", sold.to_string())],
        )
    }

    /// Takes the number of sold books from a request.
    async fn set(&self, body: Incoming) -> Response<Full<Bytes>> {
        let text = Limited::new(body, MAX_BODY).collect().await;
        let text = text.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        match text.unwrap_or_default().trim().parse() {
            Ok(sold) => {
                self.sold.store(sold, Ordering::Relaxed);
                self.index()
            }
            Err(_) => page::text(
                StatusCode::BAD_REQUEST,
                "the body must be a number of books",
            ),
        }
    }

    /// Orders a book; whoever bought one does not wait for it. The order belongs to the trace of the purchase.
    fn order(self: Arc<Self>, cause: &HeaderMap) {
        let Ok(permit) = self.orders.clone().try_acquire_owned() else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (url, host) = self.warehouse.clone();
        let mut headers = tracing(cause);
        headers.insert(header::HOST, host);
        tokio::spawn(async move {
            let answer = self.client.post(&url, headers, "1".to_owned()).await;
            println!("{url}: {answer}");
            let count = if answer.status == 200 {
                &self.restocked
            } else {
                &self.failed
            };
            count.fetch_add(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}
