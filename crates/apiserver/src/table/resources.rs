//! Services, nodes, configuration, events and the rest.

use serde_json::{Value, json};

use super::{age, labels, name, name_and_age, or_none, since, workloads};
use crate::object::{self, items, text};

/// Endpoints shown before `+ N more...`.
const SHOWN_ENDPOINTS: usize = 3;

/// A row.
pub fn cells(group: &str, plural: &str, object: &Value) -> Vec<Value> {
    let size = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    let count = |field: &str| object[field].as_array().map_or(0, Vec::len);
    let created = || json!(text(object, "/metadata/creationTimestamp"));
    match (group, plural) {
        ("", "services") => service(object),
        ("", "endpoints") => vec![name(object), json!(endpoints(object)), age(object)],
        ("", "namespaces") => vec![
            name(object),
            json!(text(object, "/status/phase")),
            age(object),
        ],
        ("", "nodes") => node(object),
        ("", "configmaps") => vec![
            name(object),
            json!(size("data") + size("binaryData")),
            age(object),
        ],
        ("", "secrets") => vec![
            name(object),
            json!(text(object, "/type")),
            json!(size("data")),
            age(object),
        ],
        ("", "serviceaccounts") => vec![name(object), json!(count("secrets")), age(object)],
        (_, "events") => event(object),
        ("discovery.k8s.io", _) => slice(object),
        ("coordination.k8s.io", _) => vec![
            name(object),
            json!(text(object, "/spec/holderIdentity")),
            age(object),
        ],
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") | ("apiextensions.k8s.io", _) => {
            vec![name(object), created()]
        }
        ("rbac.authorization.k8s.io", _) => binding(object),
        ("networking.k8s.io", "ingresses") => ingress(object),
        ("networking.k8s.io", "networkpolicies") => {
            vec![
                name(object),
                or_none(workloads::selector(&object["spec"]["podSelector"])),
                age(object),
            ]
        }
        ("policy", _) => {
            let shown = |field: &str| match &object["spec"][field] {
                Value::Null => json!("N/A"),
                Value::String(s) => json!(s),
                other => json!(other.to_string()),
            };
            let allowed = object["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
            vec![
                name(object),
                shown("minAvailable"),
                shown("maxUnavailable"),
                json!(allowed),
                age(object),
            ]
        }
        ("admissionregistration.k8s.io", _) => {
            vec![name(object), json!(count("webhooks")), age(object)]
        }
        _ => name_and_age(object),
    }
}

fn service(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let kind = text(spec, "/type");
    let ip = match text(spec, "/clusterIP") {
        "" => "<none>",
        ip => ip,
    };
    let ports: Vec<String> = items(spec, "/ports")
        .map(|p| {
            let (port, protocol) = (p["port"].as_i64().unwrap_or(0), text(p, "/protocol"));
            match p["nodePort"].as_i64().filter(|n| *n > 0) {
                Some(node) => format!("{port}:{node}/{protocol}"),
                None => format!("{port}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(object),
        json!(kind),
        json!(ip),
        json!(external(object, kind)),
        or_none(ports.join(",")),
        age(object),
        or_none(labels(&spec["selector"])),
    ]
}

fn external(object: &Value, kind: &str) -> String {
    let ips = || {
        items(object, "/spec/externalIPs")
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",")
    };
    let shown = match kind {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let given: Vec<&str> = items(object, "/status/loadBalancer/ingress")
                .map(|i| {
                    if text(i, "/ip").is_empty() {
                        text(i, "/hostname")
                    } else {
                        text(i, "/ip")
                    }
                })
                .collect();
            if given.is_empty() {
                "<pending>".to_owned()
            } else {
                given.join(",")
            }
        }
        _ => ips(),
    };
    if shown.is_empty() {
        "<none>".to_owned()
    } else {
        shown
    }
}

fn bracketed(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        let ports: Vec<i64> = items(subset, "/ports")
            .filter_map(|p| p["port"].as_i64())
            .collect();
        let ips = || items(subset, "/addresses").map(|a| text(a, "/ip"));
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| bracketed(ip, port)));
        }
    }
    some_of(&all, "<none>")
}

fn some_of(all: &[String], none: &str) -> String {
    let shown = all
        .iter()
        .take(SHOWN_ENDPOINTS)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    match all.len() {
        0 => none.to_owned(),
        n if n > SHOWN_ENDPOINTS => format!("{shown} + {} more...", n - SHOWN_ENDPOINTS),
        _ => shown,
    }
}

