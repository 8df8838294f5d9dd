//! Clusters whose endpoints are names: asked anew in the background, last good answer kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::cluster::{Assignment, Cluster, Dns, DnsHost, EndpointConfig, Family};
use crate::worker::roll;

/// However short or long a record's time to live is.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The answer about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// These addresses, for so long; none if there is no such name.
    Found(Vec<IpAddr>, Duration),
    /// Nobody answered, or not sensibly.
    Failed,
}

/// A resolver as the system's configuration says.
pub fn resolver() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        let options = builder.options_mut();
        // Names of the configuration are complete but for search domains, as with libc.
        options.cache_size = 0;
        options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
        builder.build()
    });
    match built {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            warn!(%error, "no DNS resolver: clusters with names will have no endpoints");
            None
        }
    }
}

/// Keeps a cluster's endpoints up to date, for ever.
pub async fn watch(resolver: Option<Arc<TokioResolver>>, cluster: Arc<Cluster>, dns: Arc<Dns>) {
    let mut known: Vec<Vec<IpAddr>> = vec![Vec::new(); dns.hosts.len()];
    let mut retry = dns.retry.0;
    let mut good = Instant::now();
    let [tried, done, failed] = &cluster.balance.lookups;
    loop {
        tried.increment();
        let mut answers = Vec::with_capacity(dns.hosts.len());
        for host in &dns.hosts {
            answers.push(resolve(resolver.as_deref(), &host.name, dns.family).await);
        }
        let wait = match learn(&mut known, answers) {
            Some(ttl) => {
                done.increment();
                good = Instant::now();
                retry = dns.retry.0;
                if dns.respect_ttl {
                    ttl.clamp(TTL.0, TTL.1)
                } else {
                    dns.refresh
                }
            }
            None => {
                failed.increment();
                debug!(cluster = %cluster.config.name, "DNS lookup failed");
                let wait = retry;
                retry = retry.saturating_mul(2).min(dns.retry.1);
                wait
            }
        };
        let age = i64::try_from(good.elapsed().as_secs()).unwrap_or(i64::MAX);
        cluster.balance.lookup_age.set(age);
        cluster.assign(Arc::new(assignment(&dns, &known)));
        let jitter = u64::try_from(dns.jitter.as_millis()).unwrap_or(u64::MAX);
        let jitter = Duration::from_millis(roll() % jitter.saturating_add(1));
        sleep(wait.saturating_add(jitter)).await;
    }
}

/// Takes the answers in: what failed keeps its last good addresses. Yields the shortest time to live, or nothing if
/// an answer is missing.
fn learn(known: &mut [Vec<IpAddr>], answers: Vec<Answer>) -> Option<Duration> {
    let mut shortest = Some(TTL.1);
    for (known, answer) in known.iter_mut().zip(answers) {
        match answer {
            Answer::Found(addresses, ttl) => {
                *known = addresses;
                shortest = shortest.map(|shortest| shortest.min(ttl));
            }
            Answer::Failed => shortest = None,
        }
    }
    shortest
}

/// The endpoints of all names.
fn assignment(dns: &Dns, known: &[Vec<IpAddr>]) -> Assignment {
    let mut endpoints = Vec::new();
    for (host, addresses) in dns.hosts.iter().zip(known) {
        // One logical endpoint connects to the first of its addresses; sorted, that one stays while it is there.
        let most = if dns.logical { 1 } else { usize::MAX };
        let mut addresses = addresses.clone();
        addresses.sort_unstable(); // Answers rotate; endpoints must not.
        addresses.dedup();
        endpoints.extend(addresses.iter().take(most).map(|ip| endpoint(host, *ip)));
    }
    let mut seen = std::collections::HashSet::new();
    endpoints.retain(|endpoint| seen.insert((endpoint.priority, endpoint.address)));
    Assignment {
        endpoints,
        ..dns.frame.clone()
    }
}

fn endpoint(host: &DnsHost, ip: IpAddr) -> EndpointConfig {
    EndpointConfig {
        address: SocketAddr::new(ip, host.endpoint.address.port()),
        ..host.endpoint.clone()
    }
}

async fn resolve(resolver: Option<&TokioResolver>, name: &str, family: Family) -> Answer {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Answer::Found(vec![address], TTL.1);
    }
    let Some(resolver) = resolver else {
        return Answer::Failed;
    };
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let until = found.valid_until();
            let ttl = until.saturating_duration_since(Instant::now());
            Answer::Found(choose(found.iter().collect(), family), ttl)
        }
        // There is no such name, or it has no address: that is an answer.
        Err(error) if error.is_no_records_found() => Answer::Found(Vec::new(), TTL.0),
        Err(error) => {
            debug!(%name, %error, "DNS");
            Answer::Failed
        }
    }
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

    fn dns(logical: bool, names: &[(&str, u16)]) -> Dns {
        let host = |(name, port): &(&str, u16)| DnsHost {
            name: (*name).into(),
            endpoint: EndpointConfig::plain(SocketAddr::from(([0, 0, 0, 0], *port))),
        };
        Dns {
            hosts: names.iter().map(host).collect(),
            frame: Assignment::default(),
            logical,
            refresh: Duration::from_secs(5),
            respect_ttl: false,
            retry: (Duration::from_secs(1), Duration::from_secs(30)),
            jitter: Duration::ZERO,
            family: Family::All,
        }
    }

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter()
            .map(|last| IpAddr::from([10, 0, 0, *last]))
            .collect()
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer_and_an_empty_answer_does_not() {
        let seconds = Duration::from_secs;
        let mut known = vec![Vec::new(), Vec::new()];
        let found = |last: &[u8], ttl| Answer::Found(ips(last), seconds(ttl));
        assert_eq!(
            learn(&mut known, vec![found(&[1], 9), found(&[2], 7)]),
            Some(seconds(7))
        );
        assert_eq!(
            learn(&mut known, vec![Answer::Failed, found(&[3], 7)]),
            None
        );
        assert_eq!(known, [ips(&[1]), ips(&[3])]);
        assert!(learn(&mut known, vec![found(&[], 9), found(&[3], 7)]).is_some());
        assert_eq!(known, [ips(&[]), ips(&[3])]);
    }

    #[test]
    fn addresses_become_endpoints_in_a_stable_order_each_once() {
        let known = vec![ips(&[3, 1, 3]), ips(&[1])];
        let list = |dns: &Dns| -> Vec<String> {
            let assignment = assignment(dns, &known);
            assignment
                .endpoints
                .iter()
                .map(|e| e.address.to_string())
                .collect()
        };
        assert_eq!(
            list(&dns(false, &[("a", 80), ("b", 80)])),
            ["10.0.0.1:80", "10.0.0.3:80"]
        );
        let two = list(&dns(false, &[("a", 80), ("b", 81)]));
        assert_eq!(two, ["10.0.0.1:80", "10.0.0.3:80", "10.0.0.1:81"]);
        assert_eq!(list(&dns(true, &[("a", 80)])), ["10.0.0.1:80"]);
    }
}
