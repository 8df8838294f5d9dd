//! The smaller pages: clusters, listeners, certificates, the server itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use serde_json::{Value as Json, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use xds::client::Kind;

use super::{Admin, Answer, Query, json as answer_json, text};
use crate::cluster::{Flag, Host, Reported, hosts, page};
use crate::config::Value;
use crate::tls::{Secret, names};

impl Admin {
    pub(super) fn clusters(&self, query: &Query<'_>) -> Answer {
        let snapshot = self.shared.snapshot.load();
        let mut clusters: Vec<_> = snapshot.clusters.values().collect();
        clusters.sort_by_key(|cluster| cluster.config.name.clone());
        let machine = self.machine.lock();
        let added = |name: &str| !machine.is_fixed(Kind::Cluster, name);
        if query.is("format", "json") {
            let statuses: Vec<Json> = (clusters.iter())
                .map(|cluster| {
                    let name = &*cluster.config.name;
                    json!({
                        "name": name,
                        "added_via_api": added(name),
                        "observability_name": name,
                        "host_statuses": hosts(cluster).iter().map(status).collect::<Vec<_>>(),
                    })
                })
                .collect();
            return answer_json(&json!({ "cluster_statuses": statuses }));
        }
        let mut text_page = String::new();
        for cluster in clusters {
            page(cluster, added(&cluster.config.name), &mut text_page);
        }
        text(http::StatusCode::OK, &text_page)
    }

    pub(super) fn listeners(&self, query: &Query<'_>) -> Answer {
        let bound = self.listeners.lock().bound();
        if query.is("format", "json") {
            let address = |at: &std::net::SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
            let statuses: Vec<Json> = (bound.iter())
                .map(|(name, list)| {
                    json!({
                        "name": &**name,
                        "local_address": list.first().map(address),
                        "additional_local_addresses": list.iter().skip(1).map(address).collect::<Vec<_>>(),
                    })
                })
                .collect();
            return answer_json(&json!({ "listener_statuses": statuses }));
        }
        let page: String = (bound.iter())
            .flat_map(|(name, list)| list.iter().map(move |at| format!("{name}::{at}\n")))
            .collect();
        text(http::StatusCode::OK, &page)
    }

    /// The certificates in use: our own and those of SDS. Never a key.
    pub(super) fn certs(&self) -> Answer {
        let mut list: Vec<Json> = Vec::new();
        if let Some(own) = self.shared.own.current() {
            list.push(json!({ "cert_chain": chain(&own.cert) }));
        }
        let machine = self.machine.lock();
        for (name, entry) in machine.active(Kind::Secret) {
            if let Value::Secret(Secret::Certificate(certificate)) = &entry.value.value {
                list.push(json!({ "cert_chain": chain(&certificate.cert), "secret": &**name }));
            }
        }
        answer_json(&json!({ "certificates": list }))
    }

    pub(super) fn server_info(&self) -> Answer {
        let node = self.settings.node();
        let uptime = format!("{}s", self.shared.stats.uptime());
        answer_json(&json!({
            "version": concat!("osm-proxy/", env!("CARGO_PKG_VERSION")),
            "state": self.state().as_str(),
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "hot_restart_version": "disabled",
            "command_line_options": {
                "concurrency": self.settings.workers,
                "config_path": self.settings.config_path.as_ref().map(|path| path.display().to_string()),
                "log_level": self.settings.log_level,
                "drain_time": format!("{}s", self.settings.drain_seconds),
                "mode": "Serve",
            },
            "node": { "id": node.id, "cluster": node.cluster, "user_agent_name": node.user_agent_name },
        }))
    }
}

fn status(host: &Host) -> Json {
    let address = host.endpoint.config.address;
    let mut stats = Vec::new();
    for (name, value) in host.facts.iter().take(8) {
        let kind = if name.ends_with("_active") {
            "GAUGE"
        } else {
            "COUNTER"
        };
        stats.push(json!({ "name": name, "value": value, "type": kind }));
    }
    let has = |flag| host.endpoint.has(flag).then_some(true);
    let reported = match host.config.health {
        Reported::Healthy => "HEALTHY",
        Reported::Degraded => "DEGRADED",
        Reported::Unhealthy => "UNHEALTHY",
        Reported::Draining => "DRAINING",
    };
    json!({
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        "stats": stats,
        "health_status": {
            "eds_health_status": reported,
            "failed_active_health_check": has(Flag::FailedActiveCheck),
            "failed_outlier_check": has(Flag::FailedOutlierCheck),
            "pending_active_hc": has(Flag::PendingActiveCheck),
            "pending_dynamic_removal": has(Flag::PendingRemoval),
        },
        "hostname": host.config.hostname,
        "weight": host.config.weight,
        "priority": host.config.priority,
    })
}

fn chain(certificates: &[CertificateDer<'_>]) -> Vec<Json> {
    certificates.iter().filter_map(certificate).collect()
}

fn certificate(der: &CertificateDer<'_>) -> Option<Json> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let names = names(der)?;
    let alternative: Vec<Json> = (names.uris.iter().map(|uri| json!({ "uri": uri })))
        .chain(names.dns.iter().map(|dns| json!({ "dns": dns })))
        .chain(names.ips.iter().map(|ip| json!({ "ip_address": ip })))
        .collect();
    let time = |at: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let end = time(parsed.validity().not_after.timestamp());
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Some(json!({
        "path": "<inline>",
        "serial_number": parsed.raw_serial_as_string().replace(':', ""),
        "subject": names.subject,
        "subject_alt_names": alternative,
        "days_until_expiration": (left.as_secs() / 86_400).to_string(),
        "valid_from": crate::access::timestamp(time(parsed.validity().not_before.timestamp())),
        "expiration_time": crate::access::timestamp(end),
    }))
}

/// Bytes of resident and of anonymous memory.
pub(crate) fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some((field("VmRSS:")?, field("RssAnon:")?))
}

/// `/memory`: what there is to know without an allocator that tells.
pub(super) fn memory_page() -> Answer {
    let (resident, anonymous) = memory().unwrap_or_default();
    answer_json(&json!({
        "allocated": anonymous.to_string(),
        "heap_size": anonymous.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": resident.to_string(),
    }))
}
