//! Writes into objects' `status` what became of them: what the families made of them and what proxies refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use families::{Key, Kind, Outcome, Problem, Statuses};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::nacks::{Nacks, Refused};

/// How long to wait before a status that could not be written is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// Statuses under way at a time: a new controller may have thousands to write, beside its real work.
const WRITERS: usize = 4;

/// Bytes of `status.reason`.
const REASON_BOUND: usize = 1024;

/// What is to be told to the objects that a world was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// Of every policy and the MeshConfig.
    pub(crate) statuses: Statuses,
    /// Of objects that have no status of ours, such as Services.
    pub(crate) others: Vec<Problem>,
}

/// What one status says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    outcome: Outcome,
    refused: Option<Refused>,
}

/// Statuses as they stand in the cluster, without times.
pub(crate) type Written = BTreeMap<(Kind, Key), Value>;

/// Where statuses are written to.
pub(crate) trait Write {
    /// What stands there already; empty if it cannot be read.
    async fn written(&self) -> Written;
    /// Writes one status; an object that is gone needs none, nor does one whose kind has none.
    async fn write(&self, kind: Kind, key: &Key, standing: &Standing) -> Result<(), kube::Error>;
}

/// The resource of a kind of policy or setting; `None` for all other kinds.
pub(crate) fn resource(kind: Kind) -> Option<ApiResource> {
    use api::{access, config, policy, specs, split};
    Some(match kind {
        Kind::MeshConfig => ApiResource::erase::<config::v1alpha2::MeshConfig>(&()),
        Kind::Egress => ApiResource::erase::<policy::v1alpha1::Egress>(&()),
        Kind::IngressBackend => ApiResource::erase::<policy::v1alpha1::IngressBackend>(&()),
        Kind::Retry => ApiResource::erase::<policy::v1alpha1::Retry>(&()),
        Kind::UpstreamTrafficSetting => {
            ApiResource::erase::<policy::v1alpha1::UpstreamTrafficSetting>(&())
        }
        Kind::HttpRouteGroup => ApiResource::erase::<specs::v1alpha4::HTTPRouteGroup>(&()),
        Kind::TcpRoute => ApiResource::erase::<specs::v1alpha4::TCPRoute>(&()),
        Kind::TrafficTarget => ApiResource::erase::<access::v1alpha3::TrafficTarget>(&()),
        Kind::TrafficSplit => ApiResource::erase::<split::v1alpha4::TrafficSplit>(&()),
        _ => return None,
    })
}

/// The kinds that [`resource`] knows.
const WITH_STATUS: [Kind; 9] = [
    Kind::MeshConfig,
    Kind::Egress,
    Kind::IngressBackend,
    Kind::Retry,
    Kind::UpstreamTrafficSetting,
    Kind::HttpRouteGroup,
    Kind::TcpRoute,
    Kind::TrafficTarget,
    Kind::TrafficSplit,
];

// === impl Standing ===

impl Standing {
    /// The object's part of what the world and the proxies say.
    pub(crate) fn new(outcome: &Outcome, refused: Option<&Refused>) -> Self {
        Self {
            outcome: outcome.clone(),
            refused: refused.cloned(),
        }
    }

    fn reason(&self) -> String {
        let mut reason = match &self.refused {
            Some(refused) => refused.to_string(),
            None => self.outcome.reason().to_owned(),
        };
        let mut end = reason.len().min(REASON_BOUND);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        reason
    }

    /// The fields that are compared. What is not there is null, so that a merge removes it.
    fn summary(&self) -> Value {
        let current = match self.refused {
            Some(_) => "error",
            None => self.outcome.current_status(),
        };
        let parts = self.outcome.parts();
        let proxies = self.refused.as_ref().map(|refused| refused.proxies);
        json!({
            "currentStatus": current,
            "reason": self.reason(),
            "problems": if parts.is_empty() { Value::Null } else { json!(parts) },
            "refusedByProxies": proxies,
        })
    }

    /// The whole status, with conditions for `kubectl wait`.
    fn patch(&self, now: Timestamp) -> Value {
        let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
            json!({
                "type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
                "lastTransitionTime": format!("{now:.0}"),
            })
        };
        let (accepted, word) = match self.outcome {
            Outcome::Committed => (true, "Accepted"),
            Outcome::Partly(_) => (true, "PartlyIgnored"),
            Outcome::Error(_) => (false, "Ignored"),
            Outcome::Conflict(_) => (false, "Conflict"),
        };
        let refused = self.refused.as_ref().map(ToString::to_string);
        let mut status = self.summary();
        if let Some(fields) = status.as_object_mut() {
            let conditions = json!([
                condition("Accepted", accepted, word, self.outcome.reason()),
                condition(
                    "RefusedByProxies",
                    refused.is_some(),
                    if refused.is_some() {
                        "Refused"
                    } else {
                        "NotRefused"
                    },
                    refused.as_deref().unwrap_or_default()
                ),
            ]);
            fields.insert("conditions".to_owned(), conditions);
        }
        json!({ "status": status })
    }
}

