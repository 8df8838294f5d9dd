//! One request's spans, from its first to its last byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::context::{B3Form, Carriers, Received, TraceContext, has_single, trace_state};
use super::export::Exporter;
use super::sampling::{Cause, Wishes, decide};
use super::span::{Span, SpanKind};
use super::{CustomTag, Dialect, Own, RouteTracing, TagValue, Tracing};
use crate::access::Line;
use crate::connection::Connection;
use crate::format::{Facts, Missing};
use crate::http::facts::protocol;
use crate::http::headers::{Target, X_REQUEST_ID};
use crate::listener::Direction;
use crate::reason::Reason;
use crate::worker::roll;

const CLIENT_TRACE: HeaderName = HeaderName::from_static("x-client-trace-id");
const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
const DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
const SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A value of a request's in a tag is cut to this.
const LONGEST: usize = 1024;

/// One request's spans.
#[derive(Debug)]
pub struct Trace {
    exporter: Arc<Exporter>,
    carriers: Carriers,
    began: Instant,
    span: Span,
    upstream: Option<Box<Attempt>>,
    verbose: bool,
    is_egress: bool,
    /// What names the span beside its route stands aside.
    is_named: bool,
    /// The route's name for it, to be told to the proxy that asked.
    told: Option<HeaderValue>,
    /// The request's id, which carries the decision.
    pub request_id: Option<HeaderValue>,
}

/// The span of an attempt.
#[derive(Debug)]
struct Attempt {
    span: Span,
    began: Instant,
    status: u16,
}

/// Where an attempt goes.
#[derive(Debug, Clone, Copy)]
pub struct Towards<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// HTTP/2 is spoken with it.
    pub is_http2: bool,
    /// Which attempt it is, from 1.
    pub count: u32,
}

impl Trace {
    /// Decides about a request whose route is known, and begins its span; none where its context is broken.
    pub fn begin(
        tracing: &Tracing,
        route: Option<&RouteTracing>,
        parts: &mut Parts,
        target: &Target,
        connection: &Connection,
    ) -> Option<Box<Trace>> {
        let worker = &connection.worker;
        let is_egress = connection.listener.direction == Direction::Outbound;
        let ways = tracing.ways(worker)?;
        let wishes = Wishes {
            client: parts.headers.contains_key(CLIENT_TRACE),
            service: parts.headers.contains_key(FORCE_TRACE),
        };
        let of_route = route.and_then(|route| route.shares);
        let shares = of_route.map_or(tracing.shares, |shares| shares.0);
        let id = parts.headers.get(X_REQUEST_ID);
        let decision = decide(id, wishes, &shares, roll());
        ways.count(decision.cause);
        if let Some(id) = &decision.id {
            parts.headers.insert(X_REQUEST_ID, id.clone());
        }
        let traced = decision.cause != Cause::Untraced;
        let is_client = is_egress && !tracing.upstream_spans;
        let start = Start::of(ways.dialect, is_client, &parts.headers, traced)?;
        let name = match ways.dialect {
            Dialect::Zipkin { .. } => target.authority.clone(),
            Dialect::OpenTelemetry if is_egress => format!("egress {}", target.authority),
            Dialect::OpenTelemetry => "ingress".to_owned(),
        };
        let mut span = Span::new(name, start.kind, start.context);
        span.shared = start.shared;
        span.is_below_remote = start.is_below_remote;
        span.state = start.state;
        let operation = route.and_then(|route| route.operation.as_ref());
        let mut trace = Box::new(Trace {
            exporter: ways.exporter.clone(),
            carriers: start.carriers,
            began: Instant::now(),
            span,
            upstream: None,
            verbose: tracing.verbose,
            is_egress,
            is_named: operation.or(tracing.operation.as_ref()).is_some(),
            told: None,
            request_id: decision.id,
        });
        trace.decorate(route, &mut parts.headers);
        if trace.is_recorded() {
            let own = worker.shared.tracers.own();
            let peer = connection.source.ip();
            trace.describe(parts, target, peer, own, tracing.max_path);
        }
        Some(trace)
    }

    /// Whether anybody will read of it.
    fn is_recorded(&self) -> bool {
        self.span.context.sampled
    }

    /// The trace's id in hexadecimal.
    pub fn id(&self) -> String {
        self.span.context.trace_id()
    }

