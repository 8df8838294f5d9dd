//! The endpoints of a cluster as the choice sees them: by priority, health and locality, with the policy's tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lb::maglev::Maglev;
use lb::priority::{Among, Census, Loads};
use lb::ring::Ring;
use lb::schedule::Schedule;

use super::config::{Assignment, ClusterConfig, Contest, EndpointConfig, LbPolicy};
use super::endpoint::{Endpoint, Flag, Health};
use super::subset::{Found, Labels, Subsets};
use crate::worker::roll;

/// An endpoint and its place.
#[derive(Debug, Clone)]
pub struct Member {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// As configured now.
    pub config: EndpointConfig,
    /// Its ejections.
    pub(super) ejection: lb::outlier::Ejection,
}

/// An immutable view of a cluster's endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// All.
    pub all: Vec<Member>,
    /// What they are a part of.
    pub assignment: Arc<Assignment>,
    tiers: Vec<Tier>,
    loads: Loads,
    fail_in_panic: bool,
    /// By their labels, where the cluster divides them.
    subsets: Option<Box<Subsets>>,
}

/// How many endpoints there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: usize,
    /// Healthy ones.
    pub healthy: usize,
    /// Degraded ones.
    pub degraded: usize,
    /// Those that do not count, being unchecked.
    pub excluded: usize,
}

/// What the choice goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub hash: Option<u64>,
    pub roll: u64,
    /// How often the choice fell on an endpoint that was tried.
    pub attempt: u32,
}

/// One priority.
#[derive(Debug, Default)]
struct Tier {
    healthy: Choice,
    degraded: Choice,
    /// Of all; only in panic.
    all: Choice,
}

/// Those to choose among.
#[derive(Debug)]
enum Choice {
    /// As one group.
    Group(Group),
    /// A locality first.
    Localities(Turns, Vec<Group>),
    /// By hash.
    Ring(Ring, Vec<Arc<Endpoint>>),
    /// By hash.
    Maglev(Maglev, Vec<Arc<Endpoint>>),
}

/// Endpoints that take turns.
#[derive(Debug, Default)]
struct Group {
    /// With their weights.
    hosts: Vec<(Arc<Endpoint>, u32)>,
    turns: Option<Turns>,
}

#[derive(Debug)]
struct Turns {
    schedule: Schedule,
    next: AtomicU64,
}

/// Weights of a table are fractions; these are their units.
const FINE: f64 = (1u32 << 24) as f64;

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn new(
        config: &ClusterConfig,
        assignment: Arc<Assignment>,
        all: Vec<Member>,
    ) -> Endpoints {
        let subsets = config
            .subsets
            .as_ref()
            .map(|subsetting| Box::new(Subsets::new(config, subsetting, &assignment, &all)));
        Endpoints {
            subsets,
            ..Endpoints::undivided(config, assignment, all)
        }
    }

    /// As [`Endpoints::new`], without subsets.
    pub(super) fn undivided(
        config: &ClusterConfig,
        assignment: Arc<Assignment>,
        all: Vec<Member>,
    ) -> Endpoints {
        let count = all.iter().map(|member| member.config.priority).max();
        let priorities: Vec<Vec<&Member>> = (0..count.map_or(0, |most| most.saturating_add(1)))
            .map(|priority| {
                let of = all.iter().filter(|m| m.config.priority == priority);
                of.collect()
            })
            .collect();
        let census: Vec<Census> = priorities
            .iter()
            .map(|members| census(config, &assignment, members))
            .collect();
        let settings = lb::priority::Settings {
            overprovisioning: assignment.overprovisioning,
            panic_threshold: config.balance.panic_threshold,
        };
        let loads = Loads::new(&census, settings);
        let tiers = priorities
            .iter()
            .enumerate()
            .map(|(index, members)| Tier::new(config, &assignment, members, loads.panics(index)))
            .collect();
        Endpoints {
            fail_in_panic: config.balance.fail_in_panic,
            subsets: None,
            tiers,
            loads,
            assignment,
            all,
        }
    }

    /// How many there are.
    pub fn counts(&self, config: &ClusterConfig) -> Counts {
        let with = |health| {
            self.all
                .iter()
                .filter(|m| m.endpoint.health() == health)
                .count()
        };
        Counts {
            total: self.all.len(),
            healthy: with(Health::Healthy),
            degraded: with(Health::Degraded),
            excluded: self.all.iter().filter(|m| is_excluded(config, m)).count(),
        }
    }

    /// Those that serve a request with these labels.
    pub(super) fn of(&self, config: &ClusterConfig, wanted: Option<&Labels>) -> Option<&Endpoints> {
        let (Some(subsetting), Some(subsets)) = (&config.subsets, &self.subsets) else {
            return Some(self);
        };
        match subsets.find(subsetting, wanted.unwrap_or(&Labels::default())) {
            Found::All => Some(self),
            Found::Some(subset) if !(subsetting.panic_any && subset.all.is_empty()) => Some(subset),
            Found::Some(_) => Some(self),
            Found::None => None,
        }
    }

    /// Chooses; yields whether it was in panic, too.
    pub(super) fn pick(&self, policy: LbPolicy, draw: Draw) -> (Option<Arc<Endpoint>>, bool) {
        let Some((tier, among)) = self.loads.choose(draw.hash.unwrap_or(draw.roll)) else {
            return (None, false);
        };
        let Some(tier) = self.tiers.get(tier) else {
            return (None, false);
        };
        let chosen = match among {
            Among::Healthy => &tier.healthy,
            Among::Degraded => &tier.degraded,
            Among::All if self.fail_in_panic => return (None, true),
            Among::All => &tier.all,
        };
        (chosen.pick(policy, draw).cloned(), among == Among::All)
    }
}

