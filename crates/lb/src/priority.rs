//! How load is shared among priorities, as Envoy does: a priority takes load by how many of its endpoints are healthy,
//! the rest spills over to the next, and where too few are healthy panic sets in.

/// What is known of the endpoints of one priority. Numbers are endpoints, or their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// All.
    pub total: u64,
    /// Healthy ones.
    pub healthy: u64,
    /// Degraded ones: used where the healthy do not suffice.
    pub degraded: u64,
}

/// Settings of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// In percent: at 140, a priority takes all the load while 72 % of its endpoints are healthy.
    pub overprovisioning: u32,
    /// In percent: with fewer healthy endpoints than this, all are used.
    pub panic_threshold: f64,
}

/// Shares of the load, in percent; they sum to 100 unless there is no endpoint at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loads {
    tiers: Vec<Tier>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tier {
    healthy: u32,
    degraded: u32,
    panic: bool,
}

/// Which endpoints of a priority to choose among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// The healthy ones.
    Healthy,
    /// The degraded ones.
    Degraded,
    /// All: panic.
    All,
}

// === impl Settings ===

impl Default for Settings {
    /// Envoy's defaults.
    fn default() -> Settings {
        Settings {
            overprovisioning: 140,
            panic_threshold: 50.0,
        }
    }
}

// === impl Loads ===

impl Loads {
    /// Shares for these priorities, the first being used first.
    pub fn new(priorities: &[Census], settings: Settings) -> Loads {
        let factor = settings.overprovisioning;
        let share = |part: u64, total: u64| match total {
            0 => 0,
            _ => u32::try_from((u64::from(factor).saturating_mul(part) / total).min(100))
                .unwrap_or(100),
        };
        let availability: Vec<(u32, u32)> = priorities
            .iter()
            .map(|p| (share(p.healthy, p.total), share(p.degraded, p.total)))
            .collect();
        let sum: u32 = availability.iter().map(|(h, d)| h.saturating_add(*d)).sum();
        let sum = sum.min(100);
        let panics = |census: &Census| sum < 100 && census.panics(settings.panic_threshold);
        if priorities.iter().all(panics) {
            return Loads::in_total_panic(priorities);
        }
        let mut left = 100u32;
        let mut take = |available: u32| {
            let load = available
                .saturating_mul(100)
                .checked_div(sum)
                .unwrap_or(0)
                .min(left);
            left = left.saturating_sub(load);
            load
        };
        let healthy: Vec<u32> = availability.iter().map(|(h, _)| take(*h)).collect();
        let degraded: Vec<u32> = availability.iter().map(|(_, d)| take(*d)).collect();
        let mut tiers: Vec<Tier> = healthy
            .into_iter()
            .zip(degraded)
            .zip(priorities)
            .map(|((healthy, degraded), census)| Tier {
                healthy,
                degraded,
                panic: panics(census),
            })
            .collect();
        // What rounding left over goes to the first that takes anything.
        if let Some(tier) = tiers.iter_mut().find(|tier| tier.healthy > 0) {
            tier.healthy = tier.healthy.saturating_add(left);
        } else if let Some(tier) = tiers.iter_mut().find(|tier| tier.degraded > 0) {
            tier.degraded = tier.degraded.saturating_add(left);
        }
        Loads { tiers }
    }

    /// All panic: they take load by their size.
    fn in_total_panic(priorities: &[Census]) -> Loads {
        let total: u64 = priorities.iter().map(|p| p.total).sum();
        let mut left = 100u32;
        let mut tiers: Vec<Tier> = priorities
            .iter()
            .map(|census| {
                let load = census
                    .total
                    .saturating_mul(100)
                    .checked_div(total)
                    .unwrap_or(0);
                let load = u32::try_from(load).unwrap_or(100).min(left);
                left = left.saturating_sub(load);
                Tier {
                    healthy: load,
                    degraded: 0,
                    panic: true,
                }
            })
            .collect();
        let first = priorities.iter().position(|census| census.total > 0);
        if let Some(tier) = first.and_then(|first| tiers.get_mut(first)) {
            tier.healthy = tier.healthy.saturating_add(left);
        }
        Loads { tiers }
    }

    /// Chooses a priority and whom to choose among in it; `None` without any endpoint.
    pub fn choose(&self, number: u64) -> Option<(usize, Among)> {
        let mut at = u32::try_from(number % 100).unwrap_or(0);
        let passes = [
            (Among::Healthy, (|tier| tier.healthy) as fn(&Tier) -> u32),
            (Among::Degraded, |tier| tier.degraded),
        ];
        for (among, load) in passes {
            for (index, tier) in self.tiers.iter().enumerate() {
                match at.checked_sub(load(tier)) {
                    None if tier.panic => return Some((index, Among::All)),
                    None => return Some((index, among)),
                    Some(rest) => at = rest,
                }
            }
        }
        None
    }

