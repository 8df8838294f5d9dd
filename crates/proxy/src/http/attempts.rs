//! Attempts until one brings an answer that is the client's, or none may be made.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::attempt::{Answer, Attempt, Failure, Reach};
use super::deliver::Passing;
use super::limits::Limits;
use super::retry::{Decision, Failed, Outcome as Came, Retry, RetryPolicy};
use super::router::Way;
use crate::cluster::subset::Labels;
use crate::cluster::{ChoiceContext, Chosen, Cluster};
use crate::reason::Reason;
use crate::route::{Forward, HostRewrite, VirtualHost};
use crate::worker::roll;

const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

/// What is kept of a request's body for another attempt where a policy asks for attempts: Envoy's bound.
const REPLAYED: usize = 1 << 20;
/// As above without a policy, when only what was certainly not processed is sent again.
const REPLAYED_FREE: usize = 64 << 10;

/// What all attempts at a request have in common.
pub struct Attempts<'a> {
    /// What its route does.
    pub action: &'a Forward,
    /// Its virtual host, which may want attempts counted.
    pub host: &'a VirtualHost,
    /// The authority as it is without any endpoint's.
    pub authority: String,
    /// Where it goes.
    pub cluster: Arc<Cluster>,
    /// Of which subset of the cluster the endpoint is to be.
    pub subset: &'a Labels,
    /// Chooses the endpoint, in clusters that hash.
    pub hash: Option<u64>,
    /// Whether it may be sent again.
    pub retry: Option<Retry>,
    /// How long it may take.
    pub limits: Limits,
    /// Endpoints that were tried.
    pub tried: Vec<SocketAddr>,
    /// Attempts so far.
    pub count: u32,
}

/// Why no attempt brought an answer.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The last attempt's reason.
    pub reason: Reason,
    /// There would have been another attempt, but there were enough (`URX`) or a circuit breaker was open (`UO`).
    pub flag: Option<&'static str>,
    /// Attempts there were.
    pub count: u32,
}

impl Ended {
    /// Envoy's flags, in its order.
    pub fn flags(&self) -> &'static str {
        let flag = self.reason.row().flag;
        match (flag, self.flag) {
            ("UT", Some("URX")) => "UT,URX",
            ("UR", Some("URX")) => "UR,URX",
            ("UF", Some("URX")) => "UF,URX",
            ("UC", Some("URX")) => "UC,URX",
            ("UPE", Some("URX")) => "URX,UPE",
            ("UT", Some("UO")) => "UT,UO",
            ("UR", Some("UO")) => "UR,UO",
            ("UF", Some("UO")) => "UF,UO",
            ("UC", Some("UO")) => "UC,UO",
            ("UPE", Some("UO")) => "UO,UPE",
            _ => flag,
        }
    }
}

