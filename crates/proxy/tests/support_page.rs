//! Pages that are printed from tables in the code stay in step with them.

use std::path::Path;

fn is_in_step(name: &str, expected: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&page, expected).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is out of step: UPDATE_GOLDEN=1 cargo test -p proxy --test support_page"
    );
}

#[test]
fn the_page_of_xds_support_says_what_the_code_does() {
    is_in_step("xds-support.md", &proxy::config::support::markdown());
}

#[test]
fn the_page_of_reasons_says_what_the_code_does() {
    is_in_step("reasons.md", &proxy::reason::markdown());
}
