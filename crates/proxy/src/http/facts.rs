//! A request under way, as format strings ask about it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use http::request::Parts;
use http::{HeaderMap, Version};

use super::headers::Target;
use crate::access::Line;
use crate::connection::Connection;
use crate::format::{Address, Facts, Moment, Number, Text};
use crate::matcher::RequestView;

/// What is known while a request is routed and answered.
pub struct Scene<'a> {
    /// The connection it came on.
    pub connection: &'a Connection,
    /// Its head.
    pub parts: &'a Parts,
    /// Where it goes.
    pub target: &'a Target,
    /// Its log line so far.
    pub line: &'a Line,
    /// The endpoint, once there is one.
    pub endpoint: Option<SocketAddr>,
    /// When it began.
    pub started: Instant,
    /// The response's headers, once there are any.
    pub response: Option<&'a HeaderMap>,
    /// The body of a local reply that is to be made anew.
    pub body: Option<&'a str>,
}

impl Facts for Scene<'_> {
    fn request(&self) -> Option<RequestView<'_>> {
        // What could not be read has no path.
        let view = self.target.view(&self.parts.method, &self.parts.headers);
        (!view.path_and_query.is_empty()).then_some(view)
    }

    fn response(&self) -> Option<&HeaderMap> {
        self.response
    }

    fn started(&self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(self.started.elapsed())
    }

    fn moment(&self, moment: Moment) -> Option<Instant> {
        match moment {
            Moment::RequestBegan => Some(self.started),
            Moment::Over => Some(Instant::now()),
            _ => None,
        }
    }

    fn address(&self, address: Address) -> Option<SocketAddr> {
        match address {
            Address::Remote | Address::DirectRemote => Some(self.connection.source),
            Address::Local | Address::DirectLocal => Some(self.connection.peer.destination),
            Address::Upstream => self.endpoint,
            Address::UpstreamLocal => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        let peer = &self.connection.peer;
        match text {
            Text::Protocol => Some(protocol(self.parts.version).into()),
            Text::RouteName => self.line.route_name.as_deref().map(Into::into),
            Text::Cluster | Text::ClusterRaw => {
                self.line.upstream_cluster.as_deref().map(Into::into)
            }
            Text::Details => {
                let details = self.line.response_code_details.as_str();
                (!details.is_empty()).then(|| details.into())
            }
            Text::Flags => {
                let flags = self.line.response_flags;
                Some(if flags.is_empty() { "-" } else { flags }.into())
            }
            Text::ServerName => peer.server_name.as_deref().map(Into::into),
            Text::FilterChain => Some(self.connection.chain.name.as_ref().into()),
            Text::PeerUriSan => {
                let names = peer
                    .names
                    .as_ref()?
                    .iter()
                    .filter(|name| name.contains("://"));
                let joined = names.map(String::as_str).collect::<Vec<_>>().join(",");
                (!joined.is_empty()).then(|| joined.into())
            }
            Text::LocalReplyBody => self.body.map(Into::into),
            _ => None,
        }
    }

    fn number(&self, number: Number) -> Option<i64> {
        match number {
            Number::ResponseCode => Some(self.line.response_code.into()),
            Number::BytesReceived | Number::BytesSent => Some(0),
            _ => None,
        }
    }
}

/// A version of HTTP as logs name it.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
