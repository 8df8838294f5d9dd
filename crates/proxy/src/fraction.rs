//! A share of all requests or connections: Envoy's `FractionalPercent`.

use crate::worker::roll;

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// So many …
    pub numerator: u32,
    /// … of a hundred, ten thousand or a million.
    pub denominator: u32,
}

impl Fraction {
    /// All.
    pub const ALL: Fraction = Fraction {
        numerator: 100,
        denominator: 100,
    };
    /// None.
    pub const NONE: Fraction = Fraction {
        numerator: 0,
        denominator: 100,
    };

    /// Whether this one is among them; `roll` is any number, even in distribution.
    pub fn takes(self, roll: u64) -> bool {
        roll.checked_rem(u64::from(self.denominator))
            .is_some_and(|at| at < u64::from(self.numerator))
    }

    /// Whether one drawn by lot is among them.
    pub fn draw(self) -> bool {
        // All and none are the ordinary case, and need no lot.
        self.numerator >= self.denominator || (self.numerator > 0 && self.takes(roll()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_takes_its_share() {
        for (numerator, denominator, expected) in [
            (0, 100, 0),
            (25, 100, 2500),
            (100, 100, 10_000),
            (7, 10_000, 7),
            (200, 100, 10_000),
        ] {
            let fraction = Fraction {
                numerator,
                denominator,
            };
            let taken = (0..10_000).filter(|roll| fraction.takes(*roll)).count();
            assert_eq!(taken, expected, "{fraction:?}");
        }
        assert!(Fraction::ALL.draw() && !Fraction::NONE.draw());
    }
}
