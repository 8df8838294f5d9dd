//! The arithmetic of a roll-out: which ReplicaSet gets which size next

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The sizes a Deployment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub desired: i32,
    /// Pods that may exist beyond `desired`.
    pub surge: i32,
    /// Pods that may be unavailable.
    pub unavailable: i32,
    /// All old pods go before the first new one comes.
    pub recreate: bool,
}

/// A ReplicaSet's size: as asked for, and how much of it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub wanted: i32,
    pub available: i32,
}

/// The next sizes of the new ReplicaSet and, in the given order, of the old ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub new: i32,
    pub old: Vec<i32>,
}

// === impl Sizes ===

impl Sizes {
    pub fn of(spec: &DeploymentSpec) -> Self {
        let desired = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.clone().unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let surge = share(
            rolling.max_surge.as_ref().unwrap_or(&quarter),
            desired,
            true,
        );
        let unavailable = share(
            rolling.max_unavailable.as_ref().unwrap_or(&quarter),
            desired,
            false,
        );
        // Neither more nor fewer pods would mean no step is ever allowed.
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        };
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        let (surge, unavailable) = if recreate {
            (0, desired)
        } else {
            (surge, unavailable.min(desired))
        };
        Self {
            desired,
            surge,
            unavailable,
            recreate,
        }
    }

    /// Fewest pods that must serve at any time.
    pub fn least_available(&self) -> i32 {
        if self.recreate {
            self.desired
        } else {
            self.desired.saturating_sub(self.unavailable)
        }
    }
}

