//! A request's way: sane, routed, allowed, sent, answered.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{
    CONNECTION, DATE, HeaderName, HeaderValue, LOCATION, SERVER, SET_COOKIE, USER_AGENT,
};
use http::request::Parts;
use http::{Response, StatusCode, Version};

use super::attempt::Answer;
use super::attempts::Attempts;
use super::body::{Held, RequestBody};
use super::date;
use super::deliver::{Passing, Reply, deliver};
use super::downstream::Downstream;
use super::edge::Origin;
use super::exchange::Exchange;
use super::facts::Scene;
use super::filters::overrides::Routing;
use super::filters::{self, FilterContext, Passage};
use super::headers::{Target, Unfit, X_REQUEST_ID, sanitize, strip_hop_by_hop};
use super::limits::Limits;
use super::local;
use super::outgoing::Outgoing;
use super::reply::{self, LocalReply, Refusal};
use super::retry::{Retry, Wanted};
use super::server::HttpConnection;
use super::timing::{Defaults, Timing};
use crate::access::{RequestHead, field, milliseconds};
use crate::cluster::{Cluster, Hashed, hash};
use crate::connection::Connection;
use crate::listener::{HttpManager, RouteSource, ServerHeader};
use crate::overload::Action as Overloaded;
use crate::reason::Reason;
use crate::route::{
    Action, Certificate, Client, Forward, Found, PathMatch, Redirect, RouteTable, is_grpc_type,
};
use crate::upstream::settled;
use crate::worker::roll;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request under way.
pub struct Way<'a, 'c> {
    /// The connection it came on.
    pub http: &'a Arc<HttpConnection>,
    /// The chain's connection manager.
    pub manager: &'a HttpManager,
    /// Who asks.
    pub client: &'a mut Downstream<'c>,
    /// Its head.
    pub parts: Parts,
    /// Its body.
    pub body: RequestBody,
    /// Where it goes, once it is sane.
    pub target: Target,
    /// Its bookkeeping.
    pub exchange: Exchange,
    /// It is gRPC by its content type.
    pub is_grpc: bool,
    /// The endpoint it was last sent to.
    pub endpoint: Option<SocketAddr>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The response has passed whole.
    Whole,
    /// It broke off: nothing may follow on this connection or stream.
    Broken,
    /// Both ends had switched protocols.
    Switched,
}

/// Serves one request.
pub async fn handle(
    http: &Arc<HttpConnection>,
    parts: Parts,
    client: &mut Downstream<'_>,
) -> Ended {
    let Some(manager) = http.manager() else {
        return Ended::Broken;
    };
    let mut way = Way::new(http, manager, parts, client);
    let response = way.answer().await;
    deliver(&mut way, response).await
}

/// Answers what could not be read as a request.
pub async fn refuse(
    http: &Arc<HttpConnection>,
    client: &mut Downstream<'_>,
    reason: Reason,
) -> Ended {
    let Some(manager) = http.manager() else {
        return Ended::Broken;
    };
    let (parts, ()) = http::Request::new(()).into_parts();
    let mut way = Way::new(http, manager, parts, client);
    let response = way.unread(reason);
    let mut response = way.finish(response);
    way.sign(&mut response, None);
    deliver(&mut way, response).await
}

impl<'a, 'c> Way<'a, 'c> {
    fn new(
        http: &'a Arc<HttpConnection>,
        manager: &'a HttpManager,
        parts: Parts,
        client: &'a mut Downstream<'c>,
    ) -> Way<'a, 'c> {
        Way {
            body: RequestBody::new(client.length()),
            target: Target::default(),
            exchange: Exchange::new(http),
            is_grpc: parts
                .headers
                .get(http::header::CONTENT_TYPE)
                .is_some_and(|value| is_grpc_type(value.as_bytes())),
            http,
            manager,
            client,
            parts,
            endpoint: None,
        }
    }

