//! Writes into objects' `status` what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use api::policy::v1alpha1::{IngressBackend, UpstreamTrafficSetting};
use families::{Key, Kind, Outcome, Statuses};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

/// How long to wait before a status that could not be written is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// Where statuses are written to.
pub(crate) trait Write {
    /// Writes one status; an object that is gone needs none.
    async fn write(&self, kind: Kind, key: &Key, outcome: &Outcome) -> Result<(), kube::Error>;
}

impl Write for Client {
    async fn write(&self, kind: Kind, key: &Key, outcome: &Outcome) -> Result<(), kube::Error> {
        let patch = Patch::Merge(serde_json::json!({ "status": {
            "currentStatus": outcome.current_status(),
            "reason": outcome.reason(),
        }}));
        let parameters = PatchParams::default();
        let written = match kind {
            Kind::IngressBackend => Api::<IngressBackend>::namespaced(self.clone(), &key.0)
                .patch_status(&key.1, &parameters, &patch)
                .await
                .map(drop),
            Kind::UpstreamTrafficSetting => {
                Api::<UpstreamTrafficSetting>::namespaced(self.clone(), &key.0)
                    .patch_status(&key.1, &parameters, &patch)
                    .await
                    .map(drop)
            }
            // No other kind has a status.
            _ => Ok(()),
        };
        match written {
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            other => other,
        }
    }
}

/// Writes outcomes as they come, each once, until the index ends. Every replica of the controller writes the
/// same; a patch that changes nothing wakes nobody.
pub(crate) async fn run<W: Write>(
    writer: W,
    mut statuses: watch::Receiver<Statuses>,
    retry: Duration,
) -> anyhow::Result<()> {
    let mut written: BTreeMap<(Kind, Key), Outcome> = BTreeMap::new();
    loop {
        let wanted = statuses.borrow_and_update().clone();
        // An object that comes back under its name is another object.
        written.retain(|object, _| wanted.contains_key(object));
        let mut failed = false;
        for (object, outcome) in wanted {
            if written.get(&object) == Some(&outcome) {
                continue;
            }
            let (kind, key) = &object;
            match writer.write(*kind, key, &outcome).await {
                Ok(()) => {
                    written.insert(object, outcome);
                }
                Err(error) => {
                    let (namespace, name) = key;
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
            changed = statuses.changed() => if changed.is_err() { return Ok(()) },
            () = again => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Remembers what was written; fails while told to.
    #[derive(Clone, Default)]
    struct Recorder {
        writes: Arc<Mutex<Vec<String>>>,
        failures: Arc<Mutex<u32>>,
    }

    impl Write for Recorder {
        async fn write(&self, _: Kind, key: &Key, outcome: &Outcome) -> Result<(), kube::Error> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(kube::Error::LinesCodecMaxLineLengthExceeded);
            }
            let line = format!(
                "{} {}: {}",
                key.1,
                outcome.current_status(),
                outcome.reason()
            );
            self.writes.lock().unwrap().push(line);
            Ok(())
        }
    }

    fn statuses(list: &[(&str, Outcome)]) -> Statuses {
        let entry = |(name, outcome): &(&str, Outcome)| {
            let key = ("ns".into(), (*name).into());
            ((Kind::IngressBackend, key), outcome.clone())
        };
        list.iter().map(entry).collect()
    }

    #[tokio::test]
    async fn a_status_is_written_once_again_when_it_changes_and_retried_when_it_fails() {
        let recorder = Recorder::default();
        *recorder.failures.lock().unwrap() = 1;
        let (send, receive) = watch::channel(statuses(&[("a", Outcome::Committed)]));
        let running = tokio::spawn(run(recorder.clone(), receive, Duration::from_millis(1)));
        let done = "successfully committed by the system";
        let a = || ("a", Outcome::Committed);
        let error = || ("b", Outcome::Error("no endpoints".to_owned()));
        let healed = || ("b", Outcome::Committed);
        let mut expected = Vec::new();
        for (wanted, line) in [
            (vec![a()], format!("a committed: {done}")),
            (vec![a(), error()], "b error: no endpoints".to_owned()),
            (vec![healed()], format!("b committed: {done}")),
            (vec![a(), healed()], format!("a committed: {done}")),
        ] {
            send.send_replace(statuses(&wanted));
            expected.push(line);
            let written = || recorder.writes.lock().unwrap().clone();
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            while written().len() < expected.len() && tokio::time::Instant::now() < deadline {
                tokio::task::yield_now().await;
            }
            assert_eq!(written(), expected);
        }
        drop(send);
        running.await.unwrap().unwrap();
    }
}
