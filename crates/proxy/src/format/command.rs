//! One command and how it is answered.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use http::header::HeaderName;

use super::clock::Clock;
use super::{Address, Facts, Moment, Number, Text, Value};
use crate::matcher::{HeaderKey, RequestView};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What is asked for.
    pub operator: Operator,
    /// The text is cut to so many bytes.
    pub limit: Option<usize>,
}

/// What a command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// A text.
    Text(Text),
    /// The details with their blanks kept.
    DetailsAsTheyAre,
    /// A number.
    Number(Number),
    /// An address, or a part of it.
    Address(Address, Token),
    /// A header of the request, or another if that is absent.
    Request(HeaderKey, Option<HeaderKey>),
    /// A header of the response, or another if that is absent.
    Response(HeaderName, Option<HeaderName>),
    /// The response's status, under its name in HTTP/2.
    Status,
    /// A trailer of the response, or another if that is absent.
    Trailer(HeaderName, Option<HeaderName>),
    /// A parameter of the query.
    Query(Box<str>),
    /// The path: with its query or without, as it came or as it goes.
    Path {
        /// With the query.
        query: bool,
        /// From `x-envoy-original-path` if that is there.
        original: Option<bool>,
    },
    /// The time between two moments.
    Between(Moment, Moment, Precision),
    /// When it began.
    Started(Clock),
    /// Now.
    Now(Clock),
    /// gRPC's status.
    Grpc(GrpcStatus),
    /// Known since the configuration came.
    Fixed(Option<Box<str>>),
}

/// A part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Address and port.
    Whole,
    /// The address.
    WithoutPort,
    /// The port.
    Port,
}

/// The unit of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// How gRPC's status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStatus {
    /// `InvalidArgument`.
    Camel,
    /// `INVALID_ARGUMENT`.
    Snake,
    /// `3`.
    Number,
}

/// gRPC's statuses by number.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

// === impl Command ===

impl Command {
    /// The answer.
    pub fn value<'a>(&'a self, facts: &'a dyn Facts) -> Value<'a> {
        match (self.operator.value(facts), self.limit) {
            (Value::Text(text), Some(limit)) => Value::Text(cut(text, limit)),
            (value, _) => value,
        }
    }
}

/// The first `limit` bytes, or a few less where those would split a character.
fn cut(text: Cow<'_, str>, limit: usize) -> Cow<'_, str> {
    let end = text.floor_char_boundary(limit);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or(text)),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

// === impl Operator ===

impl Operator {
    fn value<'a>(&'a self, facts: &'a dyn Facts) -> Value<'a> {
        match self {
            Operator::Text(Text::Details) => facts.text(Text::Details).map(without_blanks).into(),
            Operator::Text(text) => facts.text(*text).into(),
            Operator::DetailsAsTheyAre => facts.text(Text::Details).into(),
            Operator::Number(number) => facts.number(*number).into(),
            Operator::Address(address, token) => facts
                .address(*address)
                .map_or(Value::Absent, |address| token.of(address)),
            Operator::Request(key, other) => {
                let request = facts.request();
                let value = |key: &HeaderKey| request.as_ref().and_then(|r| first_of(r, key));
                value(key).or_else(|| value(other.as_ref()?)).into()
            }
            Operator::Response(name, other) => named(facts.response(), name, other.as_ref()).into(),
            Operator::Status => facts.number(Number::ResponseCode).into(),
            Operator::Trailer(name, other) => named(facts.trailers(), name, other.as_ref()).into(),
            Operator::Query(name) => facts.request().and_then(|r| parameter(r, name)).into(),
            Operator::Path { query, original } => {
                facts.request().map(|r| path(r, *query, *original)).into()
            }
            Operator::Between(from, to, precision) => {
                match (facts.moment(*from), facts.moment(*to)) {
                    (Some(from), Some(to)) => precision.between(from, to),
                    _ => Value::Absent,
                }
            }
            Operator::Started(clock) => facts
                .started()
                .map(|at| Cow::Owned(clock.format(at)))
                .into(),
            Operator::Now(clock) => Value::Text(clock.format(SystemTime::now()).into()),
            Operator::Grpc(form) => {
                let status = first(facts.trailers(), &GRPC_STATUS)
                    .or_else(|| first(facts.response(), &GRPC_STATUS));
                status.map_or(Value::Absent, |status| form.of(status))
            }
            Operator::Fixed(text) => text.as_deref().map(Cow::Borrowed).into(),
        }
    }
}

/// As Envoy writes details, so that they stay one word of a line.
fn without_blanks(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains(|c: char| c.is_ascii_whitespace()) {
        text.replace(|c: char| c.is_ascii_whitespace(), "_").into()
    } else {
        text
    }
}

/// The first value of a request's header: Envoy's formatter does not join.
fn first_of<'a>(request: &RequestView<'a>, key: &HeaderKey) -> Option<Cow<'a, str>> {
    match key {
        HeaderKey::Name(name) => first(Some(request.headers), name),
        other => other.value(request),
    }
}

fn named<'a>(
    headers: Option<&'a HeaderMap>,
    name: &HeaderName,
    other: Option<&HeaderName>,
) -> Option<Cow<'a, str>> {
    first(headers, name).or_else(|| first(headers, other?))
}

fn first<'a>(headers: Option<&'a HeaderMap>, name: &HeaderName) -> Option<Cow<'a, str>> {
    Some(String::from_utf8_lossy(headers?.get(name)?.as_bytes()))
}

fn parameter<'a>(request: RequestView<'a>, name: &str) -> Option<Cow<'a, str>> {
    let (_, query) = crate::route::split(request.path_and_query);
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.into())
}

fn path(request: RequestView<'_>, query: bool, original: Option<bool>) -> Cow<'_, str> {
    let before = || first(Some(request.headers), &ORIGINAL_PATH);
    let whole = match original {
        Some(false) => None,
        Some(true) | None => before(),
    };
    let whole = whole.unwrap_or(Cow::Borrowed(request.path_and_query));
    match whole.find('?').filter(|_| !query) {
        Some(end) => cut(whole, end),
        None => whole,
    }
}

// === impl Token, Precision, GrpcStatus ===

impl Token {
    fn of(self, address: SocketAddr) -> Value<'static> {
        match self {
            Token::Whole => Value::Text(address.to_string().into()),
            Token::WithoutPort => Value::Text(address.ip().to_string().into()),
            Token::Port => Value::Number(address.port().into()),
        }
    }
}

impl Precision {
    fn between(self, from: Instant, to: Instant) -> Value<'static> {
        let lasted: Duration = to.saturating_duration_since(from);
        let number = match self {
            Precision::Milliseconds => lasted.as_millis(),
            Precision::Microseconds => lasted.as_micros(),
            Precision::Nanoseconds => lasted.as_nanos(),
        };
        Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl GrpcStatus {
    fn of(self, status: Cow<'_, str>) -> Value<'_> {
        let Ok(number) = status.parse::<u32>() else {
            // Envoy's name for what is not a number.
            return match self {
                GrpcStatus::Number => Value::Number(-1),
                GrpcStatus::Camel | GrpcStatus::Snake => Value::Text("InvalidCode".into()),
            };
        };
        let names = usize::try_from(number).ok().and_then(|n| GRPC.get(n));
        match (self, names) {
            (GrpcStatus::Number, _) => Value::Number(number.into()),
            (GrpcStatus::Camel, Some((camel, _))) => Value::Text((*camel).into()),
            (GrpcStatus::Snake, Some((_, snake))) => Value::Text((*snake).into()),
            (_, None) => Value::Text(status),
        }
    }
}
