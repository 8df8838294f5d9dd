//! The counters of the bookstore demo: read from the programs themselves, and judged by how they move while buyer and thief go
//! on with their rounds. What is judged is always a number of rounds, never a time.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::stage::Stage;
use crate::wait::eventually;

/// Where the programs are: each in the namespace of its name behind this prefix.
#[derive(Clone, Debug, Default)]
pub struct Shop {
    prefix: String,
    second: bool,
}

/// All counters at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The bookbuyer's.
    pub buyer: Buyer,
    /// The bookthief's.
    pub thief: Buyer,
    /// The first bookstore's.
    pub first: Store,
    /// The second one's, if it is there.
    pub second: Option<Store>,
    /// The bookwarehouse's.
    pub warehouse: Warehouse,
}

/// What `/raw` of a bookbuyer or bookthief says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Buyer {
    /// Books of bookstore-v1.
    #[serde(rename = "booksBoughtV1", alias = "booksStolenV1")]
    pub v1: u64,
    /// Books of bookstore-v2.
    #[serde(rename = "booksBoughtV2", alias = "booksStolenV2")]
    pub v2: u64,
    /// Rounds.
    pub rounds: u64,
    /// Rounds that went otherwise than expected.
    pub failed_rounds: u64,
}

/// What `/raw` of a bookstore says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Books sold.
    pub books_sold: u64,
}

/// What `/raw` of the bookwarehouse says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warehouse {
    /// Books in the database.
    pub total_books: u64,
}

/// How the counters should move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The bookbuyer's books.
    pub buyer: Sale,
    /// The bookthief's books.
    pub thief: Sale,
}

/// From whom someone gets books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sale {
    /// From nobody.
    Nothing,
    /// In every round one of bookstore-v1.
    First,
    /// In every round one of bookstore-v2.
    Second,
    /// In every round one, about as many of either.
    Halves,
}

/// What the movement between two readings shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is as wanted.
    Right,
    /// There were too few rounds to tell.
    TooFew,
    /// It is otherwise, and how.
    Wrong(String),
}

/// Rounds that show whether someone gets books.
const ROUNDS: u64 = 5;

/// Books that show a split: the share of one of two equals is outside 25 to 75 % once in 1600 tries.
const BOOKS: u64 = 40;

// === impl Shop ===

impl Shop {
    /// Programs in namespaces with this prefix; the second bookstore is not there yet.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            second: false,
        }
    }

    /// From now on there is a second bookstore.
    pub fn open_second(&mut self) {
        self.second = true;
    }

    /// The namespace of a program.
    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Reads all counters.
    pub async fn read(&self, stage: &Stage) -> Result<Counters> {
        let second = async {
            if self.second {
                let page = self.raw(stage, "bookstore", "bookstore-v2").await?;
                return Ok(Some(page));
            }
            Ok(None)
        };
        let (buyer, thief, first, second, warehouse) = futures::try_join!(
            self.raw(stage, "bookbuyer", "bookbuyer"),
            self.raw(stage, "bookthief", "bookthief"),
            self.raw(stage, "bookstore", "bookstore"),
            second,
            self.raw(stage, "bookwarehouse", "bookwarehouse"),
        )?;
        Ok(Counters {
            buyer,
            thief,
            first,
            second,
            warehouse,
        })
    }

    /// Waits until the counters move as wanted; gives the readings between which they did.
    pub async fn moves(
        &self,
        stage: &Stage,
        wanted: Wanted,
        limit: Duration,
    ) -> Result<(Counters, Counters)> {
        let mut before = self.read(stage).await?;
        eventually(limit, async || {
            let after = self.read(stage).await?;
            let seen = wanted.judge(&before, &after);
            let error = match seen {
                Shown::Right => return Ok((before, after)),
                Shown::TooFew => anyhow::anyhow!("no rounds are made"),
                Shown::Wrong(how) => {
                    before = after;
                    anyhow::anyhow!(how)
                }
            };
            Err(error)
        })
        .await
    }

    async fn raw<T: DeserializeOwned>(
        &self,
        stage: &Stage,
        namespace: &str,
        deployment: &str,
    ) -> Result<T> {
        let container = deployment.strip_suffix("-v2").unwrap_or(deployment);
        let page = stage
            .kubectl(&[
                "exec",
                &format!("deploy/{deployment}"),
                "-n",
                &self.namespace(namespace),
                "-c",
                container,
                "--",
                "curl",
                "-s",
                "--max-time",
                "10",
                "http://127.0.0.1:14001/raw",
            ])
            .await?
            .text()?;
        serde_json::from_str(&page).with_context(|| format!("{deployment}: /raw says {page:?}"))
    }
}

