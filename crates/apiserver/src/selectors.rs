//! Label and field selectors of list, watch and deletecollection requests, and LabelSelector values of objects.

use serde_json::Value;

use crate::status::{Failure, Outcome};

/// One requirement on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5`.
    pub fn parse(text: &str) -> Outcome<Self> {
        let fail =
            |what: &str| Failure::bad_request(format!("unable to parse requirement: {what}"));
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let parsed = requirement(part).filter(values_are_labels);
            requirements.push(
                parsed.ok_or_else(|| {
                    fail(&format!("found '{part}', expected a label requirement"))
                })?,
            );
        }
        Ok(Self { requirements })
    }

    /// From a `metav1.LabelSelector` value; `null` and absent match nothing there, so the caller decides on them.
    pub fn from_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                requirements.push(Requirement::In(
                    key.clone(),
                    vec![value.as_str().unwrap_or_default().to_owned()],
                ));
            }
        }
        for expression in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values: Vec<String> = expression["values"]
                .as_array()
                .map(|v| {
                    v.iter()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect()
                })
                .unwrap_or_default();
            match expression["operator"].as_str().unwrap_or_default() {
                "In" => requirements.push(Requirement::In(key, values)),
                "NotIn" => requirements.push(Requirement::NotIn(key, values)),
                "Exists" => requirements.push(Requirement::Exists(key)),
                "DoesNotExist" => requirements.push(Requirement::Absent(key)),
                _ => {}
            }
        }
        Self { requirements }
    }

    /// Whether there is no requirement.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels (a JSON object or null) fulfil all requirements.
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        let get = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        self.requirements
            .iter()
            .all(|requirement| match requirement {
                Requirement::In(key, values) => {
                    get(key).is_some_and(|v| values.iter().any(|x| x == v))
                }
                Requirement::NotIn(key, values) => {
                    get(key).is_none_or(|v| values.iter().all(|x| x != v))
                }
                Requirement::Exists(key) => get(key).is_some(),
                Requirement::Absent(key) => get(key).is_none(),
                Requirement::Greater(key, n) => get(key)
                    .and_then(|v| v.parse::<i64>().ok())
                    .is_some_and(|v| v > *n),
                Requirement::Less(key, n) => get(key)
                    .and_then(|v| v.parse::<i64>().ok())
                    .is_some_and(|v| v < *n),
            })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0usize, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return label_key(key.trim()).map(Requirement::Absent);
    }
    if let Some((key, rest)) = part.split_once(char::is_whitespace)
        && let Some((word, set)) = rest.trim_start().split_once('(')
    {
        let values = set
            .strip_suffix(')')?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        return match word.trim() {
            "in" => Some(Requirement::In(label_key(key)?, values)),
            "notin" => Some(Requirement::NotIn(label_key(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(
            label_key(key.trim())?,
            vec![value.trim().to_owned()],
        ));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(
            label_key(key.trim())?,
            vec![value.trim().to_owned()],
        ));
    }
    if let Some((key, value)) = part.split_once('>') {
        return Some(Requirement::Greater(
            label_key(key.trim())?,
            value.trim().parse().ok()?,
        ));
    }
    if let Some((key, value)) = part.split_once('<') {
        return Some(Requirement::Less(
            label_key(key.trim())?,
            value.trim().parse().ok()?,
        ));
    }
    label_key(part).map(Requirement::Exists)
}

fn values_are_labels(requirement: &Requirement) -> bool {
    match requirement {
        Requirement::In(_, values) | Requirement::NotIn(_, values) => values
            .iter()
            .all(|v| crate::object::label_value_problem(v).is_none()),
        _ => true,
    }
}

fn label_key(key: &str) -> Option<String> {
    let good = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    good.then(|| key.to_owned())
}

/// A parsed field selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `metadata.name=x,status.phase!=Running`; fields that the resource does not offer are refused as Kubernetes does.
    pub fn parse(text: &str, resource: &str, group: &str) -> Outcome<Self> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (field, equal, value) = if let Some((f, v)) = part.split_once("!=") {
                (f, false, v)
            } else if let Some((f, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (f, true, v)
            } else {
                return Err(Failure::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let field = field.trim();
            if !offered(field, resource, group) {
                let label = if group.is_empty()
                    || !group.contains('.')
                    || group.ends_with(".k8s.io")
                {
                    format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {field}")
                };
                return Err(Failure::bad_request(label));
            }
            terms.push((field.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self { terms })
    }

    /// Whether an object fulfils all terms.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|(field, equal, value)| (lookup(object, field) == *value) == *equal)
    }
}

fn offered(field: &str, resource: &str, group: &str) -> bool {
    if matches!(field, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match (group, resource) {
        ("", "pods") => matches!(
            field,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        ("" | "events.k8s.io", "events") => {
            field.starts_with("involvedObject.")
                || field.starts_with("regarding.")
                || matches!(
                    field,
                    "reason"
                        | "type"
                        | "source"
                        | "reportingComponent"
                        | "reportingController"
                        | "action"
                )
        }
        ("", "secrets") => field == "type",
        ("", "namespaces") => field == "status.phase",
        ("", "nodes") => field == "spec.unschedulable",
        ("", "services") => matches!(field, "spec.clusterIP" | "spec.type"),
        ("apps", "replicasets") => field == "status.replicas",
        ("batch", "jobs") => field == "status.successful",
        _ => false,
    }
}

fn lookup(object: &Value, field: &str) -> String {
    let field = match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "source" => "source.component".to_owned(),
        None if matches!(field, "reportingController") => "reportingComponent".to_owned(),
        None => field.to_owned(),
    };
    let mut at = object;
    for part in field.split('.') {
        match at.get(part) {
            Some(next) => at = next,
            None => {
                return if field == "spec.hostNetwork" || field == "spec.unschedulable" {
                    "false".into()
                } else {
                    String::new()
                };
            }
        }
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match_as_kubectl_documents_them() {
        let labels = json!({"app": "web", "tier": "front", "n": "7"});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("absent!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("tier", true),
            ("!tier", false),
            ("!absent", true),
            ("n>6,n<8", true),
            ("n>7", false),
        ];
        for (text, expected) in cases {
            assert_eq!(
                LabelSelector::parse(text).unwrap().matches(Some(&labels)),
                expected,
                "{text}"
            );
        }
        assert!(!LabelSelector::parse("app=web").unwrap().matches(None));
        for bad in ["a b", "=x", "x in y", "!"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_selector_objects_support_expressions() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}, {"key": "y", "operator": "In", "values": ["1", "2"]}],
        }));
        assert!(selector.matches(Some(&json!({"app": "web", "y": "2"}))));
        assert!(!selector.matches(Some(&json!({"app": "web", "y": "2", "x": ""}))));
    }

    #[test]
    fn field_selectors_know_the_fields_of_their_resource() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}, "spec": {}});
        let cases = [
            ("metadata.name=p", true),
            ("status.phase!=Running", false),
            ("spec.nodeName=", true),
        ];
        for (text, expected) in cases {
            assert_eq!(
                FieldSelector::parse(text, "pods", "")
                    .unwrap()
                    .matches(&pod),
                expected,
                "{text}"
            );
        }
        assert!(FieldSelector::parse("spec.foo=1", "pods", "").is_err());
        let crd = FieldSelector::parse("spec.foo=1", "widgets", "example.com").unwrap_err();
        assert_eq!(crd.message, "field label not supported: spec.foo");
    }
}
