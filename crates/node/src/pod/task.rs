//! One task per pod: from its arrival at the node to its final deletion.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::status::{Progress, Record, State, Terminated, is_sidecar, phase, restarts, status};
use super::volumes::{Files, Tokens};
use crate::NodeConfig;
use crate::catalog::SharedCatalog;
use crate::container::{Process, Rights};
use crate::events::Events;
use crate::logs::Log;
use crate::mirror::Mirror;
use crate::network::{Attachment, Network};

/// Pause before an API call is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What all pods of a node share.
pub struct Shared {
    /// Address plan and folders.
    pub config: NodeConfig,
    /// The API, as the node.
    pub client: Client,
    /// The pod network.
    pub network: Network,
    /// Services and endpoints.
    pub catalog: SharedCatalog,
    /// ConfigMaps, to see when volumes change.
    pub config_maps: Mirror<ConfigMap>,
    /// Secrets, to see when volumes change.
    pub secrets: Mirror<Secret>,
    /// Where events go.
    pub events: Events,
}

/// A running container.
#[derive(Debug)]
pub struct Instance {
    /// Its first process.
    pub process: Process,
    /// User, groups, capabilities; commands run in it get the same.
    pub rights: Rights,
    /// Its variables.
    pub env: Vec<(String, String)>,
    /// Begin of the run.
    pub started: Timestamp,
    /// Identity of the run.
    pub id: String,
}

/// A container's logs.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Of the present or last run.
    pub current: Arc<Log>,
    /// Of the run before.
    pub previous: Option<Arc<Log>>,
}

/// What the API wants of the pod.
#[derive(Clone)]
pub struct Desired {
    /// The object as last seen.
    pub pod: Arc<Pod>,
    /// It is no longer in the API.
    pub gone: bool,
}

/// A pod on this node.
pub struct PodTask {
    pub(super) shared: Arc<Shared>,
    desired: watch::Sender<Desired>,
    pub(super) progress: Mutex<Progress>,
    pub(super) dirty: Notify,
    /// Running containers by name.
    pub(super) instances: Mutex<BTreeMap<String, Arc<Instance>>>,
    pub(super) logs: Mutex<BTreeMap<String, Logs>>,
    pub(super) attachment: Mutex<Option<Arc<Attachment>>>,
    pub(super) volumes: Mutex<Volumes>,
}

/// What the pod's volumes hold now.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// Tokens, kept for the next rewriting.
    pub tokens: Tokens,
    /// Files by volume.
    pub files: BTreeMap<String, Files>,
}

// === impl PodTask ===

impl PodTask {
    /// A pod that has been given to this node, perhaps in an earlier life of the node.
    pub fn new(shared: Arc<Shared>, pod: Arc<Pod>) -> Arc<Self> {
        let progress = resume(&pod);
        Arc::new(Self {
            shared,
            desired: watch::Sender::new(Desired { pod, gone: false }),
            progress: Mutex::new(progress),
            dirty: Notify::new(),
            instances: Mutex::default(),
            logs: Mutex::default(),
            attachment: Mutex::default(),
            volumes: Mutex::default(),
        })
    }

    /// The object as last seen.
    pub fn pod(&self) -> Arc<Pod> {
        self.desired.borrow().pod.clone()
    }

    /// Its spec.
    pub(super) fn spec(&self) -> PodSpec {
        self.pod().spec.clone().unwrap_or_default()
    }

    /// Tells the task of a new version of the object, or of its end.
    pub fn update(&self, pod: Arc<Pod>, gone: bool) {
        let gates = pod
            .spec
            .as_ref()
            .and_then(|s| s.readiness_gates.as_ref())
            .is_some_and(|g| !g.is_empty());
        self.desired.send_replace(Desired { pod, gone });
        if gates {
            // Others' conditions decide on readiness too.
            self.dirty.notify_one();
        }
    }

