//! The administration's pages and guards.

use std::net::Ipv4Addr;
use std::time::Instant;

use http::header::HeaderName;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use xds::client::{Kind, Limits, Mode};

use super::*;
use crate::access::AccessLog;
use crate::bootstrap::Bootstrap;
use crate::config::ConfigParser;
use crate::snapshot::Builder;
use crate::stats::Stats;
use crate::tls::OwnCertificate;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

fn file() -> String {
    let key = rcgen::generate_simple_self_signed(vec!["web.example".to_owned()]).unwrap();
    let (certificate, key) = (key.cert.pem(), key.signing_key.serialize_pem());
    let secret = literal!({"name": "own", "tls_certificate": {
        "certificate_chain": {"inline_string": certificate},
        "private_key": {"inline_string": key}
    }});
    format!(
        r#"
node: {{id: node-1, cluster: shop}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  secrets: [{secret}]
  clusters:
  - name: web
    connect_timeout: 1s
    alt_stat_name: ignored
    load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9}}}}}}}}]}}]}}
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - name: chain-of-l
      filters: [{{name: tcp, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: web}}}}]
"#
    )
}

async fn admin() -> Admin {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }
    let mut settings = <Flags as clap::Parser>::parse_from(["osm-proxy"]).settings;
    let bootstrap = Bootstrap::read(&file()).unwrap();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    let mut parser = ConfigParser {
        own_certificate: "".into(),
    };
    for resource in &bootstrap.resources {
        let any = resource.any.clone();
        machine
            .fix(
                resource.kind,
                &resource.name,
                any,
                &mut parser,
                Instant::now(),
            )
            .unwrap();
    }
    settings.bootstrap = Some(Arc::new(bootstrap));
    let stats = Arc::new(Stats::default());
    let own = Arc::new(OwnCertificate::default());
    let shared = Arc::new(Shared::new(
        stats.clone(),
        AccessLog::off(stats),
        own.clone(),
        10,
    ));
    let snapshot = Builder { own, workers: 1 }.build(&machine, &shared.snapshot.load());
    let mut listeners = Listeners::new(shared.clone(), vec![Handle::current()]);
    listeners.apply(&snapshot);
    shared.snapshot.store(Arc::new(snapshot));
    Admin {
        settings,
        shared,
        machine: Arc::new(Mutex::new(machine)),
        listeners: Arc::new(Mutex::new(listeners)),
        quit: watch::Sender::new(false),
        log: Arc::new(|level| match level {
            "info" | "warn" => Ok(()),
            _ => Err("no such level".to_owned()),
        }),
    }
}

fn ask(
    admin: &Admin,
    method: Method,
    uri: &str,
    headers: &[(HeaderName, &str)],
    peer: SocketAddr,
) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    admin.answer(&request.body(()).unwrap(), peer)
}

async fn body(answer: Answer) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn get(admin: &Admin, uri: &str) -> (u16, String) {
    let answer = ask(
        admin,
        Method::GET,
        uri,
        &[(HOST, "127.0.0.1:15000")],
        LOOPBACK,
    );
    (answer.status().as_u16(), body(answer).await)
}

#[tokio::test]
async fn every_page_of_the_help_is_there() {
    let admin = admin().await;
    for line in HELP.lines().skip(1) {
        let path = line.trim().split([' ', '[', '?', ':']).next().unwrap();
        if line.contains("(POST)") {
            let (status, _) = get(&admin, path).await;
            assert_eq!(status, 405, "GET {path} must not change anything");
        } else {
            assert_eq!(get(&admin, path).await.0, 200, "{path}");
            let posted = ask(&admin, Method::POST, path, &[], LOOPBACK);
            assert_eq!(posted.status(), 405, "POST {path}");
        }
    }
    assert_eq!(get(&admin, "/no/such").await.0, 404);
}

