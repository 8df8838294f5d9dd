//! The differences that are known, each with its reason: `known.yaml`. A new one fails the run, and so does a
//! listed one that is gone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// One known difference, or a family of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// `setup: case`; `*` stands for anything.
    pub case: String,
    /// What differs, for the user who comes from Envoy.
    pub what: String,
    /// Why it stays so; empty: it is to be mended.
    #[serde(default)]
    pub reason: String,
}

/// Reads the list.
pub fn load(file: &Path) -> anyhow::Result<Vec<Known>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value = schema::parse_yaml(&text)?;
    serde_json::from_value(value).with_context(|| file.display().to_string())
}

/// The list as Markdown, for `docs/compatibility.md`.
pub fn markdown(list: &[Known]) -> String {
    let mut text = String::from("| osm-proxy | why not as Envoy |\n|---|---|\n");
    let mut rows: BTreeMap<&str, &str> = BTreeMap::new();
    for known in list {
        let reason = match known.reason.as_str() {
            "" => "not yet mended",
            reason => reason,
        };
        rows.insert(&known.what, reason);
    }
    for (what, reason) in rows {
        text.push_str(&format!("| {what} | {reason} |\n"));
    }
    text
}

/// Whether a pattern with `*` matches.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let cases = [
            ("a: GET /", "a: GET /", true),
            ("a: *", "a: GET /", true),
            ("*: GET /", "a: GET /", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a", "ab", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
