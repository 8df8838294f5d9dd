//! Manifests of the scenarios, as JSON for `kubectl apply -f -`.

use serde_json::{Value, json};

/// Port of the HTTP servers.
pub const PORT: u16 = 14001;

/// Several objects as one manifest: a List, because kubectls disagree on JSON documents one behind the other.
pub fn list(objects: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string()
}

/// An object of a namespace.
pub fn object(api_version: &str, kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec
    })
}

/// A ServiceAccount.
pub fn account(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } })
}

/// A Deployment whose pods run as the ServiceAccount of its name.
pub fn deployment(namespace: &str, name: &str, pod: Value) -> Value {
    let spec = json!({
        "replicas": 1,
        "selector": { "matchLabels": { "app": name } },
        "template": { "metadata": { "labels": { "app": name } }, "spec": pod }
    });
    object("apps/v1", "Deployment", namespace, name, spec)
}

/// A pod's spec with one container.
pub fn pod(account: &str, container: Value) -> Value {
    json!({ "serviceAccountName": account, "terminationGracePeriodSeconds": 1, "containers": [container] })
}

/// A container of a client: real curl, and nothing to do until told; it trusts the outside hosts.
pub fn curl() -> Value {
    json!({
        "name": "curl", "image": "curlimages/curl", "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "365d"],
        "env": [{ "name": "CURL_CA_BUNDLE", "value": "/etc/outside/ca.pem" }],
        "volumeMounts": [{ "name": "outside", "mountPath": "/etc/outside" }]
    })
}

/// The volume that [`curl`] mounts.
pub fn trust() -> Value {
    json!([{ "name": "outside", "configMap": { "name": "outside-ca" } }])
}

/// A container with the real httpbin.
pub fn httpbin(port: u16) -> Value {
    json!({
        "name": "httpbin", "image": "kennethreitz/httpbin", "imagePullPolicy": "IfNotPresent",
        "command": ["gunicorn", "-b", format!("0.0.0.0:{port}"), "httpbin:app", "-k", "gevent"],
        "ports": [{ "containerPort": port }]
    })
}

/// A container with the small httpbin, whose answers carry the name of the pod.
pub fn named_httpbin(port: u16) -> Value {
    json!({
        "name": "httpbin", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["osm-apps", "httpbin", "--port", port.to_string()],
        "env": [{ "name": "XHTTPBIN_podname", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [{ "containerPort": port }]
    })
}

/// A container that sees the packets of the pod.
pub fn wire() -> Value {
    json!({
        "name": "wire", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "365d"],
        "securityContext": { "capabilities": { "add": ["NET_RAW"] } }
    })
}

/// A Service for the pods of a Deployment; the name of the port tells its protocol.
pub fn service(namespace: &str, name: &str, app: &str, port_name: &str, port: u16) -> Value {
    let spec = json!({ "selector": { "app": app }, "ports": [{ "name": port_name, "port": port, "targetPort": port }] });
    object("v1", "Service", namespace, name, spec)
}

/// An HTTPRouteGroup with matches of a name and a path each.
pub fn routes(namespace: &str, name: &str, matches: &[(&str, &str)]) -> Value {
    let matches: Vec<Value> = matches
        .iter()
        .map(|(name, path)| json!({ "name": name, "pathRegex": path, "methods": ["*"] }))
        .collect();
    object(
        "specs.smi-spec.io/v1alpha4",
        "HTTPRouteGroup",
        namespace,
        name,
        json!({ "matches": matches }),
    )
}

/// A TrafficTarget for a ServiceAccount of its namespace; sources as (namespace, account).
pub fn target(
    namespace: &str,
    name: &str,
    destination: &str,
    sources: &[(&str, &str)],
    rule: Value,
) -> Value {
    let sources: Vec<Value> = sources
        .iter()
        .map(|(namespace, name)| json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }))
        .collect();
    let spec = json!({
        "destination": { "kind": "ServiceAccount", "name": destination, "namespace": namespace },
        "sources": sources, "rules": [rule]
    });
    object(
        "access.smi-spec.io/v1alpha3",
        "TrafficTarget",
        namespace,
        name,
        spec,
    )
}

/// The rule of a TrafficTarget: these matches of an HTTPRouteGroup.
pub fn rule(group: &str, matches: &[&str]) -> Value {
    json!({ "kind": "HTTPRouteGroup", "name": group, "matches": matches })
}

/// Everything of a server for these clients, as (namespace, account).
pub fn allow(namespace: &str, server: &str, clients: &[(&str, &str)]) -> [Value; 2] {
    [
        routes(namespace, server, &[("everything", ".*")]),
        target(
            namespace,
            server,
            server,
            clients,
            rule(server, &["everything"]),
        ),
    ]
}

/// An Egress for one ServiceAccount of its namespace.
pub fn egress(
    namespace: &str,
    name: &str,
    account: &str,
    hosts: &[&str],
    port: u16,
    protocol: &str,
) -> Value {
    let spec = json!({
        "sources": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
        "hosts": hosts,
        "ports": [{ "number": port, "protocol": protocol }]
    });
    object(
        "policy.openservicemesh.io/v1alpha1",
        "Egress",
        namespace,
        name,
        spec,
    )
}

/// The object with one field set; what is missing on the way is made.
pub fn with(mut object: Value, path: &[&str], value: Value) -> Value {
    let mut at = &mut object;
    for word in path {
        at = match word.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => &mut at[*word],
        };
    }
    *at = value;
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_wherever_they_are() {
        let object = deployment("n", "a", pod("a", curl()));
        let object = with(
            object,
            &["spec", "template", "spec", "containers", "0", "tty"],
            json!(true),
        );
        let object = with(object, &["metadata", "labels", "x"], json!("y"));
        assert_eq!(
            object["spec"]["template"]["spec"]["containers"][0]["tty"],
            true
        );
        assert_eq!(object["metadata"]["labels"]["x"], "y");
    }
}
