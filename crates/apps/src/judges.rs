//! The gRPC services that proxies ask: an external authorizer and a rate limit service.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit::Unit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::{protobuf, rpc};
use tonic::{Request, Response, Status};

/// `osm-apps authz`.
#[derive(Args, Clone, Debug)]
pub struct AuthorizerOptions {
    /// Port of the server
    #[arg(long, default_value_t = 9191)]
    pub port: u16,
}

/// `osm-apps rls`.
#[derive(Args, Clone, Debug)]
pub struct LimiterOptions {
    /// Port of the server
    #[arg(long, default_value_t = 8081)]
    pub port: u16,
    /// A limit for each minute: `domain:key=value,key=value:3`, or `key` alone to count its values apart
    #[arg(long = "limit", value_parser = limit)]
    pub limits: Vec<Limit>,
}

/// What is counted, and how much of it there may be in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    domain: String,
    /// Without a value: any, each counted apart.
    entries: Vec<(String, Option<String>)>,
    requests: u32,
}

const MINUTE: Duration = Duration::from_secs(60);

/// How long a slow verdict takes: longer than anybody waits.
const SLOW: Duration = Duration::from_secs(5);

/// gRPC's status for what is not allowed.
const PERMISSION_DENIED: i32 = 7;

/// What is counted at once.
const MAX_COUNTED: usize = 10_000;

/// Judges requests by their header `x-verdict`: `deny`, `teapot` (a status, a header and a body of its own), `slow`;
/// without it they pass, with a header that says so. Prints one line for each.
pub async fn authorize(options: AuthorizerOptions) -> anyhow::Result<()> {
    println!("authz on port {}", options.port);
    tonic::transport::Server::builder()
        .add_service(AuthorizationServer::new(Authorizer))
        .serve((std::net::Ipv4Addr::UNSPECIFIED, options.port).into())
        .await?;
    Ok(())
}

/// Counts what proxies describe, against its limits.
pub async fn limit_rates(options: LimiterOptions) -> anyhow::Result<()> {
    println!("rls on port {}", options.port);
    let limiter = Limiter {
        limits: options.limits,
        counted: Mutex::default(),
    };
    tonic::transport::Server::builder()
        .add_service(RateLimitServiceServer::new(limiter))
        .serve((std::net::Ipv4Addr::UNSPECIFIED, options.port).into())
        .await?;
    Ok(())
}

struct Authorizer;

#[tonic::async_trait]
impl Authorization for Authorizer {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let source = attributes.source.unwrap_or_default().principal;
        let http = attributes.request.and_then(|request| request.http);
        let http = http.unwrap_or_default();
        let verdict = http.headers.get("x-verdict").map(String::as_str);
        println!(
            "check {} {} from {source:?}: {}, {} bytes of body",
            http.method,
            http.path,
            verdict.unwrap_or("allow"),
            http.body.len()
        );
        let denied = |code, body: &str, headers| {
            answer(
                PERMISSION_DENIED,
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code }),
                    headers,
                    body: body.to_owned(),
                }),
            )
        };
        let response = match verdict {
            Some("deny") => CheckResponse {
                status: Some(status(PERMISSION_DENIED)),
                ..Default::default()
            },
            Some("teapot") => denied(401, "who are you?\n", vec![header("x-judge", "osm-apps")]),
            Some("slow") => {
                tokio::time::sleep(SLOW).await;
                CheckResponse::default()
            }
            _ => answer(
                0,
                HttpResponse::OkResponse(OkHttpResponse {
                    headers: vec![header("x-authorized-by", "osm-apps")],
                    ..Default::default()
                }),
            ),
        };
        Ok(Response::new(response))
    }
}

fn status(code: i32) -> rpc::Status {
    rpc::Status {
        code,
        ..Default::default()
    }
}

fn answer(code: i32, http: HttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(status(code)),
        http_response: Some(http),
        ..Default::default()
    }
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

struct Limiter {
    limits: Vec<Limit>,
    counted: Mutex<HashMap<(usize, String), Window>>,
}

struct Window {
    began: Instant,
    requests: u32,
}

