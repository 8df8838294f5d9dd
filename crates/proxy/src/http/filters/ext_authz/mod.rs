//! External authorization: a service decides over every request, over gRPC (`envoy.service.auth.v3`) or HTTP.

pub mod check;
pub mod grpc;
mod http;
mod verdict;

pub use self::http::{HttpAuthz, PathChange};

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use ::http::{StatusCode, Uri};
use bytes::Bytes;

use self::verdict::{Approval, Decision, Denial};
use super::counters::{Counters, of_cluster};
use super::headers::{Additions, apply};
use super::overrides::Override;
use super::{Buffered, FilterContext, State, Verdict};
use crate::fraction::Fraction;
use crate::http::call::GrpcService;
use crate::http::reply::LocalReply;
use crate::matcher::StringMatch;
use crate::reason::Reason;
use crate::route::{AddMode, split};

const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
/// Tells the service whether the body it sees is all of it.
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

const OK: usize = 0;
const DENIED: usize = 1;
const ERROR: usize = 2;
const DISABLED: usize = 3;
const FAILURE_MODE_ALLOWED: usize = 4;
/// Names of the counters, under `http.<stat_prefix>.ext_authz.` and `cluster.<name>.ext_authz.`.
pub const NAMES: &[&str] = &["ok", "denied", "error", "disabled", "failure_mode_allowed"];

/// The filter.
#[derive(Debug)]
pub struct ExtAuthz {
    /// Who decides.
    pub service: AuthzService,
    /// Requests pass when the service fails.
    pub failure_allowed: bool,
    /// And carry a header that says so.
    pub failure_header: bool,
    /// The body is shown, too.
    pub body: Option<BodySettings>,
    /// The route is looked for anew when the service changed the request.
    pub clear_route: bool,
    /// Status when the service fails.
    pub status_on_error: StatusCode,
    /// Requests that are asked for …
    pub enabled: Fraction,
    /// … and whether the others are refused.
    pub deny_others: bool,
    /// What the service is shown.
    pub shown: Shown,
    /// What is refused of the service's answer with 500.
    pub validate: bool,
    /// Bytes of the body of a denial.
    pub denial_limit: Option<usize>,
    /// Counters of the filter.
    pub counters: Counters,
    /// `ext_authz`, or with a name behind it.
    pub stat_prefix: String,
}

/// Who decides.
#[derive(Debug)]
pub enum AuthzService {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc(GrpcService),
    /// Anything that answers HTTP.
    Http(Box<HttpAuthz>),
}

/// How much of a body is shown.
#[derive(Debug, Clone, Copy)]
pub struct BodySettings {
    /// Bytes.
    pub most: usize,
    /// Of a larger one only its beginning; else it is refused with 413.
    pub partial: bool,
    /// As bytes, not as text.
    pub as_bytes: bool,
}

/// What the service is shown of a request.
#[derive(Debug, Default)]
pub struct Shown {
    /// Only headers that match; `None`: all (gRPC), or none but the necessary ones (HTTP).
    pub allowed: Option<Vec<StringMatch>>,
    /// No header that matches.
    pub disallowed: Vec<StringMatch>,
    /// Headers as they are, one by one.
    pub raw_headers: bool,
    /// The server name of the TLS handshake.
    pub tls_session: bool,
    /// The client's certificate.
    pub certificate: bool,
}

/// What a route says.
#[derive(Debug, Default)]
pub struct ExtAuthzRoute {
    /// For the service, added to those of less specific levels.
    pub context: Vec<(String, String)>,
    /// The body is not shown.
    pub without_body: bool,
    /// The body is shown so.
    pub body: Option<BodySettings>,
    /// Another one decides.
    pub service: Option<AuthzService>,
}

impl Shown {
    /// Whether a header is shown in no case.
    fn forbids(&self, name: &str) -> bool {
        self.disallowed.iter().any(|matcher| matcher.matches(name))
    }

    /// Whether a header is shown; `default` decides where nothing is configured.
    fn shows(&self, name: &str, default: bool) -> bool {
        let allowed = match &self.allowed {
            Some(list) => list.iter().any(|matcher| matcher.matches(name)),
            None => default,
        };
        allowed && !self.forbids(name)
    }
}

/// Asks for a request, and does what the service says.
pub(super) async fn request(
    name: &str,
    filter: &ExtAuthz,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    if !filter.enabled.draw() {
        filter.counters.increment(context.stats(), DISABLED);
        return match filter.deny_others {
            true => Err(Box::new(failure(filter.status_on_error))),
            false => Ok(None),
        };
    }
    let levels: Vec<&ExtAuthzRoute> = context
        .routing
        .all(name)
        .filter_map(|level| match level {
            Override::ExtAuthz(route) => Some(route),
            _ => None,
        })
        .collect();
    let route = levels.first();
    let settings = match route {
        Some(route) if route.without_body => None,
        Some(route) => route.body.or(filter.body),
        None => filter.body,
    };
    let body = match settings {
        Some(settings) if !context.body.is_end() && context.target.upgrade.is_none() => {
            Some((settings, read(settings, context).await?))
        }
        _ => None,
    };
    let service = route
        .and_then(|route| route.service.as_ref())
        .unwrap_or(&filter.service);
    let decision = match service {
        AuthzService::Grpc(service) => {
            let extensions = levels.iter().rev().flat_map(|level| level.context.clone());
            let extensions = extensions.collect();
            grpc::ask(service, filter, context, body.as_ref(), extensions).await
        }
        AuthzService::Http(service) => http::ask(service, filter, context, body.as_ref()).await,
    };
    act(filter, context, decision)
}

