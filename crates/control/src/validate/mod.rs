//! The validating webhook: what is refused, and what authors are warned of.
//!
//! Refused is what upstream refuses, in its words ([`upstream`]), and what can never mean anything ([`own`]). What is
//! legal but void, for now or for good, is allowed with warnings: those that the index gives for the same object
//! ([`families::Index::judge`]), so that `kubectl apply` says at once what status and Events say later.

mod own;
mod upstream;

use std::time::Duration;

use api::access::v1alpha3::TrafficTarget;
use api::config::v1alpha2::MeshConfig;
use api::policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};
use api::specs::v1alpha4::{HTTPRouteGroup, TCPRoute};
use api::split::v1alpha4::TrafficSplit;
use families::{Judgement, Object};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::admission::{Decide, Request, Verdict};

/// How long the index has to answer. It is busy for longest while a large world is built; then an object is
/// admitted without warnings, and its status tells the rest.
const PATIENCE: Duration = Duration::from_secs(1);

/// Questions that wait for the index; more are not asked.
pub(crate) const QUESTIONS_BOUND: usize = 64;

/// Warnings of one answer and bytes of each: the API server cuts what is longer.
const WARNINGS_BOUND: usize = 12;
const WARNING_BOUND: usize = 256;

/// Asks the index what would become of an object.
pub(crate) struct Question {
    /// The object as it would be stored.
    pub(crate) object: Box<Object>,
    /// Where the answer goes; whoever asked may have gone.
    pub(crate) answer: oneshot::Sender<Judgement>,
}

/// Checks policies as they are written.
pub(crate) struct Validator {
    /// To the index.
    pub(crate) questions: mpsc::Sender<Question>,
    /// Whether TrafficTargets outside their destination's namespace are refused
    /// (`--validate-traffic-target`); if not, they are warned of.
    pub(crate) traffic_targets: bool,
}

// === impl Validator ===

impl Decide for Validator {
    async fn decide(&self, request: Request) -> Verdict {
        let object = match read(&request) {
            Ok(object) => object,
            Err(message) => return Verdict::Denied(message),
        };
        if let Err(message) = refuse(&object, self.traffic_targets) {
            return Verdict::Denied(message);
        }
        let mut warnings = own::warnings(&object, request.old_object.as_ref());
        let judgement = self.ask(object).await.unwrap_or_default();
        if let Some(message) = conflict(&judgement) {
            return Verdict::Denied(message);
        }
        let problems = judgement.problems.iter();
        warnings.extend(problems.map(|problem| problem.to_string()));
        Verdict::Warned(bounded(warnings))
    }
}

impl Validator {
    async fn ask(&self, object: Object) -> Option<Judgement> {
        let (answer, answered) = oneshot::channel();
        let object = Box::new(object);
        self.questions.try_send(Question { object, answer }).ok()?;
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }
}

/// Upstream's words for objects in each other's way.
fn conflict(judgement: &Judgement) -> Option<String> {
    let lines = judgement.conflicts.join("\n");
    match judgement.conflicts.first() {
        None => None,
        Some(first) if first.starts_with("[+]") => {
            Some(format!("duplicate backends detected\n{lines}"))
        }
        Some(_) => Some(lines),
    }
}

fn bounded(warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(WARNINGS_BOUND);
    let mut bounded: Vec<String> = warnings
        .into_iter()
        .take(WARNINGS_BOUND)
        .map(|warning| {
            let mut end = warning.len().min(WARNING_BOUND);
            while !warning.is_char_boundary(end) {
                end -= 1;
            }
            warning.get(..end).unwrap_or_default().to_owned()
        })
        .collect();
    if more > 0 {
        bounded.push(format!("and {more} more, see the object's status"));
    }
    bounded
}

fn read(request: &Request) -> Result<Object, String> {
    let kind = &request.kind;
    let object = &request.object;
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("access.smi-spec.io", "TrafficTarget") => decode::<TrafficTarget>(object),
        ("specs.smi-spec.io", "HTTPRouteGroup") => decode::<HTTPRouteGroup>(object),
        ("specs.smi-spec.io", "TCPRoute") => decode::<TCPRoute>(object),
        ("split.smi-spec.io", "TrafficSplit") => decode::<TrafficSplit>(object),
        ("policy.openservicemesh.io", "Egress") => decode::<Egress>(object),
        ("policy.openservicemesh.io", "IngressBackend") => decode::<IngressBackend>(object),
        ("policy.openservicemesh.io", "Retry") => decode::<Retry>(object),
        ("policy.openservicemesh.io", "UpstreamTrafficSetting") => {
            decode::<UpstreamTrafficSetting>(object)
        }
        ("config.openservicemesh.io", "MeshConfig") => decode::<MeshConfig>(object),
        (group, name) => Err(format!(
            "unknown gvk: {group}/{}, Kind={name}",
            kind.version
        )),
    }
}

