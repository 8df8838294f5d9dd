//! HTTP/2 floods: the flooder is stopped or costs nothing, its work upstream ends, other clients are served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, HEADERS, PING, PRIORITY, Raw, SETTINGS,
    block, frame, headers, request, reset, settings, window,
};
use crate::recorder::Recorder;
use crate::stage::{pair, say, statuses};
use crate::support::{Http, eventually};

/// What a flood may cost in resident memory; the attacks below try for hundreds of megabytes.
const MEMORY: usize = 64 << 20;

/// Held by the tests that measure: they must not measure one another.
static MEASURING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// What the backend sends, once for all its connections: the test measures its own process.
static PIECE: [u8; 1 << 20] = [b'a'; 1 << 20];

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A well-behaved client is served.
async fn served(front: SocketAddr) {
    let (answer, _) = say(
        front,
        b"GET /public HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n",
        |_| false,
    )
    .await;
    assert_eq!(statuses(&answer), [200], "another client: {answer:?}");
}

/// Sends until the proxy has had enough; how many pieces it took, or `None` if it took all of them.
async fn flood(raw: &mut Raw, pieces: impl Iterator<Item = Vec<u8>>) -> Option<usize> {
    for (index, piece) in pieces.enumerate() {
        if !raw.send(&piece).await {
            return Some(index);
        }
        if index % 64 == 0 {
            // What the proxy says is read; a flooder that did not would stop itself.
            while let event @ (Event::Closed
            | Event::GoAway { .. }
            | Event::Other(_)
            | Event::Reset { .. }
            | Event::Headers { .. }
            | Event::Data { .. }) = raw.next(Duration::from_millis(1)).await
            {
                if matches!(event, Event::Closed)
                    || matches!(event, Event::GoAway { code } if code != 0)
                {
                    return Some(index);
                }
            }
        }
    }
    None
}

/// The connection ends with an error, soon.
async fn ends(raw: &mut Raw) -> bool {
    let events = raw
        .until(|event| matches!(event, Event::GoAway { code } if *code != 0))
        .await;
    matches!(events.last(), Some(Event::Closed | Event::GoAway { .. }))
}

/// A backend that takes connections and never answers; how many are open.
async fn silent() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = open.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let open = counter.clone();
            open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut sink = vec![0; 4096];
                while matches!(stream.read(&mut sink).await, Ok(length) if length > 0) {}
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, open)
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_their_work() {
    let (silent, open) = silent().await;
    let pair = pair(silent, Http::One);
    let mut raw = Raw::connect(pair.front).await;
    let get = request("GET", "/public");
    let pieces = (0..20_000u32).map(|index| {
        let stream = index * 2 + 1;
        [headers(stream, true, &get), reset(stream)].concat()
    });
    let taken = flood(&mut raw, pieces).await;
    assert!(
        taken.is_some_and(|taken| taken < 2_000),
        "20 000 streams were opened and reset: {taken:?}"
    );
    drop(raw);
    eventually("no request is left at the backend", async || {
        open.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn resets_after_a_while_end_the_connection_too() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::Two);
    let mut raw = Raw::connect(pair.front).await;
    let get = request("GET", "/public");
    // A batch of streams is let in before it is reset: h2's own count of resets before acceptance sees none.
    let pieces = (0..500u32).flat_map(|batch| {
        let streams: Vec<u32> = (0..20).map(|index| (batch * 20 + index) * 2 + 1).collect();
        let open: Vec<u8> = streams
            .iter()
            .flat_map(|stream| headers(*stream, false, &get))
            .collect();
        let close: Vec<u8> = streams.iter().flat_map(|stream| reset(*stream)).collect();
        [open, close]
    });
    let mut taken = 0;
    for piece in pieces {
        if !raw.send(&piece).await
            || matches!(raw.next(Duration::from_millis(5)).await, Event::Closed)
        {
            break;
        }
        taken += 1;
    }
    served(pair.front).await;
    assert!(taken < 1_000, "10 000 streams were opened and reset");
}

#[tokio::test]
async fn resets_that_the_client_provokes_end_the_connection() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let post = request("POST", "/public");
    type Provoke = fn(u32) -> Vec<u8>;
    let provocations: [(&str, Provoke); 3] = [
        ("a window update of zero", |stream| window(stream, 0)),
        ("a window that overflows", |stream| {
            window(stream, 0x7fff_ffff)
        }),
        ("data after the end", |stream| {
            [
                frame(DATA, END_STREAM, stream, b"a"),
                frame(DATA, END_STREAM, stream, b"b"),
            ]
            .concat()
        }),
    ];
    for (name, provoke) in provocations {
        let mut raw = Raw::connect(pair.front).await;
        let pieces = (0..20_000u32).map(|index| {
            let stream = index * 2 + 1;
            [headers(stream, false, &post), provoke(stream)].concat()
        });
        let taken = flood(&mut raw, pieces).await;
        assert!(
            taken.is_some_and(|taken| taken < 2_000),
            "{name}: {taken:?}"
        );
        served(pair.front).await;
    }
}

