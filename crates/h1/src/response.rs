//! Response heads.

use bytes::Bytes;
use http::header::CONNECTION;
use http::response::Parts;
use http::{Method, StatusCode, Version};

use crate::error::HeadError;
use crate::framing::{Length, announced, has_token};
use crate::head::{Limits, map, refused, with_room};

/// A response's head.
#[derive(Debug)]
pub struct Response {
    /// Status, version and headers; names in lower case, in order.
    pub parts: Parts,
    /// Where its body ends. After `101`, and after `2xx` to CONNECT, there is no body but another protocol.
    pub length: Length,
    /// The server will go on with the connection.
    pub keep_alive: bool,
}

impl Response {
    /// Whether another response to the same request follows (1xx, but for the switch of protocols).
    pub fn is_interim(&self) -> bool {
        self.parts.status.is_informational() && self.parts.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Parses a head that [`crate::Scanner`] has found whole; `method` is that of the request it answers.
pub fn parse_response(
    head: &Bytes,
    method: &Method,
    limits: &Limits,
) -> Result<Response, HeadError> {
    let (status, version, headers) = with_room(limits.headers, |room| {
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, head, room)
            .map_err(refused)?;
        if parsed != httparse::Status::Complete(head.len()) {
            return Err(HeadError::LineEnd);
        }
        Ok((
            response.code,
            response.version,
            map(head, response.headers)?,
        ))
    })?;
    let version = match version {
        Some(1) => Version::HTTP_11,
        Some(0) => Version::HTTP_10,
        _ => return Err(HeadError::Version),
    };
    let status = status
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(HeadError::StartLine)?;
    let is_version_10 = version == Version::HTTP_10;
    let announced = announced(&headers, is_version_10)?;
    // RFC 9110 §6.4.1: these have none whatever their headers say.
    let bodiless = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (*method == Method::CONNECT && status.is_success());
    let length = if bodiless {
        Length::Empty
    } else {
        announced.unwrap_or(Length::Close)
    };
    let keep_alive = length != Length::Close
        && !has_token(headers.get_all(CONNECTION), b"close")
        && (!is_version_10 || has_token(headers.get_all(CONNECTION), b"keep-alive"));
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = version;
    parts.headers = headers;
    Ok(Response {
        parts,
        length,
        keep_alive,
    })
}
