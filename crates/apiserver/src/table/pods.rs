//! Pods: READY, STATUS and RESTARTS are computed from container states.

use serde_json::{Value, json};

use super::{age, name, or_none, since};
use crate::object::{self, items, text};

/// A row.
pub fn cells(pod: &Value) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts > 0 => {
            json!(format!("{} ({} ago)", summary.restarts, since(&time)))
        }
        _ => json!(summary.restarts.to_string()),
    };
    let ip = items(pod, "/status/podIPs")
        .next()
        .map(|p| text(p, "/ip"))
        .unwrap_or(text(pod, "/status/podIP"));
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.status),
        restarts,
        age(pod),
        or_none(ip.to_owned()),
        or_none(text(pod, "/spec/nodeName").to_owned()),
        or_none(text(pod, "/status/nominatedNodeName").to_owned()),
        gates(pod),
    ]
}

fn gates(pod: &Value) -> Value {
    let gates: Vec<&str> = items(pod, "/spec/readinessGates")
        .map(|g| text(g, "/conditionType"))
        .collect();
    let met = gates.iter().filter(|g| condition(pod, g)).count();
    or_none(if gates.is_empty() {
        String::new()
    } else {
        format!("{met}/{}", gates.len())
    })
}

fn condition(pod: &Value, kind: &str) -> bool {
    items(pod, "/status/conditions").any(|c| c["type"] == kind && c["status"] == "True")
}

struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: Option<String>,
}

fn is_sidecar(spec: &Value) -> bool {
    spec["restartPolicy"] == "Always"
}

fn ended(prefix: &str, state: &Value) -> String {
    let reason = text(state, "/reason");
    if !reason.is_empty() {
        return format!("{prefix}{reason}");
    }
    match state["signal"].as_i64().filter(|s| *s != 0) {
        Some(signal) => format!("{prefix}Signal:{signal}"),
        None => format!(
            "{prefix}ExitCode:{}",
            state["exitCode"].as_i64().unwrap_or(0)
        ),
    }
}

fn summarise(pod: &Value) -> Summary {
    let reason = text(pod, "/status/reason");
    let status = if reason.is_empty() {
        text(pod, "/status/phase")
    } else {
        reason
    };
    let status = items(pod, "/status/conditions")
        .find(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
        .map_or(status, |c| text(c, "/reason"));
    let inits: Vec<&Value> = items(pod, "/spec/initContainers").collect();
    let total =
        items(pod, "/spec/containers").count() + inits.iter().filter(|c| is_sidecar(c)).count();
    let mut summary = Summary {
        ready: 0,
        total,
        status: status.to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let initialising = initialisation(pod, &inits, &mut summary);
    if !initialising || condition(pod, "Initialized") {
        containers(pod, &inits, &mut summary);
    }
    if object::is_terminating(pod) {
        if reason == "NodeLost" {
            summary.status = "Unknown".to_owned();
        } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            summary.status = "Terminating".to_owned();
        }
    }
    summary
}

/// Looks at the init containers; true while one of them is not done.
fn initialisation(pod: &Value, inits: &[&Value], summary: &mut Summary) -> bool {
    for (i, status) in items(pod, "/status/initContainerStatuses").enumerate() {
        count_restarts(status, summary);
        let sidecar = inits
            .iter()
            .find(|c| c["name"] == status["name"])
            .is_some_and(|c| is_sidecar(c));
        let (terminated, waiting) = (
            &status["state"]["terminated"],
            text(status, "/state/waiting/reason"),
        );
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            if status["ready"] == true {
                summary.ready += 1;
            }
            continue;
        }
        summary.status = if terminated.is_object() {
            ended("Init:", terminated)
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", inits.len())
        };
        return true;
    }
    false
}

fn count_restarts(status: &Value, summary: &mut Summary) {
    summary.restarts += status["restartCount"].as_i64().unwrap_or(0);
    let finished = text(status, "/lastState/terminated/finishedAt");
    if !finished.is_empty() && summary.last_restart.as_deref().is_none_or(|l| l < finished) {
        summary.last_restart = Some(finished.to_owned());
    }
}

fn containers(pod: &Value, inits: &[&Value], summary: &mut Summary) {
    // Restarts of ordinary init containers no longer count once the containers run.
    summary.restarts = 0;
    summary.last_restart = None;
    for status in items(pod, "/status/initContainerStatuses") {
        if inits
            .iter()
            .any(|c| c["name"] == status["name"] && is_sidecar(c))
        {
            count_restarts(status, summary);
        }
    }
    let mut running = false;
    let statuses: Vec<&Value> = items(pod, "/status/containerStatuses").collect();
    for status in statuses.into_iter().rev() {
        count_restarts(status, summary);
        let (waiting, terminated) = (
            text(status, "/state/waiting/reason"),
            &status["state"]["terminated"],
        );
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if terminated.is_object() {
            summary.status = ended("", terminated);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.status == "Completed" && running {
        summary.status = if condition(pod, "Ready") {
            "Running"
        } else {
            "NotReady"
        }
        .to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(pod: &Value) -> (String, String, String) {
        let cells = cells(pod);
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn states_read_as_kubectl_users_know_them() {
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}, {"name": "b"}]});
        let pod =
            |status: Value| json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let done =
            json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let running = |n: &str| json!({"name": n, "ready": true, "restartCount": 0, "state": {"running": {}}});
        let ready =
            json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]);
        let waiting = |n: &str, r: &str| json!({"name": n, "ready": false, "restartCount": 2, "state": {"waiting": {"reason": r}}});
        let cases = [
            (json!({"phase": "Pending"}), ("0/2", "Pending", "0")),
            (
                json!({"phase": "Pending", "initContainerStatuses": [done, {"name": "j", "state": {"running": {}}}]}),
                ("0/2", "Init:1/2", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "CrashLoopBackOff")]}),
                ("0/2", "Init:CrashLoopBackOff", "2"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                ("0/2", "Init:Error", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [done, done], "containerStatuses": [waiting("a", "PodInitializing"), waiting("b", "PodInitializing")]}),
                ("0/2", "PodInitializing", "4"),
            ),
            (
                json!({"phase": "Running", "conditions": ready, "containerStatuses": [running("a"), running("b")]}),
                ("2/2", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running("a"), waiting("b", "CrashLoopBackOff")]}),
                ("1/2", "CrashLoopBackOff", "2"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                ("0/2", "Completed", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
                ("0/2", "Signal:9", "0"),
            ),
        ];
        for (status, expected) in cases {
            let got = status_of(&pod(status.clone()));
            assert_eq!(
                (got.0.as_str(), got.1.as_str(), got.2.as_str()),
                expected,
                "{status}"
            );
        }
        let mut going = pod(json!({"phase": "Running"}));
        going["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:00:00Z");
        assert_eq!(status_of(&going).1, "Terminating");
    }
}
