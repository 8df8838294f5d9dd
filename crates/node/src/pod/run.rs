//! Running a pod's containers: init containers in order, then the others, each started again as its policy says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use tokio::task::JoinSet;

use super::order::Refusal;
use super::status::{Record, State, Terminated, is_sidecar, restarts};
use super::task::{Instance, Logs, PodTask};
use crate::container::{Ended, process};
use crate::logs::Log;

/// Pause before a sandbox is tried again.
const SANDBOX_RETRY: Duration = Duration::from_millis(500);
/// A kubelet's pauses between restarts: 10 s, doubled up to 5 min, forgotten after 10 min of running.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MOST: Duration = Duration::from_secs(300);
const BACKOFF_FORGOTTEN: Duration = Duration::from_secs(600);
/// How often a missing image or ConfigMap is looked for again. A kubelet's pauses are longer because it asks registries.
const REFUSED_RETRY: Duration = Duration::from_secs(1);
/// A kubelet reads so much of a termination message.
const LAST_WORD: usize = 4096;

/// What part a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Ends before the next one starts.
    Init,
    /// An init container that keeps running.
    Sidecar,
    /// An ordinary container.
    Main,
}

/// The pauses between restarts.
#[derive(Debug, Default)]
struct Backoff(Option<Duration>);

// === impl Backoff ===

impl Backoff {
    /// The pause before the next start, after a run of the given length.
    fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.0 {
            _ if ran >= BACKOFF_FORGOTTEN => Duration::ZERO,
            None => Duration::ZERO,
            Some(last) if last.is_zero() => BACKOFF_FIRST,
            Some(last) => (last * 2).min(BACKOFF_MOST),
        };
        self.0 = Some(pause);
        pause
    }
}

impl PodTask {
    /// Runs the pod; returns never. Containers run in `tasks`.
    pub(super) async fn live(self: &Arc<Self>, tasks: &mut JoinSet<(String, i32)>) {
        let spec = self.spec();
        self.dirty.notify_one();
        while let Err((reason, message)) = self.make_sandbox().await {
            self.shared.events.warning(&self.pod(), reason, message);
            tokio::time::sleep(SANDBOX_RETRY).await;
        }
        let work = self.work(&spec, tasks);
        match spec
            .active_deadline_seconds
            .and_then(|s| u64::try_from(s).ok())
        {
            Some(seconds) => {
                if tokio::time::timeout(Duration::from_secs(seconds), work)
                    .await
                    .is_err()
                {
                    self.fail(
                        "DeadlineExceeded",
                        "Pod was active on the node longer than the specified deadline",
                    );
                    tasks.shutdown().await;
                    self.stop_all(&spec, |_| true).await;
                }
            }
            None => work.await,
        }
        std::future::pending().await
    }

    /// Until every container is over for good, which with restartPolicy Always is never.
    async fn work(self: &Arc<Self>, spec: &PodSpec, tasks: &mut JoinSet<(String, i32)>) {
        for container in spec.init_containers.iter().flatten() {
            if is_sidecar(container) {
                tasks.spawn(self.clone().keep_running(container.clone(), Part::Sidecar));
                self.wait_started(&container.name).await;
                continue;
            }
            let (_, code) = self
                .clone()
                .keep_running(container.clone(), Part::Init)
                .await;
            if code != 0 {
                // Only with restartPolicy Never; the phase is Failed by now.
                self.stop_all(spec, is_sidecar).await;
                return;
            }
            self.record(&container.name, |record| record.ready = true);
        }
        let mut left: Vec<&str> = Vec::new();
        for container in &spec.containers {
            let over = matches!(
                self.progress.lock().containers.get(&container.name),
                Some(Record {
                    state: State::Terminated(_),
                    ..
                })
            );
            if !over {
                left.push(&container.name);
                tasks.spawn(self.clone().keep_running(container.clone(), Part::Main));
            }
        }
        while !left.is_empty() {
            match tasks.join_next().await {
                Some(Ok((name, _))) => left.retain(|n| *n != name),
                Some(Err(error)) => tracing::error!(%error, "a container's task failed"),
                None => break,
            }
        }
        tasks.shutdown().await;
        self.stop_all(spec, is_sidecar).await;
        self.dirty.notify_one();
    }

    async fn stop_all(&self, spec: &PodSpec, which: impl Fn(&Container) -> bool) {
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        futures::future::join_all(all.filter(|c| which(c)).map(|container| async {
            let Some(instance) = self.instance(&container.name) else {
                return;
            };
            let ended = self.stop(container, &instance, self.grace()).await;
            self.ended(container, &instance, &ended, None).await;
        }))
        .await;
    }

