//! HTTP/2 requests that would be two requests, or another one, in HTTP/1: RFC 9113 §8.2, §8.3.

use crate::frames::{DATA, END_STREAM, Outcome, Raw, frame, headers, request};
use crate::recorder::Recorder;
use crate::stage::{pair, say, statuses};
use crate::support::Http;

/// What must come of a row: `None` refuses, a text is the request line and body that arrive.
type Expect = Option<(&'static str, &'static str)>;

struct Row {
    name: &'static str,
    head: Vec<(&'static str, &'static str)>,
    /// DATA frames; without any the head ends the stream.
    data: Vec<&'static str>,
    trailers: Vec<(&'static str, &'static str)>,
    expect: Expect,
}

const GOT: Expect = Some(("GET /public", ""));
const POSTED: Expect = Some(("POST /public", "abc"));

fn with(name: &'static str, more: &[(&'static str, &'static str)], expect: Expect) -> Row {
    Row {
        name,
        head: [request("GET", "/public"), more.to_vec()].concat(),
        data: vec![],
        trailers: vec![],
        expect,
    }
}

fn pseudo(name: &'static str, head: &[(&'static str, &'static str)], expect: Expect) -> Row {
    Row {
        name,
        head: head.to_vec(),
        data: vec![],
        trailers: vec![],
        expect,
    }
}

fn post(
    name: &'static str,
    more: &[(&'static str, &'static str)],
    data: &[&'static str],
    expect: Expect,
) -> Row {
    Row {
        name,
        head: [request("POST", "/public"), more.to_vec()].concat(),
        data: data.to_vec(),
        trailers: vec![],
        expect,
    }
}

fn trailing(name: &'static str, trailers: &[(&'static str, &'static str)], expect: Expect) -> Row {
    Row {
        trailers: trailers.to_vec(),
        ..post(name, &[], &["abc"], expect)
    }
}

/// A request with one pseudo-header replaced.
fn replaced(name: &'static str, key: &'static str, value: &'static str) -> Row {
    let head = request("GET", "/public")
        .into_iter()
        .map(|(known, old)| (known, if known == key { value } else { old }));
    Row {
        name,
        head: head.collect(),
        data: vec![],
        trailers: vec![],
        expect: None,
    }
}

fn fields() -> Vec<Row> {
    vec![
        with("CR LF in a value", &[("x", "a\r\nHost: evil")], None),
        with(
            "a whole request in a value",
            &[(
                "x",
                "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n",
            )],
            None,
        ),
        with("CR in a value", &[("x", "a\rb")], None),
        with("LF in a value", &[("x", "a\nb")], None),
        with("NUL in a value", &[("x", "a\0b")], None),
        with("CR LF in a name", &[("x\r\ny", "a")], None),
        with("a colon in a name", &[("x: y\r\nz", "a")], None),
        with("a colon alone in a name", &[("x:y", "a")], None),
        with("a space in a name", &[("x y", "a")], None),
        with("NUL in a name", &[("x\0", "a")], None),
        with("an empty name", &[("", "a")], None),
        with("an upper-case name", &[("X-Y", "a")], None),
        with(
            "transfer-encoding",
            &[("transfer-encoding", "chunked")],
            None,
        ),
        with("connection", &[("connection", "x")], None),
        with("keep-alive", &[("keep-alive", "1")], None),
        with(
            "proxy-connection",
            &[("proxy-connection", "keep-alive")],
            None,
        ),
        with("upgrade", &[("upgrade", "websocket")], None),
        with("te: gzip", &[("te", "gzip")], None),
        with("te: trailers", &[("te", "trailers")], GOT),
        with("another host", &[("host", "evil")], None),
        with("the same host", &[("host", "web.ns")], GOT),
        with("two hosts", &[("host", "web.ns"), ("host", "web.ns")], None),
        with(
            "crumbs of a cookie",
            &[("cookie", "a=1"), ("cookie", "b=2")],
            GOT,
        ),
        replaced(
            "CR LF in the path",
            ":path",
            "/public HTTP/1.1\r\nHost: web.ns\r\n\r\nGET /smuggled",
        ),
        replaced("a space in the path", ":path", "/public x"),
        replaced("NUL in the path", ":path", "/public\0"),
        // The fragment is cut off before routing and policies: the backend sees what they saw.
        pseudo("a fragment", &request("GET", "/public#/../admin"), GOT),
        replaced("a high byte in the path", ":path", "/public\u{e9}"),
        replaced("a relative path", ":path", "public"),
        replaced("an empty path", ":path", ""),
        replaced("an absolute URI as path", ":path", "http://web.ns/public"),
        replaced("CR LF in the authority", ":authority", "web.ns\r\nX: y"),
        replaced("a user in the authority", ":authority", "a@web.ns"),
        replaced("a path in the authority", ":authority", "web.ns/admin"),
        replaced("a space in the authority", ":authority", "web.ns x"),
        replaced(
            "a line in the method",
            ":method",
            "GET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\nGET",
        ),
        replaced("a space in the method", ":method", "GET /smuggled"),
        replaced("an empty method", ":method", ""),
        replaced("a URI in the scheme", ":scheme", "http://evil/?"),
        pseudo("no method", &request("GET", "/public")[1..], None),
        pseudo("no path", &request("GET", "/public")[..3], None),
        pseudo(
            "no scheme",
            &[
                (":method", "GET"),
                (":authority", "web.ns"),
                (":path", "/public"),
            ],
            None,
        ),
        with("two paths", &[(":path", "/smuggled")], None),
        with("two methods", &[(":method", "POST")], None),
        with("two authorities", &[(":authority", "evil")], None),
        with(
            "a pseudo-header that does not exist",
            &[(":foo", "a")],
            None,
        ),
        with("a response's pseudo-header", &[(":status", "200")], None),
        pseudo(
            "a pseudo-header after a field",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                ("x", "a"),
                (":authority", "web.ns"),
                (":path", "/public"),
            ],
            None,
        ),
        with(
            "a protocol without CONNECT",
            &[(":protocol", "websocket")],
            None,
        ),
        pseudo(
            "CONNECT",
            &[(":method", "CONNECT"), (":authority", "web.ns")],
            None,
        ),
        pseudo("CONNECT with a path", &request("CONNECT", "/public"), None),
        post("a body", &[], &["abc"], POSTED),
        post(
            "a body with its length",
            &[("content-length", "3")],
            &["a", "bc"],
            POSTED,
        ),
        post(
            "less than the length",
            &[("content-length", "5")],
            &["abc"],
            None,
        ),
        post(
            "more than the length",
            &[("content-length", "3")],
            &["abcGET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n"],
            None,
        ),
        post(
            "a length and no body",
            &[("content-length", "5")],
            &[],
            None,
        ),
        post(
            "length 0 and a body",
            &[("content-length", "0")],
            &["GET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n"],
            None,
        ),
        post(
            "lengths 3 and 5",
            &[("content-length", "3"), ("content-length", "5")],
            &["abc"],
            None,
        ),
        post("length +3", &[("content-length", "+3")], &["abc"], None),
        post(
            "length 2^64 + 3",
            &[("content-length", "18446744073709551619")],
            &["abc"],
            None,
        ),
        trailing("trailers", &[("x-sum", "1")], POSTED),
        // It is dropped.
        trailing(
            "a pseudo-header in trailers",
            &[(":path", "/smuggled")],
            POSTED,
        ),
        trailing(
            "a coding in trailers",
            &[("transfer-encoding", "chunked")],
            None,
        ),
        trailing(
            "CR LF in trailers",
            &[(
                "x",
                "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n",
            )],
            None,
        ),
    ]
}

