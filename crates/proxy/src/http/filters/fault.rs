//! Fault injection: requests that wait, requests that are aborted.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;

use super::counters::Counters;
use super::overrides::Override;
use super::{FilterContext, Hold, Verdict};
use crate::fraction::Fraction;
use crate::http::reply::LocalReply;
use crate::matcher::HeaderMatch;
use crate::reason::Reason;
use crate::stats::Scope;

/// Headers of requests that say themselves what is to go wrong.
const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENTAGE: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENTAGE: &str = "x-envoy-fault-abort-request-percentage";
const NODE: &str = "x-envoy-downstream-service-node";
/// A header cannot hold a request for longer.
const LONGEST: Duration = Duration::from_secs(3600);

const ABORTS: usize = 0;
const DELAYS: usize = 1;
const OVERFLOW: usize = 2;
const ACTIVE: usize = 3;
/// Names of the counters, under `http.<stat_prefix>.fault.`.
pub const NAMES: &[&str] = &[
    "aborts_injected",
    "delays_injected",
    "faults_overflow",
    "active_faults",
];

/// The filter.
#[derive(Debug)]
pub struct Fault {
    /// Where no route says otherwise.
    pub settings: FaultSettings,
    /// Counters.
    pub counters: Counters,
}

/// What goes wrong, and for whom.
#[derive(Debug, Default)]
pub struct FaultSettings {
    /// A wait.
    pub delay: Option<(Delay, Fraction)>,
    /// An error.
    pub abort: Option<(Abort, Fraction)>,
    /// The body of an abort, if it is not Envoy's.
    pub body: Option<bytes::Bytes>,
    /// Only requests to this cluster.
    pub cluster: Option<String>,
    /// Only requests with these headers.
    pub headers: Vec<HeaderMatch>,
    /// Only requests of these nodes, by their own words.
    pub nodes: Vec<String>,
    /// Not more than so many at a time.
    pub max_active: Option<u64>,
}

/// A wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// This long.
    Fixed(Duration),
    /// As the request says.
    Header,
}

/// An error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// With this status.
    Http(StatusCode),
    /// With this status of gRPC.
    Grpc(u32),
    /// As the request says.
    Header,
}

/// A fault under way, counted until its request is over.
#[derive(Debug)]
pub struct ActiveFault(Arc<Scope>);

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.gauge(ACTIVE).add(-1);
    }
}

/// Lets a request wait, aborts it, or lets it pass.
pub(super) async fn request(
    name: &str,
    filter: &Fault,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let settings = match context.routing.specific(name) {
        Some(Override::Fault(settings)) => settings,
        _ => &filter.settings,
    };
    if !settings.concerns(context) {
        return Ok(None);
    }
    let headers = &context.parts.headers;
    let delay = settings
        .delay(headers)
        .filter(|_| filter.enter(settings, context.stats()));
    let mut held = delay.map(|_| filter.hold(context.stats()));
    if let Some(delay) = delay {
        filter.counters.increment(context.stats(), DELAYS);
        context.line.response_flags = "DI";
        tokio::time::sleep(delay).await;
    }
    let abort = settings
        .abort(&context.parts.headers)
        .filter(|_| held.is_some() || filter.enter(settings, context.stats()));
    if abort.is_some() && held.is_none() {
        held = Some(filter.hold(context.stats()));
    }
    context.holds.extend(held.map(Hold::Fault));
    let Some((status, grpc_status)) = abort else {
        return Ok(None);
    };
    filter.counters.increment(context.stats(), ABORTS);
    let reason = if delay.is_some() {
        Reason::DelayedFaultAbort
    } else {
        Reason::FaultAbort
    };
    let mut reply = LocalReply::from(reason);
    reply.status = status;
    reply.grpc_status = grpc_status;
    reply.details = "fault_filter_abort".into();
    if let Some(body) = &settings.body {
        reply.body = body.clone();
    }
    Err(Box::new(reply))
}

impl Fault {
    /// Whether one more fault may be under way.
    fn enter(&self, settings: &FaultSettings, stats: &crate::stats::Stats) -> bool {
        let active = self.counters.scope(stats).gauge(ACTIVE).get();
        let most = settings.max_active.unwrap_or(u64::MAX);
        if u64::try_from(active).is_ok_and(|active| active >= most) {
            self.counters.increment(stats, OVERFLOW);
            return false;
        }
        true
    }

