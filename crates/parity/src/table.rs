//! The table as written in `exchanges/*.yaml`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Some requests that belong together; each exchange has a namespace of its own, `$NS`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What is shown, as a sentence.
    pub name: String,
    /// Why the embedded server answers otherwise, if it may.
    #[serde(default)]
    pub differs: Option<String>,
    /// Sent one after another.
    pub steps: Vec<Step>,
}

/// One request and what of its answer counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Method and path with query, such as `GET /api/v1/namespaces/$NS`; `${x}` is what an earlier step saved.
    #[serde(rename = "do")]
    pub request: String,
    /// JSON to send.
    #[serde(default)]
    pub body: Option<Value>,
    /// Text to send as it is, instead of `body`.
    #[serde(default)]
    pub raw: Option<String>,
    /// Content type of what is sent; JSON if absent.
    #[serde(default, rename = "type")]
    pub content_type: Option<String>,
    /// Media type asked for; JSON if absent.
    #[serde(default)]
    pub accept: Option<String>,
    /// Bearer token instead of the administrator's certificate.
    #[serde(default)]
    pub token: Option<String>,
    /// Names for parts of the answer (JSON pointers) for later steps.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
    /// The request is repeated until these parts (JSON pointers) have these values.
    #[serde(default)]
    pub until: BTreeMap<String, Value>,
    /// A watch: this many events are read, then it is ended.
    #[serde(default)]
    pub events: Option<usize>,
    /// The parts of the answer that count (JSON pointers); all if absent.
    #[serde(default)]
    pub compare: Option<Vec<String>>,
    /// The parts that do not count.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Only prepares: the request must succeed and its answer does not count.
    #[serde(default)]
    pub prepare: bool,
}

/// Reads every file of the folder: (name of the file without ending, its exchanges).
pub fn load(folder: &Path) -> Result<Vec<(String, Vec<Exchange>)>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<_>>>()
        })
        .with_context(|| format!("cannot list {}", folder.display()))?;
    files.sort();
    let mut table = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|ending| ending == "yaml"))
    {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let exchanges: Vec<Exchange> =
            serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
        for (at, exchange) in exchanges.iter().enumerate() {
            let twice = exchanges
                .iter()
                .take(at)
                .any(|other| other.name == exchange.name);
            ensure!(
                !twice,
                "{}: exchange {:?} occurs twice",
                file.display(),
                exchange.name
            );
        }
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        table.push((name, exchanges));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_has_at_least_sixty_exchanges() {
        let table = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("exchanges")).unwrap();
        let count: usize = table.iter().map(|(_, exchanges)| exchanges.len()).sum();
        assert!(count >= 60, "{count}");
    }
}
