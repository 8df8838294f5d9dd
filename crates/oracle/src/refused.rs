//! Resources that both must refuse, or both accept: `cases/refused.yaml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::Kind;

use crate::setup::{complete, merged};
use crate::world::World;

/// How long a verdict may take.
const ANSWER: Duration = Duration::from_secs(3);

/// One resource that is judged.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// What is wrong, or right, with it.
    pub name: String,
    /// A cluster, merged onto the setups' pattern.
    #[serde(default)]
    cluster: Option<Value>,
    /// A route table's fields.
    #[serde(default)]
    table: Option<Value>,
    /// A listener's fields, merged onto one with a TCP proxy.
    #[serde(default)]
    listener: Option<Value>,
    /// An HTTP connection manager's fields, with a router and routes of its own.
    #[serde(default)]
    hcm: Option<Value>,
}

/// Reads the list.
pub fn load(folder: &Path) -> anyhow::Result<Vec<Judged>> {
    let file = folder.join("refused.yaml");
    let text = std::fs::read_to_string(&file)?;
    serde_json::from_value(schema::parse_yaml(&text)?).with_context(|| file.display().to_string())
}

/// What both say to each: case to Envoy's and to our refusal.
pub async fn judge(world: &mut World, list: &[Judged]) -> BTreeMap<String, [Option<String>; 2]> {
    let mut verdicts: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    // One by one: where a message breaks its protobuf rules, Envoy refuses the whole response.
    for judged in list {
        let mut verdict = [None, None];
        for (position, (node, ip)) in world.nodes().into_iter().enumerate() {
            let values = world.values(ip);
            let mut resources = world.resources(node, ip, &[]);
            let parts = judged.resources();
            // The last part is the judged one, or what makes the proxy ask for it.
            let kind = judged.kind();
            for (kind, value) in &parts {
                resources.add(*kind, &values.fill(value));
            }
            // The one before goes first: the answer to its removal is not the verdict.
            world.ads.set(node, world.resources(node, ip, &[]));
            let _ = world.ads.settled(node).await;
            let before = world.ads.acks(node, kind);
            world.ads.set(node, resources);
            let end = Instant::now() + ANSWER;
            while world.ads.refusals(node).is_empty()
                && world.ads.acks(node, kind) == before
                && Instant::now() < end
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let refusal = world.ads.refusals(node).into_iter().next();
            verdict[position] = refusal.map(|refusal| about(&refusal.message));
        }
        verdicts.insert(format!("refused: {}", judged.name), verdict);
    }
    verdicts
}

/// The beginning of a refusal, without Envoy's marks for redacted text.
fn about(message: &str) -> String {
    message.chars().take(250).collect()
}

// === impl Judged ===

impl Judged {
    /// Which kind's answer is the verdict.
    fn kind(&self) -> Kind {
        match (&self.cluster, &self.table) {
            (Some(_), _) => Kind::Cluster,
            (_, Some(_)) => Kind::Routes,
            _ => Kind::Listener,
        }
    }

    fn resources(&self) -> Vec<(Kind, Value)> {
        // A new name each: the same name again would warm behind the one before.
        let name = format!("judged-{}", self.name.replace(' ', "-"));
        let named = |value: &Value| merged(value.clone(), &json!({"name": name}));
        let mut list = Vec::new();
        if let Some(cluster) = &self.cluster {
            list.push((Kind::Cluster, complete(&named(cluster))));
        }
        if let Some(table) = &self.table {
            list.push((Kind::Routes, named(table)));
            let rds = json!({"rds": {"route_config_name": name, "config_source": {"resource_api_version": "V3", "ads": {}}}});
            list.push((Kind::Listener, listener(&name, http(&rds))));
        }
        if let Some(hcm) = &self.hcm {
            let inline = json!({"route_config": {"name": "x", "virtual_hosts": []}});
            list.push((Kind::Listener, listener(&name, http(&merged(inline, hcm)))));
        }
        if let Some(over) = &self.listener {
            let tcp = json!({"name": "tcp", "typed_config": {
                "@type": "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "a"}});
            list.push((Kind::Listener, merged(listener(&name, tcp), over)));
        }
        list
    }
}

fn http(over: &Value) -> Value {
    let manager = json!({
        "@type": "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [{"name": "router", "typed_config": {"@type": "filters.http.router.v3.Router"}}],
    });
    json!({"name": "http", "typed_config": merged(manager, over)})
}

/// On port 0: nothing is to be sent to it.
fn listener(name: &str, filter: Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "${ip}", "port_value": 0}},
        "filter_chains": [{"filters": [filter]}],
    })
}
