//! TLS contexts from protobuf to handshakes in memory: who is taken for whom, what is negotiated, what is refused.

mod certificates;
mod contexts;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use pb::subject_alt_name_matcher::SanType as Kind;
use prost::{Message, Name};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, KeyPair, SanType};
use rustls::{ClientConnection, ServerConnection};
use time::OffsetDateTime;

use self::certificates::{CLIENT, Leaf, Root};
use super::{Checked, Context, tls};
use crate::tls::{self as built, Inputs, OwnCertificate, TlsClient, TlsServer};

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    })
}

fn trust(root: &Root) -> pb::CertificateValidationContext {
    pb::CertificateValidationContext {
        trusted_ca: inline(&root.pem),
        ..Default::default()
    }
}

fn common(
    leaf: Option<&Leaf>,
    validation: Option<pb::CertificateValidationContext>,
) -> pb::CommonTlsContext {
    let certificate = leaf.map(|leaf| pb::TlsCertificate {
        certificate_chain: inline(&leaf.chain),
        private_key: inline(&leaf.key),
        ..Default::default()
    });
    pb::CommonTlsContext {
        tls_certificates: certificate.into_iter().collect(),
        validation_context_type: validation
            .map(pb::common_tls_context::ValidationContextType::ValidationContext),
        ..Default::default()
    }
}

fn context() -> Context {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Context {
        own_certificate: "own".into(),
        references: Vec::new(),
    }
}

fn server(message: &pb::DownstreamTlsContext) -> Checked<TlsServer> {
    let typed = tls::downstream(message, &mut context())?;
    let own = Arc::new(OwnCertificate::default());
    Ok(built::server(&typed, Inputs::default(), &own).unwrap())
}

fn client(message: &pb::UpstreamTlsContext) -> Checked<TlsClient> {
    let typed = tls::upstream(message, &mut context())?;
    let own = Arc::new(OwnCertificate::default());
    Ok(built::client(&typed, Inputs::default(), &own).unwrap())
}

fn demanding(common: pb::CommonTlsContext) -> pb::DownstreamTlsContext {
    pb::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

fn upstream(common: pb::CommonTlsContext) -> pb::UpstreamTlsContext {
    pb::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: "web.example".into(),
        ..Default::default()
    }
}

/// A handshake, and what either end knows of the other afterwards.
fn shake(
    client: &TlsClient,
    server: &TlsServer,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client.config.clone(), client.name(""))?;
    let mut server = ServerConnection::new(server.config.clone())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn named(kind: Kind, pattern: matcher::string_matcher::MatchPattern) -> pb::SubjectAltNameMatcher {
    pb::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        }),
        ..Default::default()
    }
}

type Change = Box<dyn Fn(&mut pb::CertificateValidationContext)>;

fn wanting(kind: Kind, pattern: matcher::string_matcher::MatchPattern) -> Change {
    Box::new(move |context| {
        context.match_typed_subject_alt_names = vec![named(kind, pattern.clone())]
    })
}

fn dns(name: &'static str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())]
}

