//! What authors are told as they write, and what the status of each object says afterwards: the same.

mod support;

use api::access::v1alpha3::TrafficTarget;
use api::policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};
use api::specs::v1alpha4::{HTTPRouteGroup, TCPRoute};
use api::split::v1alpha4::TrafficSplit;
use families::{Kind, Object, Outcome};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::World;

fn object<K: DeserializeOwned + Into<Object>>(name: &str, spec: &Value) -> Object {
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    serde_json::from_value::<K>(object).unwrap().into()
}

fn shop() -> World {
    let mut world = World::new();
    world.namespace("shop");
    world.service(
        "shop/web",
        "10.96.0.1",
        json!([{"name": "http", "port": 80, "targetPort": 8080}]),
        &[],
    );
    world.service(
        "shop/other",
        "10.96.0.2",
        json!([{"name": "http", "port": 81}]),
        &[],
    );
    world
}

fn target(rules: Value, sources: Value) -> Value {
    json!({
        "destination": {"kind": "ServiceAccount", "name": "web", "namespace": "shop"},
        "rules": rules, "sources": sources,
    })
}

/// Kind, spec, and the beginning of each thing said about it.
fn cases() -> Vec<(Kind, Object, Vec<&'static str>)> {
    let client = || json!([{"kind": "ServiceAccount", "name": "client", "namespace": "shop"}]);
    let group = |name: &str| json!([{"kind": "HTTPRouteGroup", "name": name}]);
    let ingress = |service: &str, port: u16| {
        json!({
            "backends": [{"name": service, "port": {"number": port, "protocol": "http"}}],
            "sources": [{"kind": "IPRange", "name": "10.0.0.0/8"}],
        })
    };
    vec![
        (
            Kind::TrafficTarget,
            object::<TrafficTarget>("missing", &target(group("nowhere"), client())),
            vec![
                "TrafficTarget shop/missing: its rules allow nothing",
                "TrafficTarget shop/missing HTTPRouteGroup/nowhere: E2005",
            ],
        ),
        (
            Kind::TrafficTarget,
            object::<TrafficTarget>("nobody", &target(group("good"), json!([]))),
            vec!["TrafficTarget shop/nobody: it has no valid source"],
        ),
        (
            Kind::TrafficTarget,
            object::<TrafficTarget>("fine", &target(group("good"), client())),
            vec![],
        ),
        (
            Kind::HttpRouteGroup,
            object::<HTTPRouteGroup>("none", &json!({"matches": []})),
            vec!["HTTPRouteGroup shop/none: E2006"],
        ),
        (
            Kind::TcpRoute,
            object::<TCPRoute>("any", &json!({"matches": {}})),
            vec![],
        ),
        (
            Kind::TrafficSplit,
            object::<TrafficSplit>(
                "zero",
                &json!({"service": "web", "backends": [
                    {"service": "web", "weight": 0}, {"service": "other", "weight": 0}, {"service": "gone", "weight": 0},
                ]}),
            ),
            vec![
                "TrafficSplit shop/zero: all weights are zero",
                "TrafficSplit shop/zero backend gone: the service does not exist",
                "TrafficSplit shop/zero backend other: the Service has no port 80",
            ],
        ),
        (
            Kind::TrafficSplit,
            object::<TrafficSplit>(
                "apex",
                &json!({"service": "gone", "backends": [{"service": "web", "weight": 1}]}),
            ),
            vec!["TrafficSplit shop/apex: service gone: the Service does not exist"],
        ),
        (
            Kind::Egress,
            object::<Egress>(
                "setting",
                &json!({
                    "sources": client(), "hosts": ["a.test"], "ports": [{"number": 80, "protocol": "http"}],
                    "matches": [{"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "gone"}],
                }),
            ),
            vec![
                "Egress shop/setting UpstreamTrafficSetting/gone: the UpstreamTrafficSetting does not exist",
            ],
        ),
        (
            Kind::IngressBackend,
            object::<IngressBackend>("number", &ingress("web", 80)),
            vec![
                "IngressBackend shop/number backend web: no port of the Service has the targetPort 80",
            ],
        ),
        (
            Kind::IngressBackend,
            object::<IngressBackend>("gone", &ingress("gone", 80)),
            vec!["IngressBackend shop/gone backend gone: the Service does not exist"],
        ),
        (
            Kind::UpstreamTrafficSetting,
            object::<UpstreamTrafficSetting>(
                "gone",
                &json!({"host": "gone.shop.svc.cluster.local"}),
            ),
            vec![
                "UpstreamTrafficSetting shop/gone: host gone.shop.svc.cluster.local: the Service does not exist",
            ],
        ),
        (
            Kind::UpstreamTrafficSetting,
            object::<UpstreamTrafficSetting>("alien", &json!({"host": "web.elsewhere"})),
            vec![
                "UpstreamTrafficSetting shop/alien: host web.elsewhere is no Service of namespace shop",
            ],
        ),
    ]
}

#[test]
fn an_author_is_told_at_once_what_the_status_says_later() {
    for (kind, object, expected) in cases() {
        let mut world = shop();
        world.route_group("shop/good", json!([{"name": "all"}]));
        let judgement = world.index.judge(&object);
        let said: Vec<String> = judgement.problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (line, start) in said.iter().zip(&expected) {
            assert!(line.starts_with(start), "{said:?}");
        }
        assert_eq!(judgement.conflicts, Vec::<String>::new());
        world.index.apply(object);
        for line in &said {
            assert!(world.problems().contains(line), "{line}");
        }
        let built = world.index.build();
        let mut outcomes = built
            .statuses
            .iter()
            .filter(|((of, key), _)| *of == kind && &*key.1 != "good");
        let (_, outcome) = outcomes.next().expect("a status");
        assert_eq!(
            *outcome == Outcome::Committed,
            said.is_empty(),
            "{outcome:?}"
        );
    }
}

#[test]
fn conflicts_name_the_other_object_and_an_object_is_not_in_its_own_way() {
    let mut world = shop();
    let setting = |name: &str| {
        object::<UpstreamTrafficSetting>(name, &json!({"host": "web.shop.svc.cluster.local"}))
    };
    let ingress = |name: &str| {
        let spec = json!({
            "backends": [{"name": "web", "port": {"number": 8080, "protocol": "http"}}],
            "sources": [{"kind": "IPRange", "name": "10.0.0.0/8"}],
        });
        object::<IngressBackend>(name, &spec)
    };
    for (first, second, expected) in [
        (
            setting("a"),
            setting("b"),
            vec![
                "UpstreamTrafficSetting shop/b conflicts with shop/a since they have the same host web.shop.svc.cluster.local",
            ],
        ),
        (
            ingress("a"),
            ingress("b"),
            vec![
                "[+] IngressBackend shop/b conflicts with shop/a:",
                "Backend web specified in b and a conflicts",
            ],
        ),
    ] {
        let kind = first.kind();
        world.index.apply(first.clone());
        assert_eq!(world.index.judge(&first).conflicts, Vec::<String>::new());
        assert_eq!(world.index.judge(&second).conflicts, expected);
        world.index.apply(second);
        let statuses = world.index.build().statuses;
        let outcome = &statuses[&(kind, ("shop".into(), "b".into()))];
        assert!(
            matches!(outcome, Outcome::Conflict(reason) if reason.contains("shop/a")),
            "{outcome:?}"
        );
        assert_eq!(
            statuses[&(kind, ("shop".into(), "a".into()))],
            Outcome::Committed
        );
    }
}

#[test]
fn a_policy_whose_feature_is_off_says_so() {
    let world = shop();
    let retry = object::<Retry>(
        "r",
        &json!({
            "source": {"kind": "ServiceAccount", "name": "client", "namespace": "shop"},
            "destinations": [{"kind": "Service", "name": "web", "namespace": "shop"}],
            "retryPolicy": {"retryOn": "5xx, sometimes", "perTryTimeout": "1s", "numRetries": 3, "retryBackoffBaseInterval": "1s"},
        }),
    );
    let said: Vec<String> = world
        .index
        .judge(&retry)
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        said[0].contains("featureFlags.enableRetryPolicy is off"),
        "{said:?}"
    );
    assert!(
        said[1].contains("\"sometimes\" is no condition"),
        "{said:?}"
    );
}

#[test]
fn a_bad_match_is_told_to_the_group_and_to_who_refers_to_it() {
    let mut world = shop();
    world.route_group(
        "shop/mixed",
        json!([{"name": "bad", "pathRegex": "("}, {"name": "good", "pathRegex": "/good"}]),
    );
    let sources = json!([{"kind": "ServiceAccount", "name": "client", "namespace": "shop"}]);
    let spec = target(
        json!([{"kind": "HTTPRouteGroup", "name": "mixed"}]),
        sources,
    );
    world.index.apply(object::<TrafficTarget>("t", &spec));
    let statuses = world.index.build().statuses;
    for (kind, name) in [(Kind::HttpRouteGroup, "mixed"), (Kind::TrafficTarget, "t")] {
        let outcome = &statuses[&(kind, ("shop".into(), name.into()))];
        assert_eq!(outcome.current_status(), "committed");
        assert!(
            outcome.parts()[0].contains("pathRegex \"(\""),
            "{outcome:?}"
        );
    }
}