/// Reads as much of the body as is to be shown.
async fn read(
    settings: BodySettings,
    context: &mut FilterContext<'_, '_>,
) -> Result<Buffered, Box<LocalReply>> {
    // One byte more tells whether it is too large.
    let limit = match settings.partial {
        true => settings.most,
        false => settings.most.saturating_add(1),
    };
    let buffered = context.body.buffer(limit).await;
    let mut buffered = buffered.map_err(|reason| Box::new(LocalReply::from(reason)))?;
    if buffered.bytes.len() > settings.most {
        if !settings.partial {
            return Err(Box::new(LocalReply::from(Reason::PayloadTooLarge)));
        }
        buffered.bytes.truncate(settings.most);
        buffered.whole = false;
    }
    Ok(buffered)
}

fn act(filter: &ExtAuthz, context: &mut FilterContext<'_, '_>, decision: Decision) -> Verdict {
    let decision = match decision {
        Decision::Approved(approval) if filter.validate && !approval.is_valid() => {
            count(filter, context, ERROR);
            return Err(Box::new(failure(StatusCode::INTERNAL_SERVER_ERROR)));
        }
        other => other,
    };
    match decision {
        Decision::Approved(approval) => {
            count(filter, context, OK);
            Ok(approve(filter, context, *approval))
        }
        Decision::Denied(denial) => {
            count(filter, context, DENIED);
            let mut reply = LocalReply::from(Reason::ExtAuthzDenied);
            answer(filter, *denial, &mut reply);
            Err(Box::new(reply))
        }
        Decision::Failed(denial) => {
            count(filter, context, ERROR);
            if filter.failure_allowed {
                count(filter, context, FAILURE_MODE_ALLOWED);
                if filter.failure_header {
                    let yes = HeaderValue::from_static("true");
                    context.parts.headers.append(FAILURE_ALLOWED, yes);
                }
                return Ok(None);
            }
            let mut reply = failure(filter.status_on_error);
            if let Some(denial) = denial {
                answer(filter, *denial, &mut reply);
            }
            Err(Box::new(reply))
        }
    }
}

fn failure(status: StatusCode) -> LocalReply {
    let mut reply = LocalReply::from(Reason::ExtAuthzError);
    reply.status = status;
    reply
}

/// The service's own words as reply.
fn answer(filter: &ExtAuthz, denial: Denial, reply: &mut LocalReply) {
    reply.status = denial.status.unwrap_or(reply.status);
    reply.body = denial.body;
    if let Some(limit) = filter.denial_limit {
        reply.body.truncate(limit);
    }
    // What it sets takes the place of ours; what it sets twice stands twice, as cookies do.
    let mut seen: Vec<HeaderName> = Vec::new();
    for (name, value) in denial.headers {
        let mode = match seen.contains(&name) {
            true => AddMode::Append,
            false => AddMode::Overwrite,
        };
        seen.push(name.clone());
        reply.headers.push((mode, name, value));
    }
}

/// Changes the request as the service wants, and leaves the headers of its response.
fn approve(
    filter: &ExtAuthz,
    context: &mut FilterContext<'_, '_>,
    approval: Approval,
) -> Option<State> {
    let changes = approval.changes();
    for (name, value) in approval.set {
        set(context, &name, value, AddMode::Overwrite);
    }
    for (name, value) in approval.add {
        set(context, &name, value, AddMode::Append);
    }
    for (name, value) in approval.append {
        join(&mut context.parts.headers, &name, &value);
    }
    for name in approval.remove {
        context.parts.headers.remove(name);
    }
    if !approval.query_set.is_empty() || !approval.query_remove.is_empty() {
        let (path, query) = split(&context.target.path_and_query);
        let changed = verdict::query(path, query, &approval.query_set, &approval.query_remove);
        if changed.parse::<Uri>().is_ok() {
            context.target.path_and_query = changed;
        }
    }
    if filter.clear_route && changes {
        context.reroute();
    }
    let headers: Additions = approval.response;
    (!headers.is_empty()).then_some(State::Headers(headers))
}

/// Sets a header, which may be a pseudo header.
fn set(context: &mut FilterContext<'_, '_>, name: &str, value: HeaderValue, mode: AddMode) {
    let text = || value.to_str().ok().map(str::to_owned);
    match name {
        ":path" => {
            if let Some(path) = text().filter(|path| path.starts_with('/')) {
                context.target.path_and_query = path;
            }
        }
        ":authority" | "host" => {
            if let Some(authority) = text().filter(|text| verdict::is_authority(text)) {
                context.target.authority = authority;
            }
        }
        ":method" => {
            if let Ok(method) = value.as_bytes().try_into() {
                context.parts.method = method;
            }
        }
        _ => {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                && verdict::is_free(&name)
            {
                let additions = vec![(mode, name, value)];
                apply(additions, &mut context.parts.headers);
            }
        }
    }
}

/// Adds to the first value of a header, if there is one: that is what Envoy makes of `append`.
fn join(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if !verdict::is_free(name) {
        return;
    }
    if let Some(first) = headers.get_mut(name) {
        let mut all = first.as_bytes().to_vec();
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            *first = all;
        }
    }
}

/// Counts for the filter and for the cluster of the route.
fn count(filter: &ExtAuthz, context: &FilterContext<'_, '_>, index: usize) {
    let stats = context.stats();
    filter.counters.increment(stats, index);
    if let Some(cluster) = context.cluster() {
        let scope = of_cluster(stats, cluster, &filter.stat_prefix, NAMES);
        scope.counter(index).increment();
    }
}

/// A body as the service is shown it, with the settings it was read by.
type Body = (BodySettings, Buffered);

fn bytes_of(body: Option<&Body>) -> Bytes {
    body.map_or_else(Bytes::new, |(_, buffered)| buffered.bytes.clone())
}
