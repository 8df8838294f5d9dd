//! Where a message's body ends: RFC 9112 §6.3, with everything ambiguous refused.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};

use crate::error::HeadError;

/// How a body's end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    Empty,
    /// After so many bytes.
    Exact(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection (responses only).
    Close,
}

/// What the headers say of a body; `None` if nothing.
pub(crate) fn announced(
    headers: &HeaderMap,
    is_version_10: bool,
) -> Result<Option<Length>, HeadError> {
    let coded = is_chunked(headers)?;
    let length = content_length(headers)?;
    match (coded, length) {
        (true, Some(_)) => Err(HeadError::LengthAndCoding),
        (true, None) if is_version_10 => Err(HeadError::CodingInVersion10),
        (true, None) => Ok(Some(Length::Chunked)),
        (false, Some(0)) => Ok(Some(Length::Empty)),
        (false, Some(length)) => Ok(Some(Length::Exact(length))),
        (false, None) => Ok(None),
    }
}

/// Whether the body is chunked. Several codings, and any but `chunked`, are refused: nobody sends them, and hops
/// disagree on them.
fn is_chunked(headers: &HeaderMap) -> Result<bool, HeadError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(HeadError::Coding),
    }
}

/// The one `Content-Length`. Several, or a list, would be allowed to agree (RFC 9112 §6.3), but as Envoy we take none:
/// nobody sends them in good faith.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => match number(length.as_bytes()) {
            Some(length) => Ok(Some(length)),
            None => Err(HeadError::ContentLength),
        },
        (Some(_), Some(_)) => Err(HeadError::ContentLength),
    }
}

/// Digits only, at most 2^63−1: `+3`, `0x3` and what overflows elsewhere are no numbers here.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value).filter(|value| i64::try_from(*value).is_ok())
}

/// Whether one of a list header's members is this token.
pub(crate) fn has_token(values: http::header::GetAll<'_, HeaderValue>, token: &[u8]) -> bool {
    values
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(token))
}
