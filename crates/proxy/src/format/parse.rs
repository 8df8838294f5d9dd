//! Format strings into pieces.

use http::header::HeaderName;

use super::clock::Clock;
use super::command::{Command, GrpcStatus, Operator, Precision, Token};
use super::facts::{Address, Moment, Number, Text};
use super::{Piece, Template};
use crate::matcher::HeaderKey;

/// A command as written: `%NAME(ARGUMENT):LENGTH%`.
struct Written<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    limit: Option<usize>,
}

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (written, after) =
            written(after).ok_or_else(|| format!("{text:?} has an incorrect command (%…%)"))?;
        rest = after;
        match command(&written)? {
            // Known already: it becomes part of the text around it.
            Command {
                operator: Operator::Fixed(Some(known)),
                ..
            } => literal.push_str(&known),
            command => {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                }
                pieces.push(Piece::Command(command));
            }
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// Reads `NAME(ARGUMENT):LENGTH%`; what stands behind it is the second.
fn written(text: &str) -> Option<(Written<'_>, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, rest) = text.split_at_checked(end).filter(|_| end > 0)?;
    let Some(inside) = rest.strip_prefix('(') else {
        let (limit, after) = closing(rest)?;
        let written = Written {
            name,
            argument: None,
            limit,
        };
        return Some((written, after));
    };
    // The argument may hold `)` and `%` itself: it ends where the command can end.
    inside.match_indices(')').find_map(|(at, _)| {
        let (argument, rest) = (inside.get(..at)?, inside.get(at.checked_add(1)?..)?);
        let (limit, after) = closing(rest)?;
        let written = Written {
            name,
            argument: Some(argument),
            limit,
        };
        Some((written, after))
    })
}

/// Reads `:LENGTH%` or `%`.
fn closing(text: &str) -> Option<(Option<usize>, &str)> {
    match text.strip_prefix(':') {
        None => text.strip_prefix('%').map(|after| (None, after)),
        Some(rest) => {
            let (digits, after) = rest.split_once('%')?;
            let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            Some((Some(digits.parse().ok().filter(|_| all_digits)?), after))
        }
    }
}

fn command(written: &Written<'_>) -> Result<Command, String> {
    let name = written.name;
    let operator = match written.argument {
        None => plain(name),
        Some(argument) => with_argument(name, argument),
    }?;
    let may_be_cut = matches!(
        operator,
        Operator::Request(..)
            | Operator::Response(..)
            | Operator::Status
            | Operator::Trailer(..)
            | Operator::Query(_)
            | Operator::Path { .. }
            | Operator::Fixed(_)
            | Operator::Text(Text::LocalReplyBody)
    );
    let operator = match (operator, written.limit) {
        (Operator::Fixed(Some(text)), Some(limit)) => {
            let end = text.floor_char_boundary(limit);
            Operator::Fixed(text.get(..end).map(Into::into))
        }
        (operator, _) => operator,
    };
    if written.limit.is_some() && !may_be_cut {
        return Err(format!("%{name}% takes no length"));
    }
    Ok(Command {
        operator,
        limit: written.limit,
    })
}

fn plain(name: &str) -> Result<Operator, String> {
    use Moment::{AnswerBegan, Over, ReplyEnded, RequestBegan, RequestEnded, UpstreamEnded};
    let between = |from, to| Operator::Between(from, to, Precision::Milliseconds);
    if let Some(text) = Text::of(name) {
        return Ok(Operator::Text(text));
    }
    if let Some(number) = Number::of(name) {
        return Ok(Operator::Number(number));
    }
    if let Some(operator) = address(name) {
        return Ok(operator);
    }
    Ok(match name {
        "DURATION" => between(RequestBegan, Over),
        "REQUEST_DURATION" => between(RequestBegan, RequestEnded),
        "REQUEST_TX_DURATION" => between(RequestBegan, UpstreamEnded),
        "RESPONSE_DURATION" => between(RequestBegan, AnswerBegan),
        "RESPONSE_TX_DURATION" => between(AnswerBegan, ReplyEnded),
        "START_TIME" => Operator::Started(Clock::parse("")?),
        "EMIT_TIME" => Operator::Now(Clock::parse("")?),
        "GRPC_STATUS" => Operator::Grpc(GrpcStatus::Camel),
        "GRPC_STATUS_NUMBER" => Operator::Grpc(GrpcStatus::Number),
        "PATH" => Operator::Path {
            query: true,
            original: None,
        },
        "HOSTNAME" => {
            let name = nix::unistd::gethostname().ok();
            Operator::Fixed(name.map(|name| name.to_string_lossy().into()))
        }
        _ => return Err(format!("the command %{name}% is not supported")),
    })
}

