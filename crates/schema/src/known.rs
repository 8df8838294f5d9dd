//! The well-known types that have a JSON form of their own: scalars of durations, times and field masks.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::wire::{Raw, next, put_tag, put_varint};

/// Wrappers, with the kind of the value they hold.
pub(crate) const WRAPPERS: [(&str, crate::table::Kind); 9] = {
    use crate::table::Kind;
    [
        ("google.protobuf.BoolValue", Kind::Bool),
        ("google.protobuf.BytesValue", Kind::Bytes),
        ("google.protobuf.DoubleValue", Kind::Double),
        ("google.protobuf.FloatValue", Kind::Float),
        ("google.protobuf.Int32Value", Kind::Int32),
        ("google.protobuf.Int64Value", Kind::Int64),
        ("google.protobuf.StringValue", Kind::Text),
        ("google.protobuf.UInt32Value", Kind::Uint32),
        ("google.protobuf.UInt64Value", Kind::Uint64),
    ]
};

/// The others.
const OTHERS: [&str; 8] = [
    "google.protobuf.Any",
    "google.protobuf.Duration",
    "google.protobuf.Empty",
    "google.protobuf.FieldMask",
    "google.protobuf.ListValue",
    "google.protobuf.Struct",
    "google.protobuf.Timestamp",
    "google.protobuf.Value",
];

/// Whether a message has a JSON form of its own.
pub(crate) fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || wrapped(name).is_some()
}

/// Whether, inside an `Any`, the message's JSON is the member `value`.
pub(crate) fn is_boxed(name: &str) -> bool {
    name != "google.protobuf.Empty" && is_known(name)
}

/// What a wrapper holds.
pub(crate) fn wrapped(name: &str) -> Option<crate::table::Kind> {
    let found = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == name);
    found.map(|(_, kind)| *kind)
}

/// `1.5s` as a protobuf duration.
pub(crate) fn duration(text: &str) -> Option<Vec<u8>> {
    let (negative, number) = match text.strip_suffix('s')?.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_suffix('s')?),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 9 {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    if seconds > 315_576_000_000 {
        return None;
    }
    let nanos: i64 = format!("{part:0<9}").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some(pair(seconds * sign, nanos * sign))
}

/// A protobuf duration as `1.500s`.
pub(crate) fn duration_text(bytes: &[u8]) -> Option<String> {
    let (seconds, nanos) = unpair(bytes)?;
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    Some(match nanos {
        0 => format!("{sign}{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1000 == 0 => format!("{sign}{seconds}.{:06}s", nanos / 1000),
        _ => format!("{sign}{seconds}.{nanos:09}s"),
    })
}

/// RFC 3339 as a protobuf timestamp.
pub(crate) fn timestamp(text: &str) -> Option<Vec<u8>> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(pair(at.unix_timestamp(), i64::from(at.nanosecond())))
}

/// A protobuf timestamp as RFC 3339.
pub(crate) fn timestamp_text(bytes: &[u8]) -> Option<String> {
    let (seconds, nanos) = unpair(bytes)?;
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let at = at.replace_nanosecond(u32::try_from(nanos).ok()?).ok()?;
    at.format(&Rfc3339).ok()
}

/// Fields 1 and 2, both numbers.
fn pair(first: i64, second: i64) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in [(1, first), (2, second)] {
        if value != 0 {
            put_tag(&mut out, number, 0);
            put_varint(&mut out, value as u64);
        }
    }
    out
}

fn unpair(mut bytes: &[u8]) -> Option<(i64, i64)> {
    let mut found = (0, 0);
    while !bytes.is_empty() {
        let (number, value, rest) = next(bytes)?;
        bytes = rest;
        match (number, value) {
            (1, Raw::Varint(value)) => found.0 = value as i64,
            // A 32-bit number on the wire is sign-extended to 64.
            (2, Raw::Varint(value)) => found.1 = i64::from(value as i32),
            _ => {}
        }
    }
    Some(found)
}

/// `userAgent` as `user_agent`.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// `user_agent` as `userAgent`, protobuf's rule.
pub(crate) fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            _ if upper => {
                out.push(letter.to_ascii_uppercase());
                upper = false;
            }
            _ => out.push(letter),
        }
    }
    out
}
