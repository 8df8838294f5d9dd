//! Heads and chunks as they leave: appended to a buffer that is used again.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, StatusCode};

use crate::framing::Length;

/// The last chunk of a body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends a request's head. Framing headers among `headers` are left out: `length` says what stands there.
///
/// `target` and `host` are visible ASCII, `upgrade` is a token: the caller has checked. A request without body says `Content-Length: 0` only where its method makes a body likely (RFC 9110 §8.6).
pub fn request_head(
    out: &mut Vec<u8>,
    method: &Method,
    target: &str,
    host: &str,
    headers: &HeaderMap,
    length: Length,
    upgrade: Option<&str>,
) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, headers);
    match length {
        Length::Empty if is_usually_bodiless(method) => {}
        Length::Empty => out.extend_from_slice(b"content-length: 0\r\n"),
        Length::Close => {}
        Length::Exact(length) => content_length(out, length),
        Length::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn is_usually_bodiless(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    )
}

/// Appends a response's head; `length` frames it, `None` leaves `Content-Length` as `headers` has it (HEAD, 304).
pub fn response_head(
    out: &mut Vec<u8>,
    is_version_10: bool,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<Length>,
    connection: Option<&'static str>,
) {
    out.extend_from_slice(if is_version_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, headers);
    match length {
        None => {
            if let Some(value) = headers.get(CONTENT_LENGTH) {
                field(out, &CONTENT_LENGTH, value);
            }
        }
        Some(Length::Empty) if status.is_informational() || status == StatusCode::NO_CONTENT => {}
        Some(Length::Empty) => content_length(out, 0),
        Some(Length::Exact(length)) => content_length(out, length),
        Some(Length::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Length::Close) => {}
    }
    if let Some(connection) = connection {
        out.extend_from_slice(b"connection: ");
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the line in front of a chunk; behind the chunk stands CR LF.
pub fn chunk_head(out: &mut Vec<u8>, length: usize) {
    let mut digits = [0u8; 16];
    let mut rest = length;
    let mut count = 0usize;
    for slot in digits.iter_mut().rev() {
        *slot = HEX.get(rest & 15).copied().unwrap_or(b'0');
        count = count.saturating_add(1);
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    let first = digits.len().saturating_sub(count);
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk with trailers.
pub fn end_of_chunks(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    fields(out, trailers);
    out.extend_from_slice(b"\r\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a decimal number.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut rest = number;
    let mut count = 0usize;
    for slot in digits.iter_mut().rev() {
        *slot = b'0'.saturating_add(u8::try_from(rest % 10).unwrap_or(0));
        count = count.saturating_add(1);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let first = digits.len().saturating_sub(count);
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// All fields but those that frame or end the hop's message.
fn fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != CONNECTION {
            field(out, name, value);
        }
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}
