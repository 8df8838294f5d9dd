//! Maglev hashing (Eisenbud et al., NSDI 2016, §3.4, with weights as Envoy adds them): a table filled by turns, in each
//! member's own order of preference.

use crate::hash::xx64;

/// Envoy's table size; prime, as the permutations need it.
pub const TABLE: u64 = 65_537;
/// The largest table Envoy accepts.
pub const TABLE_MOST: u64 = 5_000_011;

/// A table from hashes to members.
#[derive(Debug, Clone, Default)]
pub struct Maglev {
    table: Vec<u32>,
}

struct Member {
    index: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

const EMPTY: u32 = u32::MAX;

// === impl Maglev ===

impl Maglev {
    /// A table of this prime size for members with these keys and weights.
    pub fn new(members: &[(&str, u32)], size: u64) -> Maglev {
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        if heaviest == 0 || size < 2 {
            return Maglev::default();
        }
        let mut entries: Vec<(&str, Member)> = members
            .iter()
            .zip(0u32..)
            .filter(|((_, weight), _)| *weight > 0)
            .map(|((key, weight), index)| {
                let member = Member {
                    index,
                    offset: xx64(key.as_bytes(), 0) % size,
                    skip: (xx64(key.as_bytes(), 1) % size.saturating_sub(1)).saturating_add(1),
                    next: 0,
                    weight: f64::from(*weight) / f64::from(heaviest),
                    target: 0.0,
                };
                (*key, member)
            })
            .collect();
        // The order of the configuration must not decide.
        entries.sort_by_key(|(key, _)| *key);
        let mut table = vec![EMPTY; usize::try_from(size).unwrap_or(0)];
        let mut left = table.len();
        let mut turn = 1.0;
        while left > 0 {
            for (_, member) in &mut entries {
                // The heaviest takes a place each turn, the others as often as their weight says.
                if turn * member.weight < member.target {
                    continue;
                }
                if left == 0 {
                    break;
                }
                member.target += 1.0;
                if member.take(&mut table, size) {
                    left = left.saturating_sub(1);
                }
            }
            turn += 1.0;
        }
        Maglev { table }
    }

    /// The member a key belongs to; each attempt looks elsewhere.
    pub fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = match attempt {
            0 => hash,
            attempt => hash ^ (u64::MAX - u64::from(attempt)).wrapping_add(1),
        };
        let size = u64::try_from(self.table.len()).ok()?;
        let index = usize::try_from(hash.checked_rem(size)?).ok()?;
        usize::try_from(*self.table.get(index)?).ok()
    }
}

impl Member {
    /// Takes the first free place of its order of preference.
    fn take(&mut self, table: &mut [u32], size: u64) -> bool {
        while self.next < size {
            let at = self.offset.wrapping_add(self.skip.wrapping_mul(self.next)) % size;
            self.next = self.next.wrapping_add(1);
            let place = usize::try_from(at).ok().and_then(|at| table.get_mut(at));
            if let Some(place) = place.filter(|place| **place == EMPTY) {
                *place = self.index;
                return true;
            }
        }
        false
    }
}

/// Whether a number is prime.
pub fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|d: &u64| d.saturating_mul(*d) <= number)
            .all(|d| !number.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:8080")).collect()
    }

    #[test]
    fn a_removed_member_moves_few_other_keys() {
        let names = hosts(10);
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let fewer: Vec<_> = all[..9].to_vec();
        let (before, after) = (Maglev::new(&all, TABLE), Maglev::new(&fewer, TABLE));
        let moved = (0..TABLE).filter(|key| {
            let owned = before.find(*key, 0);
            owned != Some(9) && owned != after.find(*key, 0)
        });
        let moved = moved.count();
        assert!(moved < 8000, "{moved} of 65537 moved without need");
    }

    #[test]
    fn weights_are_kept_closely_and_the_order_does_not_matter() {
        let names = hosts(3);
        let forward = [
            (names[0].as_str(), 1),
            (names[1].as_str(), 2),
            (names[2].as_str(), 5),
        ];
        let mut counts = [0f64; 3];
        let table = Maglev::new(&forward, TABLE);
        for key in 0..TABLE {
            counts[table.find(key, 0).unwrap()] += 1.0;
        }
        for (count, weight) in counts.iter().zip([1.0, 2.0, 5.0]) {
            let share = TABLE as f64 * weight / 8.0;
            assert!((count - share).abs() / share < 0.01, "{counts:?}");
        }
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let other = Maglev::new(&backward, TABLE);
        assert!((0..TABLE).all(|key| table.find(key, 0) == other.find(key, 0).map(|m| 2 - m)));
    }

    #[test]
    fn small_tables_and_none() {
        assert!(Maglev::new(&[], TABLE).find(1, 0).is_none());
        assert!(Maglev::new(&[("a", 0)], TABLE).find(1, 0).is_none());
        let table = Maglev::new(&[("a", 1), ("b", 1)], 5);
        let found: std::collections::HashSet<_> = (0..5).map(|key| table.find(key, 0)).collect();
        assert_eq!(found.len(), 2);
        let elsewhere: std::collections::HashSet<_> = (0..32).map(|a| table.find(3, a)).collect();
        assert_eq!(elsewhere.len(), 2);
    }

    #[test]
    fn primes_are_known() {
        let primes: Vec<u64> = (0..20).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19]);
        assert!(is_prime(TABLE) && is_prime(TABLE_MOST) && !is_prime(65_536));
    }
}
