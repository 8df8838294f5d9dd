//! The groups of counters: what is counted, under which of Envoy's names.

use super::{Classes, Counter, Gauge, Histogram, Metric};

/// A group's fields, one after the other, with Envoy's short names.
pub type Visit<'a> = dyn FnMut(&'static str, &dyn Metric) + 'a;

/// A group of counters.
pub trait Group {
    /// Shows each field.
    fn each(&self, visit: &mut Visit<'_>);
}

/// `group! { /// doc Name { /// doc field: Type = "envoy_name", … } }`
macro_rules! group {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $short:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl Group for $name {
            fn each(&self, visit: &mut Visit<'_>) {
                $(visit($short, &self.$field);)*
            }
        }

        impl $name {
            /// Sets counters and histograms to zero.
            pub fn reset(&self) {
                $(self.$field.reset();)*
            }
        }
    };
}

group! {
    /// Counters of the proxy itself.
    ServerStats {
        /// The xDS stream stands.
        connected: Gauge = "control_plane.connected_state",
        /// Seconds until the own certificate ends, in days.
        certificate_days: Gauge = "server.days_until_first_cert_expiring",
        /// Connections open.
        connections: Gauge = "server.total_connections",
        /// Worker threads.
        concurrency: Gauge = "server.concurrency",
        /// Envoy's number of the state: 0 live, 1 draining, 2 pre-initializing.
        state: Gauge = "server.state",
        /// Bytes of resident memory.
        memory: Gauge = "server.memory_physical_size",
        /// Bytes of anonymous memory, the nearest there is to what was allocated.
        allocated: Gauge = "server.memory_allocated",
        /// Listeners added.
        listeners_added: Counter = "listener_manager.listener_added",
        /// Listeners changed.
        listeners_modified: Counter = "listener_manager.listener_modified",
        /// Listeners removed.
        listeners_removed: Counter = "listener_manager.listener_removed",
        /// Listeners whose sockets are open.
        listeners_created: Counter = "listener_manager.listener_create_success",
        /// Listeners whose sockets could not be opened.
        listeners_failed: Counter = "listener_manager.listener_create_failure",
        /// Listeners open.
        listeners_active: Gauge = "listener_manager.total_listeners_active",
        /// Connections refused for the global limit.
        connections_refused: Counter = "overload.global_downstream_max_connections.rejected",
        /// xDS streams opened.
        streams: Counter = "osm_proxy.xds_streams",
        /// Certificates received.
        certificates: Counter = "osm_proxy.certificates",
        /// Access log lines written.
        log_written: Counter = "access_logs.osm.written",
        /// Access log lines dropped because the output is too slow.
        log_dropped: Counter = "osm_proxy.access_log_dropped",
    }
}

group! {
    /// Counters of a cluster that requests and connections touch; its endpoints' are the cluster's own business.
    ClusterStats {
        /// Connections opened.
        connections: Counter = "upstream_cx_total",
        /// Connections open.
        connections_active: Gauge = "upstream_cx_active",
        /// HTTP/1 connections opened.
        http1_connections: Counter = "upstream_cx_http1_total",
        /// HTTP/2 connections opened.
        http2_connections: Counter = "upstream_cx_http2_total",
        /// Connections that failed to open.
        connect_failures: Counter = "upstream_cx_connect_fail",
        /// Connections that did not open in time.
        connect_timeouts: Counter = "upstream_cx_connect_timeout",
        /// From the attempt to the open connection.
        connect_time: Histogram = "upstream_cx_connect_ms",
        /// Connections refused by the circuit breaker.
        connection_overflow: Counter = "upstream_cx_overflow",
        /// Connections closed by us.
        closed_locally: Counter = "upstream_cx_destroy_local",
        /// Connections closed by the upstream.
        closed_remotely: Counter = "upstream_cx_destroy_remote",
        /// Connections closed by us with a request under way.
        closed_locally_busy: Counter = "upstream_cx_destroy_local_with_active_rq",
        /// Connections closed by the upstream with a request under way.
        closed_remotely_busy: Counter = "upstream_cx_destroy_remote_with_active_rq",
        /// Connections closed for idleness.
        idle_closed: Counter = "upstream_cx_idle_timeout",
        /// Connections closed after the most requests one may carry.
        worn_out: Counter = "upstream_cx_max_requests",
        /// Connections closed for a broken message.
        protocol_errors: Counter = "upstream_cx_protocol_error",
        /// Bytes sent.
        sent: Counter = "upstream_cx_tx_bytes_total",
        /// Bytes received.
        received: Counter = "upstream_cx_rx_bytes_total",
        /// Connections and requests without an endpoint.
        unhealthy: Counter = "upstream_cx_none_healthy",
        /// Requests sent.
        requests: Counter = "upstream_rq_total",
        /// Requests in flight.
        requests_active: Gauge = "upstream_rq_active",
        /// Requests answered.
        completed: Counter = "upstream_rq_completed",
        /// From a request's end to its response's.
        time: Histogram = "upstream_rq_time",
        /// Requests that waited for a connection.
        pending: Counter = "upstream_rq_pending_total",
        /// Requests that wait for a connection.
        pending_active: Gauge = "upstream_rq_pending_active",
        /// Requests refused by the circuit breaker.
        pending_overflow: Counter = "upstream_rq_pending_overflow",
        /// Requests failed because their connection did.
        pending_ejected: Counter = "upstream_rq_pending_failure_eject",
        /// Requests cancelled while they waited.
        cancelled: Counter = "upstream_rq_cancelled",
        /// Requests that timed out.
        timeouts: Counter = "upstream_rq_timeout",
        /// Attempts that timed out.
        attempt_timeouts: Counter = "upstream_rq_per_try_timeout",
        /// Requests the upstream reset.
        resets_received: Counter = "upstream_rq_rx_reset",
        /// Requests we reset.
        resets_sent: Counter = "upstream_rq_tx_reset",
        /// Retries.
        retries: Counter = "upstream_rq_retry",
        /// Retries refused by the circuit breaker.
        retry_overflow: Counter = "upstream_rq_retry_overflow",
        /// Requests that succeeded by retrying.
        retry_success: Counter = "upstream_rq_retry_success",
        /// Requests not retried any more: the limit of attempts was reached.
        retry_limit: Counter = "upstream_rq_retry_limit_exceeded",
        /// Responses by class.
        classes: Classes = "upstream_rq",
    }
}

