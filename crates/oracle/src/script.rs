//! What a backend is told to do, as the case files write it.

use std::time::Duration;

use serde::Deserialize;
use testkit::Reply;

/// One reply: a status, or more.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// A status with a short body.
    Status(u16),
    /// `reset`, `close`, `hang`, `upgrade`.
    Word(Word),
    /// Everything else.
    Long(Box<Long>),
}

/// What needs no more words.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// RST, or RST_STREAM with INTERNAL_ERROR.
    Reset,
    /// RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// FIN without an answer.
    Close,
    /// No answer.
    Hang,
    /// 101 and an echo.
    Upgrade,
}

/// A reply with details.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Long {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    trailers: Vec<String>,
    /// Milliseconds before it.
    #[serde(default)]
    after: u64,
    /// Before the request's body is read.
    #[serde(default)]
    early: bool,
    /// HTTP/1: these bytes instead.
    #[serde(default)]
    raw: Option<String>,
    /// HTTP/1: the connection stays open after `raw`.
    #[serde(default)]
    keep: bool,
}

fn ok() -> u16 {
    200
}

// === impl Step ===

impl Step {
    /// As the backend plays it.
    pub fn reply(&self) -> Reply {
        match self {
            Step::Status(status) => answer(*status, &[], None, &[]),
            Step::Word(Word::Reset) => Reply::Reset(2),
            Step::Word(Word::Refuse) => Reply::Reset(7),
            Step::Word(Word::Close) => Reply::Close,
            Step::Word(Word::Hang) => Reply::Hang,
            Step::Word(Word::Upgrade) => Reply::Upgrade,
            Step::Long(long) => {
                let mut reply = match &long.raw {
                    Some(raw) => Reply::Raw(raw.as_bytes().to_vec(), long.keep),
                    None => answer(
                        long.status,
                        &long.headers,
                        long.body.as_deref(),
                        &long.trailers,
                    ),
                };
                if long.after > 0 {
                    reply = Reply::After(Duration::from_millis(long.after), Box::new(reply));
                }
                match long.early {
                    true => Reply::Early(Box::new(reply)),
                    false => reply,
                }
            }
        }
    }
}

fn answer(status: u16, headers: &[String], body: Option<&str>, trailers: &[String]) -> Reply {
    let pairs = |list: &[String]| -> Vec<(String, String)> {
        let pairs = list.iter().filter_map(|line| line.split_once(':'));
        pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    let body = match body {
        Some(text) => crate::check::filler(text).into_bytes(),
        None => format!("status {status}").into_bytes(),
    };
    Reply::Answer {
        status,
        fields: pairs(headers),
        body,
        trailers: pairs(trailers),
    }
}