    /// Whether a priority is in panic.
    pub fn panics(&self, priority: usize) -> bool {
        self.tiers.get(priority).is_some_and(|tier| tier.panic)
    }

    /// Healthy and degraded share of each priority.
    pub fn shares(&self) -> Vec<(u32, u32)> {
        let shares = self.tiers.iter().map(|tier| (tier.healthy, tier.degraded));
        shares.collect()
    }
}

impl Census {
    fn panics(&self, threshold: f64) -> bool {
        let available = self.healthy.saturating_add(self.degraded);
        // Counts are far below 2^53.
        100.0 * (available as f64) / (self.total.max(1) as f64) < threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Priorities, their shares, their panic.
    type Case<'a> = (&'a [Census], &'a [(u32, u32)], &'a [bool]);

    fn census(healthy: u64, degraded: u64, total: u64) -> Census {
        Census {
            total,
            healthy,
            degraded,
        }
    }

    #[test]
    fn load_spills_over_as_the_documentation_tells() {
        // Envoy's documentation of priorities, degraded endpoints and panic: healthy of 100 per priority.
        let cases: [Case<'_>; 12] = [
            (
                &[census(100, 0, 100), census(100, 0, 100)],
                &[(100, 0), (0, 0)],
                &[false, false],
            ),
            (
                &[census(72, 0, 100), census(72, 0, 100)],
                &[(100, 0), (0, 0)],
                &[false, false],
            ),
            (
                &[census(71, 0, 100), census(71, 0, 100)],
                &[(99, 0), (1, 0)],
                &[false, false],
            ),
            (
                &[census(50, 0, 100), census(50, 0, 100)],
                &[(70, 0), (30, 0)],
                &[false, false],
            ),
            (
                &[census(25, 0, 100), census(100, 0, 100)],
                &[(35, 0), (65, 0)],
                &[false, false],
            ),
            (
                &[census(25, 0, 100), census(25, 0, 100)],
                &[(50, 0), (50, 0)],
                &[true, true],
            ),
            (
                &[census(5, 0, 100), census(65, 0, 100)],
                &[(8, 0), (92, 0)],
                &[true, false],
            ),
            (
                &[census(0, 0, 100), census(25, 0, 100)],
                &[(50, 0), (50, 0)],
                &[true, true],
            ),
            (
                &[census(0, 0, 10), census(0, 0, 30)],
                &[(25, 0), (75, 0)],
                &[true, true],
            ),
            (
                &[census(0, 0, 0), census(3, 0, 3)],
                &[(0, 0), (100, 0)],
                &[false, false],
            ),
            (&[census(5, 5, 10)], &[(70, 30)], &[false]),
            (
                &[census(0, 10, 10), census(5, 0, 10)],
                &[(0, 30), (70, 0)],
                &[false, false],
            ),
        ];
        for (priorities, shares, panics) in cases {
            let loads = Loads::new(priorities, Settings::default());
            assert_eq!(loads.shares(), shares, "{priorities:?}");
            let found: Vec<bool> = (0..panics.len()).map(|p| loads.panics(p)).collect();
            assert_eq!(found, panics, "{priorities:?}");
        }
    }

    #[test]
    fn a_choice_follows_the_shares() {
        let loads = Loads::new(&[census(5, 5, 10)], Settings::default());
        let healthy = (0..100).filter(|n| loads.choose(*n) == Some((0, Among::Healthy)));
        assert_eq!(healthy.count(), 70);
        assert_eq!(loads.choose(99), Some((0, Among::Degraded)));
        let loads = Loads::new(&[census(0, 0, 4)], Settings::default());
        assert_eq!(loads.choose(7), Some((0, Among::All)));
        assert_eq!(Loads::default().choose(0), None);
        assert_eq!(
            Loads::new(&[census(0, 0, 0)], Settings::default()).choose(0),
            None
        );
    }

    #[test]
    fn shares_always_sum_to_a_hundred() {
        for seed in 0..2000u64 {
            let number =
                |shift: u32, most: u64| (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift) % most;
            let mut priorities = Vec::new();
            for tier in 0..3 {
                let total = number(tier * 9, 12);
                let healthy = number(tier * 9 + 3, total + 1);
                let degraded = number(tier * 9 + 5, total - healthy + 1);
                priorities.push(census(healthy, degraded, total));
            }
            let loads = Loads::new(&priorities, Settings::default());
            let sum: u32 = loads.shares().iter().map(|(h, d)| h + d).sum();
            let any = priorities.iter().any(|p| p.total > 0);
            assert_eq!(sum, if any { 100 } else { 0 }, "{priorities:?}");
        }
    }

    #[test]
    fn without_a_threshold_there_is_no_panic() {
        let settings = Settings {
            panic_threshold: 0.0,
            ..Settings::default()
        };
        assert!(!Loads::new(&[census(1, 0, 100)], settings).panics(0));
        let none = Loads::new(&[census(0, 0, 100)], settings);
        assert_eq!(none.choose(0), None);
    }
}
