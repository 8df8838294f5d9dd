//! Active health checks from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::health_check as pb;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use http::{HeaderName, HeaderValue, Method};
use lb::health::{Intervals, Settings};

use super::super::{At, Checked, duration, each, flag, port, refuse};
use crate::cluster::{GrpcProbe, HealthCheck, HttpProbe, Payload, Probe};

/// Envoy's default while a cluster is not used.
const NO_TRAFFIC: Duration = Duration::from_secs(60);

/// The health check of a cluster; Envoy, too, knows one at most.
pub(super) fn check(list: &[core::HealthCheck]) -> Checked<Option<HealthCheck>> {
    match list {
        [] => Ok(None),
        [one] => health_check(one).map(Some).at("health_checks[0]"),
        _ => refuse("one health check at most").at("health_checks"),
    }
}

fn health_check(message: &core::HealthCheck) -> Checked<HealthCheck> {
    let probe = match &message.health_checker {
        Some(pb::HealthChecker::HttpHealthCheck(http)) => {
            Probe::Http(self::http(http).at("http_health_check")?)
        }
        Some(pb::HealthChecker::TcpHealthCheck(tcp)) => {
            Probe::Tcp(self::tcp(tcp).at("tcp_health_check")?)
        }
        Some(pb::HealthChecker::GrpcHealthCheck(grpc)) => {
            Probe::Grpc(self::grpc(grpc).at("grpc_health_check")?)
        }
        _ => return refuse("http_health_check, tcp_health_check or grpc_health_check is needed"),
    };
    Ok(HealthCheck {
        settings: settings(message)?,
        probe,
        reuse_connection: flag(message.reuse_connection.as_ref(), true),
        port: message
            .alt_port
            .map(|value| port(value.value))
            .transpose()
            .at("alt_port")?,
    })
}

fn settings(message: &core::HealthCheck) -> Checked<Settings> {
    let positive = |value: Option<&_>, path: &str| -> Checked<Option<Duration>> {
        match value.map(duration).transpose().at(path)? {
            Some(value) if value.is_zero() => refuse("must be more than zero").at(path),
            value => Ok(value),
        }
    };
    let needed = |value: Option<Duration>, path: &str| match value {
        Some(value) => Ok(value),
        None => refuse("is needed").at(path),
    };
    let threshold = |value: Option<u32>, path: &str| match value {
        Some(value) => Ok(value.max(1)),
        None => refuse("is needed").at(path),
    };
    let jitter = |value: Option<&_>, path: &str| value.map(duration).transpose().at(path);
    let healthy = needed(positive(message.interval.as_ref(), "interval")?, "interval")?;
    let unhealthy = positive(message.unhealthy_interval.as_ref(), "unhealthy_interval")?;
    let unhealthy = unhealthy.unwrap_or(healthy);
    let edge = |value: Option<&_>, path: &str, default| -> Checked<Duration> {
        Ok(positive(value, path)?.unwrap_or(default))
    };
    let no_traffic = edge(
        message.no_traffic_interval.as_ref(),
        "no_traffic_interval",
        NO_TRAFFIC,
    )?;
    Ok(Settings {
        timeout: needed(positive(message.timeout.as_ref(), "timeout")?, "timeout")?,
        unhealthy_threshold: threshold(
            message.unhealthy_threshold.map(|v| v.value),
            "unhealthy_threshold",
        )?,
        healthy_threshold: threshold(
            message.healthy_threshold.map(|v| v.value),
            "healthy_threshold",
        )?,
        initial_jitter: jitter(message.initial_jitter.as_ref(), "initial_jitter")?
            .unwrap_or_default(),
        interval_jitter: jitter(message.interval_jitter.as_ref(), "interval_jitter")?
            .unwrap_or_default(),
        interval_jitter_percent: message.interval_jitter_percent.min(100),
        intervals: Intervals {
            healthy,
            healthy_edge: edge(
                message.healthy_edge_interval.as_ref(),
                "healthy_edge_interval",
                healthy,
            )?,
            unhealthy,
            unhealthy_edge: edge(
                message.unhealthy_edge_interval.as_ref(),
                "unhealthy_edge_interval",
                unhealthy,
            )?,
            no_traffic,
            no_traffic_healthy: edge(
                message.no_traffic_healthy_interval.as_ref(),
                "no_traffic_healthy_interval",
                no_traffic,
            )?,
        },
    })
}

