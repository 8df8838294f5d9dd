//! Servers that answer what no server may: nobody gets another's answer, and nothing broken passes for whole.

use crate::recorder::{OK, Recorder, Script};
use crate::stage::{pair, say, statuses};
use crate::support::Http;

/// What the client must make of an answer.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// An error of the proxy, or an answer that is visibly cut.
    Refused,
    /// This body, whole.
    Whole(&'static str),
    /// Either.
    Either(&'static str),
}

use Expect::{Either, Refused, Whole};

/// A second answer behind the first.
macro_rules! poison {
    () => {
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
    };
}

const ROWS: &[(&str, &str, Expect)] = &[
    (
        "whole",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
        Whole("ab"),
    ),
    (
        "chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        Whole("ab"),
    ),
    (
        "until the end",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nab",
        Whole("ab"),
    ),
    ("1.0", "HTTP/1.0 200 OK\r\n\r\nab", Whole("ab")),
    (
        "no reason",
        "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nab",
        Either("ab"),
    ),
    (
        "a second answer",
        concat!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", poison!()),
        Whole("ab"),
    ),
    (
        "a second answer to chunks",
        concat!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            poison!()
        ),
        Whole("ab"),
    ),
    (
        "a second answer to 204",
        concat!("HTTP/1.1 204 No Content\r\n\r\n", poison!()),
        Whole(""),
    ),
    (
        "a second answer to 304",
        concat!(
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
            poison!()
        ),
        Whole(""),
    ),
    (
        "204 with a length",
        concat!(
            "HTTP/1.1 204 No Content\r\ncontent-length: 47\r\n\r\n",
            poison!()
        ),
        Either(""),
    ),
    (
        "204 in chunks",
        concat!(
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            poison!()
        ),
        Either(""),
    ),
    (
        "length and chunks",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "two lengths",
        concat!(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 49\r\n\r\nab",
            poison!()
        ),
        Refused,
    ),
    (
        "the same length twice",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        Either("ab"),
    ),
    (
        "length +2",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        Refused,
    ),
    (
        "length -2",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nab",
        Refused,
    ),
    (
        "length 2^64 + 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nab",
        Refused,
    ),
    (
        "less than the length",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nab",
        Refused,
    ),
    (
        "chunks that stop",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n",
        Refused,
    ),
    (
        "a chunk size that is none",
        concat!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n",
            poison!()
        ),
        Refused,
    ),
    (
        "a chunk that is too long",
        concat!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            poison!()
        ),
        Refused,
    ),
    (
        "two codings",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "gzip as coding",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\nconnection: close\r\n\r\nab",
        Refused,
    ),
    (
        "identity as coding",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\nconnection: close\r\n\r\nab",
        Either("ab"),
    ),
    ("no HTTP", "SSH-2.0-OpenSSH\r\n", Refused),
    (
        "HTTP/2 by word",
        "HTTP/2 200 OK\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "a status of letters",
        "HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "status 99",
        "HTTP/1.1 99 X\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "status 1000",
        "HTTP/1.1 1000 X\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "101 that nobody asked for",
        concat!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            poison!()
        ),
        Refused,
    ),
    (
        "100 first",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
        Whole("ab"),
    ),
    (
        "103 first",
        "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
        Whole("ab"),
    ),
    (
        "NUL in a value",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "a space before a colon",
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nab",
        Refused,
    ),
    (
        "a folded value",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nab",
        Either("ab"),
    ),
    (
        "a header without colon",
        "HTTP/1.1 200 OK\r\nnothing\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    (
        "a bare CR in a value",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nab",
        Refused,
    ),
    ("an end without an answer", "", Refused),
    ("half a head", "HTTP/1.1 200 OK\r\ncontent-le", Refused),
];

fn index(head: &str) -> Option<usize> {
    head.split_once("/public/row/")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()
}

