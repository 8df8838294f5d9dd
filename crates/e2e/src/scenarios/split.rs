//! Traffic splits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::{
    PORT, account, allow, deployment, named_httpbin, object, pod, routes, service, target, with,
};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "SPLIT-01",
        P0,
        five_backends,
        "five backends of two pods each: everyone answers, and each directly too"
    ),
    scenario!(
        "SPLIT-02",
        P0,
        five_backends_permissive,
        "the same in permissive mode",
        alone
    ),
    scenario!("SPLIT-03", P0, opaque, "connections are split, too"),
    scenario!(
        "SPLIT-04",
        P1,
        one_account,
        "all backends under one ServiceAccount"
    ),
    scenario!(
        "SPLIT-06",
        P0,
        canary,
        "100 to one, then half and half, then 100 to the other, without an error"
    ),
    scenario!("SPLIT-07", P0, zero_weight, "weight 0 gets nothing"),
    scenario!("SPLIT-08", P1, relative, "weights are relative"),
    scenario!(
        "SPLIT-09",
        P1,
        all_zero,
        "all weights zero: the apex answers 503, others work"
    ),
    scenario!(
        "SPLIT-10",
        P1,
        comes_later,
        "a backend that comes later takes its share"
    ),
    scenario!(
        "SPLIT-15",
        P1,
        every_name,
        "every form of the apex's name, and its Host at the backend"
    ),
    scenario!(
        "SPLIT-17",
        P1,
        full_name,
        "spec.service as a full name; of another namespace it is ignored"
    ),
    scenario!(
        "SPLIT-18",
        P1,
        matched,
        "only the requests of the split's HTTPRouteGroup; the rest goes to the root service"
    ),
    scenario!(
        "SPLIT-19",
        P1,
        deleted,
        "without the split the apex's own pods answer"
    ),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// Requests whose answers are counted.
const SAMPLE: u32 = 200;

/// Backends behind the apex `shop`, whose own selector takes the first's pods.
pub struct Shop {
    /// Their namespace.
    pub servers: String,
    /// Who calls them.
    pub client: Pod,
}

impl Shop {
    /// Backends of one pod each; the client may call all of them.
    pub async fn new(scene: &Scene<'_>, backends: &[&str]) -> Result<Self> {
        Self::with_replicas(scene, backends, 1, true).await
    }

    async fn with_replicas(
        scene: &Scene<'_>,
        backends: &[&str],
        replicas: u32,
        granted: bool,
    ) -> Result<Self> {
        let clients = scene.namespace("client").await?;
        let servers = scene.namespace("server").await?;
        for name in backends {
            serve(scene, &servers, name, replicas).await?;
        }
        let first = backends.first().copied().unwrap_or_default();
        scene
            .apply(&[service(&servers, "shop", first, "http", PORT)])
            .await?;
        let client = scene.client(&clients, "client").await?;
        for name in backends {
            if granted {
                grant(scene, &servers, name, &clients).await?;
            }
            let count = usize::try_from(replicas)?;
            scene.pods(&servers, name, "httpbin", count).await?;
        }
        Ok(Self { servers, client })
    }

    /// A page of a Service of theirs.
    pub fn url(&self, name: &str) -> String {
        format!("http://{name}.{}:{PORT}/get", self.servers)
    }

    /// Splits the apex by weights.
    pub async fn split(&self, scene: &Scene<'_>, weights: &[(&str, u32)]) -> Result<()> {
        scene.apply(&[split(&self.servers, "shop", weights)]).await
    }

    /// How many of so many answers from the apex came from which backend; every request must be answered.
    async fn shares(&self, scene: &Scene<'_>, request: &str) -> Result<BTreeMap<String, u32>> {
        let line = format!(
            "i=0; while [ $i -lt {SAMPLE} ]; do curl -s -o /dev/null -D - --max-time 10 {request} | tr -d '\\r' | sed -n '1s/[^ ]* //p;s/^podname: //p' | tr '\\n' ' '; echo; i=$((i+1)); done"
        );
        let text = scene.sh(&self.client, &line).await?;
        let mut shares = BTreeMap::new();
        for answer in text.lines() {
            let (status, pod) = answer.trim().rsplit_once(' ').unwrap_or((answer, ""));
            ensure!(status.starts_with("200"), "an answer is {answer:?}");
            // A Deployment's pod is called <name>-<hash>-<id>.
            let name = pod.rsplitn(3, '-').nth(2).unwrap_or(pod);
            *shares.entry(name.to_owned()).or_default() += 1;
        }
        let answers: u32 = shares.values().sum();
        ensure!(answers == SAMPLE, "{answers} answers to {SAMPLE} requests");
        Ok(shares)
    }

