//! A request's way: sane, routed, allowed, sent, answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue, SERVER, SET_COOKIE, USER_AGENT};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::body::{Limits, ReplyBody, RequestBody};
use super::exchange::Exchange;
use super::facts::Scene;
use super::filters::overrides::Routing;
use super::filters::{self, FilterContext, Passage, Unread};
use super::headers::{Origin, Target, X_REQUEST_ID, sanitize, strip_hop_by_hop, uri};
use super::outgoing::Outgoing;
use super::pool::{Lease, SendError};
use super::reply::{self, LocalReply, Refusal};
use super::server::HttpConnection;
use super::timing::{Defaults, Timing};
use super::upgrade;
use crate::access::{Line, field, milliseconds};
use crate::cluster::{ChoiceContext, Chosen, Cluster, Endpoint, Outcome, UpstreamHttp, hash};
use crate::connection::Connection;
use crate::listener::{HttpManager, RouteSource, ServerHeader};
use crate::reason::Reason;
use crate::route::{
    Action, Certificate, Client, Forward, HostRewrite, Route, RouteTable, is_grpc_type,
};
use crate::upstream::settled;
use crate::worker::roll;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request under way.
struct Way<'a> {
    http: &'a Arc<HttpConnection>,
    manager: &'a HttpManager,
    parts: Parts,
    body: Incoming,
    target: Target,
    exchange: Exchange,
}

/// Answers one request.
pub async fn handle(http: Arc<HttpConnection>, request: Request<Incoming>) -> Response<ReplyBody> {
    let Some(manager) = http.manager() else {
        let exchange = Exchange::new(&http);
        return reply::refusal(&Reason::RouteNotFound.into(), false, exchange);
    };
    let mut exchange = Exchange::new(&http);
    let (mut parts, body) = request.into_parts();
    describe(&mut exchange, &parts);
    let connection = &http.connection;
    let principal = connection
        .peer
        .names
        .as_ref()
        .and_then(|names| names.first())
        .map(String::as_str);
    let origin = Origin {
        source: connection.peer.source,
        is_tls: connection.is_tls,
        principal,
    };
    let is_grpc = parts
        .headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| is_grpc_type(value.as_bytes()));
    let request_id = parts.headers.get(X_REQUEST_ID).cloned();
    let mut response = match sanitize(&mut parts, origin, manager) {
        Err(reason) => {
            let mut response = reply::refusal(&reason.into(), is_grpc, exchange);
            if !http.is_http2 {
                // What follows a malformed request cannot be trusted to begin where it seems to.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Ok(target) => {
            exchange.line.authority = Some(field(target.authority.as_bytes()));
            exchange.line.request_id = parts
                .headers
                .get(X_REQUEST_ID)
                .map(|id| field(id.as_bytes()));
            route(
                Way {
                    http: &http,
                    manager,
                    parts,
                    body,
                    target,
                    exchange,
                },
                is_grpc,
            )
            .await
        }
    };
    let headers = response.headers_mut();
    let absent = !headers.contains_key(SERVER);
    match manager.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, manager.server_name.clone());
        }
        ServerHeader::IfAbsent if absent => {
            headers.insert(SERVER, manager.server_name.clone());
        }
        ServerHeader::IfAbsent | ServerHeader::PassThrough => {}
    }
    if manager.request_id_in_response
        && let Some(id) = request_id
    {
        headers.insert(X_REQUEST_ID, id);
    }
    response
}

fn describe(exchange: &mut Exchange, parts: &Parts) {
    if !exchange.is_logged() {
        return;
    }
    let line = &mut exchange.line;
    let header = |name: &HeaderName| parts.headers.get(name).map(|value| field(value.as_bytes()));
    line.method = Some(field(parts.method.as_str().as_bytes()));
    line.path = parts
        .uri
        .path_and_query()
        .map(|path| field(path.as_str().as_bytes()));
    line.protocol = Some(match parts.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    });
    line.user_agent = header(&USER_AGENT);
    line.x_forwarded_for = header(&X_FORWARDED_FOR);
}

