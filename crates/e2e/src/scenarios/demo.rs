//! Open Service Mesh's bookstore: the manifests of `osm demo bookstore`, in namespaces of the scenario's own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::bookstore::{Counters, Sale, Shop, Wanted};
use e2e::{demos, eventually};
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::trust;
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "DEMO-01",
        P0,
        matrix,
        "with SMI policies the buyer buys, the thief gets nothing, the stock is counted"
    ),
    scenario!(
        "DEMO-02",
        P0,
        permissive,
        "in permissive mode the thief gets books, too",
        alone
    ),
    scenario!(
        "DEMO-03",
        P0,
        thief,
        "the thief among the sources, and taken off again"
    ),
    scenario!(
        "DEMO-04",
        P0,
        canary,
        "all from v1, half and half, all from v2, and no purchase fails"
    ),
    scenario!(
        "DEMO-05",
        P1,
        same_account,
        "the same with both versions under one ServiceAccount"
    ),
    scenario!(
        "DEMO-06",
        P1,
        egress,
        "the buyer reaches hosts outside only while egress is on",
        alone
    ),
    scenario!(
        "DEMO-07",
        P1,
        tracing,
        "the restocking belongs to the trace of the purchase"
    ),
];

/// As the upstream suites grant.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the programs print when all is as they were told to expect.
const SUCCESS: &str = "MAESTRO! THIS TEST SUCCEEDED!";

/// The programs, in which namespace they are, and what their containers are called.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("mysql", "bookwarehouse", "mysql"),
    ("bookwarehouse", "bookwarehouse", "bookwarehouse"),
    ("bookstore", "bookstore", "bookstore"),
    ("bookbuyer", "bookbuyer", "bookbuyer"),
    ("bookthief", "bookthief", "bookthief"),
];

/// The buyer gets a book of v1 in each round, the thief nothing.
pub const ONLY_THE_BUYER: Wanted = Wanted {
    buyer: Sale::First,
    thief: Sale::Nothing,
};

const EVERYONE: Wanted = Wanted {
    buyer: Sale::First,
    thief: Sale::First,
};

/// The demo in namespaces of a scenario.
pub struct Bookstore<'a> {
    scene: &'a Scene<'a>,
    shop: Shop,
}

// === impl Bookstore ===

impl<'a> Bookstore<'a> {
    /// All programs, ready; `change` sees each object before it is applied.
    pub async fn new(scene: &'a Scene<'a>, change: impl Fn(&mut Value)) -> Result<Self> {
        let mut prefix = String::new();
        for name in ["bookstore", "bookbuyer", "bookthief", "bookwarehouse"] {
            let namespace = scene.namespace(name).await?;
            prefix = namespace
                .strip_suffix(name)
                .context("a namespace ends with its name")?
                .to_owned();
        }
        let demo = Self {
            scene,
            shop: Shop::new(&prefix),
        };
        for (name, _, _) in PROGRAMS {
            let mut objects = demo.manifest(&format!("apps/{name}.yaml"))?;
            objects.iter_mut().for_each(&change);
            scene.apply(&objects).await?;
        }
        for (name, _, _) in PROGRAMS {
            demo.pod(name).await?;
        }
        Ok(demo)
    }

    /// The objects of a manifest, moved to the namespaces of the scenario.
    fn manifest(&self, name: &str) -> Result<Vec<Value>> {
        let text = demos::text(&format!("bookstore/{name}"))?;
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        for object in &mut objects {
            moved(object, &self.shop);
        }
        Ok(objects)
    }

    /// Applies a manifest of the demo.
    pub async fn apply(&self, name: &str) -> Result<()> {
        self.scene.apply(&self.manifest(name)?).await
    }

    async fn pod(&self, name: &str) -> Result<Pod> {
        let (_, namespace, container) = PROGRAMS
            .into_iter()
            .find(|(program, _, _)| *program == name)
            .unwrap_or((name, "bookstore", "bookstore"));
        self.scene
            .pod(&self.shop.namespace(namespace), name, container)
            .await
    }

    /// The namespace of a program.
    pub fn namespace(&self, name: &str) -> String {
        self.shop.namespace(name)
    }

    /// The counters must come to move so.
    pub async fn moves(&self, wanted: Wanted) -> Result<(Counters, Counters)> {
        self.shop.moves(self.scene.stage, wanted, PATIENCE).await
    }

    /// The program must come to say this in its log.
    async fn says(&self, name: &str, text: &str) -> Result<()> {
        let pod = self.pod(name).await?;
        let words = [
            "logs",
            &pod.name,
            "-n",
            &pod.namespace,
            "-c",
            &pod.container,
            "--tail=500",
        ];
        eventually(PATIENCE, async || {
            let log = self.scene.stage.kubectl(&words).await?.text()?;
            ensure!(log.contains(text), "{name} does not say {text:?}");
            Ok(())
        })
        .await
    }

