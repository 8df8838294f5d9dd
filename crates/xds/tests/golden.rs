//! Resources of typical proxies, as files to review. `UPDATE_GOLDEN=1` writes them anew.

mod support;

use std::{fs, path::Path};

use xds::resources::{TrustBundle, snapshot};

#[test]
fn resources_are_as_reviewed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut changed = Vec::new();
    for (name, config) in support::cases() {
        let trust = TrustBundle {
            pem: "(root certificates)".into(),
        };
        let text = support::render::snapshot(&snapshot(&config, &trust));
        let file = folder.join(format!("{name}.txt"));
        if update {
            fs::write(&file, &text).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if text != expected {
            let differs = text.lines().zip(expected.lines()).position(|(a, b)| a != b);
            changed.push(format!(
                "{name}: first difference at line {:?}",
                differs.map(|at| at + 1)
            ));
        }
    }
    assert!(changed.is_empty(), "{changed:#?}");
}

#[test]
fn the_same_configuration_yields_the_same_bytes() {
    let trust = TrustBundle { pem: "pem".into() };
    for ((name, once), (_, again)) in support::cases().into_iter().zip(support::cases()) {
        assert_eq!(snapshot(&once, &trust), snapshot(&again, &trust), "{name}");
    }
}