    /// The route's name for the span, or that of the proxy at the other end.
    fn decorate(&mut self, route: Option<&RouteTracing>, headers: &mut HeaderMap) {
        let decorator = route.and_then(|route| route.decorator.as_ref());
        if let Some((name, propagated)) = decorator {
            if !self.is_named {
                self.span.name.clone_from(name);
            }
            self.told = HeaderValue::from_str(name).ok().filter(|_| *propagated);
        }
        if self.is_egress {
            if let Some(name) = self.told.take() {
                headers.insert(DECORATOR, name);
            }
        } else if let Some(name) = headers.remove(DECORATOR).filter(|name| !name.is_empty()) {
            self.rename(&name);
            self.told = None;
        }
    }

    fn rename(&mut self, name: &HeaderValue) {
        if !self.is_named {
            self.span.name = cut(name);
        }
    }

    /// What the request says of itself; names and order are Envoy's.
    fn describe(&mut self, parts: &Parts, target: &Target, peer: IpAddr, own: &Own, path: usize) {
        let headers = &parts.headers;
        let text = |name: &HeaderName| headers.get(name).map(cut);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let span = &mut self.span;
        for (name, value) in [("node_id", &own.node), ("zone", &own.zone)] {
            if !value.is_empty() {
                span.tag(name, value.as_str());
            }
        }
        if let Some(id) = text(&X_REQUEST_ID) {
            span.tag("guid:x-request-id", id);
        }
        let scheme = text(&FORWARDED_PROTO).unwrap_or_else(|| target.scheme.to_owned());
        let shown: String = target.path_and_query.chars().take(path).collect();
        span.tag(
            "http.url",
            format!("{scheme}://{}{shown}", target.authority),
        );
        span.tag("http.method", target.view(&parts.method, headers).method);
        span.tag("downstream_cluster", or_dash(text(&SERVICE_CLUSTER)));
        span.tag("user_agent", or_dash(text(&USER_AGENT)));
        span.tag("http.protocol", protocol(parts.version));
        span.tag("peer.address", peer.to_string());
        if let Some(id) = text(&CLIENT_TRACE) {
            span.tag("guid:x-client-trace-id", id);
        }
        let content_type = text(&CONTENT_TYPE);
        if let Some(kind) = content_type.filter(|kind| kind.starts_with("application/grpc")) {
            let (route, _) = crate::route::split(&target.path_and_query);
            span.tag("grpc.path", route);
            span.tag("grpc.authority", target.authority.as_str());
            span.tag("grpc.content_type", kind);
            if let Some(timeout) = text(&GRPC_TIMEOUT) {
                span.tag("grpc.timeout", timeout);
            }
        }
    }

    /// An attempt begins: its span, and the context that its request carries.
    pub fn attempt(&mut self, tracing: &Tracing, to: &Towards<'_>, headers: &mut HeaderMap) {
        let mut context = self.span.context;
        if tracing.upstream_spans {
            context = TraceContext {
                span: fresh(),
                parent: Some(self.span.context.span),
                ..context
            };
            let name = format!("router {} egress", to.cluster);
            let mut span = Span::new(name, SpanKind::Client, context);
            span.state.clone_from(&self.span.state);
            if context.sampled {
                if to.count > 1 {
                    span.tag("retry.count", to.count.saturating_sub(1).to_string());
                }
                let version = if to.is_http2 { "HTTP/2" } else { "HTTP/1.1" };
                span.tag("http.protocol", version);
                span.tag("upstream_address", to.endpoint.to_string());
                span.tag("peer.address", to.endpoint.to_string());
                span.tag("component", "proxy");
                span.tag("upstream_cluster", to.cluster);
                span.tag("upstream_cluster.name", to.cluster);
            }
            self.upstream = Some(Box::new(Attempt {
                span,
                began: Instant::now(),
                status: 0,
            }));
        }
        context.write(headers, self.carriers);
        self.moment("first_upstream_tx_byte_sent");
    }