    /// A page of a program that only its pod can see.
    async fn page(&self, pod: &Pod, path: &str) -> Result<Value> {
        let line = format!("curl -s --max-time 10 http://127.0.0.1:14001{path}");
        let text = self.scene.sh(pod, &line).await?;
        serde_json::from_str(&text).with_context(|| format!("{}: {path} is {text:?}", pod.name))
    }

    /// The steps of the canary, without one failed purchase from the first to the last.
    async fn canary(&mut self, second: &str) -> Result<()> {
        self.apply("access/traffic-access-v1.yaml").await?;
        self.moves(ONLY_THE_BUYER).await?;
        self.apply(second).await?;
        self.pod("bookstore-v2").await?;
        self.shop.open_second();
        let mut first = None;
        for (split, buyer) in [
            ("v1", Sale::First),
            ("50-50", Sale::Halves),
            ("v2", Sale::Second),
        ] {
            self.apply(&format!("split/traffic-split-{split}.yaml"))
                .await?;
            let wanted = Wanted {
                buyer,
                thief: Sale::Nothing,
            };
            let (_, after) = self.moves(wanted).await?;
            Counters::none_failed(first.get_or_insert(after), &after)
                .with_context(|| format!("until split {split}"))?;
        }
        Ok(())
    }
}

/// Moves an object of the demo, and what it says of namespaces, to those of a shop.
fn moved(object: &mut Value, shop: &Shop) {
    match object {
        Value::Array(items) => items.iter_mut().for_each(|item| moved(item, shop)),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), value.as_str()) {
                    ("namespace", Some(namespace)) => *value = shop.namespace(namespace).into(),
                    ("service", Some("bookstore.bookstore")) => {
                        *value = format!("bookstore.{}", shop.namespace("bookstore")).into();
                    }
                    _ => moved(value, shop),
                }
            }
            let variable = fields.get("name").and_then(Value::as_str);
            let change = match (variable, fields.get("value").and_then(Value::as_str)) {
                (Some(name), Some(namespace)) if name.ends_with("_NAMESPACE") => {
                    Some(shop.namespace(namespace))
                }
                (Some("DATABASE"), _) => {
                    Some(format!("mysql.{}:3306", shop.namespace("bookwarehouse")))
                }
                _ => None,
            };
            if let Some(change) = change {
                fields.insert("value".into(), change.into());
            }
        }
        _ => {}
    }
}

/// Sets an environment variable of the container of a Deployment of this name.
pub fn set(object: &mut Value, deployment: &str, name: &str, value: &str) {
    if object["kind"] != "Deployment" || object["metadata"]["name"] != deployment {
        return;
    }
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    if let Some(variables) = container["env"].as_array_mut() {
        variables.retain(|variable| variable["name"] != name);
        variables.push(json!({ "name": name, "value": value }));
    }
}

async fn matrix(scene: &Scene<'_>) -> Result<()> {
    let demo = Bookstore::new(scene, |_| ()).await?;
    demo.says("bookthief", SUCCESS).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    let (_, after) = demo.moves(ONLY_THE_BUYER).await?;
    ensure!(after.thief.v1 + after.thief.v2 == 0, "{after:?}");
    for name in ["bookbuyer", "bookwarehouse"] {
        demo.says(name, SUCCESS).await?;
    }
    let refused = demo.page(&demo.pod("bookthief").await?, "/last").await?;
    ensure!(refused["buy-a-book"] == 0, "the thief hears {refused}");
    let buyer = demo.pod("bookbuyer").await?;
    let direct = format!(
        "http://bookwarehouse.{}:14001/raw",
        demo.shop.namespace("bookwarehouse")
    );
    scene.head(&buyer, &direct, Ends::Closed).await
}

async fn permissive(scene: &Scene<'_>) -> Result<()> {
    let expects_books = |object: &mut Value| {
        set(
            object,
            "bookthief",
            "BOOKTHIEF_EXPECTED_RESPONSE_CODE",
            "200",
        )
    };
    scene
        .mesh_config(json!({ "traffic": { "enablePermissiveTrafficPolicyMode": true } }))
        .await?;
    let demo = Bookstore::new(scene, expects_books).await?;
    demo.moves(EVERYONE).await?;
    for name in ["bookbuyer", "bookthief", "bookwarehouse"] {
        demo.says(name, SUCCESS).await?;
    }
    Ok(())
}

async fn thief(scene: &Scene<'_>) -> Result<()> {
    let demo = Bookstore::new(scene, |_| ()).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    demo.moves(ONLY_THE_BUYER).await?;
    demo.apply("access/traffic-access-v1-allow-bookthief.yaml")
        .await?;
    let (_, before) = demo.moves(EVERYONE).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    let (_, after) = demo.moves(ONLY_THE_BUYER).await?;
    // The buyer does not pay for what becomes of the thief.
    Counters::none_failed(&before, &after)
}