/// The compared fields of a status that stands somewhere.
fn summary_of(status: &Value) -> Value {
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    json!({
        "currentStatus": field("currentStatus"),
        "reason": field("reason"),
        "problems": field("problems"),
        "refusedByProxies": field("refusedByProxies"),
    })
}

impl Write for Client {
    async fn written(&self) -> Written {
        let mut written = Written::new();
        for kind in WITH_STATUS {
            let Some(resource) = resource(kind) else {
                continue;
            };
            let api: Api<DynamicObject> = Api::all_with(self.clone(), &resource);
            // What cannot be listed is written once more: no harm.
            let Ok(list) = api.list(&ListParams::default()).await else {
                continue;
            };
            for object in list {
                let metadata = object.metadata;
                let key: Key = (
                    metadata.namespace.unwrap_or_default().into(),
                    metadata.name.unwrap_or_default().into(),
                );
                if let Some(status) = object.data.get("status") {
                    written.insert((kind, key), summary_of(status));
                }
            }
        }
        written
    }

    async fn write(&self, kind: Kind, key: &Key, standing: &Standing) -> Result<(), kube::Error> {
        let Some(resource) = resource(kind) else {
            return Ok(());
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.clone(), &key.0, &resource);
        let patch = Patch::Merge(standing.patch(Timestamp::now()));
        match api
            .patch_status(&key.1, &PatchParams::default(), &patch)
            .await
        {
            // Gone, or a definition without status that somebody else installed.
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Writes what stands as it changes, each once, until the index ends. Every replica of the controller writes the
/// same; a patch that changes nothing but times wakes nobody.
pub(crate) async fn run<W: Write>(
    writer: W,
    mut findings: watch::Receiver<Findings>,
    nacks: Arc<Nacks>,
    retry: Duration,
) -> anyhow::Result<()> {
    // Before there is a world there is nothing to compare with.
    if findings.changed().await.is_err() {
        return Ok(());
    }
    let mut written = writer.written().await;
    let mut refusals = nacks.changes();
    loop {
        let wanted = wanted(&findings.borrow_and_update(), &nacks);
        refusals.mark_unchanged();
        // An object that comes back under its name is another object.
        written.retain(|object, _| wanted.contains_key(object));
        let due = wanted.into_iter().filter_map(|(object, standing)| {
            let summary = standing.summary();
            (written.get(&object) != Some(&summary)).then_some((object, standing, summary))
        });
        let due: Vec<_> = due.collect();
        let results = futures::stream::iter(due).map(|(object, standing, summary)| {
            let writer = &writer;
            async move {
                let result = writer.write(object.0, &object.1, &standing).await;
                (object, summary, result)
            }
        });
        let results: Vec<_> = results.buffer_unordered(WRITERS).collect().await;
        let mut failed = false;
        for (object, summary, result) in results {
            match result {
                Ok(()) => {
                    written.insert(object, summary);
                }
                Err(error) => {
                    let (kind, (namespace, name)) = object;
                    tracing::warn!(?kind, %namespace, %name, %error, "status not written, trying again");
                    failed = true;
                }
            }
        }
        let again = async {
            if failed {
                tokio::time::sleep(retry).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = findings.changed() => if changed.is_err() { return Ok(()) },
            _ = refusals.changed() => {}
            () = again => {}
        }
    }
}

fn wanted(findings: &Findings, nacks: &Nacks) -> BTreeMap<(Kind, Key), Standing> {
    let mut refused = BTreeMap::new();
    for ((kind, key), words) in nacks.by_subject() {
        if let Some(kind) = Kind::of_policy(&kind) {
            refused.insert((kind, key), words);
        }
    }
    let statuses = findings.statuses.iter();
    statuses
        .map(|(object, outcome)| {
            let standing = Standing::new(outcome, refused.get(object));
            (object.clone(), standing)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use xds::server::Kind as Resources;

    use super::*;

    /// Remembers what was written; fails while told to.
    #[derive(Clone, Default)]
    struct Recorder {
        writes: Arc<Mutex<Vec<String>>>,
        failures: Arc<Mutex<u32>>,
        stands: Written,
    }

    impl Write for Recorder {
        async fn written(&self) -> Written {
            self.stands.clone()
        }

        async fn write(&self, _: Kind, key: &Key, standing: &Standing) -> Result<(), kube::Error> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(kube::Error::LinesCodecMaxLineLengthExceeded);
            }
            let status = standing.summary();
            let word = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
            let line = format!("{} {}: {}", key.1, word("currentStatus"), word("reason"));
            self.writes.lock().unwrap().push(line);
            Ok(())
        }
    }

    impl Recorder {
        async fn wrote(&self, expected: &[String]) {
            let written = || self.writes.lock().unwrap().clone();
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            while written().len() < expected.len() && tokio::time::Instant::now() < deadline {
                tokio::task::yield_now().await;
            }
            assert_eq!(written(), expected);
        }
    }

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    fn findings(list: &[(&str, Outcome)]) -> Findings {
        let entry = |(name, outcome): &(&str, Outcome)| {
            ((Kind::IngressBackend, key(name)), outcome.clone())
        };
        Findings {
            statuses: list.iter().map(entry).collect(),
            others: Vec::new(),
        }
    }

    const DONE: &str = "successfully committed by the system";

    #[tokio::test]
    async fn a_status_is_written_once_again_when_it_changes_and_retried_when_it_fails() {
        let recorder = Recorder::default();
        *recorder.failures.lock().unwrap() = 1;
        let (send, receive) = watch::channel(Findings::default());
        let nacks = Arc::new(Nacks::default());
        let retry = Duration::from_millis(1);
        let running = tokio::spawn(run(recorder.clone(), receive, nacks.clone(), retry));
        let a = || ("a", Outcome::Committed);
        let error = || ("b", Outcome::Error("no endpoints".to_owned()));
        let healed = || ("b", Outcome::Committed);
        let mut expected = Vec::new();
        for (wanted, line) in [
            (vec![a()], format!("a committed: {DONE}")),
            (vec![a(), error()], "b error: no endpoints".to_owned()),
            (vec![healed()], format!("b committed: {DONE}")),
            (vec![a(), healed()], format!("a committed: {DONE}")),
        ] {
            send.send_replace(findings(&wanted));
            expected.push(line);
            recorder.wrote(&expected).await;
        }
        // A refusal of a proxy is an error until the proxy accepts.
        let subject = ("IngressBackend".to_owned(), key("a"));
        nacks.refused(
            "u",
            &key("pod"),
            Resources::Listener,
            "x: y: z",
            BTreeSet::from([subject]),
        );
        expected.push("a error: refused by 1 proxy: lds: x: y: z".to_owned());
        recorder.wrote(&expected).await;
        nacks.accepted("u", Resources::Listener);
        expected.push(format!("a committed: {DONE}"));
        recorder.wrote(&expected).await;
        drop(send);
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_stands_there_already_is_not_written_again() {
        let standing = Standing::new(&Outcome::Committed, None);
        let stands = summary_of(&standing.patch(Timestamp::UNIX_EPOCH)["status"]);
        let recorder = Recorder {
            stands: [((Kind::IngressBackend, key("a")), stands)].into(),
            ..Recorder::default()
        };
        let (send, receive) = watch::channel(Findings::default());
        let running = tokio::spawn(run(recorder.clone(), receive, Arc::default(), RETRY));
        send.send_replace(findings(&[
            ("a", Outcome::Committed),
            ("b", Outcome::Committed),
        ]));
        recorder.wrote(&[format!("b committed: {DONE}")]).await;
        drop(send);
        running.await.unwrap().unwrap();
    }

    #[test]
    fn a_status_has_conditions_and_names_what_is_void() {
        let parts = vec!["sources: E2011".to_owned()];
        let standing = Standing::new(&Outcome::Partly(parts.clone()), None);
        let status = &standing.patch(Timestamp::UNIX_EPOCH)["status"];
        assert_eq!(status["currentStatus"], "committed");
        assert_eq!(status["problems"], json!(parts));
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["conditions"][0]["reason"], "PartlyIgnored");
        assert_eq!(
            status["conditions"][0]["lastTransitionTime"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(status["conditions"][1]["status"], "False");
        let conflict = Standing::new(&Outcome::Conflict("ns/a has it".to_owned()), None);
        let status = &conflict.patch(Timestamp::UNIX_EPOCH)["status"];
        assert_eq!(status["conditions"][0]["reason"], "Conflict");
        assert_eq!(status["problems"], Value::Null);
        for kind in WITH_STATUS {
            assert!(resource(kind).is_some(), "{kind:?}");
        }
    }
}