    /// Waits until a sidecar has started, its startup probe included.
    async fn wait_started(&self, container: &str) {
        while !self
            .progress
            .lock()
            .containers
            .get(container)
            .is_some_and(|r| r.started)
        {
            // Woken by nothing cheaper than a look: a sidecar starts once in a pod's life.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a container again and again as its policy says; returns its last exit code.
    async fn keep_running(self: Arc<Self>, container: Container, part: Part) -> (String, i32) {
        let spec = self.spec();
        let policy = match part {
            Part::Sidecar => Some("Always"),
            Part::Main => spec.restart_policy.as_deref(),
            // Init containers run until they succeed, or once.
            Part::Init if spec.restart_policy.as_deref() == Some("Never") => Some("Never"),
            Part::Init => Some("OnFailure"),
        };
        let mut backoff = Backoff::default();
        let mut first = true;
        loop {
            let run = self
                .progress
                .lock()
                .containers
                .get(&container.name)
                .map_or(0, |r| r.restarts);
            let run = if first { run } else { run + 1 };
            let end = match self.start_when_possible(&spec, &container, run).await {
                Ok(instance) => self.supervise(&container, &instance).await,
                Err(end) => end,
            };
            first = false;
            if !restarts(policy, end.code) {
                return (container.name, end.code);
            }
            let ran = end.finished.duration_since(end.started);
            let pause = backoff.next(Duration::try_from(ran).unwrap_or_default());
            if !pause.is_zero() {
                self.back_off(&container, pause).await;
            }
        }
    }

    async fn back_off(&self, container: &Container, pause: Duration) {
        let pod = self.pod();
        let name = format!(
            "{}_{}({})",
            pod.metadata.name.clone().unwrap_or_default(),
            pod.metadata.namespace.clone().unwrap_or_default(),
            pod.metadata.uid.clone().unwrap_or_default()
        );
        let shown = if pause.as_secs() < 60 {
            format!("{}s", pause.as_secs())
        } else {
            format!("{}m{}s", pause.as_secs() / 60, pause.as_secs() % 60)
        };
        let message = format!(
            "back-off {shown} restarting failed container={} pod={name}",
            container.name
        );
        self.record(&container.name, |record| {
            record.state = State::Waiting {
                reason: "CrashLoopBackOff".to_owned(),
                message: Some(message),
            };
        });
        self.shared.events.warning(
            &pod,
            "BackOff",
            format!(
                "Back-off restarting failed container {} in pod {name}",
                container.name
            ),
        );
        tokio::time::sleep(pause).await;
    }

    /// Starts a container, waiting for its image and configuration. The error is a run that ended before it began.
    async fn start_when_possible(
        &self,
        spec: &PodSpec,
        container: &Container,
        run: i32,
    ) -> Result<Arc<Instance>, Terminated> {
        let mut told = None;
        loop {
            match self.start(spec, container, run).await {
                Ok(started) => return started,
                Err(refusal) => {
                    // As a kubelet: first the error, then that it waits to try again.
                    let again = told.as_ref() == Some(&refusal);
                    let reason = if again && refusal.reason == "ErrImagePull" {
                        "ImagePullBackOff"
                    } else {
                        refusal.reason
                    };
                    self.record(&container.name, |record| {
                        if let State::Terminated(end) = &record.state {
                            record.last = Some(end.clone());
                        }
                        record.state = State::Waiting {
                            reason: reason.to_owned(),
                            message: Some(refusal.message.clone()),
                        };
                    });
                    if !again {
                        self.shared.events.warning(
                            &self.pod(),
                            "Failed",
                            format!("Error: {}: {}", refusal.reason, refusal.message),
                        );
                    }
                    told = Some(refusal);
                    tokio::time::sleep(REFUSED_RETRY).await;
                }
            }
        }
    }

    /// One attempt to start a container.
    async fn start(
        &self,
        spec: &PodSpec,
        container: &Container,
        run: i32,
    ) -> Result<Result<Arc<Instance>, Terminated>, Refusal> {
        let image = self.image(container)?;
        let facts = self.facts().await.map_err(Refusal::config)?;
        let (order, env) = self.order(spec, container, &facts, &image, run)?;
        let create = |e: std::io::Error| Refusal {
            reason: "CreateContainerError",
            message: e.to_string(),
        };
        std::fs::create_dir_all(&order.folder).map_err(create)?;
        let last_word = order.folder.join("termination-log");
        std::fs::write(&last_word, "").map_err(create)?;
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&last_word, open_to_all).map_err(create)?;
        let log = Log::create(
            self.log_folder()
                .join(&container.name)
                .join(format!("{run}.log")),
        )
        .map_err(create)?;
        self.logs
            .lock()
            .entry(container.name.clone())
            .and_modify(|logs| {
                *logs = Logs {
                    previous: Some(logs.current.clone()),
                    current: log.clone(),
                }
            })
            .or_insert_with(|| Logs {
                current: log.clone(),
                previous: None,
            });
        let netns = self.attachment().map(|a| a.netns.file().clone());
        let (rights, folder) = (order.rights.clone(), order.folder.clone());
        let id = format!(
            "osm-local://{}-{}-{run}",
            self.pod().metadata.uid.clone().unwrap_or_default(),
            container.name
        );
        let started = Timestamp::now();
        match process::start_container(netns, order, env.clone()).await {
            Ok((process, pipes)) => {
                tokio::spawn(log.record(pipes.stdout, pipes.stderr));
                let instance = Arc::new(Instance {
                    process,
                    rights,
                    env,
                    started,
                    id: id.clone(),
                });
                self.instances
                    .lock()
                    .insert(container.name.clone(), instance.clone());
                self.record(&container.name, |record| {
                    if let State::Terminated(end) = &record.state {
                        record.last = Some(end.clone());
                    }
                    *record = Record {
                        state: State::Running(started),
                        restarts: run,
                        ready: false,
                        started: false,
                        id,
                        last: record.last.clone(),
                    };
                });
                self.shared.events.normal(
                    &self.pod(),
                    "Started",
                    format!("Started container {}", container.name),
                );
                Ok(Ok(instance))
            }
            Err(error) => {
                log.close();
                drop(std::fs::remove_dir_all(folder));
                let ended = Ended {
                    code: 128,
                    signal: None,
                    at: Timestamp::now(),
                };
                let mut end = Terminated::of(&ended, started, &id);
                end.reason = "StartError".to_owned();
                end.message = Some(format!("failed to start container: {error}"));
                self.shared.events.warning(
                    &self.pod(),
                    "Failed",
                    format!(
                        "Error: failed to start container \"{}\": {error}",
                        container.name
                    ),
                );
                self.record(&container.name, |record| {
                    if let State::Terminated(end) = &record.state {
                        record.last = Some(end.clone());
                    }
                    record.state = State::Terminated(end.clone());
                    record.restarts = run;
                    record.id.clone_from(&end.id);
                });
                Ok(Err(end))
            }
        }
    }

    /// Accompanies a running container to its end.
    async fn supervise(&self, container: &Container, instance: &Arc<Instance>) -> Terminated {
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref());
        let healthy = async {
            if let Some(hook) = hook
                && let Err(error) = self
                    .hook(container, instance, hook, Duration::from_secs(60))
                    .await
            {
                self.shared.events.warning(
                    &self.pod(),
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {error}"),
                );
                return format!("FailedPostStartHook: {error}");
            }
            self.watch_health(container, instance).await
        };
        let ended = tokio::select! {
            ended = instance.process.wait() => ended,
            reason = healthy => {
                self.shared.events.normal(&self.pod(), "Killing", reason);
                self.stop(container, instance, self.grace()).await
            }
        };
        let folder = self.run_folder(
            &container.name,
            self.progress
                .lock()
                .containers
                .get(&container.name)
                .map_or(0, |r| r.restarts),
        );
        self.ended(container, instance, &ended, Some(folder)).await
    }

