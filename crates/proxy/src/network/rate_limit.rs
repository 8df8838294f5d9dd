//! A rate limit service decides over connections.

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;

use super::facts::OfConnection;
use super::{Active, Refused};
use crate::connection::Connection;
use crate::format::{Missing, Template};
use crate::http::call::CallError;
use crate::http::filters::counters::Counters;
use crate::http::filters::descriptors::Descriptor;
use crate::http::filters::rate_limit::RateLimitService;
use crate::reason::Reason;

const TOTAL: usize = 0;
const ERROR: usize = 1;
const OVER_LIMIT: usize = 2;
const OK: usize = 3;
const CLOSED: usize = 4;
const FAILURE_MODE_ALLOWED: usize = 5;
const ACTIVE: usize = 6;
/// Names of the counters, under `ratelimit.<stat_prefix>.`.
pub const NAMES: &[&str] = &[
    "total",
    "error",
    "over_limit",
    "ok",
    "cx_closed",
    "failure_mode_allowed",
    "active",
];

/// The filter.
#[derive(Debug)]
pub struct NetworkRateLimit {
    /// The service.
    pub service: RateLimitService,
    /// Entries of the descriptors asked for.
    pub descriptors: Vec<Vec<(String, Template)>>,
    /// Connections are refused when the service fails.
    pub deny_on_failure: bool,
    /// Counters.
    pub counters: Counters,
}

impl NetworkRateLimit {
    /// Asks for a connection, or refuses.
    pub(super) async fn admit(&self, connection: &Connection) -> Result<Active, Refused> {
        let facts = OfConnection(connection);
        let descriptors: Vec<Descriptor> = self
            .descriptors
            .iter()
            .map(|entries| Descriptor {
                entries: entries
                    .iter()
                    .map(|(key, value)| (key.clone(), value.format(&facts, Missing::Empty)))
                    .collect(),
                limit: None,
                hits: None,
            })
            .collect();
        let stats = &connection.worker.shared.stats;
        let scope = self.counters.scope(stats);
        let active = Active::new(scope, ACTIVE);
        scope.counter(TOTAL).increment();
        let metadata = self.service.service.metadata(&facts);
        let worker = &connection.worker;
        let asked = self.service.ask(worker, None, &descriptors, metadata);
        let answer = asked.await.and_then(|answer| {
            Code::try_from(answer.overall_code)
                .ok()
                .filter(|code| *code != Code::Unknown)
                .ok_or(CallError::Answer("neither OK nor OVER_LIMIT"))
        });
        match answer {
            Ok(Code::OverLimit) => {
                scope.counter(OVER_LIMIT).increment();
                scope.counter(CLOSED).increment();
                Err(Reason::RateLimited.into())
            }
            Ok(_) => {
                scope.counter(OK).increment();
                Ok(active)
            }
            Err(error) => {
                tracing::debug!(%error, "rate limit service");
                scope.counter(ERROR).increment();
                if self.deny_on_failure {
                    scope.counter(CLOSED).increment();
                    return Err(Reason::RateLimitServiceError.into());
                }
                scope.counter(FAILURE_MODE_ALLOWED).increment();
                Ok(active)
            }
        }
    }
}
