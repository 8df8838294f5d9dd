//! Makes `src/envoy.binpb` from the `.proto` files in the package of `envoy-types`: all that a resource, a
//! bootstrap file or an admin page can hold. Run it again when `envoy-types` changes its version.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;

/// Folders below `data-plane-api` whose messages are taken, with what they import.
const FOLDERS: [&str; 5] = [
    "envoy/admin/v3",
    "envoy/config",
    "envoy/extensions",
    "envoy/service/discovery/v3",
    "envoy/service/runtime/v3",
];

fn main() {
    let protos = protos();
    let includes: Vec<PathBuf> = std::fs::read_dir(&protos)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let root = protos.join("data-plane-api");
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    // One by one: together, some relative names would resolve to packages that their file does not import.
    // The compiler's messages hold no custom options, so the validation rules are gone; comments are not read.
    let mut set = prost_types::FileDescriptorSet::default();
    for file in &files {
        let compiled = match protox::compile([file], &includes) {
            Ok(compiled) => compiled,
            Err(error) => {
                eprintln!("left out: {error}");
                continue;
            }
        };
        for part in compiled.file {
            if !set.file.iter().any(|known| known.name == part.name) {
                set.file.push(part);
            }
        }
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/envoy.binpb");
    std::fs::write(&target, set.encode_to_vec()).unwrap();
    println!("{} files, {} bytes", set.file.len(), set.encoded_len());
}

/// Where cargo keeps the package.
fn protos() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .expect("envoy-types is a dependency");
    let manifest = package["manifest_path"].as_str().unwrap();
    Path::new(manifest).parent().unwrap().join("proto")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
}
