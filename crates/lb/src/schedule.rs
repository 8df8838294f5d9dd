//! Weighted turns: the order earliest-deadline-first scheduling yields, worked out once, so that a turn is one step of
//! a shared counter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Turns in a schedule at least, so that the weights' ratios are kept well, and at most.
const TURNS: (usize, usize) = (1024, 1 << 16);
/// Turns per member where there are many.
const TURNS_EACH: usize = 16;

/// An order of turns in which each member comes as often as its weight says, evenly spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// All weigh the same: this many members in turn.
    Even(usize),
    /// Members by turn.
    Turns(Vec<u32>),
}

// === impl Schedule ===

impl Schedule {
    /// A schedule for members of these weights; a weight of 0 is never scheduled.
    pub fn new(weights: &[u32]) -> Schedule {
        let first = weights.first().copied().unwrap_or(0);
        if first > 0 && weights.iter().all(|weight| *weight == first) {
            return Schedule::Even(weights.len());
        }
        let divisor = weights.iter().fold(0, |one, other| gcd(one, *other)).max(1);
        let total: u64 = weights
            .iter()
            .map(|weight| u64::from(weight / divisor))
            .sum();
        let most = weights
            .len()
            .saturating_mul(TURNS_EACH)
            .clamp(TURNS.0, TURNS.1);
        let turns = usize::try_from(total).unwrap_or(usize::MAX).min(most);
        Schedule::Turns(order(weights, turns))
    }

    /// The member whose turn it is; `None` if there are none.
    pub fn at(&self, turn: u64) -> Option<usize> {
        let index = |count: usize| {
            let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
            usize::try_from(turn % count).ok()
        };
        match self {
            Schedule::Even(count) => index(*count),
            Schedule::Turns(turns) => {
                let member = turns.get(index(turns.len())?)?;
                usize::try_from(*member).ok()
            }
        }
    }
}

/// A member's next deadline, in units such that a weight of `w` comes every `UNIT / w`.
const UNIT: u64 = 1 << 40;

fn order(weights: &[u32], turns: usize) -> Vec<u32> {
    let mut queue: BinaryHeap<Reverse<(u64, u32)>> = weights
        .iter()
        .zip(0u32..)
        .filter(|(weight, _)| **weight > 0)
        // The first deadline is half a period, or the light ones would all come first.
        .map(|(weight, member)| Reverse((UNIT / u64::from(*weight) / 2, member)))
        .collect();
    let mut order = Vec::with_capacity(turns);
    while order.len() < turns {
        let Some(Reverse((deadline, member))) = queue.pop() else {
            break;
        };
        order.push(member);
        let weight = usize::try_from(member).ok().and_then(|m| weights.get(m));
        let period = UNIT / u64::from(weight.copied().unwrap_or(1).max(1));
        queue.push(Reverse((deadline.saturating_add(period), member)));
    }
    order
}

fn gcd(one: u32, other: u32) -> u32 {
    let (mut one, mut other) = (one, other);
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32], turns: u64) -> Vec<u64> {
        let schedule = Schedule::new(weights);
        let mut counts = vec![0; weights.len()];
        for turn in 0..turns {
            counts[schedule.at(turn).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn each_comes_as_often_as_it_weighs_and_evenly() {
        assert_eq!(counts(&[7, 7, 7], 30), [10, 10, 10]);
        assert_eq!(counts(&[1, 3], 4), [1, 3]);
        assert_eq!(counts(&[2, 6, 4], 6), [1, 3, 2]);
        assert_eq!(counts(&[0, 1, 2], 30), [0, 10, 20]);
        let Schedule::Turns(turns) = Schedule::new(&[5, 1, 1]) else {
            panic!("uneven");
        };
        let runs = turns
            .windows(4)
            .filter(|run| run.iter().all(|member| *member == 0));
        assert_eq!(runs.count(), 0, "the heavy one is spread: {turns:?}");
    }

    #[test]
    fn large_weights_keep_their_ratio_in_bounded_memory() {
        let counts = counts(&[1_000_003, 3_000_007, 500_000], 45_000);
        for (count, share) in counts.iter().zip([10_000.0, 30_000.0, 5_000.0]) {
            let off = (*count as f64 - share).abs() / share;
            assert!(off < 0.02, "{counts:?}");
        }
        let Schedule::Turns(turns) = Schedule::new(&[u32::MAX, 1]) else {
            panic!("uneven");
        };
        assert!(turns.len() <= 1024);
    }

    #[test]
    fn nobody_has_no_turn() {
        assert_eq!(Schedule::new(&[]).at(3), None);
        assert_eq!(Schedule::new(&[0, 0]).at(3), None);
    }
}
