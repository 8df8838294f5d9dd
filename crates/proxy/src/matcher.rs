//! String, header, query and address matchers with Envoy's semantics, compiled when configuration arrives.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

/// Compiled size of one regular expression: RE2's customary program bound, far above any path pattern.
const REGEX_BYTES: usize = 1 << 20;

/// How a string must look.
#[derive(Debug, Clone)]
pub enum StringMatch {
    /// Anything (`.*`).
    Any,
    /// The very string.
    Exact(String),
    /// Beginning, end, or part of it.
    Affix(Affix, String),
    /// As the others, ASCII case apart; the pattern is lower case.
    NoCase(Affix, String),
    /// A regular expression that matches from first to last character.
    Regex(Regex),
}

/// Where a pattern must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affix {
    /// It is all of the string.
    Whole,
    /// The string begins with it.
    Prefix,
    /// The string ends with it.
    Suffix,
    /// It occurs somewhere.
    Contains,
}

/// A header by name, HTTP/2's pseudo headers included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:path`, with the query.
    Path,
    /// `:authority`, also under the name `host`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// An ordinary header.
    Name(HeaderName),
}

/// What a header must be.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Which header.
    pub key: HeaderKey,
    /// The condition on its value.
    pub condition: HeaderCondition,
    /// The outcome is inverted.
    pub invert: bool,
    /// An absent header counts as empty.
    pub missing_is_empty: bool,
}

/// The condition on a header's value.
#[derive(Debug, Clone)]
pub enum HeaderCondition {
    /// Present, or absent.
    Present(bool),
    /// The value, several joined by commas.
    Value(StringMatch),
    /// An integer in `[start, end)`.
    Range(i64, i64),
}

/// What a query parameter must be.
#[derive(Debug, Clone)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: String,
    /// Its condition; `Err` holds "present or absent".
    pub condition: Result<StringMatch, bool>,
}

/// A request as matchers see it.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path_and_query: &'a str,
    /// The authority, as given.
    pub authority: &'a str,
    /// The scheme.
    pub scheme: &'a str,
    /// The other headers.
    pub headers: &'a HeaderMap,
}

// === impl StringMatch ===

impl StringMatch {
    /// A regular expression in RE2's syntax that must match all of the string.
    pub fn regex(pattern: &str) -> Result<StringMatch, String> {
        if pattern == ".*" {
            return Ok(StringMatch::Any);
        }
        // Compiled by itself first: `a)|(b` must not become valid by the wrapping below.
        compile(pattern)?;
        compile(&format!("\\A(?:{pattern})\\z")).map(StringMatch::Regex)
    }

    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            StringMatch::Any => true,
            StringMatch::Exact(pattern) => pattern == value,
            StringMatch::Affix(affix, pattern) => affix.matches(value, pattern),
            StringMatch::NoCase(affix, pattern) => {
                affix.matches(&value.to_ascii_lowercase(), pattern)
            }
            StringMatch::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Affix {
    fn matches(self, value: &str, pattern: &str) -> bool {
        match self {
            Affix::Whole => value == pattern,
            Affix::Prefix => value.starts_with(pattern),
            Affix::Suffix => value.ends_with(pattern),
            Affix::Contains => value.contains(pattern),
        }
    }
}

/// A regular expression in RE2's syntax, bounded in size.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES)
        .dfa_size_limit(REGEX_BYTES)
        .build()
        .map_err(|error| format!("the regular expression {pattern:?} is not valid: {error}"))
}

// === impl HeaderMatch ===

impl HeaderKey {
    /// The key a header name of the configuration stands for.
    pub fn parse(name: &str) -> Option<HeaderKey> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => HeaderKey::Method,
            ":path" => HeaderKey::Path,
            ":authority" | "host" => HeaderKey::Authority,
            ":scheme" => HeaderKey::Scheme,
            other => HeaderKey::Name(HeaderName::from_bytes(other.as_bytes()).ok()?),
        })
    }

    /// The request's value under this key; several are joined, so that no second value hides.
    pub fn value<'a>(&self, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
        match self {
            HeaderKey::Method => Some(request.method.into()),
            HeaderKey::Path => Some(request.path_and_query.into()),
            HeaderKey::Authority => Some(request.authority.into()),
            HeaderKey::Scheme => Some(request.scheme.into()),
            HeaderKey::Name(name) => joined(request.headers, name),
        }
    }
}

/// All values of a header, joined by commas as RFC 9110 §5.3 allows.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    Some(values.fold(first, |all, value| format!("{all},{value}").into()))
}

