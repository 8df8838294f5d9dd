//! What one scenario plays with: namespaces of its own, pods in them, and statements about what curl says there.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::stage::Stage;
use e2e::{Driver, Output, eventually};
use serde_json::{Value, json};

use crate::manifest::{account, curl, deployment, list, pod, trust};

/// A scenario's view of the stage.
pub struct Scene<'a> {
    /// The stage that all share.
    pub stage: &'a Stage,
    id: String,
    namespaces: Mutex<Vec<String>>,
}

/// A pod and the container to run commands in.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Container.
    pub container: String,
}

/// What a request ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// An answer with this status.
    Status(u16),
    /// No answer; curl's exit status is this.
    Exit(i32),
    /// No answer, whatever curl calls it.
    Closed,
}

/// Longest wait for pods to be there and ready.
const ROLLOUT: Duration = Duration::from_secs(120);

/// Longest wait for a statement to come true, as the upstream suites grant.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers in a row that make a statement true, as in the upstream suites.
const IN_A_ROW: usize = 5;

// === impl Scene ===

impl<'a> Scene<'a> {
    /// The scene of one scenario.
    pub fn new(stage: &'a Stage, id: &str) -> Self {
        Self {
            stage,
            id: id.to_lowercase().replace('-', ""),
            namespaces: Mutex::default(),
        }
    }

    /// A namespace outside the mesh.
    pub async fn plain_namespace(&self, name: &str) -> Result<String> {
        let namespace = format!("{}-{name}", self.id);
        self.stage
            .kubectl(&["create", "namespace", &namespace])
            .await?
            .text()?;
        if let Ok(mut all) = self.namespaces.lock() {
            all.push(namespace.clone());
        }
        let authority = self.stage.directory().join("outside-ca.pem");
        let file = format!("--from-file=ca.pem={}", authority.display());
        self.stage
            .kubectl(&["create", "configmap", "outside-ca", "-n", &namespace, &file])
            .await?
            .text()?;
        Ok(namespace)
    }

