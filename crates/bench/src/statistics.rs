//! Medians of per-pair ratios with a bootstrap interval: no shape of the noise is assumed.

/// A median with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Resamplings; the ends move by less than a thousandth beyond that.
const RESAMPLINGS: usize = 2000;

/// The middle value; the mean of the two middle ones of an even number. NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[upper],
        _ => f64::midpoint(sorted[upper - 1], sorted[upper]),
    }
}

/// The median with its interval; the same values give the same answer.
pub fn estimate(values: &[f64]) -> Estimate {
    if values.is_empty() {
        let nothing = f64::NAN;
        return Estimate {
            median: nothing,
            low: nothing,
            high: nothing,
        };
    }
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut medians: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let drawn: Vec<f64> = values
                .iter()
                .map(|_| values[draw(&mut state, values.len())])
                .collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate {
        median: median(values),
        low: medians[RESAMPLINGS * 25 / 1000],
        high: medians[RESAMPLINGS * 975 / 1000],
    }
}

/// xorshift64*.
fn draw(state: &mut u64, below: usize) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let mixed = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
    usize::try_from(mixed).unwrap_or(0) % below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_holds_the_median_and_an_outlier_does_not_move_it() {
        let mut values: Vec<f64> = (0..21).map(|n| 0.40 + f64::from(n) * 0.01).collect();
        values.push(50.0);
        let estimate = estimate(&values);
        assert!((0.49..0.52).contains(&estimate.median), "{estimate:?}");
        assert!(
            0.42 < estimate.low && estimate.low <= estimate.median,
            "{estimate:?}"
        );
        assert!(
            estimate.median <= estimate.high && estimate.high < 0.60,
            "{estimate:?}"
        );
    }
}
