//! Results: rows in the form of all benchmarks, and a table for people.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

/// One measured value, compared with what is demanded.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The work, by the size of the cluster.
    pub work: String,
    /// The metric; its name ends with its unit.
    pub metric: String,
    /// The value.
    pub ours: f64,
    /// `bar` where something is demanded.
    pub peer: Option<&'static str>,
    /// The most that is allowed.
    pub peer_value: Option<f64>,
    /// The value to the bar; of repeated changes the median, the best and the worst.
    pub ratio_median: Option<f64>,
    /// See `ratio_median`.
    pub ratio_lo: Option<f64>,
    /// See `ratio_median`.
    pub ratio_hi: Option<f64>,
    /// There is nobody to measure twice.
    pub aa_ratio: Option<f64>,
}

// === impl Row ===

impl Row {
    /// A metric of several tries; what counts is the worst.
    pub fn new(work: &str, metric: &str, values: &[f64], bar: Option<f64>) -> Row {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let ratio = |value: f64| bar.map(|bar| round(value / bar));
        let worst = at(sorted.len().saturating_sub(1));
        Row {
            work: work.to_owned(),
            metric: metric.to_owned(),
            ours: round(worst),
            peer: bar.map(|_| "bar"),
            peer_value: bar,
            ratio_median: ratio(at(sorted.len() / 2)),
            ratio_lo: ratio(at(0)),
            ratio_hi: ratio(worst),
            aa_ratio: None,
        }
    }

    fn verdict(&self) -> String {
        match self.peer_value {
            None => String::new(),
            Some(bar) if self.ours <= bar => format!("<= {bar} met"),
            Some(bar) => format!("<= {bar} MISSED"),
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Writes one file per work.
pub fn write(folder: &Path, work: &str, rows: &[Row]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(folder.join(format!("{work}.json")), text + "\n")?;
    Ok(())
}

/// The metrics as lines, the works as columns.
pub fn table(rows: &[Row]) -> String {
    let mut works: Vec<&str> = Vec::new();
    let mut metrics: Vec<&str> = Vec::new();
    for row in rows {
        if !works.contains(&row.work.as_str()) {
            works.push(&row.work);
        }
        if !metrics.contains(&row.metric.as_str()) {
            metrics.push(&row.metric);
        }
    }
    let mut text = format!("{:<36}", "metric");
    for work in &works {
        let _ = write!(text, "{work:>14}");
    }
    text.push('\n');
    for metric in metrics {
        let _ = write!(text, "{metric:<36}");
        let mut verdict = String::new();
        for work in &works {
            let row = rows.iter().find(|r| r.metric == metric && r.work == *work);
            let value = row.map_or_else(String::new, |row| format!("{:.1}", row.ours));
            let _ = write!(text, "{value:>14}");
            verdict = row.map_or(verdict, Row::verdict);
        }
        let _ = writeln!(text, "  {verdict}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_try_counts() {
        let row = Row::new(
            "control-10k",
            "endpoint_change_ms",
            &[300.0, 700.0, 400.0],
            Some(500.0),
        );
        assert_eq!((row.ours, row.ratio_median), (700.0, Some(0.8)));
        assert!(table(&[row]).contains("<= 500 MISSED"));
    }
}
