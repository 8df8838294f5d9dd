//! Which pod of a StatefulSet is made or deleted next

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::pods::{Availability, availability, is_finished, is_ready, phase};

/// The label that says of which revision of the template a pod is.
pub(super) const REVISION: &str = "controller-revision-hash";

/// What the set is to be.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// The first ordinal.
    pub start: i32,
    /// How many pods there are to be.
    pub replicas: i32,
    /// All at once, not one after the other.
    pub parallel: bool,
    /// How long a pod must have been ready until the next is made.
    pub min_ready_seconds: i32,
    /// The first ordinal that is brought to the new revision; nothing if pods are left to their users to delete.
    pub partition: Option<i32>,
    /// The revision that pods below the partition have.
    pub current: String,
    /// The revision of the template as it is.
    pub update: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of the update's revision, or of the current one.
    Create { ordinal: i32, updated: bool },
    /// Only if it is still this one.
    Delete { name: String, uid: String },
}

/// What is to be done now, and when to look again at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub again: Option<Duration>,
}

/// The ordinal of a pod by its name, which is all there is to tell it by.
pub(super) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal: i32 = number.parse().ok()?;
    (ordinal >= 0 && ordinal.to_string() == number).then_some(ordinal)
}

impl Wish {
    pub(super) fn new(set: &StatefulSet, current: String, update: String) -> Wish {
        let spec = set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let start = spec.ordinals.and_then(|ordinals| ordinals.start);
        let start = start.unwrap_or(0);
        let partition = strategy.rolling_update.and_then(|of| of.partition);
        let is_rolling = strategy.type_.as_deref() != Some("OnDelete");
        Wish {
            start,
            replicas: spec.replicas.unwrap_or(1),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            partition: is_rolling.then(|| start.saturating_add(partition.unwrap_or(0))),
            current,
            update,
        }
    }

    /// Decides by the set's pods with their ordinals, in ascending order; Kubernetes' order of things: the wanted pods
    /// from the first, then the surplus from the last, then updates from the last.
    pub(super) fn plan(&self, pods: &[(i32, &Pod)], now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if !self.complete(pods, now, &mut plan) || !self.shrink(pods, &mut plan) {
            return plan;
        }
        self.renew(pods, &mut plan);
        plan
    }

    fn wants(&self, ordinal: i32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }

    /// Makes what is missing; `false` if what follows must wait.
    fn complete(&self, pods: &[(i32, &Pod)], now: Timestamp, plan: &mut Plan) -> bool {
        for ordinal in self.start..self.start.saturating_add(self.replicas) {
            let there = pods.iter().find(|(of, _)| *of == ordinal);
            let is_settled = match there {
                None => {
                    let updated = self.partition.is_none_or(|partition| ordinal >= partition);
                    plan.steps.push(Step::Create { ordinal, updated });
                    false
                }
                Some((_, pod)) if is_going(pod) => false,
                Some((_, pod)) if is_finished(pod) => {
                    plan.steps.push(delete(pod));
                    false
                }
                Some((_, pod)) => self.is_available(pod, now, plan),
            };
            if !is_settled && !self.parallel {
                return false;
            }
        }
        true
    }

    fn is_available(&self, pod: &Pod, now: Timestamp, plan: &mut Plan) -> bool {
        if phase(pod) != "Running" {
            return false;
        }
        match availability(pod, self.min_ready_seconds, now) {
            Availability::Yes => true,
            Availability::No => false,
            Availability::In(missing) => {
                plan.again = Some(plan.again.map_or(missing, |again| again.min(missing)));
                false
            }
        }
    }

    /// Deletes what is too much; `false` if what follows must wait.
    fn shrink(&self, pods: &[(i32, &Pod)], plan: &mut Plan) -> bool {
        for (ordinal, pod) in pods.iter().rev() {
            if self.wants(*ordinal) {
                continue;
            }
            if !is_going(pod) {
                plan.steps.push(delete(pod));
            }
            if !self.parallel {
                return false;
            }
        }
        true
    }

    /// Deletes one pod of an older revision, once those above it are well.
    fn renew(&self, pods: &[(i32, &Pod)], plan: &mut Plan) {
        let Some(partition) = self.partition else {
            return;
        };
        for (ordinal, pod) in pods.iter().rev() {
            if !self.wants(*ordinal) || *ordinal < partition {
                continue;
            }
            if is_going(pod) {
                return;
            }
            if revision(pod) != Some(&self.update) {
                let step = delete(pod);
                if !plan.steps.contains(&step) {
                    plan.steps.push(step);
                }
                return;
            }
            if phase(pod) != "Running" || !is_ready(pod) {
                return;
            }
        }
    }
}