    /// Changes of the object.
    pub(super) fn changes(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    /// A running container.
    pub fn instance(&self, container: &str) -> Option<Arc<Instance>> {
        self.instances.lock().get(container).cloned()
    }

    /// A container's logs.
    pub fn logs(&self, container: &str) -> Option<Logs> {
        self.logs.lock().get(container).cloned()
    }

    /// The pod's network, unless it uses the node's or has none yet.
    pub fn attachment(&self) -> Option<Arc<Attachment>> {
        self.attachment.lock().clone()
    }

    /// Why a container does not run, for error texts.
    pub fn waiting_reason(&self, container: &str) -> String {
        match self
            .progress
            .lock()
            .containers
            .get(container)
            .map(|r| r.state.clone())
        {
            Some(State::Waiting { reason, .. }) => reason,
            Some(State::Terminated(end)) => end.reason,
            Some(State::Running(_)) => "Running".to_owned(),
            None => "PodInitializing".to_owned(),
        }
    }

    /// Changes a container's record and has the status reported.
    pub(super) fn record(&self, container: &str, edit: impl FnOnce(&mut Record)) {
        let mut progress = self.progress.lock();
        edit(
            progress
                .containers
                .entry(container.to_owned())
                .or_insert_with(|| Record::waiting("ContainerCreating")),
        );
        drop(progress);
        self.dirty.notify_one();
    }

    /// Runs the pod until it is gone from the API.
    pub async fn run(self: Arc<Self>) {
        let mut desired = self.desired.subscribe();
        let over = self
            .pod()
            .status
            .as_ref()
            .and_then(|s| s.phase.clone())
            .is_some_and(|p| p == "Succeeded" || p == "Failed");
        let mut tasks = JoinSet::new();
        tokio::select! {
            () = self.live(&mut tasks), if !over => {}
            () = self.report(), if !over => {}
            () = self.refresh_volumes(), if !over => {}
            () = ended(&mut desired) => {}
        }
        // Nothing may start a container while all are being stopped.
        tasks.shutdown().await;
        self.terminate(&mut desired).await;
        self.attachment.lock().take();
        self.remove_folders().await;
        self.finish(&mut desired, over).await;
    }

    /// Keeps the API's status equal to ours.
    async fn report(&self) {
        loop {
            self.dirty.notified().await;
            while !self.report_once().await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Writes the status; true when there is nothing more to do.
    async fn report_once(&self) -> bool {
        let pod = self.pod();
        let status = status(
            &pod,
            &self.progress.lock().clone(),
            &self.shared.config.addresses,
            Timestamp::now(),
        );
        if pod.status.as_ref() == Some(&status) {
            return true;
        }
        let api: Api<Pod> = Api::namespaced(
            self.shared.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        // The uid guards against reporting on another pod of the same name.
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        match api
            .patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
        {
            Ok(_) => true,
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
            Err(error) => {
                tracing::warn!(pod = pod.name_any(), namespace = pod.namespace(), %error, "status could not be reported");
                false
            }
        }
    }

    /// Stops all containers: the ordinary ones together, then the sidecars.
    async fn terminate(&self, desired: &mut watch::Receiver<Desired>) {
        let spec = self.spec();
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|c| is_sidecar(c));
        let first: Vec<_> = spec
            .containers
            .iter()
            .chain(
                spec.init_containers
                    .iter()
                    .flatten()
                    .filter(|c| !is_sidecar(c)),
            )
            .collect();
        let begun = tokio::time::Instant::now();
        for group in [first, sidecars.collect()] {
            let stopping = futures::future::join_all(group.into_iter().map(|container| async {
                let Some(instance) = self.instance(&container.name) else {
                    return;
                };
                let grace = self.grace().saturating_sub(begun.elapsed());
                let ended = self.stop(container, &instance, grace).await;
                self.ended(container, &instance, &ended, None).await;
            }));
            let kill = async {
                // Deleted by force, or with a shorter grace period than at first.
                loop {
                    let now = desired.borrow_and_update().clone();
                    let grace = now.pod.metadata.deletion_grace_period_seconds;
                    let left = Duration::from_secs(
                        grace
                            .and_then(|g| u64::try_from(g).ok())
                            .unwrap_or(u64::from(u32::MAX)),
                    );
                    if now.gone {
                        self.kill_all();
                        std::future::pending::<()>().await;
                    }
                    tokio::select! {
                        changed = desired.changed() => if changed.is_err() { std::future::pending::<()>().await },
                        () = tokio::time::sleep(left.saturating_sub(begun.elapsed()) + Duration::from_millis(100)) => self.kill_all(),
                    }
                }
            };
            tokio::select! {
                _ = stopping => {}
                () = kill => {}
            }
        }
    }

    fn kill_all(&self) {
        for instance in self.instances.lock().values() {
            instance.process.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// How long the containers may take to stop.
    pub(super) fn grace(&self) -> Duration {
        let pod = self.pod();
        let of_spec = pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let seconds = pod
            .metadata
            .deletion_grace_period_seconds
            .or(of_spec)
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Reports the last status and deletes the object for good.
    async fn finish(&self, desired: &mut watch::Receiver<Desired>, reported: bool) {
        loop {
            let now = desired.borrow_and_update().clone();
            if now.gone {
                return;
            }
            if !reported {
                self.report_once().await;
            }
            let api: Api<Pod> = Api::namespaced(
                self.shared.client.clone(),
                &now.pod.namespace().unwrap_or_default(),
            );
            let preconditions = Preconditions {
                uid: now.pod.uid(),
                resource_version: None,
            };
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match api.delete(&now.pod.name_any(), &parameters).await {
                // With finalizers the object stays until others have done their part.
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
                Err(error) => {
                    tracing::warn!(pod = now.pod.name_any(), %error, "pod could not be deleted; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Resolves when the pod is to end.
async fn ended(desired: &mut watch::Receiver<Desired>) {
    // An error means that the node itself ends.
    let _ = desired
        .wait_for(|d| d.gone || d.pod.metadata.deletion_timestamp.is_some())
        .await;
}

/// What is known from the API of a pod that an earlier life of this node ran: that its processes are gone.
fn resume(pod: &Pod) -> Progress {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let mut progress = Progress {
        started: Some(status.start_time.map_or(now, |t| t.0)),
        ..Progress::default()
    };
    let known = |name: &str| {
        let statuses = status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten());
        statuses
            .filter(|s| s.name == name)
            .find(|s| s.container_id.is_some())
            .cloned()
    };
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        let Some(before) = known(&container.name) else {
            continue;
        };
        let state = before.state.unwrap_or_default();
        let id = before.container_id.unwrap_or_default();
        let end = match (&state.terminated, &state.running) {
            (Some(end), _) => Terminated {
                code: end.exit_code,
                signal: end.signal,
                reason: end.reason.clone().unwrap_or_default(),
                message: end.message.clone(),
                started: end.started_at.as_ref().map_or(now, |t| t.0),
                finished: end.finished_at.as_ref().map_or(now, |t| t.0),
                id: id.clone(),
            },
            (None, running) => Terminated {
                code: 255,
                signal: None,
                reason: "Unknown".to_owned(),
                message: Some("The node was started again".to_owned()),
                started: running
                    .as_ref()
                    .and_then(|r| r.started_at.as_ref())
                    .map_or(now, |t| t.0),
                finished: now,
                id: id.clone(),
            },
        };
        let main = spec.containers.iter().any(|c| c.name == container.name);
        let over = main && !restarts(spec.restart_policy.as_deref(), end.code);
        let record = Record {
            state: if over {
                State::Terminated(end.clone())
            } else {
                State::Waiting {
                    reason: "ContainerCreating".to_owned(),
                    message: None,
                }
            },
            last: (!over).then_some(end),
            restarts: before.restart_count + i32::from(!over),
            id,
            ..Record::waiting("ContainerCreating")
        };
        progress.containers.insert(container.name.clone(), record);
    }
    // Only main containers that are over for good matter here; the rest starts anew.
    if phase(&spec, &progress) == "Failed" {
        tracing::info!(
            pod = pod.name_any(),
            "pod ended with the node's earlier life"
        );
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_an_earlier_life_counts_a_restart_and_finished_work_is_not_done_again() {
        let pod = |policy: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]},
                "status": {"containerStatuses": [
                    {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2, "containerID": "osm://a",
                     "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
                    {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "osm://b",
                     "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}
            }))
            .unwrap()
        };
        let always = resume(&pod("Always"));
        assert_eq!(always.containers["a"].restarts, 3);
        assert_eq!(
            always.containers["a"].last.as_ref().unwrap().reason,
            "Unknown"
        );
        let on_failure = resume(&pod("OnFailure"));
        assert!(matches!(
            on_failure.containers["b"].state,
            State::Terminated(_)
        ));
        assert!(matches!(
            on_failure.containers["a"].state,
            State::Waiting { .. }
        ));
        let never = resume(&pod("Never"));
        assert_eq!(phase(&pod("Never").spec.unwrap(), &never), "Failed");
    }
}
