//! The HTTP connection manager from protobuf.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use http::HeaderValue;
use xds::client::Kind;

use super::{
    At, Checked, Context, access, edge, filters, flag, limit, refuse, reply, route, tracing,
};
use crate::listener::{Codec, H2, HttpManager, RouteSource, ServerHeader};
use crate::spans::Tracing;

/// Envoy's defaults, here and below.
const IDLE: Duration = Duration::from_secs(3600);
const STREAM_IDLE: Duration = Duration::from_secs(300);
const HEADER_KIB: u32 = 60;
const HEADERS: u32 = 100;
/// Envoy has none; a client that never finishes its headers holds a connection for ever.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger limits than these would let one client take the memory of the pod.
const HEADER_KIB_MOST: u32 = 8192;
const HEADERS_MOST: u32 = 10_000;

pub(super) fn manager(
    message: &pb::HttpConnectionManager,
    context: &mut Context,
) -> Checked<HttpManager> {
    use pb::http_connection_manager::{CodecType, RouteSpecifier};
    let codec = match CodecType::try_from(message.codec_type) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        _ => return refuse("HTTP/3 is not supported").at("codec_type"),
    };
    let routes = match &message.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            RouteSource::Named(context.needs(Kind::Routes, &rds.route_config_name))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            RouteSource::Inline(Arc::new(route::table(config).at("route_config")?))
        }
        _ => return refuse("rds or route_config is needed"),
    };
    let (filters, router) = filters::filters(&message.http_filters, &message.stat_prefix)?;
    let common = message.common_http_protocol_options.as_ref();
    let (server_name, server_header) = server_header(message)?;
    Ok(HttpManager {
        access_log: access::loggers(&message.access_log)?,
        stat_prefix: message.stat_prefix.as_str().into(),
        codec,
        routes,
        filters,
        server_name,
        server_header,
        max_header_bytes: bounded(
            message.max_request_headers_kb.as_ref().map(|v| v.value),
            HEADER_KIB,
            HEADER_KIB_MOST,
        )
        .at("max_request_headers_kb")?
        .saturating_mul(1024),
        max_headers: bounded(
            common
                .and_then(|c| c.max_headers_count.as_ref())
                .map(|v| v.value),
            HEADERS,
            HEADERS_MOST,
        )
        .at("common_http_protocol_options.max_headers_count")?
        .try_into()
        .unwrap_or(usize::MAX),
        idle_timeout: limit(common.and_then(|c| c.idle_timeout.as_ref()), Some(IDLE))
            .at("common_http_protocol_options.idle_timeout")?,
        stream_idle_timeout: limit(message.stream_idle_timeout.as_ref(), Some(STREAM_IDLE))
            .at("stream_idle_timeout")?,
        request_timeout: limit(message.request_timeout.as_ref(), None).at("request_timeout")?,
        max_stream_duration: limit(common.and_then(|c| c.max_stream_duration.as_ref()), None)
            .at("common_http_protocol_options.max_stream_duration")?,
        respect_expected_timeout: router.respect_expected_rq_timeout,
        headers_timeout: limit(
            message.request_headers_timeout.as_ref(),
            Some(HEADERS_TIMEOUT),
        )
        .at("request_headers_timeout")?
        .unwrap_or(HEADERS_TIMEOUT),
        max_connection_duration: limit(
            common.and_then(|c| c.max_connection_duration.as_ref()),
            None,
        )
        .at("common_http_protocol_options.max_connection_duration")?,
        max_requests_per_connection: requests(common),
        edge: edge::edge(message)?,
        heads: edge::heads(message)?,
        reply_mapping: message
            .local_reply_config
            .as_ref()
            .map(reply::mapping)
            .transpose()
            .at("local_reply_config")?
            .map(Box::new),
        request_id_in_response: message.always_set_request_id_in_response,
        suppress_envoy_headers: router.suppress_envoy_headers,
        cert_details: edge::cert_details(message),
        upgrades: message
            .upgrade_configs
            .iter()
            .filter(|upgrade| flag(upgrade.enabled.as_ref(), true))
            .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase())
            .collect(),
        accept_http_10: message
            .http_protocol_options
            .as_ref()
            .is_some_and(|options| options.accept_http_10),
        h2: h2(message.http2_protocol_options.as_ref())?,
        tracing: traced(message, &router).at("tracing")?,
    })
}

/// Spans of attempts are asked for by the manager or, in the old way, by the router.
#[allow(deprecated)]
fn traced(message: &pb::HttpConnectionManager, router: &Router) -> Checked<Option<Box<Tracing>>> {
    let Some(given) = &message.tracing else {
        return Ok(None);
    };
    let mut made = tracing::tracing(given, &message.stat_prefix)?;
    made.upstream_spans |= router.start_child_span;
    Ok(Some(Box::new(made)))
}

fn server_header(message: &pb::HttpConnectionManager) -> Checked<(HeaderValue, ServerHeader)> {
    use pb::http_connection_manager::ServerHeaderTransformation as Server;
    let name = if message.server_name.is_empty() {
        "envoy"
    } else {
        message.server_name.as_str()
    };
    let value =
        HeaderValue::from_str(name).or_else(|_| refuse("not a header value").at("server_name"))?;
    match Server::try_from(message.server_header_transformation) {
        Ok(Server::Overwrite) => Ok((value, ServerHeader::Overwrite)),
        Ok(Server::AppendIfAbsent) => Ok((value, ServerHeader::IfAbsent)),
        Ok(Server::PassThrough) => Ok((value, ServerHeader::PassThrough)),
        Err(_) => refuse("an unknown value").at("server_header_transformation"),
    }
}

pub(super) fn requests(common: Option<&core::HttpProtocolOptions>) -> Option<u64> {
    let limit = common.and_then(|common| common.max_requests_per_connection.as_ref());
    limit
        .map(|limit| u64::from(limit.value))
        .filter(|limit| *limit > 0)
}

pub(super) fn h2(message: Option<&core::Http2ProtocolOptions>) -> Checked<H2> {
    let default = H2::default();
    let Some(message) = message else {
        return Ok(default);
    };
    // RFC 9113 §6.9.1: windows are at most 2^31−1; Envoy wants at least 65535.
    let window = |value: Option<u32>, default: u32| match value {
        None => Ok(default),
        Some(value) if (65_535..=0x7fff_ffff).contains(&value) => Ok(value),
        Some(value) => refuse(format!("{value} is not from 65535 to 2147483647")),
    };
    Ok(H2 {
        max_concurrent_streams: message
            .max_concurrent_streams
            .map_or(default.max_concurrent_streams, |v| v.value.max(1)),
        stream_window: window(
            message.initial_stream_window_size.map(|v| v.value),
            default.stream_window,
        )
        .at("initial_stream_window_size")?,
        connection_window: window(
            message.initial_connection_window_size.map(|v| v.value),
            default.connection_window,
        )
        .at("initial_connection_window_size")?,
        allow_connect: message.allow_connect,
    })
}

fn bounded(value: Option<u32>, default: u32, most: u32) -> Checked<u32> {
    match value {
        None => Ok(default),
        Some(value) if (1..=most).contains(&value) => Ok(value),
        Some(value) => refuse(format!("{value} is not from 1 to {most}")),
    }
}
