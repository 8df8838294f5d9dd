//! Clients that take their time: every wait has its end.

use envoy_types::pb::google::protobuf::Duration as PbDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use xds::client::Kind;

use crate::frames::{END_HEADERS, Event, HEADERS, Raw, block, frame, headers, request};
use crate::recorder::Recorder;
use crate::stage::{Pair, manage, pair, statuses};
use crate::support::{Http, any, eventually, http_chain, listener};

/// Every limit of the outer listener at one second.
const LIMIT: PbDuration = PbDuration {
    seconds: 1,
    nanos: 0,
};
/// Well beyond the limits and whatever pulse they are looked at with.
const END: Duration = Duration::from_secs(9);

async fn impatient(hop: Http) -> (Pair, Recorder) {
    let backend = Recorder::new().await;
    let mut pair = pair(backend.address, hop);
    let chain = manage(http_chain("out", None), |manager| {
        manager.request_headers_timeout = Some(LIMIT);
        manager.stream_idle_timeout = Some(LIMIT);
        manager.common_http_protocol_options = Some(Default::default());
        if let Some(options) = &mut manager.common_http_protocol_options {
            options.idle_timeout = Some(LIMIT);
        }
    });
    pair.client.push(
        Kind::Listener,
        vec![("impatient", any(&listener("impatient", vec![chain], false)))],
        &[],
    );
    pair.front = pair.client.address("impatient");
    (pair, backend)
}

/// What came until the proxy closed.
async fn until_closed(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    match timeout(END, stream.read_to_end(&mut all)).await {
        Ok(_) => Some(String::from_utf8_lossy(&all).into_owned()),
        Err(_) => None,
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let (pair, _) = impatient(Http::One).await;
    for bytes in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"\r\n"] {
        let mut stream = TcpStream::connect(pair.front).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(
            said.is_some(),
            "{:?} is still open",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[tokio::test]
async fn a_head_that_drips_is_not_waited_for() {
    let (pair, backend) = impatient(Http::One).await;
    let (mut read, mut write) = TcpStream::connect(pair.front).await.unwrap().into_split();
    let drip = tokio::spawn(async move {
        let _ = write
            .write_all(b"GET /public HTTP/1.1\r\nHost: web.ns\r\n")
            .await;
        while write.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut all = Vec::new();
    let closed = timeout(END, read.read_to_end(&mut all)).await;
    assert!(closed.is_ok(), "a head of {END:?} is still waited for");
    drip.abort();
    assert_eq!(backend.seen(), []);
}

#[tokio::test]
async fn a_body_that_stops_is_not_waited_for() {
    for hop in [Http::One, Http::Two] {
        let (pair, backend) = impatient(hop).await;
        for head in [
            "Content-Length: 100\r\n\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let mut stream = TcpStream::connect(pair.front).await.unwrap();
            let bytes = format!("POST /public HTTP/1.1\r\nHost: web.ns\r\n{head}");
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let said = until_closed(&mut stream)
                .await
                .expect("the connection is closed");
            assert!(
                statuses(&said)
                    .iter()
                    .all(|status| [408, 504].contains(status)),
                "{said}"
            );
        }
        let mut raw = Raw::connect(pair.front).await;
        raw.send(&headers(1, false, &request("POST", "/public")))
            .await;
        let events = until_over(&mut raw, 1).await;
        assert!(events, "a stream without a body is still waited for");
        assert_eq!(backend.seen(), []);
    }
}

/// A stream is answered or reset within the time given.
async fn until_over(raw: &mut Raw, stream: u32) -> bool {
    let over = async {
        loop {
            match raw.next(END).await {
                Event::Headers { stream: id, .. } | Event::Reset { stream: id, .. }
                    if id == stream =>
                {
                    return true;
                }
                Event::Closed | Event::GoAway { .. } => return true,
                Event::Silence => return false,
                _ => {}
            }
        }
    };
    timeout(END, over).await.unwrap_or(false)
}

#[tokio::test]
async fn half_a_header_block_is_not_waited_for() {
    let (pair, _) = impatient(Http::One).await;
    let mut raw = Raw::connect(pair.front).await;
    raw.send(&frame(HEADERS, 0, 1, &block(&request("GET", "/public"))))
        .await;
    assert!(until_over(&mut raw, 1).await);
    let mut raw = Raw::connect(pair.front).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&request("GET", "/public")))[..20])
        .await;
    assert!(until_over(&mut raw, 1).await);
}

#[tokio::test]
async fn idle_http2_connections_are_closed() {
    let (pair, _) = impatient(Http::One).await;
    let mut raw = Raw::connect(pair.front).await;
    assert!(until_over(&mut raw, 1).await);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = open.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let open = counter.clone();
            open.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = [0u8; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
                    .await;
                let piece = vec![b'a'; 65_536];
                while stream.write_all(&piece).await.is_ok() {}
                open.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
    });
    let (mut pair, _) = impatient(Http::One).await;
    let local = crate::support::static_cluster("local", &[address], Http::One);
    pair.server
        .push(Kind::Cluster, vec![("local", any(&local))], &[]);
    let mut plain = TcpStream::connect(pair.front).await.unwrap();
    plain
        .write_all(b"GET /public HTTP/1.1\r\nHost: web.ns\r\n\r\n")
        .await
        .unwrap();
    let mut raw = Raw::connect_with(pair.front, &[(4, 0)]).await;
    raw.send(&headers(1, true, &request("GET", "/public")))
        .await;
    let is_open = || open.load(std::sync::atomic::Ordering::SeqCst);
    eventually("both are asked", async || is_open() == 2).await;
    eventually("both are given up", async || is_open() == 0).await;
    drop((plain, raw));
}

#[tokio::test]
async fn a_handshake_that_stops_is_not_waited_for() {
    let (pair, _) = impatient(Http::One).await;
    let inbound = pair.server.address("inbound");
    let mut open = Vec::new();
    for bytes in [
        &b""[..],
        b"\x16\x03\x01",
        b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c\x03\x03",
    ] {
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    for mut stream in open {
        let mut all = Vec::new();
        let closed = timeout(Duration::from_secs(15), stream.read_to_end(&mut all)).await;
        assert!(closed.is_ok(), "a handshake is still waited for");
    }
}
