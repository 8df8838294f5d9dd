//! What the cluster DNS knows: a pure look-up from a name to records.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;

use crate::catalog::{Backend, Catalog, cluster_ips};
use crate::mirror::Key;

/// A record's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// Another name, without its final dot.
    Alias(String),
    /// SRV: port and host.
    Server(u16, String),
    /// PTR.
    Pointer(String),
}

/// Names outside the cluster's zone, from ConfigMap `kube-system/dns`, key `hosts`.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: HashMap<String, Vec<IpAddr>>,
    wildcards: Vec<(String, IpAddr)>,
}

// === impl Hosts ===

impl Hosts {
    /// Reads the format of /etc/hosts; `*.example.org` stands for every name below example.org. Bad lines are returned.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut hosts, mut bad) = (Self::default(), Vec::new());
        for line in text.lines() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(first) = words.next() else { continue };
            let Ok(ip) = first.parse::<IpAddr>() else {
                bad.push(line.to_owned());
                continue;
            };
            for name in words {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                match name.strip_prefix('*') {
                    Some(suffix) => hosts.wildcards.push((suffix.to_owned(), ip)),
                    None => hosts.names.entry(name).or_default().push(ip),
                }
            }
        }
        (hosts, bad)
    }

    fn lookup(&self, name: &str) -> Option<Vec<Data>> {
        if let Some(ips) = self.names.get(name) {
            return Some(ips.iter().copied().map(Data::Address).collect());
        }
        let ips: Vec<_> = self
            .wildcards
            .iter()
            .filter(|(suffix, _)| name.ends_with(suffix))
            .map(|(_, ip)| Data::Address(*ip))
            .collect();
        (!ips.is_empty()).then_some(ips)
    }
}

/// Looks a name up (lower case, no final dot). `None`: there is no such name; empty: it has no records.
pub fn lookup(domain: &str, catalog: &Catalog, hosts: &Hosts, name: &str) -> Option<Vec<Data>> {
    if let Some(address) = reverse_address(name) {
        return reverse(domain, catalog, address);
    }
    let Some(inside) = name.strip_suffix(domain).map(|n| n.trim_end_matches('.')) else {
        return hosts.lookup(name);
    };
    let labels: Vec<&str> = inside.split('.').filter(|l| !l.is_empty()).collect();
    match labels.as_slice() {
        [] | ["svc" | "pod"] => Some(Vec::new()),
        [address, _namespace, "pod"] => Some(vec![Data::Address(dashed(address)?)]),
        [namespace, "svc"] => catalog
            .services
            .snapshot()
            .keys()
            .any(|(n, _)| n == namespace)
            .then(Vec::new),
        [rest @ .., service, namespace, "svc"] => {
            let key = ((*namespace).to_owned(), (*service).to_owned());
            let object = catalog.services.object(&key.0, &key.1)?;
            of_service(domain, catalog, &key, &object, rest)
        }
        _ => None,
    }
}

fn of_service(
    domain: &str,
    catalog: &Catalog,
    key: &Key,
    service: &Service,
    rest: &[&str],
) -> Option<Vec<Data>> {
    let spec = service.spec.as_ref()?;
    let full = format!("{}.{}.svc.{domain}", key.1, key.0);
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec
            .external_name
            .as_deref()?
            .trim_end_matches('.')
            .to_ascii_lowercase();
        return rest.is_empty().then(|| vec![Data::Alias(target)]);
    }
    let ips = cluster_ips(service);
    let headless = ips.is_empty();
    match rest {
        [] if headless => Some(
            catalog
                .hosts(key, service)
                .into_iter()
                .map(|b| Data::Address(b.ip))
                .collect(),
        ),
        [] => Some(ips.into_iter().map(Data::Address).collect()),
        [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
            let mut found = Vec::new();
            let wanted = spec.ports.iter().flatten().filter(|p| {
                p.name.as_deref() == port.get(1..)
                    && protocol.get(1..).is_some_and(|q| {
                        p.protocol
                            .as_deref()
                            .unwrap_or("TCP")
                            .eq_ignore_ascii_case(q)
                    })
            });
            for p in wanted {
                if headless {
                    let backends = catalog.backends(key, p).into_iter();
                    found.extend(
                        backends
                            .map(|b| Data::Server(b.port, format!("{}.{full}", host_label(&b)))),
                    );
                } else {
                    found.push(Data::Server(u16::try_from(p.port).ok()?, full.clone()));
                }
            }
            (!found.is_empty()).then_some(found)
        }
        [host] if headless => {
            let backends = catalog.hosts(key, service).into_iter();
            let found: Vec<_> = backends
                .filter(|b| host_label(b) == *host)
                .map(|b| Data::Address(b.ip))
                .collect();
            (!found.is_empty()).then_some(found)
        }
        _ => None,
    }
}