// === impl Wanted ===

impl Wanted {
    /// Looks at the movement from one reading to a later one.
    pub fn judge(&self, before: &Counters, after: &Counters) -> Shown {
        let parts = [
            ("bookbuyer", self.buyer, &before.buyer, &after.buyer),
            ("bookthief", self.thief, &before.thief, &after.thief),
        ];
        let mut few = false;
        let mut bought = 0;
        for (name, wanted, before, after) in parts {
            let Some(moved) = after.since(before) else {
                return Shown::Wrong(format!("{name} was restarted"));
            };
            bought += moved.v1 + moved.v2;
            match wanted.judge(&moved) {
                Shown::Right => {}
                Shown::TooFew => few = true,
                Shown::Wrong(how) => return Shown::Wrong(format!("{name} {how}")),
            }
        }
        if few {
            return Shown::TooFew;
        }
        // What is sold is restocked, a moment later.
        let restocked = after.warehouse.total_books > before.warehouse.total_books;
        match (bought > 0, restocked) {
            (true, false) => Shown::TooFew,
            // An order that was under way at the first reading may arrive after it, so this is no contradiction.
            _ => Shown::Right,
        }
    }
}

// === impl Sale ===

impl Sale {
    fn judge(self, moved: &Buyer) -> Shown {
        let Buyer { v1, v2, rounds, .. } = *moved;
        let enough = match self {
            Self::Halves => v1 + v2 >= BOOKS,
            _ => rounds >= ROUNDS,
        };
        // A round and its book are counted at once, so no reading lies between the two.
        let each = v1 + v2 == rounds;
        let right = match self {
            Self::Nothing => v1 + v2 == 0,
            Self::First => v2 == 0 && each,
            Self::Second => v1 == 0 && each,
            Self::Halves => each && (!enough || (1..=3).contains(&(v1 * 4 / (v1 + v2).max(1)))),
        };
        match (right, enough) {
            (true, true) => Shown::Right,
            (true, false) => Shown::TooFew,
            (false, _) => Shown::Wrong(format!(
                "got {v1} books of v1 and {v2} of v2 in {rounds} rounds, which is not {self}"
            )),
        }
    }
}

impl fmt::Display for Sale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing at all",
            Self::First => "one of v1 in each",
            Self::Second => "one of v2 in each",
            Self::Halves => "one in each, half of them of v1",
        })
    }
}

// === impl Buyer ===

impl Buyer {
    /// What was added; none if it has begun anew since.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            v1: self.v1.checked_sub(before.v1)?,
            v2: self.v2.checked_sub(before.v2)?,
            rounds: self.rounds.checked_sub(before.rounds)?,
            failed_rounds: self.failed_rounds.checked_sub(before.failed_rounds)?,
        })
    }
}

// === impl Counters ===

impl Counters {
    /// A table of the counters before and after, for people.
    pub fn table(before: &Self, after: &Self) -> String {
        let mut text = String::new();
        let mut line = |who: &str, what: &str, from: u64, to: u64, more: &str| {
            let plus = to.saturating_sub(from);
            // Writing into a String does not fail.
            let _ = writeln!(
                text,
                "{who:<14} {what:<9} {from:>5} → {to:<5} +{plus:<4}{more}"
            );
        };
        let versions = |before: &Buyer, after: &Buyer| {
            format!(
                " (v1 +{}, v2 +{})",
                after.v1.saturating_sub(before.v1),
                after.v2.saturating_sub(before.v2)
            )
        };
        for (who, what, from, to) in [
            ("bookbuyer", "bought", &before.buyer, &after.buyer),
            ("bookthief", "stole", &before.thief, &after.thief),
        ] {
            let more = versions(from, to);
            line(who, what, from.v1 + from.v2, to.v1 + to.v2, &more);
        }
        let (from, to) = (before.first.books_sold, after.first.books_sold);
        line("bookstore", "sold", from, to, "");
        if let (Some(from), Some(to)) = (before.second, after.second) {
            line("bookstore-v2", "sold", from.books_sold, to.books_sold, "");
        }
        let (from, to) = (before.warehouse.total_books, after.warehouse.total_books);
        line("bookwarehouse", "restocked", from, to, "");
        text
    }

