//! Local rate limits: token buckets of this proxy, for all requests or by descriptor.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};

use super::counters::Counters;
use super::descriptors::{Descriptor, HostLimits, RateLimitPolicy};
use super::headers::{Additions, apply, computed};
use super::overrides::Override;
use super::{FilterContext, State, Verdict};
use crate::bucket::{BucketLimits, TokenBucket, clock};
use crate::fraction::Fraction;
use crate::http::reply::LocalReply;
use crate::reason::Reason;
use crate::route::{AddMode, HeaderAdd};

/// `x-ratelimit-*` of draft 03 of RateLimit header fields for HTTP.
pub(super) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
pub(super) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
pub(super) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// gRPC's RESOURCE_EXHAUSTED.
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;

const ENABLED: usize = 0;
const OK: usize = 1;
const RATE_LIMITED: usize = 2;
const ENFORCED: usize = 3;
/// Names of the counters, under `<stat_prefix>.http_local_rate_limit.`.
pub const NAMES: &[&str] = &["enabled", "ok", "rate_limited", "enforced"];

/// The filter's configuration, its own or a route's.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// The buckets; one set for all workers, or a pattern for one set per connection.
    pub limiter: Limiter,
    /// Every connection has buckets of its own.
    pub per_connection: bool,
    /// Requests that are counted.
    pub enabled: Fraction,
    /// Requests that are refused, of those counted.
    pub enforced: Fraction,
    /// Status of a refusal.
    pub status: StatusCode,
    /// gRPC's RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Headers of refusals.
    pub response_headers: Vec<HeaderAdd>,
    /// Headers of requests that pass only because the limit is not enforced.
    pub request_headers: Vec<HeaderAdd>,
    /// `x-ratelimit-*` in responses.
    pub with_headers: bool,
    /// `retry-after` in refusals with 429.
    pub with_retry_after: bool,
    /// Which `rate_limits` of routes count.
    pub stage: u32,
    /// How those of virtual hosts join in.
    pub host_limits: HostLimits,
    /// Policies of the filter, in place of those of routes.
    pub policies: Vec<RateLimitPolicy>,
    /// Counters.
    pub counters: Counters,
}

/// Buckets.
#[derive(Debug)]
pub struct Limiter {
    /// For all requests, or for those that no descriptor takes.
    pub default: Option<TokenBucket>,
    /// By descriptor.
    pub by_descriptor: Vec<(Vec<(String, String)>, TokenBucket)>,
    /// The default bucket counts although a descriptor matched.
    pub always_default: bool,
}

// === impl Limiter ===

impl Limiter {
    /// The same limits, full.
    fn fresh(&self) -> Limiter {
        let new = |bucket: &TokenBucket| TokenBucket::new(bucket.limits);
        Limiter {
            default: self.default.as_ref().map(new),
            by_descriptor: self
                .by_descriptor
                .iter()
                .map(|(entries, bucket)| (entries.clone(), new(bucket)))
                .collect(),
            always_default: self.always_default,
        }
    }

    /// Takes tokens for a request: whether it may pass, and the bucket that decided.
    pub fn take(
        &self,
        descriptors: &[Descriptor],
        now: std::time::Duration,
    ) -> (bool, Option<&TokenBucket>) {
        let mut matched: Vec<(&TokenBucket, u32)> = descriptors
            .iter()
            .filter_map(|descriptor| {
                let mut buckets = self.by_descriptor.iter();
                let (_, bucket) = buckets.find(|(entries, _)| *entries == descriptor.entries)?;
                let hits = descriptor.hits.unwrap_or(1);
                Some((bucket, u32::try_from(hits).unwrap_or(u32::MAX)))
            })
            .collect();
        // The slowest first, as Envoy: the strictest limit spares the others' tokens.
        matched.sort_by(|(one, _), (other, _)| {
            let (one, other) = (one.limits.per_second(), other.limits.per_second());
            one.total_cmp(&other)
        });
        if let Some((bucket, _)) = matched
            .iter()
            .find(|(bucket, hits)| !bucket.take(*hits, now))
        {
            return (false, Some(bucket));
        }
        let first = matched.first().map(|(bucket, _)| *bucket);
        let default = self
            .default
            .as_ref()
            .filter(|_| first.is_none() || self.always_default);
        match default {
            Some(bucket) if !bucket.take(1, now) => (false, Some(bucket)),
            default => (true, first.or(default)),
        }
    }
}

