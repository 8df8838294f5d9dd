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
            headers,
            ..RouteMatch::path(path)
        },
        action: Action::Respond(Box::new(Respond {
            status: 200,
            body: bytes::Bytes::new(),
            format: None,
        })),
        edits: Edits::default(),
        overrides: Default::default(),
        tracing: None,
    })
}

fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> VirtualHost {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    VirtualHost {
        name: name.into(),
        domains,
        routes: Routes::new(routes),
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
            table
                .find(&request, &Client::default())
                .map(|found| &*found.route.name),
            expected,
            "{method} {path_and_query}"
        );
    }
}

#[test]
fn weights_share_the_requests() {
    let cluster = |name: &str, weight| WeightedCluster {
        subset: Default::default(),
        name: name.into(),
        header: None,
        weight,
        host: None,
        edits: Edits::default(),
        overrides: Default::default(),
    };
    let target = Target::Weighted {
        total: 4,
        clusters: vec![cluster("a", 3), cluster("b", 0), cluster("c", 1)],
        by: Lot::Random,
    };
    let picked: Vec<String> = (0..4)
        .map(|roll| target.pick(roll).unwrap().0.to_string())
        .collect();
    assert_eq!(picked, ["a", "a", "a", "c"]);
    assert!(
        Target::Weighted {
            total: 0,
            clusters: vec![],
            by: Lot::Random,
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

fn view<'a>(path_and_query: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        method: "GET",
        path_and_query,
        authority: "web.ns:8080",
        scheme: "http",
        headers,
    }
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(*name, value.parse().unwrap());
    }
    map
}

#[test]
fn every_condition_must_hold() {
    let prefix = || RouteMatch::path(PathMatch::Prefix("/".into()));
    let cookie = |invert| RouteMatch {
        cookies: vec![CookieMatch {
            name: "id".into(),
            value: StringMatch::Exact("7".into()),
            invert,
        }],
        ..prefix()
    };
    let certificate = |presented, validated| RouteMatch {
        certificate: Certificate {
            presented,
            validated,
        },
        ..prefix()
    };
    let half = RouteMatch {
        fraction: Some(Fraction {
            numerator: 50,
            denominator: 100,
        }),
        ..prefix()
    };
    let none = Client::default();
    let verified = Client {
        certificate: Certificate {
            presented: true,
            validated: true,
        },
        ..none
    };
    let drawn = |draw: u64| Client {
        roll: draw << 32,
        ..none
    };
    let seven = headers(&[("cookie", "a=1; id=7"), ("cookie", "b=2")]);
    let eight = headers(&[("cookie", "id=8")]);
    let nothing = HeaderMap::new();
    let cases = [
        (cookie(false), &seven, none, true),
        (cookie(false), &eight, none, false),
        (cookie(false), &nothing, none, false),
        (cookie(true), &eight, none, true),
        (cookie(true), &nothing, none, true),
        (certificate(Some(true), None), &nothing, none, false),
        (
            certificate(Some(true), Some(true)),
            &nothing,
            verified,
            true,
        ),
        (certificate(Some(false), None), &nothing, verified, false),
        (certificate(None, Some(false)), &nothing, none, true),
        (
            RouteMatch {
                grpc: true,
                ..prefix()
            },
            &nothing,
            none,
            false,
        ),
    ];
    for (condition, headers, client, expected) in cases {
        let request = view("/x", headers);
        assert_eq!(
            condition.matches("/x", &request, &client),
            expected,
            "{condition:?}"
        );
    }
    for (draw, expected) in [(0, true), (49, true), (50, false), (99, false), (100, true)] {
        let request = view("/x", &nothing);
        assert_eq!(
            half.matches("/x", &request, &drawn(draw)),
            expected,
            "{draw}"
        );
    }
}

