//! Header mutation: changes to headers and query parameters in the order they are configured.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};

use super::headers::{apply, computed};
use super::overrides::{Override, Routing};
use super::{FilterContext, ResponseContext, State};
use crate::format::{Facts, Missing, Number, Template};
use crate::http::headers::Target;
use crate::matcher::{RequestView, StringMatch};
use crate::route::{AddMode, HeaderAdd, split};

/// The filter.
#[derive(Debug)]
pub struct HeaderMutation {
    /// For all requests.
    pub mutations: Mutations,
    /// Routes' mutations come from the least specific level to the most specific, not the other way round.
    pub most_specific_wins: bool,
}

/// Changes of one level.
#[derive(Debug, Default)]
pub struct Mutations {
    /// To requests' headers.
    pub request: Vec<Mutation>,
    /// To requests' query parameters, after that.
    pub query: Vec<QueryMutation>,
    /// To responses' headers.
    pub response: Vec<Mutation>,
}

/// A change to headers.
#[derive(Debug)]
pub enum Mutation {
    /// A header goes.
    Remove(HeaderName),
    /// All whose names match go.
    RemoveOnMatch(StringMatch),
    /// A header comes.
    Add(HeaderAdd),
}

/// A change to query parameters.
#[derive(Debug)]
pub enum QueryMutation {
    /// A parameter goes.
    Remove(String),
    /// A parameter comes.
    Add(AddMode, String, Template),
}

/// A request's head as values of its response may ask for it.
#[derive(Debug)]
pub struct Head {
    method: Method,
    target: Target,
    headers: HeaderMap,
}

// === impl HeaderMutation ===

impl HeaderMutation {
    /// The filter's own changes, then those of the levels.
    fn levels<'a>(
        &'a self,
        name: &str,
        routing: &Routing<'a>,
    ) -> impl Iterator<Item = &'a Mutations> + use<'a> {
        let mut of_routes: Vec<&'a Mutations> = routing
            .all(name)
            .filter_map(|level| match level {
                Override::HeaderMutation(mutations) => Some(mutations),
                _ => None,
            })
            .collect();
        if self.most_specific_wins {
            of_routes.reverse();
        }
        std::iter::once(&self.mutations).chain(of_routes)
    }
}

/// Changes a request.
pub(super) fn request(
    name: &str,
    filter: &HeaderMutation,
    context: &mut FilterContext<'_, '_>,
) -> Option<State> {
    let routing = context.routing;
    let mut needs_head = false;
    for mutations in filter.levels(name, &routing) {
        for mutation in &mutations.request {
            let added = match mutation {
                Mutation::Add(add) => computed(std::slice::from_ref(add), context),
                _ => Vec::new(),
            };
            mutation.apply(&mut context.parts.headers, added);
        }
        if !mutations.query.is_empty() {
            let changed = query(context, &mutations.query);
            context.target.path_and_query = changed;
        }
        needs_head |= !mutations.response.is_empty();
    }
    needs_head.then(|| {
        State::Head(Box::new(Head {
            method: context.parts.method.clone(),
            target: context.target.clone(),
            headers: context.parts.headers.clone(),
        }))
    })
}

/// Changes a response, also one whose request did not come so far.
pub(super) fn response(name: &str, filter: &HeaderMutation, context: &mut ResponseContext<'_, '_>) {
    let head = match context.state.take() {
        Some(State::Head(head)) => Some(head),
        _ => None,
    };
    for mutations in filter.levels(name, context.routing) {
        for mutation in &mutations.response {
            let added = match mutation {
                Mutation::Add(add) => {
                    let facts = Answer {
                        head: head.as_deref(),
                        status: *context.status,
                        headers: context.headers,
                    };
                    computed(std::slice::from_ref(add), &facts)
                }
                _ => Vec::new(),
            };
            mutation.apply(context.headers, added);
        }
    }
}