/// Finds the route, asks the filters, does what the route says.
async fn route(mut way: Way<'_>, is_grpc: bool) -> Response<ReplyBody> {
    let table = way.table();
    let filters = &way.manager.filters;
    let mut routing = Routing::find(
        table.as_deref(),
        &way.target.view(&way.parts.method, &way.parts.headers),
        &client(&way.http.connection),
    );
    let mut passage = Passage::default();
    let passed = way.filters(&mut routing, &mut passage, is_grpc).await;
    if let Some(found) = &routing.found {
        way.exchange.line.route_name = Some(found.route.name.clone());
    }
    let http = way.http;
    let started = way.exchange.started();
    let asks = routing.edits().any(|edits| edits.response.asks());
    let request = asks.then(|| (way.parts.clone(), way.target.clone()));
    let mut response = match passed {
        Ok(()) => act(way, &routing, is_grpc).await,
        Err(reply) => reply::local(*reply, is_grpc, way.exchange),
    };
    let (request, target) = request.unwrap_or_else(|| {
        let (parts, ()) = Request::new(()).into_parts();
        (parts, Target::default())
    });
    let line = Line {
        response_code: response.status().as_u16(),
        ..Line::default()
    };
    let scene = Scene {
        connection: &http.connection,
        parts: &request,
        target: &target,
        line: &line,
        endpoint: None,
        started,
        response: None,
        body: None,
    };
    for edits in routing.edits() {
        edits.response.response(response.headers_mut(), &scene);
    }
    let (mut parts, body) = response.into_parts();
    let head = (&mut parts.status, &mut parts.headers);
    filters::response(filters, &mut passage, &routing, head);
    Response::from_parts(parts, body)
}

/// Does what the route says.
async fn act(mut way: Way<'_>, routing: &Routing<'_>, is_grpc: bool) -> Response<ReplyBody> {
    let Some(found) = routing.found else {
        return reply::refusal(&Reason::RouteNotFound.into(), is_grpc, way.exchange);
    };
    match &found.route.action {
        Action::Respond(respond) => {
            let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK);
            let body = respond.body.clone();
            way.exchange.line.response_code_details = "direct_response".to_owned();
            way.exchange.line.response_code = respond.status;
            let made = respond.format.as_ref().map(|format| {
                let text = String::from_utf8_lossy(&body);
                let scene = Scene {
                    body: Some(&text),
                    ..way.scene()
                };
                (format.make(&scene), format.content_type.clone())
            });
            let Some((body, content_type)) = made else {
                return reply::text(status, body, is_grpc, way.exchange);
            };
            let mut response = reply::text(status, body, is_grpc, way.exchange);
            if !is_grpc {
                let headers = response.headers_mut();
                headers.insert(http::header::CONTENT_TYPE, content_type);
            }
            response
        }
        Action::Redirect(action) => {
            let view = way.target.view(&way.parts.method, &way.parts.headers);
            let path = &found.route.condition.path;
            let location = action.location(path, &view, &way.scene());
            reply::redirect(action.status, &location, way.exchange)
        }
        Action::Forward(action) => forward(way, action, routing, found.route, is_grpc).await,
    }
}

fn client(connection: &Connection) -> Client {
    let is_verified = connection.peer.names.is_some();
    Client {
        certificate: Certificate {
            presented: is_verified,
            validated: is_verified,
        },
        roll: roll(),
    }
}

impl Way<'_> {
    fn scene(&self) -> Scene<'_> {
        Scene {
            connection: &self.http.connection,
            parts: &self.parts,
            target: &self.target,
            line: &self.exchange.line,
            endpoint: None,
            started: self.exchange.started(),
            response: None,
            body: None,
        }
    }

    fn table(&self) -> Option<Arc<RouteTable>> {
        match &self.manager.routes {
            RouteSource::Inline(table) => Some(table.clone()),
            RouteSource::Named(name) => self
                .http
                .connection
                .worker
                .shared
                .snapshot
                .load()
                .routes
                .get(name)
                .cloned(),
        }
    }

    /// Runs the filters, which may find another route.
    async fn filters<'r>(
        &mut self,
        routing: &mut Routing<'r>,
        passage: &mut Passage,
        is_grpc: bool,
    ) -> Result<(), Box<LocalReply>> {
        let mut body = Unread {
            is_end: self.body.is_end_stream(),
        };
        let mut context = FilterContext {
            connection: &self.http.connection,
            parts: &mut self.parts,
            target: &mut self.target,
            line: &mut self.exchange.line,
            routing: *routing,
            body: &mut body,
            is_grpc,
        };
        let passed = filters::request(&self.manager.filters, &mut context, passage).await;
        *routing = context.routing;
        passed
    }
}

