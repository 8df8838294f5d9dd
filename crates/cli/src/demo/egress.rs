//! `osm demo egress`, parts 3 to 5: a client; the four pages of the egress guide; the Kubernetes API server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::eventually;
use e2e::outside::World;
use e2e::stage::Stage;

use super::story::{Promise, Story};

/// Longest wait for a Deployment to be rolled out.
const ROLLOUT: Duration = Duration::from_secs(90);

/// The client's pod, as the pages find it.
const POD: &str = "$(kubectl get pod -n curl -l app=curl -o jsonpath='{.items..metadata.name}')";

/// Part 3.
pub async fn client(story: &mut Story, stage: &mut Stage, world: Option<&World>) -> Result<()> {
    story.chapter("3. A client joins the mesh: its sidecar is injected");
    story
        .must(stage, "kubectl create namespace curl", ROLLOUT)
        .await?;
    let manifest = match world {
        Some(world) => {
            outside(story, stage, world).await?;
            "curl-demo-ca.yaml"
        }
        None => "curl.yaml",
    };
    let enable = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"featureFlags":{"enableEgressPolicy":true}}}' --type=merge"#;
    story
        .see(stage, enable, Promise::Says("osm-mesh-config patched"))
        .await;
    story.must(stage, "osm namespace add curl", ROLLOUT).await?;
    story
        .must(
            stage,
            &format!("kubectl apply -n curl -f - < egress/{manifest}"),
            ROLLOUT,
        )
        .await?;
    story
        .must(
            stage,
            "kubectl rollout status deployment/curl -n curl --timeout=80s",
            ROLLOUT,
        )
        .await?;
    story
        .see(
            stage,
            "kubectl get pods -n curl",
            Promise::Says("2/2     Running"),
        )
        .await;
    Ok(())
}

/// The hosts that the pages reach, on addresses outside the cluster, known to the cluster's DNS.
async fn outside(story: &mut Story, stage: &mut Stage, world: &World) -> Result<()> {
    let begin = Instant::now();
    let authority = stage
        .outside("outside", world)
        .await
        .context("the world outside the cluster")?;
    stage
        .publish(&world.hosts())
        .await
        .context("names of the world outside the cluster")?;
    std::fs::write(stage.directory().join("ca.pem"), authority)?;
    let command = world.command("osm-apps".as_ref(), "ca.pem".as_ref());
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    story.did(
        &format!("osm local outside {}", words.join(" ")),
        &world.hosts(),
        begin.elapsed(),
    );
    story
        .must(
            stage,
            "kubectl create configmap outside-ca -n curl --from-file=ca.pem",
            ROLLOUT,
        )
        .await?;
    Ok(())
}

/// Part 4: the four parts of the egress guide.
pub async fn pages(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("4a. HTTP egress, by host");
    story.note(&format!(
        "CURL is kubectl exec {POD} -n curl -c curl -- curl"
    ));
    let (get, status) = (
        "-sI http://httpbin.org:80/get",
        "-sI http://httpbin.org:80/status/200",
    );
    curl(story, stage, get, Promise::Exit(7)).await;
    apply(
        story,
        stage,
        "httpbin-80",
        "egress.policy.openservicemesh.io/httpbin-80 created",
    )
    .await;
    curl(story, stage, get, Promise::Answer("HTTP/1.1 200")).await;
    delete(story, stage, "httpbin-80").await;
    curl(story, stage, get, Promise::Exit(7)).await;

    story.chapter("4b. HTTPS egress, by server name");
    let tls = "-sI https://httpbin.org:443/get";
    curl(story, stage, tls, Promise::Exit(7)).await;
    apply(
        story,
        stage,
        "httpbin-443",
        "egress.policy.openservicemesh.io/httpbin-443 created",
    )
    .await;
    curl(story, stage, tls, Promise::Answer("HTTP/2 200")).await;
    story.note("Another name on the same address is another server name, and stays closed:");
    curl(
        story,
        stage,
        "-sI https://openservicemesh.io:443",
        Promise::Exit(35),
    )
    .await;
    delete(story, stage, "httpbin-443").await;
    curl(story, stage, tls, Promise::Exit(7)).await;

    story.chapter("4c. TCP egress, by port");
    let site = "-sI https://openservicemesh.io:443";
    curl(story, stage, site, Promise::Exit(7)).await;
    apply(
        story,
        stage,
        "tcp-443",
        "egress.policy.openservicemesh.io/tcp-443 created",
    )
    .await;
    curl(story, stage, site, Promise::Answer("HTTP/2 200")).await;
    delete(story, stage, "tcp-443").await;
    curl(story, stage, site, Promise::Exit(7)).await;

    story.chapter("4d. HTTP egress with SMI route matches");
    curl(story, stage, get, Promise::Exit(7)).await;
    curl(story, stage, status, Promise::Exit(7)).await;
    apply(
        story,
        stage,
        "http-route",
        "egress.policy.openservicemesh.io/httpbin-80 created",
    )
    .await;
    curl(story, stage, get, Promise::Answer("HTTP/1.1 200")).await;
    curl(story, stage, status, Promise::Answer("HTTP/1.1 404")).await;
    let group = "httproutegroup.specs.smi-spec.io/egress-http-route configured";
    apply(story, stage, "http-route-status", group).await;
    curl(story, stage, status, Promise::Answer("HTTP/1.1 200")).await;
    delete(story, stage, "httpbin-80").await;
    curl(story, stage, get, Promise::Exit(7)).await;
    Ok(())
}