fn http(message: &pb::HttpHealthCheck) -> Checked<HttpProbe> {
    use core::RequestMethod as Named;
    if !message.path.starts_with('/') {
        return refuse(format!("{:?} does not begin with a slash", message.path)).at("path");
    }
    let method = match Named::try_from(message.method) {
        Ok(Named::MethodUnspecified | Named::Get) => Method::GET,
        Ok(Named::Head) => Method::HEAD,
        Ok(Named::Post) => Method::POST,
        Ok(Named::Put) => Method::PUT,
        Ok(Named::Delete) => Method::DELETE,
        Ok(Named::Options) => Method::OPTIONS,
        Ok(Named::Trace) => Method::TRACE,
        Ok(Named::Patch) => Method::PATCH,
        _ => return refuse("not a method of a health check").at("method"),
    };
    let http2 = match CodecClientType::try_from(message.codec_client_type) {
        Ok(CodecClientType::Http1) => false,
        Ok(CodecClientType::Http2) => true,
        _ => return refuse("HTTP/1 or HTTP/2").at("codec_client_type"),
    };
    let added = headers(&message.request_headers_to_add).at("request_headers_to_add")?;
    let mut changes: Vec<_> = added.into_iter().map(|(n, v)| (n, Some(v))).collect();
    for name in &message.request_headers_to_remove {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => changes.push((name, None)),
            Err(_) => {
                return refuse(format!("{name:?} is no header's name"))
                    .at("request_headers_to_remove");
            }
        }
    }
    let expected = each("expected_statuses", &message.expected_statuses, range)?;
    Ok(HttpProbe {
        host: message.host.clone(),
        path: message.path.clone(),
        method,
        headers: changes,
        expected: if expected.is_empty() {
            vec![(200, 201)]
        } else {
            expected
        },
        retriable: each("retriable_statuses", &message.retriable_statuses, range)?,
        http2,
    })
}

/// A half-open range of statuses.
fn range(message: &Int64Range) -> Checked<(u16, u16)> {
    match (u16::try_from(message.start), u16::try_from(message.end)) {
        (Ok(start), Ok(end)) if 100 <= start && start < end && end <= 600 => Ok((start, end)),
        _ => refuse(format!(
            "{} to {} is no range of statuses",
            message.start, message.end
        )),
    }
}

fn headers(list: &[core::HeaderValueOption]) -> Checked<Vec<(HeaderName, HeaderValue)>> {
    let pairs = list.iter().filter_map(|option| option.header.as_ref());
    pairs
        .map(|header| {
            let name = HeaderName::from_bytes(header.key.as_bytes());
            match (name, HeaderValue::from_str(&header.value)) {
                (Ok(name), Ok(value)) => Ok((name, value)),
                _ => refuse(format!("{:?} is no header", header.key)),
            }
        })
        .collect()
}

fn tcp(message: &pb::TcpHealthCheck) -> Checked<Payload> {
    let send = message.send.as_ref().map(payload).transpose().at("send")?;
    Ok(Payload {
        send: send.unwrap_or_default(),
        receive: each("receive", &message.receive, payload)?,
    })
}

/// Text is hexadecimal.
fn payload(message: &pb::Payload) -> Checked<Vec<u8>> {
    let text = match &message.payload {
        Some(pb::payload::Payload::Binary(bytes)) if !bytes.is_empty() => return Ok(bytes.clone()),
        Some(pb::payload::Payload::Text(text)) if !text.is_empty() => text,
        _ => return refuse("text or binary is needed"),
    };
    let digits = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|pair| match pair {
            [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
            _ => None,
        })
        .collect();
    match bytes {
        Some(bytes) => Ok(bytes),
        None => refuse(format!("{text:?} is not hexadecimal")).at("text"),
    }
}

fn grpc(message: &pb::GrpcHealthCheck) -> Checked<GrpcProbe> {
    Ok(GrpcProbe {
        service: message.service_name.clone(),
        authority: message.authority.clone(),
        metadata: headers(&message.initial_metadata).at("initial_metadata")?,
    })
}