    /// The backends' shares must come to lie within so many per cent of these, none besides.
    pub async fn divides(
        &self,
        scene: &Scene<'_>,
        wanted: &[(&str, u32)],
        within: u32,
    ) -> Result<()> {
        let url = self.url("shop");
        eventually(PATIENCE, async || {
            let shares = self.shares(scene, &url).await?;
            let known = |name: &str| wanted.iter().any(|(wanted, _)| *wanted == name);
            let right = wanted.iter().all(|(name, percent)| {
                let share = shares.get(*name).copied().unwrap_or(0) * 100 / SAMPLE;
                share.abs_diff(*percent) <= within
            });
            ensure!(
                right && shares.keys().all(|name| known(name)),
                "shares of {SAMPLE}: {shares:?}, not {wanted:?} %"
            );
            Ok(())
        })
        .await
    }
}

async fn serve(scene: &Scene<'_>, namespace: &str, name: &str, replicas: u32) -> Result<()> {
    let spec = deployment(namespace, name, pod(name, named_httpbin(PORT)));
    scene
        .apply(&[
            account(namespace, name),
            service(namespace, name, name, "http", PORT),
            with(spec, &["spec", "replicas"], json!(replicas)),
        ])
        .await
}

async fn grant(scene: &Scene<'_>, servers: &str, name: &str, clients: &str) -> Result<()> {
    scene
        .apply(&allow(servers, name, &[(clients, "client")]))
        .await
}

/// A split of an apex by weights.
pub fn split(namespace: &str, apex: &str, weights: &[(&str, u32)]) -> Value {
    let backends: Vec<Value> = weights
        .iter()
        .map(|(name, weight)| json!({ "service": name, "weight": weight }))
        .collect();
    object(
        "split.smi-spec.io/v1alpha2",
        "TrafficSplit",
        namespace,
        "split",
        json!({ "service": apex, "backends": backends }),
    )
}

const FIVE: [&str; 5] = ["v1", "v2", "v3", "v4", "v5"];

async fn spread(scene: &Scene<'_>, shop: &Shop, pods: usize) -> Result<()> {
    let weights = FIVE.map(|name| (name, 20));
    shop.split(scene, &weights).await?;
    scene
        .everyone_answers(&shop.client, &shop.url("shop"), pods)
        .await?;
    for name in FIVE {
        let url = shop.url(name);
        scene.curl(&shop.client, &url, Ends::Status(200)).await?;
    }
    Ok(())
}

async fn five_backends(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::with_replicas(scene, &FIVE, 2, true).await?;
    spread(scene, &shop, 10).await
}

async fn five_backends_permissive(scene: &Scene<'_>) -> Result<()> {
    scene
        .mesh_config(json!({ "traffic": { "enablePermissiveTrafficPolicyMode": true } }))
        .await?;
    let shop = Shop::with_replicas(scene, &FIVE, 1, false).await?;
    spread(scene, &shop, 5).await
}

async fn opaque(scene: &Scene<'_>) -> Result<()> {
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    let client = scene.client(&clients, "client").await?;
    for name in ["v1", "v2"] {
        let container = json!({
            "name": "echo", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
            "command": ["osm-apps", "tcp-echo", "--port", "9000", "--prefix", format!("{name}: ")],
            "ports": [{ "containerPort": 9000 }]
        });
        scene
            .apply(&[
                account(&servers, name),
                service(&servers, name, name, "tcp-echo", 9000),
                deployment(&servers, name, pod(name, container)),
                super::tcp::route(&servers, name, &[9000]),
                target(
                    &servers,
                    name,
                    name,
                    &[(&clients, "client")],
                    super::tcp::rule(name),
                ),
            ])
            .await?;
        scene.pod(&servers, name, "echo").await?;
    }
    scene
        .apply(&[
            service(&servers, "shop", "v1", "tcp-echo", 9000),
            split(&servers, "shop", &[("v1", 50), ("v2", 50)]),
        ])
        .await?;
    let line =
        format!("for i in 1 2 3 4 5 6 7 8 9 10; do echo hi | nc -w 3 shop.{servers} 9000; done");
    eventually(PATIENCE, async || {
        let said = scene.sh(&client, &line).await?;
        let of = |name: &str| said.lines().filter(|line| line.starts_with(name)).count();
        let (one, other) = (of("v1: hi"), of("v2: hi"));
        ensure!(
            one + other == 10 && one > 0 && other > 0,
            "ten connections: {said:?}"
        );
        Ok(())
    })
    .await
}

async fn one_account(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    scene.apply(&[account(&servers, "shared")]).await?;
    for name in ["v1", "v2"] {
        scene
            .apply(&[
                service(&servers, name, name, "http", PORT),
                deployment(&servers, name, pod("shared", named_httpbin(PORT))),
            ])
            .await?;
    }
    scene
        .apply(&[service(&servers, "shop", "v1", "http", PORT)])
        .await?;
    let client = scene.client(&clients, "client").await?;
    grant(scene, &servers, "shared", &clients).await?;
    for name in ["v1", "v2"] {
        scene.pod(&servers, name, "httpbin").await?;
    }
    let shop = Shop { servers, client };
    shop.split(scene, &[("v1", 50), ("v2", 50)]).await?;
    shop.divides(scene, &[("v1", 50), ("v2", 50)], 15).await
}

