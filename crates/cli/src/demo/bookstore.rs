//! `osm demo bookstore`: Open Service Mesh's own walk-through, told by the counters of its programs (scenarios DEMO-01 to DEMO-05).

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::bookstore::{Counters, Sale, Shop, Wanted};
use e2e::stage::Stage;

use super::ground;
use super::story::{Promise, Story};

/// Longest wait for a Deployment to be rolled out.
const ROLLOUT: Duration = Duration::from_secs(90);

/// Tells it from the cluster to the last split.
pub async fn tell(story: &mut Story, stage: &Stage, same_account: bool) -> Result<()> {
    let mut shop = Shop::new("");
    ground::cluster(story, stage).await?;
    story.chapter("2. The mesh, in permissive mode: everyone in it may call everyone");
    ground::mesh(story, stage, true).await?;
    programs(story, stage).await?;
    permissive(story, stage, &shop).await;
    access(story, stage, &shop).await;
    thief(story, stage, &shop).await;
    second(story, stage, &mut shop, same_account).await?;
    canary(story, stage, &shop).await;
    Ok(())
}

/// Part 3.
async fn programs(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("3. bookbuyer and bookthief get books from bookstore, which is restocked by bookwarehouse, which counts them in mysql");
    for namespace in ["bookstore", "bookbuyer", "bookthief", "bookwarehouse"] {
        let create = format!("kubectl create namespace {namespace}");
        story.must(stage, &create, ROLLOUT).await?;
    }
    let add = "osm namespace add bookstore bookbuyer bookthief bookwarehouse";
    story.must(stage, add, ROLLOUT).await?;
    apply(story, stage, "apps", "deployment.apps/mysql created").await;
    for (name, namespace) in [
        ("mysql", "bookwarehouse"),
        ("bookwarehouse", "bookwarehouse"),
        ("bookstore", "bookstore"),
        ("bookbuyer", "bookbuyer"),
        ("bookthief", "bookthief"),
    ] {
        rolled_out(story, stage, name, namespace).await?;
    }
    Ok(())
}

/// Part 4.
async fn permissive(story: &mut Story, stage: &Stage, shop: &Shop) {
    story.chapter("4. Permissive mode: the buyer buys, and the thief steals");
    let both = Wanted {
        buyer: Sale::First,
        thief: Sale::First,
    };
    story
        .movement(stage, shop, "everyone gets books", both)
        .await;
}

/// Part 5.
async fn access(story: &mut Story, stage: &Stage, shop: &Shop) {
    story.chapter("5a. SMI mode: what no policy allows is refused, so nobody gets books");
    ground::permissive(story, stage, false).await;
    let nobody = Wanted {
        buyer: Sale::Nothing,
        thief: Sale::Nothing,
    };
    story
        .movement(stage, shop, "nobody gets books", nobody)
        .await;

    story.chapter("5b. bookbuyer may call bookstore, bookstore bookwarehouse, bookwarehouse mysql");
    let says = "traffictarget.access.smi-spec.io/bookstore created";
    apply(story, stage, "access/traffic-access-v1.yaml", says).await;
    only_the_buyer(story, stage, shop).await;
    story.note("The buyer has no business with the bookwarehouse, not even to look at it:");
    let direct = "kubectl exec deploy/bookbuyer -n bookbuyer -c bookbuyer -- curl -sI http://bookwarehouse.bookwarehouse:14001/raw";
    story.see(stage, direct, Promise::Closed).await;
}

async fn only_the_buyer(story: &mut Story, stage: &Stage, shop: &Shop) {
    let wanted = Wanted {
        buyer: Sale::First,
        thief: Sale::Nothing,
    };
    story
        .movement(
            stage,
            shop,
            "the buyer buys, the thief gets nothing",
            wanted,
        )
        .await;
}

/// Part 6.
async fn thief(story: &mut Story, stage: &Stage, shop: &Shop) {
    story.chapter("6. The thief among the sources of the TrafficTarget, and taken off it again");
    let says = "traffictarget.access.smi-spec.io/bookstore configured";
    let allow = "access/traffic-access-v1-allow-bookthief.yaml";
    apply(story, stage, allow, says).await;
    let both = Wanted {
        buyer: Sale::First,
        thief: Sale::First,
    };
    story
        .movement(stage, shop, "the thief gets books, too", both)
        .await;
    apply(story, stage, "access/traffic-access-v1.yaml", says).await;
    only_the_buyer(story, stage, shop).await;
}

/// Part 7a: the second version comes, and nobody calls it.
async fn second(
    story: &mut Story,
    stage: &Stage,
    shop: &mut Shop,
    same_account: bool,
) -> Result<()> {
    story.chapter("7a. A second version of the bookstore");
    let manifest = if same_account {
        story.note(
            "It runs under the ServiceAccount of the first, so that no further policy is needed.",
        );
        "same-account/bookstore-v2.yaml"
    } else {
        "split/bookstore-v2.yaml"
    };
    let says = "deployment.apps/bookstore-v2 created";
    apply(story, stage, manifest, says).await;
    rolled_out(story, stage, "bookstore-v2", "bookstore").await?;
    shop.open_second();
    Ok(())
}

/// Parts 7b to 7d.
async fn canary(story: &mut Story, stage: &Stage, shop: &Shop) {
    let mut readings = Vec::new();
    for (chapter, manifest, says, sentence, buyer) in [
        (
            "7b. A TrafficSplit of the name bookstore: all to the first version",
            "split/traffic-split-v1.yaml",
            "trafficsplit.split.smi-spec.io/bookstore-split created",
            "all books come from v1",
            Sale::First,
        ),
        (
            "7c. Half and half",
            "split/traffic-split-50-50.yaml",
            "trafficsplit.split.smi-spec.io/bookstore-split configured",
            "about half of the books come from v2",
            Sale::Halves,
        ),
        (
            "7d. All to the second version",
            "split/traffic-split-v2.yaml",
            "trafficsplit.split.smi-spec.io/bookstore-split configured",
            "all books come from v2",
            Sale::Second,
        ),
    ] {
        story.chapter(chapter);
        apply(story, stage, manifest, says).await;
        let wanted = Wanted {
            buyer,
            thief: Sale::Nothing,
        };
        readings.extend(story.movement(stage, shop, sentence, wanted).await);
    }
    if let (Some(first), Some(last)) = (readings.first(), readings.last()) {
        let outcome = Counters::none_failed(first, last);
        let text = outcome
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |()| String::new());
        let sentence = format!(
            "not one of {} rounds of the buyer failed while the weights moved",
            last.buyer.rounds.saturating_sub(first.buyer.rounds)
        );
        story.tell(outcome.is_ok(), &sentence, &text, Instant::now().elapsed());
    }
}

async fn apply(story: &mut Story, stage: &Stage, manifest: &str, says: &'static str) {
    let command = format!("kubectl apply -f bookstore/{manifest}");
    story.see(stage, &command, Promise::Says(says)).await;
}

async fn rolled_out(story: &mut Story, stage: &Stage, name: &str, namespace: &str) -> Result<()> {
    let wait = format!("kubectl rollout status deployment/{name} -n {namespace} --timeout=80s");
    story.must(stage, &wait, ROLLOUT).await?;
    Ok(())
}
