//! Route configurations from protobuf.

mod action;
mod condition;
mod edits;

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;

use super::filters::overrides;
use super::matching::header_name;
use super::{At, Checked, each, refuse};
use crate::route::{Action, Route, RouteTable, VirtualHost};
use action::{forward, redirect, respond};
use condition::route_match;
use edits::edits;

pub(super) fn table(message: &pb::RouteConfiguration) -> Checked<RouteTable> {
    let hosts = each("virtual_hosts", &message.virtual_hosts, host)?;
    let mut table = RouteTable::new(message.name.as_str().into(), hosts).or_else(|domain| {
        refuse(format!("two virtual hosts claim the domain {domain:?}")).at("virtual_hosts")
    })?;
    table.ignore_port = message.ignore_port_in_host_matching;
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
    // Internal headers never pass from outside, which is what removing them from requests does here.
    table.edits.request_remove.extend(each(
        "internal_only_headers",
        &message.internal_only_headers,
        |n| header_name(n),
    )?);
    Ok(table)
}

fn host(message: &pb::VirtualHost) -> Checked<VirtualHost> {
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
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains,
        routes: each("routes", &message.routes, |message| {
            route(message).map(Arc::new)
        })?,
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
    })
}

fn route(message: &pb::Route) -> Checked<Route> {
    let Some(condition) = &message.r#match else {
        return refuse("a match is needed").at("match");
    };
    let action = match &message.action {
        Some(pb::route::Action::Route(action)) => {
            Action::Forward(Box::new(forward(action).at("route")?))
        }
        Some(pb::route::Action::Redirect(action)) => {
            Action::Redirect(Box::new(redirect(action).at("redirect")?))
        }
        Some(pb::route::Action::DirectResponse(action)) => respond(action).at("direct_response")?,
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
