//! The validating webhook and the API's schemas: what is refused, what is warned of, and what objects are told.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, eventually};
use serde_json::{Value, json};

use super::{Scenario, acl::pair, scenario};
use crate::manifest::{PORT, account, allow, list, object, routes, service, target, with};
use crate::report::Skip;
use crate::scene::{Ends, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "VAL-01",
        P0,
        only_the_mesh,
        "outside the mesh's namespaces everything is accepted, and void"
    ),
    scenario!(
        "VAL-02",
        P1,
        without_controller,
        "without a controller the checked kinds are refused, others and deletions pass",
        alone
    ),
    scenario!(
        "VAL-03",
        P1,
        strange_reviews,
        "unknown kinds and bad requests to the webhook itself"
    ),
    scenario!(
        "VAL-04",
        P1,
        updates,
        "a bad update is refused and leaves the object as it was; deletion is free"
    ),
    scenario!(
        "VAL-05",
        P1,
        versions,
        "served versions, and one object through two of them"
    ),
    scenario!(
        "VAL-06",
        P1,
        old_mesh_config,
        "MeshConfig v1alpha1: works, with a warning"
    ),
    scenario!(
        "VAL-08",
        P1,
        every_rule,
        "each rule is wired to the API server, with its text"
    ),
    scenario!(
        "VAL-50",
        P1,
        warnings,
        "kubectl shows warnings for what is legal but void"
    ),
    scenario!(
        "VAL-51",
        P1,
        told,
        "status, Events and `osm mesh problems` say what has no effect, and when it is well again"
    ),
    scenario!(
        "VAL-52",
        P1,
        refused_by_proxies,
        "what sidecars refuse is told to the object it came from, and traffic goes on",
        alone
    ),
];

/// How soon an object is told; Events wait a second to see whether something lasts.
const SOON: Duration = Duration::from_secs(30);

const POLICY: &str = "policy.openservicemesh.io/v1alpha1";

/// An object of the policy group.
fn policy(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    object(POLICY, kind, namespace, name, spec)
}

fn ingress_backend(namespace: &str, name: &str, protocol: &str, sources: Value) -> Value {
    let backend = json!({ "name": "web", "port": { "number": PORT, "protocol": protocol } });
    let spec = json!({ "backends": [backend], "sources": sources });
    policy("IngressBackend", namespace, name, spec)
}

fn settings(namespace: &str, name: &str, host: &str, status: u16) -> Value {
    let http = json!({ "requests": 1, "unit": "second", "responseStatusCode": status });
    let spec = json!({ "host": host, "rateLimit": { "local": { "http": http } } });
    policy("UpstreamTrafficSetting", namespace, name, spec)
}

fn egress_matching(namespace: &str, matches: Value) -> Value {
    let spec = json!({
        "sources": [{ "kind": "ServiceAccount", "name": "client", "namespace": namespace }],
        "hosts": ["a.test"], "ports": [{ "number": 80, "protocol": "http" }], "matches": matches
    });
    policy("Egress", namespace, "bad", spec)
}

fn retry(namespace: &str, conditions: &str, timeout: &str, retries: i64) -> Value {
    let spec = json!({
        "source": { "kind": "ServiceAccount", "name": "client", "namespace": namespace },
        "destinations": [{ "kind": "Service", "name": "web", "namespace": namespace }],
        "retryPolicy": { "retryOn": conditions, "perTryTimeout": timeout, "numRetries": retries, "retryBackoffBaseInterval": "1s" }
    });
    policy("Retry", namespace, "bad", spec)
}

fn split(namespace: &str, version: &str, service: &str, backends: &[(&str, f64)]) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|(service, weight)| json!({ "service": service, "weight": weight }))
        .collect();
    object(
        &format!("split.smi-spec.io/{version}"),
        "TrafficSplit",
        namespace,
        "split",
        json!({ "service": service, "backends": backends }),
    )
}

fn tcp_route(namespace: &str, ports: Value) -> Value {
    let spec = json!({ "matches": { "ports": ports } });
    object(
        "specs.smi-spec.io/v1alpha4",
        "TCPRoute",
        namespace,
        "bad",
        spec,
    )
}

fn ranges(range: &str) -> Value {
    json!([{ "kind": "IPRange", "name": range }])
}

