//! Spans and contexts, judged by Envoy: the same requests through both, what the application and the collector got.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use testkit::client::h1;
use testkit::{Ads, Backend, Bootstrap, Process, Resources, ports};

use crate::Outcome;
use crate::stage::LOCAL;

const LIMIT: Duration = Duration::from_secs(20);
const ID: &str = "x-request-id: 11111111-1111-4111-8111-111111111111\r\n";

/// Connection managers: name, direction, more of `tracing`, more of the tracer.
const FRONTS: &[(&str, &str, &str, &str)] = &[
    ("in", "INBOUND", "", ""),
    ("out", "OUTBOUND", "", ""),
    (
        "own-spans",
        "INBOUND",
        "",
        "shared_span_context: false, trace_id_128bit: true,",
    ),
    ("gateway", "OUTBOUND", "spawn_upstream_span: true,", ""),
    (
        "both",
        "INBOUND",
        "",
        "trace_context_option: USE_B3_WITH_W3C_PROPAGATION,",
    ),
    ("never", "INBOUND", "random_sampling: {value: 0},", ""),
];

/// Paths with headers, for each of the managers.
const REQUESTS: &[(&str, &str)] = &[
    ("/plain", ""),
    (
        "/multiple",
        "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124\r\nx-b3-spanid: a2fb4a1d1a96d312\r\nx-b3-parentspanid: 0020000000000001\r\nx-b3-sampled: 1\r\n",
    ),
    ("/short", "x-b3-traceid: 1\r\nx-b3-spanid: 2\r\n"),
    (
        "/undecided",
        "x-b3-traceid: 48485a3953bb6124\r\nx-b3-spanid: a2fb4a1d1a96d312\r\n",
    ),
    ("/broken", "x-b3-traceid: xyz\r\nx-b3-spanid: 1\r\n"),
    ("/no", "x-b3-sampled: 0\r\n"),
    ("/true", "x-b3-sampled: true\r\n"),
    ("/single", "b3: 48485a3953bb6124-a2fb4a1d1a96d312-1\r\n"),
    ("/debug", "b3: 48485a3953bb6124-a2fb4a1d1a96d312-d\r\n"),
    ("/single-no", "b3: 0\r\n"),
    (
        "/w3c",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n",
    ),
    ("/client", "x-client-trace-id: c\r\n"),
    ("/named", "x-tag: mine\r\n"),
    ("/renamed", "x-envoy-decorator-operation: other\r\n"),
    ("/local", ""),
    ("/nowhere", ""),
    ("/again", ""),
];

pub async fn judged() -> anyhow::Result<Outcome> {
    if testkit::process::envoy_binary().is_none() {
        return Ok(Outcome::Skipped("there is no Envoy".into()));
    }
    let ours = seen(Process::osm_proxy).await.context("osm-proxy")?;
    let envoys = seen(Process::envoy).await.context("envoy")?;
    let mut differences = Vec::new();
    for (what, expected) in &envoys {
        let found = ours.get(what).map_or(&[][..], Vec::as_slice);
        let missing = expected.iter().filter(|one| !found.contains(one));
        let more = found.iter().filter(|one| !expected.contains(one));
        let of = |whose: &str, one: &Value| format!("{what}: only {whose}: {one}");
        differences.extend(missing.map(|one| of("Envoy", one)));
        differences.extend(more.map(|one| of("ours", one)));
    }
    ensure!(
        differences.is_empty() && ours.len() == envoys.len(),
        "{}",
        differences.join("\n")
    );
    Ok(Outcome::Good(format!(
        "{} requests: contexts and spans as Envoy's",
        FRONTS.len() * REQUESTS.len()
    )))
}

