//! The certificate signing call a sidecar makes: Istio's CA wire format over gRPC.
