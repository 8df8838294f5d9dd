//! Envoy's format strings: `%COMMAND(ARGUMENT):LENGTH%` among literal text, for header values, bodies of local
//! replies and the access log.
//!
//! A [`Template`] is parsed once, when configuration arrives; after that it cannot fail. What its commands are
//! answered from is a [`Facts`]: whatever does not apply is absent.

mod body;
mod clock;
mod command;
mod facts;
mod parse;

pub use body::{Body, Content, Json};
pub use command::{Command, GrpcStatus, Operator, Precision, Token};
pub use facts::{Address, Amended, Facts, Moment, Number, Text};

use std::borrow::Cow;
use std::fmt::Write;

/// Text with commands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    Command(Command),
}

/// What a command is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// It does not apply, or is not known.
    Absent,
    /// A text.
    Text(Cow<'a, str>),
    /// A number, which typed logs keep as such.
    Number(i64),
}

/// What stands for a value that is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// `-`, as in access logs.
    Dash,
    /// Nothing, as in headers.
    Empty,
}

// === impl Template ===

impl Template {
    /// Parses a format string; `Err` says what is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        parse::pieces(text).map(|pieces| Template { pieces })
    }

    /// The text, if no command stands in it.
    pub fn literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The command, if the template is one and nothing else: typed logs keep the type of its value.
    pub fn single(&self) -> Option<&Command> {
        match self.pieces.as_slice() {
            [Piece::Command(command)] => Some(command),
            _ => None,
        }
    }

    /// Appends the text with all commands answered.
    pub fn write(&self, facts: &dyn Facts, missing: Missing, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Command(command) => command.value(facts).write(missing, out),
            }
        }
    }

    /// The text with all commands answered.
    pub fn format(&self, facts: &dyn Facts, missing: Missing) -> String {
        let mut out = String::new();
        self.write(facts, missing, &mut out);
        out
    }
}

// === impl Value ===

impl Value<'_> {
    /// Appends it.
    pub fn write(&self, missing: Missing, out: &mut String) {
        match self {
            Value::Absent if missing == Missing::Dash => out.push('-'),
            Value::Absent => {}
            Value::Text(text) => out.push_str(text),
            // Writing to a String does not fail.
            Value::Number(number) => drop(write!(out, "{number}")),
        }
    }
}

impl<'a> From<Option<Cow<'a, str>>> for Value<'a> {
    fn from(text: Option<Cow<'a, str>>) -> Value<'a> {
        text.map_or(Value::Absent, Value::Text)
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Value::Absent, Value::Number)
    }
}

#[cfg(test)]
mod tests;
