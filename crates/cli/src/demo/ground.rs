//! What every demo begins with: a cluster and a mesh on it.

use anyhow::Result;
use e2e::Cluster;
use e2e::stage::{BRING_UP, Stage};

use super::story::{Promise, Story};

/// Part 1: a cluster.
pub async fn cluster(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("1. A cluster");
    if stage.cluster() == Cluster::Embedded {
        story.must(stage, "osm local up", BRING_UP).await?;
    }
    story
        .see(stage, "kubectl get nodes", Promise::Says(" Ready "))
        .await;
    Ok(())
}

/// A mesh on it, in permissive mode or not; without egress.
pub async fn mesh(story: &mut Story, stage: &Stage, permissive: bool) -> Result<()> {
    let install = format!(
        "osm install --set=osm.enablePermissiveTrafficPolicy={permissive} --set=osm.enableEgress=false"
    );
    story.must(stage, &install, BRING_UP).await?;
    let deployments =
        "kubectl get deployments -n osm-system osm-controller osm-injector osm-bootstrap";
    story.see(stage, deployments, Promise::Says("1/1")).await;
    story
        .see(stage, "osm mesh list", Promise::Says("osm-system"))
        .await;
    Ok(())
}

/// Switches permissive mode.
pub async fn permissive(story: &mut Story, stage: &Stage, on: bool) {
    let patch = format!(r#"{{"spec":{{"traffic":{{"enablePermissiveTrafficPolicyMode":{on}}}}}}}"#);
    let command =
        format!("kubectl patch meshconfig osm-mesh-config -n osm-system -p '{patch}' --type=merge");
    story
        .see(stage, &command, Promise::Says("osm-mesh-config patched"))
        .await;
}