fn slice(object: &Value) -> Vec<Value> {
    let ports: Vec<String> = items(object, "/ports")
        .map(|p| p["port"].as_i64().map_or("*".to_owned(), |n| n.to_string()))
        .collect();
    let addresses: Vec<String> = items(object, "/endpoints")
        .flat_map(|e| {
            items(e, "/addresses")
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    vec![
        name(object),
        json!(text(object, "/addressType")),
        json!(some_of(&ports, "<unset>")),
        json!(some_of(&addresses, "<unset>")),
        age(object),
    ]
}

fn node(object: &Value) -> Vec<Value> {
    let ready = items(object, "/status/conditions").find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
        .filter(|r| !r.is_empty())
        .collect();
    let address = |kind: &str| {
        let found = items(object, "/status/addresses").find(|a| a["type"] == kind);
        or_none(
            found
                .map(|a| text(a, "/address").to_owned())
                .unwrap_or_default(),
        )
    };
    let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        value => json!(value),
    };
    vec![
        name(object),
        json!(status),
        or_none(roles.join(",")),
        age(object),
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn event(object: &Value) -> Vec<Value> {
    // Both Event APIs are printed alike.
    let either = |a: &str, b: &str| match text(object, a) {
        "" => text(object, b).to_owned(),
        value => value.to_owned(),
    };
    let first = [
        text(object, "/firstTimestamp"),
        text(object, "/deprecatedFirstTimestamp"),
        text(object, "/eventTime"),
    ];
    let first = first
        .into_iter()
        .find(|t| !t.is_empty())
        .unwrap_or_default();
    let last = [
        text(object, "/series/lastObservedTime"),
        text(object, "/lastTimestamp"),
        text(object, "/deprecatedLastTimestamp"),
        first,
    ];
    let last = last.into_iter().find(|t| !t.is_empty()).unwrap_or_default();
    let about = if object["involvedObject"].is_object() {
        &object["involvedObject"]
    } else {
        &object["regarding"]
    };
    let count = [
        &object["series"]["count"],
        &object["count"],
        &object["deprecatedCount"],
    ];
    let count = count.into_iter().find_map(Value::as_i64).unwrap_or(1);
    let source = either("/source/component", "/reportingController");
    let host = either("/source/host", "/reportingInstance");
    let source = if host.is_empty() || source.is_empty() {
        source
    } else {
        format!("{source}, {host}")
    };
    vec![
        json!(since(last)),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(format!(
            "{}/{}",
            text(about, "/kind").to_lowercase(),
            text(about, "/name")
        )),
        json!(text(about, "/fieldPath")),
        json!(source),
        json!(either("/message", "/note").trim()),
        json!(since(first)),
        json!(count),
        name(object),
    ]
}

fn binding(object: &Value) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(object, "/roleRef/kind"),
        text(object, "/roleRef/name")
    );
    let subjects = |kind: &str| {
        let list: Vec<String> = items(object, "/subjects")
            .filter(|s| s["kind"] == kind)
            .map(|s| match object::text(s, "/namespace") {
                "" => text(s, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(s, "/name")),
            })
            .collect();
        json!(list.join(", "))
    };
    vec![
        name(object),
        json!(role),
        age(object),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn ingress(object: &Value) -> Vec<Value> {
    let class = text(object, "/spec/ingressClassName");
    let hosts: Vec<&str> = items(object, "/spec/rules")
        .map(|r| text(r, "/host"))
        .filter(|h| !h.is_empty())
        .collect();
    let addresses: Vec<&str> = items(object, "/status/loadBalancer/ingress")
        .map(|i| text(i, "/ip"))
        .collect();
    let ports = if items(object, "/spec/tls").next().is_some() {
        "80, 443"
    } else {
        "80"
    };
    vec![
        name(object),
        or_none(class.to_owned()),
        json!(if hosts.is_empty() {
            "*".to_owned()
        } else {
            hosts.join(",")
        }),
        json!(addresses.join(",")),
        json!(ports),
        age(object),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_endpoints_read_as_kubectl_prints_them() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}});
        let row = cells("", "services", &service);
        assert_eq!(
            row[1..5],
            [
                json!("NodePort"),
                json!("10.0.0.1"),
                json!("<none>"),
                json!("80:30001/TCP,53/UDP")
            ]
        );
        let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "fd::1"}], "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(
            cells("", "endpoints", &endpoints)[1],
            "1.1.1.1:80,[fd::1]:80,1.1.1.1:81 + 1 more..."
        );
    }
}
