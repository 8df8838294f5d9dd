//! Every test that docs/vulnerabilities.md names exists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/vulnerabilities.md")).unwrap();
    let (mut code, mut fuzz) = (String::new(), String::new());
    sources(&root.join("crates"), &mut code);
    sources(&root.join("fuzz/fuzz_targets"), &mut fuzz);
    let (mut rows, mut missing) = (0, Vec::new());
    for row in page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Class"))
    {
        rows += 1;
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        // Every second piece stands between backticks.
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names
            .into_iter()
            .filter(|name| !["h2c", "CONNECT"].contains(name))
        {
            let exists = match name.split_once(": ") {
                Some(("fuzz", target)) => fuzz.contains(&format!("name: \"{target}\"")),
                Some(("trial", trial)) => code.contains(&format!("\"{trial}\"")),
                _ => code.contains(&format!("fn {name}(")),
            };
            if !exists {
                missing.push(name);
            }
        }
    }
    assert!(rows > 25, "{rows} rows were found");
    assert_eq!(missing, [] as [&str; 0]);
}
