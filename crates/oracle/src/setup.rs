//! A setup: one listener with its routes and clusters, and the checks that are made on it. Read from `cases/*.yaml`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testkit::{Kind, Resources, ports};

use crate::check::Check;
use crate::script;

/// One listener's worth of cases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// `area/what`; the listener's and the route table's name.
    pub name: String,
    /// Routes of one virtual host for every domain …
    #[serde(default)]
    routes: Option<Value>,
    /// … or virtual hosts.
    #[serde(default)]
    vhosts: Option<Value>,
    /// Merged into the route table.
    #[serde(default)]
    table: Value,
    /// Merged into the HTTP connection manager.
    #[serde(default)]
    hcm: Value,
    /// HTTP filters before the router: `{rbac: {…}}`.
    #[serde(default)]
    filters: Vec<Map<String, Value>>,
    /// Merged into the only filter chain.
    #[serde(default)]
    chain: Value,
    /// In place of the only filter chain.
    #[serde(default)]
    chains: Option<Value>,
    /// Merged into the listener.
    #[serde(default)]
    listener: Value,
    /// Clusters of its own, merged onto the pattern of a static cluster with the backend named by `to`.
    #[serde(default)]
    clusters: Vec<Value>,
    /// Scripts of the backends, by the name that requests carry in `x-script`.
    #[serde(default)]
    pub scripts: BTreeMap<String, Vec<script::Step>>,
    /// Each check also over HTTP/2.
    #[serde(default)]
    pub h2_too: bool,
    /// The checks: request lines, or mappings.
    #[serde(deserialize_with = "checks")]
    pub checks: Vec<Check>,
    /// The listener's port, the same for both proxies.
    #[serde(skip)]
    pub port: u16,
}

/// What stands for `${…}` in the files.
#[derive(Clone, Debug, Default)]
pub struct Values(pub BTreeMap<String, Value>);

/// The HTTP filters' short names.
const FILTERS: [(&str, &str); 12] = [
    ("rbac", "filters.http.rbac.v3.RBAC"),
    ("cors", "filters.http.cors.v3.Cors"),
    ("fault", "filters.http.fault.v3.HTTPFault"),
    ("ext_authz", "filters.http.ext_authz.v3.ExtAuthz"),
    (
        "header_mutation",
        "filters.http.header_mutation.v3.HeaderMutation",
    ),
    ("health_check", "filters.http.health_check.v3.HealthCheck"),
    (
        "local_ratelimit",
        "filters.http.local_ratelimit.v3.LocalRateLimit",
    ),
    ("ratelimit", "filters.http.ratelimit.v3.RateLimit"),
    ("buffer", "filters.http.buffer.v3.Buffer"),
    ("grpc_web", "filters.http.grpc_web.v3.GrpcWeb"),
    ("grpc_stats", "filters.http.grpc_stats.v3.FilterConfig"),
    ("router", "filters.http.router.v3.Router"),
];

fn checks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Check>, D::Error> {
    let list = Vec::<Value>::deserialize(deserializer)?;
    let parse = |value| Check::parse(value).map_err(serde::de::Error::custom);
    list.iter().map(parse).collect()
}

/// Reads all setups of a folder, in the order of the files' names; each gets its port.
pub fn load(folder: &Path) -> anyhow::Result<Vec<Setup>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut setups: Vec<Setup> = Vec::new();
    for file in files {
        let area = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file.extension().is_none_or(|kind| kind != "yaml")
            || area == "values"
            || area == "refused"
        {
            continue;
        }
        let text = std::fs::read_to_string(&file)?;
        let list: Vec<Value> = serde_json::from_value(schema::parse_yaml(&text)?)
            .with_context(|| format!("{}: not a list", file.display()))?;
        for value in list {
            let name = value.get("name").map(Value::to_string).unwrap_or_default();
            let mut setup: Setup = serde_json::from_value(value)
                .with_context(|| format!("{}: {name}", file.display()))?;
            setup.name = format!("{area}/{}", setup.name);
            anyhow::ensure!(
                setups.iter().all(|known| known.name != setup.name),
                "{}: twice",
                setup.name
            );
            setup.port = ports::free();
            setups.push(setup);
        }
    }
    Ok(setups)
}

// === impl Setup ===

impl Setup {
    /// A setup of the generator: a route table with virtual hosts.
    pub fn generated(name: &str, port: u16, vhosts: Value) -> Setup {
        Setup {
            name: name.to_owned(),
            routes: None,
            vhosts: Some(vhosts),
            table: Value::Null,
            hcm: Value::Null,
            filters: Vec::new(),
            chain: Value::Null,
            chains: None,
            listener: Value::Null,
            clusters: Vec::new(),
            scripts: BTreeMap::new(),
            h2_too: false,
            checks: Vec::new(),
            port,
        }
    }

    /// Names of the clusters it brings.
    pub fn cluster_names(&self) -> impl Iterator<Item = &str> {
        self.clusters
            .iter()
            .filter_map(|cluster| cluster.get("name")?.as_str())
    }

    /// Its resources for the proxy at this address.
    pub fn resources(&self, ip: Ipv4Addr, values: &Values) -> Resources {
        let mut values = values.clone();
        values.set("ip", json!(ip.to_string()));
        values.set("port", json!(self.port));
        let mut resources = Resources::default();
        let mut add = |kind, value: Value| resources.add(kind, &values.fill(&value));
        add(Kind::Listener, self.listener());
        if self.chains.is_none() || self.routes.is_some() || self.vhosts.is_some() {
            add(Kind::Routes, self.route_table());
        }
        for cluster in &self.clusters {
            add(Kind::Cluster, complete(cluster));
        }
        resources
    }

