//! A thousand broken policies, through the webhook and past it: none stops the others, and each is told why.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{broken, eventually};
use serde_json::Value;

use super::{Scenario, acl::pair, scenario};
use crate::manifest::{allow, list};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[scenario!(
    "VAL-53",
    P1,
    thousand,
    "1 000 broken objects: refused, or named in their status; a valid policy beside them works"
)];

/// Objects in all, half through the webhook and half past it, and in one command.
const COUNT: usize = 1000;
const AT_A_TIME: usize = 100;

/// How long the control plane may take to tell all that slipped through.
const TOLD: Duration = Duration::from_secs(90);

/// What became of objects.
#[derive(Debug, Default)]
struct Tally {
    by_schema: usize,
    by_webhook: usize,
    accepted: usize,
    warned: usize,
}

async fn thousand(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let outsider = scene.client(&client.namespace, "outsider").await?;
    let policies = allow(&servers, "server", &[(&client.namespace, "client")]);
    scene.apply(&policies).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;

    // Through the webhook, beside the valid policy.
    let through = apply(scene, &broken::objects(&servers, COUNT / 2, 41)).await?;
    let (told, fine) = everyone_is_told(scene, &servers).await?;
    println!(
        "  with webhook: {through:?}; of the accepted {told} are named in their status, {fine} are in effect as they are"
    );

    // Past it: the namespace joins the mesh when they are there.
    let late = scene.plain_namespace("late").await?;
    let past = apply(scene, &broken::objects(&late, COUNT / 2, 42)).await?;
    ensure!(
        past.by_webhook == 0,
        "the webhook judged a namespace outside the mesh: {past:?}"
    );
    scene
        .stage
        .osm(&["namespace", "add", &late])
        .await?
        .text()?;
    let (told, fine) = everyone_is_told(scene, &late).await?;
    println!(
        "  without webhook: {past:?}; of the accepted {told} are named in their status, {fine} are in effect as they are"
    );
    ensure!(told > 0 && past.accepted > through.accepted, "{past:?}");

    still_works(scene, &client, &outsider, &servers, &url, &policies).await
}

/// The valid policy works, a new one takes effect, and its end ends it; nobody else got anything.
async fn still_works(
    scene: &Scene<'_>,
    client: &Pod,
    outsider: &Pod,
    servers: &str,
    url: &str,
    policies: &[Value],
) -> Result<()> {
    scene.head(client, url, Ends::Status(200)).await?;
    scene.head(outsider, url, Ends::Closed).await?;
    let [group, target] = allow(servers, "server", &[(&outsider.namespace, "outsider")]);
    scene.apply(&[group, target]).await?;
    scene.head(outsider, url, Ends::Status(200)).await?;
    scene.head(client, url, Ends::Closed).await?;
    scene.apply(policies).await?;
    scene.head(client, url, Ends::Status(200)).await?;
    scene.head(outsider, url, Ends::Closed).await?;
    let path = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let words = ["get", "pods", "-n", "osm-system", "-o", path];
    let restarts = scene.stage.kubectl(&words).await?.text()?;
    ensure!(
        restarts.split_whitespace().all(|count| count == "0"),
        "restarts of the control plane: {restarts}"
    );
    Ok(())
}

/// Creates the objects, whatever is said of them.
async fn apply(scene: &Scene<'_>, objects: &[Value]) -> Result<Tally> {
    let mut tally = Tally::default();
    for some in objects.chunks(AT_A_TIME) {
        let words = ["create", "--validate=false", "-f", "-"];
        let output = scene.stage.kubectl_with(&words, &list(some)).await?;
        let created = output
            .stdout
            .lines()
            .filter(|line| line.ends_with(" created"))
            .count();
        let errors: Vec<&str> = output
            .stderr
            .lines()
            .filter(|line| is_error(line))
            .collect();
        let webhook = errors
            .iter()
            .filter(|line| line.contains("admission webhook"))
            .count();
        ensure!(
            created + errors.len() == some.len(),
            "{created} created, {} refused of {}: {}",
            errors.len(),
            some.len(),
            output.stderr.chars().take(4000).collect::<String>()
        );
        tally.accepted += created;
        tally.by_webhook += webhook;
        tally.by_schema += errors.len() - webhook;
        tally.warned += output
            .stderr
            .lines()
            .filter(|line| line.starts_with("Warning: "))
            .count();
    }
    Ok(tally)
}

fn is_error(line: &str) -> bool {
    line.starts_with("Error from server") || line.starts_with("The ") || line.starts_with("error: ")
}

/// Waits until every broken object of a namespace has a status; gives how many of them have a problem, and how many
/// turned out to be harmless.
async fn everyone_is_told(scene: &Scene<'_>, namespace: &str) -> Result<(usize, usize)> {
    let kinds = "traffictargets,httproutegroups,tcproutes,trafficsplits,egresses,ingressbackends,retries,upstreamtrafficsettings";
    let path = r#"jsonpath={range .items[*]}{.kind}{"/"}{.metadata.name}{"|"}{.status.currentStatus}{"|"}{.status.problems[0]}{"\n"}{end}"#;
    eventually(TOLD, async || {
        let words = ["get", kinds, "-n", namespace, "-o", path];
        let text = scene.stage.kubectl(&words).await?.text()?;
        let mut words: BTreeMap<&str, usize> = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains("/broken-")) {
            let mut fields = line.splitn(3, '|').skip(1);
            let current = fields.next().context("a status")?;
            let problem = fields.next().unwrap_or_default();
            ensure!(!current.is_empty(), "nobody told {line}");
            let word = if current == "error" || !problem.is_empty() {
                "told"
            } else {
                "fine"
            };
            *words.entry(word).or_default() += 1;
        }
        let count = |word: &str| words.get(word).copied().unwrap_or_default();
        Ok((count("told"), count("fine")))
    })
    .await
}
