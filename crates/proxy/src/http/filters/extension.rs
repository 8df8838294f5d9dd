//! The seam for filters that are not part of the proxy.
//!
//! A program that embeds this crate calls [`register`] before the first configuration arrives. From then on an
//! `HttpFilter.typed_config` of the factory's message is accepted, and so is its message in a route's
//! `typed_per_filter_config`. The factory parses: a configuration it refuses is a NACK with the field's path.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::RwLock;

use super::overrides::Override;
use super::{FilterContext, ResponseContext, State as FilterState, Verdict};
use crate::http::reply::LocalReply;

/// What an extension leaves for the response to its request.
pub type State = Box<dyn Any + Send + Sync>;

/// What a route says to an extension: whatever its factory made of the message.
pub type RouteConfig = dyn Any + Send + Sync;

/// The answer of an extension: on, or this reply.
pub type Outcome = Result<Option<State>, Box<LocalReply>>;

/// A filter with its configuration. Shared by all workers, so its state is atomic or there is none.
pub trait Extension: Debug + Send + Sync {
    /// Sees a request. Every wait needs a deadline; dropped with the request when the client goes away.
    fn request<'a>(
        &'a self,
        context: &'a mut FilterContext<'_, '_>,
        route: Option<&'a RouteConfig>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

    /// Sees a response: its status, its headers, and what the request left.
    fn response(
        &self,
        context: &mut ResponseContext<'_, '_>,
        state: Option<State>,
        route: Option<&RouteConfig>,
    ) {
        let _ = (context, state, route);
    }
}

/// Makes filters of one kind from their protobuf messages.
pub trait Factory: Send + Sync {
    /// The full name of the filter's message, as it ends a type URL.
    fn message(&self) -> &'static str;

    /// The full name of the message routes override it with; the filter's own where there is no other.
    fn route_message(&self) -> &'static str {
        self.message()
    }

    /// A filter, or why the configuration is refused.
    fn filter(&self, config: &[u8]) -> Result<Arc<dyn Extension>, String>;

    /// A route's configuration, or why it is refused.
    fn route(&self, config: &[u8]) -> Result<Arc<RouteConfig>, String> {
        let _ = config;
        Err("this filter has no configuration per route".to_owned())
    }
}

static FACTORIES: RwLock<BTreeMap<&'static str, &'static dyn Factory>> =
    RwLock::new(BTreeMap::new());

/// Makes a kind of filter known.
pub fn register(factory: &'static dyn Factory) {
    FACTORIES.write().insert(factory.message(), factory);
}

/// The factory of a filter's message.
pub fn factory(message: &str) -> Option<&'static dyn Factory> {
    FACTORIES.read().get(message).copied()
}

/// The factory of a message routes override a filter with.
pub fn route_factory(message: &str) -> Option<&'static dyn Factory> {
    let factories = FACTORIES.read();
    let mut all = factories.values();
    all.find(|factory| factory.route_message() == message)
        .copied()
}

pub(super) async fn request(
    extension: &dyn Extension,
    name: &str,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let route = match context.routing.specific(name) {
        Some(Override::Extension(config)) => Some(&**config),
        _ => None,
    };
    let state = extension.request(context, route).await?;
    Ok(state.map(FilterState::Extension))
}

pub(super) fn response(
    extension: &dyn Extension,
    name: &str,
    context: &mut ResponseContext<'_, '_>,
) {
    let route = match context.routing.specific(name) {
        Some(Override::Extension(config)) => Some(&**config),
        _ => None,
    };
    let state = match context.state.take() {
        Some(FilterState::Extension(state)) => Some(state),
        _ => None,
    };
    extension.response(context, state, route);
}
