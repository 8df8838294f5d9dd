use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use envoy_types::pb::google::protobuf::Any;

use super::*;
use crate::resources::{Resource, Snapshot};
use crate::target::{Item, Layers, Set, Target};

const SOTW: Mode = Mode::StateOfTheWorld;

fn snapshot(entries: &[(Kind, &str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (kind, name, version) in entries {
        let of_kind = snapshot.resources.entry(kind.type_url()).or_default();
        of_kind.insert((*name).to_owned(), resource(*kind, version));
    }
    Arc::new(snapshot)
}

fn resource(kind: Kind, version: &str) -> Resource {
    let any = Any {
        type_url: kind.type_url().to_owned(),
        value: version.as_bytes().to_vec(),
    };
    Resource {
        version: version.to_owned(),
        any: Arc::new(any),
    }
}

fn ask(kind: Kind, names: &[&str]) -> Request {
    Request {
        type_url: kind.type_url().to_owned(),
        subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Request::default()
    }
}

fn drop_names(kind: Kind, names: &[&str]) -> Request {
    Request {
        unsubscribe: ask(kind, names).subscribe,
        ..ask(kind, &[])
    }
}

/// The answer to a response; `names` is the full list (state of the world).
fn ack(response: &Response, names: &[&str]) -> Request {
    Request {
        nonce: response.nonce.clone(),
        version: response.version.clone(),
        ..ask(response.kind, names)
    }
}

fn nack(response: &Response, names: &[&str]) -> Request {
    Request {
        refusal: Some("bad".into()),
        ..ack(response, names)
    }
}

fn names(response: &Response) -> Vec<&str> {
    response.items().map(|item| item.name()).collect()
}

/// A stream with a clock that the test moves.
struct Harness {
    stream: Stream,
    now: Instant,
}

impl Harness {
    fn new(mode: Mode, target: impl Into<Target>) -> Self {
        Self {
            stream: Stream::new(mode, target),
            now: Instant::now(),
        }
    }

    fn send(&mut self, request: Request) -> Vec<Response> {
        self.stream.request(request, self.now).unwrap().responses
    }

    fn one(&mut self, request: Request) -> Response {
        let mut responses = self.send(request);
        assert_eq!(responses.len(), 1, "{responses:?}");
        responses.remove(0)
    }

    fn update(&mut self, target: impl Into<Target>) -> Vec<Response> {
        self.stream.update(target, self.now)
    }
}

#[test]
fn a_first_request_is_answered_with_what_it_covers() {
    let all = snapshot(&[
        (Kind::Cluster, "a", "1"),
        (Kind::Cluster, "b", "1"),
        (Kind::Endpoints, "a", "1"),
        (Kind::Endpoints, "b", "1"),
    ]);
    let empty = snapshot(&[]);
    let none: Option<&[&str]> = None;
    for (mode, state, kind, asked, answer) in [
        (
            SOTW,
            &all,
            Kind::Cluster,
            &[] as &[&str],
            Some(&["a", "b"] as &[&str]),
        ),
        (SOTW, &all, Kind::Cluster, &["*"], Some(&["a", "b"])),
        (SOTW, &all, Kind::Cluster, &["b"], Some(&["b"])),
        (SOTW, &all, Kind::Endpoints, &["a"], Some(&["a"])),
        (SOTW, &all, Kind::Endpoints, &["x"], Some(&[])),
        (SOTW, &all, Kind::Endpoints, &[], none),
        (SOTW, &empty, Kind::Listener, &[], Some(&[])),
        (Mode::Delta, &all, Kind::Cluster, &[], Some(&["a", "b"])),
        (Mode::Delta, &all, Kind::Cluster, &["*"], Some(&["a", "b"])),
        (Mode::Delta, &all, Kind::Cluster, &["b"], Some(&["b"])),
        (Mode::Delta, &all, Kind::Endpoints, &["a"], Some(&["a"])),
        (Mode::Delta, &all, Kind::Endpoints, &[], none),
        (Mode::Delta, &empty, Kind::Listener, &[], Some(&[])),
    ] {
        let mut harness = Harness::new(mode, state.clone());
        let responses = harness.send(ask(kind, asked));
        let got = responses.first().map(names);
        assert_eq!(got.as_deref(), answer, "{mode:?} {kind:?} {asked:?}");
    }
}

#[test]
fn an_acknowledgement_is_not_answered_and_a_kind_we_do_not_serve_never() {
    for mode in [SOTW, Mode::Delta] {
        let mut harness = Harness::new(mode, snapshot(&[(Kind::Cluster, "a", "1")]));
        let response = harness.one(ask(Kind::Cluster, &[]));
        assert!(harness.send(ack(&response, &[])).is_empty());
        assert!(harness.stream.is_settled());
        let unknown = Request {
            type_url: "type.googleapis.com/x.Y".into(),
            ..Request::default()
        };
        assert!(harness.send(unknown).is_empty());
    }
}

#[test]
fn only_kinds_with_a_change_are_sent() {
    for mode in [SOTW, Mode::Delta] {
        let before = [
            (Kind::Cluster, "a", "1"),
            (Kind::Listener, "l", "1"),
            (Kind::Routes, "r", "1"),
        ];
        let mut harness = Harness::new(mode, snapshot(&before));
        for (kind, asked) in [
            (Kind::Cluster, vec![]),
            (Kind::Listener, vec![]),
            (Kind::Routes, vec!["r"]),
        ] {
            let response = harness.one(ask(kind, &asked));
            harness.send(ack(&response, &asked));
        }
        assert!(
            harness.update(snapshot(&before)).is_empty(),
            "equal content, {mode:?}"
        );
        let mut after = before;
        after[2].2 = "2";
        let responses = harness.update(snapshot(&after));
        assert_eq!(responses.len(), 1, "{mode:?}");
        assert_eq!(
            (responses[0].kind, names(&responses[0])),
            (Kind::Routes, vec!["r"]),
            "{mode:?}"
        );
    }
}

#[test]
fn delta_sends_changed_resources_and_names_removed_ones() {
    let mut harness = Harness::new(
        Mode::Delta,
        snapshot(&[
            (Kind::Cluster, "a", "1"),
            (Kind::Cluster, "b", "1"),
            (Kind::Cluster, "c", "1"),
        ]),
    );
    let response = harness.one(ask(Kind::Cluster, &[]));
    harness.send(ack(&response, &[]));
    let changed = harness.update(snapshot(&[
        (Kind::Cluster, "a", "1"),
        (Kind::Cluster, "b", "2"),
    ]));
    assert_eq!(names(&changed[0]), ["b"]);
    assert!(changed[0].removed.is_empty(), "removals come last");
    let last = harness.send(ack(&changed[0], &[]));
    assert_eq!(last[0].removed, ["c"]);
    assert!(harness.send(ack(&last[0], &[])).is_empty());
    assert!(harness.stream.is_settled());
}

#[test]
fn delta_tells_of_names_that_do_not_exist_and_sends_them_once_they_do() {
    let mut harness = Harness::new(Mode::Delta, snapshot(&[(Kind::Routes, "r", "1")]));
    let response = harness.one(ask(Kind::Routes, &["r", "x"]));
    assert_eq!(
        (names(&response), response.removed.clone()),
        (vec!["r"], vec!["x".to_owned()])
    );
    harness.send(ack(&response, &[]));
    let responses = harness.update(snapshot(&[
        (Kind::Routes, "r", "1"),
        (Kind::Routes, "x", "1"),
    ]));
    assert_eq!(names(&responses[0]), ["x"]);
    harness.send(ack(&responses[0], &[]));
    assert!(harness.send(drop_names(Kind::Routes, &["r"])).is_empty());
    let responses = harness.update(snapshot(&[
        (Kind::Routes, "r", "2"),
        (Kind::Routes, "x", "1"),
    ]));
    assert!(responses.is_empty(), "nobody asks for r any more");
}

#[test]
fn delta_sends_a_name_again_when_it_is_asked_for_again() {
    let mut harness = Harness::new(Mode::Delta, snapshot(&[(Kind::Endpoints, "a", "1")]));
    let response = harness.one(ask(Kind::Endpoints, &["a"]));
    harness.send(ack(&response, &[]));
    assert_eq!(names(&harness.one(ask(Kind::Endpoints, &["a"]))), ["a"]);
}

#[test]
fn delta_continues_with_what_the_proxy_holds() {
    let held = |entries: &[(&str, &str)]| {
        entries
            .iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    };
    let state = snapshot(&[(Kind::Cluster, "a", "1"), (Kind::Cluster, "b", "2")]);
    let mut harness = Harness::new(Mode::Delta, state.clone());
    let request = Request {
        held: held(&[("a", "1"), ("b", "1"), ("c", "1")]),
        ..ask(Kind::Cluster, &["*"])
    };
    let response = harness.one(request);
    assert_eq!(
        (names(&response), response.removed.clone()),
        (vec!["b"], vec!["c".to_owned()])
    );

    let mut harness = Harness::new(Mode::Delta, state);
    let request = Request {
        held: held(&[("a", "1"), ("b", "2")]),
        ..ask(Kind::Cluster, &["*"])
    };
    assert!(
        harness.send(request).is_empty(),
        "a reconnect without news costs nothing"
    );
}

#[test]
fn state_of_the_world_continues_with_the_version_the_proxy_holds() {
    let state = snapshot(&[(Kind::Cluster, "a", "1")]);
    let response = Harness::new(SOTW, state.clone()).one(ask(Kind::Cluster, &[]));
    let again = Request {
        version: response.version.clone(),
        ..ask(Kind::Cluster, &[])
    };

    let mut harness = Harness::new(SOTW, state);
    assert!(harness.send(again.clone()).is_empty());
    assert_eq!(
        names(&harness.update(snapshot(&[(Kind::Cluster, "a", "2")]))[0]),
        ["a"]
    );

    let mut harness = Harness::new(SOTW, snapshot(&[(Kind::Cluster, "a", "3")]));
    assert_eq!(names(&harness.one(again)), ["a"]);
}

#[test]
fn state_of_the_world_sends_new_names_and_repeats_on_a_repeated_request() {
    let state = snapshot(&[(Kind::Endpoints, "a", "1"), (Kind::Endpoints, "b", "1")]);
    let mut harness = Harness::new(SOTW, state);
    let first = harness.one(ask(Kind::Endpoints, &["a"]));
    let second = harness.one(ack(&first, &["a", "b"]));
    assert_eq!(names(&second), ["b"]);
    assert!(harness.send(ack(&second, &["a", "b"])).is_empty());
    // Envoy repeats the request when a cluster changed and has to warm again.
    let third = harness.one(ack(&second, &["a", "b"]));
    assert_eq!(names(&third), ["a", "b"]);
    assert!(harness.send(ack(&third, &["a"])).is_empty());
}

#[test]
fn an_answer_to_an_older_response_changes_nothing() {
    let mut harness = Harness::new(SOTW, snapshot(&[(Kind::Routes, "r", "1")]));
    let old = harness.one(ask(Kind::Routes, &["r"]));
    let new = harness
        .update(snapshot(&[(Kind::Routes, "r", "2")]))
        .remove(0);
    let outcome = harness
        .stream
        .request(nack(&old, &["r"]), harness.now)
        .unwrap();
    assert!(outcome.responses.is_empty() && outcome.nack.is_none() && outcome.ack.is_none());
    assert!(!harness.stream.is_settled());
    harness.send(ack(&new, &["r"]));
    assert!(harness.stream.is_settled());
}

#[test]
fn a_refused_configuration_is_reported_and_not_sent_again_until_it_changes() {
    for (mode, asked) in [(SOTW, vec!["r"]), (Mode::Delta, vec![])] {
        let mut harness = Harness::new(mode, snapshot(&[(Kind::Routes, "r", "1")]));
        let response = harness.one(ask(Kind::Routes, &["r"]));
        let outcome = harness
            .stream
            .request(nack(&response, &asked), harness.now)
            .unwrap();
        assert_eq!(outcome.ack, None, "a refusal is no acceptance");
        assert_eq!(
            outcome.nack,
            Some(Nack {
                kind: Kind::Routes,
                message: "bad".into()
            })
        );
        assert!(outcome.responses.is_empty());
        assert!(
            harness
                .update(snapshot(&[
                    (Kind::Routes, "r", "1"),
                    (Kind::Routes, "s", "1")
                ]))
                .is_empty()
        );
        let responses = harness.update(snapshot(&[(Kind::Routes, "r", "2")]));
        assert_eq!(names(&responses[0]), ["r"], "{mode:?}");
    }
}

#[test]
fn a_new_cluster_has_its_endpoints_before_routes_point_at_it_and_an_old_one_goes_last() {
    for mode in [SOTW, Mode::Delta] {
        let list = |names: &'static [&'static str]| if mode == SOTW { names } else { &[] };
        let mut harness = Harness::new(
            mode,
            snapshot(&[
                (Kind::Cluster, "old", "1"),
                (Kind::Endpoints, "old", "1"),
                (Kind::Routes, "r", "1"),
            ]),
        );
        for (kind, asked) in [
            (Kind::Cluster, vec![]),
            (Kind::Endpoints, vec!["old"]),
            (Kind::Routes, vec!["r"]),
        ] {
            let response = harness.one(ask(kind, &asked));
            harness.send(ack(&response, if mode == SOTW { &asked } else { &[] }));
        }
        let after = [
            (Kind::Cluster, "new", "1"),
            (Kind::Endpoints, "new", "1"),
            (Kind::Routes, "r", "2"),
        ];
        let clusters = harness.update(snapshot(&after));
        assert_eq!(clusters.len(), 1, "{mode:?}: only clusters first");
        let expected: &[&str] = if mode == SOTW {
            &["new", "old"]
        } else {
            &["new"]
        };
        assert_eq!(names(&clusters[0]), expected, "{mode:?}");
        assert!(
            harness.send(ack(&clusters[0], &[])).is_empty(),
            "endpoints were not asked for yet"
        );
        let endpoints = match mode {
            // A state-of-the-world proxy repeats its list with the last nonce, "2" in this exchange.
            Mode::StateOfTheWorld => harness.one(Request {
                nonce: "2".into(),
                ..ask(Kind::Endpoints, &["old", "new"])
            }),
            Mode::Delta => harness.one(ask(Kind::Endpoints, &["new"])),
        };
        assert_eq!(
            (endpoints.kind, names(&endpoints)),
            (Kind::Endpoints, vec!["new"]),
            "{mode:?}"
        );
        let routes = harness.one(ack(&endpoints, list(&["old", "new"])));
        assert_eq!(routes.kind, Kind::Routes, "{mode:?}");
        let last = harness.send(ack(&routes, list(&["r"])));
        assert_eq!(last[0].kind, Kind::Cluster, "{mode:?}");
        match mode {
            Mode::StateOfTheWorld => assert_eq!(names(&last[0]), ["new"]),
            Mode::Delta => assert_eq!(last[0].removed, ["old"]),
        }
    }
}

#[test]
fn a_proxy_that_does_not_answer_gets_the_next_kind_after_the_deadline() {
    let mut harness = Harness::new(Mode::Delta, snapshot(&[]));
    for kind in [Kind::Cluster, Kind::Listener] {
        let response = harness.one(ask(kind, &[]));
        harness.send(ack(&response, &[]));
    }
    let responses = harness.update(snapshot(&[
        (Kind::Cluster, "a", "1"),
        (Kind::Listener, "l", "1"),
    ]));
    assert_eq!(responses.len(), 1);
    assert_eq!(harness.stream.deadline(), Some(harness.now + STEP_DEADLINE));
    assert!(harness.stream.tick(harness.now).is_empty());
    let later = harness.stream.tick(harness.now + STEP_DEADLINE);
    assert_eq!(
        later.iter().map(|r| r.kind).collect::<Vec<_>>(),
        [Kind::Listener]
    );
}

#[test]
fn requests_beyond_the_bounds_end_the_stream() {
    let many = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
    for mode in [SOTW, Mode::Delta] {
        for (subscribe, refused) in [
            (many(NAMES_BOUND - 1), None),
            (many(NAMES_BOUND), None),
            (
                many(NAMES_BOUND + 1),
                Some(Refused::TooManyNames(Kind::Routes)),
            ),
            (vec!["n".repeat(NAME_LENGTH_BOUND)], None),
            (
                vec!["n".repeat(NAME_LENGTH_BOUND + 1)],
                Some(Refused::NameTooLong(Kind::Routes)),
            ),
        ] {
            let mut stream = Stream::new(mode, snapshot(&[]));
            let request = Request {
                subscribe,
                ..ask(Kind::Routes, &[])
            };
            assert_eq!(stream.request(request, Instant::now()).err(), refused);
        }
        let mut stream = Stream::new(Mode::Delta, snapshot(&[]));
        let fill = Request {
            subscribe: many(NAMES_BOUND),
            ..ask(Kind::Routes, &[])
        };
        stream.request(fill, Instant::now()).unwrap();
        let one_more = stream.request(ask(Kind::Routes, &["one more"]), Instant::now());
        assert_eq!(one_more.err(), Some(Refused::TooManyNames(Kind::Routes)));
    }
}

/// A small model of a proxy: applies what it gets, asks for the endpoints of its clusters, answers.
#[derive(Default)]
struct Proxy {
    held: BTreeMap<Kind, BTreeMap<String, String>>,
    asked: BTreeSet<String>,
    endpoints_nonce: String,
}

impl Proxy {
    fn apply(&mut self, mode: Mode, response: &Response) -> Vec<Request> {
        let held = self.held.entry(response.kind).or_default();
        if mode == SOTW && response.kind.is_wildcard() {
            held.clear();
        }
        for item in response.items() {
            held.insert(item.name().to_owned(), item.version().to_owned());
        }
        for name in &response.removed {
            held.remove(name);
        }
        if response.kind == Kind::Endpoints {
            self.endpoints_nonce = response.nonce.clone();
        }
        let mut requests = Vec::new();
        if response.kind == Kind::Cluster {
            requests.extend(self.ask_for_endpoints(mode));
        }
        let asked: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        let list: &[&str] = match response.kind {
            Kind::Endpoints if mode == SOTW => &asked,
            Kind::Routes if mode == SOTW => &["r"],
            _ => &[],
        };
        requests.push(ack(response, list));
        requests
    }

    fn ask_for_endpoints(&mut self, mode: Mode) -> Option<Request> {
        let wanted: BTreeSet<String> = self.held[&Kind::Cluster].keys().cloned().collect();
        if wanted == self.asked {
            return None;
        }
        let before = std::mem::replace(&mut self.asked, wanted.clone());
        if let Some(endpoints) = self.held.get_mut(&Kind::Endpoints) {
            endpoints.retain(|name, _| wanted.contains(name));
        }
        let request = ask(Kind::Endpoints, &[]);
        Some(match mode {
            Mode::StateOfTheWorld => Request {
                nonce: self.endpoints_nonce.clone(),
                subscribe: wanted.into_iter().collect(),
                ..request
            },
            Mode::Delta => Request {
                subscribe: wanted.difference(&before).cloned().collect(),
                unsubscribe: before.difference(&wanted).cloned().collect(),
                ..request
            },
        })
    }

    /// Routes are versioned by the clusters they point at, joined by commas.
    fn dangling(&self) -> Option<String> {
        let routes = self.held.get(&Kind::Routes)?.get("r")?;
        let clusters = self.held.get(&Kind::Cluster)?;
        let endpoints = self.held.get(&Kind::Endpoints);
        routes
            .split(',')
            .filter(|name| !name.is_empty())
            .find(|name| {
                !clusters.contains_key(*name) || !endpoints.is_some_and(|e| e.contains_key(*name))
            })
            .map(str::to_owned)
    }
}

/// Seeded simulation: whatever changes when, a proxy that answers ends with exactly the last snapshot,
/// and its routes never point at a cluster it does not have endpoints for.
#[test]
fn any_history_converges_and_routes_never_dangle() {
    for mode in [SOTW, Mode::Delta] {
        for seed in 0..300u64 {
            simulate(mode, seed, 0);
            simulate(mode, seed, 20);
        }
    }
}

/// Names that begin with `s` are common to many proxies, others are this one's.
fn layered(snapshot: &Snapshot, known: &mut BTreeMap<String, Arc<Item>>) -> Target {
    Target::new(Kind::ALL.map(|kind| {
        let resources = snapshot.resources.get(kind.type_url());
        let items = resources.into_iter().flatten().map(|(name, resource)| {
            let key = format!("{kind:?} {name} {}", resource.version);
            let new = || Arc::new(Item::new(name, resource));
            known.entry(key).or_insert_with(new).clone()
        });
        let (common, own) = items.partition(|item| item.name().starts_with('s'));
        Layers::new(Arc::new(Set::new(common)), Arc::new(Set::new(own)))
    }))
}

/// `many`: how many resources proxies may have in common.
fn simulate(mode: Mode, seed: u64, many: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut world = || {
        let mut chosen: Vec<String> = ["a", "b", "c", "d"]
            .iter()
            .filter(|_| random(2) == 0)
            .map(|n| (*n).to_owned())
            .collect();
        let (count, hole) = match many {
            0 => (0, 0),
            _ => (many * random(2), random(30)),
        };
        let common = (0..count).filter(|number| *number != hole);
        chosen.extend(common.map(|number| format!("s{number:02}")));
        let version = random(3).to_string();
        let routes = chosen.join(",");
        let mut entries = vec![(Kind::Routes, "r", routes.as_str())];
        for name in &chosen {
            entries.push((Kind::Cluster, name, "1"));
            entries.push((Kind::Endpoints, name, &version));
        }
        (snapshot(&entries), random(4), random(6))
    };
    let settled = if many == 0 { 4 } else { 10 };
    let mut known = BTreeMap::new();
    let (mut target, ..) = world();
    let mut harness = Harness::new(mode, layered(&target, &mut known));
    let mut proxy = Proxy::default();
    let mut inbox: Vec<Response> = Vec::new();
    inbox.extend(harness.send(ask(Kind::Cluster, &[])));
    for round in 0..40 {
        if round == 2 {
            inbox.extend(harness.send(ask(Kind::Routes, &["r"])));
        }
        let (next, change, deliver) = world();
        if change == 0 && round < 30 {
            target = next;
            inbox.extend(harness.update(layered(&target, &mut known)));
        }
        let deliver = if round < 30 { deliver } else { 100 };
        for _ in 0..deliver {
            if inbox.is_empty() {
                break;
            }
            let response = inbox.remove(0);
            for request in proxy.apply(mode, &response) {
                inbox.extend(harness.send(request));
            }
            // The first answer for routes does not wait for clusters under way.
            if round > settled {
                assert_eq!(proxy.dangling(), None, "{mode:?} seed {seed} round {round}");
            }
        }
    }
    for kind in [Kind::Cluster, Kind::Endpoints, Kind::Routes] {
        let want: BTreeMap<String, String> = target
            .resources
            .get(kind.type_url())
            .into_iter()
            .flatten()
            .map(|(name, resource)| (name.clone(), resource.version.clone()))
            .collect();
        let held = proxy.held.get(&kind).cloned().unwrap_or_default();
        assert_eq!(held, want, "{mode:?} seed {seed} {kind:?}");
    }
    assert!(harness.stream.is_settled(), "{mode:?} seed {seed}");
}

#[test]
fn what_many_have_in_common_is_sent_as_one_and_leaves_nothing_behind() {
    let shared: Vec<String> = (0..50).map(|number| format!("s{number:02}")).collect();
    let world = |version: &str, own: &str| {
        let all = shared.iter().map(String::as_str).chain([own]);
        let mut entries = Vec::new();
        for name in all {
            entries.push((Kind::Cluster, name, "1"));
            let changed = name == "s07";
            entries.push((Kind::Endpoints, name, if changed { version } else { "1" }));
        }
        snapshot(&entries)
    };
    let mut known = BTreeMap::new();
    let few = snapshot(&[(Kind::Cluster, "s03", "1"), (Kind::Endpoints, "s03", "1")]);
    let mut harness = Harness::new(Mode::Delta, layered(&few, &mut known));
    let clusters = harness.one(ask(Kind::Cluster, &[]));
    harness.send(ack(&clusters, &[]));
    let endpoints = harness.one(ask(Kind::Endpoints, &["s03"]));
    harness.send(ack(&endpoints, &[]));

    let first = layered(&world("1", "own"), &mut known);
    let clusters = harness.update(first.clone()).remove(0);
    assert_eq!(
        (clusters.items().count(), clusters.resources.len()),
        (51, 1)
    );
    harness.send(ack(&clusters, &[]));
    let missing = shared
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "s03");
    let asked: Vec<&str> = missing.chain(["own"]).collect();
    let endpoints = harness.one(ask(Kind::Endpoints, &asked));
    assert_eq!(
        (endpoints.items().count(), endpoints.resources.len()),
        (51, 1)
    );
    harness.send(ack(&endpoints, &[]));

    let second = layered(&world("2", "own"), &mut known);
    let changed = harness.update(second).remove(0);
    assert_eq!(names(&changed), ["s07"]);
    let (common, own) = changed.encode_delta();
    assert!(common.is_none() && own.len() < 500, "{}", own.len());
    harness.send(ack(&changed, &[]));
    assert!(harness.stream.is_settled());
    // The name of its own cluster's endpoints is nobody else's.
    assert_eq!(harness.stream.differences(), 1);
}

#[test]
fn the_encoded_response_is_the_response() {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use prost::Message;
    let all: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let entries: Vec<_> = all
        .iter()
        .map(|name| (Kind::Cluster, name.as_str(), "1"))
        .collect();
    let target = layered(&snapshot(&entries), &mut BTreeMap::new());
    let response = Response {
        kind: Kind::Cluster,
        version: "v".into(),
        nonce: "7".into(),
        common: Some(target.of(Kind::Cluster).common().clone()),
        resources: vec![Arc::new(Item::new("own", &resource(Kind::Cluster, "2")))],
        removed: vec!["gone".into()],
    };
    let (common, own) = response.encode_delta();
    let bytes = [common.unwrap(), own].concat();
    let decoded = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
    assert_eq!(decoded, DeltaDiscoveryResponse::from(response));
    assert_eq!(decoded.resources.len(), 21);
}