    /// An attempt's response began, with this status.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = &mut self.upstream {
            attempt.status = status.as_u16();
        }
        self.moment("first_upstream_rx_byte_received");
    }

    /// An attempt is over that brought no answer, or none that counts.
    pub fn attempt_failed(&mut self, why: Option<Reason>, tracing: &Tracing, facts: &dyn Facts) {
        let flags = why.map_or("-", |reason| reason.row().flag);
        if let Some(mut attempt) = self.upstream.take() {
            if attempt.span.context.sampled {
                // Envoy's words for it stand in the reply that the client would get.
                let words = why.and_then(|reason| reason.row().body.split_once("reset reason: "));
                if let Some((_, words)) = words {
                    attempt.span.tag("error.reason", words);
                }
                if why.is_some_and(is_unconnected) {
                    attempt.span.tag("http.protocol", "-");
                }
                for (name, value) in values(&tracing.tags, facts) {
                    attempt.span.tag(name, value);
                }
            }
            attempt.finish(flags, &self.exporter);
        }
    }

    /// The response's head is made: the other end's name for the span is taken, or ours is told.
    pub fn respond(&mut self, headers: &mut HeaderMap) {
        if self.is_egress {
            if let Some(name) = headers.remove(DECORATOR).filter(|name| !name.is_empty()) {
                self.rename(&name);
            }
        } else if let Some(name) = self.told.take() {
            headers.insert(DECORATOR, name);
        }
    }

    /// What is known once the response's head is there: tags of configuration, gRPC's status.
    pub fn complete(&mut self, tracing: &Tracing, route: Option<&RouteTracing>, facts: &dyn Facts) {
        if !self.is_recorded() {
            return;
        }
        self.moment("first_downstream_tx_byte_sent");
        if let Some(response) = facts.response() {
            self.grpc_status(response);
        }
        let of_route = route.map_or(&[][..], |route| &route.tags);
        for (name, value) in values(tracing.tags.iter().chain(of_route), facts) {
            if let Some(attempt) = &mut self.upstream {
                attempt.span.tag(name.clone(), value.clone());
            }
            self.span.tag(name, value);
        }
        let named = |of_route: fn(&RouteTracing) -> Option<&crate::format::Template>, own| {
            let template = route.and_then(of_route).or(own)?;
            Some(template.format(facts, Missing::Empty))
        };
        if let Some(name) = named(|route| route.operation.as_ref(), tracing.operation.as_ref()) {
            self.span.name = name;
        }
        let own = tracing.upstream_operation.as_ref();
        if let Some(attempt) = &mut self.upstream
            && let Some(name) = named(|route| route.upstream_operation.as_ref(), own)
        {
            attempt.span.name = name;
        }
    }

    /// gRPC's status, from headers or trailers.
    pub fn grpc_status(&mut self, headers: &HeaderMap) {
        if !self.is_recorded() {
            return;
        }
        for (tag, name) in [
            ("grpc.status_code", GRPC_STATUS),
            ("grpc.message", GRPC_MESSAGE),
        ] {
            if let Some(value) = headers.get(name).map(cut) {
                if let Some(attempt) = &mut self.upstream {
                    attempt.span.tag(tag, value.clone());
                }
                self.span.tag(tag, value);
            }
        }
    }

    /// The request is over, for good or bad.
    pub fn finish(mut self: Box<Self>, line: &Line, received: u64, sent: u64) {
        let flags = match line.response_flags {
            "" => "-",
            flags => flags,
        };
        if let Some(attempt) = self.upstream.take() {
            // As Envoy: what a proxy says of itself is no matter of its attempts.
            let flags = if attempt.status == 0 { flags } else { "-" };
            attempt.finish(flags, &self.exporter);
        }
        if !self.is_recorded() {
            return;
        }
        self.moment("last_downstream_tx_byte_sent");
        let span = &mut self.span;
        span.tag("request_size", received.to_string());
        span.tag("response_size", sent.to_string());
        span.tag("component", "proxy");
        if let Some(cluster) = &line.upstream_cluster {
            span.tag("upstream_cluster", &**cluster);
            span.tag("upstream_cluster.name", &**cluster);
        }
        conclude(span, line.response_code, flags);
        span.took = self.began.elapsed();
        self.exporter.push(self.span);
    }

    fn moment(&mut self, what: &'static str) {
        if self.verbose && self.is_recorded() {
            self.span.annotate(self.began.elapsed(), what);
        }
    }
}

impl Attempt {
    fn finish(mut self: Box<Self>, flags: &str, exporter: &Exporter) {
        if !self.span.context.sampled {
            return;
        }
        conclude(&mut self.span, self.status, flags);
        self.span.took = self.began.elapsed();
        exporter.push(self.span);
    }
}

/// Whether there was no connection to speak on.
fn is_unconnected(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamTls
            | Reason::SecretsMissing
            | Reason::UpstreamOverflow
    )
}

