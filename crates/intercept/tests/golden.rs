//! The rules as text, for the defaults and for everything at once. `UPDATE_GOLDEN=1` rewrites the files.

use std::path::Path;

use intercept::{LocalProxyMode, Options, Ruleset};

fn everything() -> Options {
    Options {
        // Overlaps and host bits on purpose: sets refuse the first, upstream accepts the second.
        outbound_ip_range_exclusion: [
            "10.1.2.3/32",
            "10.1.0.0/16",
            "192.168.1.77/24",
            "fd00:1::/32",
        ]
        .map(|net| net.parse().unwrap())
        .into(),
        outbound_ip_range_inclusion: ["10.0.0.0/8", "::/0"]
            .map(|net| net.parse().unwrap())
            .into(),
        outbound_port_exclusion: (1..=17)
            .map(|port| (9000 + port).try_into().unwrap())
            .collect(),
        inbound_port_exclusion: [22, 2222, 22].map(|port| port.try_into().unwrap()).into(),
        network_interface_exclusion: ["net1", "cali+"].map(|name| name.parse().unwrap()).into(),
        local_proxy_mode: LocalProxyMode::PodIp,
        pod_ip: ["10.244.0.7", "fd44::7"]
            .map(|ip| ip.parse().unwrap())
            .into(),
        ..Options::default()
    }
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(
        text, golden,
        "{name} differs; UPDATE_GOLDEN=1 accepts the change"
    );
}

#[test]
fn rules_are_as_reviewed() {
    for (name, options) in [
        ("defaults", Options::default()),
        ("everything", everything()),
    ] {
        let rules = Ruleset::new(&options);
        let (v4, v6) = rules.iptables();
        compare(&format!("{name}.nft"), &rules.nft());
        compare(&format!("{name}.v4.rules"), &v4);
        compare(&format!("{name}.v6.rules"), &v6);
    }
}
