//! External authorization from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpUri, http_uri};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use http::StatusCode;

use super::common::{
    call_timeout, grpc_service, header, runtime_flag, runtime_fraction, status, strings, version,
};
use crate::config::{At, Checked, each, refuse};
use crate::fraction::Fraction;
use crate::http::filters::counters::Counters;
use crate::http::filters::ext_authz::{
    self, AuthzService, BodySettings, ExtAuthz, ExtAuthzRoute, HttpAuthz, PathChange, Shown,
};
use crate::http::filters::overrides::{Override, Setting};
use crate::matcher::StringMatch;
use crate::stats::Family;

/// Envoy's default of a call to an authorization service.
pub(super) const TIMEOUT: Duration = Duration::from_millis(200);
/// More of a body is not held for an authorization service, whatever it asks for.
const BODY: u32 = 64 << 20;

pub(super) fn ext_authz(message: &pb::ExtAuthz, of_manager: &str) -> Checked<ExtAuthz> {
    use pb::ext_authz::Services;
    let mut allowed = list("allowed_headers", message.allowed_headers.as_ref())?;
    let service = match &message.services {
        Some(Services::GrpcService(service)) => {
            version(message.transport_api_version)?;
            let service = grpc_service(Some(service), Some(TIMEOUT)).at("grpc_service")?;
            AuthzService::Grpc(service)
        }
        Some(Services::HttpService(service)) => {
            // The deprecated list of the service counts where the filter has none.
            if allowed.is_none() {
                allowed = old_list(service)?;
            }
            AuthzService::Http(Box::new(http_service(service).at("http_service")?))
        }
        None => return refuse("grpc_service or http_service is needed"),
    };
    let stat_prefix = match message.stat_prefix.as_str() {
        "" => "ext_authz".to_owned(),
        prefix => format!("ext_authz.{prefix}"),
    };
    let disallowed = list("disallowed_headers", message.disallowed_headers.as_ref())?;
    let body = message.with_request_body.as_ref().map(body).transpose();
    let limit = usize::try_from(message.max_denied_response_body_bytes).unwrap_or(usize::MAX);
    Ok(ExtAuthz {
        service,
        failure_allowed: message.failure_mode_allow,
        failure_header: message.failure_mode_allow_header_add,
        body: body.at("with_request_body")?,
        clear_route: message.clear_route_cache,
        status_on_error: status(message.status_on_error.as_ref(), StatusCode::FORBIDDEN, 200),
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::ALL)
            .at("filter_enabled")?,
        deny_others: runtime_flag(message.deny_at_disable.as_ref(), false),
        shown: Shown {
            allowed,
            disallowed: disallowed.unwrap_or_default(),
            raw_headers: message.encode_raw_headers,
            tls_session: message.include_tls_session,
            certificate: message.include_peer_certificate,
        },
        validate: message.validate_mutations,
        denial_limit: Some(limit).filter(|limit| *limit > 0),
        counters: Counters::new(
            Family::http_filter(of_manager, &stat_prefix),
            ext_authz::NAMES,
        ),
        stat_prefix,
    })
}

/// What a route says: off, or on with other settings.
pub(super) fn route(message: &pb::ExtAuthzPerRoute) -> Checked<Setting> {
    use pb::check_settings::ServiceOverride;
    use pb::ext_authz_per_route::Override as Given;
    let settings = match &message.r#override {
        Some(Given::Disabled(true)) => return Ok(Setting::Off),
        Some(Given::Disabled(false)) => &pb::CheckSettings::default(),
        Some(Given::CheckSettings(settings)) => settings,
        None => return refuse("disabled or check_settings is needed"),
    };
    let path = |field: &str| format!("check_settings.{field}");
    if settings.disable_request_body_buffering && settings.with_request_body.is_some() {
        return refuse("with_request_body and disable_request_body_buffering exclude each other")
            .at("check_settings");
    }
    let service = match &settings.service_override {
        Some(ServiceOverride::GrpcService(service)) => {
            let service = grpc_service(Some(service), Some(TIMEOUT));
            Some(AuthzService::Grpc(service.at(path("grpc_service"))?))
        }
        Some(ServiceOverride::HttpService(service)) => {
            let service = http_service(service).at(path("http_service"))?;
            Some(AuthzService::Http(Box::new(service)))
        }
        None => None,
    };
    let extensions = settings.context_extensions.iter();
    let body = settings.with_request_body.as_ref().map(body).transpose();
    Ok(Setting::On(Box::new(Override::ExtAuthz(ExtAuthzRoute {
        context: extensions
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        without_body: settings.disable_request_body_buffering,
        body: body.at(path("with_request_body"))?,
        service,
    }))))
}

