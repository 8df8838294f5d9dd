//! The status of a pod as the kubelet would report it: a pure function of what its containers do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::container::Ended;

/// What a container does now.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not running yet, or not running again yet.
    Waiting {
        /// CamelCase word.
        reason: String,
        /// Text for people.
        message: Option<String>,
    },
    /// Running since then.
    Running(Timestamp),
    /// Over.
    Terminated(Terminated),
}

/// How a run of a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Terminated {
    /// Exit code.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `StartError` …
    pub reason: String,
    /// Text for people.
    pub message: Option<String>,
    /// Begin of the run.
    pub started: Timestamp,
    /// End of the run.
    pub finished: Timestamp,
    /// Which run.
    pub id: String,
}

/// What is known of a container over its runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Now.
    pub state: State,
    /// The run before.
    pub last: Option<Terminated>,
    /// How often it was started again.
    pub restarts: i32,
    /// Its readiness probe says so.
    pub ready: bool,
    /// Its startup probe has said so.
    pub started: bool,
    /// Identity of the present or last run.
    pub id: String,
}

/// What is known of a pod.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Its addresses; empty until its network exists.
    pub ips: Vec<IpAddr>,
    /// When the node saw it first.
    pub started: Option<Timestamp>,
    /// Its containers, init containers among them.
    pub containers: BTreeMap<String, Record>,
    /// A reason and message for the pod as a whole (`DeadlineExceeded`); makes it Failed.
    pub failed: Option<(String, String)>,
}

// === impl Terminated ===

impl Terminated {
    /// The end of a process.
    pub fn of(ended: &Ended, started: Timestamp, id: &str) -> Self {
        let reason = if ended.code == 0 {
            "Completed"
        } else {
            "Error"
        };
        Self {
            code: ended.code,
            signal: None,
            reason: reason.to_owned(),
            message: None,
            started,
            finished: ended.at,
            id: id.to_owned(),
        }
    }

    fn api(&self) -> ContainerStateTerminated {
        ContainerStateTerminated {
            container_id: (!self.id.is_empty()).then(|| self.id.clone()),
            exit_code: self.code,
            signal: self.signal,
            reason: Some(self.reason.clone()),
            message: self.message.clone(),
            started_at: Some(Time(self.started)),
            finished_at: Some(Time(self.finished)),
        }
    }
}

// === impl Record ===

impl Record {
    /// A container that waits for a reason.
    pub fn waiting(reason: &str) -> Self {
        Self {
            state: State::Waiting {
                reason: reason.to_owned(),
                message: None,
            },
            last: None,
            restarts: 0,
            ready: false,
            started: false,
            id: String::new(),
        }
    }

    fn running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    fn code(&self) -> Option<i32> {
        match &self.state {
            State::Terminated(end) => Some(end.code),
            _ => None,
        }
    }
}

