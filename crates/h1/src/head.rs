//! What requests and responses have in common: where a head ends, and its headers.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr_iter;

use crate::error::HeadError;

/// Empty lines tolerated in front of a request: RFC 9112 §2.2 asks for one.
const EMPTY_LINES: usize = 2;
/// Headers that are parsed on the stack; more need an allocation.
const USUAL: usize = 100;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, first to last, empty line included.
    pub bytes: usize,
    /// Headers.
    pub headers: usize,
}

impl Default for Limits {
    /// Envoy's.
    fn default() -> Limits {
        Limits {
            bytes: 60 << 10,
            headers: 100,
        }
    }
}

/// Looks for the end of a head that arrives in pieces; looks at each byte once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Scanner {
    /// Bytes looked at.
    at: usize,
    /// Where the current line began.
    line: usize,
    /// Lines that have ended.
    lines: usize,
}

impl Scanner {
    /// The length of the head, empty line included, once all of it is in `bytes`, which only grows between calls.
    pub fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HeadError> {
        let seen = self.at;
        let fresh = bytes.get(seen..).unwrap_or_default();
        for offset in memchr_iter(b'\n', fresh) {
            let end = seen.saturating_add(offset);
            // A bare LF ends a line for some and not for others: RFC 9112 §2.2.
            let before = end.checked_sub(1).and_then(|at| bytes.get(at));
            if before != Some(&b'\r') || end <= self.line {
                return Err(HeadError::LineEnd);
            }
            let head = end.saturating_add(1);
            if head > limits.bytes {
                return Err(HeadError::TooLarge);
            }
            if end == self.line.saturating_add(1) {
                return match self.lines {
                    0 => Err(HeadError::StartLine),
                    _ => Ok(Some(head)),
                };
            }
            self.lines = self.lines.saturating_add(1);
            self.line = head;
            if self.lines > limits.headers.saturating_add(1) {
                return Err(HeadError::TooManyHeaders);
            }
        }
        self.at = bytes.len();
        if bytes.len() > limits.bytes {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }
}

/// Takes empty lines away that stand in front of a request; `Err` once there are too many.
pub fn skip_empty_lines(bytes: &mut BytesMut, skipped: &mut usize) -> Result<(), HeadError> {
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
        *skipped = skipped.saturating_add(1);
        if *skipped > EMPTY_LINES {
            return Err(HeadError::StartLine);
        }
    }
    Ok(())
}

/// Room for the headers of one head, handed to a parser.
pub(crate) fn with_room<'b, R>(
    count: usize,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> R,
) -> R {
    if count <= USUAL {
        let mut room = [const { MaybeUninit::uninit() }; USUAL];
        parse(room.get_mut(..count).unwrap_or_default())
    } else {
        let mut room = vec![MaybeUninit::uninit(); count];
        parse(&mut room)
    }
}

/// The map of parsed headers; values are slices of `head`.
pub(crate) fn map(head: &Bytes, list: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(list.len().saturating_add(SPARE));
    for header in list {
        let name = name(header.name.as_bytes())?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value))
            .map_err(|_| HeadError::Header)?;
        headers
            .try_append(name, value)
            .map_err(|_| HeadError::TooManyHeaders)?;
    }
    Ok(headers)
}

/// Room for the headers a proxy adds, so that adding them does not move the map.
const SPARE: usize = 6;

/// A header's name; those every hop adds cost no allocation.
pub(crate) fn name(bytes: &[u8]) -> Result<HeaderName, HeadError> {
    let known = FREQUENT.iter().find(|known| {
        known.as_str().len() == bytes.len() && known.as_str().as_bytes().eq_ignore_ascii_case(bytes)
    });
    match known {
        Some(known) => Ok(known.clone()),
        None => HeaderName::from_bytes(bytes).map_err(|_| HeadError::Header),
    }
}

/// Names outside the `http` crate's own table that most requests in a mesh carry.
#[allow(clippy::declare_interior_mutable_const)] // `Bytes` inside; never mutated.
static FREQUENT: [HeaderName; 16] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-envoy-upstream-service-time"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-attempt-count"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Why `httparse` refuses.
pub(crate) fn refused(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::Header,
        httparse::Error::NewLine => HeadError::LineEnd,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::Status | httparse::Error::Token => HeadError::StartLine,
    }
}
