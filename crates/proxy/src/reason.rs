//! Why a request or connection was refused or failed: one stable table for logs, metrics, replies and docs.

use std::fmt::Write;

use http::StatusCode;

/// A reason. Its name never changes; new ones are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No route of the host matches, or no host does.
    RouteNotFound,
    /// The route's cluster is not configured.
    ClusterNotFound,
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// The endpoint refused the connection or could not be reached.
    ConnectFailed,
    /// The endpoint did not answer in time.
    ConnectTimeout,
    /// TLS with the endpoint failed: its certificate, or it refused ours.
    UpstreamTls,
    /// The cluster's TLS secrets have not arrived.
    SecretsMissing,
    /// The upstream closed the connection before its answer.
    UpstreamClosed,
    /// The upstream's answer is not HTTP.
    UpstreamProtocol,
    /// The route's timeout passed.
    Timeout,
    /// Nothing was received or sent for too long.
    IdleTimeout,
    /// A policy does not allow it.
    Denied,
    /// The request is malformed.
    BadRequest,
    /// The route allows no such upgrade.
    UpgradeForbidden,
    /// No filter chain takes the connection.
    NoFilterChain,
    /// The connection's TLS handshake failed.
    DownstreamTls,
    /// Its protocol was not recognized in time.
    InspectionTimeout,
    /// The connection came to the proxy's own port.
    Loop,
    /// The proxy is short of memory or descriptors.
    Overloaded,
    /// The client went away.
    ClientGone,
    /// A circuit breaker of the cluster is open.
    UpstreamOverflow,
    /// The control plane wants a share of the requests dropped.
    DropOverload,
    /// The upstream reset the request's stream.
    UpstreamReset,
    /// The upstream refused the request's stream unread.
    UpstreamRefused,
    /// One attempt took too long.
    PerTryTimeout,
    /// The request's headers exceed a limit.
    HeadersTooLarge,
    /// The request's headers did not arrive in time.
    HeadersTimeout,
    /// The request's transfer coding is not supported.
    UnsupportedCoding,
    /// HTTP/1.0 is not accepted.
    VersionTooLow,
    /// An attempt was silent for too long.
    PerTryIdleTimeout,
    /// Request and response together took too long.
    MaxDuration,
    /// The request did not come whole in time.
    RequestTimeout,
    /// No PROXY header, or a broken one, where the listener wants one.
    ProxyProtocol,
    /// A limit of this proxy is reached.
    LocalRateLimited,
    /// A rate limit service says that the limit is reached.
    RateLimited,
    /// The rate limit service failed, and nothing passes without it.
    RateLimitServiceError,
    /// An authorization service does not allow it.
    ExtAuthzDenied,
    /// The authorization service failed, and nothing passes without it.
    ExtAuthzError,
    /// A fault was to be injected.
    FaultAbort,
    /// A fault was to be injected, after a wait.
    DelayedFaultAbort,
    /// The body is larger than a filter may hold.
    PayloadTooLarge,
    /// The proxy, or a cluster it answers for, is not healthy.
    HealthCheckFailed,
    /// As many connections as the filter allows.
    ConnectionLimit,
    /// Errors or slow answers have broken the cluster's circuit.
    CircuitOpen,
    /// The request names no host.
    MissingHost,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client.
    Downstream,
    /// The server.
    Upstream,
    /// A policy: it is meant so.
    Policy,
    /// The configuration or its absence.
    Configuration,
    /// This proxy.
    Local,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Envoy's response code details, stable.
    pub details: &'static str,
    /// Envoy's response flag.
    pub flag: &'static str,
    /// Status of the local reply.
    pub status: StatusCode,
    /// Body of the local reply.
    pub body: &'static str,
    /// Who has to act.
    pub blame: Blame,
}

const fn row(
    details: &'static str,
    flag: &'static str,
    status: StatusCode,
    body: &'static str,
    blame: Blame,
) -> Row {
    Row {
        details,
        flag,
        status,
        body,
        blame,
    }
}

impl Reason {
    /// All of them, in the order of the docs.
    pub const ALL: [Reason; 45] = [
        Reason::RouteNotFound,
        Reason::ClusterNotFound,
        Reason::NoHealthyUpstream,
        Reason::ConnectFailed,
        Reason::ConnectTimeout,
        Reason::UpstreamTls,
        Reason::SecretsMissing,
        Reason::UpstreamClosed,
        Reason::UpstreamProtocol,
        Reason::Timeout,
        Reason::IdleTimeout,
        Reason::Denied,
        Reason::BadRequest,
        Reason::UpgradeForbidden,
        Reason::NoFilterChain,
        Reason::DownstreamTls,
        Reason::InspectionTimeout,
        Reason::Loop,
        Reason::Overloaded,
        Reason::ClientGone,
        Reason::UpstreamOverflow,
        Reason::DropOverload,
        Reason::UpstreamReset,
        Reason::UpstreamRefused,
        Reason::PerTryTimeout,
        Reason::HeadersTooLarge,
        Reason::HeadersTimeout,
        Reason::UnsupportedCoding,
        Reason::VersionTooLow,
        Reason::PerTryIdleTimeout,
        Reason::MaxDuration,
        Reason::RequestTimeout,
        Reason::ProxyProtocol,
        Reason::LocalRateLimited,
        Reason::RateLimited,
        Reason::RateLimitServiceError,
        Reason::ExtAuthzDenied,
        Reason::ExtAuthzError,
        Reason::FaultAbort,
        Reason::DelayedFaultAbort,
        Reason::PayloadTooLarge,
        Reason::HealthCheckFailed,
        Reason::ConnectionLimit,
        Reason::CircuitOpen,
        Reason::MissingHost,
    ];

