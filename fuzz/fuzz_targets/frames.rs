//! HTTP/2 frames against a listener: a proxy in this process, a connection per input.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use proxy::access::AccessLog;
use proxy::bootstrap::Bootstrap;
use proxy::config::{ConfigParser, Resource};
use proxy::listeners::Listeners;
use proxy::snapshot::Builder;
use proxy::stats::Stats;
use proxy::tls::OwnCertificate;
use proxy::worker::Shared;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;

use crate::Target;

/// What every connection begins with; the input follows.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// No input keeps the proxy busy for longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Frames behind the preface. The proxy must close, and never panic: a panic of any task ends the program.
pub const FRAMES: Target = Target {
    name: "h2-frames",
    run: |data| {
        let stage = STAGE.get_or_init(stage);
        let stage = stage.lock().expect("nobody panicked with it");
        let at = stage.at;
        stage.runtime.block_on(async {
            let mut stream = TcpStream::connect(at).await.expect("it listens");
            let _ = stream.write_all(PREFACE).await;
            let _ = stream.write_all(data).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
            assert!(
                read.is_ok(),
                "the connection stays open behind the client's end"
            );
        });
    },
    seeds: || {
        // HEADERS: GET / http, authority a; literal without indexing.
        let block = b"\x82\x84\x86\x01\x01a";
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).expect("short");
            [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
        };
        vec![
            frame(1, 5, 1, block),
            [frame(1, 4, 1, block), frame(0, 1, 1, b"body")].concat(),
            [frame(1, 1, 1, &block[..3]), frame(9, 4, 1, &block[3..])].concat(),
            [frame(1, 5, 1, block), frame(3, 0, 1, &[0, 0, 0, 8])].concat(),
            frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
            frame(6, 0, 0, &[7; 8]),
            frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            frame(7, 0, 0, &[0; 8]),
        ]
    },
};

static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();

struct Stage {
    runtime: Runtime,
    at: SocketAddr,
    _listeners: Listeners,
}

const CONFIG: &str = r#"
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http2_protocol_options: {allow_connect: true}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: "here"}}
"#;

fn stage() -> Mutex<Stage> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let (at, listeners) = runtime.block_on(async { start() });
    Mutex::new(Stage {
        runtime,
        at,
        _listeners: listeners,
    })
}

fn start() -> (SocketAddr, Listeners) {
    use xds::client::{Limits, Machine, Mode};
    let bootstrap = Bootstrap::read(CONFIG).expect("the configuration is valid");
    let mut machine: Machine<Resource> = Machine::new(Mode::Delta, Limits::default());
    let mut parser = ConfigParser {
        own_certificate: "".into(),
    };
    for resource in bootstrap.resources {
        let fixed = machine.fix(
            resource.kind,
            &resource.name,
            resource.any,
            &mut parser,
            Instant::now(),
        );
        assert!(fixed.is_ok(), "the configuration is valid");
    }
    let own = Arc::new(OwnCertificate::default());
    let stats = Arc::new(Stats::default());
    let log = AccessLog::off(stats.clone());
    let shared = Arc::new(Shared::new(stats, log, own.clone(), 1000));
    let builder = Builder { own, workers: 1 };
    let snapshot = Arc::new(builder.build(&machine, &shared.snapshot.load_full()));
    shared.snapshot.store(snapshot.clone());
    let mut listeners = Listeners::new(shared, vec![Handle::current()]);
    listeners.apply(&snapshot);
    let at = listeners.bound()["front"][0];
    (at, listeners)
}
