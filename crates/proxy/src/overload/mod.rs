//! The overload manager: what is scarce is measured, and new work is refused before the want of it ends the proxy.
//!
//! Envoy's `overload_manager` says what is measured and which actions begin at which pressure; where nothing is said,
//! [`Settings::own`] watches descriptors and memory. Deciding is pure ([`Judge`]); [`watch`] measures and tells.

mod measure;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::stats::{Family, Samples};
use crate::worker::Shared;

pub use measure::{descriptors_open, memory_limit};

/// How often resources are measured where configuration does not say: Envoy's interval …
pub const INTERVAL: Duration = Duration::from_secs(1);
/// … and ours, since a burst of connections uses up descriptors within a second.
const OWN_INTERVAL: Duration = Duration::from_millis(200);

/// What is measured, and what is done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How often.
    pub interval: Duration,
    /// What is measured.
    pub monitors: Vec<Monitor>,
    /// What is done.
    pub actions: Vec<Rule>,
    /// Connections from clients at a time, if there is a limit.
    pub connections: Option<usize>,
}

/// Something scarce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Its name, by which triggers call it.
    pub name: String,
    /// What it is.
    pub resource: Resource,
}

/// What can be scarce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The proxy's own memory, of so many bytes.
    Heap(u64),
    /// The memory of the proxy's control group, of so many bytes or of the group's own limit.
    Cgroup(Option<u64>),
    /// Open files, of so many.
    Descriptors(u64),
    /// What a file says, from 0 to 1: for tests.
    Injected(PathBuf),
}

/// An action and what begins it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// Any of these begins it.
    pub triggers: Vec<Trigger>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Requests are answered 503.
    StopRequests,
    /// Connections wait in the kernel's queue.
    StopConnections,
    /// Connections are closed as soon as they come.
    RejectConnections,
    /// Connections end with their next response.
    DisableKeepAlive,
    /// Free memory goes back to the system: the allocator does so by itself.
    ShrinkHeap,
}

/// When a resource's pressure begins an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// The place of its monitor.
    pub monitor: usize,
    /// From here on.
    pub on: f64,
    /// Until it is below this again; as much as `on` or less.
    pub off: f64,
}

/// What is decided, and what it was decided from.
#[derive(Debug, Default)]
pub struct Overload {
    /// The active actions, one bit each.
    active: AtomicU8,
    watched: OnceLock<Watched>,
}

#[derive(Debug)]
struct Watched {
    settings: Settings,
    /// Percent, by monitor.
    pressures: Vec<AtomicU64>,
    failures: Vec<AtomicU64>,
}

/// Decides, from measurement to measurement.
#[derive(Debug, Default)]
pub struct Judge {
    active: u8,
}

// === impl Action ===

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] = [
        Action::StopRequests,
        Action::StopConnections,
        Action::RejectConnections,
        Action::DisableKeepAlive,
        Action::ShrinkHeap,
    ];

    /// Envoy's name.
    pub fn name(self) -> &'static str {
        match self {
            Action::StopRequests => "envoy.overload_actions.stop_accepting_requests",
            Action::StopConnections => "envoy.overload_actions.stop_accepting_connections",
            Action::RejectConnections => "envoy.overload_actions.reject_incoming_connections",
            Action::DisableKeepAlive => "envoy.overload_actions.disable_http_keepalive",
            Action::ShrinkHeap => "envoy.overload_actions.shrink_heap",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Action::StopRequests => 1,
            Action::StopConnections => 2,
            Action::RejectConnections => 4,
            Action::DisableKeepAlive => 8,
            Action::ShrinkHeap => 16,
        }
    }
}

// === impl Settings ===

impl Settings {
    /// Where nothing is configured: accepting rests when descriptors run out, requests are refused before they or the
    /// memory of the proxy's group are used up.
    pub fn own(descriptors: u64, memory: Option<u64>) -> Settings {
        let monitor = |name: &str, resource| Monitor {
            name: name.to_owned(),
            resource,
        };
        let trigger = |monitor, on, off| Trigger { monitor, on, off };
        let mut monitors = vec![monitor(
            "osm.descriptors",
            Resource::Descriptors(descriptors),
        )];
        let mut stop_requests = vec![trigger(0, 0.98, 0.95)];
        let mut no_keep_alive = Vec::new();
        // Of the group's memory only what is our own counts: what others use is not ours to save.
        if let Some(memory) = memory {
            monitors.push(monitor("osm.memory", Resource::Heap(memory)));
            stop_requests.push(trigger(1, 0.95, 0.90));
            no_keep_alive.push(trigger(1, 0.90, 0.85));
        }
        let rule = |action, triggers| Rule { action, triggers };
        Settings {
            interval: OWN_INTERVAL,
            monitors,
            actions: vec![
                rule(Action::StopRequests, stop_requests),
                rule(Action::StopConnections, vec![trigger(0, 0.95, 0.90)]),
                rule(Action::DisableKeepAlive, no_keep_alive),
            ],
            connections: None,
        }
    }
}

// === impl Judge ===