    /// Its name, as `docs/reasons.md` and the header `x-osm-reason` say it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The table: bodies, flags and details are Envoy's.
    pub const fn row(self) -> Row {
        use Blame::{Configuration, Downstream, Local, Policy, Upstream};
        use StatusCode as S;
        match self {
            Reason::RouteNotFound => row("route_not_found", "NR", S::NOT_FOUND, "", Policy),
            Reason::ClusterNotFound => row(
                "cluster_not_found",
                "NC",
                S::SERVICE_UNAVAILABLE,
                "",
                Configuration,
            ),
            Reason::NoHealthyUpstream => row(
                "no_healthy_upstream",
                "UH",
                S::SERVICE_UNAVAILABLE,
                "no healthy upstream",
                Upstream,
            ),
            Reason::ConnectFailed => row(
                "upstream_reset_before_response_started{remote_connection_failure}",
                "UF",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
                Upstream,
            ),
            Reason::ConnectTimeout => row(
                "upstream_reset_before_response_started{connection_timeout}",
                "UF",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
                Upstream,
            ),
            Reason::UpstreamTls => row(
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
                "UF",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
                Upstream,
            ),
            Reason::SecretsMissing => row(
                "upstream_reset_before_response_started{local_connection_failure|TLS_secret_not_ready}",
                "UF",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: local connection failure, \
                 transport failure reason: TLS_error: Secret is not supplied by SDS",
                Configuration,
            ),
            Reason::UpstreamClosed => row(
                "upstream_reset_before_response_started{connection_termination}",
                "UC",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                Upstream,
            ),
            Reason::UpstreamProtocol => row(
                "upstream_reset_before_response_started{protocol_error}",
                "UPE",
                S::BAD_GATEWAY,
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                Upstream,
            ),
            Reason::Timeout => row(
                "response_timeout",
                "UT",
                S::GATEWAY_TIMEOUT,
                "upstream request timeout",
                Upstream,
            ),
            Reason::IdleTimeout => row(
                "stream_idle_timeout",
                "SI",
                S::REQUEST_TIMEOUT,
                "stream timeout",
                Downstream,
            ),
            Reason::Denied => row(
                "rbac_access_denied",
                "-",
                S::FORBIDDEN,
                "RBAC: access denied",
                Policy,
            ),
            Reason::BadRequest => row(
                "http.invalid_request",
                "DPE",
                S::BAD_REQUEST,
                "",
                Downstream,
            ),
            Reason::MissingHost => {
                row("missing_host_header", "DPE", S::BAD_REQUEST, "", Downstream)
            }
            Reason::UpgradeForbidden => row("upgrade_failed", "-", S::FORBIDDEN, "", Policy),
            Reason::NoFilterChain => row("filter_chain_not_found", "NR", S::NOT_FOUND, "", Policy),
            Reason::DownstreamTls => row(
                "downstream_tls_failure",
                "-",
                S::BAD_REQUEST,
                "",
                Downstream,
            ),
            Reason::InspectionTimeout => row(
                "listener_filter_timeout",
                "-",
                S::REQUEST_TIMEOUT,
                "",
                Downstream,
            ),
            Reason::Loop => row("own_port", "-", S::LOOP_DETECTED, "", Downstream),
            Reason::LocalRateLimited => row(
                "local_rate_limited",
                "RL",
                S::TOO_MANY_REQUESTS,
                "local_rate_limited",
                Policy,
            ),
            Reason::RateLimited => row(
                "request_rate_limited",
                "RL",
                S::TOO_MANY_REQUESTS,
                "",
                Policy,
            ),
            Reason::RateLimitServiceError => row(
                "rate_limiter_error",
                "RLSE",
                S::INTERNAL_SERVER_ERROR,
                "",
                Configuration,
            ),
            Reason::ExtAuthzDenied => row("ext_authz_denied", "UAEX", S::FORBIDDEN, "", Policy),
            Reason::ExtAuthzError => {
                row("ext_authz_error", "UAEX", S::FORBIDDEN, "", Configuration)
            }
            Reason::FaultAbort => row(
                "fault_filter_abort",
                "FI",
                S::SERVICE_UNAVAILABLE,
                "fault filter abort",
                Policy,
            ),
            Reason::DelayedFaultAbort => row(
                "fault_filter_abort{delayed}",
                "DI,FI",
                S::SERVICE_UNAVAILABLE,
                "fault filter abort",
                Policy,
            ),
            Reason::PayloadTooLarge => row(
                "request_payload_too_large",
                "-",
                S::PAYLOAD_TOO_LARGE,
                "Payload Too Large",
                Downstream,
            ),
            Reason::HealthCheckFailed => row(
                "health_check_failed",
                "LH",
                S::SERVICE_UNAVAILABLE,
                "",
                Upstream,
            ),
            Reason::ConnectionLimit => {
                row("connection_limit", "-", S::SERVICE_UNAVAILABLE, "", Policy)
            }
            // Status and body as osm-edge's, unless the cluster has its own.
            Reason::CircuitOpen => row(
                "circuit_open",
                "UO",
                S::CONFLICT,
                "Coming soon ...",
                Upstream,
            ),
            Reason::Overloaded => row(
                "overload",
                "OM",
                S::SERVICE_UNAVAILABLE,
                "envoy overloaded",
                Local,
            ),
            Reason::DropOverload => row(
                "drop_overload",
                "DO",
                S::SERVICE_UNAVAILABLE,
                "drop overload",
                Policy,
            ),
            Reason::UpstreamOverflow => row(
                "upstream_reset_before_response_started{overflow}",
                "UO",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                Upstream,
            ),
            Reason::ProxyProtocol => {
                row("proxy_protocol_error", "-", S::BAD_REQUEST, "", Downstream)
            }
            Reason::ClientGone => row(
                "downstream_remote_disconnect",
                "DC",
                S::BAD_REQUEST,
                "",
                Downstream,
            ),
            Reason::UpstreamReset => row(
                "upstream_reset_before_response_started{remote_reset}",
                "UR",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
                Upstream,
            ),
            Reason::UpstreamRefused => row(
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                "UR",
                S::SERVICE_UNAVAILABLE,
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
                Upstream,
            ),
            Reason::PerTryTimeout => row(
                "upstream_per_try_timeout",
                "UT",
                S::GATEWAY_TIMEOUT,
                "upstream request timeout",
                Upstream,
            ),
            Reason::HeadersTooLarge => row(
                "request_headers_too_large",
                "DPE",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "",
                Downstream,
            ),
            Reason::HeadersTimeout => row(
                "request_header_timeout",
                "DI",
                S::REQUEST_TIMEOUT,
                "request header timeout",
                Downstream,
            ),
            Reason::UnsupportedCoding => row(
                "http1.transfer_encoding_not_supported",
                "DPE",
                S::NOT_IMPLEMENTED,
                "",
                Downstream,
            ),
            Reason::PerTryIdleTimeout => row(
                "upstream_per_try_idle_timeout",
                "UT",
                S::GATEWAY_TIMEOUT,
                "upstream request timeout",
                Upstream,
            ),
            Reason::MaxDuration => row(
                "max_duration_timeout",
                "DT",
                S::REQUEST_TIMEOUT,
                "downstream duration timeout",
                Downstream,
            ),
            Reason::RequestTimeout => row(
                "request_overall_timeout",
                "-",
                S::REQUEST_TIMEOUT,
                "request timeout",
                Downstream,
            ),
            Reason::VersionTooLow => row("low_version", "-", S::UPGRADE_REQUIRED, "", Downstream),
        }
    }
}