/// What must be refused in a namespace of the mesh, and the text.
fn refusals(namespace: &str) -> Vec<(Value, &'static str)> {
    let ingress =
        |protocol: &str, sources: Value| ingress_backend(namespace, "bad", protocol, sources);
    let source = |kind: &str, name: &str| json!([{ "kind": kind, "name": name }]);
    let twice = |mut ingress: Value| {
        let backend = ingress["spec"]["backends"][0].clone();
        ingress["spec"]["backends"] = json!([backend, backend]);
        ingress
    };
    let group = |group: &str, kind: &str| json!({ "apiGroup": group, "kind": kind, "name": "m" });
    let setting = group(POLICY, "UpstreamTrafficSetting");
    vec![
        (
            with(
                target(
                    namespace,
                    "bad",
                    "web",
                    &[(namespace, "client")],
                    json!({ "kind": "TCPRoute", "name": "t" }),
                ),
                &["spec", "destination", "namespace"],
                json!("elsewhere"),
            ),
            "must match spec.Destination.Namespace (elsewhere)",
        ),
        (
            ingress("tcp", ranges("10.0.0.0/8")),
            "Expected 'port.protocol' to be 'http', 'https' or 'grpc', got: tcp",
        ),
        (
            twice(ingress("http", ranges("10.0.0.0/8"))),
            "Duplicate backends detected with service name: web and port: 14001",
        ),
        (
            ingress("https", ranges("10.0.0.0/8")),
            "HTTPS ingress with client certificate validation enabled must specify at least one 'AuthenticatedPrincipal` source",
        ),
        (
            ingress("http", source("Service", "gateway")),
            "'source.namespace' not specified for source kind Service",
        ),
        (
            ingress("http", source("AuthenticatedPrincipal", "")),
            "'source.name' not specified for source kind AuthenticatedPrincipal",
        ),
        (
            ingress("http", ranges("10.0.0.0")),
            "Invalid 'source.name' value specified for IPRange. Expected CIDR notation 'a.b.c.d/x', got '10.0.0.0'",
        ),
        (
            ingress("http", source("Pod", "x")),
            "Invalid 'source.kind' value specified. Must be one of: Service, AuthenticatedPrincipal, IPRange",
        ),
        (
            egress_matching(
                namespace,
                json!([group("specs.smi-spec.io/v1alpha4", "TCPRoute")]),
            ),
            "Expected 'matches.kind' for match 'm' to be 'HTTPRouteGroup', got: TCPRoute",
        ),
        (
            egress_matching(namespace, json!([group("v1", "HTTPRouteGroup")])),
            "Expected 'matches.apiGroup' to be one of [specs.smi-spec.io/v1alpha4 policy.openservicemesh.io/v1alpha1], got: v1",
        ),
        (
            egress_matching(namespace, json!([setting, setting])),
            "Cannot have more than 1 UpstreamTrafficSetting match",
        ),
        (
            settings(namespace, "bad", "web", 429),
            "invalid FQDN specified as host",
        ),
        (
            settings(namespace, "bad", "web.x.svc.cluster.local", 456),
            "Invalid responseStatusCode 456. See https://",
        ),
        (
            retry(namespace, "5xx", "soon", 1),
            "spec.retryPolicy.perTryTimeout: Invalid value: \"soon\"",
        ),
        (
            retry(namespace, "5xx", "1s", -1),
            "spec.retryPolicy.numRetries: Invalid value: -1",
        ),
        (
            split(namespace, "v1alpha4", "web", &[("web", -1.0)]),
            "spec.backends[0].weight: Invalid value: -1: must not be negative",
        ),
        (
            tcp_route(namespace, json!([80, 70000])),
            "spec.matches.ports[1]: Invalid value: 70000: must be between 1 and 65535",
        ),
    ]
}

async fn every_rule(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("mesh").await?;
    for (bad, text) in refusals(&namespace) {
        scene.refused(&[bad], text).await?;
    }
    // One object for a host, and for a port; an object is not in its own way.
    let host = format!("web.{namespace}.svc.cluster.local");
    let mine = settings(&namespace, "a", &host, 429);
    let open = ingress_backend(&namespace, "a", "http", ranges("10.0.0.0/8"));
    scene.apply(&[mine.clone(), open.clone()]).await?;
    let text = format!(
        "UpstreamTrafficSetting {namespace}/b conflicts with {namespace}/a since they have the same host {host}"
    );
    let text = text.as_str();
    let second = settings(&namespace, "b", &host, 503);
    // The index learns of the first a moment after the API server.
    eventually(SOON, async || {
        scene.refused(std::slice::from_ref(&second), text).await
    })
    .await?;
    let conflict = ingress_backend(&namespace, "b", "http", ranges("10.0.0.0/8"));
    scene
        .refused(
            std::slice::from_ref(&conflict),
            "duplicate backends detected",
        )
        .await?;
    scene
        .refused(
            &[conflict],
            &format!("[+] IngressBackend {namespace}/b conflicts with {namespace}/a:"),
        )
        .await?;
    scene
        .apply(&[
            with(mine, &["metadata", "labels"], json!({ "touched": "yes" })),
            with(open, &["metadata", "labels"], json!({ "touched": "yes" })),
        ])
        .await
}

