//! What a run found.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::generate::Generated;
use crate::known::{self, Known};

/// The outcome of all cases.
pub struct Report {
    known: Vec<Known>,
    /// Whether every case was run: only then is a listed difference that did not show gone.
    is_whole: bool,
    same: Vec<String>,
    differ: Vec<Difference>,
    /// Cases that differed once and then no more.
    pub unsteady: usize,
    /// Time for all cases.
    pub seconds: f64,
    /// The generator's part.
    pub generator: Option<Generated>,
}

struct Difference {
    case: String,
    places: Vec<String>,
    /// Index into the known ones.
    known: Option<usize>,
    envoy: Value,
    osm: Value,
}

// === impl Report ===

impl Report {
    /// Nothing found yet.
    pub fn new(known: Vec<Known>, is_whole: bool) -> Report {
        Report {
            known,
            is_whole,
            same: Vec::new(),
            differ: Vec::new(),
            unsteady: 0,
            seconds: 0.0,
            generator: None,
        }
    }

    /// Adds a case.
    pub fn add(&mut self, case: String, places: Vec<String>, envoy: Value, osm: Value) {
        if places.is_empty() {
            self.same.push(case);
            return;
        }
        let known = self
            .known
            .iter()
            .position(|known| known::matches(&known.case, &case));
        self.differ.push(Difference {
            case,
            places,
            known,
            envoy,
            osm,
        });
    }

    /// Listed differences that did not show.
    fn gone(&self) -> Vec<&str> {
        let unused = self.known.iter().enumerate().filter(|(index, _)| {
            self.is_whole
                && self
                    .differ
                    .iter()
                    .all(|difference| difference.known != Some(*index))
        });
        unused.map(|(_, known)| known.case.as_str()).collect()
    }

    fn new_ones(&self) -> impl Iterator<Item = &Difference> {
        self.differ
            .iter()
            .filter(|difference| difference.known.is_none())
    }

    /// Whether nothing unexpected was found.
    pub fn is_good(&self) -> bool {
        let generated = self
            .generator
            .as_ref()
            .is_none_or(|generated| generated.failures.is_empty());
        self.new_ones().next().is_none() && self.gone().is_empty() && generated
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for difference in self.new_ones() {
            let _ = writeln!(text, "DIFFERS  {}", difference.case);
            for place in &difference.places {
                let _ = writeln!(text, "         {place}");
            }
        }
        for case in self.gone() {
            let _ = writeln!(
                text,
                "GONE     {case}: no longer differs, take it out of known.yaml"
            );
        }
        let new = self.new_ones().count();
        let _ = writeln!(
            text,
            "oracle: {} cases in {:.0} s: {} same, {} differ as listed, {new} differ otherwise, {} listed but gone, {} differed once",
            self.same.len() + self.differ.len(),
            self.seconds,
            self.same.len(),
            self.differ.len() - new,
            self.gone().len(),
            self.unsteady,
        );
        if let Some(generated) = &self.generator {
            text.push_str(&generated.text());
        }
        text
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let differ = self.differ.iter().map(|difference| {
            json!({
                "case": difference.case,
                "places": difference.places,
                "reason": difference.known.map(|index| &self.known[index].reason),
                "envoy": difference.envoy,
                "osm-proxy": difference.osm,
            })
        });
        json!({
            "cases": self.same.len() + self.differ.len(),
            "same": self.same.len(),
            "differ": differ.collect::<Vec<_>>(),
            "unexpected": self.new_ones().count(),
            "gone": self.gone(),
            "differed once": self.unsteady,
            "seconds": self.seconds,
            "generator": self.generator.as_ref().map(Generated::json),
        })
    }
}
