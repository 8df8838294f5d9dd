//! External authorization of what comes in.

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::traffic::{PATIENCE, Pair, serve};
use super::{Scenario, scenario, tcp};
use crate::manifest::{PORT, named_httpbin, object, routes, rule, service, target, with};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "EXT-01",
        P1,
        judged,
        "an external service decides about every request",
        alone
    ),
    scenario!(
        "EXT-02",
        P1,
        unreachable,
        "without it nobody passes, or everybody, as failureModeAllow says",
        alone
    ),
    scenario!(
        "EXT-03",
        P1,
        late,
        "a verdict that takes too long is none",
        alone
    ),
    scenario!(
        "EXT-04",
        P2,
        mutations,
        "it may add headers, and answer itself",
        alone
    ),
    scenario!(
        "EXT-05",
        P1,
        order,
        "ingress is judged, too; what policy or a limit refuses is not asked about, nor TCP",
        alone
    ),
    scenario!(
        "EXT-06",
        P1,
        disabled,
        "switched off, requests pass as before",
        alone
    ),
];

/// A pair of which the server is httpbin, and an authorizer outside the mesh.
struct Judged {
    pair: Pair,
    judge: Pod,
    address: String,
}

impl Judged {
    async fn new(scene: &Scene<'_>) -> Result<Self> {
        let namespace = scene.plain_namespace("judge").await?;
        serve(scene, &namespace, "authz", &["authz"], ("grpc", 9191)).await?;
        let pair = Pair::new(scene, &["httpbin"], ("http", PORT)).await?;
        let judge = scene.pod(&namespace, "authz", "server").await?;
        let judged = Self {
            pair,
            judge,
            address: format!("authz.{namespace}.svc.cluster.local"),
        };
        judged.ends(scene, "", "/get", Ends::Status(200)).await?;
        Ok(judged)
    }

    /// Names this authorizer in the MeshConfig.
    async fn ask(&self, scene: &Scene<'_>, rest: Value) -> Result<()> {
        let settings = json!({
            "enable": true, "address": self.address, "port": 9191, "statPrefix": "inboundExtAuthz",
            "timeout": "5s", "failureModeAllow": false
        });
        let mut settings = settings;
        if let (Some(settings), Some(rest)) = (settings.as_object_mut(), rest.as_object()) {
            settings.extend(rest.clone());
        }
        let config = json!({ "traffic": { "inboundExternalAuthorization": settings } });
        scene.mesh_config(config).await
    }

    async fn ends(&self, scene: &Scene<'_>, verdict: &str, path: &str, ends: Ends) -> Result<()> {
        let request = format!("{} {}", header(verdict), self.pair.url(path));
        scene.curl(&self.pair.client, &request, ends).await
    }

    /// What the authorizer was asked.
    async fn asked(&self, scene: &Scene<'_>) -> Result<String> {
        let words = [
            "logs",
            "-n",
            &self.judge.namespace,
            &self.judge.name,
            "-c",
            "server",
        ];
        scene.stage.kubectl(&words).await?.text()
    }
}

fn header(verdict: &str) -> String {
    if verdict.is_empty() {
        String::new()
    } else {
        format!("-H 'x-verdict: {verdict}'")
    }
}

async fn judged(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    judged.ask(scene, json!({})).await?;
    judged
        .ends(scene, "deny", "/get", Ends::Status(403))
        .await?;
    judged.ends(scene, "", "/get", Ends::Status(200)).await?;
    // It is told who asks, by the verified certificate.
    let asked = judged.asked(scene).await?;
    let who = format!("/client/{}", judged.pair.clients);
    ensure!(
        asked.contains("check GET /get") && asked.contains(&who),
        "{asked}"
    );
    Ok(())
}

async fn unreachable(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    let nobody = json!({ "address": format!("nobody.{}.svc.cluster.local", judged.pair.servers) });
    judged.ask(scene, nobody.clone()).await?;
    judged.ends(scene, "", "/get", Ends::Status(403)).await?;
    judged
        .ask(scene, with(nobody, &["failureModeAllow"], json!(true)))
        .await?;
    judged.ends(scene, "", "/get", Ends::Status(200)).await
}

async fn late(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    judged.ask(scene, json!({ "timeout": "1s" })).await?;
    judged
        .ends(scene, "deny", "/get", Ends::Status(403))
        .await?;
    judged
        .ends(scene, "slow", "/get", Ends::Status(403))
        .await?;
    judged.ends(scene, "", "/get", Ends::Status(200)).await?;
    judged
        .ask(scene, json!({ "timeout": "1s", "failureModeAllow": true }))
        .await?;
    judged.ends(scene, "slow", "/get", Ends::Status(200)).await
}

async fn mutations(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    judged.ask(scene, json!({})).await?;
    judged
        .ends(scene, "teapot", "/get", Ends::Status(401))
        .await?;
    let answer = async |verdict: &str| {
        let request = format!("{} {}", header(verdict), judged.pair.url("/headers"));
        scene
            .sh(
                &judged.pair.client,
                &format!("curl -si --max-time 10 {request}"),
            )
            .await
    };
    let refused = answer("teapot").await?;
    ensure!(
        refused.contains("x-judge: osm-apps") && refused.contains("who are you?"),
        "{refused}"
    );
    let passed = answer("").await?;
    ensure!(
        passed.to_lowercase().contains("x-authorized-by"),
        "{passed}"
    );
    Ok(())
}

