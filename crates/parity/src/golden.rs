//! What a real Kubernetes answered, as checked in

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::play::Answer;

/// The recorded answers of one file of the table, by name of the exchange.
pub type Golden = BTreeMap<String, Vec<Answer>>;

/// Where the recorded answers are.
pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Reads the recorded answers of one file of the table.
pub fn read(file: &str) -> Result<Golden> {
    let path = golden_folder().join(format!("{file}.json"));
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Writes the recorded answers of one file of the table.
pub fn write(file: &str, golden: &Golden) -> Result<()> {
    let path = golden_folder().join(format!("{file}.json"));
    let text = serde_json::to_string_pretty(golden)? + "\n";
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