#[tokio::test]
async fn no_page_shows_a_private_key() {
    let admin = admin().await;
    for path in [
        "/config_dump?include_eds",
        "/certs",
        "/config_dump?resource=static_secrets",
        "/stats",
        "/server_info",
    ] {
        let (_, page) = get(&admin, path).await;
        assert!(!page.contains("PRIVATE KEY"), "{path}: {page}");
    }
    let (_, dump) = get(&admin, "/config_dump").await;
    assert!(
        dump.contains("[redacted]") && dump.contains("BEGIN CERTIFICATE"),
        "{dump}"
    );
    let (_, certs) = get(&admin, "/certs").await;
    assert!(
        certs.contains("web.example") && certs.contains("expiration_time"),
        "{certs}"
    );
}

#[tokio::test]
async fn the_dump_has_envoys_shape() {
    let admin = admin().await;
    let (_, page) = get(&admin, "/config_dump?include_eds").await;
    let dump: Json = serde_json::from_str(&page).unwrap();
    let types: Vec<&str> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|config| config["@type"].as_str().unwrap())
        .collect();
    let envoys = [
        "Bootstrap",
        "Clusters",
        "Listeners",
        "Routes",
        "Secrets",
        "Endpoints",
    ];
    for (kind, name) in types.iter().zip(envoys) {
        assert_eq!(
            *kind,
            format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump")
        );
    }
    let cluster = &dump["configs"][1]["static_clusters"][0];
    assert_eq!(cluster["cluster"]["name"], "web");
    assert_eq!(cluster["cluster"]["connect_timeout"], "1s");
    assert!(cluster["last_updated"].as_str().unwrap().ends_with('Z'));
    let chain = &dump["configs"][2]["static_listeners"][0]["listener"]["filter_chains"][0];
    assert_eq!(chain["name"], "chain-of-l");
    assert_eq!(chain["filters"][0]["typed_config"]["cluster"], "web");
    let ignored = dump["configs"].as_array().unwrap().last().unwrap()["ignored_fields"].to_string();
    assert!(ignored.contains("alt_stat_name"), "{ignored}");

    let (_, masked) = get(
        &admin,
        "/config_dump?resource=static_clusters&mask=cluster.name",
    )
    .await;
    let masked: Json = serde_json::from_str(&masked).unwrap();
    assert_eq!(
        masked,
        literal!({ "configs": [{ "cluster": { "name": "web" } }] })
    );
    assert_eq!(get(&admin, "/config_dump?resource=no_such").await.0, 404);
    let (_, none) = get(
        &admin,
        "/config_dump?resource=static_clusters&name_regex=^x",
    )
    .await;
    assert!(!none.contains("web"));
}

#[tokio::test]
async fn clusters_and_listeners_are_listed_in_both_forms() {
    let admin = admin().await;
    let (_, clusters) = get(&admin, "/clusters").await;
    assert!(
        clusters.contains("web::127.0.0.1:9::health_flags::healthy\n"),
        "{clusters}"
    );
    let (_, json) = get(&admin, "/clusters?format=json").await;
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["cluster_statuses"][0]["host_statuses"][0]["address"]["socket_address"]["port_value"],
        9
    );
    let (_, listeners) = get(&admin, "/listeners").await;
    assert!(listeners.starts_with("l::127.0.0.1:"), "{listeners}");
    let (_, json) = get(&admin, "/listeners?format=json").await;
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!(json["listener_statuses"][0]["name"], "l");
}

