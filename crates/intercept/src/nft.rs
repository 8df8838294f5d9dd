//! The rules as one nft script.
//!
//! Written for nft 1.0.6 (Debian 12), which is stricter than later ones: every rule ends its line, `redirect` and `dnat`
//! need the protocol in the same rule, and the priority of a nat chain on the output hook must be a number.

use std::fmt::Write;
use std::net::IpAddr;

use crate::options::{LocalProxyMode, Options, by_family, distinct};
use crate::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PLAIN_INBOUND_PORTS, PROXY_UID};

/// The script: it replaces the table as one transaction, so that there is no moment with half the rules.
pub(crate) fn render(options: &Options) -> String {
    let mut script = String::new();
    // `add` before `delete` because deleting an absent table is an error; `destroy` needs kernel 6.3.
    script.push_str("add table inet osm\ndelete table inet osm\ntable inet osm {\n");
    chain(
        &mut script,
        "OSM_PROXY_IN_REDIRECT",
        &[format!("meta l4proto tcp redirect to :{INBOUND_PORT}")],
    );
    chain(
        &mut script,
        "OSM_PROXY_OUT_REDIRECT",
        &[format!("meta l4proto tcp redirect to :{OUTBOUND_PORT}")],
    );
    chain(&mut script, "OSM_PROXY_INBOUND", &inbound(options));
    chain(&mut script, "OSM_PROXY_OUTBOUND", &outbound(options));
    hook(&mut script, "prerouting", "OSM_PROXY_INBOUND");
    hook(&mut script, "output", "OSM_PROXY_OUTBOUND");
    script.push_str("}\n");
    script
}

fn chain(script: &mut String, name: &str, rules: &[String]) {
    let _ = writeln!(script, "  chain {name} {{");
    for rule in rules {
        let _ = writeln!(script, "    {rule}");
    }
    script.push_str("  }\n");
}

fn hook(script: &mut String, hook: &str, target: &str) {
    let rules = [
        format!("type nat hook {hook} priority -100; policy accept;"),
        format!("meta l4proto tcp jump {target}"),
    ];
    chain(script, hook, &rules);
}

fn inbound(options: &Options) -> Vec<String> {
    let mut rules = Vec::new();
    rules.extend(ports_return(&distinct(&options.inbound_port_exclusion)));
    rules.extend(
        options
            .network_interface_exclusion
            .iter()
            .map(|name| format!("iifname \"{}\" return", name.nft())),
    );
    rules.extend(ports_return(&PLAIN_INBOUND_PORTS));
    rules.push("jump OSM_PROXY_IN_REDIRECT".to_owned());
    rules
}

fn outbound(options: &Options) -> Vec<String> {
    let mut rules = Vec::new();
    if options.local_proxy_mode == LocalProxyMode::PodIp {
        rules.extend(options.pod_ip.iter().map(to_pod_ip));
    }
    // The application calling itself through its Service: the sidecar's second half, inbound, must see it too.
    rules.push(format!(
        "oifname \"lo\" ip daddr != 127.0.0.1 meta skuid {PROXY_UID} jump OSM_PROXY_IN_REDIRECT"
    ));
    rules.push(format!(
        "oifname \"lo\" ip6 daddr != ::1 meta skuid {PROXY_UID} jump OSM_PROXY_IN_REDIRECT"
    ));
    rules.push(format!("oifname \"lo\" meta skuid != {PROXY_UID} return"));
    rules.push(format!("meta skuid {PROXY_UID} return"));
    rules.push("ip daddr 127.0.0.1 return".to_owned());
    rules.push("ip6 daddr ::1 return".to_owned());
    rules.extend(
        options
            .network_interface_exclusion
            .iter()
            .map(|name| format!("oifname \"{}\" return", name.nft())),
    );
    rules.extend(ranges(&options.outbound_ip_range_exclusion, "return"));
    rules.extend(ports_return(&distinct(&options.outbound_port_exclusion)));
    if options.outbound_ip_range_inclusion.is_empty() {
        rules.push("jump OSM_PROXY_OUT_REDIRECT".to_owned());
    } else {
        rules.extend(ranges(
            &options.outbound_ip_range_inclusion,
            "jump OSM_PROXY_OUT_REDIRECT",
        ));
        rules.push("return".to_owned());
    }
    rules
}

/// What the sidecar sends to loopback goes to the pod's address instead. Its own administration port stays, since that
/// one is on loopback only and its metrics listener reads it there.
fn to_pod_ip(address: &IpAddr) -> String {
    let (family, loopback) = match address {
        IpAddr::V4(_) => ("ip", "127.0.0.1"),
        IpAddr::V6(_) => ("ip6", "::1"),
    };
    format!(
        "oifname \"lo\" {family} daddr {loopback} meta skuid {PROXY_UID} meta l4proto tcp tcp dport != {ADMIN_PORT} dnat {family} to {address}"
    )
}

fn ports_return(ports: &[u16]) -> Option<String> {
    if ports.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    Some(format!("tcp dport {{ {} }} return", ports.join(", ")))
}

fn ranges(ranges: &[ipnet::IpNet], verdict: &str) -> Vec<String> {
    let (v4, v6) = by_family(ranges);
    let v4: Vec<(String, bool)> = v4
        .iter()
        .map(|net| (net.to_string(), net.prefix_len() == 0))
        .collect();
    let v6: Vec<(String, bool)> = v6
        .iter()
        .map(|net| (net.to_string(), net.prefix_len() == 0))
        .collect();
    let mut rules = Vec::new();
    for (family, protocol, nets) in [("ip", "ipv4", v4), ("ip6", "ipv6", v6)] {
        if nets.is_empty() {
            continue;
        }
        // "Everything" is no element of a set; merged ranges leave it alone in the list.
        if nets.iter().any(|(_, all)| *all) {
            rules.push(format!("meta nfproto {protocol} {verdict}"));
        } else {
            let nets: Vec<String> = nets.into_iter().map(|(net, _)| net).collect();
            rules.push(format!(
                "{family} daddr {{ {} }} {verdict}",
                nets.join(", ")
            ));
        }
    }
    rules
}