    async fn answer(&mut self) -> Response<Reply> {
        describe(&mut self.exchange, &self.parts);
        let mut request_id = None;
        let mut response = match self.enter() {
            Ok(()) => {
                request_id = self.parts.headers.get(X_REQUEST_ID).cloned();
                self.describe_target();
                route(self).await
            }
            // Envoy sends gRPC nowhere else: its clients do not follow.
            Err(Unfit::Elsewhere(path)) if !self.is_grpc => {
                let response = reply::redirect(307, &path, &mut self.exchange);
                let details = "path_normalization_failed".to_owned();
                self.exchange.line.response_code_details = details;
                self.finish(response)
            }
            Err(unfit) => {
                let mut response = match unfit {
                    Unfit::Refused(reason) => self.refusal(reason),
                    Unfit::Unread => self.unread(Reason::BadRequest),
                    Unfit::Elsewhere(_) => self.refusal(Reason::BadRequest),
                };
                // What follows a malformed request cannot be trusted to begin where it seems to.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                self.finish(response)
            }
        };
        self.sign(&mut response, request_id);
        response
    }

    /// Checks the request and takes from it what is this hop's.
    fn enter(&mut self) -> Result<(), Unfit> {
        let overload = &self.http.connection.worker.shared.overload;
        if overload.is(Overloaded::StopRequests) {
            return Err(Reason::Overloaded.into());
        }
        let connection = &self.http.connection;
        let origin = Origin {
            source: connection.peer.source,
            port: connection.peer.destination.port(),
            is_tls: connection.is_tls,
            client_cert: connection.client_cert.as_ref(),
        };
        let manager = self.manager;
        self.target = sanitize(&mut self.parts, origin, &manager.heads, &manager.edge)?;
        // An upgrade's body would be ambiguous, and RFC 8441 has none before the switch.
        if self.target.upgrade.is_some()
            && !self.http.is_http2
            && self.body.length() != h1::Length::Empty
        {
            return Err(Reason::BadRequest.into());
        }
        Ok(())
    }

    /// The headers that every response carries.
    fn sign(&mut self, response: &mut Response<Reply>, request_id: Option<HeaderValue>) {
        let manager = self.manager;
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
        headers.entry(DATE).or_insert_with(date::now);
        manager.edge.sign(headers);
        // Whether it is traced is said in its id.
        let trace = self.exchange.trace.as_ref();
        let traced = trace.and_then(|trace| trace.request_id.clone());
        if manager.request_id_in_response
            && let Some(id) = traced.or(request_id)
        {
            headers.insert(X_REQUEST_ID, id);
        }
        if self.exchange.wants_headers() {
            self.exchange.line.response_headers = Some(Box::new(headers.clone()));
        }
    }

