//! The manifests of the demo, as the documentation pages have them, in the program itself.

use std::path::Path;

use anyhow::{Context, Result};

/// Folder below the stage's that holds the manifests.
const FOLDER: &str = "egress";

const FILES: &[(&str, &str)] = &[
    (
        "allow-buyer.yaml",
        include_str!("../../../../demos/egress/allow-buyer.yaml"),
    ),
    (
        "curl-demo-ca.yaml",
        include_str!("../../../../demos/egress/curl-demo-ca.yaml"),
    ),
    (
        "curl.yaml",
        include_str!("../../../../demos/egress/curl.yaml"),
    ),
    (
        "http-route-status.yaml",
        include_str!("../../../../demos/egress/http-route-status.yaml"),
    ),
    (
        "http-route.yaml",
        include_str!("../../../../demos/egress/http-route.yaml"),
    ),
    (
        "httpbin-443.yaml",
        include_str!("../../../../demos/egress/httpbin-443.yaml"),
    ),
    (
        "httpbin-80.yaml",
        include_str!("../../../../demos/egress/httpbin-80.yaml"),
    ),
    (
        "k8s-server-egress.yaml",
        include_str!("../../../../demos/egress/k8s-server-egress.yaml"),
    ),
    (
        "services.yaml",
        include_str!("../../../../demos/egress/services.yaml"),
    ),
    (
        "tcp-443.yaml",
        include_str!("../../../../demos/egress/tcp-443.yaml"),
    ),
];

/// Writes the manifests below a folder, where the commands of the story find them.
pub fn unpack(directory: &Path) -> Result<()> {
    let folder = directory.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for (name, text) in FILES {
        std::fs::write(folder.join(name), text).with_context(|| format!("{FOLDER}/{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_yaml_with_a_kind() {
        for (name, text) in FILES {
            let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).expect(name);
            assert!(!documents.is_empty(), "{name}");
            for document in documents {
                assert!(
                    document["kind"].is_string() && document["metadata"]["name"].is_string(),
                    "{name}: {document}"
                );
            }
        }
    }
}
