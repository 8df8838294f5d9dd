//! TLS contexts and secrets.

use super::common::{DATA_SOURCE, STRING_MATCHER};
use super::message;

message!(DOWNSTREAM_SOCKET, "envoy.config.core.v3.TransportSocket", {
    1 name: take,
    3 typed_config: any DOWNSTREAM_TLS,
});

message!(UPSTREAM_SOCKET, "envoy.config.core.v3.TransportSocket", {
    1 name: take,
    3 typed_config: any UPSTREAM_TLS RAW_BUFFER,
});

message!(DOWNSTREAM_TLS, "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", {
    1 common_tls_context: into COMMON_TLS,
    2 require_client_certificate: take,
    3 require_sni: take,
    4 session_ticket_keys: refuse,
    5 session_ticket_keys_sds_secret_config: refuse,
    6 session_timeout: ignore "sessions live with their configuration",
    7 disable_stateless_session_resumption: take,
    8 ocsp_staple_policy: zero "no OCSP",
    9 full_scan_certs_on_sni_mismatch: refuse,
    10 disable_stateful_session_resumption: take,
    11 prefer_client_ciphers: ignore "AES-GCM first",
});

message!(UPSTREAM_TLS, "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", {
    1 common_tls_context: into COMMON_TLS,
    2 sni: take,
    3 allow_renegotiation: zero "never",
    4 max_session_keys: take,
    5 enforce_rsa_key_usage: ignore "checked by the verifier",
    6 auto_host_sni: take,
    7 auto_sni_san_validation: take,
});

message!(COMMON_TLS, "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext", {
    1 tls_params: into TLS_PARAMETERS,
    2 tls_certificates: each TLS_CERTIFICATE,
    3 validation_context: into VALIDATION,
    4 alpn_protocols: take,
    6 tls_certificate_sds_secret_configs: each SDS_CONFIG,
    7 validation_context_sds_secret_config: into SDS_CONFIG,
    8 combined_validation_context: into COMBINED_VALIDATION,
    9 tls_certificate_certificate_provider: refuse,
    10 validation_context_certificate_provider: refuse,
    11 tls_certificate_certificate_provider_instance: refuse,
    12 validation_context_certificate_provider_instance: refuse,
    13 custom_handshaker: refuse,
    14 tls_certificate_provider_instance: refuse,
    15 key_log: refuse,
    16 custom_tls_certificate_selector: refuse,
});

message!(COMBINED_VALIDATION, "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext", {
    1 default_validation_context: into VALIDATION,
    2 validation_context_sds_secret_config: into SDS_CONFIG,
    3 validation_context_certificate_provider: refuse,
    4 validation_context_certificate_provider_instance: refuse,
});

message!(TLS_PARAMETERS, "envoy.extensions.transport_sockets.tls.v3.TlsParameters", {
    1 tls_minimum_protocol_version: take,
    2 tls_maximum_protocol_version: take,
    3 cipher_suites: take,
    4 ecdh_curves: take,
    5 signature_algorithms: refuse,
    6 compliance_policies: refuse,
});

message!(TLS_CERTIFICATE, "envoy.extensions.transport_sockets.tls.v3.TlsCertificate", {
    1 certificate_chain: into DATA_SOURCE,
    2 private_key: into DATA_SOURCE,
    3 password: refuse,
    4 ocsp_staple: refuse,
    5 signed_certificate_timestamp: refuse,
    6 private_key_provider: refuse,
    7 watched_directory: refuse,
    8 pkcs12: refuse,
    9 tls_params: refuse,
});

message!(VALIDATION, "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext", {
    1 trusted_ca: into DATA_SOURCE,
    2 verify_certificate_hash: take,
    3 verify_certificate_spki: take,
    6 require_signed_certificate_timestamp: refuse,
    7 crl: into DATA_SOURCE,
    8 allow_expired_certificate: refuse,
    9 match_subject_alt_names: refuse,
    10 trust_chain_verification: zero "always verified",
    11 watched_directory: refuse,
    12 custom_validator_config: into VALIDATOR,
    13 ca_certificate_provider_instance: refuse,
    14 only_verify_leaf_cert_crl: take,
    15 match_typed_subject_alt_names: each SAN_MATCHER,
    16 max_verify_depth: ignore "bounded by the verifier",
    17 system_root_certs: refuse,
    18 suppress_client_ca_list: ignore "no list is sent",
});

message!(VALIDATOR, "envoy.config.core.v3.TypedExtensionConfig", {
    1 name: take,
    2 typed_config: any SPIFFE_VALIDATOR,
});

message!(SPIFFE_VALIDATOR, "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig", {
    1 trust_domains: each SPIFFE_TRUST_DOMAIN,
    2 trust_bundles: refuse,
});

message!(SPIFFE_TRUST_DOMAIN, "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain", {
    1 name: take,
    2 trust_bundle: into DATA_SOURCE,
    3 workload_trust_domain: refuse,
});

message!(SAN_MATCHER, "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher", {
    1 san_type: take,
    2 matcher: into STRING_MATCHER,
    3 oid: refuse,
});

message!(SDS_CONFIG, "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", {
    1 name: take,
    2 sds_config: ignore "always ADS, or our own certificate",
});

message!(SECRET, "envoy.extensions.transport_sockets.tls.v3.Secret", {
    1 name: take,
    2 tls_certificate: into TLS_CERTIFICATE,
    3 session_ticket_keys: refuse,
    4 validation_context: into VALIDATION,
    5 generic_secret: refuse,
});

message!(
    RAW_BUFFER,
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    {}
);
