//! A request's hash, which consistent hashing goes by: the route's policies in order, computed as Envoy computes it, so
//! that both proxies send the same client to the same endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{COOKIE, HeaderName, HeaderValue};
use lb::hash::xx64;

use crate::matcher::RequestView;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// If there is a hash after this one, the policies behind it do not count.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// A header's values.
    Header(HeaderName),
    /// The authority.
    Authority,
    /// Path and query.
    Path,
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address, without port.
    SourceAddress,
    /// A query parameter.
    Query(String),
}

/// A cookie, made up where a lifetime is set and the client has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Its lifetime, zero for a session's; without, no cookie is made up.
    pub lifetime: Option<Duration>,
    /// Its path, if any.
    pub path: String,
    /// Further attributes; one without a value stands alone.
    pub attributes: Vec<(String, String)>,
}

/// The outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// The hash, if any policy yielded one.
    pub hash: Option<u64>,
    /// Cookies to be set in the response.
    pub cookies: Vec<HeaderValue>,
}

/// Computes a request's hash. The client's address and the one it came to tell connections apart.
pub fn hash(
    policies: &[HashPolicy],
    request: &RequestView<'_>,
    client: SocketAddr,
    local: SocketAddr,
) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let next = match &policy.source {
            HashSource::Header(name) => header(request, name),
            HashSource::Authority => Some(xx64(request.authority.as_bytes(), 0)),
            HashSource::Path => Some(xx64(request.path_and_query.as_bytes(), 0)),
            HashSource::SourceAddress => Some(xx64(client.ip().to_string().as_bytes(), 0)),
            HashSource::Query(name) => query(request, name).map(|value| xx64(value.as_bytes(), 0)),
            HashSource::Cookie(policy) => match (cookie(request, &policy.name), policy.lifetime) {
                (Some(value), _) => Some(xx64(value.as_bytes(), 0)),
                (None, Some(lifetime)) => {
                    // The same for all requests of a connection: several may race for the first answer.
                    let value = format!("{:016x}", xx64(format!("{client}{local}").as_bytes(), 0));
                    hashed.cookies.extend(policy.set(&value, lifetime));
                    Some(xx64(value.as_bytes(), 0))
                }
                (None, None) => None,
            },
        };
        if let Some(next) = next {
            // Rotated, so that equal hashes of two policies do not cancel each other.
            hashed.hash = Some(hashed.hash.map_or(0, |hash| hash.rotate_left(1)) ^ next);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// The hash of a connection by its client's address.
pub fn hash_source(client: SocketAddr) -> u64 {
    xx64(client.ip().to_string().as_bytes(), 0)
}

fn header(request: &RequestView<'_>, name: &HeaderName) -> Option<u64> {
    let values = request.headers.get_all(name).iter();
    let mut values: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    if values.is_empty() {
        return None;
    }
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| xx64(value, seed)))
}

fn query<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    let (_, query) = request.path_and_query.split_once('?')?;
    let mut pairs = query.split('&');
    pairs.find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

fn cookie<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    let values = request.headers.get_all(COOKIE).iter();
    let crumbs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let pairs = crumbs.filter_map(|crumb| crumb.trim().split_once('='));
    let mut named = pairs.filter(|(key, value)| *key == name && !value.is_empty());
    let (_, value) = named.next()?;
    let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    Some(bare.unwrap_or(value))
}

impl HashCookie {
    /// The header that sets it.
    fn set(&self, value: &str, lifetime: Duration) -> Option<HeaderValue> {
        let mut text = format!("{}=\"{value}\"", self.name);
        if !lifetime.is_zero() {
            text.push_str(&format!("; Max-Age={}", lifetime.as_secs()));
        }
        if !self.path.is_empty() {
            text.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            match value.as_str() {
                "" => text.push_str(&format!("; {name}")),
                value => text.push_str(&format!("; {name}={value}")),
            }
        }
        text.push_str("; HttpOnly");
        HeaderValue::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// Source, path, headers, hash.
    type Case<'a> = (
        HashSource,
        &'a str,
        &'a [(&'static str, &'a str)],
        Option<u64>,
    );

    fn policy(source: HashSource) -> HashPolicy {
        HashPolicy {
            source,
            terminal: false,
        }
    }