/// A count, or a percentage of `of`, rounded up or down.
fn share(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.max(0).saturating_mul(of.into());
            let rounded = if up {
                hundredths.saturating_add(99) / 100
            } else {
                hundredths / 100
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// The next step; `old_pods_run` (only for Recreate): a pod of an old ReplicaSet still exists.
pub(super) fn next_step(sizes: Sizes, new: Size, old: &[Size], old_pods_run: bool) -> Step {
    let unchanged = || old.iter().map(|set| set.wanted).collect();
    if sizes.recreate {
        let emptied = old.iter().all(|set| set.wanted == 0);
        let wanted = if emptied && !old_pods_run {
            sizes.desired
        } else {
            new.wanted.min(sizes.desired)
        };
        return Step {
            new: wanted,
            old: vec![0; old.len()],
        };
    }
    let grown = new_size(sizes, new, old);
    if grown != new.wanted {
        return Step {
            new: grown,
            old: unchanged(),
        };
    }
    Step {
        new: new.wanted,
        old: old_sizes(sizes, new, old),
    }
}

fn new_size(sizes: Sizes, new: Size, old: &[Size]) -> i32 {
    if new.wanted >= sizes.desired {
        return sizes.desired;
    }
    let most = sizes.desired.saturating_add(sizes.surge);
    let room = most
        .saturating_sub(new.wanted)
        .saturating_sub(old.iter().map(|set| set.wanted).sum());
    new.wanted
        .saturating_add(room.clamp(0, sizes.desired - new.wanted))
}

fn old_sizes(sizes: Sizes, new: Size, old: &[Size]) -> Vec<i32> {
    let mut wanted: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let all: i32 = wanted.iter().sum::<i32>().saturating_add(new.wanted);
    let least = sizes.least_available();
    // What the new set will still need to become available must not be taken from the old ones as well.
    let removable = all - least - (new.wanted - new.available).max(0);
    if removable <= 0 {
        return wanted;
    }
    // First what serves nobody.
    let mut left = removable;
    for (size, set) in wanted.iter_mut().zip(old) {
        let unhealthy = (set.wanted - set.available).clamp(0, left);
        *size -= unhealthy;
        left -= unhealthy;
    }
    // Then what serves, as far as enough others do.
    let available: i32 = old
        .iter()
        .map(|set| set.available)
        .sum::<i32>()
        .saturating_add(new.available);
    let mut spare = (available - least).max(0);
    for size in &mut wanted {
        let down = spare.min(*size);
        *size -= down;
        spare -= down;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sizes(desired: i32, surge: i32, unavailable: i32) -> Sizes {
        Sizes {
            desired,
            surge,
            unavailable,
            recreate: false,
        }
    }

    fn size(wanted: i32, available: i32) -> Size {
        Size { wanted, available }
    }

    #[test]
    fn percentages_round_surge_up_and_unavailability_down() {
        let cases = [
            (json!({"replicas": 1}), sizes(1, 1, 0)),
            (json!({"replicas": 10}), sizes(10, 3, 2)),
            (
                json!({"replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                sizes(4, 0, 1),
            ),
            (
                json!({"replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 9}}}),
                sizes(4, 2, 4),
            ),
            (
                json!({"replicas": 0}),
                Sizes {
                    desired: 0,
                    surge: 0,
                    unavailable: 0,
                    recreate: false,
                },
            ),
        ];
        for (mut spec, wanted) in cases {
            spec["selector"] = json!({});
            spec["template"] = json!({});
            let spec: DeploymentSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(Sizes::of(&spec), wanted, "{spec:?}");
        }
    }

    #[test]
    fn rolling_steps() {
        let cases = [
            (
                "first roll-out",
                sizes(3, 1, 0),
                size(0, 0),
                vec![],
                (3, vec![]),
            ),
            (
                "scaled down",
                sizes(1, 1, 0),
                size(3, 3),
                vec![],
                (1, vec![]),
            ),
            (
                "surge comes first",
                sizes(1, 1, 0),
                size(0, 0),
                vec![size(1, 1)],
                (1, vec![1]),
            ),
            (
                "old waits for new to serve",
                sizes(1, 1, 0),
                size(1, 0),
                vec![size(1, 1)],
                (1, vec![1]),
            ),
            (
                "old goes when new serves",
                sizes(1, 1, 0),
                size(1, 1),
                vec![size(1, 1)],
                (1, vec![0]),
            ),
            (
                "without surge old goes first",
                sizes(2, 0, 1),
                size(0, 0),
                vec![size(2, 2)],
                (0, vec![1]),
            ),
            (
                "then new comes",
                sizes(2, 0, 1),
                size(0, 0),
                vec![size(1, 1)],
                (1, vec![1]),
            ),
            (
                "unhealthy old pods go at once",
                sizes(4, 1, 1),
                size(2, 2),
                vec![size(3, 0)],
                (2, vec![1]),
            ),
            (
                "two old sets, oldest first",
                sizes(4, 1, 1),
                size(1, 1),
                vec![size(2, 2), size(2, 2)],
                (1, vec![0, 2]),
            ),
            (
                "done",
                sizes(3, 1, 1),
                size(3, 3),
                vec![size(0, 0)],
                (3, vec![0]),
            ),
        ];
        for (why, sizes, new, old, (new_wanted, old_wanted)) in cases {
            assert_eq!(
                next_step(sizes, new, &old, false),
                Step {
                    new: new_wanted,
                    old: old_wanted
                },
                "{why}"
            );
        }
    }

    #[test]
    fn recreate_waits_until_the_last_old_pod_is_gone() {
        let recreate = Sizes {
            desired: 2,
            surge: 0,
            unavailable: 2,
            recreate: true,
        };
        let cases = [
            (size(0, 0), vec![size(2, 2)], true, (0, vec![0])),
            (size(0, 0), vec![size(0, 0)], true, (0, vec![0])),
            (size(0, 0), vec![size(0, 0)], false, (2, vec![0])),
        ];
        for (new, old, run, (new_wanted, old_wanted)) in cases {
            assert_eq!(
                next_step(recreate, new, &old, run),
                Step {
                    new: new_wanted,
                    old: old_wanted
                }
            );
        }
    }

    /// Plays a whole roll-out: at no time too many pods, or too few that serve, and it ends.
    #[test]
    fn a_roll_out_keeps_its_bounds_and_ends() {
        for desired in 0..7 {
            for (surge, unavailable) in [(1, 0), (0, 1), (2, 1), (3, 3)] {
                let bounds = sizes(desired, surge, unavailable.min(desired));
                let (mut new, mut old) = (size(0, 0), vec![size(desired, desired)]);
                for round in 0.. {
                    assert!(round < 50, "{bounds:?} does not end");
                    let step = next_step(bounds, new, &old, false);
                    let total = step.new + step.old.iter().sum::<i32>();
                    assert!(total <= desired + surge.max(0), "{bounds:?} {step:?}");
                    let serving = new.available.min(step.new)
                        + old
                            .iter()
                            .zip(&step.old)
                            .map(|(o, w)| o.available.min(*w))
                            .sum::<i32>();
                    assert!(serving >= bounds.least_available(), "{bounds:?} {step:?}");
                    if step.new == desired && step.old == [0] {
                        break;
                    }
                    // One new pod becomes available per round.
                    new = size(step.new, (new.available + 1).min(step.new));
                    old = step
                        .old
                        .iter()
                        .map(|wanted| size(*wanted, *wanted))
                        .collect();
                }
            }
        }
    }
}