group! {
    /// Counters of a listener.
    ListenerStats {
        /// Connections accepted.
        connections: Counter = "downstream_cx_total",
        /// Connections open.
        connections_active: Gauge = "downstream_cx_active",
        /// Connections closed.
        connections_closed: Counter = "downstream_cx_destroy",
        /// From a connection's begin to its end.
        connection_time: Histogram = "downstream_cx_length_ms",
        /// Connections refused for the listener's limit.
        overflow: Counter = "downstream_cx_overflow",
        /// Connections refused for the proxy's limit.
        global_overflow: Counter = "downstream_global_cx_overflow",
        /// Connections refused for want of descriptors or memory.
        overload_refused: Counter = "downstream_cx_overload_reject",
        /// Connections whose first bytes did not come in time.
        inspection_timeouts: Counter = "downstream_pre_cx_timeout",
        /// Connections that are inspected.
        inspected: Gauge = "downstream_pre_cx_active",
        /// Connections closed because their handshake was not done in time.
        handshake_timeouts: Counter = "downstream_cx_transport_socket_connect_timeout",
        /// Connections that no chain took.
        no_filter_chain: Counter = "no_filter_chain_match",
        /// TLS handshakes done.
        handshakes: Counter = "ssl.handshake",
        /// TLS handshakes that failed.
        handshake_errors: Counter = "ssl.connection_error",
        /// TLS connections that showed no certificate.
        without_certificate: Counter = "ssl.no_certificate",
        /// Connections that network RBAC let pass.
        rbac_allowed: Counter = "rbac.allowed",
        /// Connections that network RBAC refused.
        rbac_denied: Counter = "rbac.denied",
        /// Connections that network RBAC would let pass by its shadow rules.
        rbac_shadow_allowed: Counter = "rbac.shadow_allowed",
        /// Connections that network RBAC would refuse by its shadow rules.
        rbac_shadow_denied: Counter = "rbac.shadow_denied",
    }
}