fn decode<K: DeserializeOwned + Into<Object>>(object: &Value) -> Result<Object, String> {
    K::deserialize(object)
        .map(Into::into)
        .map_err(|error| error.to_string())
}

/// What no other object can mend.
fn refuse(object: &Object, traffic_targets: bool) -> Result<(), String> {
    match object {
        Object::TrafficTarget(target) if traffic_targets => upstream::traffic_target(target),
        Object::Egress(egress) => upstream::egress(egress),
        Object::IngressBackend(ingress) => upstream::ingress_backend(ingress),
        Object::UpstreamTrafficSetting(setting) => {
            upstream::upstream_traffic_setting(setting)?;
            own::upstream_traffic_setting(&setting.spec)
        }
        Object::TrafficSplit(split) => own::traffic_split(&split.spec),
        Object::TcpRoute(route) => own::tcp_route(&route.spec),
        Object::Retry(retry) => own::retry(&retry.spec),
        Object::MeshConfig(config) => own::mesh_config(&config.spec),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::upstream::{HTTP_ROUTE_GROUP, UPSTREAM_TRAFFIC_SETTING};
    use super::*;

    fn verdict(group: &str, version: &str, kind: &str, object: Value) -> Result<(), String> {
        let review = json!({
            "uid": "u",
            "kind": { "group": group, "version": version, "kind": kind },
            "object": object,
        });
        let request: Request = serde_json::from_value(review).unwrap();
        let object = read(&request)?;
        refuse(&object, true)
    }

    #[test]
    fn acl_06_a_traffic_target_lives_in_its_destinations_namespace() {
        let target = |namespace: &str| {
            json!({
                "metadata": { "name": "t", "namespace": namespace },
                "spec": {
                    "destination": { "kind": "ServiceAccount", "name": "b", "namespace": "server" },
                    "rules": [],
                    "sources": [],
                },
            })
        };
        let check = |object| verdict("access.smi-spec.io", "v1alpha3", "TrafficTarget", object);
        assert_eq!(check(target("server")), Ok(()));
        assert_eq!(
            check(target("client")).unwrap_err(),
            "The traffic target namespace (client) must match spec.Destination.Namespace (server)"
        );
    }

    #[test]
    fn egress_matches_refer_to_known_kinds() {
        let check = |matches: Value| {
            let object = json!({
                "metadata": { "name": "e" },
                "spec": { "sources": [], "ports": [], "matches": matches },
            });
            verdict("policy.openservicemesh.io", "v1alpha1", "Egress", object)
        };
        let entry =
            |group: &str, kind: &str| json!({ "apiGroup": group, "kind": kind, "name": "m" });
        let setting = || entry(UPSTREAM_TRAFFIC_SETTING, "UpstreamTrafficSetting");
        for (matches, message) in [
            (json!([]), None),
            (
                json!([entry(HTTP_ROUTE_GROUP, "HTTPRouteGroup"), setting()]),
                None,
            ),
            (
                json!([entry(HTTP_ROUTE_GROUP, "TCPRoute")]),
                Some("Expected 'matches.kind' for match 'm' to be 'HTTPRouteGroup', got: TCPRoute"),
            ),
            (
                json!([entry(UPSTREAM_TRAFFIC_SETTING, "Egress")]),
                Some(
                    "Expected 'matches.kind' for match 'm' to be 'UpstreamTrafficSetting', got: Egress",
                ),
            ),
            (
                json!([entry("v1", "HTTPRouteGroup")]),
                Some(
                    "Expected 'matches.apiGroup' to be one of [specs.smi-spec.io/v1alpha4 policy.openservicemesh.io/v1alpha1], got: v1",
                ),
            ),
            (
                json!([setting(), setting()]),
                Some("Cannot have more than 1 UpstreamTrafficSetting match"),
            ),
        ] {
            assert_eq!(
                check(matches.clone()).err().as_deref(),
                message,
                "{matches}"
            );
        }
    }

    #[test]
    fn ingress_backends_are_checked_field_by_field() {
        let backend =
            |protocol: &str| json!({ "name": "b", "port": { "number": 80, "protocol": protocol } });
        let source = |kind: &str, name: &str, namespace: &str| json!({ "kind": kind, "name": name, "namespace": namespace });
        let good = || source("Service", "gw", "gateways");
        for (backends, sources, message) in [
            (json!([backend("http")]), json!([good()]), None),
            (
                json!([backend("http"), backend("http")]),
                json!([good()]),
                Some("Duplicate backends"),
            ),
            (json!([backend("tcp")]), json!([good()]), Some("got: tcp")),
            (
                json!([backend("https")]),
                json!([good()]),
                Some("at least one 'AuthenticatedPrincipal`"),
            ),
            (
                json!([backend("https")]),
                json!([source("AuthenticatedPrincipal", "p", "")]),
                None,
            ),
            (
                json!([]),
                json!([source("Service", "gw", "")]),
                Some("'source.namespace' not specified"),
            ),
            (
                json!([]),
                json!([source("Service", "", "x")]),
                Some("'source.name' not specified"),
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0/8", "")]),
                None,
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0", "")]),
                Some("Expected CIDR notation"),
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0/33", "")]),
                Some("Expected CIDR notation"),
            ),
            (
                json!([]),
                json!([source("Pod", "x", "")]),
                Some("Must be one of"),
            ),
        ] {
            let object = json!({ "metadata": { "name": "i" }, "spec": { "backends": backends, "sources": sources } });
            let got = verdict(
                "policy.openservicemesh.io",
                "v1alpha1",
                "IngressBackend",
                object.clone(),
            );
            match message {
                None => assert_eq!(got, Ok(()), "{object}"),
                Some(part) => assert!(got.clone().unwrap_err().contains(part), "{object}: {got:?}"),
            }
        }
    }

    #[test]
    fn val_08_upstream_traffic_settings_are_checked() {
        let limit = |code: u16| json!({ "local": { "http": { "requests": 1, "unit": "second", "responseStatusCode": code } } });
        let check = |host: &str, code: u16| {
            let object = json!({ "metadata": { "name": "u" }, "spec": { "host": host, "rateLimit": limit(code) } });
            verdict(
                "policy.openservicemesh.io",
                "v1alpha1",
                "UpstreamTrafficSetting",
                object,
            )
        };
        assert_eq!(check("a.b.svc.cluster.local", 429), Ok(()));
        for host in ["a", "", "a.", "."] {
            assert_eq!(
                check(host, 429).unwrap_err(),
                "invalid FQDN specified as host"
            );
        }
        let message = check("a.b", 456).unwrap_err();
        assert!(
            message.starts_with("Invalid responseStatusCode 456. See https://"),
            "{message}"
        );
    }

    fn request(kind: (&str, &str), object: &Value) -> Request {
        let review = json!({
            "uid": "u",
            "kind": { "group": kind.0, "version": "v1alpha1", "kind": kind.1 },
            "object": object,
        });
        serde_json::from_value(review).unwrap()
    }

    #[tokio::test]
    async fn the_index_says_what_is_void_and_who_came_first() {
        let (questions, mut asked) = mpsc::channel::<Question>(1);
        let validator = Validator {
            questions,
            traffic_targets: true,
        };
        let object =
            json!({ "metadata": { "name": "u", "namespace": "n" }, "spec": { "host": "a.b" } });
        let kind = ("policy.openservicemesh.io", "UpstreamTrafficSetting");
        let provenance = families::Provenance::new("UpstreamTrafficSetting", "n", "u");
        let void = Judgement {
            conflicts: vec![],
            problems: vec![provenance.void("no effect")],
        };
        let taken = Judgement {
            conflicts: vec!["taken".into()],
            problems: vec![],
        };
        for (judgement, verdict) in [
            (
                void,
                Verdict::Warned(vec!["UpstreamTrafficSetting n/u: no effect".into()]),
            ),
            (taken, Verdict::Denied("taken".into())),
            (Judgement::default(), Verdict::Warned(vec![])),
        ] {
            let (got, ()) = tokio::join!(validator.decide(request(kind, &object)), async {
                let question = asked.recv().await.unwrap();
                question.answer.send(judgement).unwrap();
            });
            assert_eq!(got, verdict);
        }
        // Nobody there, as before the index runs.
        drop(asked);
        let got = validator.decide(request(kind, &object)).await;
        assert_eq!(got, Verdict::Warned(vec![]));
    }

    #[test]
    fn warnings_are_few_and_short() {
        let long = "é".repeat(WARNING_BOUND);
        let bounded = bounded(vec![long; WARNINGS_BOUND + 3]);
        assert_eq!(bounded.len(), WARNINGS_BOUND + 1);
        assert!(bounded.iter().all(|warning| warning.len() <= WARNING_BOUND));
        assert!(bounded.last().unwrap().starts_with("and 3 more"));
    }

    #[test]
    fn kinds_we_did_not_ask_for_are_refused() {
        assert_eq!(
            verdict("x", "v1", "Y", json!({})).unwrap_err(),
            "unknown gvk: x/v1, Kind=Y"
        );
    }
}
