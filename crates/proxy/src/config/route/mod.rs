//! Route configurations from protobuf.

mod action;
mod condition;
mod edits;
mod redirect;
mod retry;
mod rewrite;

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, Metadata, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::google::protobuf::value::Kind;

use super::filters::{old_cors_policy, overrides, policies};
use super::matching::header_name;
use super::tracing::of_route;
use super::{At, Checked, each, refuse};
use crate::http::filters::overrides::Overrides;
use crate::http::retry::RetryPolicy;
use crate::route::{
    Action, Edits, PathMatch, Redirect, RequireTls, Route, RouteMatch, RouteTable, Routes,
    VirtualHost,
};
use action::forward;
use condition::route_match;
use edits::edits;
use redirect::{redirect, respond};

pub(super) fn table(message: &pb::RouteConfiguration) -> Checked<RouteTable> {
    let body = message
        .max_direct_response_body_size_bytes
        .as_ref()
        .map(|bytes| bytes.value);
    let hosts = each("virtual_hosts", &message.virtual_hosts, |message| {
        host(message, body)
    })?;
    let mut table = RouteTable::new(message.name.as_str().into(), hosts).or_else(|domain| {
        refuse(format!("two virtual hosts claim the domain {domain:?}")).at("virtual_hosts")
    })?;
    table.ignore_port = message.ignore_port_in_host_matching;
    table.ignore_path_parameters = message.ignore_path_parameters_in_path_matching;
    table.most_specific_wins = message.most_specific_header_mutations_wins;
    table.overrides = overrides(&message.typed_per_filter_config)?;
    table.edits = edits(
        (
            &message.request_headers_to_remove,
            &message.request_headers_to_add,
        ),
        (
            &message.response_headers_to_remove,
            &message.response_headers_to_add,
        ),
    )?;
    table.tells_reasons = message.metadata.as_ref().is_some_and(tells_reasons);
    let internal = &message.internal_only_headers;
    table.internal_headers = each("internal_only_headers", internal, |n| header_name(n))?;
    Ok(table)
}

/// `filter_metadata["osm"].reason_header`, which an Envoy passes over.
fn tells_reasons(message: &Metadata) -> bool {
    let ours = message.filter_metadata.get("osm");
    let value = ours.and_then(|ours| ours.fields.get("reason_header"));
    value.is_some_and(|value| value.kind == Some(Kind::BoolValue(true)))
}

#[allow(deprecated)] // Control planes still send the old fields.
fn host(message: &pb::VirtualHost, body: Option<u32>) -> Checked<VirtualHost> {
    if message.domains.is_empty() {
        return refuse("at least one domain is needed").at("domains");
    }
    let domains = each("domains", &message.domains, |domain| {
        let inner = domain
            .strip_prefix('*')
            .or_else(|| domain.strip_suffix('*'))
            .unwrap_or(domain);
        if inner.contains('*') {
            return refuse(format!("{domain:?} has a star in its middle"));
        }
        Ok(domain.to_ascii_lowercase())
    })?;
    let retry = message.retry_policy.as_ref().map(retry::retry);
    let retry = retry.transpose().at("retry_policy")?;
    let routes = each("routes", &message.routes, |message| {
        route(message, body, retry.as_ref()).map(Arc::new)
    })?;
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains,
        routes: Routes::new(routes),
        edits: edits(
            (
                &message.request_headers_to_remove,
                &message.request_headers_to_add,
            ),
            (
                &message.response_headers_to_remove,
                &message.response_headers_to_add,
            ),
        )?,
        overrides: overrides(&message.typed_per_filter_config)?,
        https: require_tls(message)?,
        attempts_in_request: message.include_request_attempt_count,
        attempts_in_response: message.include_attempt_count_in_response,
        timeout_retries_told: message.include_is_timeout_retry_header,
        rate_limits: policies(&message.rate_limits)?,
        cors: message
            .cors
            .as_ref()
            .map(old_cors_policy)
            .transpose()
            .at("cors")?,
    })
}

fn require_tls(message: &pb::VirtualHost) -> Checked<Option<RequireTls>> {
    use pb::virtual_host::TlsRequirementType as Type;
    let external_only = match Type::try_from(message.require_tls) {
        Ok(Type::None) => return Ok(None),
        Ok(Type::ExternalOnly) => true,
        Ok(Type::All) => false,
        Err(_) => return refuse("an unknown value").at("require_tls"),
    };
    let redirect = Arc::new(Route {
        name: "require_tls".into(),
        condition: RouteMatch::path(PathMatch::Prefix(String::new())),
        action: Action::Redirect(Box::new(Redirect::to_https())),
        edits: Edits::default(),
        overrides: Overrides::default(),
        tracing: None,
    });
    Ok(Some(RequireTls {
        external_only,
        redirect,
    }))
}

fn route(
    message: &pb::Route,
    body: Option<u32>,
    retry: Option<&Arc<RetryPolicy>>,
) -> Checked<Route> {
    let Some(condition) = &message.r#match else {
        return refuse("a match is needed").at("match");
    };
    let action = match &message.action {
        Some(pb::route::Action::Route(action)) => {
            Action::Forward(Box::new(forward(action, retry).at("route")?))
        }
        Some(pb::route::Action::Redirect(action)) => {
            Action::Redirect(Box::new(redirect(action).at("redirect")?))
        }
        Some(pb::route::Action::DirectResponse(action)) => {
            respond(action, body).at("direct_response")?
        }
        _ => return refuse("route, redirect or direct_response is needed"),
    };
    Ok(Route {
        name: message.name.as_str().into(),
        condition: route_match(condition).at("match")?,
        action,
        edits: edits(
            (
                &message.request_headers_to_remove,
                &message.request_headers_to_add,
            ),
            (
                &message.response_headers_to_remove,
                &message.response_headers_to_add,
            ),
        )?,
        overrides: overrides(&message.typed_per_filter_config)?,
        tracing: of_route(message)?,
    })
}

/// The bytes of a source that is in the configuration itself; files of the pod are not read for a control plane.
pub(super) fn data(message: &DataSource) -> Checked<Vec<u8>> {
    match &message.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(data_source::Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        _ => refuse("inline_bytes or inline_string is needed"),
    }
}

#[cfg(test)]
mod tests;
