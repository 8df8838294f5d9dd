//! HTTPRouteGroups as conditions on requests.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock, Mutex},
};

use api::specs::v1alpha4::{HTTPMatch, HTTPRouteGroupSpec};
use model::{HttpGrant, HttpMatch, Problem, Provenance};
use regex::Regex;

use crate::index::Key;

/// The matches of a group as grants; `only` names the ones wanted (empty = all). Invalid ones are void.
pub(crate) fn group_matches(
    group: &HTTPRouteGroupSpec,
    only: &[String],
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Vec<HttpGrant> {
    if group.matches.is_empty() {
        problems.push(provenance.problem("E2006: the group has no matches"));
    }
    for wanted in only {
        if !group.matches.iter().any(|known| known.name == *wanted) {
            problems.push(provenance.problem(format!("E2006: the group has no match {wanted:?}")));
        }
    }
    let wanted = |name: &String| only.is_empty() || only.contains(name);
    let mut grants = Vec::new();
    for found in group.matches.iter().filter(|found| wanted(&found.name)) {
        let provenance = with_part(provenance, &found.name);
        match http_match(found) {
            Ok(matches) => grants.push(HttpGrant {
                matches,
                provenance,
            }),
            Err(message) => {
                problems.push(provenance.problem(format!("{message}: the match is void")))
            }
        }
    }
    grants
}

/// Reports what of a group is void or ambiguous, whether or not anybody refers to it.
pub(crate) fn check_group(key: &Key, group: &HTTPRouteGroupSpec, problems: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    for found in &group.matches {
        let own = own(key).rule(found.name.as_str());
        if let Err(message) = http_match(found) {
            problems.push(own.problem(format!("{message}: the match is void")));
        }
        if !names.insert(found.name.as_str()) {
            problems.push(own.problem("several matches have this name: they count as one"));
        }
    }
    if group.matches.is_empty() {
        problems.push(own(key).void("E2006: the group has no matches"));
    }
}

fn own(key: &Key) -> Provenance {
    Provenance::new("HTTPRouteGroup", &key.0, &key.1)
}

fn with_part(provenance: &Provenance, name: &str) -> Provenance {
    if provenance.rule.is_empty() {
        provenance.rule(name)
    } else {
        provenance.rule(format!("{}/{name}", provenance.rule))
    }
}

fn http_match(found: &HTTPMatch) -> Result<HttpMatch, String> {
    let path = Some(found.path_regex.as_str()).filter(|path| !path.is_empty() && *path != ".*");
    if let Some(path) = path {
        check_regex(path).map_err(|error| format!("pathRegex {path:?}: {error}"))?;
    }
    if let Some(odd) = found.methods.iter().find(|method| !is_token(method)) {
        return Err(format!("methods: {odd:.64?} is no method"));
    }
    let any_method = found.methods.iter().any(|method| method == "*");
    let methods: BTreeSet<Arc<str>> = if any_method {
        BTreeSet::new()
    } else {
        found
            .methods
            .iter()
            .map(|method| method.as_str().into())
            .collect()
    };
    let mut headers: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for (name, value) in found.headers.iter().flatten() {
        check_regex(value).map_err(|error| format!("headers[{name}] {value:?}: {error}"))?;
        headers.push((header_name(name)?, value.as_str().into()));
    }
    headers.sort();
    headers.dedup();
    Ok(HttpMatch {
        path: path.map(Into::into),
        methods,
        headers,
    })
}

/// RFC 9110 §5.6.2: what methods and the names of headers are made of.
fn is_token(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(valid)
}

/// Header names are matched in lower case; `host` means the authority, as HTTP/2 knows no Host.
pub(crate) fn header_name(name: &str) -> Result<Arc<str>, String> {
    if !is_token(name) {
        return Err(format!("headers: {name:?} is not the name of a header"));
    }
    let name = name.to_ascii_lowercase();
    Ok(if name == "host" {
        ":authority".into()
    } else {
        name.into()
    })
}

/// Whether both planes will understand the regex: RE2 (Envoy) and Rust's share their syntax but for
/// corners, in which Rust accepts what RE2 refuses or reads otherwise.
pub(crate) fn check_regex(pattern: &str) -> Result<(), String> {
    let rust_only = ["(?x", "&&", "~~", "\\b{", "\\u", "\\U", "\\<", "\\>", "\\_"];
    if let Some(word) = rust_only.iter().find(|word| pattern.contains(**word)) {
        return Err(format!("{word:?} is not RE2 syntax"));
    }
    if VALID.lock().is_ok_and(|valid| valid.contains(pattern)) {
        return Ok(());
    }
    match Regex::new(&format!("^(?:{pattern})$")) {
        Ok(_) => {
            if let Ok(mut valid) = VALID.lock() {
                if valid.len() >= VALID_BOUND {
                    valid.clear();
                }
                valid.insert(pattern.into());
            }
            Ok(())
        }
        Err(regex::Error::CompiledTooBig(_)) => Err("the regex is too big".to_owned()),
        Err(_) => Err("not a valid regex".to_owned()),
    }
}

/// Patterns that were compiled and found valid: each of thousands of grants is looked at with every change, and
/// compiling was a third of the time it took.
static VALID: LazyLock<Mutex<HashSet<Box<str>>>> = LazyLock::new(Mutex::default);
/// As many as a large mesh has, a few MiB at worst.
const VALID_BOUND: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(path: &str, methods: &[&str], headers: &[(&str, &str)]) -> HTTPMatch {
        let header = |(name, value): &(&str, &str)| {
            BTreeMap::from([((*name).to_owned(), (*value).to_owned())])
        };
        HTTPMatch {
            name: "m".into(),
            path_regex: path.into(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            headers: headers.iter().map(header).collect(),
        }
    }

    #[test]
    fn spec_02_methods() {
        for (methods, expected) in [
            (&["GET"][..], &["GET"][..]),
            (&["GET", "HEAD"], &["GET", "HEAD"]),
            (&[], &[]),
            (&["*"], &[]),
            (&["*", "GET"], &[]),
        ] {
            let matches = http_match(&found("/a", methods, &[])).unwrap();
            let got: Vec<&str> = matches.methods.iter().map(AsRef::as_ref).collect();
            assert_eq!(got, expected, "{methods:?}");
        }
    }

    #[test]
    fn spec_03_headers_are_lower_case_and_host_is_the_authority() {
        let headers = [("User-Agent", ".*-http-client/*.*"), ("host", "a\\.b")];
        let matches = http_match(&found("", &[], &headers)).unwrap();
        let names: Vec<&str> = matches
            .headers
            .iter()
            .map(|(name, _)| name.as_ref())
            .collect();
        assert_eq!(names, [":authority", "user-agent"]);
    }

    #[test]
    fn spec_04_a_match_with_only_a_name_is_everything() {
        assert_eq!(
            http_match(&found("", &[], &[])).unwrap(),
            HttpMatch::default()
        );
        assert_eq!(
            http_match(&found(".*", &["*"], &[])).unwrap(),
            HttpMatch::default()
        );
    }

    #[test]
    fn spec_08_only_the_invalid_match_is_void() {
        let mut bad = found("(", &[], &[]);
        bad.name = "bad".into();
        let group = HTTPRouteGroupSpec {
            matches: vec![
                bad,
                found("/ok", &[], &[]),
                found("/a", &[], &[("x y", ".*")]),
            ],
        };
        let mut problems = Vec::new();
        let provenance =
            Provenance::new("TrafficTarget", "ns", "target").rule("HTTPRouteGroup/group");
        let grants = group_matches(&group, &[], &provenance, &mut problems);
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].matches.path.as_deref(), Some("/ok"));
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for (line, start) in told.iter().zip([
            "TrafficTarget ns/target HTTPRouteGroup/group/bad: pathRegex \"(\"",
            "TrafficTarget ns/target HTTPRouteGroup/group/m: headers",
        ]) {
            assert!(line.starts_with(start), "{told:?}");
        }
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_group_is_checked_on_its_own() {
        let mut problems = Vec::new();
        let key: Key = ("ns".into(), "group".into());
        check_group(&key, &HTTPRouteGroupSpec::default(), &mut problems);
        let group = HTTPRouteGroupSpec {
            matches: vec![found("(", &[], &[]), found("/ok", &[], &[])],
        };
        check_group(&key, &group, &mut problems);
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(told[0].contains("E2006"), "{told:?}");
        assert!(told[1].contains("m: pathRegex \"(\""), "{told:?}");
        assert!(told[2].contains("several matches"), "{told:?}");
    }
}