    fn last(source: HashSource) -> HashPolicy {
        HashPolicy {
            terminal: true,
            ..policy(source)
        }
    }

    fn of(policies: &[HashPolicy], path: &str, headers: &[(&'static str, &str)]) -> Hashed {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let request = RequestView {
            method: "GET",
            path_and_query: path,
            authority: "a",
            scheme: "http",
            headers: &map,
        };
        let (client, local) = (
            "10.0.0.9:1234".parse().unwrap(),
            "10.0.0.1:80".parse().unwrap(),
        );
        hash(policies, &request, client, local)
    }

    fn header(name: &'static str) -> HashSource {
        HashSource::Header(HeaderName::from_static(name))
    }

    fn cookie(lifetime: Option<u64>) -> HashSource {
        HashSource::Cookie(HashCookie {
            name: "s".into(),
            lifetime: lifetime.map(Duration::from_secs),
            path: "/p".into(),
            attributes: vec![
                ("Secure".into(), String::new()),
                ("SameSite".into(), "Lax".into()),
            ],
        })
    }

    #[test]
    fn each_source_yields_the_hash_of_its_text() {
        let xx = |text: &str| Some(xx64(text.as_bytes(), 0));
        let cases: [Case<'_>; 11] = [
            (header("x"), "/", &[("x", "foo")], xx("foo")),
            (header("x"), "/", &[], None),
            (
                header("x"),
                "/",
                &[("x", "b"), ("x", "a")],
                Some(xx64(b"b", xx64(b"a", 0))),
            ),
            (HashSource::SourceAddress, "/", &[], xx("10.0.0.9")),
            (HashSource::Query("q".into()), "/?p=1&q=two", &[], xx("two")),
            (HashSource::Query("q".into()), "/?qq=two", &[], None),
            (cookie(None), "/", &[("cookie", "t=1; s=abc")], xx("abc")),
            (
                cookie(None),
                "/",
                &[("cookie", "t=1"), ("cookie", "s=\"abc\"")],
                xx("abc"),
            ),
            (cookie(None), "/", &[("cookie", "xs=abc")], None),
            (HashSource::Authority, "/", &[], xx("a")),
            (HashSource::Path, "/p?q", &[], xx("/p?q")),
        ];
        for (source, path, headers, expected) in cases {
            let hashed = of(&[policy(source.clone())], path, headers);
            assert_eq!(
                hashed,
                Hashed {
                    hash: expected,
                    cookies: vec![]
                },
                "{source:?}"
            );
        }
    }

    #[test]
    fn policies_are_joined_until_a_terminal_one_has_a_hash() {
        let xx = |text: &str| xx64(text.as_bytes(), 0);
        let both = of(
            &[policy(header("x")), policy(header("y"))],
            "/",
            &[("x", "1"), ("y", "2")],
        );
        assert_eq!(both.hash, Some(xx("1").rotate_left(1) ^ xx("2")));
        let first = of(
            &[last(header("x")), policy(header("y"))],
            "/",
            &[("x", "1"), ("y", "2")],
        );
        assert_eq!(first.hash, Some(xx("1")));
        let second = of(
            &[last(header("x")), policy(header("y"))],
            "/",
            &[("y", "2")],
        );
        assert_eq!(second.hash, Some(xx("2")));
        assert_eq!(of(&[], "/", &[]).hash, None);
    }

    #[test]
    fn a_missing_cookie_is_made_up_where_it_has_a_lifetime() {
        let made = of(&[policy(cookie(Some(60)))], "/", &[]);
        let value = format!("{:016x}", xx64(b"10.0.0.9:123410.0.0.1:80", 0));
        assert_eq!(made.hash, Some(xx64(value.as_bytes(), 0)));
        let text = format!("s=\"{value}\"; Max-Age=60; Path=/p; Secure; SameSite=Lax; HttpOnly");
        assert_eq!(made.cookies, [text.as_str()]);
        let session = of(&[policy(cookie(Some(0)))], "/", &[]);
        assert!(!session.cookies[0].to_str().unwrap().contains("Max-Age"));
        let back = of(
            &[policy(cookie(Some(60)))],
            "/",
            &[("cookie", &format!("s={value}"))],
        );
        assert_eq!(
            (back.hash, back.cookies.len()),
            (made.hash, 0),
            "the client comes back to its endpoint"
        );
    }
}