#[test]
fn connect_has_routes_of_its_own() {
    let routes = vec![
        route("prefix", PathMatch::Prefix("/".into()), None),
        route("connect", PathMatch::Connect, None),
    ];
    let table = RouteTable::new("t".into(), vec![host("h", &["*"], routes)]).unwrap();
    let headers = HeaderMap::new();
    for (method, expected) in [("CONNECT", "connect"), ("GET", "prefix")] {
        let request = RequestView {
            method,
            ..view("/", &headers)
        };
        let found = table.find(&request, &Client::default()).unwrap();
        assert_eq!(&*found.route.name, expected);
    }
}

#[test]
fn short_cuts_find_what_the_plain_order_finds() {
    let path = |kind: u64, text: String| match kind {
        0 => PathMatch::Text(StringMatch::Exact(text)),
        1 => PathMatch::Prefix(text),
        2 => PathMatch::Segments(text.trim_end_matches('/').to_owned()),
        3 => PathMatch::PrefixNoCase(text),
        _ => PathMatch::Text(StringMatch::regex(&format!("{text}.*")).unwrap()),
    };
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let text = |next: &mut dyn FnMut(u64) -> u64| {
        let segments = 1 + next(3);
        (0..segments)
            .map(|_| ["/a", "/b", "/ab", "/"][next(4) as usize])
            .collect::<String>()
    };
    for _ in 0..300 {
        let routes: Vec<Arc<Route>> = (0..20)
            .map(|n| {
                let path = path(next(5), text(&mut next));
                route(&n.to_string(), path, None)
            })
            .collect();
        let short = Routes::new(routes.clone());
        for _ in 0..30 {
            let path = text(&mut next);
            let headers = HeaderMap::new();
            let request = view(&path, &headers);
            let holds = |route: &Route| {
                let client = Client::default();
                route.condition.matches(&path, &request, &client)
            };
            let plain = routes.iter().find(|route| holds(route));
            let found = short.find(&path, holds);
            assert_eq!(found.map(|r| &r.name), plain.map(|r| &r.name), "{path}");
        }
    }
}

#[test]
fn tls_may_be_required() {
    let to_https = Arc::new(Route {
        name: "tls".into(),
        condition: RouteMatch::path(PathMatch::Prefix(String::new())),
        action: Action::Redirect(Box::new(Redirect::to_https())),
        edits: Edits::default(),
        overrides: Overrides::default(),
        tracing: None,
    });
    for external_only in [false, true] {
        let mut secure = host(
            "h",
            &["*"],
            vec![route("r", PathMatch::Prefix("/".into()), None)],
        );
        secure.https = Some(RequireTls {
            external_only,
            redirect: to_https.clone(),
        });
        let table = RouteTable::new("t".into(), vec![secure]).unwrap();
        let inside = if external_only { "r" } else { "tls" };
        let cases: [(&[(&str, &str)], &str); 3] = [
            (&[("x-forwarded-proto", "http")], "tls"),
            (&[("x-forwarded-proto", "https")], "r"),
            (
                &[("x-forwarded-proto", "http"), ("x-envoy-internal", "true")],
                inside,
            ),
        ];
        for (list, expected) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in list {
                map.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let found = table.find(&view("/", &map), &Client::default()).unwrap();
            assert_eq!(&*found.route.name, expected, "{external_only} {list:?}");
        }
    }
}

struct Asked<'a>(RequestView<'a>);

impl crate::format::Facts for Asked<'_> {
    fn request(&self) -> Option<RequestView<'_>> {
        Some(self.0)
    }
}