#[test]
fn only_whom_the_context_means_is_trusted_in_either_direction() {
    use matcher::string_matcher::MatchPattern::{Exact, Prefix, SafeRegex, Suffix};
    let (root, other) = (Root::new(), Root::new());
    let now = OffsetDateTime::now_utc();
    let hour = Duration::from_secs(3600);
    let exact = || wanting(Kind::Uri, Exact(CLIENT.into()));
    let both = |more: &'static str| {
        root.leaf(|params| {
            let uris = [CLIENT, more].map(|uri| SanType::URI(uri.try_into().unwrap()));
            params.subject_alt_names = uris.to_vec();
        })
    };
    let regex = SafeRegex(matcher::RegexMatcher {
        regex: "spiffe://cluster\\.local/[a-z]+/ns".into(),
        ..Default::default()
    });
    let good = || root.uri(CLIENT);
    let cases: Vec<(&str, Leaf, Change, bool)> = vec![
        ("the one", good(), exact(), true),
        ("any name of the root", good(), Box::new(|_| {}), true),
        ("another root", other.uri(CLIENT), exact(), false),
        (
            "another name",
            root.uri("spiffe://cluster.local/client/other"),
            exact(),
            false,
        ),
        (
            "a longer name",
            root.uri("spiffe://cluster.local/client/ns/x"),
            exact(),
            false,
        ),
        (
            "another case",
            root.uri("spiffe://cluster.local/Client/ns"),
            exact(),
            false,
        ),
        (
            "expired",
            root.leaf(|params| {
                params.subject_alt_names = vec![SanType::URI(CLIENT.try_into().unwrap())];
                params.not_before = now - hour * 3;
                params.not_after = now - hour;
            }),
            exact(),
            false,
        ),
        (
            "not yet valid",
            root.leaf(|params| {
                params.subject_alt_names = vec![SanType::URI(CLIENT.try_into().unwrap())];
                params.not_before = now + hour;
            }),
            exact(),
            false,
        ),
        (
            "for neither purpose",
            root.leaf(|params| {
                params.subject_alt_names = vec![SanType::URI(CLIENT.try_into().unwrap())];
                params.extended_key_usages = vec![Usage::CodeSigning];
            }),
            exact(),
            false,
        ),
        (
            "two URIs, ours first",
            both("spiffe://cluster.local/admin/ns"),
            exact(),
            false,
        ),
        (
            "DNS only, of the same text",
            root.leaf(dns("cluster.local")),
            exact(),
            false,
        ),
        (
            "a common name only",
            root.leaf(|params| {
                params.distinguished_name.push(DnType::CommonName, CLIENT);
            }),
            exact(),
            false,
        ),
        ("version 1", root.version1(), Box::new(|_| {}), false),
        (
            "a URI with NUL",
            root.uri("spiffe://cluster.local/client/ns\0x"),
            wanting(Kind::Uri, Prefix(CLIENT.into())),
            false,
        ),
        (
            "a prefix",
            good(),
            wanting(Kind::Uri, Prefix("spiffe://cluster.local/".into())),
            true,
        ),
        (
            "a suffix",
            good(),
            wanting(Kind::Uri, Suffix("/ns".into())),
            true,
        ),
        (
            "a regular expression",
            good(),
            wanting(Kind::Uri, regex.clone()),
            true,
        ),
        (
            "one that matches in part only",
            root.uri("spiffe://cluster.local/client/ns2"),
            wanting(Kind::Uri, regex),
            false,
        ),
        (
            "the right text of the wrong kind",
            good(),
            wanting(Kind::Dns, Exact(CLIENT.into())),
            false,
        ),
        (
            "a DNS name",
            root.leaf(dns("web.example")),
            wanting(Kind::Dns, Exact("web.example".into())),
            true,
        ),
        (
            "a wildcard",
            root.leaf(dns("*.example")),
            wanting(Kind::Dns, Exact("web.example".into())),
            true,
        ),
        (
            "a wildcard for two labels",
            root.leaf(dns("*.example")),
            wanting(Kind::Dns, Exact("a.web.example".into())),
            false,
        ),
        (
            "a wildcard for none",
            root.leaf(dns("*.example")),
            wanting(Kind::Dns, Exact("example".into())),
            false,
        ),
        (
            "an address",
            root.leaf(|params| {
                params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())];
            }),
            wanting(Kind::IpAddress, Exact("10.0.0.1".into())),
            true,
        ),
        (
            "an e-mail address",
            root.leaf(|params| {
                params.subject_alt_names = vec![SanType::Rfc822Name("a@b".try_into().unwrap())];
            }),
            wanting(Kind::Email, Exact("a@b".into())),
            true,
        ),
    ];
    let us = root.uri("spiffe://cluster.local/us/ns");
    for (name, leaf, change, good) in &cases {
        let mut validation = trust(&root);
        change(&mut validation);
        let as_client = shake(
            &client(&upstream(common(Some(leaf), Some(trust(&root))))).unwrap(),
            &server(&demanding(common(Some(&us), Some(validation.clone())))).unwrap(),
        );
        assert_eq!(as_client.is_ok(), *good, "{name}, as client");
        let as_server = shake(
            &client(&upstream(common(Some(&us), Some(validation)))).unwrap(),
            &server(&demanding(common(Some(leaf), Some(trust(&root))))).unwrap(),
        );
        assert_eq!(as_server.is_ok(), *good, "{name}, as server");
    }
}