async fn only_the_mesh(scene: &Scene<'_>) -> Result<()> {
    if scene.stage.cluster() == Cluster::Kubernetes {
        let why = "on Kubernetes 1.20 an IngressBackend with an empty source name arrives as null and is refused by the schema: not understood yet";
        return Err(Skip(why.to_owned()).into());
    }
    let plain = scene.plain_namespace("plain").await?;
    let ignored = scene.namespace("ignored").await?;
    let label = [
        "label",
        "namespace",
        &ignored,
        "openservicemesh.io/ignore=true",
    ];
    scene.stage.kubectl(&label).await?.text()?;
    for namespace in [&plain, &ignored] {
        let objects = refusals(namespace).into_iter().map(|(object, _)| object);
        for object in objects {
            scene.apply(&[object]).await?;
        }
    }
    let mesh = scene.namespace("mesh").await?;
    let [(first, text), ..] = &refusals(&mesh)[..] else {
        return Ok(());
    };
    scene.refused(std::slice::from_ref(first), text).await
}

async fn without_controller(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("mesh").await?;
    let good = ingress_backend(&namespace, "good", "http", ranges("10.0.0.0/8"));
    scene.apply(std::slice::from_ref(&good)).await?;
    scale(scene, 0).await?;
    let played = controller_is_down(scene, &namespace, good).await;
    scale(scene, 1).await?;
    played?;
    let good = ingress_backend(&namespace, "later", "http", ranges("10.0.0.0/8"));
    eventually(Duration::from_secs(60), async || {
        scene.apply(std::slice::from_ref(&good)).await
    })
    .await
}

async fn controller_is_down(scene: &Scene<'_>, namespace: &str, mut good: Value) -> Result<()> {
    let text = "failed calling webhook \"osm-validator.k8s.io\"";
    good["spec"]["backends"][0]["name"] = json!("other");
    // The endpoint of the pod that is gone may linger for a moment.
    eventually(SOON, async || {
        scene.refused(std::slice::from_ref(&good), text).await
    })
    .await?;
    scene
        .apply(&[
            split(namespace, "v1alpha4", "web", &[("web", 1.0)]),
            routes(namespace, "group", &[("all", ".*")]),
        ])
        .await?;
    scene.delete("ingressbackend", namespace, "good").await
}

/// So many controllers, and no pod more or less.
async fn scale(scene: &Scene<'_>, replicas: usize) -> Result<()> {
    let count = format!("--replicas={replicas}");
    let words = [
        "scale",
        "deployment",
        "osm-controller",
        "-n",
        "osm-system",
        &count,
    ];
    scene.stage.kubectl(&words).await?.text()?;
    scene
        .pods("osm-system", "osm-controller", "osm-controller", replicas)
        .await
        .map(drop)
}

async fn strange_reviews(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.plain_namespace("plain").await?;
    let client = scene.client(&namespace, "client").await?;
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "kind": { "group": "x", "version": "v1", "kind": "Y" }, "object": {} }
    });
    let post = |kind: &str, body: &str| {
        format!(
            "curl -sk -w ' %{{http_code}}' -H 'Content-Type: {kind}' --data-binary '{body}' https://osm-validator.osm-system.svc:9093/validate"
        )
    };
    for (kind, body, expected) in [
        (
            "application/json",
            review.to_string().as_str(),
            vec!["unknown gvk: x/v1, Kind=Y", "\"allowed\":false", " 200"],
        ),
        (
            "text/plain",
            "{}",
            vec![
                "Invalid Content-Type text/plain; Expected application/json",
                " 415",
            ],
        ),
        ("application/json", "", vec![" 400"]),
        ("application/json", "{", vec![" 400"]),
        (
            "application/json",
            "{}",
            vec!["nil admission request", " 400"],
        ),
    ] {
        let said = scene.sh(&client, &post(kind, body)).await?;
        ensure!(
            expected.iter().all(|part| said.contains(part)),
            "{kind} {body}: {said}, not {expected:?}"
        );
    }
    Ok(())
}

