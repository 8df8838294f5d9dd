//! What a context negotiates, keeps and refuses.

use pb::common_tls_context::ValidationContextType;
use rustls::{NamedGroup, ProtocolVersion};

use super::*;

#[test]
fn versions_and_key_exchanges_are_as_configured() {
    use pb::tls_parameters::TlsProtocol as Version;
    let root = Root::new();
    let leaf = root.uri(CLIENT);
    let with = |lowest: Version, highest: Version, curves: &[&str], ciphers: &[&str]| {
        let mut context = common(Some(&leaf), Some(trust(&root)));
        context.tls_params = Some(pb::TlsParameters {
            tls_minimum_protocol_version: lowest.into(),
            tls_maximum_protocol_version: highest.into(),
            ecdh_curves: curves.iter().map(|name| (*name).to_owned()).collect(),
            cipher_suites: ciphers.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        });
        context
    };
    let auto = || with(Version::TlsAuto, Version::TlsAuto, &[], &[]);
    let (tls12, tls13) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
    let only = |version| with(version, version, &[], &[]);
    let cases = [
        (
            "defaults",
            auto(),
            auto(),
            Some((tls13, NamedGroup::X25519MLKEM768)),
        ),
        (
            "one end at 1.2",
            only(Version::TlSv12),
            auto(),
            Some((tls12, NamedGroup::X25519)),
        ),
        (
            "1.2 and 1.3",
            only(Version::TlSv12),
            only(Version::TlSv13),
            None,
        ),
        (
            "P-256",
            with(Version::TlsAuto, Version::TlsAuto, &["P-256"], &[]),
            auto(),
            Some((tls13, NamedGroup::secp256r1)),
        ),
        (
            "X25519 and P-256",
            with(Version::TlsAuto, Version::TlsAuto, &["P-256"], &[]),
            with(Version::TlsAuto, Version::TlsAuto, &["X25519"], &[]),
            None,
        ),
        (
            "a suite of RSA and a key of EC",
            with(
                Version::TlSv12,
                Version::TlSv12,
                &[],
                &["ECDHE-RSA-AES128-GCM-SHA256"],
            ),
            auto(),
            None,
        ),
        (
            "a suite of EC",
            with(
                Version::TlSv12,
                Version::TlSv12,
                &[],
                &["ECDHE-ECDSA-CHACHA20-POLY1305"],
            ),
            auto(),
            Some((tls12, NamedGroup::X25519)),
        ),
    ];
    for (name, one, other, expected) in cases {
        for (near, far) in [(&one, &other), (&other, &one)] {
            let got = shake(
                &client(&upstream(near.clone())).unwrap(),
                &server(&demanding(far.clone())).unwrap(),
            );
            let got = got.ok().map(|(client, _)| {
                let group = client.negotiated_key_exchange_group().unwrap().name();
                (client.protocol_version().unwrap(), group)
            });
            assert_eq!(got, expected, "{name}");
        }
    }
}

#[test]
fn the_server_must_be_whom_its_server_name_says_where_that_is_asked() {
    let root = Root::new();
    for (name, good) in [
        ("web.shop.example", true),
        ("*.shop.example", true),
        ("other.example", false),
    ] {
        let server = server(&pb::DownstreamTlsContext {
            common_tls_context: Some(common(Some(&root.leaf(dns(name))), None)),
            ..Default::default()
        })
        .unwrap();
        let mut message = upstream(common(None, Some(trust(&root))));
        message.sni = "web.shop.example".into();
        assert!(shake(&client(&message).unwrap(), &server).is_ok());
        message.auto_sni_san_validation = true;
        assert_eq!(
            shake(&client(&message).unwrap(), &server).is_ok(),
            good,
            "{name}"
        );
        message.sni = String::new();
        assert!(client(&message).is_err(), "no name to compare with");
        message.auto_host_sni = true;
        let client = client(&message).unwrap();
        assert_eq!(
            client.name("web.example"),
            "web.example".try_into().unwrap()
        );
    }
}

