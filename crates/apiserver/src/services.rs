//! ClusterIPs and node ports of Services.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::StartError;
use crate::object::{self, child, objects_mut};
use crate::status::{Cause, Failure, Outcome};
use crate::store::Store;

/// Range when the configuration names none.
const DEFAULT_CIDR: &str = "10.96.0.0/16";
/// Node ports, the default range of Kubernetes.
const NODE_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;

/// Hands out addresses; what is in use is read from the store, so nothing is kept twice.
pub struct Addresses {
    cidrs: Vec<IpNet>,
    /// Held from choosing an address to storing the Service, so that two creations never choose the same.
    turn: Mutex<()>,
}

impl Addresses {
    /// For the given ranges, the default family first.
    pub fn new(cidrs: &[IpNet]) -> Result<Self, StartError> {
        let cidrs = if cidrs.is_empty() {
            vec![
                DEFAULT_CIDR
                    .parse()
                    .map_err(|e| StartError::Config(format!("{e}")))?,
            ]
        } else {
            cidrs.to_vec()
        };
        let mixed = matches!(
            cidrs.as_slice(),
            [_] | [IpNet::V4(_), IpNet::V6(_)] | [IpNet::V6(_), IpNet::V4(_)]
        );
        if !mixed {
            return Err(StartError::Config(
                "service_cidrs: one range, or one of each family".to_owned(),
            ));
        }
        Ok(Self {
            cidrs,
            turn: Mutex::new(()),
        })
    }

    /// The first usable address of each range: Service `default/kubernetes` has the first of the first.
    pub fn first_of_each(&self) -> Vec<IpAddr> {
        self.cidrs.iter().map(|c| nth(c, 1)).collect()
    }

    /// Waits for the turn to choose addresses.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Completes the addresses and node ports of a Service that is about to be stored.
    pub fn complete(&self, store: &Store, service: &mut Value, old: Option<&Value>) -> Outcome<()> {
        let name = object::name(service).to_owned();
        let invalid = |cause| Failure::invalid("", "Service", &name, vec![cause]);
        if let Some(old) = old {
            carry_over(service, old);
        }
        let kind = object::text(service, "/spec/type").to_owned();
        if kind == "ExternalName" {
            let spec = child(service, "spec");
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return Ok(());
        }
        let families = self.families(service).map_err(invalid)?;
        let mut given: Vec<String> = object::items(service, "/spec/clusterIPs")
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let single = object::text(service, "/spec/clusterIP").to_owned();
        if !single.is_empty() {
            match given.first() {
                None => given.push(single),
                Some(first) if *first != single => {
                    let detail = "first value must match `clusterIP`";
                    return Err(invalid(Cause::invalid(
                        "spec.clusterIPs",
                        &json!(given),
                        detail,
                    )));
                }
                Some(_) => {}
            }
        }
        if given.first().is_some_and(|ip| ip != "None") || given.is_empty() {
            self.allocate(store, &mut given, &families, old)
                .map_err(invalid)?;
        }
        let policy = if families.len() > 1 {
            object::text(service, "/spec/ipFamilyPolicy").to_owned()
        } else {
            String::new()
        };
        let spec = child(service, "spec");
        spec.insert("clusterIP".to_owned(), json!(given.first()));
        spec.insert("clusterIPs".to_owned(), json!(given));
        spec.insert("ipFamilies".to_owned(), json!(families));
        let dual = spec
            .get("ipFamilyPolicy")
            .and_then(Value::as_str)
            .is_some_and(|p| p == "PreferDualStack");
        if policy.is_empty() && !dual {
            spec.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            node_ports(store, service).map_err(invalid)?;
        }
        Ok(())
    }

