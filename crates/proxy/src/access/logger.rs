//! Access logs as configured: which exchanges, in which form, to which place.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use http::HeaderMap;

use super::sink::Sink;
use super::{Line, RequestHead};
use crate::format::{Address, Content, Facts, Missing, Moment, Number, Text};
use crate::matcher::{HeaderMatch, RequestView};
use crate::worker::roll;

/// One log.
#[derive(Debug)]
pub struct Logger {
    /// Where lines go; nowhere if absent.
    pub sink: Option<Sink>,
    /// What they say.
    pub content: Content,
    /// What stands for what is not known.
    pub missing: Missing,
    /// Which exchanges are logged; all if absent.
    pub condition: Option<Condition>,
}

/// Which exchanges are logged.
#[derive(Debug)]
pub enum Condition {
    /// By the response's status.
    Status(Comparison, u32),
    /// By how long it took, milliseconds.
    Duration(Comparison, u32),
    /// No health checks.
    NotHealthCheck,
    /// One of these flags, or any if there are none.
    Flags(Vec<String>),
    /// By a header of the request.
    Header(Box<HeaderMatch>),
    /// A share, of a million.
    Share(u64),
    /// All of them.
    All(Vec<Condition>),
    /// One of them.
    Any(Vec<Condition>),
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// As much or more.
    AtLeast,
    /// As much or less.
    AtMost,
    /// Another.
    NotEqual,
}

// === impl Logger, Condition, Comparison ===

impl Logger {
    /// The line of an exchange, if it is logged.
    pub fn write(&self, line: &Line) -> Option<(Sink, String)> {
        let sink = self.sink.clone()?;
        if self
            .condition
            .as_ref()
            .is_some_and(|condition| !condition.holds(line, line.request().as_ref()))
        {
            return None;
        }
        let mut text = String::new();
        self.content.write(line, self.missing, &mut text);
        Some((sink, text))
    }
}

impl Condition {
    /// Whether an exchange is one of them, by what is known of it so far.
    pub fn holds(&self, line: &Line, request: Option<&RequestView<'_>>) -> bool {
        match self {
            Condition::Status(how, number) => how.holds(u64::from(line.response_code), *number),
            Condition::Duration(how, number) => how.holds(line.duration, *number),
            Condition::NotHealthCheck => !line.is_health_check,
            Condition::Flags(flags) => {
                let set = line
                    .response_flags
                    .split(',')
                    .filter(|flag| !matches!(*flag, "" | "-"));
                let mut set = set.peekable();
                if flags.is_empty() {
                    return set.peek().is_some();
                }
                set.any(|flag| flags.iter().any(|wanted| wanted == flag))
            }
            Condition::Header(matcher) => request.is_some_and(|request| matcher.matches(request)),
            Condition::Share(share) => roll() % 1_000_000 < *share,
            Condition::All(all) => all.iter().all(|condition| condition.holds(line, request)),
            Condition::Any(any) => any.iter().any(|condition| condition.holds(line, request)),
        }
    }
}

impl Comparison {
    fn holds(self, number: u64, other: u32) -> bool {
        let other = u64::from(other);
        match self {
            Comparison::Equal => number == other,
            Comparison::AtLeast => number >= other,
            Comparison::AtMost => number <= other,
            Comparison::NotEqual => number != other,
        }
    }
}

/// Envoy's flags in words.
const FLAGS: [(&str, &str); 16] = [
    ("NR", "NoRouteFound"),
    ("NC", "NoClusterFound"),
    ("UH", "NoHealthyUpstream"),
    ("UF", "UpstreamConnectionFailure"),
    ("UC", "UpstreamConnectionTermination"),
    ("UR", "UpstreamRemoteReset"),
    ("UO", "UpstreamOverflow"),
    ("UT", "UpstreamRequestTimeout"),
    ("UPE", "UpstreamProtocolError"),
    ("URX", "UpstreamRetryLimitExceeded"),
    ("DC", "DownstreamConnectionTermination"),
    ("DPE", "DownstreamProtocolError"),
    ("SI", "StreamIdleTimeout"),
    ("RL", "RateLimited"),
    ("UAEX", "UnauthorizedExternalService"),
    ("OM", "OverloadManagerTerminated"),
];

