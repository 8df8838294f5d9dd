//! What became of each scenario: a line, a table, a JSON file.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::Driver;
use serde::Serialize;

use crate::scenarios::Scenario;

/// How a scenario ended.
#[derive(Clone, Debug)]
pub enum Status {
    /// As written.
    Passed,
    /// Not as written, and how.
    Failed(String),
    /// Not played, and why.
    Skipped(String),
}

/// An error that means: not played, for this reason.
#[derive(Debug)]
pub struct Skip(pub String);

/// A line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Id of the scenario.
    pub id: String,
    /// What the sidecars were.
    pub driver: String,
    /// `pass`, `fail` or `skip`.
    pub status: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed or was skipped.
    pub reason: String,
    #[serde(skip)]
    title: &'static str,
}

// === impl Status ===

impl Status {
    /// From what a scenario returned.
    pub fn of(played: Result<()>) -> Self {
        match played {
            Ok(()) => Self::Passed,
            Err(error) => match error.downcast::<Skip>() {
                Ok(skip) => Self::Skipped(skip.0),
                Err(error) => Self::Failed(format!("{error:#}")),
            },
        }
    }
}

// === impl Skip ===

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

// === impl Report ===

impl Report {
    /// The report of one scenario.
    pub fn new(scenario: &Scenario, driver: Driver, status: Status, took: Duration) -> Self {
        let (status, reason) = match status {
            Status::Passed => ("pass", String::new()),
            Status::Failed(reason) => ("fail", reason),
            Status::Skipped(reason) => ("skip", reason),
        };
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        Self {
            id: scenario.id.to_owned(),
            driver: driver.to_string(),
            status,
            seconds,
            reason,
            title: scenario.title,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.status {
            "pass" => "✓",
            "fail" => "✗",
            _ => "-",
        };
        write!(
            f,
            "{mark} {:<8} {:>6.1} s  {}",
            self.id, self.seconds, self.title
        )?;
        if !self.reason.is_empty() {
            write!(f, "\n           {}", self.reason)?;
        }
        Ok(())
    }
}

/// Writes the reports as JSON.
pub fn write(file: &Path, reports: &[Report]) -> Result<()> {
    let text = serde_json::to_string_pretty(reports)?;
    std::fs::write(file, text).with_context(|| format!("{}: cannot be written", file.display()))
}

/// Prints the table; true if nothing failed.
pub fn print(reports: &[Report]) -> bool {
    println!();
    reports.iter().for_each(|report| println!("{report}"));
    let count = |status| {
        reports
            .iter()
            .filter(|report| report.status == status)
            .count()
    };
    println!(
        "{} passed, {} failed, {} skipped",
        count("pass"),
        count("fail"),
        count("skip")
    );
    count("fail") == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_no_failure() {
        assert!(
            matches!(Status::of(Err(Skip("later".into()).into())), Status::Skipped(why) if why == "later")
        );
        assert!(
            matches!(Status::of(Err(anyhow::anyhow!("no"))), Status::Failed(why) if why == "no")
        );
        assert!(matches!(Status::of(Ok(())), Status::Passed));
    }
}
