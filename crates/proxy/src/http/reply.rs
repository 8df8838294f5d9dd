//! Replies the proxy makes itself, in HTTP or, to gRPC, in gRPC.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::response::Parts;
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

/// A reply of ours until it takes its final form ([`Way::finish`](super::router::Way::finish)).
#[derive(Debug, Default)]
pub struct Local {
    /// Its body.
    pub body: Bytes,
    /// gRPC's status where it does not follow from the HTTP status.
    pub grpc_status: Option<u32>,
    /// It has its final form: it is never gRPC, and no configuration of local replies changes it.
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
pub fn local(reply: LocalReply, exchange: &mut Exchange) -> Response<Reply> {
    exchange.line.response_code_details = reply.details.into_owned();
    if let Some(reason) = reply.reason {
        exchange.fail(reason);
    }
    let mut response = draft(
        reply.status,
        Local {
            body: reply.body,
            grpc_status: reply.grpc_status,
            is_plain: reply.is_plain,
        },
        exchange,
    );
    for (mode, name, value) in reply.headers {
        mode.apply(response.headers_mut(), name, value);
    }
    response
}

/// The reply to a refused request.
pub fn refusal(refusal: &Refusal, exchange: &mut Exchange) -> Response<Reply> {
    let row = refusal.reason.row();
    let status = refusal.status.unwrap_or(row.status);
    exchange.fail(refusal.reason);
    let body = Bytes::from_static(row.body.as_bytes());
    let mut response = text(status, body, exchange);
    if refusal.reason == Reason::UpstreamOverflow {
        response
            .headers_mut()
            .insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

/// A reply with a text.
pub fn text(status: StatusCode, body: Bytes, exchange: &mut Exchange) -> Response<Reply> {
    let local = Local {
        body,
        ..Local::default()
    };
    draft(status, local, exchange)
}

/// The reply of a route that redirects.
pub fn redirect(status: u16, location: &str, exchange: &mut Exchange) -> Response<Reply> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    exchange.line.response_code_details = "direct_response".to_owned();
    let mut response = text(status, Bytes::new(), exchange);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn draft(status: StatusCode, local: Local, exchange: &mut Exchange) -> Response<Reply> {
    exchange.line.response_code = status.as_u16();
    let mut response = Response::new(Reply::Local(Box::new(local)));
    *response.status_mut() = status;
    response
}

// === impl Local ===

impl Local {
    /// Makes it a trailers-only reply, its text the message: clients of gRPC read nothing else.
    pub fn to_grpc(&mut self, head: &mut Parts) {
        let body = std::mem::take(&mut self.body);
        let headers = &mut head.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.remove(CONTENT_LENGTH);
        if !headers.contains_key(GRPC_STATUS) {
            let status = self.grpc_status.unwrap_or(grpc_status(head.status));
            headers.insert(GRPC_STATUS, HeaderValue::from(status));
        }
        if let Ok(message) = HeaderValue::from_str(&percent_encode(body.trim_ascii_end()))
            && !body.is_empty()
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        head.status = StatusCode::OK;
    }
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

#[cfg(test)]
mod tests {
    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(super::percent_encode("a %\né".as_bytes()), "a %25%0A%C3%A9");
    }
}
