//! The machine against scripted responses.

use std::collections::HashMap;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;

use super::*;

/// The payload is text: `needs eds:x sds:y`, or `bad`; SotW resources begin with a name field.
struct Script;

impl Parser for Script {
    type Value = String;
    fn parse(&mut self, _: Kind, _: &str, any: &Any) -> Result<Parsed<String>, Rejected> {
        let text = String::from_utf8_lossy(&any.value).into_owned();
        if text.contains("bad") {
            return Err(Rejected::new("filter_chains[0].filters", "not honoured"));
        }
        let references = text
            .split_whitespace()
            .filter_map(|word| word.split_once(':'))
            .map(|(kind, name)| Reference {
                kind: Kind::ALL.into_iter().find(|k| k.short() == kind).unwrap(),
                name: name.into(),
            })
            .collect();
        Ok(Parsed {
            value: text,
            references,
        })
    }
}

fn delta(
    kind: Kind,
    resources: &[(&str, &str, &str)],
    removed: &[&str],
    nonce: &str,
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        resources: resources
            .iter()
            .map(|(name, version, text)| Resource {
                name: (*name).into(),
                version: (*version).into(),
                resource: Some(Any {
                    type_url: kind.type_url().into(),
                    value: text.as_bytes().to_vec(),
                }),
                ..Default::default()
            })
            .collect(),
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

fn as_delta(request: &Request) -> &DeltaDiscoveryRequest {
    match request {
        Request::Delta(request) => request,
        Request::StateOfTheWorld(_) => panic!("a delta request was expected"),
    }
}

fn names(machine: &Machine<String>, kind: Kind) -> Vec<String> {
    machine
        .active(kind)
        .map(|(name, _)| name.to_string())
        .collect()
}

#[test]
fn a_cluster_serves_once_its_endpoints_arrived() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    let opening = machine.start(Node {
        id: "n".into(),
        ..Default::default()
    });
    assert_eq!(
        opening.len(),
        2,
        "clusters and listeners are asked for at once"
    );
    assert!(as_delta(&opening[0]).node.is_some() && as_delta(&opening[1]).node.is_none());

    let outcome = machine.receive(
        delta(Kind::Cluster, &[("c", "1", "eds:c")], &[], "a"),
        &mut Script,
        now,
    );
    assert!(
        names(&machine, Kind::Cluster).is_empty(),
        "it waits for endpoints"
    );
    assert_eq!(as_delta(&outcome.requests[0]).response_nonce, "a");
    assert_eq!(
        as_delta(&outcome.requests[1]).resource_names_subscribe,
        ["c"]
    );

    machine.receive(
        delta(Kind::Endpoints, &[("c", "1", "")], &[], "b"),
        &mut Script,
        now,
    );
    assert_eq!(names(&machine, Kind::Cluster), ["c"]);
}

#[test]
fn a_refused_resource_keeps_its_last_good_version_and_its_field_is_named() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    machine.receive(
        delta(Kind::Listener, &[("l", "1", "good")], &[], "a"),
        &mut Script,
        now,
    );
    let outcome = machine.receive(
        delta(
            Kind::Listener,
            &[("l", "2", "bad"), ("m", "2", "good")],
            &[],
            "b",
        ),
        &mut Script,
        now,
    );
    let nack = as_delta(&outcome.requests[0]);
    let error = nack.error_detail.as_ref().unwrap();
    assert_eq!((nack.response_nonce.as_str(), error.code), ("b", 3));
    assert_eq!(error.message, "l: filter_chains[0].filters: not honoured");
    assert_eq!(machine.find(Kind::Listener, "l").unwrap().version, "1");
    assert_eq!(
        names(&machine, Kind::Listener),
        ["l", "m"],
        "the good one of the same response is taken"
    );
    assert_eq!(
        (
            machine.status(Kind::Listener).success,
            machine.status(Kind::Listener).rejected
        ),
        (1, 1)
    );
}

#[test]
fn a_new_stream_names_what_is_held_with_versions() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    machine.receive(
        delta(Kind::Cluster, &[("c", "7", "eds:c")], &[], "a"),
        &mut Script,
        now,
    );
    machine.receive(
        delta(Kind::Endpoints, &[("c", "8", "")], &[], "b"),
        &mut Script,
        now,
    );
    let opening = machine.start(Node::default());
    let kinds: Vec<&str> = opening
        .iter()
        .map(|request| Kind::of(request.type_url()).unwrap().short())
        .collect();
    assert_eq!(kinds, ["cds", "eds", "lds"]);
    let held: HashMap<String, String> = [("c".to_owned(), "7".to_owned())].into();
    assert_eq!(as_delta(&opening[0]).initial_resource_versions, held);
    assert_eq!(as_delta(&opening[1]).resource_names_subscribe, ["c"]);
    assert_eq!(as_delta(&opening[1]).initial_resource_versions["c"], "8");
    assert_eq!(
        names(&machine, Kind::Cluster),
        ["c"],
        "the last good configuration stays meanwhile"
    );
}

#[test]
fn what_is_no_longer_referenced_is_let_go() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    machine.receive(
        delta(Kind::Listener, &[("l", "1", "rds:r sds:s")], &[], "a"),
        &mut Script,
        now,
    );
    machine.receive(
        delta(Kind::Routes, &[("r", "1", "")], &[], "b"),
        &mut Script,
        now,
    );
    machine.receive(
        delta(Kind::Secret, &[("s", "1", "")], &[], "c"),
        &mut Script,
        now,
    );
    assert_eq!(names(&machine, Kind::Listener), ["l"]);
    let outcome = machine.receive(delta(Kind::Listener, &[], &["l"], "d"), &mut Script, now);
    let dropped: Vec<_> = outcome
        .requests
        .iter()
        .flat_map(|r| as_delta(r).resource_names_unsubscribe.clone())
        .collect();
    assert_eq!(dropped, ["r", "s"]);
    assert!(names(&machine, Kind::Listener).is_empty() && names(&machine, Kind::Routes).is_empty());
}