/// `DOWNSTREAM_REMOTE_ADDRESS`, `…_ADDRESS_WITHOUT_PORT`, `…_PORT`.
fn address(name: &str) -> Option<Operator> {
    // Envoy's older name of the endpoint's address.
    if name == "UPSTREAM_HOST" {
        return Some(Operator::Address(Address::Upstream, Token::Whole));
    }
    let parts = [
        ("_ADDRESS_WITHOUT_PORT", Token::WithoutPort),
        ("_ADDRESS", Token::Whole),
        ("_PORT", Token::Port),
    ];
    parts.iter().find_map(|(suffix, token)| {
        let address = Address::of(name.strip_suffix(suffix)?)?;
        Some(Operator::Address(address, *token))
    })
}

fn with_argument(name: &str, argument: &str) -> Result<Operator, String> {
    let wrong = || format!("%{name}({argument})% is not supported");
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => {
            let (one, other) = two(argument, HeaderKey::parse).ok_or_else(wrong)?;
            Operator::Request(one, other)
        }
        "RESP" | "RESPONSE_HEADER" if argument.eq_ignore_ascii_case(":status") => Operator::Status,
        "RESP" | "RESPONSE_HEADER" => {
            let (one, other) = two(argument, header).ok_or_else(wrong)?;
            Operator::Response(one, other)
        }
        "TRAILER" | "RESPONSE_TRAILER" => {
            let (one, other) = two(argument, header).ok_or_else(wrong)?;
            Operator::Trailer(one, other)
        }
        "QUERY_PARAM" if !argument.is_empty() => Operator::Query(argument.into()),
        "PATH" => path(argument).ok_or_else(wrong)?,
        "START_TIME" => Operator::Started(Clock::parse(argument)?),
        "EMIT_TIME" => Operator::Now(Clock::parse(argument)?),
        "COMMON_DURATION" => duration(argument).ok_or_else(wrong)?,
        "GRPC_STATUS" => Operator::Grpc(match argument {
            "" | "CAMEL_STRING" => GrpcStatus::Camel,
            "SNAKE_STRING" => GrpcStatus::Snake,
            "NUMBER" => GrpcStatus::Number,
            _ => return Err(wrong()),
        }),
        "RESPONSE_CODE_DETAILS" if argument == "ALLOW_WHITESPACES" => Operator::DetailsAsTheyAre,
        "ENVIRONMENT" if !argument.is_empty() => {
            Operator::Fixed(std::env::var(argument).ok().map(Into::into))
        }
        _ => return Err(wrong()),
    })
}

/// `NAME` or `NAME?OTHER`.
fn two<T>(argument: &str, parse: impl Fn(&str) -> Option<T>) -> Option<(T, Option<T>)> {
    match argument.split_once('?') {
        None => Some((parse(argument)?, None)),
        Some((one, other)) => Some((parse(one)?, Some(parse(other)?))),
    }
}

fn header(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}

/// `WQ` or `NQ` (with or without query), then `ORIG`, `PATH` or `ORIG_OR_PATH`.
fn path(argument: &str) -> Option<Operator> {
    let (query, which) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        _ => return None,
    };
    let original = match which {
        "" | "ORIG_OR_PATH" => None,
        "ORIG" => Some(true),
        "PATH" => Some(false),
        _ => return None,
    };
    Some(Operator::Path { query, original })
}

/// `FROM:TO` or `FROM:TO:PRECISION`.
fn duration(argument: &str) -> Option<Operator> {
    let mut parts = argument.split(':');
    let (from, to) = (Moment::of(parts.next()?)?, Moment::of(parts.next()?)?);
    let precision = match parts.next() {
        None | Some("ms") => Precision::Milliseconds,
        Some("us") => Precision::Microseconds,
        Some("ns") => Precision::Nanoseconds,
        Some(_) => return None,
    };
    match parts.next() {
        None => Some(Operator::Between(from, to, precision)),
        Some(_) => None,
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        Template::parse(text)
    }
}