    fn describe_target(&mut self) {
        if !self.exchange.is_logged() {
            return;
        }
        if self.exchange.wants_headers() {
            let view = self.target.view(&self.parts.method, &self.parts.headers);
            self.exchange.line.request_head = Some(Box::new(RequestHead {
                method: view.method.to_owned(),
                path_and_query: view.path_and_query.to_owned(),
                authority: view.authority.to_owned(),
                scheme: view.scheme.to_owned(),
                headers: self.parts.headers.clone(),
            }));
        }
        let line = &mut self.exchange.line;
        line.authority = Some(field(self.target.authority.as_bytes()));
        let id = self.parts.headers.get(X_REQUEST_ID);
        line.request_id = id.map(|id| field(id.as_bytes()));
    }
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
async fn route(way: &mut Way<'_, '_>) -> Response<Reply> {
    let table = way.table();
    let filters = &way.manager.filters;
    if let Some(table) = table.as_deref().filter(|_| !way.target.is_internal) {
        for name in &table.internal_headers {
            way.parts.headers.remove(name);
        }
    }
    let tells = table.as_deref().is_some_and(|table| table.tells_reasons);
    if tells {
        local::forget_wish(&way.http.connection, &mut way.parts.headers);
    }
    let mut routing = Routing::find(
        table.as_deref(),
        &way.target.view(&way.parts.method, &way.parts.headers),
        &client(&way.http.connection),
    );
    way.begin_trace(&routing);
    let mut passage = Passage::default();
    let passed = way.filters(&mut routing, &mut passage).await;
    if let Some(found) = &routing.found {
        way.exchange.line.route_name = Some(found.route.name.clone());
    }
    let is_plain = passed.as_ref().is_err_and(|reply| reply.is_plain);
    let mut response = match passed {
        Ok(()) => act(way, &routing).await,
        Err(reply) => reply::local(*reply, &mut way.exchange),
    };
    let scene = way.scene();
    for edits in routing.edits().filter(|_| !is_plain) {
        edits.response.response(response.headers_mut(), &scene);
    }
    let (mut parts, body) = way.finish(response).into_parts();
    let head = (&mut parts.status, &mut parts.headers);
    filters::response(filters, &mut passage, &routing, head);
    way.trace_response(&routing, &mut parts.headers);
    if tells {
        local::conceal(&way.http.connection, &mut parts.headers);
    }
    Response::from_parts(parts, body)
}

/// Does what the route says.
async fn act(way: &mut Way<'_, '_>, routing: &Routing<'_>) -> Response<Reply> {
    let Some(found) = routing.found else {
        return way.refusal(Reason::RouteNotFound);
    };
    match &found.route.action {
        Action::Respond(respond) => {
            let mut response = way.respond(respond);
            // RFC 9110 §10.2.2; as Envoy, which names the request itself.
            if respond.status == 201 || (300..400).contains(&respond.status) {
                let view = way.target.view(&way.parts.method, &way.parts.headers);
                let path = &found.route.condition.path;
                let location = Redirect::to_itself().location(path, &view, &way.scene());
                if let Ok(location) = HeaderValue::try_from(location) {
                    response.headers_mut().insert(LOCATION, location);
                }
            }
            response
        }
        Action::Redirect(action) => {
            let view = way.target.view(&way.parts.method, &way.parts.headers);
            let path = &found.route.condition.path;
            let location = action.location(path, &view, &way.scene());
            let rewritten = action.rewritten(path, &view);
            if let Some(rewritten) = rewritten {
                way.rewrite(rewritten);
            }
            reply::redirect(action.status, &location, &mut way.exchange)
        }
        // Boxed: what is answered here does not carry the size of what is sent on.
        Action::Forward(action) => Box::pin(forward(way, action, routing, found)).await,
    }
}

/// The client as route conditions see it.
pub fn client(connection: &Connection) -> Client {
    let is_verified = connection.peer.names.is_some();
    Client {
        certificate: Certificate {
            presented: is_verified,
            validated: is_verified,
        },
        roll: roll(),
        addresses: Some((connection.source, connection.peer.destination)),
    }
}

impl Way<'_, '_> {
    /// What is known of the request, for format strings.
    pub fn scene(&self) -> Scene<'_> {
        Scene {
            connection: &self.http.connection,
            parts: &self.parts,
            target: &self.target,
            line: &self.exchange.line,
            endpoint: self.endpoint,
            started: self.exchange.started(),
            response: None,
            body: None,
        }
    }

    /// The route table, if it has arrived.
    pub fn table(&self) -> Option<Arc<RouteTable>> {
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
    ) -> Result<(), Box<LocalReply>> {
        let mut body = Held {
            body: &mut self.body,
            client: &mut *self.client,
            limits: Limits::new(
                Timing {
                    idle: self.manager.stream_idle_timeout,
                    request: self.manager.request_timeout,
                    ..Timing::default()
                },
                self.exchange.started().into(),
            ),
        };
        let mut context = FilterContext {
            connection: &self.http.connection,
            parts: &mut self.parts,
            target: &mut self.target,
            line: &mut self.exchange.line,
            routing: *routing,
            body: &mut body,
            holds: &mut self.exchange.holds,
            is_grpc: self.is_grpc,
        };
        let passed = filters::request(&self.manager.filters, &mut context, passage).await;
        *routing = context.routing;
        passed
    }
}