/// Whether there is another attempt.
enum Next {
    /// After this time; what is held counts against the circuit breaker.
    Again(Duration, Option<crate::cluster::Retry>),
    /// No.
    Over(Option<&'static str>),
}

impl Attempts<'_> {
    /// Makes the attempts.
    pub async fn run(&mut self, way: &mut Way<'_, '_>) -> Result<(Answer, Passing), Ended> {
        let kept = if self.retry.is_some() {
            REPLAYED
        } else {
            REPLAYED_FREE
        };
        way.body.keep(kept);
        let mut held = None;
        let mut is_free = true;
        loop {
            let outcome = self.attempt(way).await;
            drop(held.take());
            let failed_with = outcome.as_ref().err().map(|failure| failure.reason);
            let next = match outcome {
                Ok((answer, passing)) => {
                    let status = answer.head.status.as_u16();
                    let came = Came::Head(status, &answer.head.headers);
                    match self.next(way, came) {
                        Next::Over(flag) => {
                            self.settled(way, flag);
                            return Ok((answer, passing));
                        }
                        again => again,
                    }
                }
                Err(failure) => {
                    tracing::debug!(cluster = %self.cluster.config.name, ?failure, "no response");
                    // Without any policy: what was certainly not processed, once and at once.
                    let free = is_free && failure.is_free(&way.parts.method) && way.body.rewind();
                    let next = match (failed(&failure), free) {
                        (_, true) => {
                            is_free = false;
                            Next::Again(Duration::ZERO, None)
                        }
                        (Some(failed), false) => {
                            let told = self.host.timeout_retries_told;
                            if failed == Failed::PerTryTimeout && told {
                                let yes = HeaderValue::from_static("true");
                                way.parts.headers.insert(TIMEOUT_RETRY, yes);
                            }
                            self.next(way, Came::Failed(failed))
                        }
                        (None, false) => Next::Over(None),
                    };
                    match next {
                        Next::Over(flag) => {
                            way.trace_failure(failed_with);
                            let reason = failure.reason;
                            let count = self.count;
                            return Err(Ended {
                                reason,
                                flag,
                                count,
                            });
                        }
                        again => again,
                    }
                }
            };
            if let Next::Again(wait, guard) = next {
                way.trace_failure(failed_with);
                held = guard;
                self.limits.attempt_begins();
                self.rest(way, wait).await?;
            }
        }
    }

    /// One attempt, reported to its endpoint.
    async fn attempt(&mut self, way: &mut Way<'_, '_>) -> Result<(Answer, Passing), Failure> {
        self.count = self.count.saturating_add(1);
        let begun = self.circuit()?;
        let mut chosen = self.choose(way)?;
        self.tried.push(chosen.endpoint.config.address);
        self.prepare(way, &chosen);
        way.trace_attempt(&chosen, self.count);
        self.limits.attempt_begins();
        let attempt = Attempt {
            http: way.http,
            client: &mut *way.client,
            method: &way.parts.method,
            headers: &way.parts.headers,
            target: &way.target,
            body: &mut way.body,
            limits: &mut self.limits,
        };
        match attempt.run(&mut chosen).await {
            Ok((answer, upstream)) => {
                if let Some(trace) = &mut way.exchange.trace {
                    trace.answered(answer.head.status);
                }
                let is_error = answer.head.status.is_server_error();
                self.came(begun, is_error);
                self.limits.response_begins();
                let passing = Passing::new(upstream, &answer, self.limits, chosen, way.is_grpc);
                Ok((answer, passing))
            }
            Err(failure) => {
                if let Some(outcome) = failure.outcome {
                    self.came(begun, true);
                    chosen.report(outcome);
                }
                Err(failure)
            }
        }
    }

    /// Whether the cluster's circuit lets an attempt through; when it began, if anybody wants to know.
    fn circuit(&self) -> Result<Option<Instant>, Failure> {
        let Some(circuit) = &self.cluster.circuit else {
            return Ok(None);
        };
        let now = Instant::now();
        if circuit.admits(now) {
            Ok(Some(now))
        } else {
            Err(Failure::unsent(Reason::CircuitOpen))
        }
    }

    /// Tells the cluster's circuit what came of an attempt; how long it took is until the answer's head.
    fn came(&self, begun: Option<Instant>, is_error: bool) {
        if let (Some(circuit), Some(begun)) = (&self.cluster.circuit, begun) {
            circuit.record(&self.cluster.config.name, begun, is_error);
        }
    }

    fn choose(&self, way: &Way<'_, '_>) -> Result<Chosen, Failure> {
        let retry = self.action.retry.as_deref();
        let passes_over = retry.is_some_and(|policy| policy.previous_hosts);
        let context = ChoiceContext {
            tried: if passes_over { &self.tried } else { &[] },
            reselections: retry.map_or(0, |policy| policy.reselections),
            subset: Some(self.subset),
            hash: self.hash,
            priority: self.action.priority,
            headers: Some(&way.parts.headers),
            ..ChoiceContext::new(&way.http.connection, roll())
        };
        self.cluster
            .choose(&context)
            .map_err(|none| Failure::unsent(none.into()))
    }

