//! The manifests of the demos, in the programs themselves: what `demos/` has is what is played and what the tutorials apply.

use std::path::Path;

use anyhow::{Context, Result};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../demos"]
struct Files;

/// Writes the manifests of a demo below a folder, where its commands find them.
pub fn unpack(demo: &str, directory: &Path) -> Result<()> {
    let mut found = false;
    for path in Files::iter().filter(|path| folder(path) == demo) {
        found = true;
        let target = directory.join(path.as_ref());
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&target, text(&path)?).with_context(|| path.to_string())?;
    }
    anyhow::ensure!(found, "no manifests of a demo {demo:?}");
    Ok(())
}

/// The text of a manifest, by its path below `demos/`.
pub fn text(path: &str) -> Result<String> {
    let file = Files::get(path).with_context(|| format!("no manifest {path:?}"))?;
    String::from_utf8(file.data.into_owned()).with_context(|| path.to_owned())
}

fn folder(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_yaml_with_a_kind_and_a_name() {
        let mut count = 0;
        for path in Files::iter() {
            let text = text(&path).expect("text");
            let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(!documents.is_empty(), "{path}");
            for document in documents {
                assert!(
                    document["kind"].is_string() && document["metadata"]["name"].is_string(),
                    "{path}: {document}"
                );
            }
            count += 1;
        }
        assert!(count > 20, "{count} manifests");
    }

    #[test]
    fn a_demo_is_unpacked_alone() {
        let folder = tempfile::tempdir().expect("folder");
        unpack("bookstore", folder.path()).expect("there");
        assert!(folder.path().join("bookstore/apps/mysql.yaml").exists());
        assert!(!folder.path().join("egress").exists());
        let error = unpack("nothing", folder.path()).expect_err("unknown");
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
