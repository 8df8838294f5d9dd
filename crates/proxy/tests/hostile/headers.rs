//! Headers by which a client would speak for the mesh.

use crate::frames::{Outcome, Raw, headers, request};
use crate::recorder::Recorder;
use crate::stage::{CLIENT, pair, say, statuses};
use crate::support::Http;

/// What a client sends to be taken for somebody else.
const SPOOFED: [(&str, &str); 14] = [
    (
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/admin/ns",
    ),
    (
        "X-Forwarded-Client-Cert",
        "By=spiffe://a;URI=spiffe://cluster.local/admin/ns",
    ),
    ("x-envoy-external-address", "10.9.9.9"),
    ("x-envoy-internal", "true"),
    ("x-envoy-original-path", "/admin"),
    ("x-envoy-original-dst-host", "10.9.9.9:1"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-max-retries", "1000"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-force-trace", "true"),
    ("x-envoy-decorator-operation", "x"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-proto", "gopher"),
    (
        "connection",
        "x-forwarded-client-cert, x-forwarded-for, x-request-id",
    ),
];

fn judge(head: &crate::recorder::Seen, what: &str) {
    let told = head.values("x-forwarded-client-cert");
    assert!(
        matches!(told.as_slice(), [one] if one.ends_with(&format!(";URI={CLIENT}")) && !one.contains(',')),
        "{what}: {head:?}"
    );
    assert_eq!(
        head.values("x-forwarded-proto").len(),
        1,
        "{what}: {head:?}"
    );
    assert!(
        !head.head.contains("10.9.9.9") && !head.head.contains("admin"),
        "{what}: {head:?}"
    );
    assert!(!head.head.contains("gopher"), "{what}: {head:?}");
    for name in [
        "x-envoy-internal",
        "x-envoy-max-retries",
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-timeout-ms",
    ] {
        assert!(head.values(name).is_empty(), "{what}: {head:?}");
    }
}

#[tokio::test]
async fn nobody_speaks_for_the_mesh() {
    for hop in [Http::One, Http::Two] {
        let backend = Recorder::new().await;
        let pair = pair(backend.address, hop);
        for (name, value) in SPOOFED {
            // First, last, and twice.
            for more in [
                format!("{name}: {value}\r\nX: y\r\n"),
                format!("X: y\r\n{name}: {value}\r\n"),
                format!("{name}: {value}\r\n{name}: {value}\r\n"),
            ] {
                let before = backend.seen().len();
                let bytes = format!("GET /public HTTP/1.1\r\nHost: web.ns\r\n{more}\r\n");
                let (said, _) =
                    say(pair.front, bytes.as_bytes(), |said| said.ends_with("ok")).await;
                assert_eq!(statuses(&said), [200], "{more}: {said}");
                judge(&backend.seen()[before], &more);
            }
            let before = backend.seen().len();
            let lower = name.to_ascii_lowercase();
            let mut raw = Raw::connect(pair.front).await;
            if name == "connection" {
                continue;
            }
            raw.send(&headers(
                1,
                true,
                &[request("GET", "/public"), vec![(lower.as_str(), value)]].concat(),
            ))
            .await;
            assert_eq!(raw.outcome(1).await, Outcome::Status(200), "{name}");
            judge(&backend.seen()[before], name);
        }
    }
}

#[tokio::test]
async fn the_clients_address_stands_last_in_x_forwarded_for() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let bytes = b"GET /public HTTP/1.1\r\nHost: web.ns\r\nX-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 10.8.8.8\r\n\r\n";
    say(pair.front, bytes, |said| said.ends_with("ok")).await;
    assert_eq!(
        backend.seen()[0].values("x-forwarded-for"),
        ["10.9.9.9,10.8.8.8,127.0.0.1"]
    );
}

#[tokio::test]
async fn ten_thousand_headers_cost_little() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let many: String = (0..10_000)
        .map(|index| format!("x{index}: 1\r\n"))
        .collect();
    let bytes = format!("GET /public HTTP/1.1\r\nHost: web.ns\r\n{many}\r\n");
    for _ in 0..20 {
        let (said, closed) = say(pair.front, bytes.as_bytes(), |_| false).await;
        assert!(
            closed
                && statuses(&said)
                    .iter()
                    .all(|status| *status == 431 || *status == 400),
            "{said}"
        );
    }
    assert_eq!(backend.seen(), []);
}

#[tokio::test]
async fn names_with_many_hosts_make_no_new_series() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let series = |pair: &crate::stage::Pair| {
        let mut samples = proxy::stats::Samples::default();
        pair.client.shared.stats.sample(&mut samples);
        samples.0.len()
    };
    let ask = async |host: String| {
        let bytes = format!(
            "GET /public HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nUser-Agent: {host}\r\n\r\n"
        );
        say(pair.front, bytes.as_bytes(), |_| false).await;
    };
    ask("web.ns".into()).await;
    ask("nobody.example".into()).await;
    let before = series(&pair);
    for index in 0..500 {
        ask(format!("host-{index}.example")).await;
    }
    assert_eq!(series(&pair), before);
}
