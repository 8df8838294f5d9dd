//! Times in `strftime`'s form, with the fractions of a second Envoy adds to it.

use std::fmt::Write;
use std::time::SystemTime;

use time::OffsetDateTime;

/// Envoy's form where none is given.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";

/// A form of times, always in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// `strftime`'s letter.
    Field(char),
    /// Digits of the second's fraction.
    Fraction(usize),
    /// Seconds with digits of their fraction.
    Seconds(usize),
}

const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const FIELDS: &str = "YmdHMSyejaAbBhpITDFRstZzC";

// === impl Clock ===

impl Clock {
    /// Parses a form; the empty one is Envoy's own.
    pub(super) fn parse(form: &str) -> Result<Clock, String> {
        let form = if form.is_empty() { DEFAULT } else { form };
        let mut parts = Vec::new();
        let mut letters = form.chars().peekable();
        let unknown = |letter: Option<char>| match letter {
            Some(letter) => format!("%{letter} of a time is not supported"),
            None => "a time ends with %".to_owned(),
        };
        while let Some(letter) = letters.next() {
            if letter != '%' {
                match parts.last_mut() {
                    Some(Part::Literal(text)) => text.push(letter),
                    _ => parts.push(Part::Literal(letter.into())),
                }
                continue;
            }
            let part = match letters.next() {
                Some('%') => Part::Literal("%".into()),
                Some('f') => Part::Fraction(9),
                Some(digit @ '1'..='9') if letters.next_if_eq(&'f').is_some() => {
                    Part::Fraction(number(digit))
                }
                Some('E') => match (letters.next(), letters.next()) {
                    (Some(digit @ '0'..='9'), Some('S')) => Part::Seconds(number(digit)),
                    (Some(digit @ '1'..='9'), Some('f')) => Part::Fraction(number(digit)),
                    (Some('*'), Some('S')) => Part::Seconds(9),
                    (Some('*'), Some('f')) => Part::Fraction(9),
                    (letter, _) => return Err(unknown(letter)),
                },
                Some(letter) if FIELDS.contains(letter) => Part::Field(letter),
                letter => return Err(unknown(letter)),
            };
            parts.push(part);
        }
        Ok(Clock(parts))
    }

    /// A time in this form.
    pub(super) fn format(&self, at: SystemTime) -> String {
        let at = OffsetDateTime::from(at);
        let mut out = String::with_capacity(32);
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Field(letter) => field(at, *letter, &mut out),
                Part::Fraction(digits) => fraction(at, *digits, &mut out),
                Part::Seconds(digits) => {
                    field(at, 'S', &mut out);
                    if *digits > 0 {
                        out.push('.');
                        fraction(at, *digits, &mut out);
                    }
                }
            }
        }
        out
    }
}

fn number(digit: char) -> usize {
    digit
        .to_digit(10)
        .and_then(|digit| usize::try_from(digit).ok())
        .unwrap_or(0)
}

fn fraction(at: OffsetDateTime, digits: usize, out: &mut String) {
    let nanos = format!("{:09}", at.nanosecond());
    out.push_str(nanos.get(..digits).unwrap_or(&nanos));
}

fn field(at: OffsetDateTime, letter: char, out: &mut String) {
    let name = |names: &'static [&'static str], index: u8| {
        names.get(usize::from(index)).copied().unwrap_or_default()
    };
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let weekday = name(&WEEKDAYS, at.weekday().number_days_from_monday());
    let month = name(&MONTHS, u8::from(at.month()).saturating_sub(1));
    // Writing to a String does not fail.
    let _ = match letter {
        'Y' => write!(out, "{}", at.year()),
        'C' => write!(out, "{:02}", at.year().div_euclid(100)),
        'y' => write!(out, "{:02}", at.year().rem_euclid(100)),
        'm' => write!(out, "{:02}", u8::from(at.month())),
        'd' => write!(out, "{:02}", at.day()),
        'e' => write!(out, "{:2}", at.day()),
        'H' => write!(out, "{:02}", at.hour()),
        'I' => write!(out, "{:02}", (at.hour() + 11) % 12 + 1),
        'M' => write!(out, "{:02}", at.minute()),
        'S' => write!(out, "{:02}", at.second()),
        'j' => write!(out, "{:03}", at.ordinal()),
        'a' => write!(out, "{}", short(weekday)),
        'A' => write!(out, "{weekday}"),
        'b' | 'h' => write!(out, "{}", short(month)),
        'B' => write!(out, "{month}"),
        'p' => write!(out, "{}", if at.hour() < 12 { "AM" } else { "PM" }),
        's' => write!(out, "{}", at.unix_timestamp()),
        't' => write!(out, "\t"),
        'Z' => write!(out, "UTC"),
        'z' => write!(out, "+0000"),
        'T' => write!(
            out,
            "{:02}:{:02}:{:02}",
            at.hour(),
            at.minute(),
            at.second()
        ),
        'R' => write!(out, "{:02}:{:02}", at.hour(), at.minute()),
        'F' => write!(
            out,
            "{}-{:02}-{:02}",
            at.year(),
            u8::from(at.month()),
            at.day()
        ),
        'D' => write!(
            out,
            "{:02}/{:02}/{:02}",
            u8::from(at.month()),
            at.day(),
            at.year().rem_euclid(100)
        ),
        _ => Ok(()), // None other gets through `parse`.
    };
}
