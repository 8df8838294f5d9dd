//! What a buyer has counted: books by bookstore, rounds, and whether all went as it was told to expect. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::client::Answer;

/// The counts of a buyer.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    v1: u64,
    v2: u64,
    rounds: u64,
    failed_rounds: u64,
    last: BTreeMap<&'static str, Answer>,
}

/// One request of a round: what it was for, the status it should end with, and how it ended.
#[derive(Clone, Debug)]
pub struct Call {
    /// Short name of what was asked for; [`BUY`] is the one that buys.
    pub name: &'static str,
    /// The status that was expected; 0 for none.
    pub expected: u16,
    /// What came.
    pub answer: Answer,
}

/// How long a buyer goes on, and what it calls success.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Good rounds in a row that make a success.
    pub min_success: u64,
    /// Rounds after which it is a failure; 0 for no limit.
    pub max_rounds: u64,
}

/// The word on a round, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As many good rounds in a row as wanted.
    Success,
    /// More rounds than allowed.
    Failure,
    /// Neither.
    Undecided,
}

/// One connection's good rounds in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streak {
    good: u64,
    rounds: u64,
}

/// The call that buys a book.
pub const BUY: &str = "buy-a-book";

// === impl Tally ===

impl Tally {
    /// Counts a round. Whatever was expected, a 200 is a book.
    pub fn count(&mut self, calls: &[Call]) {
        self.rounds += 1;
        self.failed_rounds += u64::from(!calls.iter().all(Call::good));
        for call in calls {
            let identity = call.answer.identity.as_deref().unwrap_or_default();
            if call.name == BUY && call.answer.status == 200 {
                self.v1 += u64::from(identity.starts_with("bookstore-v1"));
                self.v2 += u64::from(identity.starts_with("bookstore-v2"));
            }
            self.last.insert(call.name, call.answer.clone());
        }
    }

    /// Books of the first version, of the second, and of both.
    pub fn books(&self) -> (u64, u64, u64) {
        (self.v1, self.v2, self.v1 + self.v2)
    }

    /// Starts anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The page `/raw`: upstream's fields (`booksBought`, `booksBoughtV1`, ...; a thief's begin with `booksStolen`), then rounds
    /// and rounds that went otherwise than expected.
    pub fn raw(&self, books: &str) -> Value {
        let (v1, v2, all) = self.books();
        let mut fields = Map::new();
        fields.insert(books.to_owned(), all.into());
        fields.insert(format!("{books}V1"), v1.into());
        fields.insert(format!("{books}V2"), v2.into());
        fields.insert("rounds".into(), self.rounds.into());
        fields.insert("failedRounds".into(), self.failed_rounds.into());
        fields.into()
    }

    /// The page `/last`: status of the last round's requests (0 for none), and who sold the last book.
    pub fn last(&self) -> Value {
        let statuses = self
            .last
            .iter()
            .map(|(name, answer)| ((*name).to_owned(), Value::from(answer.status)));
        let seller = self
            .last
            .get(BUY)
            .and_then(|answer| answer.identity.as_deref());
        let mut fields: Map<String, Value> = statuses.collect();
        fields.insert("identity".into(), json!(seller));
        fields.into()
    }
}

// === impl Call ===

impl Call {
    /// Did it end as expected?
    pub fn good(&self) -> bool {
        self.answer.status == self.expected
    }
}

// === impl Streak ===

impl Streak {
    /// Judges a round.
    pub fn judge(&mut self, calls: &[Call], thresholds: Thresholds) -> Verdict {
        self.rounds += 1;
        self.good = if calls.iter().all(Call::good) {
            self.good + 1
        } else {
            0
        };
        if thresholds.max_rounds > 0 && self.rounds > thresholds.max_rounds {
            Verdict::Failure
        } else if self.good >= thresholds.min_success.max(1) {
            Verdict::Success
        } else {
            Verdict::Undecided
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &'static str, expected: u16, status: u16, identity: &str) -> Call {
        let answer = Answer {
            status,
            identity: Some(identity.to_owned()),
            error: None,
        };
        Call {
            name,
            expected,
            answer,
        }
    }

    #[test]
    fn books_count_by_the_seller_and_only_when_bought() {
        let mut tally = Tally::default();
        for (name, status, seller) in [
            (BUY, 200, "bookstore-v1"),
            (BUY, 200, "bookstore-v2"),
            (BUY, 200, "bookstore-v2"),
            ("books-bought", 200, "bookstore-v1"),
            (BUY, 403, "bookstore-v1"),
            (BUY, 200, "somebody"),
        ] {
            tally.count(&[call(name, 200, status, seller)]);
        }
        assert_eq!(tally.books(), (1, 2, 3));
        assert_eq!(
            tally.raw("booksStolen").to_string(),
            r#"{"booksStolen":3,"booksStolenV1":1,"booksStolenV2":2,"failedRounds":1,"rounds":6}"#
        );
        assert_eq!(
            tally.last().to_string(),
            r#"{"books-bought":200,"buy-a-book":200,"identity":"somebody"}"#
        );
    }

    #[test]
    fn a_thief_that_is_refused_as_expected_succeeds_with_nothing() {
        let mut tally = Tally::default();
        let refused = [Call {
            name: BUY,
            expected: 0,
            answer: Answer::default(),
        }];
        tally.count(&refused);
        let thresholds = Thresholds {
            min_success: 1,
            max_rounds: 0,
        };
        assert_eq!(
            Streak::default().judge(&refused, thresholds),
            Verdict::Success
        );
        assert_eq!(tally.books(), (0, 0, 0));
    }

    #[test]
    fn success_needs_good_rounds_in_a_row_and_ends_with_the_rounds() {
        let thresholds = Thresholds {
            min_success: 2,
            max_rounds: 6,
        };
        let mut streak = Streak::default();
        let verdicts: Vec<Verdict> = [200, 503, 200, 200, 200, 503, 200]
            .into_iter()
            .map(|status| streak.judge(&[call(BUY, 200, status, "")], thresholds))
            .collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Undecided,
                Verdict::Undecided,
                Verdict::Undecided,
                Verdict::Success,
                Verdict::Success,
                Verdict::Undecided,
                Verdict::Failure
            ]
        );
    }
}
