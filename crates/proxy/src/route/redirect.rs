//! Redirects.

use http::HeaderValue;

use super::hosts::port_of;
use super::{PathMatch, Substitution, X_FORWARDED_PROTO, split};
use crate::format::{Facts, Missing, Template};
use crate::matcher::RequestView;

/// A redirect.
#[derive(Debug)]
pub struct Redirect {
    /// Scheme, if it changes.
    pub scheme: Option<String>,
    /// Host, if it changes.
    pub host: Option<String>,
    /// Port, if it changes.
    pub port: Option<u16>,
    /// What becomes of the path.
    pub path: PathRedirect,
    /// Status.
    pub status: u16,
    /// Without the query.
    pub strip_query: bool,
}

/// What becomes of a path in a redirect.
#[derive(Debug)]
pub enum PathRedirect {
    /// It stays.
    Keep,
    /// Another path; its query, if it has one, is in the place of the request's.
    Path(String),
    /// Another prefix in the place of the one that matched.
    Prefix(String),
    /// What a regular expression matches is replaced.
    Regex(Substitution),
    /// Another path, made of whatever it names.
    Template(Template),
}

impl Redirect {
    /// One that changes nothing: where an answer's own `location` leads.
    pub fn to_itself() -> Redirect {
        Redirect {
            scheme: None,
            ..Redirect::to_https()
        }
    }

    /// A redirect to HTTPS that changes nothing else.
    pub fn to_https() -> Redirect {
        Redirect {
            scheme: Some("https".to_owned()),
            host: None,
            port: None,
            path: PathRedirect::Keep,
            status: 301,
            strip_query: false,
        }
    }

    /// Where the client is sent.
    pub fn location(
        &self,
        matched: &PathMatch,
        request: &RequestView<'_>,
        facts: &dyn Facts,
    ) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = match &self.host {
            Some(host) => host.as_str(),
            None => self.kept_host(request, scheme),
        };
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        format!(
            "{scheme}://{host}{port}{}",
            self.path_and_query(matched, request, facts)
        )
    }

    /// Path and query with what the redirect rewrites of them, if it does: as Envoy, what is said of the request from
    /// then on says the new ones.
    pub fn rewritten(&self, matched: &PathMatch, request: &RequestView<'_>) -> Option<String> {
        let (path, _) = split(request.path_and_query);
        let query = request.path_and_query.get(path.len()..)?;
        let path = self
            .rewrite(matched, path)
            .filter(|path| !path.is_empty())?;
        Some(format!("{path}{query}"))
    }

    fn rewrite(&self, matched: &PathMatch, path: &str) -> Option<String> {
        match &self.path {
            PathRedirect::Prefix(prefix) => {
                let rest = path.get(matched.matched_length(path)..).unwrap_or_default();
                Some(format!("{prefix}{rest}"))
            }
            PathRedirect::Regex(substitution) => Some(substitution.apply(path)),
            PathRedirect::Keep | PathRedirect::Path(_) | PathRedirect::Template(_) => None,
        }
    }

    /// The request's host; its port goes with the scheme it was the default of, or with a new port.
    fn kept_host<'a>(&self, request: &RequestView<'a>, scheme: &str) -> &'a str {
        let Some((host, port)) = port_of(request.authority) else {
            return request.authority;
        };
        // As Envoy: by the scheme of the client's connection to the first proxy, not by what the request says.
        let forwarded = request.headers.get(X_FORWARDED_PROTO);
        let was = forwarded.map_or(request.scheme.as_bytes(), HeaderValue::as_bytes);
        let was_default =
            scheme.as_bytes() != was && matches!((was, port), (b"http", "80") | (b"https", "443"));
        if self.port.is_some() || was_default {
            host
        } else {
            request.authority
        }
    }

    fn path_and_query(
        &self,
        matched: &PathMatch,
        request: &RequestView<'_>,
        facts: &dyn Facts,
    ) -> String {
        let (path, query) = split(request.path_and_query);
        let new = match &self.path {
            PathRedirect::Keep => path.to_owned(),
            PathRedirect::Path(path) => path.clone(),
            PathRedirect::Prefix(_) | PathRedirect::Regex(_) => {
                self.rewrite(matched, path).unwrap_or_default()
            }
            PathRedirect::Template(template) => template.format(facts, Missing::Empty),
        };
        // As Envoy: a path that would vanish stays.
        let new = match new.as_str() {
            "" => path.to_owned(),
            // What does not begin with a slash would be read as part of the host.
            other if !other.starts_with(['/', '?']) => format!("/{new}"),
            _ => new,
        };
        let has_own = matches!(self.path, PathRedirect::Path(_)) && new.contains('?');
        if query.is_empty() || self.strip_query || has_own {
            new
        } else {
            format!("{new}?{query}")
        }
    }
}
