//! How many pods to make, or which to delete

use std::cmp::Ordering;
use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::pods::{is_active, phase, ready_since};

/// Annotation by which a pod says how much its loss would cost; the cheapest go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What brings the set nearer to its wanted size.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Create(usize),
    /// Name and uid of each pod.
    Delete(Vec<(String, String)>),
}

/// Decides by the set's own pods, of which at most `burst` are made or deleted.
pub(super) fn step(wanted: i32, mine: &[Pod], burst: usize) -> Step {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let mut active: Vec<&Pod> = mine.iter().filter(|pod| is_active(pod)).collect();
    match active.len().cmp(&wanted) {
        Ordering::Equal => Step::Nothing,
        Ordering::Less => Step::Create((wanted - active.len()).min(burst)),
        Ordering::Greater => {
            let surplus = (active.len() - wanted).min(burst);
            let mut on_node: HashMap<&str, usize> = HashMap::new();
            for node in active.iter().filter_map(|pod| node(pod)) {
                *on_node.entry(node).or_default() += 1;
            }
            let rank = |pod: &Pod| {
                node(pod)
                    .and_then(|node| on_node.get(node))
                    .copied()
                    .unwrap_or(0)
            };
            active.sort_by(|a, b| cheaper(a, b, rank(a), rank(b)));
            Step::Delete(
                active
                    .iter()
                    .take(surplus)
                    .map(|pod| (pod.name_any(), pod.uid().unwrap_or_default()))
                    .collect(),
            )
        }
    }
}

/// Kubernetes' order: unassigned, pending, not ready, low cost, crowded node, ready for less time, more restarts, younger.
fn cheaper(a: &Pod, b: &Pod, rank_a: usize, rank_b: usize) -> Ordering {
    let order = node(a).is_some().cmp(&node(b).is_some());
    let order = order.then_with(|| phase_rank(a).cmp(&phase_rank(b)));
    let order = order.then_with(|| ready_since(a).is_some().cmp(&ready_since(b).is_some()));
    let order = order.then_with(|| cost(a).cmp(&cost(b)));
    let order = order.then_with(|| rank_b.cmp(&rank_a));
    let order = order.then_with(|| ready_since(b).cmp(&ready_since(a)));
    let order = order.then_with(|| restarts(b).cmp(&restarts(a)));
    order.then_with(|| created(b).cmp(&created(a)))
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get(DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    statuses
        .iter()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// name, node, phase, ready since, restarts, created at (minutes)
    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready: Option<u8>,
        restarts: i32,
        created: u8,
    ) -> Pod {
        let time = |minute: u8| format!("2026-01-01T00:{minute:02}:00Z");
        let conditions: Vec<Value> = ready
            .iter()
            .map(|m| json!({"type": "Ready", "status": "True", "lastTransitionTime": time(*m)}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": time(created)},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": conditions,
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]},
        }))
        .unwrap()
    }

    #[test]
    fn steps_by_count() {
        let two = [
            pod("a", "n", "Running", Some(1), 0, 1),
            pod("b", "n", "Running", Some(1), 0, 2),
        ];
        let cases = [
            (2, Step::Nothing),
            (5, Step::Create(3)),
            (100, Step::Create(10)),
            (0, Step::Delete(vec![])),
        ];
        for (wanted, expected) in cases {
            match (step(wanted, &two, 10), expected) {
                (Step::Delete(names), Step::Delete(_)) => assert_eq!(names.len(), 2),
                (got, expected) => assert_eq!(got, expected, "{wanted}"),
            }
        }
    }

    #[test]
    fn finished_and_terminating_pods_do_not_count() {
        let mut going = pod("a", "n", "Running", Some(1), 0, 1);
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        let pods = [
            going,
            pod("b", "n", "Failed", None, 0, 1),
            pod("c", "n", "Succeeded", None, 0, 1),
        ];
        assert_eq!(step(1, &pods, 10), Step::Create(1));
    }

    #[test]
    fn the_cheapest_pod_goes_first() {
        let best = || pod("keep", "n", "Running", Some(5), 0, 5);
        let mut cheap = pod("go", "n", "Running", Some(1), 0, 1);
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-1".to_owned())].into());
        let cases = [
            ("unassigned", pod("go", "", "Running", Some(1), 0, 1)),
            ("pending", pod("go", "n", "Pending", None, 0, 1)),
            ("not ready", pod("go", "n", "Running", None, 0, 1)),
            ("lower deletion cost", cheap),
            (
                "ready for less time",
                pod("go", "n", "Running", Some(6), 0, 1),
            ),
            ("more restarts", pod("go", "n", "Running", Some(5), 2, 1)),
            ("younger", pod("go", "n", "Running", Some(5), 0, 6)),
        ];
        for (why, victim) in cases {
            let pods = [best(), victim];
            assert_eq!(
                step(1, &pods, 10),
                Step::Delete(vec![("go".into(), "go".into())]),
                "{why}"
            );
        }
    }
}
