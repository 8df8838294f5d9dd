//! `docs/xds-support.md` is printed from the table in the code, and stays in step with it.

use std::path::Path;

#[test]
fn the_page_of_xds_support_says_what_the_code_does() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/xds-support.md");
    let expected = proxy::config::support::markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&page, &expected).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == expected,
        "docs/xds-support.md is out of step: UPDATE_GOLDEN=1 cargo test -p proxy --test support_page"
    );
}
