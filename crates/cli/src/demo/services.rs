//! `osm demo egress`, part 6: two services of the mesh, what is between them on the wire, and permissive mode.

use std::time::Duration;

use anyhow::Result;
use e2e::stage::Stage;

use super::ground::permissive;
use super::story::{Promise, Story};

/// Longest wait for all Deployments to be rolled out.
const ROLLOUT: Duration = Duration::from_secs(90);

/// A word in the path of requests: whoever finds it on the wire reads the traffic.
const SECRET: &str = "open-sesame";

/// Part 6.
pub async fn two_services(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("6a. Two services of the mesh: refused, allowed for one identity, still refused for another");
    story
        .must(
            stage,
            "kubectl create namespace shop && kubectl create namespace customers",
            ROLLOUT,
        )
        .await?;
    story
        .must(stage, "osm namespace add shop customers", ROLLOUT)
        .await?;
    story
        .must(stage, "kubectl apply -f - < egress/services.yaml", ROLLOUT)
        .await?;
    for (name, namespace) in [
        ("httpbin", "shop"),
        ("buyer", "customers"),
        ("thief", "customers"),
    ] {
        let wait = format!("kubectl rollout status deployment/{name} -n {namespace} --timeout=80s");
        story.must(stage, &wait, ROLLOUT).await?;
    }
    request(story, stage, "buyer", Promise::Exit(7)).await;
    story
        .see(
            stage,
            "kubectl apply -f - < egress/allow-buyer.yaml",
            Promise::Says("buyer-to-httpbin created"),
        )
        .await;
    request(story, stage, "buyer", Promise::Answer("HTTP/1.1 200")).await;
    request(story, stage, "thief", Promise::Exit(7)).await;

    story.chapter("6b. The wire between the pods: TLS, and no word of the request");
    let hidden = r#"packets with "open-sesame" in clear text: 0"#;
    watch(
        story,
        stage,
        "eth0",
        Promise::SaysBoth("first bytes: 1", hidden),
    )
    .await;
    story.note(
        "The same watch between the sidecar and its application, inside the pod, does see it:",
    );
    watch(
        story,
        stage,
        "lo",
        Promise::Says("first bytes: 47 45 54 20"),
    )
    .await;

    story.chapter("6c. Permissive mode, on and off while everything runs");
    permissive(story, stage, true).await;
    request(story, stage, "thief", Promise::Answer("HTTP/1.1 200")).await;
    permissive(story, stage, false).await;
    request(story, stage, "thief", Promise::Exit(7)).await;
    request(story, stage, "buyer", Promise::Answer("HTTP/1.1 200")).await;
    Ok(())
}

async fn request(story: &mut Story, stage: &Stage, who: &str, promise: Promise) {
    let command = format!(
        "kubectl exec deploy/{who} -n customers -c curl -- curl -sI http://httpbin.shop:14001/anything/{SECRET}"
    );
    story.see(stage, &command, promise).await;
}

/// Watches the packets of the server's pod while the client sends requests, until enough were seen.
async fn watch(story: &mut Story, stage: &Stage, interface: &str, promise: Promise) {
    let sniff = format!(
        "kubectl exec deploy/httpbin -n shop -c wire -- osm-apps sniff --interface {interface} --port 14001 --marker {SECRET}"
    );
    let requests = format!(
        "while kill -0 $! 2>/dev/null; do \
         kubectl exec deploy/buyer -n customers -c curl -- curl -s -o /dev/null http://httpbin.shop:14001/anything/{SECRET}; done"
    );
    let shown = format!("{sniff}   (while the buyer sends requests)");
    story
        .see_as(
            stage,
            &shown,
            &format!("{sniff} & {requests}; wait $!"),
            promise,
        )
        .await;
}