async fn order(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    let pair = &judged.pair;
    judged.ask(scene, json!({})).await?;
    judged
        .ends(scene, "deny", "/get", Ends::Status(403))
        .await?;
    // What is not granted is refused before.
    let granted = [
        ("get", "/get"),
        ("post", "/post"),
        ("limited", "/anything/limited"),
    ];
    scene
        .apply(&[
            routes(&pair.servers, "server", &granted),
            target(
                &pair.servers,
                "server",
                "server",
                &[(&pair.clients, "client")],
                rule("server", &["get", "post", "limited"]),
            ),
        ])
        .await?;
    eventually(PATIENCE, async || {
        let page = format!("/headers?try={:?}", std::time::Instant::now());
        let page = page.replace(
            |c: char| !c.is_ascii_alphanumeric() && !"/?=".contains(c),
            "",
        );
        let seen = scene.requests(&pair.client, &pair.url(&page), 1).await?;
        let asked = judged.asked(scene).await?;
        ensure!(
            seen == [(403, 0)] && !asked.contains(&page),
            "{seen:?} for {page}: {asked}"
        );
        Ok(())
    })
    .await?;
    // What a limit refuses is not asked about either.
    let limit = json!({ "httpRoutes": [{
        "path": "/anything/limited", "rateLimit": { "local": { "requests": 1, "unit": "hour" } }
    }] });
    pair.set(scene, limit).await?;
    judged
        .ends(scene, "", "/anything/limited", Ends::Status(429))
        .await?;
    let count = async || {
        Ok::<_, anyhow::Error>(
            judged
                .asked(scene)
                .await?
                .matches("/anything/limited")
                .count(),
        )
    };
    let before = count().await?;
    judged
        .ends(scene, "", "/anything/limited", Ends::Status(429))
        .await?;
    ensure!(count().await? == before, "asked about what was limited");
    // At most 8 KiB of the body are shown.
    let post = format!(
        "head -c 20000 /dev/zero | tr '\\0' a | curl -s -o /dev/null -w '%{{http_code}}' --max-time 10 --data-binary @- {}",
        pair.url("/post")
    );
    let status = scene.sh(&pair.client, &post).await?;
    let asked = judged.asked(scene).await?;
    ensure!(
        status == "200" && asked.contains("/post") && asked.contains(" 8192 bytes of body"),
        "{status}: {asked}"
    );
    ingress_and_tcp(scene, &judged).await
}

async fn ingress_and_tcp(scene: &Scene<'_>, judged: &Judged) -> Result<()> {
    let pair = &judged.pair;
    let backend = json!({
        "backends": [{ "name": "server", "port": { "number": PORT, "protocol": "http" } }],
        "sources": [{ "kind": "IPRange", "name": "0.0.0.0/0" }]
    });
    let group = "policy.openservicemesh.io/v1alpha1";
    scene
        .apply(&[object(
            group,
            "IngressBackend",
            &pair.servers,
            "in",
            backend,
        )])
        .await?;
    let outside = scene.plain_namespace("outside").await?;
    let stranger = scene.client(&outside, "client").await?;
    scene
        .curl(&stranger, &pair.url("/get"), Ends::Status(200))
        .await?;
    let denied = format!("{} {}", header("deny"), pair.url("/get"));
    scene.curl(&stranger, &denied, Ends::Status(403)).await?;
    // Opaque connections are nobody's to judge.
    let echo = json!({ "name": "echo", "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["osm-apps", "tcp-echo", "--port", "9000"] });
    let pod = with(
        crate::manifest::pod("echo", json!({})),
        &["containers"],
        json!([named_httpbin(8080), echo]),
    );
    scene
        .apply(&[
            crate::manifest::account(&pair.servers, "echo"),
            service(&pair.servers, "echo", "echo", "tcp-echo", 9000),
            crate::manifest::deployment(&pair.servers, "echo", pod),
            tcp::route(&pair.servers, "echo", &[9000]),
            target(
                &pair.servers,
                "echo",
                "echo",
                &[(&pair.clients, "client")],
                tcp::rule("echo"),
            ),
        ])
        .await?;
    let line = format!("echo hello | nc -w 5 echo.{} 9000", pair.servers);
    eventually(PATIENCE, async || {
        let said = scene.sh(&pair.client, &line).await?;
        ensure!(said.contains("echo response: hello"), "{said:?}");
        Ok(())
    })
    .await
}

async fn disabled(scene: &Scene<'_>) -> Result<()> {
    let judged = Judged::new(scene).await?;
    judged.ask(scene, json!({})).await?;
    judged
        .ends(scene, "deny", "/get", Ends::Status(403))
        .await?;
    judged.ask(scene, json!({ "enable": false })).await?;
    judged.ends(scene, "deny", "/get", Ends::Status(200)).await
}