/// Configuration's tags that have a value.
fn values<'t>(
    tags: impl IntoIterator<Item = &'t CustomTag>,
    facts: &dyn Facts,
) -> Vec<(String, String)> {
    let request = facts.request();
    let headers = request.as_ref().map(|request| request.headers);
    let made = tags.into_iter().map(|tag| {
        let value = match &tag.value {
            TagValue::Literal(text) => text.clone(),
            TagValue::Header(header, default) => headers
                .and_then(|headers| headers.get(header))
                .map_or_else(|| default.clone(), cut),
            TagValue::Format(template) => template.format(facts, Missing::Empty),
        };
        (tag.name.clone(), value)
    });
    made.filter(|(_, value)| !value.is_empty()).collect()
}

fn conclude(span: &mut Span, status: u16, flags: &str) {
    span.tag("http.status_code", status.to_string());
    span.tag("response_flags", flags);
    if status == 0 || status >= 500 {
        span.tag("error", "true");
        span.is_error = true;
    }
}

/// A request's text, for a tag.
fn cut(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.chars().take(LONGEST).collect()
}

/// An id that is not zero, which would be none.
fn fresh() -> u64 {
    roll().max(1)
}

/// Where a request's span stands.
struct Start {
    context: TraceContext,
    kind: SpanKind,
    shared: bool,
    is_below_remote: bool,
    state: Option<String>,
    carriers: Carriers,
}

impl Start {
    /// By the caller's context, if there is one; none if it is broken.
    fn of(dialect: Dialect, is_client: bool, headers: &HeaderMap, traced: bool) -> Option<Start> {
        match dialect {
            Dialect::OpenTelemetry => Start::otlp(is_client, headers, traced),
            Dialect::Zipkin { w3c, .. } => {
                let received = match w3c {
                    true => Received::b3_or_w3c(headers),
                    false => Received::b3(headers),
                };
                Start::zipkin(dialect, is_client, (received, has_single(headers)), traced)
            }
        }
    }

    fn zipkin(
        dialect: Dialect,
        is_client: bool,
        (received, single): (Received, bool),
        traced: bool,
    ) -> Option<Start> {
        let Dialect::Zipkin {
            long_ids,
            shared,
            w3c,
            timed_ids,
            split,
        } = dialect
        else {
            return None;
        };
        let is_client = is_client && !split;
        let kind = if is_client {
            SpanKind::Client
        } else {
            SpanKind::Server
        };
        let joins = shared && !is_client;
        let context = match received {
            Received::Broken => return None,
            Received::Nothing { sampled } => {
                let (trace, span) = root(long_ids, timed_ids);
                TraceContext {
                    trace,
                    span,
                    parent: None,
                    sampled: sampled.unwrap_or(traced),
                }
            }
            Received::Span {
                trace,
                span,
                parent,
                sampled,
            } => TraceContext {
                trace,
                span: if joins { span } else { fresh() },
                parent: if joins { parent } else { Some(span) },
                sampled: sampled.unwrap_or(traced),
            },
        };
        let form = if single {
            B3Form::Single
        } else {
            B3Form::Multiple
        };
        Some(Start {
            context,
            kind,
            shared: joins,
            is_below_remote: matches!(received, Received::Span { .. }),
            state: None,
            carriers: Carriers {
                b3: Some(form),
                w3c,
            },
        })
    }

    fn otlp(is_client: bool, headers: &HeaderMap, traced: bool) -> Option<Start> {
        let (trace, parent, sampled) = match Received::w3c(headers) {
            Received::Broken => return None,
            Received::Nothing { .. } => {
                let trace = (u128::from(roll()) << 64) | u128::from(fresh());
                (trace, None, traced)
            }
            Received::Span {
                trace,
                span,
                sampled,
                ..
            } => (trace, Some(span), traced && sampled == Some(true)),
        };
        Some(Start {
            context: TraceContext {
                trace,
                span: fresh(),
                parent,
                sampled,
            },
            kind: if is_client {
                SpanKind::Client
            } else {
                SpanKind::Server
            },
            shared: false,
            is_below_remote: parent.is_some(),
            state: parent.and_then(|_| trace_state(headers)),
            carriers: Carriers {
                b3: None,
                w3c: true,
            },
        })
    }
}

/// The ids of a trace's first span.
fn root(is_long: bool, is_timed: bool) -> (u128, u64) {
    let span = fresh();
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let timed = |id: u64| match is_timed {
        true => (unix.as_secs() << 32) | (id & 0xffff_ffff),
        false => id,
    };
    match is_long {
        true => ((u128::from(timed(roll())) << 64) | u128::from(span), span),
        false => (u128::from(timed(span)), span),
    }
}