fn census(config: &ClusterConfig, assignment: &Assignment, members: &[&Member]) -> Census {
    let sum = |matches: &dyn Fn(&Member) -> bool| -> u64 {
        let matching = members.iter().filter(|member| matches(member));
        let size = |m: &&&Member| match assignment.weighted_health {
            true => u64::from(m.config.weight),
            false => 1,
        };
        matching.map(|m| size(&m)).sum()
    };
    Census {
        total: sum(&|m| !is_excluded(config, m)),
        healthy: sum(&|m| m.endpoint.health() == Health::Healthy),
        degraded: sum(&|m| m.endpoint.health() == Health::Degraded),
    }
}

fn is_excluded(config: &ClusterConfig, member: &Member) -> bool {
    config.balance.ignore_unchecked && member.endpoint.has(Flag::PendingActiveCheck)
}

// === impl Tier ===

impl Tier {
    fn new(
        config: &ClusterConfig,
        assignment: &Assignment,
        members: &[&Member],
        panic: bool,
    ) -> Tier {
        if panic {
            // Locality weights do not count in panic.
            let all = Choice::flat(config, members);
            return Tier {
                all,
                ..Tier::default()
            };
        }
        let choice = |health: Health| {
            let fit: Vec<&Member> = members
                .iter()
                .filter(|m| m.endpoint.health() == health)
                .copied()
                .collect();
            if config.balance.locality_weighted && !fit.is_empty() {
                Choice::by_locality(config, assignment, members, &fit)
            } else {
                Choice::flat(config, &fit)
            }
        };
        Tier {
            healthy: choice(Health::Healthy),
            degraded: choice(Health::Degraded),
            all: Choice::default(),
        }
    }
}

// === impl Choice ===

impl Default for Choice {
    fn default() -> Choice {
        Choice::Group(Group::default())
    }
}

impl Choice {
    /// All as one.
    fn flat(config: &ClusterConfig, fit: &[&Member]) -> Choice {
        let weights: Vec<u32> = fit.iter().map(|member| member.config.weight).collect();
        Choice::table(config, fit, &weights)
            .unwrap_or_else(|| Choice::Group(Group::new(config.policy, fit)))
    }

    /// By locality, each with the share its weight and the health of its members give it.
    fn by_locality(
        config: &ClusterConfig,
        assignment: &Assignment,
        members: &[&Member],
        fit: &[&Member],
    ) -> Choice {
        let of = |members: &[&Member], locality: usize| -> u32 {
            let count = members.iter().filter(|m| m.config.locality == locality);
            u32::try_from(count.count()).unwrap_or(u32::MAX)
        };
        let shares: Vec<f64> = (0..assignment.localities.len())
            .map(|locality| {
                let weight = assignment.localities.get(locality).map_or(0, |l| l.weight);
                let (fit, all) = (
                    f64::from(of(fit, locality)),
                    f64::from(of(members, locality)),
                );
                let available = fit / all.max(1.0) * f64::from(assignment.overprovisioning) / 100.0;
                f64::from(weight) * available.min(1.0)
            })
            .collect();
        let sum: f64 = shares.iter().sum();
        if sum <= 0.0 {
            // Without any weight there is nothing to go by; Envoy then sends nothing.
            return Choice::default();
        }
        let share = |locality: usize| shares.get(locality).map_or(0.0, |share| share / sum);
        let heft = |locality: usize| -> f64 {
            let in_it = fit.iter().filter(|m| m.config.locality == locality);
            in_it.map(|m| f64::from(m.config.weight)).sum()
        };
        let weights: Vec<u32> = fit
            .iter()
            .map(|m| {
                let part = f64::from(m.config.weight) / heft(m.config.locality).max(1.0);
                (share(m.config.locality) * part * FINE).round() as u32
            })
            .collect();
        if let Some(table) = Choice::table(config, fit, &weights) {
            return table;
        }
        let weights: Vec<u32> = (0..shares.len())
            .map(|locality| (share(locality) * FINE).round() as u32)
            .collect();
        let groups = (0..shares.len()).map(|locality| {
            let in_it = fit.iter().filter(|m| m.config.locality == locality);
            Group::new(config.policy, &in_it.copied().collect::<Vec<_>>())
        });
        Choice::Localities(Turns::new(&weights), groups.collect())
    }