#[tokio::test]
async fn statistics_are_filtered_by_name_and_come_in_three_forms() {
    let admin = admin().await;
    admin.shared.stats.http(&"p".into()).requests.add(2);
    let (_, page) = get(&admin, "/stats?filter=downstream_rq_total&usedonly").await;
    assert_eq!(page, "http.p.downstream_rq_total: 2\n");
    let (_, page) = get(
        &admin,
        "/stats?filter=downstream_rq_total&format=json&usedonly",
    )
    .await;
    let page: Json = serde_json::from_str(&page).unwrap();
    assert_eq!(
        page["stats"][0],
        literal!({ "name": "http.p.downstream_rq_total", "value": 2 })
    );
    for path in ["/stats?format=prometheus", "/stats/prometheus"] {
        let (_, page) = get(&admin, path).await;
        assert!(
            page.contains("envoy_cluster_manager_active_clusters{} 1\n"),
            "{page}"
        );
        assert!(page.contains("envoy_cluster_upstream_cx_total{envoy_cluster_name=\"web\"} 0\n"));
    }
    assert_eq!(get(&admin, "/stats?filter=(").await.0, 400);
    assert_eq!(get(&admin, "/stats?format=xml").await.0, 400);
    let posted = ask(&admin, Method::POST, "/reset_counters", &[], LOOPBACK);
    assert_eq!(posted.status(), 200);
    let (_, page) = get(&admin, "/stats?filter=http.p.downstream_rq_total").await;
    assert_eq!(page, "http.p.downstream_rq_total: 0\n");
}

#[tokio::test]
async fn only_the_machine_itself_may_change_anything() {
    let admin = admin().await;
    let far: SocketAddr = "10.0.0.1:1".parse().unwrap();
    type Headers<'a> = &'a [(HeaderName, &'a str)];
    let cases: [(Headers<'_>, SocketAddr, u16); 7] = [
        (&[], LOOPBACK, 200),
        (&[(HOST, "localhost:15000")], LOOPBACK, 200),
        (
            &[
                (HOST, "127.0.0.1:15000"),
                (ORIGIN, "http://127.0.0.1:15000"),
            ],
            LOOPBACK,
            200,
        ),
        (&[], far, 403),
        (&[(HOST, "rebound.example:15000")], LOOPBACK, 403),
        (
            &[(HOST, "127.0.0.1:15000"), (ORIGIN, "http://evil.example")],
            LOOPBACK,
            403,
        ),
        (
            &[(HOST, "127.0.0.1:15000"), (ORIGIN, "null")],
            LOOPBACK,
            403,
        ),
    ];
    for (headers, peer, expected) in cases {
        let answer = ask(&admin, Method::POST, "/healthcheck/ok", headers, peer);
        assert_eq!(answer.status().as_u16(), expected, "{headers:?} {peer}");
    }
    let shown = ask(
        &admin,
        Method::GET,
        "/config_dump",
        &[(HOST, "rebound.example")],
        LOOPBACK,
    );
    assert_eq!(shown.status(), 403, "reading is guarded, too");
    let scraped = ask(
        &admin,
        Method::GET,
        "/stats/prometheus",
        &[(HOST, "pod.example")],
        far,
    );
    assert_eq!(scraped.status(), 200, "scrapers come by any name");
}

#[tokio::test]
async fn health_level_drain_and_quit_are_switched_by_post() {
    let admin = admin().await;
    let post = |uri: &str| {
        ask(&admin, Method::POST, uri, &[], LOOPBACK)
            .status()
            .as_u16()
    };
    assert_eq!(get(&admin, "/ready").await, (200, "LIVE\n".to_owned()));
    post("/healthcheck/fail");
    assert_eq!(get(&admin, "/ready").await, (503, "DRAINING\n".to_owned()));
    post("/healthcheck/ok");
    assert_eq!(get(&admin, "/ready").await.0, 200);
    assert_eq!(
        (
            post("/logging?level=warning"),
            post("/logging?level=loud"),
            post("/logging")
        ),
        (200, 400, 400)
    );
    assert!(!admin.listeners.lock().bound().is_empty());
    post("/drain_listeners?inboundonly");
    assert!(
        !admin.listeners.lock().bound().is_empty(),
        "its direction is not inbound"
    );
    post("/drain_listeners");
    assert!(admin.listeners.lock().bound().is_empty());
    let snapshot = admin.shared.snapshot.load_full();
    admin.listeners.lock().apply(&snapshot);
    assert!(
        admin.listeners.lock().bound().is_empty(),
        "a push opens nothing again"
    );
    assert!(!*admin.quit.borrow());
    post("/quitquitquit");
    assert!(*admin.quit.borrow());
    assert_eq!(admin.machine.lock().active(Kind::Listener).count(), 1);
}