#[tonic::async_trait]
impl RateLimitService for Limiter {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let asked = request.into_inner();
        let statuses: Vec<DescriptorStatus> = asked
            .descriptors
            .iter()
            .map(|descriptor| self.judge(&asked.domain, descriptor))
            .collect();
        let over = statuses
            .iter()
            .any(|status| status.code() == Code::OverLimit);
        println!(
            "asked by {}: {:?}, over limit: {over}",
            asked.domain, asked.descriptors
        );
        let overall = if over { Code::OverLimit } else { Code::Ok };
        Ok(Response::new(RateLimitResponse {
            overall_code: overall.into(),
            statuses,
            ..Default::default()
        }))
    }
}

impl Limiter {
    fn judge(&self, domain: &str, descriptor: &RateLimitDescriptor) -> DescriptorStatus {
        let found = self.limits.iter().enumerate();
        let mut found = found.filter(|(_, limit)| limit.is_about(domain, descriptor));
        let Some((index, limit)) = found.next() else {
            return DescriptorStatus {
                code: Code::Ok.into(),
                ..Default::default()
            };
        };
        let key = (index, format!("{:?}", descriptor.entries));
        let now = Instant::now();
        let requests = self.counted.lock().map_or(0, |mut counted| {
            counted.retain(|_, window| now.duration_since(window.began) < MINUTE);
            if counted.len() >= MAX_COUNTED {
                return 0;
            }
            let window = counted.entry(key).or_insert(Window {
                began: now,
                requests: 0,
            });
            window.requests = window.requests.saturating_add(1);
            window.requests
        });
        let code = if requests > limit.requests {
            Code::OverLimit
        } else {
            Code::Ok
        };
        DescriptorStatus {
            code: code.into(),
            current_limit: Some(RateLimit {
                requests_per_unit: limit.requests,
                unit: Unit::Minute.into(),
                ..Default::default()
            }),
            limit_remaining: limit.requests.saturating_sub(requests),
            duration_until_reset: Some(protobuf::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..Default::default()
        }
    }
}

// === impl Limit ===

impl Limit {
    fn is_about(&self, domain: &str, descriptor: &RateLimitDescriptor) -> bool {
        let entries = self.entries.iter().zip(&descriptor.entries);
        self.domain == domain
            && self.entries.len() == descriptor.entries.len()
            && entries.into_iter().all(|((key, value), entry)| {
                *key == entry.key && value.as_ref().is_none_or(|value| *value == entry.value)
            })
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    let form = "must be domain:key=value,...:number";
    let (domain, rest) = text.split_once(':').ok_or(form)?;
    let (entries, requests) = rest.rsplit_once(':').ok_or(form)?;
    let entry = |word: &str| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    };
    Ok(Limit {
        domain: domain.to_owned(),
        entries: entries.split(',').map(entry).collect(),
        requests: requests.parse().map_err(|_| form)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;

    #[test]
    fn limits_are_counted_by_what_they_name() {
        let limits = ["test:my_key=v:1", "test:remote_address:2"];
        let limiter = Limiter {
            limits: limits.map(|text| limit(text).expect("a limit")).into(),
            counted: Mutex::default(),
        };
        let judge = |domain: &str, key: &str, value: &str| {
            let entry = Entry {
                key: key.to_owned(),
                value: value.to_owned(),
            };
            let descriptor = RateLimitDescriptor {
                entries: vec![entry],
                ..Default::default()
            };
            limiter.judge(domain, &descriptor).code()
        };
        assert_eq!(judge("test", "my_key", "v"), Code::Ok);
        assert_eq!(judge("test", "my_key", "v"), Code::OverLimit);
        assert_eq!(judge("other", "my_key", "v"), Code::Ok);
        assert_eq!(judge("test", "my_key", "other"), Code::Ok);
        for (address, expected) in [
            ("a", Code::Ok),
            ("a", Code::Ok),
            ("b", Code::Ok),
            ("a", Code::OverLimit),
        ] {
            assert_eq!(
                judge("test", "remote_address", address),
                expected,
                "{address}"
            );
        }
    }
}
