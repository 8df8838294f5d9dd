//! Health probes: the kubelet has no certificate of the mesh, so it asks the sidecar, and the sidecar asks the
//! application from inside the pod.
//!
//! * HTTP: the port becomes the sidecar's, the path says which container is meant.
//! * HTTPS: only the port changes; the sidecar passes the TLS connection through. The kubelet names no host, so one
//!   container per kind of probe can be served so; further ones get the TCP check.
//! * TCP: becomes an HTTP probe of the sidecar's health check, which connects to the port in its header.
//! * exec and gRPC stay as they are.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

/// Port and path of the sidecar's TCP health check.
const HEALTHCHECK: (i32, &str) = (15904, "/osm-healthcheck");
const HEALTHCHECK_HEADER: &str = "Original-Tcp-Port";

/// One probe that the sidecar serves, as it stands in its environment variable `OSM_PROBES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Port of the sidecar.
    pub port: i32,
    /// Path on that port; empty for TLS, which is passed through whatever the path.
    pub path: String,
    /// Scheme of the original probe.
    pub scheme: Scheme,
    /// Port of the application; 0 if the probe names a port that its container does not have.
    pub target_port: i32,
    /// Path, with query, at the application; empty for TLS.
    pub target_path: String,
    /// How long the application may take.
    pub timeout_seconds: i32,
}

/// Scheme of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Plain HTTP.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP over TLS.
    #[serde(rename = "HTTPS")]
    Https,
}

/// A kind of probe: name and number of the sidecar's port, first part of the path.
struct Kind {
    port_name: &'static str,
    port: i32,
    path: &'static str,
}

const LIVENESS: Kind = Kind {
    port_name: "liveness-port",
    port: 15901,
    path: "/osm-liveness-probe",
};
const READINESS: Kind = Kind {
    port_name: "readiness-port",
    port: 15902,
    path: "/osm-readiness-probe",
};
const STARTUP: Kind = Kind {
    port_name: "startup-port",
    port: 15903,
    path: "/osm-startup-probe",
};

/// Points the pod's probes to the sidecar and tells what the sidecar has to serve for them.
pub(crate) fn rewrite(pod: &mut Pod) -> Vec<Probe> {
    let mut probes = Vec::new();
    let Some(spec) = pod.spec.as_mut() else {
        return probes;
    };
    // Init containers have probes only where they are sidecars themselves (restartPolicy Always).
    let init = spec
        .init_containers
        .iter_mut()
        .flatten()
        .filter(|container| container.restart_policy.is_some());
    for container in init.chain(spec.containers.iter_mut()) {
        rewrite_container(container, &mut probes);
    }
    probes
}

/// The names of the sidecar's ports for these probes.
pub(crate) fn ports(probes: &[Probe]) -> impl Iterator<Item = (&'static str, i32)> {
    let kinds = [LIVENESS, READINESS, STARTUP].into_iter();
    kinds
        .filter(|kind| probes.iter().any(|probe| probe.port == kind.port))
        .map(|kind| (kind.port_name, kind.port))
}

fn rewrite_container(container: &mut Container, probes: &mut Vec<Probe>) {
    let named: Vec<(String, i32)> = container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| Some((port.name.clone()?, port.container_port)))
        .collect();
    let number = |port: &IntOrString| match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match named.iter().find(|(known, _)| known == name) {
            Some((_, number)) => *number,
            // Kubernetes takes a number in quotes for a name, and no name consists of digits.
            None => name.parse().unwrap_or(0),
        },
    };
    let name = container.name.clone();
    let each = [
        (LIVENESS, &mut container.liveness_probe),
        (READINESS, &mut container.readiness_probe),
        (STARTUP, &mut container.startup_probe),
    ];
    for (kind, probe) in each {
        let Some(probe) = probe else { continue };
        let timeout_seconds = probe.timeout_seconds.unwrap_or(1).max(1);
        if let Some(http) = probe.http_get.as_mut() {
            // A probe of another host does not come to this pod.
            if http.host.as_ref().is_some_and(|host| !host.is_empty()) {
                continue;
            }
            let target_port = number(&http.port);
            rewrite_http(http, &kind, &name, target_port, timeout_seconds, probes);
        } else if let Some(tcp) = probe.tcp_socket.as_ref() {
            if tcp.host.as_ref().is_some_and(|host| !host.is_empty()) {
                continue;
            }
            probe.http_get = Some(healthcheck(number(&tcp.port)));
            probe.tcp_socket = None;
        }
    }
}

fn rewrite_http(
    http: &mut HTTPGetAction,
    kind: &Kind,
    container: &str,
    target_port: i32,
    timeout_seconds: i32,
    probes: &mut Vec<Probe>,
) {
    let https = http
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS"));
    if https
        && probes
            .iter()
            .any(|other| other.port == kind.port && other.scheme == Scheme::Https)
    {
        *http = healthcheck(target_port);
        return;
    }
    let probe = if https {
        Probe {
            port: kind.port,
            path: String::new(),
            scheme: Scheme::Https,
            target_port,
            target_path: String::new(),
            timeout_seconds,
        }
    } else {
        let target_path = match http.path.as_deref() {
            None | Some("") => "/".to_owned(),
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(path) => format!("/{path}"),
        };
        let path = format!("{}/{container}", kind.path);
        http.path = Some(path.clone());
        Probe {
            port: kind.port,
            path,
            scheme: Scheme::Http,
            target_port,
            target_path,
            timeout_seconds,
        }
    };
    http.port = IntOrString::Int(kind.port);
    probes.push(probe);
}

fn healthcheck(target_port: i32) -> HTTPGetAction {
    HTTPGetAction {
        port: IntOrString::Int(HEALTHCHECK.0),
        path: Some(HEALTHCHECK.1.to_owned()),
        http_headers: Some(vec![HTTPHeader {
            name: HEALTHCHECK_HEADER.to_owned(),
            value: target_port.to_string(),
        }]),
        ..HTTPGetAction::default()
    }
}
