//! A request's spans, at the places of its way.

use http::HeaderMap;

use super::facts::Scene;
use super::filters::overrides::Routing;
use super::headers::X_REQUEST_ID;
use super::router::Way;
use crate::access::field;
use crate::cluster::{Chosen, UpstreamHttp};
use crate::reason::Reason;
use crate::spans::{RouteTracing, Towards, Trace};

impl Way<'_, '_> {
    /// Its route is known: whether it is traced is decided.
    pub fn begin_trace(&mut self, routing: &Routing<'_>) {
        let Some(tracing) = &self.manager.tracing else {
            return;
        };
        let connection = &self.http.connection;
        let route = of_route(routing);
        let trace = Trace::begin(tracing, route, &mut self.parts, &self.target, connection);
        if let Some(trace) = &trace
            && self.exchange.is_logged()
        {
            let line = &mut self.exchange.line;
            line.trace_id = Some(trace.id());
            if let Some(id) = &trace.request_id {
                line.request_id = Some(field(id.as_bytes()));
                if let Some(head) = &mut line.request_head {
                    head.headers.insert(X_REQUEST_ID, id.clone());
                }
            }
        }
        self.exchange.trace = trace;
    }

    /// An attempt begins: its request carries the context.
    pub fn trace_attempt(&mut self, chosen: &Chosen, count: u32) {
        let (Some(tracing), Some(trace)) = (&self.manager.tracing, &mut self.exchange.trace) else {
            return;
        };
        let towards = Towards {
            cluster: &chosen.cluster.config.name,
            endpoint: chosen.endpoint.config.address,
            is_http2: match chosen.cluster.config.http {
                UpstreamHttp::Http1 => false,
                UpstreamHttp::Http2(_) => true,
                UpstreamHttp::Downstream(_) => self.http.is_http2,
            },
            count,
        };
        trace.attempt(tracing, &towards, &mut self.parts.headers);
    }

    /// An attempt brought no answer, or none that counts.
    pub fn trace_failure(&mut self, why: Option<Reason>) {
        let (Some(tracing), Some(mut trace)) = (&self.manager.tracing, self.exchange.trace.take())
        else {
            return;
        };
        trace.attempt_failed(why, tracing, &self.scene());
        self.exchange.trace = Some(trace);
    }

    /// The response's head is made.
    pub fn trace_response(&mut self, routing: &Routing<'_>, headers: &mut HeaderMap) {
        let Some(tracing) = &self.manager.tracing else {
            return;
        };
        let Some(mut trace) = self.exchange.trace.take() else {
            return;
        };
        trace.respond(headers);
        let scene = Scene {
            response: Some(headers),
            ..self.scene()
        };
        trace.complete(tracing, of_route(routing), &scene);
        self.exchange.trace = Some(trace);
    }
}

fn of_route<'r>(routing: &Routing<'r>) -> Option<&'r RouteTracing> {
    routing
        .found
        .and_then(|found| found.route.tracing.as_deref())
}
