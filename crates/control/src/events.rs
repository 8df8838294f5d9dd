//! Kubernetes Events about objects: what of them has no effect, what proxies refuse, and when it is well again.
//!
//! One Event per object, reason and text: the second time it counts up instead of standing there twice. What does not
//! stand for [`SETTLE`] is not told at all: the objects of one manifest come one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use families::{Extent, Key, Kind, Outcome};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::{Metric, Metrics};
use crate::nacks::{Nacks, Subject};
use crate::status::{Findings, resource};

/// How long something must stand before it is told.
const SETTLE: Duration = Duration::from_secs(1);

/// Events at once, and the pause between more of them: a broken manifest of thousands of objects must not fill the
/// API server's store faster than it empties (an hour later).
const BURST: u32 = 100;
const PACE: Duration = Duration::from_millis(100);

/// Things that stand at a time; what comes after is in the objects' status only.
const NOTICES_BOUND: usize = 5_000;

/// Pods that are told at a time that their sidecar refused something: what all of them refuse is the fault of an
/// object, which is told, too.
const PODS_BOUND: usize = 20;

/// Bytes of an Event's message, as the API server allows (events.k8s.io: `note`).
const MESSAGE_BOUND: usize = 1024;

/// Bytes of the object's name in the Event's: 253 are allowed, a dot and a hash follow.
const NAME_BOUND: usize = 230;

const COMPONENT: &str = "osm-controller";

/// Something that stands about an object: whom, as which reason (CamelCase), and what.
type Notice = (Subject, &'static str, String);

/// An Event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    subject: Subject,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// What stands, and since when; what was told.
#[derive(Default)]
struct Ledger {
    standing: BTreeMap<Notice, Entry>,
    /// Objects that a warning was told about and that are not well yet.
    warned: BTreeSet<Subject>,
}

struct Entry {
    since: Instant,
    told: bool,
}

/// What stands now about all objects: each notice with the text that is told.
fn notices(findings: &Findings, nacks: &Nacks) -> BTreeMap<Notice, String> {
    let mut notices = BTreeMap::new();
    let mut note = |subject: Subject, reason: &'static str, cause: String, text: String| {
        if notices.len() < NOTICES_BOUND {
            notices.insert((subject, reason, cause), text);
        }
    };
    for ((kind, key), outcome) in &findings.statuses {
        let (reason, text) = match outcome {
            Outcome::Committed => continue,
            Outcome::Partly(parts) => ("PartlyIgnored", parts.join("; ")),
            Outcome::Error(text) => ("Ignored", text.clone()),
            Outcome::Conflict(text) => ("Conflict", text.clone()),
        };
        let Some(resource) = resource(*kind) else {
            continue;
        };
        note((resource.kind, key.clone()), reason, text.clone(), text);
    }
    for problem in &findings.others {
        let provenance = &problem.provenance;
        let key: Key = (provenance.namespace.clone(), provenance.name.clone());
        let reason = match problem.extent {
            Extent::Part => "PartlyIgnored",
            Extent::Whole => "Ignored",
            Extent::Conflict => "Conflict",
        };
        let text = if provenance.rule.is_empty() {
            problem.message.clone()
        } else {
            format!("{}: {}", provenance.rule, problem.message)
        };
        note(
            (provenance.kind.to_string(), key),
            reason,
            text.clone(),
            text,
        );
    }
    let mut pods = 0;
    for (subject, refused) in nacks.by_subject() {
        if subject.0 == "Pod" {
            pods += 1;
            if pods > PODS_BOUND {
                continue;
            }
        }
        // More proxies, or the words of another, are no new event.
        note(
            subject,
            "RefusedByProxies",
            String::new(),
            refused.to_string(),
        );
    }
    notices
}

// === impl Ledger ===

impl Ledger {
    /// Takes what stands now and gives what is to be told. `well` says which objects exist and have no problem.
    fn update(
        &mut self,
        now: Instant,
        notices: &BTreeMap<Notice, String>,
        well: impl Fn(&Subject) -> bool,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        self.standing
            .retain(|notice, _| notices.contains_key(notice));
        let sick: BTreeSet<&Subject> = notices.keys().map(|(subject, ..)| subject).collect();
        self.warned.retain(|subject| {
            let stays = sick.contains(subject);
            if !stays && well(subject) {
                told.push(Told {
                    subject: subject.clone(),
                    warning: false,
                    reason: "Accepted",
                    message: "in effect, without any problem".to_owned(),
                });
            }
            stays
        });
        for (notice, text) in notices {
            let entry = self.standing.entry(notice.clone()).or_insert(Entry {
                since: now,
                told: false,
            });
            if !entry.told && now.duration_since(entry.since) >= SETTLE {
                entry.told = true;
                self.warned.insert(notice.0.clone());
                told.push(Told {
                    subject: notice.0.clone(),
                    warning: true,
                    reason: notice.1,
                    message: text.clone(),
                });
            }
        }
        told
    }