async fn updates(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("mesh").await?;
    let good = ingress_backend(&namespace, "bad", "http", ranges("10.0.0.0/8"));
    scene.apply(&[good]).await?;
    let bad = ingress_backend(&namespace, "bad", "tcp", ranges("10.0.0.0/8"));
    scene.refused(&[bad], "got: tcp").await?;
    let patch = r#"{"spec":{"sources":[{"kind":"IPRange","name":"nowhere"}]}}"#;
    let words = [
        "patch",
        "ingressbackend",
        "bad",
        "-n",
        &namespace,
        "--type=merge",
        "-p",
        patch,
    ];
    let output = scene.stage.kubectl(&words).await?;
    ensure!(
        !output.succeeded() && output.stderr.contains("got 'nowhere'"),
        "{}",
        output.complaint()
    );
    let protocol = "{.spec.backends[0].port.protocol} {.spec.sources[0].name}";
    let kept = scene
        .field("ingressbackend", &namespace, "bad", protocol)
        .await?;
    ensure!(kept == "http 10.0.0.0/8", "{kept}");
    scene.delete("ingressbackend", &namespace, "bad").await
}

async fn versions(scene: &Scene<'_>) -> Result<()> {
    for (definition, served) in [
        ("httproutegroups.specs.smi-spec.io", "v1alpha4"),
        ("tcproutes.specs.smi-spec.io", "v1alpha4"),
        ("traffictargets.access.smi-spec.io", "v1alpha3"),
        ("trafficsplits.split.smi-spec.io", "v1alpha4 v1alpha2"),
        ("meshconfigs.config.openservicemesh.io", "v1alpha2 v1alpha1"),
        ("egresses.policy.openservicemesh.io", "v1alpha1"),
        ("ingressbackends.policy.openservicemesh.io", "v1alpha1"),
        ("retries.policy.openservicemesh.io", "v1alpha1"),
        (
            "upstreamtrafficsettings.policy.openservicemesh.io",
            "v1alpha1",
        ),
    ] {
        let path = "jsonpath={.spec.versions[?(@.served==true)].name}";
        let words = ["get", "crd", definition, "-o", path];
        let names = scene.stage.kubectl(&words).await?.text()?;
        ensure!(names == served, "{definition}: {names}, not {served}");
    }
    let namespace = scene.namespace("mesh").await?;
    let group = json!([{ "kind": "HTTPRouteGroup", "name": "g" }]);
    let new = split(&namespace, "v1alpha4", "web", &[("v1", 90.0), ("v2", 10.0)]);
    scene
        .apply(&[with(new, &["spec", "matches"], group)])
        .await?;
    let old = "trafficsplits.v1alpha2.split.smi-spec.io";
    let seen = scene
        .field(
            old,
            &namespace,
            "split",
            "{.apiVersion} {.spec.backends[*].weight} {.spec.matches}",
        )
        .await?;
    ensure!(seen == "split.smi-spec.io/v1alpha2 90 10 ", "{seen}");
    scene.delete(old, &namespace, "split").await?;
    // A client of the old version writes; a bad one is refused in its version, too.
    scene
        .apply(&[split(&namespace, "v1alpha2", "web", &[("v1", 1.0)])])
        .await?;
    let stored = "trafficsplits.v1alpha4.split.smi-spec.io";
    let seen = scene
        .field(
            stored,
            &namespace,
            "split",
            "{.apiVersion} {.spec.backends[*].service}",
        )
        .await?;
    ensure!(seen == "split.smi-spec.io/v1alpha4 v1", "{seen}");
    let bad = split(&namespace, "v1alpha2", "web", &[("v1", -1.0)]);
    scene.refused(&[bad], "spec.backends[0].weight").await
}

async fn old_mesh_config(scene: &Scene<'_>) -> Result<()> {
    let words = [
        "get",
        "meshconfigs.v1alpha1.config.openservicemesh.io",
        "-n",
        "osm-system",
        "-o",
        "yaml",
    ];
    let output = scene.stage.kubectl(&words).await?;
    ensure!(
        output.succeeded() && output.stdout.contains("enablePermissiveTrafficPolicyMode"),
        "{}",
        output.complaint()
    );
    ensure!(
        !output.stdout.contains("localProxyMode: "),
        "a field of v1alpha2 in v1alpha1: {}",
        output.stdout
    );
    ensure!(
        output
            .stderr
            .contains("Warning: config.openservicemesh.io/v1alpha1 MeshConfig is deprecated"),
        "{}",
        output.complaint()
    );
    Ok(())
}