#[test]
fn pins_revocations_and_trust_domains_hold() {
    let (root, other) = (Root::new(), Root::new());
    let leaf = root.uri(CLIENT);
    let us = root.uri("spiffe://cluster.local/us/ns");
    let hex = |sum: [u8; 32]| sum.map(|byte| format!("{byte:02x}")).concat();
    let hash = hex(ca::fingerprint(&leaf.der));
    let colons: Vec<&str> = (0..32).map(|at| &hash[at * 2..at * 2 + 2]).collect();
    let colons = colons.join(":");
    let spki = {
        use base64::Engine;
        let sum = ca::fingerprint(&crate::tls::key(&leaf.der).unwrap());
        base64::engine::general_purpose::STANDARD.encode(sum)
    };
    let nobody = "00".repeat(32);
    let spiffe = |domains: &[(&str, &Root)]| {
        let trust_domains =
            domains.iter().map(
                |(name, root)| pb::spiffe_cert_validator_config::TrustDomain {
                    name: (*name).into(),
                    trust_bundle: inline(&root.pem),
                    ..Default::default()
                },
            );
        let config = pb::SpiffeCertValidatorConfig {
            trust_domains: trust_domains.collect(),
            ..Default::default()
        };
        TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".into(),
            typed_config: Some(Any {
                type_url: pb::SpiffeCertValidatorConfig::type_url(),
                value: config.encode_to_vec(),
            }),
        }
    };
    let with = |change: &dyn Fn(&mut pb::CertificateValidationContext)| {
        let mut validation = trust(&root);
        change(&mut validation);
        validation
    };
    let cases = [
        (
            "the hash",
            with(&|v| v.verify_certificate_hash = vec![nobody.clone(), hash.clone()]),
            true,
        ),
        (
            "the hash with colons",
            with(&|v| v.verify_certificate_hash = vec![colons.clone()]),
            true,
        ),
        (
            "another hash",
            with(&|v| v.verify_certificate_hash = vec![nobody.clone()]),
            false,
        ),
        (
            "the key",
            with(&|v| v.verify_certificate_spki = vec![spki.clone()]),
            true,
        ),
        (
            "the key or another hash",
            with(&|v| {
                v.verify_certificate_spki = vec![spki.clone()];
                v.verify_certificate_hash = vec![nobody.clone()];
            }),
            true,
        ),
        (
            "not revoked",
            with(&|v| v.crl = inline(&root.revocations(&[8]))),
            true,
        ),
        (
            "revoked",
            with(&|v| v.crl = inline(&root.revocations(&[7]))),
            false,
        ),
        (
            "a list of somebody else",
            with(&|v| v.crl = inline(&other.revocations(&[8]))),
            false,
        ),
        (
            "revoked, leaf only",
            with(&|v| {
                v.crl = inline(&root.revocations(&[7]));
                v.only_verify_leaf_cert_crl = true;
            }),
            false,
        ),
        (
            "the trust domain",
            with(&|v| {
                v.custom_validator_config = Some(spiffe(&[("cluster.local", &root), ("b", &other)]))
            }),
            true,
        ),
        (
            "the trust domain of another root",
            with(&|v| {
                v.custom_validator_config = Some(spiffe(&[("cluster.local", &other), ("b", &root)]))
            }),
            false,
        ),
        (
            "no such trust domain",
            with(&|v| v.custom_validator_config = Some(spiffe(&[("b", &root)]))),
            false,
        ),
    ];
    for (name, validation, good) in cases {
        let got = shake(
            &client(&upstream(common(Some(&leaf), Some(trust(&root))))).unwrap(),
            &server(&demanding(common(Some(&us), Some(validation)))).unwrap(),
        );
        assert_eq!(got.is_ok(), good, "{name}: {:?}", got.err());
    }
}

#[test]
fn a_client_certificate_may_be_optional_but_not_bad() {
    let (root, other) = (Root::new(), Root::new());
    let us = root.uri("spiffe://cluster.local/us/ns");
    let mut message = demanding(common(Some(&us), Some(trust(&root))));
    for (required, leaf, good) in [
        (true, None, false),
        (false, None, true),
        (false, Some(root.uri(CLIENT)), true),
        (false, Some(other.uri(CLIENT)), false),
    ] {
        message.require_client_certificate = Some(BoolValue { value: required });
        let client = client(&upstream(common(leaf.as_ref(), Some(trust(&root))))).unwrap();
        let got = shake(&client, &server(&message).unwrap());
        assert_eq!(
            got.is_ok(),
            good,
            "required {required}, shown {}",
            leaf.is_some()
        );
    }
}

#[test]
fn a_certificate_of_version_1_is_served_and_never_trusted() {
    let root = Root::new();
    let us = root.version1();
    let server = server(&pb::DownstreamTlsContext {
        common_tls_context: Some(common(Some(&us), None)),
        ..Default::default()
    })
    .unwrap();
    let ours = client(&upstream(common(None, Some(trust(&root))))).unwrap();
    assert!(shake(&ours, &server).is_err(), "we do not trust it");
    // A client of the old kind, which looks at no version.
    #[derive(Debug)]
    struct Trusting;
    impl ca::Judge for Trusting {
        fn judge(&self, _: &ca::Presented<'_>) -> Result<(), rustls::Error> {
            Ok(())
        }
    }
    let mut config = (*ours.config).clone();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(ca::Verifier::new(Trusting, true)));
    let old = TlsClient {
        for_http: None,
        config: Arc::new(config),
        name: ours.name.clone(),
        sni_of_host: false,
        inputs: Inputs::default(),
    };
    // rustls itself refuses to read the key out of it, whoever the verifier is: curl and OpenSSL take it.
    let error = shake(&old, &server).map(drop).unwrap_err();
    assert!(
        format!("{error:?}").contains("UnsupportedCertVersion"),
        "{error:?}"
    );
}