#[test]
fn paths_are_rewritten_and_queries_kept() {
    let regex = |pattern: &str, with: &str| {
        let regex = crate::matcher::compile(pattern).unwrap();
        PathRewrite::Regex(Substitution::new(regex, with).unwrap())
    };
    let template =
        |text: &str| PathRewrite::Template(crate::format::Template::parse(text).unwrap());
    let prefix = || PathMatch::Prefix("/api".into());
    let exact = || PathMatch::Text(StringMatch::Exact("/api/v1".into()));
    let any = || PathMatch::Text(StringMatch::Any);
    let cases = [
        (prefix(), PathRewrite::Keep, "/api/v1?q", None),
        (
            prefix(),
            PathRewrite::Prefix("/".into()),
            "/api/v1?q",
            Some("//v1?q"),
        ),
        (
            prefix(),
            PathRewrite::Prefix("/new".into()),
            "/api?q=/api",
            Some("/new?q=/api"),
        ),
        (
            exact(),
            PathRewrite::Prefix("/new".into()),
            "/api/v1",
            Some("/new"),
        ),
        (
            any(),
            PathRewrite::Prefix("/new".into()),
            "/api/v1?a",
            Some("/new?a"),
        ),
        (
            prefix(),
            regex("^/api/(.*)$", "/\\1/x"),
            "/api/v1?a",
            Some("/v1/x?a"),
        ),
        (
            prefix(),
            regex("a", "\\0\\0\\\\"),
            "/api/a?a",
            Some("/aa\\pi/aa\\?a"),
        ),
        (prefix(), regex("none", "x"), "/api", Some("/api")),
        (prefix(), regex("^.*$", ""), "/api?q", None),
        (
            prefix(),
            template("/t/%REQ(x-a)%"),
            "/api?q",
            Some("/t/1?q"),
        ),
        (prefix(), template("%REQ(x-none)%"), "/api", None),
    ];
    let headers = headers(&[("x-a", "1")]);
    for (matched, rewrite, before, expected) in cases {
        let facts = Asked(view(before, &headers));
        let after = rewrite.apply(&matched, before, &facts);
        assert_eq!(after.as_deref(), expected, "{rewrite:?} {before}");
    }
    let regex = crate::matcher::compile("(a)").unwrap();
    for wrong in ["\\2", "\\x", "\\"] {
        assert!(Substitution::new(regex.clone(), wrong).is_err(), "{wrong}");
    }
}

#[test]
fn authorities_are_rewritten() {
    let headers = headers(&[("x-host", "other")]);
    let facts = Asked(view("/tenant.example/x?y", &headers));
    let regex = crate::matcher::compile("^/([^/]+).*$").unwrap();
    let template = crate::format::Template::parse("p-%REQ(x-host)%").unwrap();
    let cases = [
        (HostRewrite::Keep, None),
        (HostRewrite::Literal("l".into()), Some("l")),
        (HostRewrite::Endpoint, Some("endpoint")),
        (
            HostRewrite::Header("x-host".parse().unwrap()),
            Some("other"),
        ),
        (HostRewrite::Header("x-none".parse().unwrap()), None),
        (
            HostRewrite::Path(Substitution::new(regex, "\\1").unwrap()),
            Some("tenant.example"),
        ),
        (HostRewrite::Template(template), Some("p-other")),
    ];
    for (rewrite, expected) in cases {
        let host = rewrite.apply(&facts, "endpoint");
        assert_eq!(host.as_deref(), expected, "{rewrite:?}");
    }
    assert_eq!(HostRewrite::Endpoint.apply(&facts, ""), None);
}