    /// Fails if rounds of the bookbuyer failed between the two readings.
    pub fn none_failed(before: &Self, after: &Self) -> Result<()> {
        match after.buyer.since(&before.buyer) {
            Some(moved) if moved.failed_rounds == 0 => Ok(()),
            Some(moved) => bail!("{} of {} rounds failed", moved.failed_rounds, moved.rounds),
            None => bail!("bookbuyer was restarted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(buyer: (u64, u64, u64), thief: (u64, u64, u64), stock: u64) -> Counters {
        let of = |(v1, v2, rounds)| Buyer {
            v1,
            v2,
            rounds,
            failed_rounds: 0,
        };
        Counters {
            buyer: of(buyer),
            thief: of(thief),
            warehouse: Warehouse { total_books: stock },
            ..Counters::default()
        }
    }

    #[test]
    fn movements_are_judged_by_rounds() {
        let before = counters((10, 0, 10), (3, 0, 50), 13);
        let only_buyer = Wanted {
            buyer: Sale::First,
            thief: Sale::Nothing,
        };
        for (after, shown) in [
            (counters((16, 0, 16), (3, 0, 60), 19), Shown::Right),
            // Neither has made enough rounds; the warehouse has not heard yet.
            (counters((12, 0, 12), (3, 0, 60), 15), Shown::TooFew),
            (counters((16, 0, 16), (3, 0, 53), 19), Shown::TooFew),
            (counters((16, 0, 16), (3, 0, 60), 13), Shown::TooFew),
        ] {
            assert_eq!(only_buyer.judge(&before, &after), shown, "{after:?}");
        }
        for (after, word) in [
            (
                counters((16, 0, 16), (4, 0, 60), 20),
                "bookthief got 1 books",
            ),
            (
                counters((10, 0, 16), (3, 0, 60), 13),
                "bookbuyer got 0 books",
            ),
            (
                counters((15, 0, 16), (3, 0, 60), 18),
                "bookbuyer got 5 books of v1 and 0 of v2 in 6 rounds",
            ),
            (
                counters((15, 1, 16), (3, 0, 60), 19),
                "bookbuyer got 5 books of v1 and 1 of v2",
            ),
            (
                counters((1, 0, 1), (3, 0, 60), 19),
                "bookbuyer was restarted",
            ),
        ] {
            let Shown::Wrong(how) = only_buyer.judge(&before, &after) else {
                panic!("{after:?} is wrong")
            };
            assert!(how.contains(word), "{how}");
        }
    }

    #[test]
    fn halves_take_many_books_and_lie_between_a_quarter_and_three() {
        for (v1, v2, right) in [
            (20, 20, true),
            (11, 30, true),
            (30, 12, true),
            (9, 31, false),
            (40, 0, false),
        ] {
            let moved = Buyer {
                v1,
                v2,
                rounds: v1 + v2,
                failed_rounds: 0,
            };
            assert_eq!(
                Sale::Halves.judge(&moved) == Shown::Right,
                right,
                "{v1}:{v2}"
            );
        }
        let few = Buyer {
            v1: 9,
            v2: 0,
            rounds: 9,
            failed_rounds: 0,
        };
        assert_eq!(Sale::Halves.judge(&few), Shown::TooFew);
    }

    #[test]
    fn pages_are_read_and_shown() {
        let page =
            r#"{"booksStolen":3,"booksStolenV1":1,"booksStolenV2":2,"failedRounds":1,"rounds":6}"#;
        let buyer: Buyer = serde_json::from_str(page).expect("page");
        assert_eq!(
            (buyer.v1, buyer.v2, buyer.rounds, buyer.failed_rounds),
            (1, 2, 6, 1)
        );
        let (before, after) = (
            counters((1, 0, 1), (0, 0, 0), 1),
            counters((7, 2, 9), (0, 0, 9), 10),
        );
        assert_eq!(
            Counters::table(&before, &after),
            "bookbuyer      bought        1 → 9     +8    (v1 +6, v2 +2)\n\
             bookthief      stole         0 → 0     +0    (v1 +0, v2 +0)\n\
             bookstore      sold          0 → 0     +0   \n\
             bookwarehouse  restocked     1 → 10    +9   \n"
        );
        assert!(Counters::none_failed(&before, &after).is_ok());
    }
}
