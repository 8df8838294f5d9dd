//! Requests that are sent again, and time that runs out, before a backend that does as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::peers::raw;
use support::{Http, Proxy, any, http_chain, listener, static_cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xds::client::{Any, Kind};

/// What the backend does with a request.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Answers with this status and the request's attempt headers.
    Answer(u16),
    /// Closes the connection.
    Close,
    /// Never answers.
    Hang,
    /// Begins an answer and never ends it.
    Begin,
}

/// A backend that acts by the list and then, for ever, by its last entry; it counts requests.
async fn backend(acts: &'static [Act]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, acts, counted.clone()));
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, acts: &'static [Act], seen: Arc<AtomicUsize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let field = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(name));
            line.map(|line| line[name.len()..].trim().to_owned())
        };
        let length = field("content-length:").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0u8; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let number = seen.fetch_add(1, Ordering::SeqCst);
        match acts[number.min(acts.len() - 1)] {
            Act::Answer(status) => {
                let text = format!(
                    "attempt={} timeout={} expected={} body={length}",
                    field("x-envoy-attempt-count:").unwrap_or_default(),
                    field("x-envoy-is-timeout-retry:").unwrap_or_default(),
                    field("x-envoy-expected-rq-timeout-ms:").unwrap_or_default(),
                );
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            Act::Close => return,
            Act::Hang => std::future::pending().await,
            Act::Begin => {
                let head = b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nbeginning";
                stream.write_all(head).await.unwrap();
                std::future::pending().await
            }
        }
    }
}

/// A proxy whose one route goes to the backends; `host` and `action` are YAML of the virtual host and the route.
fn proxy(backends: &[SocketAddr], host: &str, action: &str) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let cluster = static_cluster("app", backends, Http::One);
    proxy.push(Kind::Cluster, vec![("app", any(&cluster))], &[]);
    let front = listener("l", vec![http_chain("r", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&front))], &[]);
    let table = format!(
        "name: r\nvirtual_hosts: [{{name: h, domains: ['*'], {host} routes: [{{match: {{prefix: /}}, route: {{cluster: app, {action}}}}}]}}]"
    );
    let table = schema::yaml("envoy.config.route.v3.RouteConfiguration", &table).unwrap();
    let table = Any {
        type_url: table.type_url,
        value: table.value,
    };
    proxy.push(Kind::Routes, vec![("r", table)], &[]);
    let address = proxy.address("l");
    (proxy, address)
}