#[test]
fn an_update_serves_its_old_version_while_it_warms_and_at_last_without() {
    let now = Instant::now();
    let limits = Limits::default();
    let later = now + limits.warming;
    let mut machine = Machine::new(Mode::Delta, limits);
    machine.receive(
        delta(Kind::Listener, &[("l", "1", "")], &[], "a"),
        &mut Script,
        now,
    );
    machine.receive(
        delta(Kind::Listener, &[("l", "2", "rds:gone")], &[], "b"),
        &mut Script,
        now,
    );
    assert_eq!(machine.find(Kind::Listener, "l").unwrap().version, "1");
    assert_eq!(
        machine.warming(Kind::Listener)[0].1[0].name.as_ref(),
        "gone"
    );
    assert_eq!(machine.deadline(), Some(later));
    assert!(!machine.tick(now) && machine.tick(later));
    assert_eq!(machine.find(Kind::Listener, "l").unwrap().version, "2");
}

#[test]
fn nobody_waits_for_what_the_server_says_does_not_exist() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    machine.receive(
        delta(Kind::Cluster, &[("c", "1", "eds:c")], &[], "a"),
        &mut Script,
        now,
    );
    machine.receive(delta(Kind::Endpoints, &[], &["c"], "b"), &mut Script, now);
    assert_eq!(names(&machine, Kind::Cluster), ["c"]);
}

#[test]
fn state_of_the_world_removes_what_is_not_listed() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::StateOfTheWorld, Limits::default());
    machine.start(Node::default());
    let world = |names: &[&str], version: &str| DiscoveryResponse {
        version_info: version.into(),
        nonce: version.into(),
        type_url: Kind::Cluster.type_url().into(),
        resources: names
            .iter()
            .map(|name| {
                let mut value = vec![10, name.len() as u8];
                value.extend(name.bytes());
                Any {
                    type_url: Kind::Cluster.type_url().into(),
                    value,
                }
            })
            .collect(),
        ..Default::default()
    };
    machine.receive(world(&["a", "b"], "1"), &mut Script, now);
    assert_eq!(names(&machine, Kind::Cluster), ["a", "b"]);
    let outcome = machine.receive(world(&["b"], "2"), &mut Script, now);
    assert_eq!(names(&machine, Kind::Cluster), ["b"]);
    let Request::StateOfTheWorld(ack) = &outcome.requests[0] else {
        panic!("wrong dialect")
    };
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str()),
        ("2", "2")
    );
    let outcome = machine.receive(world(&["bad"], "3"), &mut Script, now);
    let Request::StateOfTheWorld(nack) = &outcome.requests[0] else {
        panic!("wrong dialect")
    };
    assert_eq!(
        nack.version_info, "2",
        "a NACK repeats the last good version"
    );
    assert!(nack.error_detail.is_some());
}

#[test]
fn nonsense_is_refused_without_panic() {
    let now = Instant::now();
    let mut machine = Machine::<String>::new(
        Mode::Delta,
        Limits {
            resources: 1,
            ..Limits::default()
        },
    );
    let unknown = DeltaDiscoveryResponse {
        type_url: "x".into(),
        ..Default::default()
    };
    assert!(
        machine
            .receive(unknown, &mut Script, now)
            .requests
            .is_empty()
    );
    let mut broken = delta(
        Kind::Cluster,
        &[("", "1", ""), ("a", "1", ""), ("b", "1", "")],
        &["zzz"],
        "n",
    );
    broken.resources[1].resource = None;
    let outcome = machine.receive(broken, &mut Script, now);
    assert_eq!(outcome.rejected.len(), 2, "{:?}", outcome.rejected);
    let full = machine.receive(
        delta(Kind::Cluster, &[("c", "1", "")], &[], "n"),
        &mut Script,
        now,
    );
    assert_eq!(
        full.rejected[0].1.reason,
        "more than 1 resources of this kind"
    );
}

#[test]
fn a_static_resource_needs_others_and_no_server_takes_it_away() {
    let now = Instant::now();
    let mut machine = Machine::new(Mode::Delta, Limits::default());
    let any = |text: &str| Any {
        type_url: Kind::Cluster.type_url().into(),
        value: text.as_bytes().to_vec(),
    };
    machine
        .fix(Kind::Cluster, "xds", any("first"), &mut Script, now)
        .unwrap();
    machine
        .fix(Kind::Cluster, "c", any("eds:c"), &mut Script, now)
        .unwrap();
    assert!(
        machine
            .fix(Kind::Cluster, "d", any("bad"), &mut Script, now)
            .is_err()
    );
    assert_eq!(names(&machine, Kind::Cluster), ["xds"]);
    let opening = machine.start(Node::default());
    assert_eq!(as_delta(&opening[1]).resource_names_subscribe, ["c"]);
    assert!(as_delta(&opening[0]).initial_resource_versions.is_empty());
    machine.receive(
        delta(Kind::Endpoints, &[("c", "1", "")], &[], "a"),
        &mut Script,
        now,
    );
    machine.receive(
        delta(Kind::Cluster, &[("xds", "1", "second")], &["c"], "b"),
        &mut Script,
        now,
    );
    assert_eq!(names(&machine, Kind::Cluster), ["c", "xds"]);
    assert_eq!(&*machine.find(Kind::Cluster, "xds").unwrap().value, "first");
}