/// The table as a Markdown page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Reasons\n\nWhy osm-proxy refused or ended a request or connection, printed by `osm-proxy reasons` from the table that the proxy itself uses.\n\
         Details and flag stand in the access log (`%RESPONSE_CODE_DETAILS%`, `%RESPONSE_FLAGS%`), reason and blame in the metric `osm_proxy_refusals`; status and body\n\
         are those of the reply where there is somebody to reply to (gRPC gets its own status). Blame says who has to act: the client (downstream), the server (upstream),\n\
         whoever wrote the policy, or whoever configured the mesh.\n\n\
         Where the route table's metadata say so (`osm.reason_header: true`; the MeshConfig's `observability.enableDebugServer` sets it), a request with the header\n\
         `x-osm-debug` gets reason and blame of its refusal in `x-osm-reason` and `x-osm-blame`, and in `x-osm-denied-by` the policy, or else the route or filter chain that\n\
         stands for it. Only verified callers of the mesh and the sidecar's own application are answered; from others' requests the wish, from their responses the answer is removed.\n\n\
         | reason | details | flag | status | body | blame |\n|---|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let row = reason.row();
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} | {} | {} |",
            reason.name(),
            row.details.replace('|', "\\|"),
            row.flag,
            row.status.as_u16(),
            row.body,
            row.blame.as_str()
        );
    }
    page
}

impl Blame {
    /// As it appears in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Downstream => "downstream",
            Blame::Upstream => "upstream",
            Blame::Policy => "policy",
            Blame::Configuration => "configuration",
            Blame::Local => "local",
        }
    }
}

/// gRPC's status for a local reply's HTTP status, as Envoy maps them.
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The HTTP status that a gRPC status stands for, as Envoy maps them.
pub fn grpc_to_http(status: u32) -> StatusCode {
    let code = match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_unique_and_refusals_are_errors() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            let row = reason.row();
            assert!(seen.insert(row.details), "{reason:?}");
            assert!(row.status.as_u16() >= 400, "{reason:?}");
        }
        assert_eq!(Reason::Denied.row().body.len(), 19);
    }
}
