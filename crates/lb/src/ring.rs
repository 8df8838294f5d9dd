//! Ring hashing: each endpoint stands at many places of a ring, as many as it weighs; a key belongs to the next place.

use crate::hash::{murmur2, xx64};

/// Which function places endpoints on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Function {
    /// xxHash64.
    #[default]
    Xx64,
    /// MurmurHash2, as the standard library of C++.
    Murmur2,
}

/// Settings of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Places at least: each endpoint has at least one place, and weights need room.
    pub least: u64,
    /// Places at most.
    pub most: u64,
    /// Where endpoints are placed.
    pub function: Function,
}

/// A ring.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    /// Hashes in order, with the member that stands there.
    places: Vec<(u64, u32)>,
}

/// Envoy's own bound of both sizes.
pub const MOST: u64 = 8 << 20;

// === impl Settings ===

impl Default for Settings {
    /// Envoy's defaults.
    fn default() -> Settings {
        Settings {
            least: 1024,
            most: MOST,
            function: Function::Xx64,
        }
    }
}

// === impl Ring ===

impl Ring {
    /// A ring of members with these keys and weights.
    pub fn new(members: &[(&str, u32)], settings: Settings) -> Ring {
        let total: f64 = members.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let share = |weight: u32| f64::from(weight) / total;
        let lightest = members
            .iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(_, weight)| share(*weight))
            .fold(1.0, f64::min);
        if total <= 0.0 {
            return Ring::default();
        }
        // So large that the lightest has a whole number of places, unless that is too large.
        let scale =
            ((lightest * settings.least as f64).ceil() / lightest).min(settings.most as f64);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        let (mut placed, mut target) = (0.0, 0.0);
        for ((key, weight), member) in members.iter().zip(0u32..) {
            let mut name = format!("{key}_");
            let stem = name.len();
            target += scale * share(*weight);
            let mut number = 0u32;
            while placed < target {
                name.truncate(stem);
                name.push_str(&number.to_string());
                let hash = match settings.function {
                    Function::Xx64 => xx64(name.as_bytes(), 0),
                    Function::Murmur2 => murmur2(name.as_bytes()),
                };
                places.push((hash, member));
                number = number.saturating_add(1);
                placed += 1.0;
            }
        }
        places.sort_unstable();
        Ring { places }
    }

    /// The member a key belongs to; each attempt goes one place on.
    pub fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let count = self.places.len();
        let next = self.places.partition_point(|(place, _)| *place < hash);
        let index = next
            .checked_rem(count)?
            .wrapping_add(usize::try_from(attempt).ok()?)
            .checked_rem(count)?;
        let (_, member) = self.places.get(index)?;
        usize::try_from(*member).ok()
    }

    /// How many places there are.
    pub fn size(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:8080")).collect()
    }

    fn owner<'a>(ring: &Ring, names: &'a [String], key: u64) -> &'a str {
        &names[ring.find(xx64(&key.to_le_bytes(), 0), 0).unwrap()]
    }

    #[test]
    fn the_ring_has_the_size_of_its_settings() {
        let size = |weights: &[u32], least, most| {
            let names = hosts(weights.len());
            let members = names
                .iter()
                .map(String::as_str)
                .zip(weights.iter().copied());
            let settings = Settings {
                least,
                most,
                function: Function::Xx64,
            };
            Ring::new(&members.collect::<Vec<_>>(), settings).size()
        };
        // As Envoy's own examples: each has a whole number of places.
        assert_eq!(size(&[1, 1], 1024, MOST), 1024);
        assert_eq!(size(&[1, 1, 1, 1, 1, 1], 7, MOST), 12);
        assert_eq!(size(&[1, 3], 1, MOST), 4);
        assert_eq!(size(&[1, 1, 1], 1024, 2), 2);
        assert_eq!(size(&[], 1024, MOST), 0);
        assert!(Ring::default().find(1, 0).is_none());
    }

    #[test]
    fn a_removed_member_moves_only_its_own_keys() {
        for function in [Function::Xx64, Function::Murmur2] {
            let settings = Settings {
                function,
                ..Settings::default()
            };
            let names = hosts(10);
            let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
            let fewer: Vec<_> = all
                .iter()
                .copied()
                .filter(|(name, _)| *name != names[3])
                .collect();
            let left: Vec<String> = fewer.iter().map(|(name, _)| (*name).to_owned()).collect();
            let (before, after) = (Ring::new(&all, settings), Ring::new(&fewer, settings));
            let moved = (0..10_000u64).filter(|key| {
                let owned = owner(&before, &names, *key);
                owned != names[3] && owned != owner(&after, &left, *key)
            });
            // The ring's size follows the number of members, so that a few places at the end come or go.
            assert!(moved.count() < 1500, "{function:?}");
        }
    }

    #[test]
    fn weights_are_kept() {
        let names = hosts(3);
        let members = [
            (names[0].as_str(), 1),
            (names[1].as_str(), 2),
            (names[2].as_str(), 5),
        ];
        let settings = Settings {
            least: 1 << 14,
            ..Settings::default()
        };
        let ring = Ring::new(&members, settings);
        let mut counts = [0f64; 3];
        for key in 0..80_000u64 {
            counts[ring.find(xx64(&key.to_le_bytes(), 0), 0).unwrap()] += 1.0;
        }
        for (count, share) in counts.iter().zip([10_000.0, 20_000.0, 50_000.0]) {
            assert!((count - share).abs() / share < 0.1, "{counts:?}");
        }
    }

    #[test]
    fn another_attempt_finds_another_place() {
        let names = hosts(4);
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let ring = Ring::new(&members, Settings::default());
        let found: std::collections::HashSet<_> =
            (0..32).map(|attempt| ring.find(9, attempt)).collect();
        assert_eq!(found.len(), 4);
    }
}