fn list(
    field: &str,
    message: Option<&envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher>,
) -> Checked<Option<Vec<StringMatch>>> {
    message.map(|message| strings(field, message)).transpose()
}

#[allow(deprecated)] // Control planes still send it.
fn old_list(service: &pb::HttpService) -> Checked<Option<Vec<StringMatch>>> {
    let request = service.authorization_request.as_ref();
    let allowed = request.and_then(|request| request.allowed_headers.as_ref());
    list(
        "http_service.authorization_request.allowed_headers",
        allowed,
    )
}

fn body(message: &pb::BufferSettings) -> Checked<BodySettings> {
    if message.max_request_bytes == 0 || message.max_request_bytes > BODY {
        return refuse(format!("not from 1 to {BODY}")).at("max_request_bytes");
    }
    Ok(BodySettings {
        most: usize::try_from(message.max_request_bytes).unwrap_or(usize::MAX),
        partial: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    })
}

fn http_service(message: &pb::HttpService) -> Checked<HttpAuthz> {
    let (cluster, timeout) = server(message.server_uri.as_ref(), TIMEOUT).at("server_uri")?;
    let path = match (message.path_prefix.as_str(), message.path_override.as_str()) {
        (prefix, "") if prefix.is_empty() || prefix.starts_with('/') => {
            PathChange::Prefix(prefix.to_owned())
        }
        (_, "") => return refuse("a prefix begins with a slash").at("path_prefix"),
        ("", whole) if whole.starts_with('/') => PathChange::Whole(whole.to_owned()),
        ("", _) => return refuse("a path begins with a slash").at("path_override"),
        _ => return refuse("path_prefix and path_override exclude each other"),
    };
    let request = message.authorization_request.as_ref();
    let added = request.map_or(&[][..], |request| &request.headers_to_add);
    let response = message.authorization_response.clone().unwrap_or_default();
    let of = |field: &str, given| {
        let path = format!("authorization_response.{field}");
        list(&path, given)
    };
    let upstream = of(
        "allowed_upstream_headers",
        response.allowed_upstream_headers.as_ref(),
    )?;
    let beside = of(
        "allowed_upstream_headers_to_append",
        response.allowed_upstream_headers_to_append.as_ref(),
    )?;
    let success = of(
        "allowed_client_headers_on_success",
        response.allowed_client_headers_on_success.as_ref(),
    )?;
    Ok(HttpAuthz {
        cluster,
        timeout,
        path,
        headers: each("authorization_request.headers_to_add", added, header)?,
        to_upstream: upstream.unwrap_or_default(),
        to_upstream_beside: beside.unwrap_or_default(),
        to_client: of(
            "allowed_client_headers",
            response.allowed_client_headers.as_ref(),
        )?,
        to_client_on_success: success.unwrap_or_default(),
    })
}

/// A server behind a cluster, and how long it may take: as it says, or else `default`.
pub(in crate::config) fn server(
    message: Option<&HttpUri>,
    default: Duration,
) -> Checked<(std::sync::Arc<str>, Option<Duration>)> {
    let Some(message) = message else {
        return refuse("a server is needed");
    };
    let cluster = match &message.http_upstream_type {
        Some(http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name.as_str().into(),
        _ => return refuse("a cluster is needed").at("cluster"),
    };
    Ok((cluster, call_timeout(message.timeout.as_ref(), default)?))
}