/// The revision a pod is of.
pub(super) fn revision(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION).map(String::as_str)
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn delete(pod: &Pod) -> Step {
    Step::Delete {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn wish(replicas: i32) -> Wish {
        Wish {
            start: 0,
            replicas,
            parallel: false,
            min_ready_seconds: 0,
            partition: Some(0),
            current: "db-a".into(),
            update: "db-a".into(),
        }
    }

    /// `how` is a word for each state a pod may be in, behind a slash the revision's letter.
    fn pod(ordinal: i32, how: &str) -> Pod {
        let (how, revision) = how.split_once('/').unwrap_or((how, "a"));
        let mut meta = json!({
            "name": format!("db-{ordinal}"), "uid": format!("u{ordinal}"),
            "labels": {REVISION: format!("db-{revision}")}
        });
        if how == "going" {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let phase = match how {
            "pending" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let ready = if how == "unready" { "False" } else { "True" };
        let condition =
            json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:55Z"});
        serde_json::from_value(
            json!({"metadata": meta, "status": {"phase": phase, "conditions": [condition]}}),
        )
        .unwrap()
    }

    /// The steps, as `+2` (of the new revision) `~2` (of the current) and `-2`.
    fn plan(wish: &Wish, pods: &[(i32, &str)]) -> String {
        let pods: Vec<(i32, Pod)> = pods.iter().map(|(n, how)| (*n, pod(*n, how))).collect();
        let pods: Vec<(i32, &Pod)> = pods.iter().map(|(n, pod)| (*n, pod)).collect();
        let steps = wish.plan(&pods, now()).steps;
        let words = steps.iter().map(|step| match step {
            Step::Create {
                ordinal,
                updated: true,
            } => format!("+{ordinal}"),
            Step::Create { ordinal, .. } => format!("~{ordinal}"),
            Step::Delete { name, .. } => name.replace("db", ""),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_come_one_after_the_other_and_go_in_the_other_order() {
        type Case<'a> = (i32, &'a [(i32, &'a str)], &'a str);
        let cases: &[Case<'_>] = &[
            (3, &[], "+0"),
            (3, &[(0, "pending")], ""),
            (3, &[(0, "unready")], ""),
            (3, &[(0, "ready")], "+1"),
            (3, &[(0, "ready"), (2, "ready")], "+1"),
            (3, &[(0, "going"), (1, "ready")], ""),
            (3, &[(0, "failed")], "-0"),
            (3, &[(0, "ready"), (1, "ready"), (2, "ready")], ""),
            (1, &[(0, "ready"), (1, "ready"), (2, "ready")], "-2"),
            (1, &[(0, "ready"), (1, "ready"), (2, "going")], ""),
            (1, &[(0, "unready"), (1, "ready")], ""),
            (0, &[(0, "unready")], "-0"),
        ];
        for (replicas, pods, wanted) in cases {
            assert_eq!(plan(&wish(*replicas), pods), *wanted, "{replicas} {pods:?}");
        }
    }

    #[test]
    fn in_parallel_nobody_waits() {
        let wish = Wish {
            parallel: true,
            ..wish(3)
        };
        assert_eq!(plan(&wish, &[]), "+0 +1 +2");
        let pods = [(0, "unready"), (3, "ready"), (4, "ready")];
        assert_eq!(plan(&wish, &pods), "+1 +2 -4 -3");
    }

    #[test]
    fn a_new_revision_comes_from_the_last_pod_on_down_to_the_partition() {
        let new = Wish {
            update: "db-b".into(),
            ..wish(3)
        };
        let old = [(0, "ready"), (1, "ready"), (2, "ready")];
        assert_eq!(plan(&new, &old), "-2");
        let under_way = [(0, "ready"), (1, "ready"), (2, "unready/b")];
        assert_eq!(plan(&new, &under_way), "", "one after the other");
        let next = [(0, "ready"), (1, "ready"), (2, "ready/b")];
        assert_eq!(plan(&new, &next), "-1");
        assert_eq!(plan(&new, &[(0, "ready"), (1, "ready")]), "+2");
        let part = Wish {
            partition: Some(2),
            ..new.clone()
        };
        assert_eq!(plan(&part, &next), "", "the rest stays");
        assert_eq!(
            plan(&part, &[(0, "ready")]),
            "~1",
            "and comes back as it was"
        );
        let left = Wish {
            partition: None,
            ..new
        };
        assert_eq!(plan(&left, &old), "", "OnDelete");
    }

    #[test]
    fn the_next_pod_waits_until_the_last_was_ready_for_long_enough() {
        let wish = Wish {
            min_ready_seconds: 10,
            ..wish(2)
        };
        let first = pod(0, "ready");
        let plan = wish.plan(&[(0, &first)], now());
        let again = Some(Duration::from_secs(5));
        assert_eq!((plan.steps, plan.again), (Vec::new(), again));
    }

    #[test]
    fn a_pod_is_told_by_its_name() {
        let named = |name: &str| -> Option<i32> {
            let pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            ordinal("db", &pod)
        };
        assert_eq!(named("db-0"), Some(0));
        assert_eq!(named("db-17"), Some(17));
        for other in ["db", "db-", "db-x", "db-01", "db--1", "web-0", "db-0-1"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
