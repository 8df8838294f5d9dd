//! CORS: answers preflight requests, and tells browsers who may read a response.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};
use http::{Method, StatusCode};

use super::counters::Counters;
use super::headers::Additions;
use super::overrides::{Override, Routing};
use super::{FilterContext, State, Verdict};
use crate::fraction::Fraction;
use crate::http::reply::LocalReply;
use crate::matcher::StringMatch;
use crate::route::{Action, AddMode};

const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

const ORIGIN_VALID: usize = 0;
const ORIGIN_INVALID: usize = 1;
/// Names of the counters, under `http.<stat_prefix>.cors.`.
pub const NAMES: &[&str] = &["origin_valid", "origin_invalid"];

/// The filter: routes say what it does.
#[derive(Debug)]
pub struct Cors {
    /// Counters.
    pub counters: Counters,
}

/// What a route or virtual host allows. What it leaves open, the next level says.
#[derive(Debug, Default)]
pub struct CorsPolicy {
    /// Origins.
    pub origins: Vec<StringMatch>,
    /// Methods; `*` is the one asked for.
    pub methods: Option<HeaderValue>,
    /// Request headers; `*` are those asked for.
    pub headers: Option<HeaderValue>,
    /// Response headers.
    pub expose: Option<HeaderValue>,
    /// How long the answer may be kept.
    pub max_age: Option<HeaderValue>,
    /// Cookies and the like.
    pub credentials: Option<bool>,
    /// From a public into a private network.
    pub private_network: Option<bool>,
    /// Preflight requests of other origins go to the upstream.
    pub forward_not_matching: Option<bool>,
    /// Requests it holds for; all, where nothing is said.
    pub enabled: Option<Fraction>,
    /// Requests that are only counted.
    pub shadow: Option<Fraction>,
}

/// The policies that hold for a request, the most specific first.
struct Policies<'r>(Vec<&'r CorsPolicy>);

/// Answers preflight requests; leaves headers for the responses of others.
pub(super) fn request(name: &str, filter: &Cors, context: &mut FilterContext<'_, '_>) -> Verdict {
    let policies = Policies::of(name, &context.routing);
    let Some(first) = policies.0.first() else {
        return Ok(None);
    };
    let enabled = first.enabled.is_none_or(Fraction::draw);
    let shadow = first.shadow.is_some_and(Fraction::draw);
    let headers = &context.parts.headers;
    let origin = headers.get(ORIGIN).filter(|origin| !origin.is_empty());
    let Some(origin) = origin.filter(|_| enabled || shadow) else {
        return Ok(None);
    };
    let asked = headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|method| context.parts.method == Method::OPTIONS && !method.is_empty());
    let allowed = policies.allow(origin);
    let counter = if allowed {
        ORIGIN_VALID
    } else {
        ORIGIN_INVALID
    };
    filter.counters.increment(context.stats(), counter);
    let forward = policies.find(|policy| policy.forward_not_matching) != Some(false);
    match (allowed, asked) {
        _ if !enabled => Ok(None),
        (false, Some(asked)) if !forward => Err(Box::new(answer(&policies, None, asked, headers))),
        (false, _) => Ok(None),
        (true, Some(asked)) => Err(Box::new(answer(&policies, Some(origin), asked, headers))),
        (true, None) => Ok(Some(State::Headers(policies.actual(origin)))),
    }
}

/// The answer to a preflight request.
fn answer(
    policies: &Policies<'_>,
    origin: Option<&HeaderValue>,
    asked: &HeaderValue,
    request: &HeaderMap,
) -> LocalReply {
    let mut headers = origin.map_or_else(Vec::new, |origin| policies.actual(origin));
    let mut put = |name, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.push((AddMode::Overwrite, name, value));
        }
    };
    let star = |value: &HeaderValue, asked: Option<&HeaderValue>| match asked {
        Some(asked) if value == "*" => asked.clone(),
        None if value == "*" => HeaderValue::from_static(""),
        _ => value.clone(),
    };
    let methods = policies.find(|policy| policy.methods.as_ref());
    put(
        ACCESS_CONTROL_ALLOW_METHODS,
        methods.map(|methods| star(methods, Some(asked))),
    );
    let names = policies.find(|policy| policy.headers.as_ref());
    put(
        ACCESS_CONTROL_ALLOW_HEADERS,
        names.map(|names| star(names, request.get(ACCESS_CONTROL_REQUEST_HEADERS))),
    );
    put(
        ACCESS_CONTROL_MAX_AGE,
        policies.find(|policy| policy.max_age.clone()),
    );
    let is_private = request
        .get(REQUEST_PRIVATE_NETWORK)
        .is_some_and(|value| value == "true");
    if is_private && policies.find(|policy| policy.private_network) == Some(true) {
        put(
            ALLOW_PRIVATE_NETWORK,
            Some(HeaderValue::from_static("true")),
        );
    }
    LocalReply {
        status: StatusCode::OK,
        headers,
        details: "cors_response".into(),
        // Envoy sends it past the route's changes to responses, and never as gRPC.
        is_plain: true,
        ..LocalReply::default()
    }
}