    /// The table of a hashing policy.
    fn table(config: &ClusterConfig, fit: &[&Member], weights: &[u32]) -> Option<Choice> {
        let by_hostname = config.balance.hash_by_hostname;
        let keys = || {
            let key = |member: &&Member| match &member.config {
                config if !config.hash_key.is_empty() => config.hash_key.clone(),
                config if config.hostname.is_empty() => config.address.to_string(),
                config if by_hostname => config.hostname.clone(),
                config => config.address.to_string(),
            };
            fit.iter().map(key).collect::<Vec<String>>()
        };
        let hosts = || fit.iter().map(|member| member.endpoint.clone()).collect();
        let make = |keys: &[String]| -> Vec<(String, u32)> {
            keys.iter().cloned().zip(weights.iter().copied()).collect()
        };
        match config.policy {
            LbPolicy::RingHash(settings) => {
                let keyed = make(&keys());
                let members: Vec<(&str, u32)> =
                    keyed.iter().map(|(k, w)| (k.as_str(), *w)).collect();
                Some(Choice::Ring(Ring::new(&members, settings), hosts()))
            }
            LbPolicy::Maglev(size) => {
                let keyed = make(&keys());
                let members: Vec<(&str, u32)> =
                    keyed.iter().map(|(k, w)| (k.as_str(), *w)).collect();
                Some(Choice::Maglev(Maglev::new(&members, size), hosts()))
            }
            LbPolicy::RoundRobin | LbPolicy::LeastRequest(_) | LbPolicy::Random => None,
        }
    }

    fn pick(&self, policy: LbPolicy, draw: Draw) -> Option<&Arc<Endpoint>> {
        let hash = draw.hash.unwrap_or(draw.roll);
        match self {
            Choice::Group(group) => group.pick(policy, draw.roll),
            Choice::Localities(turns, groups) => groups.get(turns.take()?)?.pick(policy, draw.roll),
            Choice::Ring(ring, hosts) => hosts.get(ring.find(hash, draw.attempt)?),
            Choice::Maglev(table, hosts) => hosts.get(table.find(hash, draw.attempt)?),
        }
    }
}

// === impl Group, Turns ===

impl Group {
    fn new(policy: LbPolicy, members: &[&Member]) -> Group {
        let weights: Vec<u32> = members.iter().map(|member| member.config.weight).collect();
        Group {
            hosts: members
                .iter()
                .map(|m| (m.endpoint.clone(), m.config.weight))
                .collect(),
            // Chance does not know weights, in Envoy either.
            turns: (policy != LbPolicy::Random).then(|| Turns::new(&weights)),
        }
    }

    fn pick(&self, policy: LbPolicy, roll: u64) -> Option<&Arc<Endpoint>> {
        let by_lot = |roll: u64| match &self.turns {
            Some(turns) => self.hosts.get(turns.schedule.at(roll)?),
            None => {
                let count = u64::try_from(self.hosts.len()).ok()?;
                self.hosts
                    .get(usize::try_from(roll.checked_rem(count)?).ok()?)
            }
        };
        let chosen = match policy {
            LbPolicy::RoundRobin => self.hosts.get(self.turns.as_ref()?.take()?),
            LbPolicy::LeastRequest(Contest::All) => {
                // Rotated, so that of equals not always the first is taken.
                let start = usize::try_from(roll).unwrap_or(0) % self.hosts.len().max(1);
                let (before, after) = self.hosts.split_at_checked(start)?;
                after.iter().chain(before).min_by_key(|host| load(host))
            }
            LbPolicy::LeastRequest(Contest::Some(count)) => {
                // Candidates are drawn by weight: idle ones are used in proportion to it, and load evens out.
                let first = by_lot(roll)?;
                let mut state = roll;
                let others = (1..count).filter_map(|_| {
                    state = next(state);
                    by_lot(state >> 16)
                });
                Some(others.fold(first, |best, other| {
                    if load(other) < load(best) {
                        other
                    } else {
                        best
                    }
                }))
            }
            LbPolicy::Random | LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => by_lot(roll),
        };
        chosen.map(|(endpoint, _)| endpoint)
    }
}

/// Requests in flight, against the weight.
fn load((endpoint, weight): &(Arc<Endpoint>, u32)) -> u64 {
    let active = u64::from(endpoint.active.load(Ordering::Relaxed));
    (active << 32) / u64::from((*weight).max(1))
}

/// The next number of the same quality, a step of PCG's generator.
pub(super) fn next(state: u64) -> u64 {
    state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

impl Turns {
    fn new(weights: &[u32]) -> Turns {
        Turns {
            schedule: Schedule::new(weights),
            // Not all proxies are to begin with the same endpoint.
            next: AtomicU64::new(roll() >> 1),
        }
    }

    fn take(&self) -> Option<usize> {
        self.schedule.at(self.next.fetch_add(1, Ordering::Relaxed))
    }
}
