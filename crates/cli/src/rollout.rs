//! Waiting for Deployments, and saying what they wait for themselves.

use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use crate::cluster::{explain, is_absent};

/// Between two looks; a rollout takes seconds.
const INTERVAL: Duration = Duration::from_millis(300);

/// Waits until all replicas of these Deployments are up to date and available.
pub async fn wait(
    client: &Client,
    namespace: &str,
    deployments: &[String],
    timeout: Duration,
) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let end = Instant::now() + timeout;
    for name in deployments {
        loop {
            let reason = match api.get(name).await {
                Ok(deployment) => match unfinished(&deployment) {
                    None => break,
                    Some(reason) => reason,
                },
                Err(error) if is_absent(&error) => {
                    bail!("Deployment {namespace}/{name} was deleted")
                }
                // The control plane's own webhooks and a busy API server pass; the deadline does not.
                Err(error) => explain(&error),
            };
            if Instant::now() >= end {
                let pods = troubled_pods(client, namespace, name)
                    .await
                    .unwrap_or_default();
                let detail = if pods.is_empty() {
                    String::new()
                } else {
                    format!("; {}", pods.join("; "))
                };
                bail!(
                    "timed out after {} waiting for Deployment {namespace}/{name}: {reason}{detail}",
                    seconds(timeout)
                );
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// What is left to do; `None` if the rollout is complete.
fn unfinished(deployment: &Deployment) -> Option<String> {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return Some("not yet seen by its controller".to_owned());
    }
    let (updated, total, available) = (
        status.updated_replicas.unwrap_or(0),
        status.replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    if updated < wanted {
        Some(format!("{updated} of {wanted} replicas created"))
    } else if total > updated {
        Some(format!("{} old replicas still there", total - updated))
    } else if available < wanted {
        Some(format!("{available} of {wanted} replicas ready"))
    } else {
        None
    }
}

/// One line for each pod of the application that is not ready.
async fn troubled_pods(client: &Client, namespace: &str, app: &str) -> anyhow::Result<Vec<String>> {
    let lines = pod_statuses(client, namespace, &format!("app={app}")).await?;
    Ok(lines
        .into_iter()
        .filter(|(_, ready, _)| !ready)
        .map(|(name, _, status)| format!("pod {name}: {status}"))
        .collect())
}

/// Name, readiness and state of the pods with these labels.
pub async fn pod_statuses(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> anyhow::Result<Vec<(String, bool, String)>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels(selector))
        .await
        .map_err(|error| anyhow!(explain(&error)))?;
    Ok(pods.into_iter().map(pod_status).collect())
}

fn pod_status(pod: Pod) -> (String, bool, String) {
    let status = pod.status.unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_else(|| "Unknown".to_owned());
    let conditions = status.conditions.unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
    let mut text = vec![phase];
    if let Some(unscheduled) =
        condition("PodScheduled").filter(|condition| condition.status == "False")
    {
        text.extend(unscheduled.message.clone());
    }
    let containers = status
        .init_container_statuses
        .into_iter()
        .chain(status.container_statuses)
        .flatten();
    for container in containers.filter(|container| !container.ready) {
        let state = container.state.unwrap_or_default();
        let ended = state
            .terminated
            .or(container.last_state.and_then(|last| last.terminated));
        let why = match (state.waiting, ended) {
            (_, Some(ended)) if ended.exit_code == 0 => continue,
            (Some(waiting), None) => [waiting.reason, waiting.message]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": "),
            (_, Some(ended)) => {
                let message = ended
                    .message
                    .map(|message| format!(": {}", message.trim()))
                    .unwrap_or_default();
                format!("ended with exit code {}{message}", ended.exit_code)
            }
            (None, None) => "not ready".to_owned(),
        };
        text.push(format!(
            "container {} {why} (restarts: {})",
            container.name, container.restart_count
        ));
    }
    (
        pod.metadata.name.unwrap_or_default(),
        ready,
        text.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_complete_when_all_replicas_are_new_and_available() {
        for (status, expected) in [
            (json!({}), Some("not yet seen by its controller")),
            (
                json!({"observedGeneration": 2}),
                Some("0 of 1 replicas created"),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 2}),
                Some("1 old replicas still there"),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 1}),
                Some("0 of 1 replicas ready"),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 1, "availableReplicas": 1}),
                None,
            ),
        ] {
            let deployment = json!({
                "metadata": {"generation": 2},
                "spec": {"selector": {}, "template": {}, "replicas": 1},
                "status": status,
            });
            let deployment: Deployment = serde_json::from_value(deployment).unwrap();
            assert_eq!(unfinished(&deployment).as_deref(), expected);
        }
    }
}