async fn warnings(scene: &Scene<'_>) -> Result<()> {
    let namespace = scene.namespace("mesh").await?;
    scene
        .apply(&[
            account(&namespace, "web"),
            service(&namespace, "web", "web", "http", 80),
        ])
        .await?;
    let group = |name: &str| json!({ "kind": "HTTPRouteGroup", "name": name });
    let [_, open] = allow(&namespace, "web", &[(&namespace, "client")]);
    let cases = [
        (
            target(
                &namespace,
                "a",
                "web",
                &[(&namespace, "client")],
                group("nowhere"),
            ),
            "E2005: the HTTPRouteGroup does not exist",
        ),
        (
            target(&namespace, "b", "web", &[], group("nowhere")),
            "it has no valid source: nobody is allowed",
        ),
        (
            with(open, &["spec", "sources", "0", "kind"], json!("User")),
            "E2011: source client has kind \"User\"",
        ),
        (
            routes(&namespace, "odd", &[("bad", "(")]),
            "pathRegex \"(\": not a valid regex: the match is void",
        ),
        (
            split(&namespace, "v1alpha4", "web", &[("web", 0.0)]),
            "all weights are zero",
        ),
        (
            split(&namespace, "v1alpha2", "gone", &[("web", 1.0)]),
            "service gone: the Service does not exist",
        ),
        (
            ingress_backend(&namespace, "a", "http", ranges("10.0.0.0/8")),
            "no port of the Service has the targetPort 14001",
        ),
        (
            settings(
                &namespace,
                "a",
                &format!("gone.{namespace}.svc.cluster.local"),
                429,
            ),
            "the Service does not exist",
        ),
        (
            settings(&namespace, "b", "example.com", 429),
            "no Egress refers to the object: no effect",
        ),
        (
            retry(&namespace, "5xx,sometimes", "1s", 1),
            "\"sometimes\" is no condition: it is ignored",
        ),
        (
            egress_matching(
                &namespace,
                json!([{ "apiGroup": POLICY, "kind": "UpstreamTrafficSetting", "name": "gone" }]),
            ),
            "the UpstreamTrafficSetting does not exist",
        ),
    ];
    for (object, warning) in cases {
        // The index learns of the Service a moment after the API server.
        eventually(SOON, async || {
            let object = list(std::slice::from_ref(&object));
            let words = ["apply", "--dry-run=server", "-f", "-"];
            let output = scene.stage.kubectl_with(&words, &object).await?;
            ensure!(output.succeeded(), "{}", output.complaint());
            ensure!(
                output.stderr.contains("Warning: ") && output.stderr.contains(warning),
                "{}, without {warning:?}",
                output.complaint()
            );
            Ok(())
        })
        .await?;
    }
    let quiet = list(&allow(&namespace, "web", &[(&namespace, "client")])[..1]);
    let output = scene
        .stage
        .kubectl_with(&["apply", "-f", "-"], &quiet)
        .await?;
    ensure!(!output.both().contains("Warning"), "{}", output.complaint());
    let patch = r#"{"spec":{"sidecar":{"sidecarTimeout":61}}}"#;
    let words = [
        "patch",
        "meshconfig",
        "osm-mesh-config",
        "-n",
        "osm-system",
        "--type=merge",
        "--dry-run=server",
        "-p",
        patch,
    ];
    let output = scene.stage.kubectl(&words).await?;
    ensure!(
        output
            .stderr
            .contains("Warning: spec.sidecar.sidecarTimeout has no effect"),
        "{}",
        output.complaint()
    );
    Ok(())
}