#[tokio::test]
async fn endless_header_blocks_are_cut_off() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let _measuring = MEASURING.lock().await;
    let before = resident();
    let large = block(&[("x", &"a".repeat(16_000))]);
    for (name, payload) in [("empty", vec![]), ("one byte", vec![0x82]), ("full", large)] {
        let mut raw = Raw::connect(pair.front).await;
        assert!(
            raw.send(&frame(
                HEADERS,
                END_STREAM,
                1,
                &block(&request("GET", "/public"))
            ))
            .await
        );
        let pieces = (0..20_000).map(|_| frame(CONTINUATION, 0, 1, &payload));
        let taken = flood(&mut raw, pieces).await;
        assert!(
            taken.is_some_and(|taken| taken < 2_000),
            "{name}: {taken:?}"
        );
        served(pair.front).await;
    }
    assert!(resident().saturating_sub(before) < MEMORY);
    assert!(
        backend
            .seen()
            .iter()
            .all(|seen| seen.values("x").is_empty())
    );
}

#[tokio::test]
async fn a_small_block_that_unfolds_is_refused() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let _measuring = MEASURING.lock().await;
    let before = resident();
    let mut raw = Raw::connect(pair.front).await;
    // One entry of 4000 bytes in the table, then references to it at a byte each: 16 KiB become 60 MiB.
    let mut bomb = block(&request("GET", "/public"));
    bomb.extend([0x40, 1, b'x']);
    bomb.extend([0x7f, 0xa1, 0x1e]);
    bomb.extend([b'a'; 4000]);
    bomb.extend([0xbe; 10_000]);
    let mut refused = 0;
    for stream in (0..200u32).map(|index| index * 2 + 1) {
        if !raw
            .send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb))
            .await
        {
            break;
        }
        match raw.outcome(stream).await {
            crate::frames::Outcome::Status(200) => panic!("a header list of 40 MB was taken"),
            crate::frames::Outcome::Silence => panic!("neither taken nor refused"),
            _ => refused += 1,
        }
    }
    assert!(refused > 0);
    served(pair.front).await;
    assert!(resident().saturating_sub(before) < MEMORY);
    assert!(
        backend
            .seen()
            .iter()
            .all(|seen| seen.values("x").is_empty())
    );
}

#[tokio::test]
async fn many_small_headers_count() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::Two);
    for (name, field) in [
        ("indexed", vec![0xa0u8]),
        ("crumbs", [&[0, 6][..], b"cookie", &[0]].concat()),
    ] {
        let mut raw = Raw::connect(pair.front).await;
        let mut bomb = block(&request("GET", "/public"));
        bomb.extend(field.repeat(16_000 / field.len()));
        assert!(
            raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb))
                .await
        );
        let outcome = raw.outcome(1).await;
        let refused = !matches!(
            outcome,
            crate::frames::Outcome::Status(200) | crate::frames::Outcome::Silence
        );
        assert!(refused, "{name}: {outcome:?}");
    }
    assert_eq!(backend.seen(), []);
}

#[tokio::test]
async fn frames_without_content_end_the_connection_or_cost_nothing() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let _measuring = MEASURING.lock().await;
    let before = resident();
    let empty_data = frame(DATA, 0, 1, &[]);
    let padded = frame(DATA, 8, 1, &[0]);
    let floods: [(&str, Vec<u8>); 8] = [
        ("empty DATA", empty_data),
        ("DATA of padding", padded),
        ("SETTINGS", settings(&[])),
        ("SETTINGS that change the window", settings(&[(4, 1000)])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE", window(0, 1)),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("unknown frames", frame(0x77, 0, 0, &[0; 8])),
    ];
    for (name, piece) in floods {
        let mut raw = Raw::connect(pair.front).await;
        assert!(
            raw.send(&headers(1, false, &request("POST", "/public")))
                .await
        );
        let started = Instant::now();
        let taken = flood(&mut raw, (0..1_000).map(|_| piece.repeat(32))).await;
        served(pair.front).await;
        eprintln!("{name}: stopped after {taken:?}, {:?}", started.elapsed());
    }
    assert!(resident().saturating_sub(before) < MEMORY);
}