/// Part 5: two ways to the Kubernetes API server, and leaving the mesh.
pub async fn api_server(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("5a. The Kubernetes API server, past the sidecar");
    story
        .see(
            stage,
            "kubectl get svc -n default",
            Promise::Says("kubernetes"),
        )
        .await;
    let address = stage
        .kubectl(&[
            "get",
            "svc",
            "kubernetes",
            "-n",
            "default",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
        .await?
        .text()?;
    let version = Version::of(&address);
    story
        .see_as(stage, &version.shown, &version.command, Promise::Exit(7))
        .await;
    exclude(story, stage, &format!("[\"{address}/32\"]")).await;
    restart(story, stage).await?;
    story
        .see_as(
            stage,
            &version.shown,
            &version.command,
            Promise::Answer("200"),
        )
        .await;
    exclude(story, stage, "[]").await;
    restart(story, stage).await?;
    story
        .see_as(stage, &version.shown, &version.command, Promise::Exit(7))
        .await;

    story.chapter("5b. The Kubernetes API server, by an egress policy for its address");
    let manifest = stage.directory().join("egress/k8s-server-egress.yaml");
    let text = std::fs::read_to_string(&manifest)?.replace("10.96.0.1", &address);
    std::fs::write(&manifest, text)?;
    apply(
        story,
        stage,
        "k8s-server-egress",
        "egress.policy.openservicemesh.io/k8s-server-egress created",
    )
    .await;
    story
        .see_as(
            stage,
            &version.shown,
            &version.command,
            Promise::Answer("200"),
        )
        .await;

    story.chapter("5c. Leaving the mesh: sidecars keep what they know; new pods have none");
    story
        .see(
            stage,
            "osm namespace remove curl",
            Promise::Says("successfully removed from mesh [osm]"),
        )
        .await;
    story
        .see(
            stage,
            "kubectl get pods -n curl",
            Promise::Says("2/2     Running"),
        )
        .await;
    delete(story, stage, "k8s-server-egress").await;
    story
        .still(
            stage,
            &version.shown,
            &version.command,
            Promise::Answer("200"),
        )
        .await;
    restart(story, stage).await?;
    story
        .see(
            stage,
            "kubectl get pods -n curl",
            Promise::Says("1/1     Running"),
        )
        .await;
    curl(
        story,
        stage,
        "-sI http://httpbin.org:80/get",
        Promise::Answer("HTTP/1.1 200"),
    )
    .await;
    Ok(())
}

/// A request to the API server as an application in the pod makes it: its address, its authority, its token.
struct Version {
    shown: String,
    command: String,
}

impl Version {
    fn of(address: &str) -> Self {
        let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
        let shown = format!(
            "CURL -s -D - -o /dev/null --cacert {secrets}/ca.crt --oauth2-bearer \"$(cat {secrets}/token)\" https://{address}/version"
        );
        let inside = shown.replacen("CURL", "curl", 1);
        Self {
            shown,
            command: format!("kubectl exec {POD} -n curl -c curl -- sh -c '{inside}'"),
        }
    }
}

async fn curl(story: &mut Story, stage: &Stage, arguments: &str, promise: Promise) {
    let command = format!("kubectl exec {POD} -n curl -c curl -- curl {arguments}");
    story
        .see_as(stage, &format!("CURL {arguments}"), &command, promise)
        .await;
}

async fn apply(story: &mut Story, stage: &Stage, manifest: &str, says: &'static str) {
    story
        .see(
            stage,
            &format!("kubectl apply -f - < egress/{manifest}.yaml"),
            Promise::Says(says),
        )
        .await;
}

async fn delete(story: &mut Story, stage: &Stage, name: &str) {
    story
        .see(
            stage,
            &format!("kubectl delete egress {name} -n curl"),
            Promise::Says("deleted"),
        )
        .await;
}

async fn exclude(story: &mut Story, stage: &Stage, ranges: &str) {
    let patch = format!(r#"{{"spec":{{"traffic":{{"outboundIPRangeExclusionList":{ranges}}}}}}}"#);
    let command =
        format!("kubectl patch meshconfig osm-mesh-config -n osm-system -p '{patch}' --type=merge");
    story
        .see(stage, &command, Promise::Says("osm-mesh-config patched"))
        .await;
}

/// New pods, and only they: a command into a pod that is about to end would tell of the past.
async fn restart(story: &mut Story, stage: &Stage) -> Result<()> {
    story
        .must(
            stage,
            "kubectl rollout restart deployment/curl -n curl",
            ROLLOUT,
        )
        .await?;
    story
        .must(
            stage,
            "kubectl rollout status deployment/curl -n curl --timeout=80s",
            ROLLOUT,
        )
        .await?;
    eventually(ROLLOUT, async || {
        let names = stage
            .kubectl(&["get", "pod", "-n", "curl", "-l", "app=curl", "-o", "name"])
            .await?
            .text()?;
        anyhow::ensure!(
            names.lines().count() == 1,
            "pods of the old version are still there: {names}"
        );
        Ok(())
    })
    .await
}
