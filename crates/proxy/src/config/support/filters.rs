//! HTTP filters, and what routes say about them.

use super::http::{HTTP_RBAC, HTTP_RBAC_PER_ROUTE, ROUTER};
use super::{Message, message};

/// What `HttpFilter.typed_config` may be. Other filters (Lua, Wasm, …) are refused by name.
pub(super) static FILTERS: &[&Message] = &[&HTTP_RBAC, &ROUTER];

/// What a value of `typed_per_filter_config` may be.
pub(super) static OVERRIDES: &[&Message] = &[&FILTER_CONFIG, &HTTP_RBAC_PER_ROUTE];

message!(HTTP_FILTER, "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", {
    1 name: take,
    4 typed_config: filter,
    5 config_discovery: refuse,
    6 is_optional: ignore "an unknown filter is refused in any case",
    7 disabled: take,
});

message!(FILTER_CONFIG, "envoy.config.route.v3.FilterConfig", {
    1 config: override,
    2 is_optional: ignore "an unknown filter is refused in any case",
    3 disabled: take,
});