/// The label of one endpoint of a headless Service: its host name, or its address with dashes.
fn host_label(backend: &Backend) -> String {
    backend
        .hostname
        .clone()
        .unwrap_or_else(|| backend.ip.to_string().replace(['.', ':'], "-"))
}

/// `10-244-0-5` → 10.244.0.5; `fd44--5` → fd44::5.
fn dashed(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse()
        .ok()
        .map(IpAddr::V4)
        .or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = labels.rsplit('.').map(str::parse::<u8>);
        let mut next = || octets.next()?.ok();
        return Some(Ipv4Addr::new(next()?, next()?, next()?, next()?).into());
    }
    let nibbles: String = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    (nibbles.len() == 32)
        .then(|| u128::from_str_radix(&nibbles, 16).ok())?
        .map(|bits| IpAddr::V6(bits.into()))
}

fn reverse(domain: &str, catalog: &Catalog, address: IpAddr) -> Option<Vec<Data>> {
    let services = catalog.services.snapshot();
    for (key, service) in services.iter() {
        let full = format!("{}.{}.svc.{domain}", key.1, key.0);
        let ips = cluster_ips(service);
        if ips.contains(&address) {
            return Some(vec![Data::Pointer(full)]);
        }
        if ips.is_empty()
            && let Some(host) = catalog.hosts(key, service).iter().find(|b| b.ip == address)
        {
            return Some(vec![Data::Pointer(format!("{}.{full}", host_label(host)))]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mirror::Mirror;

    fn catalog() -> Catalog {
        let read = |value| serde_json::from_value(value).unwrap();
        Catalog {
            services: Mirror::fixed([
                read(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd96::1"], "ports": [{"name": "http", "port": 80}]}})),
                read(json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}})),
                read(json!({"metadata": {"namespace": "shop", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "Example.org."}})),
            ]),
            endpoints: Mirror::fixed([serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": "db"},
                "subsets": [{"addresses": [{"ip": "10.244.0.9", "hostname": "db-0"}, {"ip": "10.244.0.10"}], "ports": [{"name": "sql", "port": 5432}]}]
            }))
            .unwrap()]),
            slices: Mirror::default(),
        }
    }

    #[test]
    fn names_have_the_records_of_the_dns_specification() {
        let (hosts, bad) = Hosts::parse(
            "203.0.113.10 httpbin.org www.httpbin.org # demo\n203.0.113.11 *.example.org\nnonsense x\n",
        );
        assert_eq!(bad, ["nonsense x"]);
        let ip = |a: &str| Data::Address(a.parse().unwrap());
        let cases: &[(&str, Option<Vec<Data>>)] = &[
            (
                "web.shop.svc.cluster.local",
                Some(vec![ip("10.96.1.1"), ip("fd96::1")]),
            ),
            (
                "_http._tcp.web.shop.svc.cluster.local",
                Some(vec![Data::Server(80, "web.shop.svc.cluster.local".into())]),
            ),
            ("_http._udp.web.shop.svc.cluster.local", None),
            ("x.web.shop.svc.cluster.local", None),
            ("none.shop.svc.cluster.local", None),
            ("shop.svc.cluster.local", Some(vec![])),
            ("void.svc.cluster.local", None),
            (
                "db.shop.svc.cluster.local",
                Some(vec![ip("10.244.0.9"), ip("10.244.0.10")]),
            ),
            (
                "db-0.db.shop.svc.cluster.local",
                Some(vec![ip("10.244.0.9")]),
            ),
            (
                "10-244-0-10.db.shop.svc.cluster.local",
                Some(vec![ip("10.244.0.10")]),
            ),
            (
                "_sql._tcp.db.shop.svc.cluster.local",
                Some(vec![
                    Data::Server(5432, "db-0.db.shop.svc.cluster.local".into()),
                    Data::Server(5432, "10-244-0-10.db.shop.svc.cluster.local".into()),
                ]),
            ),
            (
                "ext.shop.svc.cluster.local",
                Some(vec![Data::Alias("example.org".into())]),
            ),
            (
                "10-244-0-7.shop.pod.cluster.local",
                Some(vec![ip("10.244.0.7")]),
            ),
            (
                "1.1.96.10.in-addr.arpa",
                Some(vec![Data::Pointer("web.shop.svc.cluster.local".into())]),
            ),
            (
                "9.0.244.10.in-addr.arpa",
                Some(vec![Data::Pointer("db-0.db.shop.svc.cluster.local".into())]),
            ),
            ("9.9.9.9.in-addr.arpa", None),
            ("httpbin.org", Some(vec![ip("203.0.113.10")])),
            ("a.b.example.org", Some(vec![ip("203.0.113.11")])),
            ("example.org", None),
            ("httpbin.org.shop.svc.cluster.local", None),
        ];
        for (name, expected) in cases {
            assert_eq!(
                lookup("cluster.local", &catalog(), &hosts, name),
                *expected,
                "{name}"
            );
        }
    }
}
