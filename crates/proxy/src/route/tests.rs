//! Hosts, paths, weights.

use http::HeaderMap;

use super::*;
use crate::matcher::{HeaderCondition, HeaderKey};
use crate::matcher::{HeaderMatch, StringMatch};

fn route(name: &str, path: PathMatch, method: Option<&str>) -> Arc<Route> {
    let headers = method
        .map(|method| HeaderMatch {
            key: HeaderKey::Method,
            condition: HeaderCondition::Value(StringMatch::Exact(method.into())),
            invert: false,
            missing_is_empty: false,
        })
        .into_iter()
        .collect();
    Arc::new(Route {
        name: name.into(),
        condition: RouteMatch {
            path,
            headers,
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Respond(200, bytes::Bytes::new()),
        edits: Edits::default(),
        overrides: Default::default(),
    })
}

fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> VirtualHost {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    VirtualHost {
        name: name.into(),
        domains,
        routes,
        ..VirtualHost::default()
    }
}

#[test]
fn hosts_are_found_exact_then_suffix_then_prefix_then_any() {
    let table = RouteTable::new(
        "t".into(),
        vec![
            host("exact", &["a.example.com", "a.example.com:8080"], vec![]),
            host("suffix", &["*.example.com"], vec![]),
            host("longer", &["*.b.example.com"], vec![]),
            host("prefix", &["foo.*"], vec![]),
            host("any", &["*"], vec![]),
        ],
    )
    .unwrap();
    let cases = [
        ("a.example.com", "exact"),
        ("A.Example.COM", "exact"),
        ("a.example.com:8080", "exact"),
        ("a.example.com:9", "any"),
        ("c.example.com", "suffix"),
        ("c.b.example.com", "longer"),
        (".example.com", "any"),
        ("foo.org", "prefix"),
        ("", "any"),
    ];
    for (authority, expected) in cases {
        assert_eq!(
            &*table.host(authority).unwrap().name,
            expected,
            "{authority}"
        );
    }
}

#[test]
fn a_domain_belongs_to_one_host() {
    let twice = vec![host("a", &["x"], vec![]), host("b", &["x"], vec![])];
    assert_eq!(RouteTable::new("t".into(), twice).unwrap_err(), "x");
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let regex = |pattern: &str| PathMatch::Text(StringMatch::regex(pattern).unwrap());
    let routes = vec![
        route("get", regex("/get"), Some("GET")),
        route("any-get", regex("/get"), None),
        route("segments", PathMatch::Segments("/api".into()), None),
        route("prefix", PathMatch::Prefix("/ap".into()), None),
        route("case", PathMatch::PrefixNoCase("/low".into()), None),
    ];
    let table = RouteTable::new("t".into(), vec![host("h", &["*"], routes)]).unwrap();
    let headers = HeaderMap::new();
    let cases = [
        ("GET", "/get", Some("get")),
        ("GET", "/get?x=1", Some("get")),
        ("POST", "/get", Some("any-get")),
        ("GET", "/get/x", None),
        ("GET", "/api", Some("segments")),
        ("GET", "/api/x", Some("segments")),
        ("GET", "/apis", Some("prefix")),
        ("GET", "/LOWER", Some("case")),
        ("GET", "/", None),
    ];
    for (method, path_and_query, expected) in cases {
        let request = RequestView {
            method,
            path_and_query,
            authority: "h",
            scheme: "http",
            headers: &headers,
        };
        assert_eq!(
            table.find(&request).map(|found| &*found.route.name),
            expected,
            "{method} {path_and_query}"
        );
    }
}

#[test]
fn weights_share_the_requests() {
    let cluster = |name: &str, weight| WeightedCluster {
        name: name.into(),
        weight,
        edits: Edits::default(),
        overrides: Default::default(),
    };
    let target = Target::Weighted {
        total: 4,
        clusters: vec![cluster("a", 3), cluster("b", 0), cluster("c", 1)],
    };
    let picked: Vec<String> = (0..4)
        .map(|roll| target.pick(roll).unwrap().0.to_string())
        .collect();
    assert_eq!(picked, ["a", "a", "a", "c"]);
    assert!(
        Target::Weighted {
            total: 0,
            clusters: vec![]
        }
        .pick(1)
        .is_none()
    );
}

#[test]
fn ports_are_cut_off() {
    let cases = [
        ("a:80", "a"),
        ("a", "a"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
    ];
    for (authority, expected) in cases {
        assert_eq!(without_port(authority), expected);
    }
}