/// An init container that keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that ended with `code` runs again.
pub fn restarts(policy: Option<&str>, code: i32) -> bool {
    match policy {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// The status object. `pod` gives the spec and the conditions so far.
pub fn status(pod: &Pod, progress: &Progress, host_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let old = pod.status.clone().unwrap_or_default();
    let record = |c: &Container| progress.containers.get(&c.name);
    let init: Vec<_> = spec.init_containers.iter().flatten().collect();
    let phase = phase(&spec, progress);
    let over = phase == "Succeeded" || phase == "Failed";
    let uninitialized: Vec<_> = init
        .iter()
        .filter(|c| {
            !record(c).is_some_and(|r| {
                if is_sidecar(c) {
                    r.started
                } else {
                    r.code() == Some(0)
                }
            })
        })
        .map(|c| c.name.as_str())
        .collect();
    let sidecars = init.iter().copied().filter(|c| is_sidecar(c));
    let unready: Vec<_> = spec
        .containers
        .iter()
        .chain(sidecars)
        .filter(|c| !record(c).is_some_and(|r| r.ready && r.running()))
        .map(|c| c.name.as_str())
        .collect();
    let mut conditions = Vec::new();
    let mut condition = |kind: &str, problem: Option<(&str, String)>| {
        conditions.push(transition(&old, kind, problem, now));
    };
    condition(
        "PodReadyToStartContainers",
        (progress.ips.is_empty() || over).then(|| ("", String::new())),
    );
    let initialized = (!uninitialized.is_empty() && !over).then(|| {
        (
            "ContainersNotInitialized",
            format!(
                "containers with incomplete status: [{}]",
                uninitialized.join(" ")
            ),
        )
    });
    condition("Initialized", initialized);
    let gates = missing_gates(&spec, &old);
    let containers = match phase {
        "Succeeded" => Some(("PodCompleted", String::new())),
        "Failed" => Some(("PodFailed", String::new())),
        _ if unready.is_empty() => None,
        _ => Some((
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        )),
    };
    let ready = containers.clone().or_else(|| {
        (!gates.is_empty()).then(|| {
            (
                "ReadinessGatesNotReady",
                format!(
                    "the status of pod readiness gate \"{}\" is not \"True\"",
                    gates.join("\", \"")
                ),
            )
        })
    });
    condition("Ready", ready);
    condition("ContainersReady", containers);
    condition("PodScheduled", None);
    let ours = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    conditions.extend(
        old.conditions
            .iter()
            .flatten()
            .filter(|c| !ours.contains(&c.type_.as_str()))
            .cloned(),
    );
    let statuses = |list: Vec<&Container>| {
        (!list.is_empty()).then(|| {
            list.into_iter()
                .map(|c| container_status(c, record(c), progress))
                .collect()
        })
    };
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: first(host_ips),
        host_ips: Some(
            host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        ),
        pod_ip: first(&progress.ips),
        pod_ips: (!progress.ips.is_empty()).then(|| {
            progress
                .ips
                .iter()
                .map(|ip| PodIP { ip: ip.to_string() })
                .collect()
        }),
        start_time: progress.started.map(Time),
        init_container_statuses: statuses(init),
        container_statuses: statuses(spec.containers.iter().collect()),
        qos_class: Some(old.qos_class.unwrap_or_else(|| quality(&spec).to_owned())),
        reason: progress.failed.as_ref().map(|f| f.0.clone()),
        message: progress.failed.as_ref().map(|f| f.1.clone()),
        ..PodStatus::default()
    }
}

/// The kubelet's rules for `status.phase`.
pub fn phase(spec: &PodSpec, progress: &Progress) -> &'static str {
    if progress.failed.is_some() {
        return "Failed";
    }
    let policy = spec.restart_policy.as_deref();
    for container in spec.init_containers.iter().flatten() {
        match progress.containers.get(&container.name) {
            Some(record) if is_sidecar(container) && record.started => {}
            Some(record) if record.code() == Some(0) => {}
            Some(record)
                if record.code().is_some() && policy == Some("Never") && !is_sidecar(container) =>
            {
                return "Failed";
            }
            _ => return "Pending",
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in &spec.containers {
        match progress.containers.get(&container.name) {
            Some(Record {
                state: State::Running(_),
                ..
            }) => running += 1,
            Some(Record {
                state: State::Terminated(end),
                ..
            }) => {
                stopped += 1;
                succeeded += usize::from(end.code == 0);
            }
            Some(Record {
                state: State::Waiting { .. },
                last: Some(_),
                ..
            }) => stopped += 1,
            _ => waiting += 1,
        }
    }
    match () {
        () if waiting > 0 => "Pending",
        () if running > 0 => "Running",
        () if policy.is_none_or(|p| p == "Always") => "Running",
        () if stopped == succeeded => "Succeeded",
        () if policy == Some("Never") => "Failed",
        () => "Running",
    }
}

fn container_status(
    container: &Container,
    record: Option<&Record>,
    progress: &Progress,
) -> ContainerStatus {
    let blank = Record::waiting(if progress.ips.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    });
    let record = record.unwrap_or(&blank);
    let image = container.image.clone().unwrap_or_default();
    let ran = !record.id.is_empty();
    ContainerStatus {
        name: container.name.clone(),
        image_id: if ran {
            format!("osm-local://{image}")
        } else {
            String::new()
        },
        image,
        container_id: ran.then(|| record.id.clone()),
        // The record of a completed init container stays ready, that of any other ended container does not.
        ready: record.ready && (record.running() || record.code() == Some(0)),
        started: Some(record.started && record.running()),
        restart_count: record.restarts,
        state: Some(api_state(&record.state)),
        last_state: Some(
            record
                .last
                .as_ref()
                .map_or_else(ContainerState::default, |end| ContainerState {
                    terminated: Some(end.api()),
                    ..ContainerState::default()
                }),
        ),
        ..ContainerStatus::default()
    }
}

fn api_state(state: &State) -> ContainerState {
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        State::Running(since) => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        State::Terminated(end) => ContainerState {
            terminated: Some(end.api()),
            ..ContainerState::default()
        },
    }
}

/// A condition; its transition time is kept while its status stays.
fn transition(
    old: &PodStatus,
    kind: &str,
    problem: Option<(&str, String)>,
    now: Timestamp,
) -> PodCondition {
    let value = if problem.is_none() { "True" } else { "False" };
    let before = old
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == kind && c.status == value);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    PodCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: problem.as_ref().and_then(|p| text(p.0)),
        message: problem.as_ref().and_then(|p| text(&p.1)),
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(now))),
        ..PodCondition::default()
    }
}

fn missing_gates<'a>(spec: &'a PodSpec, old: &PodStatus) -> Vec<&'a str> {
    let is_true = |kind: &str| {
        old.conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == kind && c.status == "True")
    };
    spec.readiness_gates
        .iter()
        .flatten()
        .map(|g| g.condition_type.as_str())
        .filter(|kind| !is_true(kind))
        .collect()
}

fn quality(spec: &PodSpec) -> &'static str {
    let all = || {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    };
    let any = all().filter_map(|c| c.resources.as_ref()).any(|r| {
        r.limits.iter().flatten().next().is_some() || r.requests.iter().flatten().next().is_some()
    });
    let guaranteed = || {
        all().all(|c| {
            c.resources
                .as_ref()
                .and_then(|r| r.limits.as_ref())
                .is_some_and(|limits| {
                    let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
                    ["cpu", "memory"].iter().all(|k| {
                        limits.get(*k).is_some_and(|l| {
                            requests.and_then(|r| r.get(*k)).is_none_or(|r| r == l)
                        })
                    })
                })
        })
    };
    match any {
        false => "BestEffort",
        true if guaranteed() => "Guaranteed",
        true => "Burstable",
    }
}

#[cfg(test)]
mod tests;