/// Sends the request on and brings the answer back.
async fn forward(
    mut way: Way<'_>,
    action: &Forward,
    routing: &Routing<'_>,
    route: &Arc<Route>,
    is_grpc: bool,
) -> Response<ReplyBody> {
    if let Some(protocol) = &way.target.upgrade
        && !upgrade::is_allowed(protocol, action, way.manager)
    {
        return reply::refusal(&Reason::UpgradeForbidden.into(), is_grpc, way.exchange);
    }
    let (mut chosen, cookies) = match way.choose(action, routing).await {
        Ok(chosen) => chosen,
        Err(refused) => return reply::refusal(&refused, is_grpc, way.exchange),
    };
    way.exchange.line.upstream_host = Some(chosen.endpoint.config.address.to_string());
    if let Err(overflow) = chosen.begin() {
        return reply::refusal(&Reason::from(overflow).into(), is_grpc, way.exchange);
    }
    let chosen = Arc::new(chosen);
    way.exchange.upstream(chosen.clone());
    let timing = way.outgoing(action, routing, route, &chosen.endpoint, is_grpc);
    let (timeout, idle) = (timing.whole, timing.idle);
    let mut response = if way.target.upgrade.is_some() {
        upgrade::forward(way.into_upgrade(), &chosen, timeout, is_grpc).await
    } else {
        exchange(way, &chosen, timeout, idle, is_grpc).await
    };
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

impl<'a> Way<'a> {
    async fn choose(
        &mut self,
        action: &Forward,
        routing: &Routing<'_>,
    ) -> Result<(Chosen, Vec<HeaderValue>), Refusal> {
        let missing = || Refusal {
            reason: Reason::ClusterNotFound,
            status: StatusCode::from_u16(action.not_found).ok(),
        };
        let request = self.target.view(&self.parts.method, &self.parts.headers);
        let name = action
            .target
            .named(routing.weighted, &request)
            .or_else(|| routing.cluster.cloned())
            .ok_or_else(missing)?;
        self.exchange.line.upstream_cluster = Some(name.clone());
        let connection = &self.http.connection;
        let cluster = connection
            .worker
            .shared
            .snapshot
            .load()
            .clusters
            .get(&name)
            .cloned()
            .ok_or_else(missing)?;
        settled(&cluster).await;
        let request = self.target.view(&self.parts.method, &self.parts.headers);
        let (source, destination) = (connection.source, connection.peer.destination);
        let hashed = hash(&action.hash, &request, source, destination);
        let context = ChoiceContext {
            hash: hashed.hash,
            priority: action.priority,
            ..ChoiceContext::new(&connection.peer, roll())
        };
        let chosen = cluster.choose(&context).map_err(Reason::from)?;
        Ok((chosen, hashed.cookies))
    }

    /// Authority, path and headers as the upstream is to see them; how long it may take.
    fn outgoing(
        &mut self,
        action: &Forward,
        routing: &Routing<'_>,
        route: &Route,
        endpoint: &Endpoint,
        is_grpc: bool,
    ) -> Timing {
        let defaults = Defaults {
            idle: self.manager.stream_idle_timeout,
            suppress: self.manager.suppress_envoy_headers,
            ..Defaults::default()
        };
        let (parts, target) = (&mut self.parts, &mut self.target);
        let timing = Timing::new(action, defaults, &mut parts.headers, is_grpc);
        let outgoing = Outgoing {
            connection: &self.http.connection,
            line: &self.exchange.line,
            started: self.exchange.started(),
            endpoint: Some(endpoint.config.address),
            suppress: self.manager.suppress_envoy_headers,
        };
        outgoing.prepare(action, &route.condition.path, routing, parts, target);
        if matches!(action.host_rewrite, HostRewrite::Endpoint) {
            outgoing.address(action, &endpoint.config.hostname, parts, target);
        }
        timing
    }

    fn into_upgrade(self) -> upgrade::Upgrade<'a> {
        upgrade::Upgrade {
            http: self.http,
            parts: self.parts,
            body: self.body,
            target: self.target,
            exchange: self.exchange,
        }
    }
}

/// Which HTTP the cluster is spoken to with for this client; `Some` is HTTP/2.
pub fn http2_for(cluster: &Cluster, http: &HttpConnection) -> Option<crate::listener::H2> {
    match cluster.config.http {
        UpstreamHttp::Http1 => None,
        UpstreamHttp::Http2(settings) => Some(settings),
        UpstreamHttp::Downstream(settings) => http.is_http2.then_some(settings),
    }
}

/// The request head for the next hop.
pub fn head(parts: Parts, target: &Target, http2: bool) -> Result<Request<()>, Reason> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method;
    *request.headers_mut() = parts.headers;
    *request.uri_mut() =
        uri(target, &target.path_and_query, &target.authority, http2).ok_or(Reason::BadRequest)?;
    if http2 {
        *request.version_mut() = Version::HTTP_2;
    } else {
        let host = HeaderValue::from_str(&target.authority).map_err(|_| Reason::BadRequest)?;
        request.headers_mut().insert(http::header::HOST, host);
    }
    Ok(request)
}