/// The reasons of the Events about an object, in their order.
async fn reasons(
    scene: &Scene<'_>,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Result<Vec<String>> {
    let selector =
        format!("--field-selector=involvedObject.kind={kind},involvedObject.name={name}");
    let path = r#"jsonpath={range .items[*]}{.reason}{"\n"}{end}"#;
    let words = [
        "get",
        "events",
        "-n",
        namespace,
        &selector,
        "--sort-by=.lastTimestamp",
        "-o",
        path,
    ];
    let text = scene.stage.kubectl(&words).await?.text()?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn told(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let [group, open] = allow(&servers, "server", &[(&client.namespace, "client")]);
    scene.apply(&[open]).await?;
    let current = "{.status.currentStatus} {.status.conditions[?(@.type==\"Accepted\")].reason}";
    let is = async |name: &str, kind: &str, expected: &str| {
        eventually(SOON, async || {
            let seen = scene.field(kind, &servers, name, current).await?;
            ensure!(
                seen == expected,
                "{kind} {name}: {seen:?}, not {expected:?}"
            );
            Ok(())
        })
        .await
    };
    let happened = async |kind: &str, name: &str, reason: &str| {
        eventually(SOON, async || {
            let seen = reasons(scene, &servers, kind, name).await?;
            ensure!(
                seen.iter().any(|one| one == reason),
                "{kind} {name}: {seen:?}, no {reason}"
            );
            Ok(())
        })
        .await
    };
    is("server", "traffictarget", "error Ignored").await?;
    happened("TrafficTarget", "server", "Ignored").await?;
    let problems = scene
        .stage
        .osm(&["mesh", "problems", "-n", &servers])
        .await?
        .text()?;
    let line = problems
        .lines()
        .find(|line| line.contains(&format!("{servers}/server")));
    ensure!(
        line.is_some_and(|line| line.starts_with("TrafficTarget")
            && line.contains("ignored")
            && line.contains("E2005")),
        "{problems}"
    );
    scene.apply(&[group]).await?;
    is("server", "traffictarget", "committed Accepted").await?;
    happened("TrafficTarget", "server", "Accepted").await?;
    scene.head(&client, &url, Ends::Status(200)).await?;

    // Past the webhook: the namespace joins when both objects are there.
    let late = scene.plain_namespace("late").await?;
    let host = format!("web.{late}.svc.cluster.local");
    scene
        .apply(&[
            settings(&late, "a", &host, 429),
            settings(&late, "b", &host, 503),
        ])
        .await?;
    scene
        .stage
        .osm(&["namespace", "add", &late])
        .await?
        .text()?;
    eventually(SOON, async || {
        let reason = scene
            .field("upstreamtrafficsetting", &late, "b", "{.status.reason}")
            .await?;
        ensure!(reason.contains(&format!("{late}/a")), "{reason}");
        let seen = reasons(scene, &late, "UpstreamTrafficSetting", "b").await?;
        ensure!(seen == ["Conflict"], "{seen:?}");
        Ok(())
    })
    .await?;
    let described = ["describe", "upstreamtrafficsetting", "b", "-n", &late];
    let described = scene.stage.kubectl(&described).await?.text()?;
    ensure!(
        described
            .lines()
            .any(|line| line.contains("Conflict") && line.contains("osm-controller")),
        "kubectl describe shows no event: {described}"
    );
    Ok(())
}

async fn refused_by_proxies(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    // Nobody but the sidecars knows which curves they have.
    scene
        .mesh_config(json!({ "sidecar": { "ecdhCurves": ["P-42"] } }))
        .await?;
    let current = "{.status.currentStatus} {.status.refusedByProxies} {.status.reason}";
    let status = async |wanted: &str| {
        eventually(SOON, async || {
            let seen = scene
                .field("meshconfig", "osm-system", "osm-mesh-config", current)
                .await?;
            ensure!(seen.starts_with(wanted), "{seen:?}, not {wanted:?}");
            Ok(seen)
        })
        .await
    };
    let seen = status("error ").await?;
    ensure!(
        seen.contains("refused by ") && seen.contains("P-42"),
        "{seen}"
    );
    let happened = async |reason: &str| {
        eventually(SOON, async || {
            let seen = reasons(scene, "osm-system", "MeshConfig", "osm-mesh-config").await?;
            ensure!(
                seen.iter().any(|one| one == reason),
                "{seen:?}, no {reason}"
            );
            Ok(())
        })
        .await
    };
    happened("RefusedByProxies").await?;
    let seen = reasons(scene, &client.namespace, "Pod", &client.name).await?;
    ensure!(seen.iter().any(|one| one == "RefusedByProxies"), "{seen:?}");
    let problems = scene.stage.osm(&["mesh", "problems"]).await?.text()?;
    let line = problems.lines().find(|line| line.starts_with("MeshConfig"));
    ensure!(
        line.is_some_and(|line| line.contains("refused") && line.contains("P-42")),
        "{problems}"
    );
    // The last good configuration stays.
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene
        .mesh_config(json!({ "sidecar": { "ecdhCurves": null } }))
        .await?;
    status("committed  ").await?;
    happened("Accepted").await?;
    scene.head(&client, &url, Ends::Status(200)).await
}
