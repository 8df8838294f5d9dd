//! ClusterIP balancing: Services and their endpoints become one nft table in the node's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use tokio::io::AsyncWriteExt;

use crate::NodeConfig;
use crate::catalog::{Backend, Catalog, cluster_ips};
use crate::mirror::Key;

/// Changes that arrive within this time are loaded together.
const BURST: Duration = Duration::from_millis(20);
/// `nft` answers in milliseconds; longer means that it hangs.
const LOAD_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps the node's nft table equal to the Services until dropped. `loaded` is told of every load.
pub async fn balance(
    config: &NodeConfig,
    catalog: &Catalog,
    loaded: tokio::sync::watch::Sender<u64>,
) {
    let (mut services, mut endpoints, mut slices) = (
        catalog.services.changes(),
        catalog.endpoints.changes(),
        catalog.slices.changes(),
    );
    catalog.services.ready().await;
    catalog.endpoints.ready().await;
    let mut last = String::new();
    loop {
        services.mark_unchanged();
        endpoints.mark_unchanged();
        slices.mark_unchanged();
        let rules = ruleset(config, catalog);
        if rules != last {
            match load(&rules).await {
                Ok(()) => {
                    last = rules;
                    loaded.send_modify(|n| *n += 1);
                }
                Err(error) => {
                    tracing::error!(%error, "the Service rules could not be loaded; trying again in a second");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        let changed = tokio::select! {
            changed = services.changed() => changed,
            changed = endpoints.changed() => changed,
            changed = slices.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(BURST).await;
    }
}

/// One way in to a Service port: where it listens and which chain answers.
type Frontends = BTreeMap<(IpAddr, &'static str, u16), String>;

/// The whole table as one atomic transaction.
fn ruleset(config: &NodeConfig, catalog: &Catalog) -> String {
    let mut frontends = Frontends::new();
    let mut chains = String::new();
    let mut hairpin = BTreeSet::new();
    for (key, service) in catalog.services.snapshot().iter() {
        add_service(
            config,
            catalog,
            key,
            service,
            &mut frontends,
            &mut chains,
            &mut hairpin,
        );
    }
    let mut out =
        String::from("table inet cluster {}\ndelete table inet cluster\ntable inet cluster {\n");
    for (suffix, family, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
        let elements = frontends.iter().filter(|((ip, ..), _)| ip.is_ipv4() == v4);
        let elements: Vec<_> = elements
            .map(|((ip, protocol, port), chain)| {
                format!("{ip} . {protocol} . {port} : goto {chain}")
            })
            .collect();
        let _ = writeln!(
            out,
            "  map services{suffix} {{\n    type {family} . inet_proto . inet_service : verdict;"
        );
        list(&mut out, &elements);
        let _ = writeln!(
            out,
            "  set hairpin{suffix} {{\n    type {family} . {family};"
        );
        let pairs: Vec<_> = hairpin
            .iter()
            .filter(|ip: &&IpAddr| ip.is_ipv4() == v4)
            .map(|ip| format!("{ip} . {ip}"))
            .collect();
        list(&mut out, &pairs);
    }
    out.push_str(&chains);
    for (chain, hook) in [("arriving", "prerouting"), ("leaving", "output")] {
        let _ = writeln!(
            out,
            "  chain {chain} {{\n    type nat hook {hook} priority -100; policy accept;"
        );
        out.push_str("    ip daddr . meta l4proto . th dport vmap @services4\n");
        out.push_str("    ip6 daddr . meta l4proto . th dport vmap @services6\n  }\n");
    }
    out.push_str(
        "  chain returning {\n    type nat hook postrouting priority 100; policy accept;\n",
    );
    out.push_str("    ip saddr . ip daddr @hairpin4 masquerade\n    ip6 saddr . ip6 daddr @hairpin6 masquerade\n  }\n");
    // What is still addressed to a ClusterIP here has no endpoint (or no such port): refuse at once. TCP reset and not
    // ICMP, for ICMPv6 makes connect() wait a second.
    out.push_str("  chain refused {\n    meta l4proto tcp reject with tcp reset\n    reject with icmpx type port-unreachable\n  }\n");
    for (chain, hook) in [("passing", "forward"), ("own", "output")] {
        let _ = writeln!(
            out,
            "  chain {chain} {{\n    type filter hook {hook} priority 0; policy accept;"
        );
        out.push_str("    fib daddr type local accept\n");
        for range in &config.service_cidrs {
            let family = if range.addr().is_ipv4() { "ip" } else { "ip6" };
            let _ = writeln!(out, "    {family} daddr {range} jump refused");
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

fn list(out: &mut String, elements: &[String]) {
    if !elements.is_empty() {
        let _ = writeln!(out, "    elements = {{ {} }};", elements.join(", "));
    }
    out.push_str("  }\n");
}

fn add_service(
    config: &NodeConfig,
    catalog: &Catalog,
    key: &Key,
    service: &Service,
    frontends: &mut Frontends,
    chains: &mut String,
    hairpin: &mut BTreeSet<IpAddr>,
) {
    let Some(spec) = &service.spec else { return };
    let mut addresses = cluster_ips(service);
    let balancers = service
        .status
        .iter()
        .flat_map(|s| s.load_balancer.iter())
        .flat_map(|l| l.ingress.iter().flatten());
    addresses.extend(
        spec.external_ips
            .iter()
            .flatten()
            .filter_map(|a| a.parse::<IpAddr>().ok()),
    );
    addresses.extend(balancers.filter_map(|i| i.ip.as_ref()?.parse::<IpAddr>().ok()));
    addresses.retain(|a| *a != config.dns_address);
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => "udp",
            Some("SCTP") => "sctp",
            _ => "tcp",
        };
        let backends = catalog.backends(key, port);
        for (suffix, family, v4) in [("4", "ip", true), ("6", "ip6", false)] {
            let of_family: Vec<_> = backends.iter().filter(|b| b.ip.is_ipv4() == v4).collect();
            let mut ways = Vec::new();
            if let Ok(number) = u16::try_from(port.port) {
                ways.extend(
                    addresses
                        .iter()
                        .filter(|a| a.is_ipv4() == v4)
                        .map(|a| (*a, protocol, number)),
                );
            }
            if let Some(number) = port
                .node_port
                .and_then(|n| u16::try_from(n).ok())
                .filter(|n| *n > 0)
            {
                ways.extend(
                    config
                        .addresses
                        .iter()
                        .filter(|a| a.is_ipv4() == v4)
                        .map(|a| (*a, protocol, number)),
                );
            }
            if of_family.is_empty() || ways.is_empty() {
                continue;
            }
            let chain = format!("service{suffix}_{}", frontends.len());
            write_chain(chains, &chain, family, protocol, sticky, &of_family, key);
            frontends.extend(ways.into_iter().map(|way| (way, chain.clone())));
            hairpin.extend(of_family.iter().map(|b| b.ip));
        }
    }
}

fn write_chain(
    out: &mut String,
    chain: &str,
    family: &str,
    protocol: &str,
    sticky: bool,
    backends: &[&Backend],
    key: &Key,
) {
    let _ = writeln!(out, "  chain {chain} {{ # {}/{}", key.0, key.1);
    let choice = if sticky {
        format!("jhash {family} saddr")
    } else {
        "numgen random".to_owned()
    };
    match backends {
        [
            Backend {
                ip: IpAddr::V4(ip),
                port,
                ..
            },
        ] => {
            let _ = writeln!(out, "    meta l4proto {protocol} dnat ip to {ip}:{port}");
        }
        [
            Backend {
                ip: IpAddr::V6(ip),
                port,
                ..
            },
        ] => {
            let _ = writeln!(out, "    meta l4proto {protocol} dnat ip6 to [{ip}]:{port}");
        }
        many => {
            let choices: Vec<_> = many
                .iter()
                .enumerate()
                .map(|(i, b)| format!("{i} : {} . {}", b.ip, b.port))
                .collect();
            let _ = writeln!(
                out,
                "    meta l4proto {protocol} dnat {family} to {choice} mod {} map {{ {} }}",
                many.len(),
                choices.join(", ")
            );
        }
    }
    out.push_str("  }\n");
}

/// Gives rules to `nft` as one transaction, in the calling process's network namespace.
pub async fn load(rules: &str) -> io::Result<()> {
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("nft: {e}")))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes()).await?;
    }
    let output = tokio::time::timeout(LOAD_DEADLINE, child.wait_with_output())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nft did not answer"))??;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "nft: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Endpoints;
    use serde_json::json;

    use super::*;
    use crate::mirror::Mirror;

    fn catalog() -> Catalog {
        let service = |name: &str, ip: &str, affinity: &str| {
            serde_json::from_value::<Service>(json!({
                "metadata": {"namespace": "default", "name": name},
                "spec": {"clusterIP": ip, "sessionAffinity": affinity, "ports": [{"port": 80, "nodePort": 0}]}
            }))
            .unwrap()
        };
        let endpoints = |name: &str, ips: &[&str]| {
            let addresses: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            serde_json::from_value::<Endpoints>(json!({
                "metadata": {"namespace": "default", "name": name},
                "subsets": [{"addresses": addresses, "ports": [{"port": 8080}]}]
            }))
            .unwrap()
        };
        Catalog {
            services: Mirror::fixed([
                service("web", "10.96.1.1", "None"),
                service("one", "10.96.1.2", "None"),
                service("none", "10.96.1.3", "None"),
                service("sticky", "10.96.1.4", "ClientIP"),
                service("dns", "10.96.0.10", "None"),
            ]),
            endpoints: Mirror::fixed([
                endpoints("web", &["10.244.0.5", "10.244.0.6"]),
                endpoints("one", &["10.244.0.5"]),
                endpoints("sticky", &["10.244.0.5", "10.244.0.6"]),
                endpoints("dns", &["172.31.255.1"]),
            ]),
            slices: Mirror::default(),
        }
    }

    fn config() -> NodeConfig {
        NodeConfig::new(
            "/run".into(),
            "/log".into(),
            "/images".into(),
            "/exe".into(),
        )
    }

    #[test]
    fn services_with_endpoints_are_translated_and_others_left_to_be_refused() {
        let rules = ruleset(&config(), &catalog());
        assert!(rules.contains("10.96.1.1 . tcp . 80 : goto"), "{rules}");
        assert!(rules.contains("dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.0.6 . 8080 }"), "{rules}");
        assert!(rules.contains("dnat ip to 10.244.0.5:8080"), "{rules}");
        assert!(
            rules.contains("dnat ip to jhash ip saddr mod 2 map"),
            "{rules}"
        );
        assert!(
            !rules.contains("10.96.1.3"),
            "no endpoint, no translation: {rules}"
        );
        assert!(
            !rules.contains("10.96.0.10"),
            "DNS is local to the node: {rules}"
        );
        assert!(rules.contains("10.244.0.6 . 10.244.0.6"), "{rules}");
    }
}