/// Sends over the endpoint's pool.
pub async fn send(
    http: &HttpConnection,
    chosen: &Chosen,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
    let pool = chosen
        .endpoint
        .pools
        .of(http.connection.worker.index)
        .cloned()
        .unwrap_or_default();
    match http2_for(&chosen.cluster, http) {
        Some(settings) => pool.send2(chosen, settings, request).await,
        None => pool.send1(chosen, request).await,
    }
}

async fn exchange(
    way: Way<'_>,
    chosen: &Chosen,
    route_timeout: Option<Duration>,
    idle: Option<Duration>,
    is_grpc: bool,
) -> Response<ReplyBody> {
    let Way {
        http,
        manager,
        parts,
        body,
        target,
        mut exchange,
    } = way;
    let body = RequestBody::client(body, exchange.progress());
    let request = match head(parts, &target, http2_for(&chosen.cluster, http).is_some()) {
        Ok(head) => head.map(|()| body),
        Err(reason) => return reply::refusal(&reason.into(), is_grpc, exchange),
    };
    let deadline = route_timeout.map(|timeout| Instant::now() + timeout);
    let sending = Box::pin(send(http, chosen, request));
    let answered = match within(sending, deadline, idle, &exchange).await {
        Ok(answered) => answered,
        Err(reason) => {
            if reason == Reason::Timeout {
                chosen.report(Outcome::Timeout);
            }
            return reply::refusal(&reason.into(), is_grpc, exchange);
        }
    };
    match answered {
        Ok((response, lease)) => {
            chosen.report(Outcome::Status(response.status()));
            let response = answer(response, manager, &mut exchange);
            response
                .map(|body| ReplyBody::upstream(body, lease, exchange, Limits::new(deadline, idle)))
        }
        Err(error) => {
            tracing::debug!(cluster = %chosen.cluster.config.name, %error, "no response");
            report(chosen, &error);
            reply::refusal(&reason(&error).into(), is_grpc, exchange)
        }
    }
}

/// Waits for the response's head within the route's timeout, and while the request's body makes progress.
async fn within<F: Future + Unpin>(
    mut sending: F,
    deadline: Option<Instant>,
    idle: Option<Duration>,
    exchange: &Exchange,
) -> Result<F::Output, Reason> {
    loop {
        let before = exchange.progress().bytes();
        let idle_end = idle.map(|idle| Instant::now() + idle);
        let next = match (deadline, idle_end) {
            (Some(deadline), Some(idle_end)) => deadline.min(idle_end),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(sending.await),
        };
        if let Ok(output) =
            timeout(next.saturating_duration_since(Instant::now()), &mut sending).await
        {
            return Ok(output);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Reason::Timeout);
        }
        if exchange.progress().bytes() == before {
            return Err(Reason::IdleTimeout);
        }
    }
}

/// The upstream's head as the client is to see it.
pub fn answer<B>(
    mut response: Response<B>,
    manager: &HttpManager,
    exchange: &mut Exchange,
) -> Response<B> {
    strip_hop_by_hop(response.headers_mut());
    let elapsed = milliseconds(exchange.started().elapsed());
    if !manager.suppress_envoy_headers {
        response
            .headers_mut()
            .insert(SERVICE_TIME, HeaderValue::from(elapsed));
    }
    exchange.line.upstream_service_time = Some(elapsed);
    exchange.line.response_code_details = "via_upstream".to_owned();
    exchange.replied(response.status());
    *response.version_mut() = Version::HTTP_11;
    response
}

/// The reason of a failed exchange.
pub fn reason(error: &SendError) -> Reason {
    match error {
        SendError::Connect(error) => error.reason(),
        SendError::Handshake(_) => Reason::ConnectFailed,
        SendError::Exchange(error) if error.is_parse() => Reason::UpstreamProtocol,
        SendError::Exchange(_) => Reason::UpstreamClosed,
    }
}

/// Tells the endpoint's judge of a failed exchange.
pub fn report(chosen: &Chosen, error: &SendError) {
    let outcome = match error {
        SendError::Connect(error) => error.outcome(),
        SendError::Handshake(_) | SendError::Exchange(_) => Some(Outcome::Reset),
    };
    if let Some(outcome) = outcome {
        chosen.report(outcome);
    }
}

/// An empty body, for replies that are heads only.
pub fn no_body(exchange: Exchange) -> ReplyBody {
    ReplyBody::Local(Some(Bytes::new()), Box::new(exchange))
}
