//! Request smuggling: what two readers could read in two ways is refused, everything else is framed anew.
//!
//! Each row is sent through the pair; a recorder behind it reads what arrived and refuses ambiguity itself.

use crate::recorder::Recorder;
use crate::rows::{chunks, heads, lengths};
use crate::stage::{Pair, pair, say, statuses};
use crate::support::Http;

/// What must come of a row.
#[derive(Debug, Clone)]
pub enum Expect {
    /// An error or a closed connection; no request reaches the backend whole.
    Refused,
    /// Exactly these requests, as (method and path, body).
    Passed(Vec<(&'static str, &'static str)>),
    /// Refused, or exactly these.
    Harmless(Vec<(&'static str, &'static str)>),
}

use Expect::{Harmless, Passed, Refused};

pub struct Row {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

/// What the row did, or why that is wrong.
async fn play(pair: &Pair, backend: &Recorder, row: &Row) -> Result<(), String> {
    let before = backend.seen().len();
    let wanted = match &row.expect {
        Refused => 1,
        Passed(list) | Harmless(list) => list.len().max(1),
    };
    let enough = |said: &str| statuses(said).len() >= wanted && said.ends_with("ok");
    let (said, closed) = say(pair.front, &row.bytes, enough).await;
    // A request of its own afterwards: whatever was left behind in a pooled connection would come before it.
    let canary = b"GET /public/canary HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
    let (answer, _) = say(pair.front, canary, |_| false).await;
    let seen = backend.seen().split_off(before);
    let (canaries, requests): (Vec<_>, Vec<_>) = seen
        .iter()
        .partition(|seen| seen.line() == "GET /public/canary");
    let told = format!("answered {said:?}, backend saw {requests:?}");
    if canaries.len() != 1 || statuses(&answer) != [200] {
        return Err(format!("the next client was harmed ({answer:?}); {told}"));
    }
    if let Some(broken) = backend.broken().pop() {
        return Err(format!("the backend got what is no HTTP: {broken}; {told}"));
    }
    let passed: Vec<(&str, String)> = requests
        .iter()
        .map(|seen| {
            (
                seen.line(),
                String::from_utf8_lossy(&seen.body).into_owned(),
            )
        })
        .collect();
    let is = |list: &[(&str, &str)]| {
        passed.len() == list.len()
            && passed
                .iter()
                .zip(list)
                .all(|(got, want)| got.0 == want.0 && got.1 == want.1)
    };
    let refused = passed.is_empty()
        && closed
        && statuses(&said)
            .iter()
            .all(|status| (400..600).contains(status));
    let good = match &row.expect {
        Refused => refused,
        Passed(list) => is(list) && statuses(&said).len() == list.len(),
        // A refusal by policy (403) leaves the connection open.
        Harmless(list) => is(list) || refused || (passed.is_empty() && statuses(&said) == [403]),
    };
    if good { Ok(()) } else { Err(told) }
}

async fn table(hop: Http, rows: Vec<Row>) {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, hop);
    let mut wrong = Vec::new();
    let only = std::env::var("ROW").ok();
    for row in rows
        .iter()
        .filter(|row| only.as_deref().is_none_or(|only| row.name == only))
    {
        if let Err(why) = play(&pair, &backend, row).await {
            wrong.push(format!(
                "{} (expected {:?}): {}",
                row.name,
                row.expect,
                why.chars().take(600).collect::<String>()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn ambiguous_lengths_reach_nobody() {
    table(Http::One, lengths()).await;
}

#[tokio::test]
async fn ambiguous_lengths_reach_nobody_over_http2() {
    table(Http::Two, lengths()).await;
}

#[tokio::test]
async fn malformed_chunks_reach_nobody() {
    table(Http::One, chunks()).await;
}

#[tokio::test]
async fn malformed_chunks_reach_nobody_over_http2() {
    table(Http::Two, chunks()).await;
}

#[tokio::test]
async fn malformed_heads_reach_nobody() {
    table(Http::One, heads()).await;
}

#[tokio::test]
async fn malformed_heads_reach_nobody_over_http2() {
    table(Http::Two, heads()).await;
}