impl Facts for Line {
    fn request(&self) -> Option<RequestView<'_>> {
        let head: &RequestHead = self.request_head.as_deref()?;
        Some(RequestView {
            method: &head.method,
            path_and_query: &head.path_and_query,
            authority: &head.authority,
            scheme: &head.scheme,
            headers: &head.headers,
        })
    }

    fn response(&self) -> Option<&HeaderMap> {
        self.response_headers.as_deref()
    }

    fn started(&self) -> Option<SystemTime> {
        let begun = self.begun?;
        SystemTime::now().checked_sub(begun.elapsed())
    }

    fn moment(&self, moment: Moment) -> Option<Instant> {
        match moment {
            Moment::RequestBegan => self.begun,
            Moment::AnswerBegan | Moment::ReplyBegan => self.answered,
            Moment::ReplyEnded | Moment::Over => Some(Instant::now()),
            _ => None,
        }
    }

    fn address(&self, address: Address) -> Option<SocketAddr> {
        match address {
            Address::Remote | Address::DirectRemote => self.downstream_remote_address.parse().ok(),
            Address::Local | Address::DirectLocal => self.downstream_local_address.parse().ok(),
            Address::Upstream => self.upstream_host.as_ref()?.parse().ok(),
            Address::UpstreamLocal => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        let details = self.response_code_details.as_str();
        let peer = self.downstream_peer.as_deref();
        let found: Option<&str> = match text {
            Text::Protocol => self.protocol,
            Text::Details if self.protocol.is_some() => Some(details),
            Text::TerminationDetails if self.protocol.is_none() => Some(details),
            Text::Flags => Some(if self.response_flags.is_empty() {
                "-"
            } else {
                self.response_flags
            }),
            Text::FlagsLong => return Some(self.flags_in_words().into()),
            Text::RouteName => self.route_name.as_deref(),
            Text::Cluster | Text::ClusterRaw => self.upstream_cluster.as_deref(),
            Text::ServerName => self.requested_server_name.as_deref(),
            Text::PeerUriSan => peer.filter(|name| name.contains("://")),
            Text::PeerDnsSan => peer.filter(|name| !name.contains("://")),
            Text::StreamId => self.request_id.as_deref(),
            Text::TraceId => self.trace_id.as_deref(),
            Text::FilterChain => self.filter_chain.as_deref(),
            Text::LogType => Some(match self.protocol {
                Some(_) => "DownstreamEnd",
                None => "TcpConnectionEnd",
            }),
            _ => None,
        };
        found.filter(|text| !text.is_empty()).map(Cow::Borrowed)
    }

    fn number(&self, number: Number) -> Option<i64> {
        match number {
            Number::ResponseCode => Some(self.response_code.into()),
            Number::BytesReceived => i64::try_from(self.bytes_received).ok(),
            Number::BytesSent => i64::try_from(self.bytes_sent).ok(),
            _ => None,
        }
    }
}

impl Line {
    fn flags_in_words(&self) -> String {
        let flags = self
            .response_flags
            .split(',')
            .filter(|flag| !matches!(*flag, "" | "-"));
        let words: Vec<&str> = flags
            .map(|flag| {
                FLAGS
                    .iter()
                    .find(|(short, _)| *short == flag)
                    .map_or(flag, |(_, long)| long)
            })
            .collect();
        if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Template;

    fn line() -> Line {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "curl".parse().unwrap());
        Line {
            protocol: Some("HTTP/2"),
            response_code: 503,
            response_flags: "UF,URX",
            response_code_details: "broken".into(),
            duration: 12,
            upstream_host: Some("10.0.0.1:80".into()),
            downstream_remote_address: "10.0.0.2:4711".into(),
            request_head: Some(Box::new(RequestHead {
                method: "GET".into(),
                path_and_query: "/a?b=1".into(),
                authority: "web".into(),
                scheme: "https".into(),
                headers,
            })),
            begun: Some(Instant::now()),
            ..Line::default()
        }
    }

    fn logger(text: &str, condition: Option<Condition>) -> Logger {
        Logger {
            sink: Some(Sink::Stdout),
            content: Content::Text(Template::parse(text).unwrap()),
            missing: Missing::Dash,
            condition,
        }
    }

    #[test]
    fn a_line_answers_envoys_operators() {
        let text = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(USER-AGENT)% %RESP(SERVER)% %CONNECTION_TERMINATION_DETAILS%\n";
        let (sink, text) = logger(text, None).write(&line()).unwrap();
        assert_eq!(sink, Sink::Stdout);
        assert_eq!(
            text,
            "GET /a?b=1 HTTP/2 503 UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded broken 10.0.0.1:80 10.0.0.2 curl - -\n"
        );
    }

    #[test]
    fn conditions_choose() {
        use Comparison::{AtLeast, AtMost, Equal, NotEqual};
        let flags =
            |list: &[&str]| Condition::Flags(list.iter().map(|flag| (*flag).to_owned()).collect());
        let cases = [
            (Condition::Status(AtLeast, 500), true),
            (Condition::Status(Equal, 200), false),
            (Condition::Status(NotEqual, 200), true),
            (Condition::Duration(AtMost, 11), false),
            (flags(&[]), true),
            (flags(&["NR", "URX"]), true),
            (flags(&["NR"]), false),
            (Condition::NotHealthCheck, true),
            (Condition::Share(0), false),
            (Condition::Share(1_000_000), true),
            (
                Condition::All(vec![Condition::Share(0), Condition::NotHealthCheck]),
                false,
            ),
            (
                Condition::Any(vec![Condition::Share(0), Condition::NotHealthCheck]),
                true,
            ),
        ];
        for (condition, expected) in cases {
            let text = format!("{condition:?}");
            assert_eq!(
                logger("x", Some(condition)).write(&line()).is_some(),
                expected,
                "{text}"
            );
        }
        let mut healthy = line();
        healthy.response_flags = "-";
        healthy.is_health_check = true;
        assert!(logger("x", Some(flags(&[]))).write(&healthy).is_none());
        assert!(
            logger("x", Some(Condition::NotHealthCheck))
                .write(&healthy)
                .is_none()
        );
    }
}
