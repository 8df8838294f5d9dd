//! A token per connection, from a bucket of this proxy.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::Refused;
use crate::bucket::{BucketLimits, TokenBucket, clock};
use crate::connection::Connection;
use crate::http::filters::counters::Counters;
use crate::reason::Reason;

/// Names of the counters, under `local_rate_limit.<stat_prefix>.`.
pub const NAMES: &[&str] = &["rate_limited"];

/// The filter.
#[derive(Debug)]
pub struct NetworkLocalRateLimit {
    /// The bucket, perhaps shared with other filters.
    pub bucket: Arc<TokenBucket>,
    /// It counts.
    pub enabled: bool,
    /// Counters.
    pub counters: Counters,
}

impl NetworkLocalRateLimit {
    /// Takes a token, or refuses.
    pub(super) fn admit(&self, connection: &Connection) -> Result<(), Refused> {
        if !self.enabled || self.bucket.take(1, clock()) {
            return Ok(());
        }
        let stats = &connection.worker.shared.stats;
        self.counters.increment(stats, 0);
        Err(Reason::LocalRateLimited.into())
    }
}

/// Buckets by their limits and the key they are shared by, as long as somebody uses them.
type Shared = Mutex<HashMap<(String, u32, u32, u128), Weak<TokenBucket>>>;

/// A bucket: one's own, or the one that all filters of the same key and limits share.
pub fn bucket(limits: BucketLimits, share_key: &str) -> Arc<TokenBucket> {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    if share_key.is_empty() {
        return Arc::new(TokenBucket::new(limits));
    }
    let key = (
        share_key.to_owned(),
        limits.max_tokens,
        limits.tokens_per_fill,
        limits.fill_interval.as_nanos(),
    );
    let mut shared = SHARED.get_or_init(Mutex::default).lock();
    shared.retain(|_, bucket| bucket.strong_count() > 0);
    if let Some(bucket) = shared.get(&key).and_then(Weak::upgrade) {
        return bucket;
    }
    let bucket = Arc::new(TokenBucket::new(limits));
    shared.insert(key, Arc::downgrade(&bucket));
    bucket
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buckets_are_shared_by_key_and_limits() {
        let limits = |max_tokens| BucketLimits {
            max_tokens,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(1),
        };
        let one = bucket(limits(5), "a");
        assert!(Arc::ptr_eq(&one, &bucket(limits(5), "a")));
        assert!(!Arc::ptr_eq(&one, &bucket(limits(6), "a")));
        assert!(!Arc::ptr_eq(&one, &bucket(limits(5), "b")));
        assert!(!Arc::ptr_eq(&bucket(limits(5), ""), &bucket(limits(5), "")));
    }
}
