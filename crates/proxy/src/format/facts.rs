//! What format strings are answered from.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use http::HeaderMap;

use crate::matcher::RequestView;

/// A request and its answer as far as they have come, or a connection. Whatever is not known is absent.
pub trait Facts {
    /// The request's head.
    fn request(&self) -> Option<RequestView<'_>> {
        None
    }

    /// The response's headers.
    fn response(&self) -> Option<&HeaderMap> {
        None
    }

    /// The response's trailers.
    fn trailers(&self) -> Option<&HeaderMap> {
        None
    }

    /// When the request or connection began, by the calendar.
    fn started(&self) -> Option<SystemTime> {
        None
    }

    /// When something happened.
    fn moment(&self, _: Moment) -> Option<Instant> {
        None
    }

    /// One of the addresses.
    fn address(&self, _: Address) -> Option<SocketAddr> {
        None
    }

    /// One of the texts.
    fn text(&self, _: Text) -> Option<Cow<'_, str>> {
        None
    }

    /// One of the numbers.
    fn number(&self, _: Number) -> Option<i64> {
        None
    }
}

/// An enumeration of which each variant has Envoy's name.
macro_rules! names {
    ($(#[$doc:meta])* $kind:ident { $($(#[$of:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kind {
            $($(#[$of])* $variant,)*
        }

        impl $kind {
            /// All of them.
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)*];

            /// Envoy's name.
            pub fn name(self) -> &'static str {
                match self {
                    $($kind::$variant => $name,)*
                }
            }

            pub(super) fn of(name: &str) -> Option<$kind> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}

names! {
    /// A moment of an exchange.
    Moment {
        /// The first byte of the request came.
        RequestBegan = "DS_RX_BEG",
        /// The last byte of the request came.
        RequestEnded = "DS_RX_END",
        /// The connection to the upstream was begun.
        ConnectBegan = "US_CX_BEG",
        /// The connection to the upstream stood.
        ConnectEnded = "US_CX_END",
        /// The TLS handshake with the upstream was done.
        HandshakeEnded = "US_HS_END",
        /// The first byte went to the upstream.
        UpstreamBegan = "US_TX_BEG",
        /// The last byte went to the upstream.
        UpstreamEnded = "US_TX_END",
        /// The first byte came from the upstream.
        AnswerBegan = "US_RX_BEG",
        /// The last byte came from the upstream.
        AnswerEnded = "US_RX_END",
        /// The first byte went to the client.
        ReplyBegan = "DS_TX_BEG",
        /// The last byte went to the client.
        ReplyEnded = "DS_TX_END",
        /// It is over, for good or bad.
        Over = "OVER",
    }
}

names! {
    /// An address.
    Address {
        /// The client, as forwarding headers tell it where they are believed.
        Remote = "DOWNSTREAM_REMOTE",
        /// The other end of the connection.
        DirectRemote = "DOWNSTREAM_DIRECT_REMOTE",
        /// Where the connection was going.
        Local = "DOWNSTREAM_LOCAL",
        /// Where it was accepted.
        DirectLocal = "DOWNSTREAM_DIRECT_LOCAL",
        /// The endpoint.
        Upstream = "UPSTREAM_REMOTE",
        /// Our end of the connection to it.
        UpstreamLocal = "UPSTREAM_LOCAL",
    }
}

names! {
    /// A text.
    Text {
        /// `HTTP/1.1` and the like.
        Protocol = "PROTOCOL",
        /// As above, towards the upstream.
        UpstreamProtocol = "UPSTREAM_PROTOCOL",
        /// Envoy's response code details.
        Details = "RESPONSE_CODE_DETAILS",
        /// Why the connection was closed.
        TerminationDetails = "CONNECTION_TERMINATION_DETAILS",
        /// Envoy's flags.
        Flags = "RESPONSE_FLAGS",
        /// Envoy's flags in words.
        FlagsLong = "RESPONSE_FLAGS_LONG",
        /// Name of the route.
        RouteName = "ROUTE_NAME",
        /// Name of the virtual host.
        VirtualCluster = "VIRTUAL_CLUSTER_NAME",
        /// Name of the cluster.
        Cluster = "UPSTREAM_CLUSTER",
        /// Name of the cluster, never the alternative one.
        ClusterRaw = "UPSTREAM_CLUSTER_RAW",
        /// Host name of the endpoint.
        UpstreamHostName = "UPSTREAM_HOST_NAME",
        /// As above, without its port.
        UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        /// All endpoints that were tried.
        HostsAttempted = "UPSTREAM_HOSTS_ATTEMPTED",
        /// Why TLS or the connection failed.
        UpstreamFailure = "UPSTREAM_TRANSPORT_FAILURE_REASON",
        /// As above, towards the client.
        DownstreamFailure = "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        /// Server name of the TLS handshake.
        ServerName = "REQUESTED_SERVER_NAME",
        /// Name of the filter chain.
        FilterChain = "FILTER_CHAIN_NAME",
        /// Which record of a log this is.
        LogType = "ACCESS_LOG_TYPE",
        /// The body of a local reply.
        LocalReplyBody = "LOCAL_REPLY_BODY",
        /// The id of the stream.
        StreamId = "STREAM_ID",
        /// The id of this record.
        UniqueId = "UNIQUE_ID",
        /// The id of the trace.
        TraceId = "TRACE_ID",
        /// URI names of the client's certificate.
        PeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
        /// DNS names of the client's certificate.
        PeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN",
        /// IP addresses of the client's certificate.
        PeerIpSan = "DOWNSTREAM_PEER_IP_SAN",
        /// Subject of the client's certificate.
        PeerSubject = "DOWNSTREAM_PEER_SUBJECT",
        /// Issuer of the client's certificate.
        PeerIssuer = "DOWNSTREAM_PEER_ISSUER",
        /// Serial number of the client's certificate.
        PeerSerial = "DOWNSTREAM_PEER_SERIAL",
        /// SHA-256 of the client's certificate.
        PeerFingerprint256 = "DOWNSTREAM_PEER_FINGERPRINT_256",
        /// The client's certificate in URL-encoded PEM.
        PeerCert = "DOWNSTREAM_PEER_CERT",
        /// URI names of our own certificate.
        LocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
        /// DNS names of our own certificate.
        LocalDnsSan = "DOWNSTREAM_LOCAL_DNS_SAN",
        /// Subject of our own certificate.
        LocalSubject = "DOWNSTREAM_LOCAL_SUBJECT",
        /// TLS session.
        TlsSessionId = "DOWNSTREAM_TLS_SESSION_ID",
        /// TLS suite.
        TlsCipher = "DOWNSTREAM_TLS_CIPHER",
        /// TLS version.
        TlsVersion = "DOWNSTREAM_TLS_VERSION",
        /// URI names of the upstream's certificate.
        UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
        /// DNS names of the upstream's certificate.
        UpstreamPeerDnsSan = "UPSTREAM_PEER_DNS_SAN",
        /// Subject of the upstream's certificate.
        UpstreamPeerSubject = "UPSTREAM_PEER_SUBJECT",
        /// Issuer of the upstream's certificate.
        UpstreamPeerIssuer = "UPSTREAM_PEER_ISSUER",
        /// TLS suite towards the upstream.
        UpstreamTlsCipher = "UPSTREAM_TLS_CIPHER",
        /// TLS version towards the upstream.
        UpstreamTlsVersion = "UPSTREAM_TLS_VERSION",
    }
}

names! {
    /// A number.
    Number {
        /// Status.
        ResponseCode = "RESPONSE_CODE",
        /// Of the body.
        BytesReceived = "BYTES_RECEIVED",
        /// Of the body.
        BytesSent = "BYTES_SENT",
        /// Of the head.
        RequestHeadersBytes = "REQUEST_HEADERS_BYTES",
        /// Of the head.
        ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES",
        /// Of the trailers.
        ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES",
        /// With framing.
        DownstreamWireBytesReceived = "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        /// With framing.
        DownstreamWireBytesSent = "DOWNSTREAM_WIRE_BYTES_SENT",
        /// Of heads, with framing.
        DownstreamHeaderBytesReceived = "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        /// Of heads, with framing.
        DownstreamHeaderBytesSent = "DOWNSTREAM_HEADER_BYTES_SENT",
        /// With framing.
        UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED",
        /// With framing.
        UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT",
        /// Of heads, with framing.
        UpstreamHeaderBytesReceived = "UPSTREAM_HEADER_BYTES_RECEIVED",
        /// Of heads, with framing.
        UpstreamHeaderBytesSent = "UPSTREAM_HEADER_BYTES_SENT",
        /// How often the request was sent.
        Attempts = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        /// Milliseconds until a connection was there.
        PoolReady = "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        /// The connection.
        ConnectionId = "CONNECTION_ID",
        /// The connection to the upstream.
        UpstreamConnectionId = "UPSTREAM_CONNECTION_ID",
    }
}

/// Other facts, but with headers as they are just now, in the middle of being changed.
pub struct Amended<'a> {
    /// The others.
    pub facts: &'a dyn Facts,
    /// The request's headers.
    pub request: Option<&'a HeaderMap>,
    /// The response's headers.
    pub response: Option<&'a HeaderMap>,
}

impl Facts for Amended<'_> {
    fn request(&self) -> Option<RequestView<'_>> {
        let request = self.facts.request()?;
        Some(match self.request {
            Some(headers) => RequestView { headers, ..request },
            None => request,
        })
    }

    fn response(&self) -> Option<&HeaderMap> {
        self.response.or_else(|| self.facts.response())
    }

    fn trailers(&self) -> Option<&HeaderMap> {
        self.facts.trailers()
    }

    fn started(&self) -> Option<SystemTime> {
        self.facts.started()
    }

    fn moment(&self, moment: Moment) -> Option<Instant> {
        self.facts.moment(moment)
    }

    fn address(&self, address: Address) -> Option<SocketAddr> {
        self.facts.address(address)
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        self.facts.text(text)
    }

    fn number(&self, number: Number) -> Option<i64> {
        self.facts.number(number)
    }
}