    fn hold(&self, stats: &crate::stats::Stats) -> ActiveFault {
        let scope = self.counters.scope(stats);
        scope.gauge(ACTIVE).add(1);
        ActiveFault(scope.clone())
    }
}

impl FaultSettings {
    fn concerns(&self, context: &FilterContext<'_, '_>) -> bool {
        let view = context.view();
        let of_cluster = self.cluster.as_ref().is_none_or(|wanted| {
            let cluster = context.routing.cluster;
            cluster.is_some_and(|cluster| **cluster == **wanted)
        });
        let node = context.parts.headers.get(NODE);
        let of_node = self.nodes.is_empty()
            || node.is_some_and(|node| self.nodes.iter().any(|one| node == one.as_str()));
        of_cluster && of_node && self.headers.iter().all(|header| header.matches(&view))
    }

    /// How long this request is to wait.
    fn delay(&self, headers: &HeaderMap) -> Option<Duration> {
        let (delay, fraction) = self.delay?;
        match delay {
            Delay::Fixed(duration) => fraction.draw().then_some(duration),
            Delay::Header => {
                let milliseconds: u64 = number(headers, DELAY)?;
                let duration = Duration::from_millis(milliseconds).min(LONGEST);
                let drawn = capped(fraction, headers, DELAY_PERCENTAGE).draw();
                Some(duration).filter(|duration| drawn && !duration.is_zero())
            }
        }
    }

    /// The status, and gRPC's, that this request is to be aborted with.
    fn abort(&self, headers: &HeaderMap) -> Option<(StatusCode, Option<u32>)> {
        let (abort, fraction) = self.abort?;
        match abort {
            Abort::Http(status) => fraction.draw().then_some((status, None)),
            Abort::Grpc(status) => fraction.draw().then_some((StatusCode::OK, Some(status))),
            Abort::Header => {
                let http = number::<u16>(headers, ABORT)
                    .filter(|status| (200..600).contains(status))
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    .map(|status| (status, None));
                let grpc = || {
                    number::<u32>(headers, ABORT_GRPC).map(|status| (StatusCode::OK, Some(status)))
                };
                let status = http.or_else(grpc)?;
                capped(fraction, headers, ABORT_PERCENTAGE)
                    .draw()
                    .then_some(status)
            }
        }
    }
}

/// The configured share, or a smaller one that the request asks for.
fn capped(fraction: Fraction, headers: &HeaderMap, name: &str) -> Fraction {
    let asked = number(headers, name).unwrap_or(fraction.numerator);
    Fraction {
        numerator: asked.min(fraction.numerator),
        ..fraction
    }
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_what_goes_wrong_within_the_configured_share() {
        let settings = FaultSettings {
            delay: Some((Delay::Header, Fraction::ALL)),
            abort: Some((Abort::Header, Fraction::ALL)),
            ..FaultSettings::default()
        };
        let http = |status| Some((StatusCode::from_u16(status).unwrap(), None));
        type Asked = &'static [(&'static str, &'static str)];
        let cases: &[(Asked, Option<u64>, _)] = &[
            (&[], None, None),
            (&[(DELAY, "20")], Some(20), None),
            (&[(DELAY, "0")], None, None),
            (&[(DELAY, "x")], None, None),
            (&[(DELAY, "20"), (DELAY_PERCENTAGE, "0")], None, None),
            (&[(ABORT, "503")], None, http(503)),
            (&[(ABORT, "199")], None, None),
            (&[(ABORT, "600")], None, None),
            (&[(ABORT, "503"), (ABORT_PERCENTAGE, "0")], None, None),
            (&[(ABORT_GRPC, "7")], None, Some((StatusCode::OK, Some(7)))),
            (&[(ABORT, "404"), (ABORT_GRPC, "7")], None, http(404)),
        ];
        for (list, delay, abort) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *list {
                headers.insert(*name, value.parse().unwrap());
            }
            let waits = settings.delay(&headers);
            assert_eq!(waits, delay.map(Duration::from_millis), "{list:?}");
            assert_eq!(settings.abort(&headers), *abort, "{list:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ABORT_PERCENTAGE, "50".parse().unwrap());
        let ten = Fraction {
            numerator: 10,
            denominator: 100,
        };
        assert_eq!(capped(ten, &headers, ABORT_PERCENTAGE), ten);
    }
}
