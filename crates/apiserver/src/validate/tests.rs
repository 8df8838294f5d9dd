//! Validation texts.

use super::*;
use crate::kinds::builtin;

fn problems(plural: &str, value: Value, old: Option<Value>) -> Vec<String> {
    let kind = builtin().kinds.iter().find(|k| k.plural == plural).unwrap();
    let fill = |mut v: Value| {
        crate::defaults::fill(kind, &mut v);
        v
    };
    let old = old.map(fill);
    check(kind, &fill(value), old.as_ref())
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[test]
fn common_mistakes_get_the_real_texts() {
    let meta = json!({"name": "x", "namespace": "n"});
    let container = json!({"name": "c", "image": "i"});
    let cases = [
        (
            "pods",
            json!({"metadata": meta, "spec": {"containers": []}}),
            "spec.containers: Required value",
        ),
        (
            "pods",
            json!({"metadata": meta, "spec": {"containers": [{"name": "c"}]}}),
            "spec.containers[0].image: Required value",
        ),
        (
            "pods",
            json!({"metadata": meta, "spec": {"restartPolicy": "Maybe", "containers": [container]}}),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "pods",
            json!({"metadata": meta, "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "services",
            json!({"metadata": meta, "spec": {"ports": []}}),
            "spec.ports: Required value",
        ),
        (
            "services",
            json!({"metadata": meta, "spec": {"ports": [{"port": 0, "targetPort": 80}]}}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "deployments",
            json!({"metadata": meta, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [container]}}}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ),
    ];
    for (plural, value, expected) in cases {
        assert_eq!(problems(plural, value, None), [expected]);
    }
}

#[test]
fn immutable_fields_are_guarded() {
    let service = |ip: &str| json!({"metadata": {"name": "x"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    assert_eq!(
        problems("services", service("10.96.0.9"), Some(service("10.96.0.8"))),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.9\"]: may not change once set"]
    );
    let pod = |command: &str, image: &str| json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": image, "command": [command]}]}});
    assert!(problems("pods", pod("a", "2:1"), Some(pod("a", "1:1"))).is_empty());
    assert_eq!(
        problems("pods", pod("b", "1:1"), Some(pod("a", "1:1"))).len(),
        1
    );
}
