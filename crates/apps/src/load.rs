//! A client that makes many requests and counts the answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// `osm-apps load`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What is asked for
    pub url: Uri,
    /// Clients at once, each with a connection of its own
    #[arg(long, short, default_value_t = 1)]
    pub connections: u64,
    /// Requests of all clients together
    #[arg(long, short = 'n', default_value_t = 10)]
    pub requests: u64,
    /// Requests a second of all clients together; 0 = as fast as they go
    #[arg(long, default_value_t = 0)]
    pub qps: u32,
    /// HTTP/2, in clear text
    #[arg(long)]
    pub http2: bool,
    /// A header of every request, `name: value`
    #[arg(long = "header", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of a body is shown.
const SHOWN: usize = 200;

/// What came of the requests.
#[derive(Default)]
struct Tally {
    codes: BTreeMap<u16, u64>,
    /// The last body of each code.
    bodies: BTreeMap<u16, String>,
    errors: BTreeMap<String, u64>,
}

/// Makes the requests and prints what came of them, as JSON.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let begin = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..options.connections {
        clients.spawn(client(options.clone(), next.clone(), begin));
    }
    let mut tally = Tally::default();
    while let Some(done) = clients.join_next().await {
        tally.add(done.context("a client")?);
    }
    let codes: serde_json::Map<_, _> = texts(&tally.codes);
    let bodies: serde_json::Map<_, _> = texts(&tally.bodies);
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "codes": codes, "bodies": bodies, "errors": tally.errors, "seconds": seconds })
    );
    Ok(())
}

async fn client(options: Options, next: Arc<AtomicU64>, begin: Instant) -> Tally {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(options.http2)
        .build_http();
    let mut tally = Tally::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.requests {
            return tally;
        }
        if options.qps > 0 {
            let due = Duration::from_secs(number) / options.qps;
            sleep_until(begin + due).await;
        }
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = options.url.clone();
        request.headers_mut().extend(options.headers.clone());
        match timeout(PATIENCE, ask(&client, request)).await {
            Ok(Ok((code, body))) => {
                *tally.codes.entry(code).or_default() += 1;
                tally.bodies.insert(code, body);
            }
            Ok(Err(error)) => *tally.errors.entry(format!("{error:#}")).or_default() += 1,
            Err(_) => *tally.errors.entry("no answer".to_owned()).or_default() += 1,
        }
    }
}

async fn ask(
    client: &Client<HttpConnector, Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<(u16, String)> {
    let response = client.request(request).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    let shown = body.get(..SHOWN).unwrap_or(&body);
    Ok((code, String::from_utf8_lossy(shown).into_owned()))
}

fn texts<T: Clone + Into<serde_json::Value>>(
    map: &BTreeMap<u16, T>,
) -> serde_json::Map<String, serde_json::Value> {
    let entry = |(code, value): (&u16, &T)| (code.to_string(), value.clone().into());
    map.iter().map(entry).collect()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be name: value")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| "not the name of a header")?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "not the value of a header")?;
    Ok((name, value))
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, other: Tally) {
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.bodies.extend(other.bodies);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}