    /// A namespace of the mesh.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        let namespace = self.plain_namespace(name).await?;
        self.stage
            .osm(&["namespace", "add", &namespace])
            .await?
            .text()?;
        Ok(namespace)
    }

    /// Applies objects.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        self.stage.apply(&list(objects)).await.map(drop)
    }

    /// Deletes an object.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.stage
            .kubectl(&["delete", kind, name, "-n", namespace])
            .await?
            .text()
            .map(drop)
    }

    /// Starts a client with a ServiceAccount of its name.
    pub async fn client(&self, namespace: &str, name: &str) -> Result<Pod> {
        let spec = with_trust(pod(name, curl()));
        self.apply(&[account(namespace, name), deployment(namespace, name, spec)])
            .await?;
        self.pod(namespace, name, "curl").await
    }

    /// The only pod of a Deployment, once it is ready.
    pub async fn pod(&self, namespace: &str, name: &str, container: &str) -> Result<Pod> {
        let mut pods = self.pods(namespace, name, container, 1).await?;
        pods.pop().context("no pod")
    }

    /// The pods of a Deployment, once so many are ready and no others are left.
    pub async fn pods(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        count: usize,
    ) -> Result<Vec<Pod>> {
        let selector = format!("app={name}");
        let columns = r#"jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        eventually(ROLLOUT, async || {
            let text = self
                .stage
                .kubectl(&[
                    "get", "pods", "-n", namespace, "-l", &selector, "-o", columns,
                ])
                .await?
                .text()?;
            let ready = text.lines().filter(|line| line.ends_with(" True")).count();
            ensure!(
                ready == count && text.lines().count() == count,
                "pods of {namespace}/{name}: {text:?}, not {count} ready"
            );
            let pod = |line: &str| Pod {
                namespace: namespace.to_owned(),
                name: line.split(' ').next().unwrap_or_default().to_owned(),
                container: container.to_owned(),
            };
            Ok(text.lines().map(pod).collect())
        })
        .await
    }

    /// A field of an object.
    pub async fn field(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        path: &str,
    ) -> Result<String> {
        self.stage
            .kubectl(&[
                "get",
                kind,
                name,
                "-n",
                namespace,
                "-o",
                &format!("jsonpath={path}"),
            ])
            .await?
            .text()
    }

    /// Runs a command in a pod.
    pub async fn exec(&self, pod: &Pod, command: &[&str]) -> Result<Output> {
        let words = [
            "exec",
            "-n",
            &pod.namespace,
            &pod.name,
            "-c",
            &pod.container,
            "--",
        ];
        self.stage.kubectl(&[&words[..], command].concat()).await
    }

    /// Runs a line of shell in a pod and gives what it printed, whatever its status.
    pub async fn sh(&self, pod: &Pod, line: &str) -> Result<String> {
        Ok(self.exec(pod, &["sh", "-c", line]).await?.both())
    }

    /// `curl -I` from a pod, five times in a row, must end like this within a minute.
    pub async fn head(&self, from: &Pod, request: &str, ends: Ends) -> Result<()> {
        self.curl(from, &format!("-I {request}"), ends).await
    }

    /// `curl` from a pod, five times in a row, must end like this within a minute.
    pub async fn curl(&self, from: &Pod, request: &str, ends: Ends) -> Result<()> {
        eventually(PATIENCE, async || {
            let seen = self.requests(from, request, IN_A_ROW).await?;
            ensure!(
                seen.iter().all(|one| ends.is(*one)),
                "curl {request} in {}: {seen:?}, not {ends:?}",
                from.name
            );
            Ok(())
        })
        .await
    }

    /// Requests one after the other, as (status or 0, exit status of curl).
    pub async fn requests(
        &self,
        from: &Pod,
        request: &str,
        times: usize,
    ) -> Result<Vec<(u16, i32)>> {
        let line = format!(
            "i=0; while [ $i -lt {times} ]; do curl -s -o /dev/null --max-time 10 -w '%{{http_code}}' {request}; echo \" $?\"; i=$((i+1)); done"
        );
        let output = self.exec(from, &["sh", "-c", &line]).await?;
        let pair = |line: &str| {
            let (status, exit) = line.split_once(' ')?;
            Some((status.parse().ok()?, exit.parse().ok()?))
        };
        let seen: Vec<_> = output.stdout.lines().filter_map(pair).collect();
        ensure!(seen.len() == times, "{}", output.complaint());
        Ok(seen)
    }

    /// Answers of the servers' pods to requests until every one of so many has answered.
    pub async fn everyone_answers(&self, from: &Pod, url: &str, count: usize) -> Result<()> {
        let line = format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sI --max-time 10 {url} | tr -d '\\r' | sed -n 's/^podname: //p'; done"
        );
        let mut names = std::collections::BTreeSet::new();
        eventually(PATIENCE, async || {
            let text = self.exec(from, &["sh", "-c", &line]).await?.stdout;
            names.extend(text.lines().map(str::to_owned));
            ensure!(
                names.len() == count,
                "{url} answered by {names:?}, not by {count} pods"
            );
            Ok(())
        })
        .await
    }

    /// Merges a change into the MeshConfig. Only scenarios that run alone may do this.
    pub async fn mesh_config(&self, spec: Value) -> Result<()> {
        patch_mesh_config(self.stage, spec).await
    }

    /// Must be refused by the API server with this text.
    pub async fn refused(&self, objects: &[Value], text: &str) -> Result<()> {
        let output = self
            .stage
            .kubectl_with(&["apply", "-f", "-"], &list(objects))
            .await?;
        ensure!(
            !output.succeeded(),
            "was accepted, but must be refused with {text:?}"
        );
        ensure!(
            output.stderr.contains(text),
            "{}, not with {text:?}",
            output.complaint()
        );
        Ok(())
    }

    /// What may explain a failure: pods, events and the sidecars' last words.
    pub async fn diagnose(&self) -> String {
        let namespaces = self
            .namespaces
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default();
        let mut text = String::new();
        for namespace in &namespaces {
            let show = format!(
                "kubectl get pods,egress,ingressbackend,traffictarget,httproutegroup,svc,endpoints -n {namespace} -o wide; \
                 kubectl get events -n {namespace}; kubectl get pods -n {namespace} -o yaml; \
                 for pod in $(kubectl get pods -n {namespace} -o name); do echo \"== $pod\"; \
                 kubectl logs -n {namespace} $pod --all-containers --tail=60; done"
            );
            text += &self
                .stage
                .shell(&show, ROLLOUT)
                .await
                .map_or_else(|error| format!("{error:#}"), |output| output.both());
        }
        let control = "kubectl logs -n osm-system deploy/osm-controller --tail=100; kubectl get meshconfig -A -o yaml";
        text + &self
            .stage
            .shell(control, ROLLOUT)
            .await
            .map_or_else(|error| format!("{error:#}"), |output| output.both())
    }

    /// Removes the namespaces of the scene; what remains of them does no harm to the next.
    pub async fn end(&self) {
        let namespaces = self
            .namespaces
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default();
        if namespaces.is_empty() {
            return;
        }
        let mut words = vec!["delete", "namespace", "--wait=false", "--ignore-not-found"];
        words.extend(namespaces.iter().map(String::as_str));
        if let Err(error) = self.stage.kubectl(&words).await.and_then(Output::text) {
            eprintln!("{}: namespaces are left: {error:#}", self.id);
        }
    }
}

/// A pod's spec with the volume that curl's container needs.
pub fn with_trust(spec: Value) -> Value {
    crate::manifest::with(spec, &["volumes"], trust())
}

/// The MeshConfig that every scenario starts from.
pub async fn reset(stage: &Stage, driver: Driver) -> Result<()> {
    let spec = json!({
        "traffic": {
            "enableEgress": false, "enablePermissiveTrafficPolicyMode": false,
            "outboundIPRangeExclusionList": [], "outboundIPRangeInclusionList": [],
            "outboundPortExclusionList": [], "inboundPortExclusionList": [], "inboundExternalAuthorization": null
        },
        "sidecar": {
            "sidecarClass": driver.to_string(), "localProxyMode": "Localhost", "resources": null,
            "ecdhCurves": null, "logLevel": "error"
        },
        "certificate": { "serviceCertValidityDuration": "24h", "ingressGateway": null },
        "observability": { "osmLogLevel": "info", "tracing": { "enable": false } },
        "featureFlags": {
            "enableEgressPolicy": true, "enableIngressBackendPolicy": true, "enableRetryPolicy": false
        }
    });
    patch_mesh_config(stage, spec).await
}

async fn patch_mesh_config(stage: &Stage, spec: Value) -> Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    let words = [
        "patch",
        "meshconfig",
        "osm-mesh-config",
        "-n",
        "osm-system",
        "--type=merge",
        "-p",
        &patch,
    ];
    stage.kubectl(&words).await?.text().map(drop)
}

// === impl Ends ===

impl Ends {
    fn is(self, (status, exit): (u16, i32)) -> bool {
        match self {
            Self::Status(wanted) => exit == 0 && status == wanted,
            Self::Exit(wanted) => exit == wanted,
            Self::Closed => matches!(exit, 7 | 35 | 52 | 56),
        }
    }
}

/// Ends a scenario as not played.
pub fn skip(reason: &str) -> Result<()> {
    bail!(crate::report::Skip(reason.to_owned()))
}
