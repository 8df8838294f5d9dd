//! Replies of the proxy's own on their way: which there are, and the form they take in the end.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::attempts::Ended as AttemptsEnded;
use super::deliver::Reply;
use super::facts::Scene;
use super::outgoing::ORIGINAL_PATH;
use super::reply::{self, LocalReply, Refusal};
use super::router::Way;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::listener::Direction;
use crate::reason::{Blame, Reason};
use crate::route::Respond;

/// gRPC's status for a deadline that has passed.
const DEADLINE_EXCEEDED: u32 = 4;

/// Asks for the reason of a refusal.
pub const ASKS: HeaderName = HeaderName::from_static("x-osm-debug");
/// The reason, by its name in `docs/reasons.md`.
const REASON: HeaderName = HeaderName::from_static("x-osm-reason");
/// Who has to act.
const BLAME: HeaderName = HeaderName::from_static("x-osm-blame");
/// The policy that refused.
const DENIED_BY: HeaderName = HeaderName::from_static("x-osm-denied-by");

impl Way<'_, '_> {
    /// The answer of a route that answers itself.
    pub fn respond(&mut self, respond: &Respond) -> Response<Reply> {
        let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK);
        self.exchange.line.response_code_details = "direct_response".to_owned();
        self.exchange.line.response_code = respond.status;
        let Some(format) = &respond.format else {
            return reply::text(status, respond.body.clone(), &mut self.exchange);
        };
        let text = String::from_utf8_lossy(&respond.body);
        let scene = Scene {
            body: Some(&text),
            ..self.scene()
        };
        let body = format.make(&scene);
        let mut response = reply::text(status, body, &mut self.exchange);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, format.content_type.clone());
        response
    }

    /// The answer to a request that no attempt brought one for.
    pub fn ended(&mut self, ended: AttemptsEnded, cluster: &Cluster) -> Response<Reply> {
        // As Envoy: time that passes after the request has come whole is the server's.
        let is_late = matches!(
            ended.reason,
            Reason::IdleTimeout | Reason::MaxDuration | Reason::RequestTimeout
        );
        let mut reply = LocalReply::from(ended.reason);
        if is_late && self.body.is_read() {
            reply.status = StatusCode::GATEWAY_TIMEOUT;
        }
        if ended.reason == Reason::MaxDuration {
            reply.grpc_status = Some(DEADLINE_EXCEEDED);
        }
        if ended.reason == Reason::CircuitOpen
            && let Some(circuit) = &cluster.config.circuit
        {
            reply.status = circuit.degraded.status;
            reply.body = circuit.degraded.body.clone();
        }
        if ended.reason == Reason::BadRequest && !self.http.is_http2 {
            return self.unread(ended.reason);
        }
        if ended.count > 1 {
            let body = String::from_utf8_lossy(&reply.body);
            let body = body.replace(
                "headers. reset reason:",
                "headers. retried and the latest reset reason:",
            );
            reply.body = body.into();
        }
        let mut response = reply::local(reply, &mut self.exchange);
        self.exchange.line.response_flags = ended.flags();
        // The rest of a request that was late will not come any sooner now.
        if is_late && !self.body.is_read() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// Another path, of which headers of the reply may speak.
    pub fn rewrite(&mut self, path: String) {
        let old = std::mem::replace(&mut self.target.path_and_query, path);
        if let Ok(old) = HeaderValue::try_from(old)
            && !self.manager.suppress_envoy_headers
        {
            self.parts.headers.insert(ORIGINAL_PATH, old);
        }
    }

    /// The answer to what could not be read, in the words of Envoy's codec. A stream of HTTP/2 is refused as any other.
    pub fn unread(&mut self, reason: Reason) -> Response<Reply> {
        let row = reason.row();
        let body = match (reason, row.body) {
            (Reason::MissingHost, _) => "",
            (_, "") => row.status.canonical_reason().unwrap_or_default(),
            (_, body) => body,
        };
        self.exchange.fail(reason);
        reply::text(
            row.status,
            Bytes::from_static(body.as_bytes()),
            &mut self.exchange,
        )
    }

    /// The answer to a request that is refused.
    pub fn refusal(&mut self, reason: Reason) -> Response<Reply> {
        reply::refusal(&Refusal::from(reason), &mut self.exchange)
    }

    /// Gives a reply of ours its final form, in Envoy's order: what the configuration says of such replies, then gRPC,
    /// then what describes the body. Others stay as they are.
    pub fn finish(&mut self, response: Response<Reply>) -> Response<Reply> {
        let (mut head, reply) = response.into_parts();
        let Reply::Local(mut local) = reply else {
            return Response::from_parts(head, reply);
        };
        let mut content_type = HeaderValue::from_static("text/plain");
        let mut is_changed = false;
        if let Some(mapping) = self
            .manager
            .reply_mapping
            .as_deref()
            .filter(|_| !local.is_plain)
        {
            let before = (local.body.clone(), head.headers.get(CONTENT_TYPE).cloned());
            content_type = mapping.apply(self, &mut head, &mut local.body);
            is_changed =
                before.0 != local.body && before.1.as_ref() == head.headers.get(CONTENT_TYPE);
        }
        if self.is_grpc && !local.is_plain {
            local.to_grpc(&mut head);
        } else if local.body.is_empty() {
            if !local.is_plain {
                head.headers.remove(CONTENT_TYPE);
            }
        } else if is_changed || !head.headers.contains_key(CONTENT_TYPE) {
            head.headers.insert(CONTENT_TYPE, content_type);
        }
        self.exchange.replied(head.status);
        self.explain(&mut head.headers);
        Response::from_parts(head, Reply::Local(local))
    }

    /// Tells a caller of the mesh who asks, where the route table allows it, why it was refused.
    fn explain(&self, headers: &mut HeaderMap) {
        let Some(reason) = self.exchange.failed() else {
            return;
        };
        if !self.parts.headers.contains_key(ASKS)
            || !is_of_mesh(&self.http.connection)
            || !self.table().is_some_and(|table| table.tells_reasons)
        {
            return;
        }
        let value = |text: &str| HeaderValue::from_str(text).ok();
        if let Some(name) = value(&reason.name()) {
            headers.insert(REASON, name);
        }
        headers.insert(BLAME, HeaderValue::from_static(reason.row().blame.as_str()));
        if reason.row().blame != Blame::Policy {
            return;
        }
        // Where no policy names itself, because none allows it, the names of route and chain carry the provenance.
        let line = &self.exchange.line;
        let route = line
            .route_name
            .as_deref()
            .filter(|_| reason != Reason::Denied);
        let chain = self.http.connection.chain.name.as_ref();
        if let Some(policy) = value(line.policy.as_deref().or(route).unwrap_or(chain)) {
            headers.insert(DENIED_BY, policy);
        }
    }
}

/// Takes from requests of strangers the wish to be told reasons, so that nobody behind answers it for them.
pub fn forget_wish(connection: &Connection, headers: &mut HeaderMap) {
    if headers.contains_key(ASKS) && !is_of_mesh(connection) {
        headers.remove(ASKS);
    }
}

/// Takes reasons from responses to strangers, wherever they come from.
pub fn conceal(connection: &Connection, headers: &mut HeaderMap) {
    if !is_of_mesh(connection) {
        for name in [REASON, BLAME, DENIED_BY] {
            headers.remove(name);
        }
    }
}

/// Whether the caller is a verified member of the mesh, or the application this sidecar stands beside.
fn is_of_mesh(connection: &Connection) -> bool {
    let is_own = connection.listener.direction == Direction::Outbound
        && (connection.is_redirected || connection.peer.source.is_loopback());
    is_own || connection.peer.names.is_some()
}