group! {
    /// Counters of HTTP connection managers with one `stat_prefix`.
    HttpStats {
        /// Connections.
        connections: Counter = "downstream_cx_total",
        /// Connections open.
        connections_active: Gauge = "downstream_cx_active",
        /// HTTP/1 connections.
        http1_connections: Counter = "downstream_cx_http1_total",
        /// HTTP/1 connections open.
        http1_connections_active: Gauge = "downstream_cx_http1_active",
        /// HTTP/2 connections.
        http2_connections: Counter = "downstream_cx_http2_total",
        /// HTTP/2 connections open.
        http2_connections_active: Gauge = "downstream_cx_http2_active",
        /// TLS connections.
        tls_connections: Counter = "downstream_cx_ssl_total",
        /// TLS connections open.
        tls_connections_active: Gauge = "downstream_cx_ssl_active",
        /// Connections closed.
        connections_closed: Counter = "downstream_cx_destroy",
        /// From a connection's begin to its end.
        connection_time: Histogram = "downstream_cx_length_ms",
        /// Bytes received.
        received: Counter = "downstream_cx_rx_bytes_total",
        /// Bytes sent.
        sent: Counter = "downstream_cx_tx_bytes_total",
        /// Connections closed for idleness.
        idle_closed: Counter = "downstream_cx_idle_timeout",
        /// Connections closed for their age.
        aged_out: Counter = "downstream_cx_max_duration_reached",
        /// Connections closed after the most requests one may carry.
        worn_out: Counter = "downstream_cx_max_requests_reached",
        /// Connections closed for draining.
        drained: Counter = "downstream_cx_drain_close",
        /// Connections closed for a broken message.
        protocol_errors: Counter = "downstream_cx_protocol_error",
        /// Upgraded connections.
        upgrades: Counter = "downstream_cx_upgrades_total",
        /// Upgraded connections open.
        upgrades_active: Gauge = "downstream_cx_upgrades_active",
        /// Requests.
        requests: Counter = "downstream_rq_total",
        /// Requests in flight.
        requests_active: Gauge = "downstream_rq_active",
        /// HTTP/1 requests.
        http1_requests: Counter = "downstream_rq_http1_total",
        /// HTTP/2 requests.
        http2_requests: Counter = "downstream_rq_http2_total",
        /// Requests answered.
        completed: Counter = "downstream_rq_completed",
        /// From a request's begin to its response's end.
        time: Histogram = "downstream_rq_time",
        /// Responses by class.
        classes: Classes = "downstream_rq",
        /// Requests whose head or body did not come in time.
        timeouts: Counter = "downstream_rq_timeout",
        /// Requests whose head did not come in time.
        head_timeouts: Counter = "downstream_rq_header_timeout",
        /// Requests closed for idleness.
        idle_timeouts: Counter = "downstream_rq_idle_timeout",
        /// Requests closed for their age.
        max_duration: Counter = "downstream_rq_max_duration_reached",
        /// Requests the client reset.
        resets_received: Counter = "downstream_rq_rx_reset",
        /// Requests we reset.
        resets_sent: Counter = "downstream_rq_tx_reset",
        /// Requests with a body that is too large to buffer.
        too_large: Counter = "downstream_rq_too_large",
        /// Requests refused for want of descriptors or memory.
        overload_refused: Counter = "downstream_rq_overload_close",
        /// Upgrades that no route allows.
        upgrades_refused: Counter = "downstream_rq_ws_on_non_ws_route",
        /// Requests with a path that is no path.
        bad_paths: Counter = "downstream_rq_non_relative_path",
        /// Requests without a route.
        no_route: Counter = "no_route",
        /// Requests to a cluster that is not there.
        no_cluster: Counter = "no_cluster",
        /// Requests answered by a redirect of their route.
        redirects: Counter = "rq_redirect",
        /// Requests answered by their route itself.
        direct_responses: Counter = "rq_direct_response",
        /// Requests forwarded.
        forwarded: Counter = "rq_total",
        /// Requests that HTTP RBAC let pass.
        rbac_allowed: Counter = "rbac.allowed",
        /// Requests that HTTP RBAC refused.
        rbac_denied: Counter = "rbac.denied",
        /// Requests that HTTP RBAC would let pass by its shadow rules.
        rbac_shadow_allowed: Counter = "rbac.shadow_allowed",
        /// Requests that HTTP RBAC would refuse by its shadow rules.
        rbac_shadow_denied: Counter = "rbac.shadow_denied",
        /// Requests whose client chose to be traced.
        traced_by_client: Counter = "tracing.client_enabled",
        /// Requests drawn to be traced.
        traced_by_lot: Counter = "tracing.random_sampling",
        /// Requests not traced.
        not_traced: Counter = "tracing.not_traceable",
    }
}

group! {
    /// Counters of TCP proxies with one `stat_prefix`.
    TcpStats {
        /// Connections.
        connections: Counter = "downstream_cx_total",
        /// Connections without a cluster.
        no_route: Counter = "downstream_cx_no_route",
        /// Bytes received from clients.
        received: Counter = "downstream_cx_rx_bytes_total",
        /// Bytes sent to clients.
        sent: Counter = "downstream_cx_tx_bytes_total",
        /// Connections closed for idleness.
        idle_closed: Counter = "idle_timeout",
        /// Connections closed for their age.
        aged_out: Counter = "max_downstream_connection_duration",
    }
}
