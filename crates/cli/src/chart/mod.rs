//! The Helm chart of the control plane, rendered in this process: `osm install` and `helm install` give the same objects.

mod functions;
mod schema;
mod strvals;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use rust_embed::RustEmbed;
use serde_json::{Map, Value, json};

#[derive(RustEmbed)]
#[folder = "../../charts/osm"]
struct Embedded;

/// A chart's files and what its `Chart.yaml` says.
pub struct Chart {
    name: String,
    version: String,
    app_version: String,
    values: Value,
    schema: Option<Value>,
    /// By path below `templates/`.
    templates: BTreeMap<String, String>,
}

/// What the templates are told besides the values.
pub struct Release {
    /// Name of the release: the mesh's.
    pub name: String,
    /// Namespace it goes to.
    pub namespace: String,
    /// API versions that the cluster serves, such as `policy/v1`.
    pub api_versions: BTreeSet<String>,
}

/// The order in which Helm installs kinds; others come last.
const INSTALL_ORDER: &[&str] = &[
    "Namespace",
    "PriorityClass",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
];

// === impl Chart ===

impl Chart {
    /// The chart this program was built with.
    pub fn embedded() -> anyhow::Result<Self> {
        let files = Embedded::iter().filter_map(|path| {
            let file = Embedded::get(&path)?;
            Some((
                path.into_owned(),
                String::from_utf8_lossy(&file.data).into_owned(),
            ))
        });
        Self::from_files(files.collect())
    }

    /// A chart in a folder.
    pub fn from_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        read_folder(folder, "", &mut files).with_context(|| {
            format!("error loading chart for installation: {}", folder.display())
        })?;
        Self::from_files(files)
    }

    fn from_files(mut files: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let broken = |file: &str| format!("error loading chart for installation: {file}");
        let metadata = files
            .remove("Chart.yaml")
            .with_context(|| format!("{} file is missing", broken("Chart.yaml")))?;
        let metadata: Value =
            serde_saphyr::from_str(&metadata).with_context(|| broken("Chart.yaml"))?;
        let values = files
            .remove("values.yaml")
            .unwrap_or_else(|| "{}".to_owned());
        let schema = files.remove("values.schema.json");
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            name: text("name"),
            version: text("version"),
            app_version: text("appVersion"),
            values: serde_saphyr::from_str(&values).with_context(|| broken("values.yaml"))?,
            schema: schema
                .map(|schema| serde_json::from_str(&schema))
                .transpose()
                .with_context(|| broken("values.schema.json"))?,
            templates: files
                .into_iter()
                .filter_map(|(path, text)| {
                    Some((path.strip_prefix("templates/")?.to_owned(), text))
                })
                .collect(),
        })
    }

    /// The chart's values with these `--set` arguments on top, in order, checked against the chart's schema.
    pub fn values(&self, set: &[String], forced: Value) -> anyhow::Result<Value> {
        let mut overrides = Map::new();
        for argument in set {
            strvals::parse_into(argument, &mut overrides)
                .map_err(|error| anyhow::anyhow!("invalid format for --set: {error}"))?;
        }
        let mut values = self.values.clone();
        merge(&mut values, Value::Object(overrides));
        merge(&mut values, forced);
        if let Some(schema) = &self.schema {
            let faults = schema::validate(schema, &values);
            if !faults.is_empty() {
                bail!(
                    "values don't meet the specifications of the schema(s) in the following chart(s): {}: {}",
                    self.name,
                    faults.join("; ")
                );
            }
        }
        Ok(values)
    }

    /// The objects, in the order in which they are to be created.
    pub fn render(&self, release: &Release, values: &Value) -> anyhow::Result<Vec<Value>> {
        let root = json!({
            "Values": values,
            "Release": { "Name": release.name, "Namespace": release.namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false, "Revision": 1 },
            "Chart": { "Name": self.name, "Version": self.version, "AppVersion": self.app_version },
            "Template": { "BasePath": format!("{}/templates", self.name) },
            "Capabilities": { "APIVersions": {} },
        });
        let mut objects = Vec::new();
        for (name, text) in template::render(&self.templates, &root, &release.api_versions)? {
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
                .with_context(|| format!("chart template {name} does not give YAML"))?;
            objects.extend(documents.into_iter().filter(Value::is_object));
        }
        objects.sort_by_key(|object| {
            let kind = object
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default();
            INSTALL_ORDER
                .iter()
                .position(|known| *known == kind)
                .unwrap_or(INSTALL_ORDER.len())
        });
        Ok(objects)
    }
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            // Sub-charts are not rendered; their templates must not be taken for this chart's.
            if path != "charts" {
                read_folder(&entry.path(), &format!("{path}/"), files)?;
            }
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            files.insert(path, text);
        }
    }
    Ok(())
}

/// Lays one value over another: objects key by key, null removes, all else replaces.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests;
