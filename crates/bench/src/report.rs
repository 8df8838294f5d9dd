//! Results: rows for programs, a table with bars and verdicts for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::statistics::{Estimate, estimate, median};

/// One measured comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The work.
    pub work: String,
    /// The metric; its name begins with what it measures.
    pub metric: String,
    /// Our value, the median of all windows.
    pub ours: f64,
    /// Whom it is compared with.
    pub peer: String,
    /// The peer's value, likewise.
    pub peer_value: f64,
    /// Median of the per-pair ratios, ours to the peer's.
    pub ratio_median: f64,
    /// Lower end of its 95 % interval.
    pub ratio_lo: f64,
    /// Upper end.
    pub ratio_hi: f64,
    /// The reference against itself in the same run.
    pub aa_ratio: f64,
    /// What the ratio or our value may be at most, and which of the two.
    #[serde(skip)]
    pub bar: Option<Bar>,
}

/// What is demanded.
#[derive(Debug, Clone, Copy)]
pub enum Bar {
    /// Of the ratio.
    Ratio(f64),
    /// Of our value.
    Value(f64),
}

// === impl Row ===

impl Row {
    /// From pairs of our value and the peer's.
    pub fn of_pairs(
        work: &str,
        metric: &str,
        peer: &str,
        pairs: &[(f64, f64)],
        aa_ratio: f64,
        bar: Option<Bar>,
    ) -> Row {
        let ratios: Vec<f64> = pairs.iter().map(|(ours, peers)| ours / peers).collect();
        let Estimate {
            median: ratio,
            low,
            high,
        } = estimate(&ratios);
        let side =
            |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        Row {
            work: work.to_owned(),
            metric: metric.to_owned(),
            ours: round(side(|pair| pair.0)),
            peer: peer.to_owned(),
            peer_value: round(side(|pair| pair.1)),
            ratio_median: round(ratio),
            ratio_lo: round(low),
            ratio_hi: round(high),
            aa_ratio: round(aa_ratio),
            bar,
        }
    }

    fn verdict(&self) -> String {
        let (value, low, high, bar) = match self.bar {
            None => return String::new(),
            Some(Bar::Ratio(bar)) => (self.ratio_median, self.ratio_lo, self.ratio_hi, bar),
            Some(Bar::Value(bar)) => (self.ours, self.ours, self.ours, bar),
        };
        let verdict = match () {
            () if high <= bar => "met",
            () if low > bar => "MISSED",
            () if value <= bar => "met (interval reaches over it)",
            () => "MISSED (interval reaches under it)",
        };
        format!("<= {bar} {verdict}")
    }
}

/// Three digits after the point: more is noise.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Writes one file per work.
pub fn write(folder: &Path, work: &str, rows: &[Row]) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(folder.join(format!("{work}.json")), text)?;
    Ok(())
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<15} {:<38} {:>9} {:>9} {:>9}  {:>6} {:>15} {:>6}  {}\n",
        "work", "metric", "ours", "peer", "", "ratio", "95 %", "A/A", "bar"
    );
    for row in rows {
        let interval = format!("{:.3}-{:.3}", row.ratio_lo, row.ratio_hi);
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "{:<15} {:<38} {:>9.2} {:>9} {:>9.2}  {:>6.3} {:>15} {:>6.3}  {}",
            row.work,
            row.metric,
            row.ours,
            row.peer,
            row.peer_value,
            row.ratio_median,
            interval,
            row.aa_ratio,
            row.verdict()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_speak_of_the_interval() {
        let row = |ratios: [f64; 3]| {
            let pairs: Vec<_> = ratios.iter().map(|ratio| (ratio * 100.0, 100.0)).collect();
            Row::of_pairs("http1", "cpu", "envoy", &pairs, 1.0, Some(Bar::Ratio(0.5))).verdict()
        };
        assert_eq!(row([0.3, 0.31, 0.32]), "<= 0.5 met");
        assert_eq!(row([0.7, 0.71, 0.72]), "<= 0.5 MISSED");
        assert_eq!(
            row([0.3, 0.4, 0.9]),
            "<= 0.5 met (interval reaches over it)"
        );
        assert_eq!(
            row([0.3, 0.6, 0.9]),
            "<= 0.5 MISSED (interval reaches under it)"
        );
    }

    #[test]
    fn rows_have_the_agreed_fields() {
        let row = Row::of_pairs("http1", "cpu", "envoy", &[(1.0, 2.0)], 1.0, None);
        let value = serde_json::to_value(&row).unwrap();
        let names: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = [
            "work",
            "metric",
            "ours",
            "peer",
            "peer_value",
            "ratio_median",
            "ratio_lo",
            "ratio_hi",
            "aa_ratio",
        ];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
    }
}