#[test]
fn redirects_lead_where_envoys_lead() {
    let redirect = |change: &dyn Fn(&mut Redirect)| {
        let mut redirect = Redirect {
            scheme: None,
            ..Redirect::to_https()
        };
        change(&mut redirect);
        redirect
    };
    let https = |r: &mut Redirect| r.scheme = Some("https".into());
    let path = |path: &str| PathRedirect::Path(path.into());
    let cases = [
        (redirect(&https), "web:80", "/a?b", "https://web/a?b"),
        (redirect(&https), "web:8080", "/a", "https://web:8080/a"),
        (redirect(&https), "[::1]:80", "/a", "https://[::1]/a"),
        (
            redirect(&|r| r.port = Some(81)),
            "web:80",
            "/a",
            "http://web:81/a",
        ),
        (
            redirect(&|r| r.host = Some("new".into())),
            "web:80",
            "/a",
            "http://new/a",
        ),
        (
            redirect(&|r| r.path = path("/p")),
            "web:80",
            "/a?b",
            "http://web:80/p?b",
        ),
        (
            redirect(&|r| r.path = path("/p?c")),
            "web",
            "/a?b",
            "http://web/p?c",
        ),
        (
            redirect(&|r| {
                r.path = path("/p?c");
                r.strip_query = true;
            }),
            "web",
            "/a?b",
            "http://web/p?c",
        ),
        (
            redirect(&|r| r.strip_query = true),
            "web",
            "/a?b",
            "http://web/a",
        ),
        (
            redirect(&|r| r.path = PathRedirect::Prefix("/new".into())),
            "web",
            "/a/x?b",
            "http://web/new/x?b",
        ),
    ];
    let headers = HeaderMap::new();
    for (redirect, authority, path_and_query, expected) in cases {
        let request = RequestView {
            authority,
            ..view(path_and_query, &headers)
        };
        let matched = PathMatch::Prefix("/a".into());
        let location = redirect.location(&matched, &request, &Asked(request));
        assert_eq!(location, expected, "{redirect:?}");
    }
}

#[test]
fn a_header_may_decide_between_clusters_or_name_one() {
    let cluster = |name: &str, header: Option<&str>| WeightedCluster {
        subset: Default::default(),
        name: name.into(),
        header: header.map(|name| name.parse().unwrap()),
        weight: 1,
        host: None,
        edits: Edits::default(),
        overrides: Overrides::default(),
    };
    let target = Target::Weighted {
        total: 2,
        clusters: vec![cluster("a", None), cluster("", Some("x-cluster"))],
        by: Lot::Header("x-draw".parse().unwrap()),
    };
    let map = headers(&[("x-draw", "1"), ("x-cluster", "named")]);
    let request = view("/", &map);
    let (_, picked) = target.pick(target.draw(&request, 0, None)).unwrap();
    assert_eq!(target.named(picked, &request).as_deref(), Some("named"));
    let empty = HeaderMap::new();
    let chance = target.draw(&view("/", &empty), 4, Some(3));
    assert_eq!(target.pick(chance).unwrap().0.as_ref(), "a");
    let by_hash = Target::Weighted {
        total: 2,
        clusters: vec![cluster("a", None), cluster("b", None)],
        by: Lot::Hash,
    };
    assert_eq!(by_hash.draw(&request, 0, Some(3)), 3);
    let named = Target::Header("x-cluster".parse().unwrap());
    assert_eq!(named.named(None, &request).as_deref(), Some("named"));
    assert_eq!(named.named(None, &view("/", &empty)), None);
}

#[test]
fn changes_to_headers_have_an_order() {
    let named = |name: &str| Edits {
        request: Mutations {
            remove: vec![name.parse().unwrap()],
            add: Vec::new(),
        },
        response: Mutations::default(),
    };
    let mut one = Arc::into_inner(route("r", PathMatch::Prefix("/".into()), None)).unwrap();
    one.edits = named("route");
    let mut virtual_host = host("h", &["*"], vec![Arc::new(one)]);
    virtual_host.edits = named("host");
    let mut table = RouteTable::new("t".into(), vec![virtual_host]).unwrap();
    table.edits = named("table");
    let cluster = WeightedCluster {
        subset: Default::default(),
        name: "c".into(),
        header: None,
        weight: 1,
        host: None,
        edits: named("cluster"),
        overrides: Overrides::default(),
    };
    let cases = [
        (false, ["cluster", "route", "host", "table"]),
        (true, ["cluster", "table", "host", "route"]),
    ];
    for (most_specific_wins, expected) in cases {
        table.most_specific_wins = most_specific_wins;
        let headers = HeaderMap::new();
        let found = table
            .find(&view("/", &headers), &Client::default())
            .unwrap();
        let order: Vec<String> = table
            .edits(&found, Some(&cluster))
            .map(|edits| edits.request.remove[0].to_string())
            .collect();
        assert_eq!(order, expected);
    }
}
