//! Tracing from protobuf: of connection managers, of routes, of the bootstrap file.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::config::trace::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use envoy_types::pb::envoy::r#type::tracing::v3 as tags;
use envoy_types::pb::envoy::r#type::v3 as kinds;
use http::header::{HeaderName, HeaderValue};
use prost::Message;

use super::filters::{fraction, grpc_service, server};
use super::matching::header_name;
use super::{At, Checked, each, extension, flag, refuse};
use crate::format::Template;
use crate::fraction::Fraction;
use crate::spans::export::{Collector, HttpCollector, PATIENCE, Protocol, QUEUE};
use crate::spans::otlp::Origin;
use crate::spans::sampling::Shares;
use crate::spans::{CustomTag, Dialect, RouteShares, RouteTracing, TagValue, Tracer, Tracing};

/// Envoy's default of letters of a path in a tag.
const MAX_PATH: u32 = 256;
/// Envoy's name of a service that has none.
const UNKNOWN: &str = "unknown_service:osm-proxy";
/// Spans that may wait for a collector at most: some kilobytes each.
const QUEUE_MOST: u32 = 65_536;

/// What a connection manager says.
pub(super) fn tracing(message: &hcm::Tracing, stat_prefix: &str) -> Checked<Tracing> {
    let tracer = message.provider.as_ref().map(tracer).transpose();
    let max_path = message.max_path_tag_length.map_or(MAX_PATH, |m| m.value);
    Ok(Tracing {
        tracer: tracer.at("provider")?.map(Arc::new),
        shares: Shares {
            client: percent(message.client_sampling.as_ref()).at("client_sampling")?,
            random: percent(message.random_sampling.as_ref()).at("random_sampling")?,
            overall: percent(message.overall_sampling.as_ref()).at("overall_sampling")?,
        },
        verbose: message.verbose,
        max_path: usize::try_from(max_path).unwrap_or(usize::MAX),
        tags: each("custom_tags", &message.custom_tags, tag)?,
        upstream_spans: flag(message.spawn_upstream_span.as_ref(), false),
        operation: operation(&message.operation).at("operation")?,
        upstream_operation: operation(&message.upstream_operation).at("upstream_operation")?,
        stat_prefix: stat_prefix.into(),
        ways: OnceLock::new(),
    })
}

/// What a route says, if anything.
pub(super) fn of_route(message: &route::Route) -> Checked<Option<Box<RouteTracing>>> {
    if message.decorator.is_none() && message.tracing.is_none() {
        return Ok(None);
    }
    let mut made = RouteTracing::default();
    if let Some(decorator) = &message.decorator {
        if decorator.operation.is_empty() {
            return refuse("is needed").at("decorator.operation");
        }
        let propagated = flag(decorator.propagate.as_ref(), true);
        made.decorator = Some((decorator.operation.clone(), propagated));
    }
    if let Some(tracing) = &message.tracing {
        let share = |message: Option<&kinds::FractionalPercent>| {
            message.map_or(Ok(Fraction::ALL), fraction)
        };
        made.shares = Some(RouteShares(Shares {
            client: share(tracing.client_sampling.as_ref()).at("tracing.client_sampling")?,
            random: share(tracing.random_sampling.as_ref()).at("tracing.random_sampling")?,
            overall: share(tracing.overall_sampling.as_ref()).at("tracing.overall_sampling")?,
        }));
        made.tags = each("tracing.custom_tags", &tracing.custom_tags, tag)?;
        made.operation = operation(&tracing.operation).at("tracing.operation")?;
        made.upstream_operation =
            operation(&tracing.upstream_operation).at("tracing.upstream_operation")?;
    }
    Ok(Some(Box::new(made)))
}

fn operation(text: &str) -> Checked<Option<Template>> {
    match text {
        "" => Ok(None),
        text => Template::parse(text).or_else(refuse).map(Some),
    }
}

/// Envoy's steps are hundredths of a percent.
fn percent(message: Option<&kinds::Percent>) -> Checked<Fraction> {
    let Some(kinds::Percent { value }) = message else {
        return Ok(Fraction::ALL);
    };
    if !(0.0..=100.0).contains(value) {
        return refuse(format!("{value} is not from 0 to 100"));
    }
    // From 0 to 10 000, and whole.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let numerator = (value * 100.0).round() as u32;
    Ok(Fraction {
        numerator,
        denominator: 10_000,
    })
}

fn tag(message: &tags::CustomTag) -> Checked<CustomTag> {
    use tags::custom_tag::Type;
    if message.tag.is_empty() {
        return refuse("is needed").at("tag");
    }
    let value = match &message.r#type {
        Some(Type::Literal(literal)) => TagValue::Literal(literal.value.clone()),
        // As Envoy: read once, when the configuration comes.
        Some(Type::Environment(environment)) => {
            let value = std::env::var(&environment.name).ok();
            TagValue::Literal(value.unwrap_or_else(|| environment.default_value.clone()))
        }
        Some(Type::RequestHeader(header)) => {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .or_else(|_| refuse("not a header name").at("request_header.name"))?;
            TagValue::Header(name, header.default_value.clone())
        }
        Some(Type::Value(text)) => {
            TagValue::Format(Template::parse(text).or_else(refuse).at("value")?)
        }
        _ => return refuse("literal, environment, request_header or value is needed"),
    };
    Ok(CustomTag {
        name: message.tag.clone(),
        value,
    })
}