    /// Records the end of a run.
    pub(super) async fn ended(
        &self,
        container: &Container,
        instance: &Arc<Instance>,
        ended: &Ended,
        folder: Option<std::path::PathBuf>,
    ) -> Terminated {
        let mut end = Terminated::of(ended, instance.started, &instance.id);
        if let Some(folder) = folder {
            let last_word = std::fs::read(folder.join("termination-log")).unwrap_or_default();
            let mut message = String::from_utf8_lossy(
                last_word
                    .get(..LAST_WORD.min(last_word.len()))
                    .unwrap_or_default(),
            )
            .into_owned();
            let from_log =
                container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
            if message.is_empty() && from_log && end.code != 0 {
                message = self
                    .logs(&container.name)
                    .map(|l| l.current.tail(80, 2048))
                    .unwrap_or_default();
            }
            end.message = (!message.is_empty()).then_some(message);
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        self.instances.lock().remove(&container.name);
        self.record(&container.name, |record| {
            record.state = State::Terminated(end.clone());
            record.ready = false;
            record.started = false;
        });
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_as_a_kubelets_do() {
        let mut backoff = Backoff::default();
        let seconds: Vec<_> = (0..8)
            .map(|_| backoff.next(Duration::from_secs(1)).as_secs())
            .collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.next(BACKOFF_FORGOTTEN).as_secs(), 0);
        assert_eq!(backoff.next(Duration::ZERO).as_secs(), 10);
    }
}