async fn ask(front: SocketAddr, method: &str, body: &str) -> String {
    let request = format!(
        "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(front, request.as_bytes()).await.unwrap()
}

const COUNTED: &str = "include_request_attempt_count: true, include_attempt_count_in_response: true, include_is_timeout_retry_header: true,";

#[tokio::test]
async fn a_policy_repeats_what_its_conditions_name() {
    use Act::{Answer, Close, Hang};
    struct Case {
        acts: &'static [Act],
        policy: &'static str,
        method: &'static str,
        status: u16,
        seen: usize,
    }
    let case = |acts, policy, method, status, seen| Case {
        acts,
        policy,
        method,
        status,
        seen,
    };
    let cases = [
        case(&[Answer(503), Answer(200)], "retry_on: 5xx", "GET", 200, 2),
        case(&[Answer(503), Answer(200)], "retry_on: 5xx", "POST", 200, 2),
        case(
            &[Answer(503), Answer(200)],
            "retry_on: reset",
            "GET",
            503,
            1,
        ),
        case(
            &[Answer(503)],
            "retry_on: 5xx, num_retries: 3",
            "GET",
            503,
            4,
        ),
        case(
            &[Answer(418), Answer(200)],
            "retry_on: retriable-status-codes, retriable_status_codes: [418]",
            "GET",
            200,
            2,
        ),
        case(&[Close, Answer(200)], "retry_on: reset", "POST", 200, 2),
        case(
            &[Close, Answer(200)],
            "retry_on: connect-failure",
            "POST",
            503,
            1,
        ),
        case(
            &[Close, Close, Answer(200)],
            "retry_on: 5xx, num_retries: 2",
            "GET",
            200,
            3,
        ),
        case(
            &[Hang, Answer(200)],
            "retry_on: 5xx, per_try_timeout: 0.2s",
            "GET",
            200,
            2,
        ),
        case(
            &[Hang, Answer(200)],
            "retry_on: 5xx, per_try_idle_timeout: 0.2s",
            "GET",
            200,
            2,
        ),
        case(
            &[Hang],
            "retry_on: retriable-4xx, per_try_timeout: 0.2s",
            "GET",
            504,
            1,
        ),
    ];
    for Case {
        acts,
        policy,
        method,
        status,
        seen,
    } in cases
    {
        let (app, count) = backend(acts).await;
        let action =
            format!("retry_policy: {{{policy}, retry_back_off: {{base_interval: 0.001s}}}}");
        let (_proxy, front) = proxy(&[app], COUNTED, &action);
        let answer = ask(front, method, "payload").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{acts:?} {policy}: {answer}"
        );
        assert_eq!(count.load(Ordering::SeqCst), seen, "{acts:?} {policy}");
        assert!(
            answer.contains(&format!("x-envoy-attempt-count: {seen}\r\n")),
            "{acts:?} {policy}: {answer}"
        );
        if status == 200 {
            assert!(answer.contains(&format!("attempt={seen} ")), "{answer}");
            assert!(
                answer.ends_with("body=7"),
                "the body is sent anew: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let (app, count) = backend(&[Act::Answer(200)]).await;
    let predicate = "retry_host_predicate: [{name: p, typed_config: {'@type': \
                     type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]";
    let action = format!(
        "retry_policy: {{retry_on: connect-failure, {predicate}, host_selection_retry_max_attempts: 20, \
         retry_back_off: {{base_interval: 0.001s}}}}"
    );
    let (_proxy, front) = proxy(&[nobody, app], COUNTED, &action);
    for _ in 0..20 {
        let answer = ask(front, "POST", "x").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_once() {
    let (app, count) = backend(&[Act::Answer(503), Act::Answer(200)]).await;
    let (_proxy, front) = proxy(&[app], "", "retry_policy: {retry_on: 5xx}");
    let answer = ask(front, "POST", &"x".repeat(3 << 20)).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{}", answer.len());
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_timeout_is_told_to_the_next_attempt() {
    let (app, _) = backend(&[Act::Hang, Act::Answer(200)]).await;
    let action = "timeout: 20s, retry_policy: {retry_on: gateway-error, per_try_timeout: 0.2s}";
    let (_proxy, front) = proxy(&[app], COUNTED, action);
    let answer = ask(front, "GET", "").await;
    assert!(
        answer.contains("attempt=2 timeout=true expected=200 "),
        "{answer}"
    );
}

#[tokio::test]
async fn time_runs_out_as_in_envoy() {
    let cases = [
        (
            "timeout: 0.2s",
            Act::Hang,
            "HTTP/1.1 504 ",
            "upstream request timeout",
        ),
        (
            "timeout: 0s, idle_timeout: 0.2s",
            Act::Hang,
            "HTTP/1.1 504 ",
            "stream timeout",
        ),
        (
            "max_stream_duration: {max_stream_duration: 0.2s}",
            Act::Hang,
            "HTTP/1.1 504 ",
            "downstream duration timeout",
        ),
        ("timeout: 0.2s", Act::Begin, "HTTP/1.1 200 ", "beginning"),
        (
            "timeout: 0s, idle_timeout: 0.2s",
            Act::Begin,
            "HTTP/1.1 200 ",
            "beginning",
        ),
    ];
    for (action, act, status, body) in cases {
        let acts: &'static [Act] = Vec::leak(vec![act]);
        let (app, _) = backend(acts).await;
        let (_proxy, front) = proxy(&[app], "", action);
        // The response that has begun is broken off: its end says so.
        let answer = ask(front, "GET", "").await;
        assert!(answer.starts_with(status), "{action} {act:?}: {answer}");
        assert!(answer.contains(body), "{action} {act:?}: {answer}");
    }
}

#[tokio::test]
async fn the_time_for_a_response_runs_from_the_requests_end_on() {
    let (app, _) = backend(&[Act::Answer(200)]).await;
    let (_proxy, front) = proxy(&[app], "", "timeout: 0.3s");
    let mut stream = TcpStream::connect(front).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Twice as long as the timeout, in steps: a slow client is not a slow server.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
