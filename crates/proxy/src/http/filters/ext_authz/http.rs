//! The service over HTTP: 200 approves, 5xx is a failure, anything else denies.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::verdict::{Approval, Decision, Denial, is_free};
use super::{Body, ExtAuthz, PARTIAL_BODY, bytes_of};
use crate::http::call::{Call, Reply, send};
use crate::http::filters::FilterContext;
use crate::matcher::StringMatch;
use crate::route::AddMode;

/// A list of headers the service wants to have removed.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// A service over HTTP.
#[derive(Debug)]
pub struct HttpAuthz {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// For a whole call.
    pub timeout: Option<Duration>,
    /// Put before the path, or in its place.
    pub path: PathChange,
    /// Headers of every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of an approval: headers that are set in the request.
    pub to_upstream: Vec<StringMatch>,
    /// Of an approval: headers that are added to the request.
    pub to_upstream_beside: Vec<StringMatch>,
    /// Of a denial: headers that the client gets; all where `None`.
    pub to_client: Option<Vec<StringMatch>>,
    /// Of an approval: headers that the client gets.
    pub to_client_on_success: Vec<StringMatch>,
}

/// The path the service is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// This, then the request's.
    Prefix(String),
    /// This one.
    Whole(String),
}

/// Asks. What is asked is taken from the request before the wait begins.
pub(super) fn ask<'a>(
    service: &'a HttpAuthz,
    filter: &ExtAuthz,
    context: &FilterContext<'_, '_>,
    body: Option<&Body>,
) -> impl Future<Output = Decision> + Send + use<'a> {
    let path = &context.target.path_and_query;
    let call = Call {
        method: context.parts.method.clone(),
        path: match &service.path {
            PathChange::Prefix(prefix) => format!("{prefix}{path}"),
            PathChange::Whole(whole) => whole.clone(),
        },
        authority: context.target.authority.clone(),
        headers: headers(service, filter, context, body),
        body: bytes_of(body),
        is_grpc: false,
        timeout: service.timeout,
    };
    let worker = context.connection.worker.clone();
    async move {
        match Box::pin(send(&worker, &service.cluster, call)).await {
            Ok(reply) => decision(service, reply),
            Err(error) => {
                tracing::debug!(%error, "authorization service");
                Decision::Failed(None)
            }
        }
    }
}

fn headers(
    service: &HttpAuthz,
    filter: &ExtAuthz,
    context: &FilterContext<'_, '_>,
    body: Option<&Body>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &context.parts.headers {
        let is_necessary = *name == AUTHORIZATION && !filter.shown.forbids(name.as_str());
        if (is_necessary || filter.shown.shows(name.as_str(), false)) && is_free(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some((_, buffered)) = body {
        let partial = if buffered.whole { "false" } else { "true" };
        headers.insert(PARTIAL_BODY, HeaderValue::from_static(partial));
    }
    for (name, value) in &service.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

fn decision(service: &HttpAuthz, reply: Reply) -> Decision {
    if reply.status.is_server_error() {
        return Decision::Failed(None);
    }
    if reply.status != StatusCode::OK {
        return Decision::Denied(Box::new(denial(service, reply)));
    }
    let mut approval = Approval::default();
    let matches = |list: &[StringMatch], name: &HeaderName| {
        list.iter().any(|matcher| matcher.matches(name.as_str()))
    };
    for (name, value) in &reply.headers {
        let pair = || (name.as_str().to_owned(), value.clone());
        if !is_free(name) {
            continue;
        }
        if matches(&service.to_upstream, name) {
            approval.set.push(pair());
        }
        if matches(&service.to_upstream_beside, name) {
            approval.add.push(pair());
        }
        if matches(&service.to_client_on_success, name) {
            let header = (AddMode::Append, name.clone(), value.clone());
            approval.response.push(header);
        }
    }
    for list in reply.headers.get_all(TO_REMOVE) {
        for name in list.to_str().unwrap_or_default().split(',') {
            approval.remove(name);
        }
    }
    Decision::Approved(Box::new(approval))
}

fn denial(service: &HttpAuthz, reply: Reply) -> Denial {
    let always = |name: &HeaderName| {
        *name == http::header::WWW_AUTHENTICATE || *name == http::header::LOCATION
    };
    let wanted = |name: &HeaderName| match &service.to_client {
        None => true,
        Some(list) => always(name) || list.iter().any(|matcher| matcher.matches(name.as_str())),
    };
    Denial {
        status: Some(reply.status),
        headers: reply
            .headers
            .iter()
            .filter(|(name, _)| is_free(name) && wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        body: reply.body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(to_client: Option<&str>) -> HttpAuthz {
        let exact = |text: &str| StringMatch::Exact(text.into());
        HttpAuthz {
            cluster: "auth".into(),
            timeout: None,
            path: PathChange::Prefix(String::new()),
            headers: Vec::new(),
            to_upstream: vec![exact("x-up")],
            to_upstream_beside: vec![exact("x-beside")],
            to_client: to_client.map(|name| vec![exact(name)]),
            to_client_on_success: vec![exact("x-cli")],
        }
    }

    fn reply(status: u16) -> Reply {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-up", "1"),
            ("x-beside", "2"),
            ("x-cli", "3"),
            ("location", "/x"),
            ("content-length", "3"),
            ("x-envoy-auth-headers-to-remove", "x-one, x-two,host"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: "no!".into(),
            trailers: HeaderMap::new(),
        }
    }

    #[test]
    fn the_status_decides_and_lists_say_which_headers_count() {
        match decision(&service(None), reply(200)) {
            Decision::Approved(approval) => {
                assert_eq!(approval.set[0].0, "x-up");
                assert_eq!(approval.add[0].0, "x-beside");
                assert_eq!(approval.response[0].1, "x-cli");
                assert_eq!(approval.remove, ["x-one", "x-two"]);
            }
            other => panic!("{other:?}"),
        }
        for (to_client, count) in [(None, 5), (Some("x-cli"), 2)] {
            match decision(&service(to_client), reply(302)) {
                Decision::Denied(denial) => {
                    assert_eq!(denial.status, Some(StatusCode::FOUND));
                    assert_eq!(denial.headers.len(), count);
                    assert_eq!(denial.body, "no!");
                }
                other => panic!("{other:?}"),
            }
        }
        let failed = decision(&service(None), reply(503));
        assert!(matches!(failed, Decision::Failed(None)));
        let created = decision(&service(None), reply(201));
        assert!(matches!(created, Decision::Denied(_)), "only 200 approves");
    }
}