// === impl Policies ===

impl<'r> Policies<'r> {
    /// Those of `typed_per_filter_config`; without any, those of the deprecated fields.
    fn of(name: &str, routing: &Routing<'r>) -> Policies<'r> {
        let typed: Vec<&'r CorsPolicy> = routing
            .all(name)
            .filter_map(|level| match level {
                Override::Cors(policy) => Some(policy),
                _ => None,
            })
            .collect();
        if !typed.is_empty() {
            return Policies(typed);
        }
        let found = routing.found;
        let of_route = found.and_then(|found| match &found.route.action {
            Action::Forward(forward) => forward.cors.as_ref(),
            _ => None,
        });
        let of_host = found.and_then(|found| found.host.cors.as_ref());
        Policies(of_route.into_iter().chain(of_host).collect())
    }

    /// What the most specific policy says that says it.
    fn find<T>(&self, value: impl Fn(&'r CorsPolicy) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| value(policy))
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        let origins = self.find(|policy| Some(&policy.origins).filter(|list| !list.is_empty()));
        let origin = String::from_utf8_lossy(origin.as_bytes());
        origins.is_some_and(|list| {
            list.iter().any(|pattern| {
                // A star means every origin, by itself only.
                matches!(pattern, StringMatch::Exact(text) if text == "*")
                    || pattern.matches(&origin)
            })
        })
    }

    /// Headers of every response to an allowed origin.
    fn actual(&self, origin: &HeaderValue) -> Additions {
        let mut headers = vec![(
            AddMode::Overwrite,
            ACCESS_CONTROL_ALLOW_ORIGIN,
            origin.clone(),
        )];
        if self.find(|policy| policy.credentials) == Some(true) {
            headers.push((
                AddMode::Overwrite,
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            ));
        }
        if let Some(expose) = self.find(|policy| policy.expose.clone()) {
            headers.push((AddMode::Overwrite, ACCESS_CONTROL_EXPOSE_HEADERS, expose));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(origin: &str, methods: &'static str) -> CorsPolicy {
        CorsPolicy {
            origins: vec![StringMatch::Exact(origin.into())],
            methods: Some(methods)
                .filter(|m| !m.is_empty())
                .map(HeaderValue::from_static),
            ..CorsPolicy::default()
        }
    }

    fn lines(reply: &LocalReply) -> Vec<String> {
        let lines = reply.headers.iter();
        lines
            .map(|(_, name, value)| {
                let short = name.as_str().trim_start_matches("access-control-");
                format!("{short}: {}", value.to_str().unwrap())
            })
            .collect()
    }

    #[test]
    fn what_a_route_leaves_open_its_host_says() {
        let mut route = policy("http://ok", "");
        let mut host = policy("http://host", "GET");
        route.credentials = Some(true);
        route.expose = Some(HeaderValue::from_static("x-e"));
        host.max_age = Some(HeaderValue::from_static("77"));
        host.private_network = Some(true);
        let policies = Policies(vec![&route, &host]);
        let mut request = HeaderMap::new();
        request.insert(REQUEST_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        let origin = HeaderValue::from_static("http://ok");
        let asked = HeaderValue::from_static("PUT");
        assert!(policies.allow(&origin));
        assert!(!policies.allow(&HeaderValue::from_static("http://host")));
        assert_eq!(
            lines(&answer(&policies, Some(&origin), &asked, &request)),
            [
                "allow-origin: http://ok",
                "allow-credentials: true",
                "expose-headers: x-e",
                "allow-methods: GET",
                "max-age: 77",
                "allow-private-network: true",
            ]
        );
        assert_eq!(
            lines(&answer(&policies, None, &asked, &HeaderMap::new())),
            ["allow-methods: GET", "max-age: 77"]
        );
    }

    #[test]
    fn stars_stand_for_what_is_asked() {
        let mut star = policy("*", "*");
        star.headers = Some(HeaderValue::from_static("*"));
        let policies = Policies(vec![&star]);
        let mut request = HeaderMap::new();
        let origin = HeaderValue::from_static("http://any");
        let asked = HeaderValue::from_static("PUT");
        assert!(policies.allow(&origin));
        let empty = lines(&answer(&policies, Some(&origin), &asked, &request));
        assert_eq!(empty[1..], ["allow-methods: PUT", "allow-headers: "]);
        request.insert(
            ACCESS_CONTROL_REQUEST_HEADERS,
            HeaderValue::from_static("x-1, x-2"),
        );
        let full = lines(&answer(&policies, Some(&origin), &asked, &request));
        assert_eq!(full[1..], ["allow-methods: PUT", "allow-headers: x-1, x-2"]);
    }
}
