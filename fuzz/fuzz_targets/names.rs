//! Certificates of strangers, and patterns of the configuration.

use proxy::matcher::StringMatch;
use rustls_pki_types::CertificateDer;

use crate::Target;

/// Names and identity of a certificate.
pub const CERTIFICATE: Target = Target {
    name: "certificate",
    run: |data| {
        let certificate = CertificateDer::from(data.to_vec());
        if let Some(names) = proxy::tls::names(&certificate) {
            if names.uris.len() > 1 {
                assert!(
                    names.principals().is_none(),
                    "two URI names are no identity"
                );
            }
        }
        if let Ok(identity) = ca::Identity::from_certificate(&certificate) {
            let uri = identity.uri();
            assert!(
                uri.starts_with("spiffe://") && !uri.contains(['\0', ' ', '%', '?', '#']),
                "{uri:?}"
            );
        }
    },
    seeds: || {
        let names = [
            vec!["web.a".to_owned(), "spiffe://cluster.local/a/b".to_owned()],
            vec!["10.0.0.1".to_owned()],
        ];
        names
            .map(|names| {
                let mut params =
                    rcgen::CertificateParams::new(names.clone()).expect("names are valid");
                if let Some(uri) = names.get(1) {
                    params.subject_alt_names =
                        vec![rcgen::SanType::URI(uri.clone().try_into().expect("ASCII"))];
                }
                let key = rcgen::KeyPair::generate().expect("a key can be made");
                params
                    .self_signed(&key)
                    .expect("a certificate can be made")
                    .der()
                    .to_vec()
            })
            .to_vec()
    },
};

/// A pattern (until the first newline) and a text.
pub const MATCHER: Target = Target {
    name: "regex",
    run: |data| {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        let (pattern, text) = text.split_once('\n').unwrap_or((text, ""));
        if let Ok(found) = StringMatch::regex(pattern) {
            let _ = found.matches(text);
        }
    },
    seeds: || {
        [
            ".*\nabc",
            "/(get|post)/[a-z]{1,30}\n/get/a",
            "(?i)a+\\d\nA1",
        ]
        .map(Into::into)
        .to_vec()
    },
};