fn answer(head: &str) -> Script {
    match index(head).and_then(|index| ROWS.get(index)) {
        Some((name, bytes, _)) => {
            let bytes = bytes.as_bytes().to_vec();
            let ends = bytes.is_empty()
                || ["close", "1.0", "half", "SSH"].iter().any(|word| {
                    name.contains(word) || String::from_utf8_lossy(&bytes).contains(word)
                });
            if ends {
                Script::Close(bytes)
            } else {
                Script::Then(bytes)
            }
        }
        None => Script::Then(OK.to_vec()),
    }
}

/// The body of an answer that is whole, as a client of HTTP/1.1 reads it.
fn body(said: &str, closed: bool) -> Option<String> {
    let mut rest = said;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n")?;
        let status = statuses(head)[0];
        if status < 200 && status != 101 {
            rest = body;
            continue;
        }
        let lower = head.to_ascii_lowercase();
        if status == 204 || status == 304 {
            return Some(String::new());
        }
        if let Some((_, length)) = lower.split_once("content-length: ") {
            let length: usize = length.lines().next()?.trim().parse().ok()?;
            return body.get(..length).map(str::to_owned);
        }
        if lower.contains("transfer-encoding: chunked") {
            let mut text = String::new();
            let mut chunks = body;
            loop {
                let (size, after) = chunks.split_once("\r\n")?;
                let size = usize::from_str_radix(size, 16).ok()?;
                if size == 0 {
                    return after.contains("\r\n").then_some(text);
                }
                text.push_str(after.get(..size)?);
                chunks = after.get(size + 2..)?;
            }
        }
        return closed.then(|| body.to_owned());
    }
}

async fn table(hop: Http) {
    let backend = Recorder::with(answer).await;
    let pair = pair(backend.address, hop);
    let mut wrong = Vec::new();
    let only = std::env::var("ROW").ok();
    for (index, (name, _, expect)) in ROWS.iter().enumerate() {
        if only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        let bytes = format!(
            "GET /public/row/{index} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n"
        );
        let (said, closed) = say(pair.front, bytes.as_bytes(), |_| false).await;
        let status = statuses(&said)
            .into_iter()
            .find(|status| *status >= 200 || *status == 101);
        let whole = body(&said, closed).filter(|_| status.is_some_and(|status| status < 500));
        let good = match expect {
            Refused => whole.is_none() && status != Some(101),
            Whole(text) => whole.as_deref() == Some(text),
            Either(text) => whole.as_deref().is_none_or(|whole| whole == *text),
        };
        let mut told = format!("{name} (expected {expect:?}): {said:?}");
        let mut safe = closed;
        for _ in 0..3 {
            let canary =
                b"GET /public/canary HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
            let (said, closed) = say(pair.front, canary, |_| false).await;
            if statuses(&said) != [200] || body(&said, closed).as_deref() != Some("ok") {
                safe = false;
                told = format!("{told}; the next client got {said:?}");
            }
        }
        if !good || !safe {
            wrong.push(told);
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn hostile_answers_harm_nobody() {
    table(Http::One).await;
}

#[tokio::test]
async fn hostile_answers_harm_nobody_over_http2() {
    table(Http::Two).await;
}

#[tokio::test]
async fn endless_answers_to_come_are_cut_off() {
    for head in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (done, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0u8; 1024];
            let _ = stream.read(&mut buffer).await;
            let piece = head.repeat(100);
            let mut sent = 0;
            while sent < 10_000 && stream.write_all(piece.as_bytes()).await.is_ok() {
                sent += 1;
            }
            let _ = done.send(sent);
        });
        let pair = pair(address, Http::One);
        let client = say(
            pair.front,
            b"GET /public HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n",
            |_| false,
        );
        let (said, sent) = tokio::join!(client, told);
        assert!(
            sent.unwrap() < 10_000,
            "a million interim answers were taken; {:?}",
            statuses(&said.0).last()
        );
    }
}