    /// When the next of what stands is to be told.
    fn due(&self) -> Option<Instant> {
        let untold = self.standing.values().filter(|entry| !entry.told);
        untold.map(|entry| entry.since + SETTLE).min()
    }
}

// === impl Told ===

impl Told {
    /// The Event about the object with this UID. Equal things have equal names, whichever replica tells them.
    fn event(&self, resource: &ApiResource, uid: Option<String>, now: Timestamp) -> core::Event {
        let (_, (namespace, name)) = &self.subject;
        let mut hasher = DefaultHasher::new();
        (&self.subject, self.reason, &self.message).hash(&mut hasher);
        let prefix: String = name.chars().take(NAME_BOUND).collect();
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
        let mut end = self.message.len().min(MESSAGE_BOUND);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        core::Event {
            metadata: kube::api::ObjectMeta {
                name: Some(format!("{prefix}.{:016x}", hasher.finish())),
                namespace: Some(namespace.to_string()),
                ..Default::default()
            },
            involved_object: core::ObjectReference {
                api_version: Some(resource.api_version.clone()),
                kind: Some(resource.kind.clone()),
                namespace: Some(namespace.to_string()),
                name: Some(name.to_string()),
                uid,
                ..Default::default()
            },
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            message: self.message.get(..end).map(str::to_owned),
            source: Some(core::EventSource {
                component: Some(COMPONENT.to_owned()),
                host: None,
            }),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            count: Some(1),
            ..Default::default()
        }
    }
}

/// The resource of a kind that Events are about.
fn subject_resource(kind: &str) -> Option<ApiResource> {
    if let Some(kind) = Kind::of_policy(kind) {
        return resource(kind);
    }
    Some(match kind {
        "Service" => ApiResource::erase::<core::Service>(&()),
        "Pod" => ApiResource::erase::<core::Pod>(&()),
        "Endpoints" => ApiResource::erase::<core::Endpoints>(&()),
        _ => return None,
    })
}

/// Writes one Event. An object that is gone gets none.
async fn write(client: &Client, told: &Told, count: i32) -> Result<(), kube::Error> {
    let (kind, (namespace, name)) = &told.subject;
    let Some(resource) = subject_resource(kind) else {
        return Ok(());
    };
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let Some(object) = objects.get_metadata_opt(name).await? else {
        return Ok(());
    };
    let event = told.event(&resource, object.metadata.uid, Timestamp::now());
    let events: Api<core::Event> = Api::namespaced(client.clone(), namespace);
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            let again = json!({ "count": count, "lastTimestamp": event.last_timestamp });
            let name = event.metadata.name.unwrap_or_default();
            events
                .patch(&name, &PatchParams::default(), &Patch::Merge(again))
                .await
                .map(drop)
        }
        other => other.map(drop),
    }
}