impl Mutation {
    fn apply(&self, headers: &mut HeaderMap, added: super::headers::Additions) {
        match self {
            Mutation::Remove(name) => {
                headers.remove(name);
            }
            Mutation::RemoveOnMatch(matcher) => {
                let matched: Vec<HeaderName> = headers
                    .keys()
                    .filter(|name| matcher.matches(name.as_str()))
                    .cloned()
                    .collect();
                for name in matched {
                    headers.remove(name);
                }
            }
            Mutation::Add(_) => apply(added, headers),
        }
    }
}

/// A response and what is known of its request.
struct Answer<'a> {
    head: Option<&'a Head>,
    status: StatusCode,
    headers: &'a HeaderMap,
}

impl Facts for Answer<'_> {
    fn request(&self) -> Option<RequestView<'_>> {
        let head = self.head?;
        Some(head.target.view(&head.method, &head.headers))
    }

    fn response(&self) -> Option<&HeaderMap> {
        Some(self.headers)
    }

    fn number(&self, number: Number) -> Option<i64> {
        match number {
            Number::ResponseCode => Some(self.status.as_u16().into()),
            _ => None,
        }
    }
}

/// The path with its query changed. As Envoy, the parameters come out in the order of their names.
fn query(context: &FilterContext<'_, '_>, mutations: &[QueryMutation]) -> String {
    let (path, query) = split(&context.target.path_and_query);
    let mut pairs = parameters(query);
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(name) => pairs.retain(|(of, _)| of != name),
            QueryMutation::Add(mode, name, template) => {
                let value = template.format(context, Missing::Empty);
                set(&mut pairs, *mode, name, encoded(&value));
            }
        }
    }
    joined(path, pairs)
}

/// The parameters of a query string, with their names decoded and their values as they stand.
pub(super) fn parameters(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Sets a parameter.
pub(super) fn set(
    pairs: &mut Vec<(String, String)>,
    mode: AddMode,
    name: &str,
    value: Cow<'_, str>,
) {
    let present = pairs.iter().any(|(of, _)| of == name);
    match mode {
        AddMode::IfAbsent if present => return,
        AddMode::OverwriteIfPresent if !present => return,
        AddMode::Overwrite | AddMode::OverwriteIfPresent => pairs.retain(|(of, _)| of != name),
        AddMode::Append | AddMode::IfAbsent => {}
    }
    pairs.push((name.to_owned(), value.into_owned()));
}

/// Path and parameters as one string, the parameters in the order of their names.
pub(super) fn joined(path: &str, mut pairs: Vec<(String, String)>) -> String {
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut whole = path.to_owned();
    for (index, (name, value)) in pairs.iter().enumerate() {
        whole.push(if index == 0 { '?' } else { '&' });
        whole.push_str(name);
        whole.push('=');
        whole.push_str(value);
    }
    whole
}

/// Percent-encodes what may not stand in a query parameter: RFC 3986 §2.3.
pub(super) fn encoded(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_by_mode_and_sorted() {
        let cases = [
            (AddMode::Append, "a", "/p?a=0&a=9&c=1&d="),
            (AddMode::Append, "b", "/p?a=0&b=9&c=1&d="),
            (AddMode::IfAbsent, "a", "/p?a=0&c=1&d="),
            (AddMode::Overwrite, "a", "/p?a=9&c=1&d="),
            (AddMode::OverwriteIfPresent, "b", "/p?a=0&c=1&d="),
            (AddMode::OverwriteIfPresent, "d", "/p?a=0&c=1&d=9"),
        ];
        for (mode, name, expected) in cases {
            let mut pairs = parameters("c=1&a=0&&d");
            set(&mut pairs, mode, name, "9".into());
            assert_eq!(joined("/p", pairs), expected, "{mode:?} {name}");
        }
        assert_eq!(joined("/p", parameters("")), "/p");
        assert_eq!(encoded("a b/ü"), "a%20b%2F%C3%BC");
    }
}