#[tokio::test]
async fn answers_nobody_reads_are_not_kept() {
    // Answers of 64 MiB each, a hundred times: what the proxy may hold of them is bounded by windows and buffers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n")
                    .await;
                for _ in 0..64 {
                    if stream.write_all(&PIECE).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let pair = pair(address, Http::Two);
    let _measuring = MEASURING.lock().await;
    let before = resident();
    let mut raws = Vec::new();
    for window in [0, 0x7fff_ffff] {
        let mut raw = Raw::connect_with(pair.front, &[(4, window)]).await;
        let get = request("GET", "/public");
        let opened: Vec<u8> = (0..50u32)
            .flat_map(|index| headers(index * 2 + 1, true, &get))
            .collect();
        assert!(raw.send(&opened).await);
        raws.push(raw);
    }
    // A slow reader of HTTP/1.
    let mut plain = tokio::net::TcpStream::connect(pair.front).await.unwrap();
    plain
        .write_all(b"GET /public HTTP/1.1\r\nHost: web.ns\r\n\r\n")
        .await
        .unwrap();
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(resident().saturating_sub(before));
    }
    // 101 answers: windows of 64 KiB to 1 MiB and a buffer of each of four connections.
    assert!(
        most < 3 * MEMORY,
        "{} MiB are held for readers that do not read",
        most >> 20
    );
    drop(raws);
}

#[tokio::test]
async fn a_tunnel_nobody_reads_is_not_kept() {
    // A server that sends without end once it has switched; Pingora and hyper kept all of it for stalled readers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let _ = stream.read(&mut head).await;
                let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                let _ = stream.write_all(switched).await;
                let piece = vec![b'a'; 1 << 20];
                while stream.write_all(&piece).await.is_ok() {}
            });
        }
    });
    for hop in [Http::One, Http::Two] {
        let _measuring = MEASURING.lock().await;
        let pair = pair(address, hop);
        let before = resident();
        let mut kept = Vec::new();
        for _ in 0..20 {
            let mut stream = tokio::net::TcpStream::connect(pair.front).await.unwrap();
            let upgrade = b"GET /public HTTP/1.1\r\nHost: web.ns\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(upgrade).await.unwrap();
            kept.push(stream);
        }
        let mut most = 0;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = most.max(resident().saturating_sub(before));
        }
        assert!(
            most < MEMORY,
            "{} MiB are held for tunnels that nobody reads",
            most >> 20
        );
    }
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_streams() {
    let (silent, _) = silent().await;
    let pair = pair(silent, Http::One);
    let mut raw = Raw::connect(pair.front).await;
    let get = request("GET", "/public");
    let opened: Vec<u8> = (0..300u32)
        .flat_map(|index| headers(index * 2 + 1, true, &get))
        .collect();
    assert!(raw.send(&opened).await);
    let events = raw
        .until(|event| matches!(event, Event::Reset { .. } | Event::GoAway { .. }))
        .await;
    assert!(
        matches!(
            events.last(),
            Some(Event::Reset { code: 7 | 1, .. } | Event::GoAway { .. })
        ),
        "300 streams at a time, 100 allowed: {events:?}"
    );
}

#[tokio::test]
async fn what_is_no_http2_ends_the_connection() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let cases: [(&str, Vec<u8>); 9] = [
        (
            "a frame beyond the limit",
            frame(DATA, 0, 1, &vec![0; 16_385]),
        ),
        ("DATA on stream 0", frame(DATA, 0, 0, b"a")),
        (
            "HEADERS on stream 0",
            headers(0, true, &request("GET", "/public")),
        ),
        (
            "an even stream",
            headers(2, true, &request("GET", "/public")),
        ),
        ("DATA before HEADERS", frame(DATA, 0, 1, b"a")),
        (
            "CONTINUATION before HEADERS",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "a header block that is none",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 30]),
        ),
        (
            "a table that grows",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[0x3f, 0xe1, 0xff, 0xff, 0xff, 0x0f],
            ),
        ),
    ];
    for (name, bytes) in cases {
        let mut raw = Raw::connect(pair.front).await;
        raw.send(&bytes).await;
        assert!(ends(&mut raw).await, "{name}");
    }
    served(pair.front).await;
    assert_eq!(backend.seen().len(), 1);
}
