//! The rules as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`, with upstream's chain names.

use std::fmt::Write;
use std::net::IpAddr;

use crate::options::{LocalProxyMode, Options, by_family, distinct};
use crate::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PLAIN_INBOUND_PORTS, PROXY_UID};

/// Ports that one multiport match takes (XT_MULTI_PORTS); longer lists become several rules.
const PORTS_PER_RULE: usize = 15;

/// Address family of one script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What the script does with the jumps from the built-in chains, the only rules outside our own chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jumps {
    /// Add them: nothing of ours is there yet.
    Add,
    /// Delete them and add them again. The whole script fails, and changes nothing, if there are none.
    Replace,
}

/// The script. Declaring a chain of our own empties it, so the script can be loaded any number of times.
pub(crate) fn render(options: &Options, family: Family, jumps: Jumps) -> String {
    let mut script = String::from("*nat\n");
    for chain in [
        "OSM_PROXY_INBOUND",
        "OSM_PROXY_IN_REDIRECT",
        "OSM_PROXY_OUTBOUND",
        "OSM_PROXY_OUT_REDIRECT",
    ] {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    let mut rules = Vec::new();
    let builtin = [
        "PREROUTING -p tcp -j OSM_PROXY_INBOUND",
        "OUTPUT -p tcp -j OSM_PROXY_OUTBOUND",
    ];
    if jumps == Jumps::Replace {
        rules.extend(builtin.map(|rule| format!("-D {rule}")));
    }
    rules.push(format!(
        "-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND_PORT}"
    ));
    rules.push(format!(
        "-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}"
    ));
    inbound(options, &mut rules);
    outbound(options, family, &mut rules);
    rules.extend(builtin.map(|rule| format!("-A {rule}")));
    for rule in rules {
        script.push_str(&rule);
        script.push('\n');
    }
    script.push_str("COMMIT\n");
    script
}

fn inbound(options: &Options, rules: &mut Vec<String>) {
    ports_return(
        &distinct(&options.inbound_port_exclusion),
        "OSM_PROXY_INBOUND",
        rules,
    );
    for name in &options.network_interface_exclusion {
        rules.push(format!(
            "-A OSM_PROXY_INBOUND -i {} -j RETURN",
            name.iptables()
        ));
    }
    for port in PLAIN_INBOUND_PORTS {
        rules.push(format!(
            "-A OSM_PROXY_INBOUND -p tcp --dport {port} -j RETURN"
        ));
    }
    rules.push("-A OSM_PROXY_INBOUND -p tcp -j OSM_PROXY_IN_REDIRECT".to_owned());
}

fn outbound(options: &Options, family: Family, rules: &mut Vec<String>) {
    let mut append = |rule: String| rules.push(format!("-A OSM_PROXY_OUTBOUND {rule}"));
    let loopback = match family {
        Family::V4 => "127.0.0.1/32",
        Family::V6 => "::1/128",
    };
    if options.local_proxy_mode == LocalProxyMode::PodIp {
        // Upstream inserts this in OUTPUT; in our own chain it can be replaced without looking for it. The
        // administration port stays: it is on loopback only and the sidecar's metrics listener reads it there.
        for address in options
            .pod_ip
            .iter()
            .filter(|address| family_of(address) == family)
        {
            let target = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            append(format!(
                "-o lo -d {loopback} -p tcp ! --dport {ADMIN_PORT} -m owner --uid-owner {PROXY_UID} -j DNAT --to-destination {target}"
            ));
        }
    }
    append(format!(
        "-o lo ! -d {loopback} -m owner --uid-owner {PROXY_UID} -j OSM_PROXY_IN_REDIRECT"
    ));
    append(format!(
        "-o lo -m owner ! --uid-owner {PROXY_UID} -j RETURN"
    ));
    append(format!("-m owner --uid-owner {PROXY_UID} -j RETURN"));
    append(format!("-d {loopback} -j RETURN"));
    for name in &options.network_interface_exclusion {
        append(format!("-o {} -j RETURN", name.iptables()));
    }
    for range in ranges(&options.outbound_ip_range_exclusion, family) {
        append(format!("-d {range} -j RETURN"));
    }
    ports_return(
        &distinct(&options.outbound_port_exclusion),
        "OSM_PROXY_OUTBOUND",
        rules,
    );
    let mut append = |rule: String| rules.push(format!("-A OSM_PROXY_OUTBOUND {rule}"));
    if options.outbound_ip_range_inclusion.is_empty() {
        append("-j OSM_PROXY_OUT_REDIRECT".to_owned());
    } else {
        for range in ranges(&options.outbound_ip_range_inclusion, family) {
            append(format!("-d {range} -j OSM_PROXY_OUT_REDIRECT"));
        }
        append("-j RETURN".to_owned());
    }
}

fn ports_return(ports: &[u16], chain: &str, rules: &mut Vec<String>) {
    for some in ports.chunks(PORTS_PER_RULE) {
        let some: Vec<String> = some.iter().map(u16::to_string).collect();
        rules.push(format!(
            "-A {chain} -p tcp -m multiport --dports {} -j RETURN",
            some.join(",")
        ));
    }
}

fn ranges(ranges: &[ipnet::IpNet], family: Family) -> Vec<String> {
    let (v4, v6) = by_family(ranges);
    match family {
        Family::V4 => v4.iter().map(ToString::to_string).collect(),
        Family::V6 => v6.iter().map(ToString::to_string).collect(),
    }
}

fn family_of(address: &IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}