impl HeaderMatch {
    /// Whether the request satisfies the condition. Of a header that came several times each value is looked at, and
    /// all of them joined: neither a second value nor a comma hides one.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let value = self.key.value(request);
        if let HeaderCondition::Present(present) = &self.condition {
            let is_present = value.is_some() || self.missing_is_empty;
            return (is_present == *present) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => Cow::Borrowed(""),
            // As Envoy: a condition on the value of an absent header fails, inverted or not.
            None => return false,
        };
        (self.condition.holds(&value) || self.any_value(request)) != self.invert
    }

    /// Whether one of several values satisfies the condition by itself.
    fn any_value(&self, request: &RequestView<'_>) -> bool {
        let HeaderKey::Name(name) = &self.key else {
            return false;
        };
        let values = request.headers.get_all(name);
        let holds = |value: &HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes());
            self.condition.holds(&text)
        };
        values.iter().nth(1).is_some() && values.iter().any(holds)
    }
}

impl HeaderCondition {
    fn holds(&self, value: &str) -> bool {
        match self {
            HeaderCondition::Present(present) => *present,
            HeaderCondition::Value(matcher) => matcher.matches(value),
            HeaderCondition::Range(start, end) => value
                .parse::<i64>()
                .is_ok_and(|number| (*start..*end).contains(&number)),
        }
    }
}

// === impl QueryMatch ===

impl QueryMatch {
    /// Whether the query string satisfies the condition. Values are compared as they stand, undecoded.
    pub fn matches(&self, query: &str) -> bool {
        let found = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| *name == self.name);
        match (&self.condition, found) {
            (Ok(matcher), Some((_, value))) => matcher.matches(value),
            (Ok(_), None) => false,
            (Err(present), found) => found.is_some() == *present,
        }
    }
}

/// Whether any of the ranges holds the address.
pub fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_expression_matches_from_first_to_last_character() {
        let cases = [
            ("/get", "/get", true),
            ("/get", "/get/x", false),
            ("/get", "/x/get", false),
            ("/a|/b", "/a", true),
            ("/a|/b", "/ab", false),
            (".*", "", true),
            ("/books/[0-9]+", "/books/42", true),
            ("", "", true),
            ("", "/", false),
        ];
        for (pattern, value, expected) in cases {
            assert_eq!(
                StringMatch::regex(pattern).unwrap().matches(value),
                expected,
                "{pattern} {value}"
            );
        }
        assert!(StringMatch::regex("a)|(b").is_err());
        assert!(
            StringMatch::regex("(?:a{1000}){1000}").is_err(),
            "bounded in size"
        );
    }

    #[test]
    fn a_second_value_of_a_header_does_not_hide() {
        let mut headers = HeaderMap::new();
        headers.append("x-role", "user".parse().unwrap());
        headers.append("x-role", "admin".parse().unwrap());
        let request = RequestView {
            method: "GET",
            path_and_query: "/",
            authority: "h",
            scheme: "http",
            headers: &headers,
        };
        let exact = |value: &str, invert| HeaderMatch {
            key: HeaderKey::parse("X-Role").unwrap(),
            condition: HeaderCondition::Value(StringMatch::Exact(value.into())),
            invert,
            missing_is_empty: false,
        };
        assert!(exact("user,admin", false).matches(&request));
        for one in ["user", "admin"] {
            assert!(exact(one, false).matches(&request));
            assert!(!exact(one, true).matches(&request));
        }
        assert!(!exact("nobody", false).matches(&request));
        assert!(exact("nobody", true).matches(&request));
    }

    #[test]
    fn conditions_on_an_absent_header() {
        let headers = HeaderMap::new();
        let request = RequestView {
            method: "GET",
            path_and_query: "/",
            authority: "h",
            scheme: "http",
            headers: &headers,
        };
        let cases = [
            (HeaderCondition::Present(true), false, false, false),
            (HeaderCondition::Present(true), true, false, true),
            (HeaderCondition::Present(false), false, false, true),
            (
                HeaderCondition::Value(StringMatch::Any),
                false,
                false,
                false,
            ),
            (
                HeaderCondition::Value(StringMatch::Exact("a".into())),
                true,
                false,
                false,
            ),
            (
                HeaderCondition::Value(StringMatch::Exact("a".into())),
                true,
                true,
                true,
            ),
            (HeaderCondition::Range(0, 5), true, true, true),
        ];
        for (condition, invert, missing_is_empty, expected) in cases {
            let key = HeaderKey::parse("absent").unwrap();
            let matcher = HeaderMatch {
                key,
                condition,
                invert,
                missing_is_empty,
            };
            assert_eq!(matcher.matches(&request), expected, "{matcher:?}");
        }
    }

    #[test]
    fn query_parameters() {
        let is = |value: &str| QueryMatch {
            name: "a".into(),
            condition: Ok(StringMatch::Exact(value.into())),
        };
        assert!(is("1").matches("b=2&a=1"));
        assert!(is("").matches("a"));
        assert!(!is("1").matches("aa=1"));
        assert!(
            QueryMatch {
                name: "a".into(),
                condition: Err(false)
            }
            .matches("")
        );
    }
}