async fn canary(scene: &Scene<'_>) -> Result<()> {
    let mut demo = Bookstore::new(scene, |_| ()).await?;
    demo.canary("split/bookstore-v2.yaml").await
}

async fn same_account(scene: &Scene<'_>) -> Result<()> {
    let mut demo = Bookstore::new(scene, |_| ()).await?;
    demo.canary("same-account/bookstore-v2.yaml").await
}

async fn egress(scene: &Scene<'_>) -> Result<()> {
    let goes_outside = |object: &mut Value| {
        for (name, value) in [
            ("ENABLE_EGRESS", "true"),
            ("EGRESS_HOSTS", "httpbin.org"),
            ("SSL_CERT_FILE", "/etc/outside/ca.pem"),
        ] {
            set(object, "bookbuyer", name, value);
        }
        if object["kind"] == "Deployment" && object["metadata"]["name"] == "bookbuyer" {
            let spec = &mut object["spec"]["template"]["spec"];
            spec["volumes"] = trust();
            spec["containers"][0]["volumeMounts"] =
                json!([{ "name": "outside", "mountPath": "/etc/outside" }]);
        }
    };
    let demo = Bookstore::new(scene, goes_outside).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    let buyer = demo.pod("bookbuyer").await?;
    for (on, http, https) in [
        (false, [404, 0], 0),
        (true, [200, 200], 200),
        (false, [404, 0], 0),
    ] {
        scene
            .mesh_config(json!({ "traffic": { "enableEgress": on } }))
            .await?;
        eventually(PATIENCE, async || {
            let last = demo.page(&buyer, "/last").await?;
            let right = last["buy-a-book"] == 200
                && http.iter().any(|status| last["http"] == *status)
                && last["https"] == https;
            ensure!(right, "with egress {on} the buyer hears {last}");
            Ok(())
        })
        .await?;
    }
    demo.says("bookbuyer", "https://httpbin.org: 200").await
}

async fn tracing(scene: &Scene<'_>) -> Result<()> {
    let demo = Bookstore::new(scene, |_| ()).await?;
    demo.apply("access/traffic-access-v1.yaml").await?;
    demo.moves(ONLY_THE_BUYER).await?;
    let (buyer, warehouse) = (
        demo.pod("bookbuyer").await?,
        demo.pod("bookwarehouse").await?,
    );
    let trace = "80f198ee56343ba864fe8b2a57d3eff7";
    let purchase = format!(
        "-H 'x-b3-traceid: {trace}' -H 'x-b3-spanid: e457b5a2e4d86bd1' -H 'x-b3-sampled: 1' \
         -H 'traceparent: 00-{trace}-e457b5a2e4d86bd1-01' -H 'tracestate: shop=1' \
         http://bookstore.{}:14001/buy-a-book/new",
        demo.shop.namespace("bookstore")
    );
    eventually(PATIENCE, async || {
        scene
            .sh(
                &buyer,
                &format!("curl -s -o /dev/null --max-time 10 {purchase}"),
            )
            .await?;
        let orders = demo.page(&warehouse, "/traces").await?;
        let orders = orders.as_array().context("/traces is a list")?;
        // Every order, with a trace or without, has an id that the sidecars gave it.
        ensure!(
            orders.iter().all(|order| order["x-request-id"].is_string()),
            "an order has no x-request-id: {orders:?}"
        );
        let ours = orders.iter().any(|order| {
            order["x-b3-traceid"] == trace
                && order["x-b3-sampled"] == "1"
                && order["tracestate"] == "shop=1"
                && order["traceparent"]
                    .as_str()
                    .is_some_and(|parent| parent.contains(trace))
        });
        ensure!(ours, "no order of trace {trace}: {orders:?}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_move_with_all_they_say_of_namespaces() {
        let mut object = json!({
            "metadata": { "name": "bookstore", "namespace": "bookstore" },
            "spec": {
                "service": "bookstore.bookstore",
                "sources": [{ "name": "bookbuyer", "namespace": "bookbuyer" }],
                "env": [
                    { "name": "BOOKSTORE_NAMESPACE", "value": "bookstore" },
                    { "name": "BOOKSTORE_SVC", "value": "bookstore" },
                    { "name": "DATABASE", "value": "mysql.bookwarehouse:3306" }
                ]
            }
        });
        moved(&mut object, &Shop::new("a-"));
        let expected = json!({
            "metadata": { "name": "bookstore", "namespace": "a-bookstore" },
            "spec": {
                "service": "bookstore.a-bookstore",
                "sources": [{ "name": "bookbuyer", "namespace": "a-bookbuyer" }],
                "env": [
                    { "name": "BOOKSTORE_NAMESPACE", "value": "a-bookstore" },
                    { "name": "BOOKSTORE_SVC", "value": "bookstore" },
                    { "name": "DATABASE", "value": "mysql.a-bookwarehouse:3306" }
                ]
            }
        });
        assert_eq!(object, expected);
    }
}
