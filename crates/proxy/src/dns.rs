//! Clusters whose endpoints are names: asked anew in the background, last good answer kept.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::cluster::{Cluster, Discovery, Dns, EndpointConfig, Family};
use crate::snapshot::Snapshot;

/// First wait after a failure; it doubles up to …
const RETRY: Duration = Duration::from_secs(1);
/// … this.
const RETRY_MOST: Duration = Duration::from_secs(30);
/// However short or long a record's time to live is.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The background lookups, one task per DNS cluster.
pub struct Lookups {
    resolver: Option<Arc<TokioResolver>>,
    running: HashMap<Arc<str>, (Arc<Cluster>, JoinHandle<()>)>,
}

// === impl Lookups ===

impl Lookups {
    /// Lookups through the system's resolver configuration.
    pub fn new() -> Lookups {
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            // Names of the configuration are complete but for search domains, as with libc.
            options.cache_size = 0;
            options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        match built {
            Ok(resolver) => Lookups {
                resolver: Some(Arc::new(resolver)),
                running: HashMap::new(),
            },
            Err(error) => {
                warn!(%error, "no DNS resolver: clusters with names will have no endpoints");
                Lookups {
                    resolver: None,
                    running: HashMap::new(),
                }
            }
        }
    }

    /// Starts lookups of new clusters and ends those of removed ones.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        self.running.retain(|name, (cluster, task)| {
            let stays = snapshot
                .clusters
                .get(name)
                .is_some_and(|now| Arc::ptr_eq(now, cluster));
            if !stays {
                task.abort();
            }
            stays
        });
        for (name, cluster) in &snapshot.clusters {
            if let Discovery::Dns(dns) = &cluster.config.discovery
                && !self.running.contains_key(name)
            {
                let task = tokio::spawn(watch(self.resolver.clone(), cluster.clone(), dns.clone()));
                self.running.insert(name.clone(), (cluster.clone(), task));
            }
        }
    }
}

impl Default for Lookups {
    fn default() -> Lookups {
        Lookups::new()
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

async fn watch(resolver: Option<Arc<TokioResolver>>, cluster: Arc<Cluster>, dns: Arc<Dns>) {
    let mut retry = RETRY;
    loop {
        let wait = match resolve(resolver.as_deref(), &dns).await {
            Some((endpoints, ttl)) => {
                cluster.assign(&endpoints);
                retry = RETRY;
                if dns.respect_ttl {
                    ttl.clamp(TTL.0, TTL.1)
                } else {
                    dns.refresh
                }
            }
            None => {
                debug!(cluster = %cluster.config.name, "DNS lookup failed");
                cluster.settle();
                let wait = retry;
                retry = retry.saturating_mul(2).min(RETRY_MOST);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// The endpoints of all names; `None` if no name has an address.
async fn resolve(
    resolver: Option<&TokioResolver>,
    dns: &Dns,
) -> Option<(Vec<EndpointConfig>, Duration)> {
    let mut endpoints = Vec::new();
    let mut ttl = TTL.1;
    for (name, port, weight) in &dns.hosts {
        let addresses = match name.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = resolver?.lookup_ip(name.as_str()).await;
                match found {
                    Ok(found) => {
                        ttl = ttl.min(
                            found
                                .valid_until()
                                .saturating_duration_since(Instant::now()),
                        );
                        choose(found.iter().collect(), dns.family)
                    }
                    Err(error) => {
                        debug!(%name, %error, "DNS");
                        Vec::new()
                    }
                }
            }
        };
        endpoints.extend(addresses.into_iter().map(|address| EndpointConfig {
            address: SocketAddr::new(address, *port),
            hostname: name.clone(),
            weight: *weight,
            priority: 0,
            healthy: true,
        }));
    }
    endpoints.sort_by_key(|endpoint| endpoint.address); // Answers rotate; endpoints must not.
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    (!endpoints.is_empty()).then_some((endpoints, ttl))
}

fn choose(addresses: Vec<IpAddr>, family: Family) -> Vec<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
        Family::PreferV6 if v6.is_empty() => v4,
        Family::PreferV6 => v6,
        Family::PreferV4 if v4.is_empty() => v6,
        Family::PreferV4 => v4,
        Family::All => v4.into_iter().chain(v6).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_preferred_or_excluded() {
        let (four, six): (IpAddr, IpAddr) = ([1, 1, 1, 1].into(), "fd00::1".parse().unwrap());
        let cases = [
            (vec![four, six], Family::V4, vec![four]),
            (vec![four, six], Family::PreferV6, vec![six]),
            (vec![four], Family::PreferV6, vec![four]),
            (vec![six], Family::PreferV4, vec![six]),
            (vec![six], Family::V4, vec![]),
            (vec![six, four], Family::All, vec![four, six]),
        ];
        for (addresses, family, expected) in cases {
            assert_eq!(choose(addresses, family), expected, "{family:?}");
        }
    }
}
