//! Inputs and words that random mutation would not find.

use std::fmt::Write;

/// The resources of the control plane's golden cases, as (kind, bytes).
pub fn golden() -> Vec<(xds::client::Kind, Vec<u8>)> {
    let key =
        rcgen::generate_simple_self_signed(vec!["root".into()]).expect("a certificate can be made");
    let trust = xds::resources::TrustBundle {
        pem: key.cert.pem(),
    };
    let mut list = Vec::new();
    for (_, config) in cases::cases() {
        let snapshot = xds::resources::snapshot(&config, &trust);
        for kind in xds::client::Kind::ALL {
            let Some(resources) = snapshot.resources.get(kind.type_url()) else {
                continue;
            };
            list.extend(
                resources
                    .values()
                    .map(|resource| (kind, resource.any.value.clone())),
            );
        }
    }
    list
}

/// Names of messages and protocol words, in libFuzzer's form.
pub fn dictionary() -> String {
    let mut words = String::new();
    let page = proxy::config::support::markdown();
    for name in page.lines().filter_map(|line| line.strip_prefix("## ")) {
        let _ = writeln!(words, "\"type.googleapis.com/{name}\"");
    }
    for word in [
        "HTTP/1.1",
        "GET ",
        "PRI * ",
        "\\x0d\\x0a",
        "host:",
        "content-length:",
        "transfer-encoding:",
        "chunked",
        "connection:",
        "upgrade:",
        "h2c",
        "websocket",
        "x-forwarded-client-cert",
        "spiffe://",
        "%2e",
        "%2f",
        "%5c",
        "../",
        "\\x16\\x03\\x01",
    ] {
        let _ = writeln!(words, "\"{word}\"");
    }
    words
}

#[allow(dead_code)]
#[path = "../../crates/xds/tests/support/mod.rs"]
mod cases;
