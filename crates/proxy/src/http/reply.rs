//! Replies the proxy makes itself, in HTTP or, to gRPC, in gRPC.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};

use super::deliver::Reply;
use super::exchange::Exchange;
use crate::reason::{Reason, grpc_status};
use crate::route::AddMode;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// A refusal: its reason, and what it changes of the reason's row.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Another status than the reason's.
    pub status: Option<StatusCode>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal {
            reason,
            status: None,
        }
    }
}

/// A filter's own answer to a request.
#[derive(Debug, Default)]
pub struct LocalReply {
    /// Why it is refused; `None` if the answer is what was asked for.
    pub reason: Option<Reason>,
    /// Its status.
    pub status: StatusCode,
    /// Its body, which in gRPC becomes the message.
    pub body: Bytes,
    /// Headers beside those of every reply.
    pub headers: Vec<(AddMode, HeaderName, HeaderValue)>,
    /// gRPC's status where it does not follow from the HTTP status.
    pub grpc_status: Option<u32>,
    /// Envoy's response code details.
    pub details: Cow<'static, str>,
    /// Sent as it is: never as gRPC, and without the route's changes to responses.
    pub is_plain: bool,
}

impl From<Reason> for LocalReply {
    fn from(reason: Reason) -> LocalReply {
        let row = reason.row();
        let overloaded = (reason == Reason::UpstreamOverflow).then(|| {
            let yes = HeaderValue::from_static("true");
            (AddMode::Overwrite, OVERLOADED, yes)
        });
        LocalReply {
            reason: Some(reason),
            status: row.status,
            body: Bytes::from_static(row.body.as_bytes()),
            headers: overloaded.into_iter().collect(),
            details: row.details.into(),
            ..LocalReply::default()
        }
    }
}

/// The reply that a filter wants.
pub fn local(reply: LocalReply, is_grpc: bool, exchange: &mut Exchange) -> Response<Reply> {
    let is_grpc = is_grpc && !reply.is_plain;
    exchange.line.response_code_details = reply.details.into_owned();
    if let Some(reason) = reply.reason {
        exchange.fail(reason);
    }
    let mut response = text(reply.status, reply.body, is_grpc, exchange);
    let headers = response.headers_mut();
    if is_grpc && let Some(status) = reply.grpc_status {
        headers.insert(GRPC_STATUS, HeaderValue::from(status));
    }
    for (mode, name, value) in reply.headers {
        // gRPC's own content type tells the client how to read the rest.
        if !is_grpc || name != CONTENT_TYPE {
            mode.apply(headers, name, value);
        }
    }
    response
}

/// The reply to a refused request.
pub fn refusal(refusal: &Refusal, is_grpc: bool, exchange: &mut Exchange) -> Response<Reply> {
    let row = refusal.reason.row();
    let status = refusal.status.unwrap_or(row.status);
    exchange.fail(refusal.reason);
    let body = Bytes::from_static(row.body.as_bytes());
    let mut response = text(status, body, is_grpc, exchange);
    if refusal.reason == Reason::UpstreamOverflow {
        response
            .headers_mut()
            .insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

/// A reply with a text.
pub fn text(
    status: StatusCode,
    body: Bytes,
    is_grpc: bool,
    exchange: &mut Exchange,
) -> Response<Reply> {
    if is_grpc {
        return grpc(status, &body, exchange);
    }
    exchange.replied(status);
    let has_body = !body.is_empty();
    let mut response = Response::new(Reply::Local(body));
    *response.status_mut() = status;
    if has_body {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A trailers-only reply.
fn grpc(status: StatusCode, body: &[u8], exchange: &mut Exchange) -> Response<Reply> {
    exchange.replied(StatusCode::OK);
    let mut response = Response::new(Reply::Local(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(body))
        && !body.is_empty()
    {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// As gRPC encodes its message: printable ASCII but `%` stays.
fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The reply of a route that redirects.
pub fn redirect(status: u16, location: &str, exchange: &mut Exchange) -> Response<Reply> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    exchange.replied(status);
    exchange.line.response_code_details = "direct_response".to_owned();
    let mut response = Response::new(Reply::Local(Bytes::new()));
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(super::percent_encode("a %\né".as_bytes()), "a %25%0A%C3%A9");
    }
}