/// A tracer, whatever it is configured at.
pub(crate) fn tracer(message: &pb::tracing::Http) -> Checked<Tracer> {
    let Some(pb::tracing::http::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse("is needed").at("typed_config");
    };
    let made = if let Some(zipkin) = extension::<pb::ZipkinConfig>(any) {
        zipkin.and_then(|message| of_zipkin(&message))
    } else if let Some(otlp) = extension::<pb::OpenTelemetryConfig>(any) {
        otlp.and_then(|message| of_otlp(&message))
    } else {
        refuse(format!("{:?} is not supported", any.type_url))
    };
    let (dialect, protocol, queue) = made.at("typed_config")?;
    Ok(Tracer {
        dialect,
        collector: Arc::new(Collector {
            key: any.encode_to_vec().into(),
            protocol,
            queue,
        }),
    })
}

type Made = (Dialect, Protocol, usize);

fn of_zipkin(message: &pb::ZipkinConfig) -> Checked<Made> {
    use pb::zipkin_config::{CollectorEndpointVersion as Version, TraceContextOption};
    if Version::try_from(message.collector_endpoint_version) != Ok(Version::HttpJson) {
        return refuse("HTTP_JSON is needed").at("collector_endpoint_version");
    }
    let collector = match &message.collector_service {
        Some(service) => http_service(service).at("collector_service")?,
        None => {
            if message.collector_cluster.is_empty() {
                return refuse("is needed").at("collector_cluster");
            }
            let authority = match message.collector_hostname.as_str() {
                "" => &message.collector_cluster,
                name => name,
            };
            HttpCollector {
                cluster: message.collector_cluster.as_str().into(),
                authority: authority.to_owned(),
                path: path(&message.collector_endpoint).at("collector_endpoint")?,
                headers: Vec::new(),
                timeout: PATIENCE,
            }
        }
    };
    #[allow(deprecated)] // Control planes still send it.
    let split = message.split_spans_for_request;
    let dialect = Dialect::Zipkin {
        long_ids: message.trace_id_128bit,
        shared: flag(message.shared_span_context.as_ref(), true),
        w3c: match TraceContextOption::try_from(message.trace_context_option) {
            Ok(TraceContextOption::UseB3) => false,
            Ok(TraceContextOption::UseB3WithW3cPropagation) => true,
            Err(_) => return refuse("an unknown value").at("trace_context_option"),
        },
        timed_ids: message.timestamp_trace_ids,
        split,
    };
    Ok((dialect, Protocol::Zipkin(collector), QUEUE))
}

fn of_otlp(message: &pb::OpenTelemetryConfig) -> Checked<Made> {
    let origin = origin(message);
    let protocol = match (&message.grpc_service, &message.http_service) {
        (Some(service), None) => {
            let service = grpc_service(Some(service), Some(PATIENCE)).at("grpc_service")?;
            Protocol::OtlpGrpc(service, origin)
        }
        (None, Some(service)) => {
            Protocol::OtlpHttp(http_service(service).at("http_service")?, origin)
        }
        _ => return refuse("one of grpc_service and http_service is needed"),
    };
    let queue = match message.max_cache_size.map(|size| size.value) {
        None | Some(0) => QUEUE,
        Some(size) => usize::try_from(size.min(QUEUE_MOST)).unwrap_or(QUEUE),
    };
    Ok((Dialect::OpenTelemetry, protocol, queue))
}

fn origin(message: &pb::OpenTelemetryConfig) -> Origin {
    let mut attributes = Vec::new();
    if flag(message.set_service_name_resource_attribute.as_ref(), true) {
        let name = match message.service_name.as_str() {
            "" => UNKNOWN,
            name => name,
        };
        attributes.push(("service.name".to_owned(), name.to_owned()));
    }
    if flag(message.set_telemetry_sdk_resource_attributes.as_ref(), true) {
        for (name, value) in [
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.name", "osm-proxy"),
            ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ] {
            attributes.push((name.to_owned(), value.to_owned()));
        }
    }
    Origin {
        attributes,
        names_scope: flag(message.set_instrumentation_scope.as_ref(), true),
    }
}

/// A collector behind HTTP; a whole URL says its authority, too.
fn http_service(message: &core::HttpService) -> Checked<HttpCollector> {
    let (cluster, timeout) = server(message.http_uri.as_ref(), PATIENCE).at("http_uri")?;
    let uri = message.http_uri.as_ref().map_or("", |uri| uri.uri.as_str());
    let (authority, at) = match uri.split_once("://") {
        Some((_, rest)) => {
            let at = rest.find('/').unwrap_or(rest.len());
            let (authority, at) = rest.split_at(at);
            (authority, if at.is_empty() { "/" } else { at })
        }
        None => (&*cluster, uri),
    };
    let headers = each(
        "request_headers_to_add",
        &message.request_headers_to_add,
        header,
    )?;
    Ok(HttpCollector {
        authority: authority.to_owned(),
        path: path(at).at("http_uri.uri")?,
        cluster,
        headers,
        timeout: timeout.unwrap_or(PATIENCE).max(Duration::from_millis(1)),
    })
}

/// A header of every report: there is no request its value could be taken from.
fn header(message: &core::HeaderValueOption) -> Checked<(HeaderName, HeaderValue)> {
    let Some(header) = &message.header else {
        return refuse("a header is needed").at("header");
    };
    let name = header_name(&header.key).at("header.key")?;
    let template = Template::parse(&header.value).or_else(refuse);
    let template = template.at("header.value")?;
    let Some(text) = template.literal() else {
        return refuse("there is no request to take values from").at("header.value");
    };
    match HeaderValue::from_str(text) {
        Ok(value) => Ok((name, value)),
        Err(_) => refuse("not a header value").at("header.value"),
    }
}

fn path(text: &str) -> Checked<String> {
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(path) if text.starts_with('/') => Ok(path.as_str().to_owned()),
        _ => refuse(format!("{text:?} is not a path")),
    }
}
