//! The mesh's own resources are taken by the mesh's own proxy, every field of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../xds/tests/support/mod.rs"]
mod support;

use proxy::config::ConfigParser;
use xds::client::{Kind, Parser};
use xds::resources::{TrustBundle, snapshot};

#[test]
fn nothing_the_policy_compiler_sends_is_refused() {
    let authority = ca::Authority::generate(std::time::SystemTime::now()).unwrap();
    let trust = TrustBundle {
        pem: authority.certificate_pem().to_owned(),
    };
    let mut seen = 0;
    for (name, config) in support::cases() {
        for (type_url, resources) in snapshot(&config, &trust).resources {
            let kind = Kind::of(type_url).unwrap();
            for (resource, content) in resources {
                let mut parser = ConfigParser {
                    own_certificate: "service-cert:ns/sa".into(),
                };
                let parsed = parser.parse(kind, &resource, &content.any);
                assert!(
                    parsed.is_ok(),
                    "{name}: {resource}: {}",
                    parsed.unwrap_err()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen} resources");
}