/// Tells objects what stands about them, until the index ends. An Event that cannot be written is lost: the status
/// says the same.
pub(crate) async fn run(
    client: Client,
    mut findings: watch::Receiver<Findings>,
    nacks: Arc<Nacks>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let mut ledger = Ledger::default();
    let mut refusals = nacks.changes();
    let mut counts: BTreeMap<u64, i32> = BTreeMap::new();
    let mut tokens = BURST;
    loop {
        let told = {
            let findings = findings.borrow_and_update();
            refusals.mark_unchanged();
            let notices = notices(&findings, &nacks);
            let well = |subject: &Subject| {
                Kind::of_policy(&subject.0)
                    .is_none_or(|kind| findings.statuses.contains_key(&(kind, subject.1.clone())))
            };
            ledger.update(Instant::now(), &notices, well)
        };
        for one in told {
            if tokens == 0 {
                tokio::time::sleep(PACE).await;
            } else {
                tokens -= 1;
            }
            let mut hasher = DefaultHasher::new();
            (&one.subject, one.reason, &one.message).hash(&mut hasher);
            if counts.len() >= NOTICES_BOUND {
                counts.clear();
            }
            let count = counts.entry(hasher.finish()).or_insert(0);
            *count += 1;
            let result = write(&client, &one, *count).await;
            let (kind, (namespace, name)) = &one.subject;
            if let Err(error) = &result {
                tracing::warn!(kind, %namespace, %name, %error, "event not written");
            }
            let word = if result.is_ok() { "written" } else { "failed" };
            metrics.add(Metric::Events, &[one.reason, word], 1);
        }
        let due = ledger.due();
        let settled = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let rested = tokio::time::sleep(PACE * BURST);
        tokio::select! {
            changed = findings.changed() => if changed.is_err() { return Ok(()) },
            _ = refusals.changed() => {}
            () = settled => {}
            () = rested, if tokens < BURST => tokens = BURST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    fn findings(outcome: Outcome) -> Findings {
        Findings {
            statuses: [((Kind::TrafficTarget, key("t")), outcome)].into(),
            others: Vec::new(),
        }
    }

    fn lines(told: &[Told]) -> Vec<String> {
        told.iter()
            .map(|one| {
                format!(
                    "{} {} {}: {}",
                    one.warning, one.subject.0, one.reason, one.message
                )
            })
            .collect()
    }

    #[test]
    fn what_stands_is_told_once_and_its_end_too() {
        let nacks = Nacks::default();
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let mut at = |seconds: u64, findings: &Findings| {
            let notices = notices(findings, &nacks);
            let now = start + Duration::from_secs(seconds);
            lines(&ledger.update(now, &notices, |_| true))
        };
        let none: Vec<String> = Vec::new();
        let bad = findings(Outcome::Error("no rules".into()));
        let worse = findings(Outcome::Conflict("ns/other has it".into()));
        let good = findings(Outcome::Committed);
        assert_eq!(at(0, &bad), none, "not settled");
        assert_eq!(at(0, &good), none, "nothing was told, so nothing ends");
        assert_eq!(at(1, &bad), none);
        assert_eq!(at(2, &bad), ["true TrafficTarget Ignored: no rules"]);
        assert_eq!(at(9, &bad), none, "told already");
        assert_eq!(at(10, &worse), none, "another problem is no recovery");
        assert_eq!(
            at(11, &worse),
            ["true TrafficTarget Conflict: ns/other has it"]
        );
        assert_eq!(
            at(12, &good),
            ["false TrafficTarget Accepted: in effect, without any problem"]
        );
        assert_eq!(at(13, &good), none);
    }

    #[test]
    fn a_refusal_by_more_proxies_is_the_same_event() {
        let nacks = Nacks::default();
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let target = ("TrafficTarget".to_owned(), key("t"));
        let good = findings(Outcome::Committed);
        let refuse = |uuid: &str| {
            let subjects = BTreeSet::from([target.clone()]);
            nacks.refused(
                uuid,
                &key("p"),
                xds::server::Kind::Routes,
                "r: f: why",
                subjects,
            );
        };
        refuse("a");
        assert!(
            ledger
                .update(start, &notices(&good, &nacks), |_| true)
                .is_empty()
        );
        refuse("b");
        let told = ledger.update(start + SETTLE, &notices(&good, &nacks), |_| true);
        assert_eq!(
            lines(&told),
            [
                "true Pod RefusedByProxies: refused by 2 proxies: rds: r: f: why",
                "true TrafficTarget RefusedByProxies: refused by 2 proxies: rds: r: f: why",
            ]
        );
        refuse("c");
        assert!(
            ledger
                .update(start + 2 * SETTLE, &notices(&good, &nacks), |_| true)
                .is_empty()
        );
        assert_eq!(ledger.due(), None);
    }

    #[test]
    fn events_have_stable_names_and_bounded_texts() {
        let told = Told {
            subject: (
                "TrafficTarget".to_owned(),
                ("ns".into(), "x".repeat(253).into()),
            ),
            warning: true,
            reason: "Ignored",
            message: "é".repeat(2000),
        };
        let resource = subject_resource("TrafficTarget").unwrap();
        let event = told.event(&resource, Some("uid".into()), Timestamp::UNIX_EPOCH);
        let name = event.metadata.name.clone().unwrap();
        assert!(name.len() <= 253);
        assert!(event.message.as_ref().unwrap().len() <= MESSAGE_BOUND);
        assert_eq!(
            event.involved_object.api_version.as_deref(),
            Some("access.smi-spec.io/v1alpha3")
        );
        assert_eq!(event.involved_object.uid.as_deref(), Some("uid"));
        let again = told.event(&resource, None, Timestamp::now());
        assert_eq!(again.metadata.name.unwrap(), name);
        assert!(subject_resource("Nothing").is_none());
    }
}