/// What application and collector got, by manager and path, ids that differ from run to run apart.
async fn seen(
    start: fn(&Bootstrap) -> Option<Process>,
) -> anyhow::Result<BTreeMap<String, Vec<Value>>> {
    let (application, collector) = (Backend::start().await, Backend::start().await);
    let gone = ports::free();
    let ads = Ads::start().await;
    let bootstrap = Bootstrap::new("tracing", ads.address());
    let Some(mut process) = start(&bootstrap) else {
        bail!("not there: build osm-proxy first (cargo build -p proxy), or set OSM_PROXY_BIN");
    };
    let fronts: Vec<u16> = FRONTS.iter().map(|_| ports::free()).collect();
    ads.set(
        "tracing",
        resources(&fronts, application.port, collector.port, gone),
    );
    let refused = ads.settled("tracing").await;
    refused.map_err(|refusals| anyhow::anyhow!("{refusals:?}"))?;
    process.ready().await;
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut wanted = 0;
    for ((name, ..), port) in FRONTS.iter().zip(&fronts) {
        for (path, headers) in REQUESTS {
            let at = SocketAddr::new(LOCAL, *port);
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: trial\r\nConnection: close\r\n{ID}{headers}\r\n"
            );
            let exchange = h1::exchange(at, request.as_bytes(), &["GET"], LIMIT).await;
            let answer = exchange.responses.first().context("no answer")?;
            let told = answer.field("x-envoy-decorator-operation").unwrap_or("-");
            let entry = all.entry(format!("{name} {path}")).or_default();
            entry.push(json!({"status": answer.status, "operation": told}));
            for received in application.take(LOCAL) {
                let is_context = |name: &str| {
                    name.starts_with("x-b3-")
                        || [
                            "b3",
                            "traceparent",
                            "tracestate",
                            "x-request-id",
                            "x-envoy-decorator-operation",
                        ]
                        .contains(&name)
                };
                let fields = received.fields.iter().filter(|(name, _)| is_context(name));
                let fields: BTreeMap<_, _> = fields
                    .map(|(name, value)| (name.clone(), masked(value)))
                    .collect();
                wanted += usize::from(
                    fields
                        .values()
                        .any(|value| value == "1" || value.ends_with("-1")),
                );
                entry.push(json!(fields));
            }
        }
    }
    // What was sampled has a span at least; more may come with them.
    let mut spans = Vec::new();
    let end = Instant::now() + LIMIT;
    let mut silent = 0;
    while Instant::now() < end && (spans.len() < wanted || silent < 70) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        silent += 1;
        for report in collector.take(LOCAL) {
            silent = 0;
            let list: Vec<Value> = serde_json::from_slice(&report.body)?;
            spans.extend(list);
        }
    }
    for span in &spans {
        let own = span["tags"]["which"]
            .as_str()
            .unwrap_or("(no name)")
            .to_owned();
        all.entry(own).or_default().push(normal(span));
    }
    for entry in all.values_mut() {
        entry.sort_by_key(ToString::to_string);
    }
    Ok(all)
}

/// A span without times, ids and ports.
fn normal(span: &Value) -> Value {
    let mut tags = span["tags"].clone();
    for port in ["peer.address", "upstream_address"] {
        if let Some(address) = tags[port].as_str() {
            tags[port] = address.split(':').next().unwrap_or_default().into();
        }
    }
    // Of several flags the order is nobody's promise.
    let mut flags: Vec<&str> = tags["response_flags"]
        .as_str()
        .unwrap_or_default()
        .split(',')
        .collect();
    flags.sort_unstable();
    tags["response_flags"] = flags.join(",").into();
    json!({
        "name": span["name"], "kind": span["kind"], "shared": span["shared"], "tags": tags,
        "has parent": span["parentId"].is_string(), "length": span["traceId"].as_str().map(str::len),
        "service": span["localEndpoint"]["serviceName"],
    })
}

/// Ids that the proxy made up become `*`.
fn masked(value: &str) -> String {
    const KNOWN: &[&str] = &[
        "463ac35c9f6413ad48485a3953bb6124",
        "48485a3953bb6124",
        "a2fb4a1d1a96d312",
        "0020000000000001",
        "0000000000000001",
        "0000000000000002",
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
    ];
    let parts = value.split('-').map(|part| match part.len() {
        16 | 32 if !KNOWN.contains(&part) => "*",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("-")
}

fn resources(fronts: &[u16], application: u16, collector: u16, gone: u16) -> Resources {
    let mut text = String::from("clusters:\n");
    for (name, port) in [
        ("app", application),
        ("collector", collector),
        ("gone", gone),
    ] {
        text += &format!(
            "- {{name: {name}, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
        );
    }
    text += "listeners:\n";
    for ((name, direction, tracing, tracer), port) in FRONTS.iter().zip(fronts) {
        text += &format!(
            r#"- name: {name}
  traffic_direction: {direction}
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: {name}
        tracing:
          {{{tracing} max_path_tag_length: 20, custom_tags: [{{tag: which, value: "%REQ(:authority)% %REQ(x-envoy-original-path?:path)%"}}, {{tag: literal, literal: {{value: x}}}}, {{tag: header, request_header: {{name: x-tag, default_value: none}}}}, {{tag: absent, request_header: {{name: x-absent}}}}],
            provider: {{name: zipkin, typed_config: {{"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, {tracer} collector_cluster: collector, collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON}}}}}}
        http_filters:
        - {{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
        route_config:
          virtual_hosts:
          - name: all
            domains: ["*"]
            routes:
            - {{match: {{path: /named}}, decorator: {{operation: checkout}}, route: {{cluster: app}}}}
            - {{match: {{path: /local}}, direct_response: {{status: 500, body: {{inline_string: mine}}}}}}
            - {{match: {{path: /nowhere}}, route: {{cluster: gone}}}}
            - {{match: {{path: /again}}, route: {{cluster: gone, retry_policy: {{retry_on: connect-failure, num_retries: 1}}}}}}
            - {{match: {{prefix: /}}, route: {{cluster: app}}}}
"#
        );
    }
    Resources::yaml(&text)
}
