//! A request after authentication, its path taken apart, and answers.

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::auth::User;
use crate::status::{Failure, Outcome};

/// Body of an answer: whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// An answer.
pub type Answer = Response<Body>;

/// Query parameters in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// Sets a parameter.
    pub fn set(&mut self, key: &str, value: &str) {
        self.0.retain(|(k, _)| k != key);
        self.0.push((key.to_owned(), value.to_owned()));
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Whether a parameter is `true` or `1` (or given without value, as Go reads it).
    pub fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| matches!(v, "true" | "1" | "True" | "TRUE" | "t"))
    }

    /// A number; garbage is an error naming the parameter.
    pub fn number(&self, key: &str) -> Outcome<Option<u64>> {
        match self.get(key).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Failure::bad_request(format!("invalid query parameter {key}: strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// Undoes percent encoding; `+` is a space in queries.
pub fn decode(text: &str, query: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if query => out.push(b' '),
            b'%' => {
                let rest = bytes.as_slice_of_two();
                match rest {
                    Some(value) => {
                        bytes.next();
                        bytes.next();
                        out.push(value);
                    }
                    None => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

trait HexPair {
    fn as_slice_of_two(&self) -> Option<u8>;
}

impl HexPair for std::str::Bytes<'_> {
    /// The next two bytes as a hexadecimal number.
    fn as_slice_of_two(&self) -> Option<u8> {
        let mut ahead = self.clone();
        let high = char::from(ahead.next()?).to_digit(16)?;
        let low = char::from(ahead.next()?).to_digit(16)?;
        u8::try_from(high * 16 + low).ok()
    }
}

/// Where a resource request points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace in the path.
    pub namespace: Option<String>,
    /// Resource.
    pub plural: String,
    /// Object.
    pub name: Option<String>,
    /// Subresource.
    pub subresource: Option<String>,
    /// Path after the subresource (proxies), with its leading slash.
    pub rest: String,
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz` and below.
    Health,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/G`
    Group(String),
    /// `/api/v1`, `/apis/G/V`
    Resources(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3` or one document of it.
    OpenApiV3(String),
    /// An object or collection.
    Resource(ResourcePath),
    /// `/`, `/metrics` and everything else.
    Unknown,
}

/// Takes a path apart.
pub fn route(path: &str) -> Route {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let filled: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    match filled.as_slice() {
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3(String::new()),
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3(rest.join("/")),
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources(String::new(), (*version).to_owned()),
        ["apis", group, version] => Route::Resources((*group).to_owned(), (*version).to_owned()),
        ["api", version, ..] => resource("", version, path, 2),
        ["apis", group, version, ..] => resource(group, version, path, 3),
        _ => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, path: &str, skip: usize) -> Route {
    // Split anew with empty parts kept, since a proxied path may have them.
    let parts: Vec<&str> = path.split('/').skip(1 + skip).collect();
    let mut at = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        ..ResourcePath::default()
    };
    let rest = match parts.as_slice() {
        ["namespaces", namespace, sub @ ("status" | "finalize")] => {
            at.namespace = Some(decode(namespace, false));
            at.subresource = Some((*sub).to_owned());
            at.plural = "namespaces".to_owned();
            at.name = at.namespace.clone();
            return Route::Resource(at);
        }
        ["namespaces", namespace, plural, rest @ ..] if !plural.is_empty() => {
            at.namespace = Some(decode(namespace, false));
            at.plural = (*plural).to_owned();
            rest
        }
        [plural, rest @ ..] => {
            at.plural = (*plural).to_owned();
            rest
        }
        [] => return Route::Unknown,
    };
    if let [name, rest @ ..] = rest
        && !name.is_empty()
    {
        at.name = Some(decode(name, false));
        if at.plural == "namespaces" {
            at.namespace.clone_from(&at.name);
        }
        if let [sub, rest @ ..] = rest
            && !sub.is_empty()
        {
            at.subresource = Some((*sub).to_owned());
            if !rest.is_empty() {
                at.rest = format!("/{}", rest.join("/"));
            }
        }
    }
    Route::Resource(at)
}

/// A request.
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path as sent.
    pub path: String,
    /// Query string as sent.
    pub raw_query: String,
    /// Query, decoded.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: User,
    /// Body, whole, within the limit.
    pub body: Bytes,
    /// The connection, for upgrades.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl Call {
    /// A header as text.
    pub fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    /// `dryRun=All`; other values are errors.
    pub fn dry_run(&self) -> Outcome<bool> {
        let mut dry = false;
        for value in self.query.all("dryRun") {
            match value {
                "All" => dry = true,
                "" => {}
                other => {
                    let cause = crate::status::Cause {
                        reason: "FieldValueNotSupported",
                        message: format!(
                            "Unsupported value: []string{{{other:?}}}: supported values: \"All\""
                        ),
                        field: "dryRun".to_owned(),
                    };
                    return Err(Failure::invalid(
                        "meta.k8s.io",
                        "CreateOptions",
                        "",
                        vec![cause],
                    ));
                }
            }
        }
        Ok(dry)
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes_answer(status, "application/json", Bytes::from(bytes))
}

/// No body.
pub fn empty() -> Body {
    Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A plain answer.
pub fn bytes_answer(status: StatusCode, media_type: &'static str, bytes: Bytes) -> Answer {
    let body = Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media_type),
    );
    answer
}

/// A failure as an answer.
pub fn failure(failure: &Failure) -> Answer {
    let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, &failure.body());
    if let Some(seconds) = failure.retry_after {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    answer
}

/// Adds `Warning: 299 - "…"` headers, which kubectl prints.
pub fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = header::HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let at = |group: &str,
                  ns: Option<&str>,
                  plural: &str,
                  name: Option<&str>,
                  sub: Option<&str>,
                  rest: &str| {
            Route::Resource(ResourcePath {
                group: group.into(),
                version: "v1".into(),
                namespace: ns.map(Into::into),
                plural: plural.into(),
                name: name.map(Into::into),
                subresource: sub.map(Into::into),
                rest: rest.into(),
            })
        };
        let cases = [
            ("/api/v1/pods", at("", None, "pods", None, None, "")),
            (
                "/api/v1/namespaces",
                at("", None, "namespaces", None, None, ""),
            ),
            (
                "/api/v1/namespaces/a",
                at("", Some("a"), "namespaces", Some("a"), None, ""),
            ),
            (
                "/api/v1/namespaces/a/finalize",
                at("", Some("a"), "namespaces", Some("a"), Some("finalize"), ""),
            ),
            (
                "/api/v1/namespaces/a/pods/p/log",
                at("", Some("a"), "pods", Some("p"), Some("log"), ""),
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                at(
                    "apps",
                    Some("a"),
                    "deployments",
                    Some("d"),
                    Some("scale"),
                    "",
                ),
            ),
            (
                "/api/v1/namespaces/a/pods/p:80/proxy/x//y/",
                at("", Some("a"), "pods", Some("p:80"), Some("proxy"), "/x//y/"),
            ),
            (
                "/api/v1/namespaces/a/pods/p%3A80/proxy/",
                at("", Some("a"), "pods", Some("p:80"), Some("proxy"), "/"),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:x",
                at(
                    "rbac.authorization.k8s.io",
                    None,
                    "clusterroles",
                    Some("system:x"),
                    None,
                    "",
                ),
            ),
            (
                "/apis/apps/v1",
                Route::Resources("apps".into(), "v1".into()),
            ),
            ("/apis/apps/", Route::Group("apps".into())),
            ("/readyz/ping", Route::Health),
            ("/", Route::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20%26%25&watch=1&bad=%zz");
        assert_eq!(
            query.all("command").collect::<Vec<_>>(),
            ["sh", "-c", "echo a &%"]
        );
        assert!(query.flag("watch"));
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