async fn canary(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v1", 100)]).await?;
    shop.divides(scene, &[("v1", 100)], 0).await?;
    // Requests go on while the weights change, and none may fail.
    let url = shop.url("shop");
    let line = format!(
        "i=0; while [ $i -lt 50 ]; do curl -s -o /dev/null -w '%{{http_code}}\\n' {url}; i=$((i+1)); done | sort | uniq -c"
    );
    let changed = AtomicBool::new(false);
    let load = async {
        while !changed.load(Ordering::Relaxed) {
            let said = scene.sh(&shop.client, &line).await?;
            ensure!(
                said.trim() == "50 200",
                "answers while the weights changed: {said:?}"
            );
        }
        Ok(())
    };
    let change = async {
        shop.split(scene, &[("v1", 50), ("v2", 50)]).await?;
        shop.divides(scene, &[("v1", 50), ("v2", 50)], 15).await?;
        shop.split(scene, &[("v1", 0), ("v2", 100)]).await?;
        shop.divides(scene, &[("v2", 100)], 0).await
    };
    let change = async {
        let outcome = change.await;
        changed.store(true, Ordering::Relaxed);
        outcome
    };
    let (load, change) = tokio::join!(load, change);
    change?;
    load
}

async fn zero_weight(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v1", 0), ("v2", 100)]).await?;
    shop.divides(scene, &[("v2", 100)], 0).await
}

async fn relative(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v1", 1000), ("v2", 500)]).await?;
    shop.divides(scene, &[("v1", 67), ("v2", 33)], 10).await
}

async fn all_zero(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1"]).await?;
    shop.split(scene, &[("v1", 0)]).await?;
    let apex = shop.url("shop");
    scene.curl(&shop.client, &apex, Ends::Status(503)).await?;
    let direct = shop.url("v1");
    scene.curl(&shop.client, &direct, Ends::Status(200)).await
}

async fn comes_later(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1"]).await?;
    shop.split(scene, &[("v1", 50), ("late", 50)]).await?;
    shop.divides(scene, &[("v1", 100)], 0).await?;
    serve(scene, &shop.servers, "late", 1).await?;
    grant(scene, &shop.servers, "late", &shop.client.namespace).await?;
    shop.divides(scene, &[("v1", 50), ("late", 50)], 15).await
}

async fn every_name(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v1", 0), ("v2", 100)]).await?;
    shop.divides(scene, &[("v2", 100)], 0).await?;
    let servers = &shop.servers;
    for suffix in ["", ".svc", ".svc.cluster", ".svc.cluster.local"] {
        for port in [String::new(), format!(":{PORT}")] {
            let host = format!("shop.{servers}{suffix}{port}");
            let request = format!("-s http://shop.{servers}:{PORT}/headers -H 'Host: {host}' -D -");
            let said = scene.sh(&shop.client, &format!("curl {request}")).await?;
            ensure!(
                said.contains("podname: v2-") && said.contains(&format!("\"{host}\"")),
                "Host {host}: {said:?}"
            );
        }
    }
    Ok(())
}

async fn full_name(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    let servers = shop.servers.clone();
    for apex in [
        format!("shop.{servers}.svc.cluster.local"),
        format!("shop.{servers}"),
    ] {
        scene
            .apply(&[split(&servers, &apex, &[("v2", 100)])])
            .await?;
        shop.divides(scene, &[("v2", 100)], 0).await?;
        scene
            .apply(&[split(&servers, "shop.elsewhere", &[("v2", 100)])])
            .await?;
        shop.divides(scene, &[("v1", 100)], 0).await?;
    }
    Ok(())
}

async fn matched(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    let servers = shop.servers.as_str();
    let mut firefox = routes(servers, "firefox", &[("users", ".*")]);
    firefox["spec"]["matches"][0]["headers"] = json!([{ "user-agent": ".*Firefox.*" }]);
    let spec = json!({
        "service": "shop",
        "matches": [{ "kind": "HTTPRouteGroup", "name": "firefox" }],
        "backends": [{ "service": "v2", "weight": 100 }]
    });
    let conditional = object(
        "split.smi-spec.io/v1alpha4",
        "TrafficSplit",
        servers,
        "split",
        spec,
    );
    scene.apply(&[firefox, conditional]).await?;
    eventually(PATIENCE, async || {
        let url = format!("{} -A 'Mozilla Firefox/1'", shop.url("shop"));
        let shares = shop.shares(scene, &url).await?;
        ensure!(
            shares.len() == 1 && shares.contains_key("v2"),
            "Firefox: {shares:?}"
        );
        Ok(())
    })
    .await?;
    // The apex's own pods are the first backend's.
    shop.divides(scene, &[("v1", 100)], 0).await
}

async fn deleted(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v2", 100)]).await?;
    shop.divides(scene, &[("v2", 100)], 0).await?;
    scene.delete("trafficsplit", &shop.servers, "split").await?;
    shop.divides(scene, &[("v1", 100)], 0).await
}