/// Sends the request on and brings the answer's head back.
async fn forward(
    way: &mut Way<'_, '_>,
    action: &Forward,
    routing: &Routing<'_>,
    found: Found<'_>,
) -> Response<Reply> {
    if let Some(protocol) = &way.target.upgrade
        && !is_allowed(protocol, action, way.manager)
    {
        let mut response = way.refusal(Reason::UpgradeForbidden);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        return response;
    }
    let cluster = match way.cluster(action, routing).await {
        Ok(cluster) => cluster,
        Err(refused) => return reply::refusal(&refused, &mut way.exchange),
    };
    let timing = way.outgoing(action, routing, &found.route.condition.path);
    let retry = way.retry(action);
    let hashed = way.hash(action);
    let mut attempts = Attempts {
        action,
        host: found.host,
        authority: way.target.authority.clone(),
        cluster,
        subset: routing
            .weighted
            .map_or(&action.subset, |cluster| &cluster.subset),
        hash: hashed.hash,
        retry,
        limits: Limits::new(timing, way.exchange.started().into()),
        tried: Vec::new(),
        count: 0,
    };
    let mut response = match attempts.run(way).await {
        Ok((answer, passing)) => way.take(answer, passing),
        Err(ended) => way.ended(ended, &attempts.cluster),
    };
    attempts.count_in(response.headers_mut());
    for cookie in hashed.cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Whether the route, or else the connection manager, allows a protocol.
fn is_allowed(protocol: &str, action: &Forward, manager: &HttpManager) -> bool {
    let of_route = action.upgrades.iter().find(|(name, _)| name == protocol);
    of_route.map_or_else(
        || manager.upgrades.iter().any(|name| name == protocol),
        |(_, allowed)| *allowed,
    )
}

impl Way<'_, '_> {
    async fn cluster(
        &mut self,
        action: &Forward,
        routing: &Routing<'_>,
    ) -> Result<Arc<Cluster>, Refusal> {
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
        Ok(cluster)
    }

    /// Authority, path and headers as the upstream is to see them; how long it may take.
    fn outgoing(&mut self, action: &Forward, routing: &Routing<'_>, matched: &PathMatch) -> Timing {
        let defaults = Defaults {
            idle: self.manager.stream_idle_timeout,
            stream: self.manager.max_stream_duration,
            request: self.manager.request_timeout,
            respect_expected: self.manager.respect_expected_timeout,
            suppress: self.manager.suppress_envoy_headers,
        };
        let is_grpc = self.is_grpc;
        let (outgoing, parts, target) = self.changes();
        let timing = Timing::new(action, defaults, &mut parts.headers, is_grpc);
        outgoing.prepare(action, matched, routing, parts, target);
        timing
    }

    /// The hash that chooses the endpoint.
    fn hash(&self, action: &Forward) -> Hashed {
        let connection = &self.http.connection;
        let request = self.target.view(&self.parts.method, &self.parts.headers);
        let (source, destination) = (connection.source, connection.peer.destination);
        hash(&action.hash, &request, source, destination)
    }

    /// Whether it may be sent again.
    fn retry(&mut self, action: &Forward) -> Option<Retry> {
        let policy = action.retry.as_deref();
        let wanted = Wanted::take(&mut self.parts.headers);
        let view = self.target.view(&self.parts.method, &self.parts.headers);
        Retry::new(policy, wanted, &view)
    }

    /// The authority of an endpoint, in the place of the original one.
    pub fn address(&mut self, action: &Forward, original: &str, endpoint: &str) {
        let (outgoing, parts, target) = self.changes();
        original.clone_into(&mut target.authority);
        outgoing.address(action, endpoint, parts, target);
    }

    fn changes(&mut self) -> (Outgoing<'_>, &mut Parts, &mut Target) {
        let outgoing = Outgoing {
            connection: &self.http.connection,
            line: &self.exchange.line,
            started: self.exchange.started(),
            endpoint: None,
            suppress: self.manager.suppress_envoy_headers,
        };
        (outgoing, &mut self.parts, &mut self.target)
    }

    /// The upstream's answer as the client is to see it.
    fn take(&mut self, answer: Answer, passing: Passing) -> Response<Reply> {
        let Answer {
            mut head,
            length,
            switched,
        } = answer;
        // To extended CONNECT any 2xx without a length says that the protocol is switched; this one did not mean it.
        let has_length = matches!(length, h1::Length::Empty | h1::Length::Exact(_));
        if self.target.upgrade.is_some()
            && self.http.is_http2
            && head.status.is_success()
            && !switched
            && !has_length
        {
            return self.refusal(Reason::UpstreamProtocol);
        }
        strip_hop_by_hop(&mut head.headers);
        let elapsed = milliseconds(self.exchange.started().elapsed());
        if !self.manager.suppress_envoy_headers && !switched {
            head.headers
                .insert(SERVICE_TIME, HeaderValue::from(elapsed));
        }
        self.exchange.line.upstream_service_time = Some(elapsed);
        self.exchange.line.response_code_details = "via_upstream".to_owned();
        self.exchange.replied(head.status);
        head.version = Version::HTTP_11;
        let passing = Box::new(passing);
        let reply = if switched {
            Reply::Switched(passing)
        } else {
            Reply::Upstream(passing)
        };
        Response::from_parts(head, reply)
    }
}
