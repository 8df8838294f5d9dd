//! HTTP filters: what a request passes in order before the router, and its response in reverse order.
//!
//! A filter is a value of [`HttpFilter`], made when configuration arrives. A request runs through [`request`]: each
//! filter may change the request's head, wait for somebody else's answer, leave state in the [`Passage`] for the
//! response, or answer itself with a [`LocalReply`]. Every response, local or not, then runs through [`response`].
//! Routes override filters by their *name*: [`overrides`]. Filters of others plug in by [`extension`].

pub mod extension;
pub mod overrides;
pub mod rbac;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use self::extension::Extension;
use self::overrides::Routing;
use super::headers::Target;
use super::reply::LocalReply;
use crate::access::Line;
use crate::connection::Connection;
use crate::matcher::RequestView;
use crate::rbac::Rules;
use crate::reason::Reason;

/// A filter in its place.
#[derive(Debug)]
pub struct Filter {
    /// The name routes override it by.
    pub name: Arc<str>,
    /// Off, unless a route turns it on.
    pub disabled: bool,
    /// What it is.
    pub kind: HttpFilter,
}

/// What a filter is.
#[derive(Debug)]
pub enum HttpFilter {
    /// RBAC over requests.
    Rbac(Rules),
    /// Somebody else's.
    Extension(Arc<dyn Extension>),
}

/// A request on its way through the filters.
pub struct FilterContext<'a, 'r> {
    /// The connection it came on.
    pub connection: &'a Arc<Connection>,
    /// Its head, without `host` and what belongs to the hop.
    pub parts: &'a mut Parts,
    /// Authority and path, which filters may change.
    pub target: &'a mut Target,
    /// Its log line.
    pub line: &'a mut Line,
    /// Its route, as far as there is one.
    pub routing: Routing<'r>,
    /// Its body, not read yet.
    pub body: &'a mut dyn Buffer,
    /// It is gRPC by its content type.
    pub is_grpc: bool,
}

/// A response on its way back through the filters.
pub struct ResponseContext<'a, 'r> {
    /// Its status.
    pub status: &'a mut StatusCode,
    /// Its headers.
    pub headers: &'a mut HeaderMap,
    /// The request's route.
    pub routing: &'a Routing<'r>,
    /// The filter's own state, if its request left any.
    pub state: Option<State>,
}

/// What filters leave for the response to their request.
#[derive(Debug, Default)]
pub struct Passage(Vec<(usize, State)>);

/// What one filter leaves.
#[derive(Debug)]
pub enum State {
    /// Of an extension.
    Extension(extension::State),
}

/// Why a request goes no further: the reply to it. Boxed, because it is rare and large.
pub type Verdict = Result<Option<State>, Box<LocalReply>>;

/// A request's body for filters that must see it. What they saw is sent to the upstream all the same.
pub trait Buffer: Send {
    /// There is none, or all of it was read.
    fn is_end(&self) -> bool;

    /// Reads until `limit` bytes are held or the body ends.
    fn buffer<'a>(
        &'a mut self,
        limit: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Buffered, Reason>> + Send + 'a>>;
}

/// The beginning of a body.
#[derive(Debug, Clone, Default)]
pub struct Buffered {
    /// Its bytes; may be more than asked for, by what came in one piece.
    pub bytes: Bytes,
    /// That is all of it.
    pub whole: bool,
}

// === impl FilterContext ===

impl FilterContext<'_, '_> {
    /// The request as matchers see it.
    pub fn view(&self) -> RequestView<'_> {
        self.target.view(&self.parts.method, &self.parts.headers)
    }
}

/// Runs the request through the filters, in order.
pub async fn request(
    filters: &[Filter],
    context: &mut FilterContext<'_, '_>,
    passage: &mut Passage,
) -> Result<(), Box<LocalReply>> {
    for (index, filter) in filters.iter().enumerate() {
        if context.routing.is_off(filter) {
            continue;
        }
        let state = match &filter.kind {
            HttpFilter::Rbac(rules) => rbac::request(&filter.name, rules, context)?,
            HttpFilter::Extension(extension) => {
                extension::request(extension.as_ref(), &filter.name, context).await?
            }
        };
        if let Some(state) = state {
            passage.0.push((index, state));
        }
    }
    Ok(())
}

/// Runs the response through the filters, in reverse order; also those its request did not come to.
pub fn response(
    filters: &[Filter],
    passage: &mut Passage,
    routing: &Routing<'_>,
    (status, headers): (&mut StatusCode, &mut HeaderMap),
) {
    for (index, filter) in filters.iter().enumerate().rev() {
        if routing.is_off(filter) {
            continue;
        }
        let mut context = ResponseContext {
            status,
            headers,
            routing,
            state: passage.take(index),
        };
        match &filter.kind {
            HttpFilter::Rbac(_) => {}
            HttpFilter::Extension(extension) => {
                extension::response(extension.as_ref(), &filter.name, &mut context);
            }
        }
    }
}

impl Passage {
    fn take(&mut self, index: usize) -> Option<State> {
        let at = self.0.iter().position(|(of, _)| *of == index)?;
        Some(self.0.swap_remove(at).1)
    }
}
