//! An authorization service decides over connections.

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

use super::facts::OfConnection;
use super::{Active, Refused};
use crate::connection::Connection;
use crate::http::call::GrpcService;
use crate::http::filters::counters::Counters;
use crate::http::filters::ext_authz::check;
use crate::http::filters::ext_authz::grpc::METHOD;
use crate::reason::Reason;

const TOTAL: usize = 0;
const ERROR: usize = 1;
const DENIED: usize = 2;
const FAILURE_MODE_ALLOWED: usize = 3;
const OK: usize = 4;
const CLOSED: usize = 5;
const ACTIVE: usize = 6;
/// Names of the counters, under `ext_authz.<stat_prefix>.`.
pub const NAMES: &[&str] = &[
    "total",
    "error",
    "denied",
    "failure_mode_allowed",
    "ok",
    "cx_closed",
    "active",
];

/// The filter.
#[derive(Debug)]
pub struct NetworkExtAuthz {
    /// The service.
    pub service: GrpcService,
    /// Connections pass when the service fails.
    pub failure_allowed: bool,
    /// The service is shown the client's certificate.
    pub certificate: bool,
    /// The service is shown the server name of the TLS handshake.
    pub tls_session: bool,
    /// Counters.
    pub counters: Counters,
}

impl NetworkExtAuthz {
    /// Asks for a connection, or refuses.
    pub(super) async fn admit(&self, connection: &Connection) -> Result<Active, Refused> {
        let scope = self.counters.scope(&connection.worker.shared.stats);
        let active = Active::new(scope, ACTIVE);
        scope.counter(TOTAL).increment();
        let mut attributes = check::of_connection(connection, self.tls_session);
        if self.certificate
            && let Some(source) = &mut attributes.source
        {
            source.certificate = connection.certificate_pem().unwrap_or_default();
        }
        let question = CheckRequest {
            attributes: Some(attributes),
        };
        let metadata = self.service.metadata(&OfConnection(connection));
        let worker = &connection.worker;
        let asked = self.service.call(worker, METHOD, metadata, &question);
        let (counter, refused) = match asked.await {
            Ok(CheckResponse { status, .. }) => {
                if status.is_none_or(|status| status.code == 0) {
                    (OK, None)
                } else {
                    (DENIED, Some(Reason::ExtAuthzDenied))
                }
            }
            Err(error) => {
                tracing::debug!(%error, "authorization service");
                (ERROR, Some(Reason::ExtAuthzError))
            }
        };
        scope.counter(counter).increment();
        match refused {
            Some(Reason::ExtAuthzError) if self.failure_allowed => {
                scope.counter(FAILURE_MODE_ALLOWED).increment();
                Ok(active)
            }
            Some(reason) => {
                scope.counter(CLOSED).increment();
                Err(reason.into())
            }
            None => Ok(active),
        }
    }
}