    fn families(&self, service: &Value) -> Result<Vec<String>, Cause> {
        let of = |c: &IpNet| {
            if matches!(c, IpNet::V4(_)) {
                "IPv4"
            } else {
                "IPv6"
            }
            .to_owned()
        };
        let offered: Vec<String> = self.cidrs.iter().map(of).collect();
        let mut families: Vec<String> = object::items(service, "/spec/ipFamilies")
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        if families.is_empty() {
            let ips = object::items(service, "/spec/clusterIPs").filter_map(Value::as_str);
            let ips = ips
                .chain(Some(object::text(service, "/spec/clusterIP")))
                .filter_map(|ip| ip.parse::<IpAddr>().ok());
            families = ips
                .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned())
                .collect();
            families.dedup();
        }
        for (i, family) in families.iter().enumerate() {
            if !offered.contains(family) {
                let detail = "not configured on this cluster";
                return Err(Cause::invalid(
                    format!("spec.ipFamilies[{i}]"),
                    &json!(family),
                    detail,
                ));
            }
        }
        if families.is_empty() {
            families.extend(offered.first().cloned());
        }
        let policy = object::text(service, "/spec/ipFamilyPolicy");
        match policy {
            "PreferDualStack" | "RequireDualStack" => {
                let more: Vec<String> = offered
                    .iter()
                    .filter(|f| !families.contains(f))
                    .cloned()
                    .collect();
                families.extend(more);
                if policy == "RequireDualStack" && families.len() < 2 {
                    let detail = "Cluster is not configured for dual-stack services";
                    return Err(Cause::invalid(
                        "spec.ipFamilyPolicy",
                        &json!(policy),
                        detail,
                    ));
                }
            }
            _ => families.truncate(1),
        }
        Ok(families)
    }

    fn allocate(
        &self,
        store: &Store,
        given: &mut Vec<String>,
        families: &[String],
        old: Option<&Value>,
    ) -> Result<(), Cause> {
        let mine: HashSet<String> = old
            .map(|o| {
                object::items(o, "/spec/clusterIPs")
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default();
        let used = in_use(store);
        for ip in given.iter() {
            let fail = |detail: &str| {
                Cause::invalid(
                    "spec.clusterIPs",
                    &json!([ip]),
                    &format!("failed to allocate IP {ip}: {detail}"),
                )
            };
            let Ok(address) = ip.parse::<IpAddr>() else {
                return Err(Cause::invalid(
                    "spec.clusterIPs[0]",
                    &json!(ip),
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ));
            };
            let Some(range) = self.cidrs.iter().find(|c| c.contains(&address)) else {
                let ranges: Vec<String> = self.cidrs.iter().map(ToString::to_string).collect();
                return Err(fail(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                    ranges.join(",")
                )));
            };
            let _ = range;
            if used.contains(ip) && !mine.contains(ip) {
                return Err(fail("provided IP is already allocated"));
            }
        }
        for family in families.iter().skip(given.len()) {
            let range = self
                .cidrs
                .iter()
                .find(|c| (family == "IPv4") == matches!(c, IpNet::V4(_)));
            let free = range.and_then(|r| free_in(r, &used));
            let Some(free) = free else {
                return Err(Cause::invalid(
                    "spec.clusterIPs",
                    &json!([]),
                    "failed to allocate a serviceIP: range is full",
                ));
            };
            given.push(free.to_string());
        }
        Ok(())
    }
}

/// Fields the server chose and an update may leave out.
fn carry_over(service: &mut Value, old: &Value) {
    let type_of = |v: &Value| object::text(v, "/spec/type").to_owned();
    if type_of(service) == "ExternalName" || type_of(old) == "ExternalName" {
        return;
    }
    let old_ports: Vec<Value> = object::items(old, "/spec/ports").cloned().collect();
    let keep_ports = matches!(type_of(service).as_str(), "NodePort" | "LoadBalancer");
    let spec = child(service, "spec");
    if object::text(&json!(spec), "/clusterIP").is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old["spec"].get(field) {
            object::default(spec, field, value.clone());
        }
    }
    for port in objects_mut(spec, "ports") {
        let same = old_ports.iter().find(|o| {
            o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
        });
        match same.and_then(|o| o.get("nodePort")) {
            Some(number) if keep_ports => object::default(port, "nodePort", number.clone()),
            _ if !keep_ports => drop(port.remove("nodePort")),
            _ => {}
        }
    }
}

fn services(store: &Store) -> Vec<Arc<Value>> {
    store.list(&Arc::from("services"), None).0
}