impl Judge {
    /// Which actions are due at these pressures, by monitor; what could not be measured changes nothing.
    pub fn decide(&mut self, rules: &[Rule], pressures: &[Option<f64>]) -> u8 {
        for rule in rules {
            let bit = rule.action.bit();
            let was = self.active & bit != 0;
            let holds = |trigger: &Trigger| match pressures.get(trigger.monitor) {
                Some(Some(pressure)) => *pressure >= if was { trigger.off } else { trigger.on },
                _ => was,
            };
            match rule.triggers.iter().any(holds) {
                true => self.active |= bit,
                false => self.active &= !bit,
            }
        }
        self.active
    }
}

// === impl Overload ===

impl Overload {
    /// Whether an action is active.
    pub fn is(&self, action: Action) -> bool {
        self.active.load(Ordering::Relaxed) & action.bit() != 0
    }

    /// Says which actions are active.
    fn set(&self, active: u8) -> u8 {
        self.active.swap(active, Ordering::Relaxed)
    }

    /// The system has no descriptor left: accepting rests until the next measurement.
    pub fn exhausted(&self) {
        self.active
            .fetch_or(Action::StopConnections.bit(), Ordering::Relaxed);
    }

    /// Adds what was measured and decided.
    pub fn sample(&self, samples: &mut Samples) {
        let Some(watched) = self.watched.get() else {
            return;
        };
        let family = Family::new("overload.", "envoy_overload_");
        let numbers = watched.pressures.iter().zip(&watched.failures);
        for (monitor, (pressure, failed)) in watched.settings.monitors.iter().zip(numbers) {
            let pressure = i64::try_from(pressure.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            samples.gauge(&family, &format!("{}.pressure", monitor.name), pressure);
            let failed = failed.load(Ordering::Relaxed);
            samples.counter(&family, &format!("{}.failed_updates", monitor.name), failed);
        }
        for rule in &watched.settings.actions {
            let active = i64::from(self.is(rule.action));
            let name = rule.action.name();
            samples.gauge(&family, &format!("{name}.active"), active);
            samples.gauge(
                &family,
                &format!("{name}.scale_percent"),
                active.saturating_mul(100),
            );
        }
    }
}

/// Measures and decides for ever.
pub async fn watch(shared: Arc<Shared>, settings: Settings) {
    let zeros = || {
        settings
            .monitors
            .iter()
            .map(|_| AtomicU64::new(0))
            .collect()
    };
    let (pressures, failures) = (zeros(), zeros());
    let watched = shared.overload.watched.get_or_init(|| Watched {
        settings,
        pressures,
        failures,
    });
    let settings = &watched.settings;
    let mut judge = Judge::default();
    loop {
        let monitors = settings.monitors.iter();
        let found: Vec<Option<f64>> = monitors
            .map(|one| measure::pressure(&one.resource))
            .collect();
        for (index, pressure) in found.iter().enumerate() {
            match (
                pressure,
                watched.pressures.get(index),
                watched.failures.get(index),
            ) {
                (Some(pressure), Some(shown), _) => {
                    shown.store(percent(*pressure), Ordering::Relaxed)
                }
                (None, _, Some(failed)) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            }
        }
        let now = judge.decide(&settings.actions, &found);
        let before = shared.overload.set(now);
        for rule in settings
            .actions
            .iter()
            .filter(|rule| (now ^ before) & rule.action.bit() != 0)
        {
            let (action, active) = (rule.action.name(), now & rule.action.bit() != 0);
            tracing::warn!(action, active, pressures = ?found, "overload");
        }
        tokio::time::sleep(settings.interval).await;
    }
}

/// From a pressure that is no more than a few.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn percent(pressure: f64) -> u64 {
    (pressure * 100.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_begin_and_end_at_their_own_pressures() {
        let settings = Settings::own(1000, Some(1 << 20));
        let stops = Action::StopConnections.bit();
        let refuses = Action::StopRequests.bit();
        let closes = Action::DisableKeepAlive.bit();
        let mut judge = Judge::default();
        for (descriptors, memory, expected) in [
            (Some(0.5), Some(0.1), 0),
            (Some(0.949), Some(0.1), 0),
            (Some(0.95), Some(0.1), stops),
            (Some(0.90), Some(0.1), stops),
            (Some(0.98), Some(0.1), stops | refuses),
            (None, None, stops | refuses),
            (Some(0.94), Some(0.1), stops),
            (Some(0.89), Some(0.91), closes),
            (Some(0.1), Some(0.96), closes | refuses),
            (Some(0.1), Some(0.86), closes),
            (Some(0.1), Some(0.84), 0),
        ] {
            let found = judge.decide(&settings.actions, &[descriptors, memory]);
            assert_eq!(found, expected, "{descriptors:?} {memory:?}");
        }
    }

    #[test]
    fn without_a_limit_of_memory_descriptors_alone_are_watched() {
        let settings = Settings::own(10, None);
        assert_eq!(settings.monitors.len(), 1);
        let mut judge = Judge::default();
        assert_eq!(judge.decide(&settings.actions, &[Some(0.2)]), 0);
    }

    #[test]
    fn every_action_has_a_bit_of_its_own() {
        let all = Action::ALL.iter().fold(0, |all, action| all | action.bit());
        assert_eq!(usize::try_from(all.count_ones()), Ok(Action::ALL.len()));
    }
}