async fn table(hop: Http) {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, hop);
    let mut wrong = Vec::new();
    let only = std::env::var("ROW").ok();
    for row in fields()
        .iter()
        .filter(|row| only.as_deref().is_none_or(|only| row.name == only))
    {
        let before = backend.seen().len();
        let mut raw = Raw::connect(pair.front).await;
        let mut bytes = headers(1, row.data.is_empty() && row.trailers.is_empty(), &row.head);
        for (index, data) in row.data.iter().enumerate() {
            let end = index + 1 == row.data.len() && row.trailers.is_empty();
            bytes.extend(frame(
                DATA,
                if end { END_STREAM } else { 0 },
                1,
                data.as_bytes(),
            ));
        }
        if !row.trailers.is_empty() {
            bytes.extend(headers(1, true, &row.trailers));
        }
        raw.send(&bytes).await;
        let outcome = raw.outcome(1).await;
        let canary = b"GET /public/canary HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
        let (answer, _) = say(pair.front, canary, |_| false).await;
        let mut seen = backend.seen().split_off(before);
        let last = seen.pop();
        let told = format!(
            "{}: {outcome:?}, backend saw {seen:?} {:?}",
            row.name,
            backend.broken()
        );
        let canary_came = last.is_some_and(|seen| seen.line() == "GET /public/canary")
            && statuses(&answer) == [200];
        let good = match (row.expect, seen.as_slice()) {
            (None, []) => match outcome {
                Outcome::Status(status) => (400..600).contains(&status),
                Outcome::Refused => true,
                Outcome::Silence => false,
            },
            (Some((line, body)), [one]) => {
                outcome == Outcome::Status(200) && one.line() == line && one.body == body.as_bytes()
            }
            _ => false,
        };
        if !good || !canary_came || !backend.broken().is_empty() {
            wrong.push(told.chars().take(500).collect::<String>());
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn http2_requests_become_one_http1_request_or_none() {
    table(Http::One).await;
}

#[tokio::test]
async fn http2_requests_stay_one_request_or_none() {
    table(Http::Two).await;
}

#[tokio::test]
async fn crumbs_of_a_cookie_are_joined() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let mut raw = Raw::connect(pair.front).await;
    let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")];
    raw.send(&headers(
        1,
        true,
        &[request("GET", "/public"), crumbs.to_vec()].concat(),
    ))
    .await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    assert_eq!(backend.seen()[0].values("cookie"), ["a=1; b=2"]);
}
