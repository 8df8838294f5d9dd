//! Whether two observations are the same, and where they are not.

use serde_json::Value;

/// The places at which they differ: `path: envoy ≠ osm-proxy`; none if they are the same.
pub fn differences(envoy: &Value, osm: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", envoy, osm, &mut found);
    found
}

fn walk(path: &str, envoy: &Value, osm: &Value, found: &mut Vec<String>) {
    match (envoy, osm) {
        (Value::Object(one), Value::Object(other)) if path.ends_with("counts") => {
            counts(path, one, other, found);
        }
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one {
                let below = join(path, key);
                walk(&below, value, other.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in other.iter().filter(|(key, _)| !one.contains_key(*key)) {
                found.push(format!("{}: only osm-proxy: {value}", join(path, key)));
            }
        }
        (Value::Array(one), Value::Array(other)) if is_lines(one) && is_lines(other) => {
            let missing = |list: &[Value], other: &[Value]| -> Vec<String> {
                let missing = list.iter().filter(|line| !other.contains(line));
                missing.map(ToString::to_string).collect()
            };
            let (only, theirs) = (missing(one, other), missing(other, one));
            if !only.is_empty() || !theirs.is_empty() {
                found.push(format!(
                    "{path}: only Envoy: [{}], only osm-proxy: [{}]",
                    only.join(", "),
                    theirs.join(", ")
                ));
            } else if one != other {
                found.push(format!("{path}: another order or number"));
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            if one.len() != other.len() {
                found.push(format!(
                    "{path}: {} of Envoy, {} of osm-proxy",
                    one.len(),
                    other.len()
                ));
            }
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                walk(&format!("{path}[{index}]"), one, other, found);
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(format!("{path}: {one} ≠ {other}")),
    }
}

/// Lists of header lines have names in them, lists of answers have not.
fn is_lines(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(Value::is_string)
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// Two samples of one distribution: each count within five standard deviations of the other.
fn counts(
    path: &str,
    one: &serde_json::Map<String, Value>,
    other: &serde_json::Map<String, Value>,
    found: &mut Vec<String>,
) {
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let count = |map: &serde_json::Map<String, Value>| {
            map.get(name).and_then(Value::as_f64).unwrap_or_default()
        };
        let (a, b) = (count(one), count(other));
        // Poisson: the variance of a difference is the sum.
        if (a - b).abs() > 5.0 * (a + b).sqrt() || (a + b < 10.0 && a != b) {
            found.push(format!("{path}.{name}: {a} ≠ {b}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_their_place() {
        let envoy =
            json!({"answers": [{"status": 200, "fields": ["a: 1", "b: 2"]}], "end": "open"});
        let osm = json!({"answers": [{"status": 404, "fields": ["a: 1", "c: 2"]}], "end": "open"});
        assert_eq!(differences(&envoy, &envoy), Vec::<String>::new());
        assert_eq!(
            differences(&envoy, &osm),
            [
                "answers[0].fields: only Envoy: [\"b: 2\"], only osm-proxy: [\"c: 2\"]",
                "answers[0].status: 200 ≠ 404",
            ]
        );
    }

    #[test]
    fn samples_of_one_distribution_are_the_same() {
        let near = json!({"counts": {"backend a": 290, "backend b": 110}});
        let same = json!({"counts": {"backend a": 310, "backend b": 90}});
        let other = json!({"counts": {"backend a": 400}});
        assert!(differences(&near, &same).is_empty());
        assert_eq!(differences(&near, &other).len(), 1);
    }
}