    /// What depends on the endpoint and on the number of the attempt.
    fn prepare(&self, way: &mut Way<'_, '_>, chosen: &Chosen) {
        if way.exchange.is_logged() {
            let address = chosen.endpoint.config.address.to_string();
            way.exchange.line.upstream_host = Some(address);
        }
        way.endpoint = Some(chosen.endpoint.config.address);
        way.exchange.upstream(chosen.cluster.clone());
        if self.host.attempts_in_request {
            let count = HeaderValue::from(self.count);
            way.parts.headers.insert(ATTEMPTS, count);
        }
        if matches!(self.action.host_rewrite, HostRewrite::Endpoint) {
            let hostname = &chosen.endpoint.config.hostname;
            way.address(self.action, &self.authority, hostname);
        }
    }

    /// Whether there is another attempt.
    fn next(&mut self, way: &mut Way<'_, '_>, came: Came<'_>) -> Next {
        let policy: Option<&RetryPolicy> = self.action.retry.as_deref();
        let Some(retry) = &mut self.retry else {
            return Next::Over(None);
        };
        let unix = SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        match retry.decide(policy, came, unix, roll()) {
            Decision::Deliver => Next::Over(None),
            Decision::Exhausted => {
                self.cluster.stats.retry_limit.increment();
                Next::Over(Some("URX"))
            }
            Decision::After(wait) => {
                if !way.body.rewind() {
                    return Next::Over(None);
                }
                match self.cluster.retry(self.action.priority) {
                    Ok(guard) => Next::Again(wait, Some(guard)),
                    Err(_) => Next::Over(Some("UO")),
                }
            }
        }
    }

    /// The last attempt's answer is the client's.
    fn settled(&self, way: &mut Way<'_, '_>, flag: Option<&'static str>) {
        if let Some(flag) = flag {
            way.exchange.line.response_flags = flag;
        } else if self.count > 1 && self.retry.is_some() {
            self.cluster.stats.retry_success.increment();
        }
    }

    /// Waits, while the client and the limits do.
    async fn rest(&mut self, way: &mut Way<'_, '_>, wait: Duration) -> Result<(), Ended> {
        if wait.is_zero() {
            return Ok(());
        }
        let mut sleep = pin!(tokio::time::sleep(wait));
        let client = &mut *way.client;
        let is_read = way.body.is_read();
        let limits = &self.limits;
        let count = self.count;
        poll_fn(|cx| {
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if is_read && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Reason::ClientGone));
            }
            limits.poll(client.timer(), cx).map(Err)
        })
        .await
        .map_err(|reason| Ended {
            reason,
            flag: None,
            count,
        })
    }

    /// Tells the client how many attempts there were, where it is to know.
    pub fn count_in(&self, headers: &mut HeaderMap) {
        if self.host.attempts_in_response {
            headers.insert(ATTEMPTS, HeaderValue::from(self.count));
        }
    }
}

/// A failure as retry policies see it; `None` for what is never retried.
fn failed(failure: &Failure) -> Option<Failed> {
    match (failure.reason, failure.reach) {
        (_, Reach::Client) => None,
        (Reason::Timeout | Reason::IdleTimeout | Reason::MaxDuration, _) => None,
        (Reason::RequestTimeout | Reason::NoHealthyUpstream | Reason::CircuitOpen, _) => None,
        (Reason::UpstreamOverflow, _) => Some(Failed::Overflow),
        (Reason::PerTryTimeout | Reason::PerTryIdleTimeout, _) => Some(Failed::PerTryTimeout),
        (Reason::UpstreamRefused, _) => Some(Failed::Refused),
        (_, Reach::Unconnected) => Some(Failed::Connect),
        (_, Reach::Unprocessed) => Some(Failed::Reset { sent: false }),
        (_, Reach::Stale | Reach::Sent) => Some(Failed::Reset { sent: true }),
    }
}
