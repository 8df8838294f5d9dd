//! The certificate signing call a sidecar makes: Istio's CA wire format over gRPC.
//!
//! The service has one unary method, so messages, client and server are written here by hand
//! instead of being generated.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{BoxFuture, Service, StdError, async_trait, http};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Full name of the gRPC service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Requests are a CSR and a number; 64 KiB is far above any RSA-4096 request.
const REQUEST_BOUND: usize = 64 * 1024;

/// Asks for a certificate. Field 2 is reserved and field 4 (metadata) unused in the protocol.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateRequest {
    /// The signing request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wished validity in seconds; the issuer may shorten it, 0 leaves it to the issuer.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
}

/// The issued certificate.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateResponse {
    /// PEM certificates: the leaf, then its issuers, the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// The caller's side, over any channel (the caller brings its own TLS connector).
#[derive(Clone, Debug)]
pub struct CertificateClient<T> {
    inner: tonic::client::Grpc<T>,
}

/// What an issuer implements.
#[async_trait]
pub trait CertificateService: Send + Sync + 'static {
    /// Authenticates the caller and signs its request.
    async fn create_certificate(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status>;
}

/// The issuer's side as a service for tonic's router.
#[derive(Debug)]
pub struct CertificateServer<T> {
    service: Arc<T>,
}

/// The bearer token of a call, if it carries one.
pub fn bearer_token(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

// === impl CertificateClient ===

impl<T> CertificateClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<StdError> + Send,
{
    /// A client over `channel`.
    pub fn new(channel: T) -> Self {
        Self {
            inner: tonic::client::Grpc::new(channel),
        }
    }

    /// Sends the signing request with a projected ServiceAccount token as proof of identity.
    pub async fn create_certificate(
        &mut self,
        request: CertificateRequest,
        token: &str,
    ) -> Result<CertificateResponse, Status> {
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Status::invalid_argument("the token is not a valid header value"))?;
        authorization.set_sensitive(true);
        let mut request = Request::new(request);
        request
            .metadata_mut()
            .insert("authorization", authorization);

        self.inner.ready().await.map_err(|e| {
            let error: StdError = e.into();
            Status::unavailable(format!("certificate service: {error}"))
        })?;
        let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
        let codec = ProstCodec::<CertificateRequest, CertificateResponse>::default();
        Ok(self.inner.unary(request, path, codec).await?.into_inner())
    }
}

// === impl CertificateServer ===

impl<T: CertificateService> CertificateServer<T> {
    /// Serves `service`.
    pub fn new(service: T) -> Self {
        Self {
            service: Arc::new(service),
        }
    }
}

impl<T> Clone for CertificateServer<T> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<T> NamedService for CertificateServer<T> {
    const NAME: &'static str = SERVICE;
}

struct CreateCertificate<T>(Arc<T>);

impl<T: CertificateService> UnaryService<CertificateRequest> for CreateCertificate<T> {
    type Response = CertificateResponse;
    type Future = BoxFuture<Response<CertificateResponse>, Status>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.create_certificate(request).await })
    }
}

impl<T, B> Service<http::Request<B>> for CertificateServer<T>
where
    T: CertificateService,
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != CREATE_CERTIFICATE {
            let unknown = Status::unimplemented(format!("{SERVICE} has no such method"));
            return Box::pin(async move { Ok(unknown.into_http()) });
        }
        let method = CreateCertificate(self.service.clone());
        Box::pin(async move {
            let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .apply_max_message_size_config(Some(REQUEST_BOUND), None);
            Ok(grpc.unary(method, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_protocols_field_numbers() {
        let request = CertificateRequest {
            csr: "x".into(),
            validity_duration: 3,
        };
        assert_eq!(request.encode_to_vec(), [0x0a, 1, b'x', 0x18, 3]);
        let response = CertificateResponse {
            cert_chain: vec!["a".into(), "b".into()],
        };
        assert_eq!(response.encode_to_vec(), [0x0a, 1, b'a', 0x0a, 1, b'b']);
    }

    #[test]
    fn bearer_tokens_are_read_from_the_authorization_header() {
        for (header, token) in [
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer  abc "), Some("abc")),
            (Some("Bearer "), None),
            (Some("Basic abc"), None),
            (Some("abc"), None),
            (None, None),
        ] {
            let mut metadata = MetadataMap::new();
            if let Some(header) = header {
                metadata.insert("authorization", header.parse().unwrap());
            }
            assert_eq!(bearer_token(&metadata), token, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_client_reaches_a_server_with_its_token() {
        struct Echo;
        #[async_trait]
        impl CertificateService for Echo {
            async fn create_certificate(
                &self,
                request: Request<CertificateRequest>,
            ) -> Result<Response<CertificateResponse>, Status> {
                let token = bearer_token(request.metadata())
                    .unwrap_or_default()
                    .to_owned();
                let cert_chain = vec![request.into_inner().csr, token];
                Ok(Response::new(CertificateResponse { cert_chain }))
            }
        }
        // The service itself is a valid channel: no socket needed.
        let mut client = CertificateClient::new(CertificateServer::new(Echo));
        let request = CertificateRequest {
            csr: "csr".into(),
            validity_duration: 0,
        };
        let response = client.create_certificate(request, "t0ken\n").await.unwrap();
        assert_eq!(response.cert_chain, ["csr", "t0ken"]);
    }
}