/// Counts a request, and refuses it where its limit is reached.
pub(super) fn request(
    name: &str,
    config: &Arc<LocalRateLimit>,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let config = match context.routing.specific(name) {
        Some(Override::LocalRateLimit(config)) => config,
        _ => config,
    };
    let stats = context.stats();
    if !config.enabled.draw() {
        return Ok(None);
    }
    config.counters.increment(stats, ENABLED);
    let descriptors = if config.limiter.by_descriptor.is_empty() {
        Vec::new()
    } else {
        context.descriptors(&config.policies, config.host_limits, config.stage)
    };
    let own;
    let limiter = if config.per_connection {
        own = context.connection.limiter(config);
        &*own
    } else {
        &config.limiter
    };
    let (passes, bucket) = limiter.take(&descriptors, clock());
    let shown = bucket.filter(|_| config.with_headers).map(headers);
    if passes {
        config.counters.increment(stats, OK);
        return Ok(shown.map(State::Headers));
    }
    config.counters.increment(stats, RATE_LIMITED);
    if !config.enforced.draw() {
        let added = computed(&config.request_headers, context);
        apply(added, &mut context.parts.headers);
        return Ok(shown.map(State::Headers));
    }
    config.counters.increment(stats, ENFORCED);
    Err(Box::new(refusal(config, bucket, shown, context)))
}

fn refusal(
    config: &LocalRateLimit,
    bucket: Option<&TokenBucket>,
    shown: Option<Additions>,
    context: &FilterContext<'_, '_>,
) -> LocalReply {
    let mut reply = LocalReply::from(Reason::LocalRateLimited);
    reply.status = config.status;
    reply.grpc_status = config.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
    reply.headers = computed(&config.response_headers, context);
    if config.with_retry_after
        && config.status == StatusCode::TOO_MANY_REQUESTS
        && let Some(bucket) = bucket
    {
        let seconds = bucket.seconds_to_next(clock()).max(1);
        let value = HeaderValue::from(seconds);
        reply.headers.push((AddMode::IfAbsent, RETRY_AFTER, value));
    }
    reply.headers.extend(shown.unwrap_or_default());
    reply
}

/// `x-ratelimit-*` of a bucket.
fn headers(bucket: &TokenBucket) -> Additions {
    let now = clock();
    let BucketLimits { max_tokens, .. } = bucket.limits;
    [
        (LIMIT, u64::from(max_tokens)),
        (REMAINING, u64::from(bucket.remaining(now))),
        (RESET, bucket.seconds_to_next(now)),
    ]
    .map(|(name, value)| (AddMode::Overwrite, name, HeaderValue::from(value)))
    .into()
}

impl LocalRateLimit {
    /// Buckets for one connection.
    pub fn limiter_of_connection(&self) -> Arc<Limiter> {
        Arc::new(self.limiter.fresh())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bucket(max_tokens: u32, seconds: u64) -> TokenBucket {
        TokenBucket::new(BucketLimits {
            max_tokens,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(seconds),
        })
    }

    fn descriptor(list: &[(&str, &str)]) -> Descriptor {
        Descriptor {
            entries: list
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            limit: None,
            hits: None,
        }
    }

    #[test]
    fn descriptors_that_match_verbatim_are_counted_before_the_default() {
        let limiter = |always_default| Limiter {
            default: Some(bucket(2, 60)),
            by_descriptor: vec![
                (descriptor(&[("a", "1")]).entries, bucket(1, 60)),
                (descriptor(&[("b", "1")]).entries, bucket(5, 3600)),
            ],
            always_default,
        };
        let (a, b, ab) = (
            descriptor(&[("a", "1")]),
            descriptor(&[("b", "1")]),
            descriptor(&[("a", "1"), ("b", "1")]),
        );
        // The default bucket of 2 is always consumed.
        let both = limiter(true);
        let pass = |limiter: &Limiter, list: &[Descriptor]| limiter.take(list, Duration::ZERO).0;
        assert!(pass(&both, std::slice::from_ref(&a)));
        assert!(!pass(&both, std::slice::from_ref(&a)), "its own is empty");
        assert!(
            pass(&both, std::slice::from_ref(&ab)),
            "unknown: the default"
        );
        assert!(
            !pass(&both, std::slice::from_ref(&b)),
            "the default is empty"
        );
        // It is consumed only where no descriptor matches.
        let either = limiter(false);
        for _ in 0..4 {
            assert!(pass(&either, std::slice::from_ref(&b)));
        }
        assert!(pass(&either, &[]) && pass(&either, &[]) && !pass(&either, &[]));
        let (passes, decided) = either.take(&[a, b], Duration::ZERO);
        assert!(passes);
        assert_eq!(decided.unwrap().limits.max_tokens, 5, "the slowest is told");
    }

    #[test]
    fn without_any_bucket_everything_passes() {
        let limiter = Limiter {
            default: None,
            by_descriptor: Vec::new(),
            always_default: true,
        };
        assert!(limiter.take(&[], Duration::ZERO).0);
        assert!(limiter.fresh().take(&[], Duration::ZERO).0);
    }
}