fn in_use(store: &Store) -> HashSet<String> {
    let services = services(store);
    services
        .iter()
        .flat_map(|s| {
            object::items(s, "/spec/clusterIPs")
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn node_ports(store: &Store, service: &mut Value) -> Result<(), Cause> {
    let me = (
        object::namespace(service).to_owned(),
        object::name(service).to_owned(),
    );
    let mut used: HashSet<u64> = services(store)
        .iter()
        .filter(|s| (object::namespace(s), object::name(s)) != (me.0.as_str(), me.1.as_str()))
        .flat_map(|s| {
            object::items(s, "/spec/ports")
                .filter_map(|p| p["nodePort"].as_u64())
                .collect::<Vec<_>>()
        })
        .collect();
    for (i, port) in objects_mut(child(service, "spec"), "ports").enumerate() {
        match port
            .get("nodePort")
            .and_then(Value::as_u64)
            .filter(|p| *p != 0)
        {
            Some(wanted) if used.contains(&wanted) => {
                let detail = "provided port is already allocated";
                return Err(Cause::invalid(
                    format!("spec.ports[{i}].nodePort"),
                    &json!(wanted),
                    detail,
                ));
            }
            Some(wanted) => drop(used.insert(wanted)),
            None => {
                let Some(free) = NODE_PORTS.clone().find(|p| !used.contains(p)) else {
                    return Err(Cause::invalid(
                        format!("spec.ports[{i}].nodePort"),
                        &json!(0),
                        "failed to allocate a nodePort: range is full",
                    ));
                };
                used.insert(free);
                port.insert("nodePort".to_owned(), json!(free));
            }
        }
    }
    Ok(())
}

/// The nth address of a range.
fn nth(range: &IpNet, n: u128) -> IpAddr {
    match range {
        IpNet::V4(r) => IpAddr::from(
            (u32::from(r.network()))
                .wrapping_add(n as u32)
                .to_be_bytes(),
        ),
        IpNet::V6(r) => IpAddr::from((u128::from(r.network())).wrapping_add(n).to_be_bytes()),
    }
}

fn free_in(range: &IpNet, used: &HashSet<String>) -> Option<IpAddr> {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(24);
    let size = 1u128 << bits;
    // The low addresses are left for Services that ask for a fixed one (the API server's, DNS).
    let low = (size / 16).clamp(1, 256);
    let start = low + uuid::Uuid::new_v4().as_u128() % size.saturating_sub(low + 1).max(1);
    let candidates = (start..size - 1).chain(low..start).chain(1..low);
    candidates
        .map(|n| nth(range, n))
        .find(|ip| !used.contains(&ip.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        (dir, store)
    }

    #[test]
    fn families_follow_the_policy() {
        let (_dir, store) = store();
        let addresses = Addresses::new(&[
            "10.96.0.0/16".parse().unwrap(),
            "fd96::/112".parse().unwrap(),
        ])
        .unwrap();
        let cases = [
            (json!({}), vec!["IPv4"], "SingleStack"),
            (
                json!({"ipFamilyPolicy": "PreferDualStack"}),
                vec!["IPv4", "IPv6"],
                "PreferDualStack",
            ),
            (json!({"ipFamilies": ["IPv6"]}), vec!["IPv6"], "SingleStack"),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
                vec!["IPv6", "IPv4"],
                "RequireDualStack",
            ),
        ];
        for (spec, families, policy) in cases {
            let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
            addresses.complete(&store, &mut service, None).unwrap();
            assert_eq!(service["spec"]["ipFamilies"], json!(families));
            assert_eq!(service["spec"]["ipFamilyPolicy"], policy);
            assert_eq!(
                service["spec"]["clusterIPs"].as_array().unwrap().len(),
                families.len()
            );
            assert_eq!(
                service["spec"]["clusterIP"],
                service["spec"]["clusterIPs"][0]
            );
        }
    }

    #[test]
    fn headless_services_get_no_address_and_foreign_ones_are_refused() {
        let (_dir, store) = store();
        let addresses = Addresses::new(&["10.96.0.0/16".parse().unwrap()]).unwrap();
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None"}});
        addresses.complete(&store, &mut service, None).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!(["None"]));
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "1.2.3.4"}});
        let failure = addresses.complete(&store, &mut service, None).unwrap_err();
        assert!(
            failure.message.contains("not in the valid range"),
            "{}",
            failure.message
        );
    }
}
