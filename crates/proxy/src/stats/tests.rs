//! Names as dashboards know them.

use std::time::Duration;

use http::StatusCode;

use super::*;

fn samples(stats: &Stats, cluster: &ClusterStats) -> Vec<Sample> {
    let mut samples = Samples::default();
    stats.sample(&mut samples);
    samples.group(&Family::cluster("ns/svc|80"), cluster);
    samples.0
}

#[test]
fn both_forms_carry_envoys_names() {
    let stats = Stats::default();
    stats.http(&"in".into()).requests.add(3);
    stats.listener(&"0.0.0.0_15003".into()).handshakes.add(2);
    stats.refuse(Reason::Denied);
    const NAMES: &[&str] = &["ok", "denied"];
    let scope = stats.scope(Family::http_filter("in", "ext_authz"), NAMES);
    scope.counter(1).increment();
    scope.counter(2).increment(); // Past the names: harmless.
    assert!(Arc::ptr_eq(
        &scope,
        &stats.scope(Family::http_filter("in", "ext_authz"), NAMES)
    ));
    let cluster = ClusterStats::default();
    cluster.classes.count(StatusCode::NOT_FOUND);
    cluster.time.record(Duration::from_millis(7));
    let samples = samples(&stats, &cluster);
    let plain = plain(&samples);
    for line in [
        "http.in.downstream_rq_total: 3\n",
        "cluster.ns/svc|80.upstream_rq_4xx: 1\n",
        "http.in.ext_authz.denied: 1\n",
        "cluster.ns/svc|80.upstream_cx_connect_ms: No recorded values\n",
        "cluster.ns/svc|80.upstream_rq_time: P0(nan,5) P25(nan,6.25) ",
        "osm_proxy.refusals.rbac_access_denied: 1\n",
        "listener.0.0.0.0_15003.ssl.handshake: 2\n",
        "server.live: 1\n",
    ] {
        assert!(plain.contains(line), "{line} in {plain}");
    }
    let text = prometheus(&samples);
    for line in [
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"4\",envoy_cluster_name=\"ns/svc|80\"} 1\n",
        "# TYPE envoy_cluster_upstream_rq_xx counter\n",
        "# TYPE envoy_cluster_upstream_rq_time histogram\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"ns/svc|80\",le=\"5\"} 0\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"ns/svc|80\",le=\"10\"} 1\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"ns/svc|80\",le=\"+Inf\"} 1\n",
        "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"ns/svc|80\"} 7\n",
        "envoy_http_ext_authz_denied{envoy_http_conn_manager_prefix=\"in\"} 1\n",
        "envoy_server_live{} 1\n",
        "envoy_listener_ssl_handshake{envoy_listener_address=\"0.0.0.0_15003\"} 2\n",
        "osm_proxy_refusals{blame=\"policy\",reason=\"rbac_access_denied\"} 1\n",
        "osm_proxy_xds_streams{} 0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let types: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let unique: std::collections::BTreeSet<&&str> = types.iter().collect();
    assert_eq!(types.len(), unique.len());
}

#[test]
fn filters_take_by_name_use_and_kind() {
    let stats = Stats::default();
    stats.http(&"in".into()).requests.add(3);
    let cluster = ClusterStats::default();
    let count = |filter: Filter| {
        let mut all = samples(&stats, &cluster);
        filter.apply(&mut all);
        all.len()
    };
    let regex = |text: &str| Some(regex::Regex::new(text).unwrap());
    let all = count(Filter::default());
    assert_eq!(
        count(Filter {
            used_only: true,
            ..Filter::default()
        }),
        2,
        "server.live and one counter"
    );
    assert_eq!(
        count(Filter {
            name: regex("^http\\.in\\.downstream_rq_total$"),
            ..Filter::default()
        }),
        1
    );
    let of = |kind: &str| {
        count(Filter {
            kind: Some(kind.into()),
            ..Filter::default()
        })
    };
    assert_eq!(of("Counters") + of("gauges") + of("Histograms"), all);
    assert_eq!(of("All"), all);
}

#[test]
fn reset_counters_leaves_gauges() {
    let stats = Stats::default();
    let http = stats.http(&"in".into());
    http.requests.add(3);
    http.requests_active.add(2);
    http.classes.count(StatusCode::OK);
    stats.refuse(Reason::Denied);
    stats.reset();
    let shown = plain(&samples(&stats, &ClusterStats::default()));
    assert!(
        shown.contains("http.in.downstream_rq_total: 0\n")
            && shown.contains("http.in.downstream_rq_active: 2\n")
    );
    assert!(
        shown.contains("http.in.downstream_rq_2xx: 0\n")
            && shown.contains("refusals.rbac_access_denied: 0\n")
    );
}

#[test]
fn counters_of_names_that_nobody_uses_are_let_go_when_there_are_many() {
    let stats = Stats::default();
    let kept = stats.listener(&"kept".into());
    for index in 0..5000 {
        stats.listener(&format!("{index}").into());
    }
    assert!(stats.listeners.lock().len() <= MANY + 1);
    assert!(Arc::ptr_eq(&kept, &stats.listener(&"kept".into())));
}
