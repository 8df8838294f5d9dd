//! A table of API exchanges that the embedded API server answers as a real Kubernetes does, and its player
//!
//! `exchanges/*.yaml` says what is asked and what of the answer counts; `golden/*.json` is what Kubernetes 1.20.2 answered.
//! An exchange in which the embedded server may differ carries the reason. Nothing here knows how either server works.

mod diff;
pub mod golden;
mod normal;
mod play;
mod table;

pub use self::diff::differences;
pub use self::golden::Golden;
pub use self::play::{Answer, Player};
pub use self::table::{Exchange, Step, load};

/// What came of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same answers.
    Same,
    /// Other answers, for the reason the table gives.
    Explained(String),
    /// Other answers, each difference in one line.
    Different(Vec<String>),
    /// The same answers although the table gives a reason why not: the reason is out of date.
    Outdated(String),
}

/// Compares the answers in one exchange with those expected.
pub fn judge(exchange: &Exchange, expected: &[Answer], got: &[Answer]) -> Outcome {
    let found = differences(expected, got);
    match (&exchange.differs, found.is_empty()) {
        (None, true) => Outcome::Same,
        (None, false) => Outcome::Different(found),
        (Some(reason), false) => Outcome::Explained(reason.clone()),
        (Some(reason), true) => Outcome::Outdated(reason.clone()),
    }
}