    /// The route table.
    pub fn route_table(&self) -> Value {
        let vhosts = self.vhosts.clone().unwrap_or_else(|| {
            let routes = self
                .routes
                .clone()
                .unwrap_or_else(|| json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
            json!([{"name": "all", "domains": ["*"], "routes": routes}])
        });
        merged(
            json!({"name": self.name, "virtual_hosts": vhosts}),
            &self.table,
        )
    }

    fn listener(&self) -> Value {
        let chains = self
            .chains
            .clone()
            .unwrap_or_else(|| json!([merged(json!({"filters": [self.manager()]}), &self.chain)]));
        let listener = json!({
            "name": self.name,
            "address": {"socket_address": {"address": "${ip}", "port_value": "${port}"}},
            "filter_chains": self.with_manager(chains),
        });
        merged(listener, &self.listener)
    }

    /// In chains that a setup writes out, `"${http}"` stands for the HTTP connection manager.
    fn with_manager(&self, value: Value) -> Value {
        match value {
            Value::String(text) if text == "${http}" => self.manager(),
            Value::Array(list) => Value::Array(
                list.into_iter()
                    .map(|item| self.with_manager(item))
                    .collect(),
            ),
            Value::Object(map) => {
                let map = map
                    .into_iter()
                    .map(|(key, value)| (key, self.with_manager(value)));
                Value::Object(map.collect())
            }
            other => other,
        }
    }

    fn manager(&self) -> Value {
        let router = json!({"router": {}})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let filters = self.filters.iter().chain([&router]).flatten();
        let filters = filters.map(|(name, config)| {
            let known = FILTERS.iter().find(|(short, _)| short == name);
            let mut config = config.clone();
            if let (Some((_, url)), Some(config)) = (known, config.as_object_mut()) {
                config.insert("@type".into(), json!(url));
            }
            json!({"name": format!("envoy.filters.http.{name}"), "typed_config": config})
        });
        let manager = json!({
            "@type": "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "oracle",
            // Not a second per broken message: that is waited for.
            "delayed_close_timeout": "0.05s",
            "rds": {"route_config_name": self.name, "config_source": {"resource_api_version": "V3", "ads": {}}},
            "http_filters": filters.collect::<Vec<_>>(),
        });
        json!({"name": "http", "typed_config": merged(manager, &self.hcm)})
    }
}

/// A cluster of the setup: its own fields over the pattern; `to: b` names the backend, `http: 2` the version.
pub fn complete(own: &Value) -> Value {
    let mut own = own.as_object().cloned().unwrap_or_default();
    let name = own.get("name").cloned().unwrap_or_default();
    let to = own.remove("to").unwrap_or_else(|| json!("a"));
    let to = to.as_str().unwrap_or_default().split(',');
    let endpoints = to.filter(|to| !to.is_empty()).map(|to| {
        let port = format!("${{{}}}", to.trim());
        let address = json!({"socket_address": {"address": "${ip}", "port_value": port}});
        json!({"endpoint": {"address": address}})
    });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints.collect::<Vec<_>>()}]},
    });
    let options = match own.remove("http") {
        Some(version) if version == 2 => {
            json!({"explicit_http_config": {"http2_protocol_options": {}}})
        }
        Some(version) if version == "auto" => {
            json!({"use_downstream_protocol_config": {"http2_protocol_options": {}}})
        }
        _ => Value::Null,
    };
    let options = merged(options, &own.remove("options").unwrap_or_default());
    if !options.is_null() {
        let mut options = options;
        options["@type"] = json!("upstreams.http.v3.HttpProtocolOptions");
        if options.get("explicit_http_config").is_none()
            && options.get("use_downstream_protocol_config").is_none()
        {
            options["explicit_http_config"] = json!({"http_protocol_options": {}});
        }
        cluster["typed_extension_protocol_options"] =
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
    }
    let own = Value::Object(own);
    if own
        .pointer("/type")
        .is_some_and(|kind| kind == "EDS" || kind == "ORIGINAL_DST")
    {
        cluster
            .as_object_mut()
            .map(|cluster| cluster.remove("load_assignment"));
    }
    merged(cluster, &own)
}

/// Objects merge, everything else replaces.
pub fn merged(mut base: Value, over: &Value) -> Value {
    match (&mut base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                let old = base.remove(key).unwrap_or_default();
                // One of: a route table in place of RDS.
                if key == "route_config" {
                    base.remove("rds");
                }
                base.insert(key.clone(), merged(old, value));
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
    base
}

// === impl Values ===

impl Values {
    /// Sets one.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Puts values in: a string that is nothing but `${name}` becomes the value, within a longer one its text.
    /// `@type` is written without what all of ours begin with.
    pub fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill_text(text),
            Value::Array(list) => list.iter().map(|item| self.fill(item)).collect(),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, value)| {
                    let value = match (key.as_str(), value.as_str()) {
                        ("@type", Some(name)) if !name.contains('/') => {
                            let whole = match name.starts_with("envoy.") {
                                true => format!("type.googleapis.com/{name}"),
                                false => format!("type.googleapis.com/envoy.extensions.{name}"),
                            };
                            Value::String(whole)
                        }
                        _ => self.fill(value),
                    };
                    (key.clone(), value)
                });
                Value::Object(filled.collect())
            }
            other => other.clone(),
        }
    }

    fn fill_text(&self, text: &str) -> Value {
        if let Some(name) = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            && let Some(value) = self.0.get(name)
        {
            return self.fill(value);
        }
        if !text.contains("${") {
            return json!(text);
        }
        let mut text = text.to_owned();
        for (name, value) in &self.0 {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("${{{name}}}"), &value);
        }
        json!(text)
    }
}