#[test]
fn sessions_end_with_the_roots_that_they_began_with() {
    let (root, next) = (Root::new(), Root::new());
    let us = root.uri("spiffe://cluster.local/us/ns");
    let client = client(&upstream(common(
        Some(&root.uri(CLIENT)),
        Some(trust(&root)),
    )))
    .unwrap();
    let before = server(&demanding(common(Some(&us), Some(trust(&root))))).unwrap();
    let kinds: Vec<_> = (0..2)
        .map(|_| shake(&client, &before).unwrap().1.handshake_kind().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]
    );
    let after = server(&demanding(common(Some(&us), Some(trust(&next))))).unwrap();
    assert!(
        shake(&client, &after).is_err(),
        "the client's root is no longer trusted"
    );
    let mut message = upstream(common(Some(&root.uri(CLIENT)), Some(trust(&root))));
    message.max_session_keys = Some(Default::default());
    let forgetful = super::client(&message).unwrap();
    for _ in 0..2 {
        let (_, server) = shake(&forgetful, &before).unwrap();
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn what_would_weaken_or_mean_nothing_is_refused() {
    let root = Root::new();
    let leaf = root.uri(CLIENT);
    type Spoil = fn(&mut pb::CommonTlsContext);
    fn validation(context: &mut pb::CommonTlsContext) -> &mut pb::CertificateValidationContext {
        match &mut context.validation_context_type {
            Some(ValidationContextType::ValidationContext(found)) => found,
            _ => panic!("an inline context"),
        }
    }
    let cases: [(&str, Spoil); 9] = [
        ("common_tls_context.tls_params.ecdh_curves", |context| {
            let curves = vec!["P-521".to_owned()];
            context.tls_params = Some(pb::TlsParameters {
                ecdh_curves: curves,
                ..Default::default()
            });
        }),
        (
            "common_tls_context.tls_params.tls_maximum_protocol_version",
            |context| {
                let highest = pb::tls_parameters::TlsProtocol::TlSv11.into();
                context.tls_params = Some(pb::TlsParameters {
                    tls_maximum_protocol_version: highest,
                    ..Default::default()
                });
            },
        ),
        (
            "common_tls_context.validation_context.trusted_ca",
            |context| validation(context).trusted_ca = None,
        ),
        (
            "common_tls_context.validation_context.trusted_ca",
            |context| validation(context).trusted_ca = inline(""),
        ),
        (
            "common_tls_context.validation_context.verify_certificate_hash[0]",
            |context| {
                validation(context).verify_certificate_hash = vec!["abc".into()];
            },
        ),
        (
            "common_tls_context.validation_context.verify_certificate_spki[0]",
            |context| {
                validation(context).verify_certificate_spki = vec!["!".into()];
            },
        ),
        ("common_tls_context.validation_context.crl", |context| {
            validation(context).crl = inline("nothing")
        }),
        (
            "common_tls_context.tls_certificates[0].private_key",
            |context| {
                context.tls_certificates[0].private_key =
                    inline("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
            },
        ),
        ("common_tls_context.tls_certificates[0]", |context| {
            context.tls_certificates[0].private_key =
                inline(&KeyPair::generate().unwrap().serialize_pem());
        }),
    ];
    for (path, spoil) in cases {
        let mut context = common(Some(&leaf), Some(trust(&root)));
        spoil(&mut context);
        let refused = server(&demanding(context)).map(drop).unwrap_err();
        assert_eq!(refused.path, path);
        assert!(
            !refused.reason.contains("AAAA"),
            "no key is quoted: {}",
            refused.reason
        );
    }
}

#[test]
fn no_key_is_in_what_is_printed() {
    let root = Root::new();
    let leaf = root.uri(CLIENT);
    let typed = tls::downstream(
        &demanding(common(Some(&leaf), Some(trust(&root)))),
        &mut context(),
    )
    .unwrap();
    let printed = format!("{typed:?}");
    let secret: Vec<&str> = leaf
        .key
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    assert!(!printed.contains("PRIVATE") && secret.iter().all(|line| !printed.contains(line)));
    let bytes = KeyPair::from_pem(&leaf.key).unwrap().serialize_der();
    let numbers = format!("{:?}", &bytes[30..50]);
    assert!(
        !printed.contains(numbers.trim_matches(['[', ']'])),
        "nor as bytes"
    );
}
