//! By the ids of the acceptance scenarios: INJ-xx injection, IPT-xx interception, HP-xx probes.

use serde_json::{Value, json};

use super::*;

const IMAGE: &str = "osmium/osm-proxy:test";

fn settings() -> Settings {
    Settings {
        mesh_name: "osm".to_owned(),
        osm_namespace: "osm-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        root_ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        sidecar_image: IMAGE.to_owned(),
        envoy_image: "envoyproxy/envoy:v1".to_owned(),
        init_container_image: IMAGE.to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
    }
}

/// A namespace of the mesh, joined by `osm namespace add`.
fn joined() -> Namespace {
    namespace(
        "shop",
        json!({"openservicemesh.io/monitored-by": "osm"}),
        json!({"openservicemesh.io/sidecar-injection": "enabled"}),
    )
}

fn namespace(name: &str, labels: Value, annotations: Value) -> Namespace {
    let namespace =
        json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}});
    serde_json::from_value(namespace).unwrap()
}

fn pod(annotations: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": annotations}, "spec": spec})
}

fn web() -> Value {
    json!({"containers": [{"name": "web", "image": "nginx"}]})
}

fn config(spec: Value) -> MeshConfig {
    serde_json::from_value(json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig", "metadata": {"name": "osm-mesh-config"}, "spec": spec,
    }))
    .unwrap()
}

/// The pod as the API server has it after the patch.
fn patched(pod: &Value, namespace: &Namespace, config: &MeshConfig) -> Result<Value, String> {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    let patch =
        mutate(&typed, namespace, config, &settings()).map_err(|error| error.to_string())?;
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    Ok(patched)
}

fn injected(annotations: Value, spec: Value, config: Value) -> Value {
    patched(&pod(annotations, spec), &joined(), &self::config(config)).unwrap()
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    pod["spec"][list]
        .as_array()?
        .iter()
        .find(|container| container["name"] == name)
}

fn sidecar(pod: &Value) -> &Value {
    container(pod, "containers", "sidecar").expect("a sidecar")
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let variables = container["env"].as_array().unwrap();
    variables
        .iter()
        .find(|variable| variable["name"] == name)
        .unwrap_or(&Value::Null)
}

fn init_arguments(pod: &Value) -> Vec<String> {
    let init = container(pod, "initContainers", "osm-init").expect("osm-init");
    serde_json::from_value(init["args"].clone()).unwrap()
}

#[test]
fn inj_01_pod_gets_init_container_and_sidecar() {
    let pod = injected(json!({}), web(), json!({"sidecar": {"logLevel": "debug"}}));
    let init = container(&pod, "initContainers", "osm-init").expect("osm-init");
    assert_eq!(init["image"], IMAGE);
    assert_eq!(init["command"], json!(["osm-proxy"]));
    assert_eq!(init["args"], json!(["init"]));
    let security = &init["securityContext"];
    assert_eq!(
        security,
        &json!({"privileged": false, "capabilities": {"add": ["NET_ADMIN"]}, "runAsNonRoot": false, "runAsUser": 0})
    );
    assert_eq!(
        pod["spec"]["containers"][0],
        json!({"name": "web", "image": "nginx"}),
        "the application is unchanged"
    );
    assert_eq!(
        pod["spec"]["containers"][1]["name"], "sidecar",
        "the sidecar is last"
    );
    let sidecar = sidecar(&pod);
    assert_eq!(sidecar["args"], json!(["run", "--log-level=debug"]));
    assert_eq!(sidecar["securityContext"]["runAsUser"], 1500);
    assert_eq!(
        sidecar["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert_eq!(
        sidecar["ports"],
        json!([
            {"name": "proxy-admin", "containerPort": 15000},
            {"name": "proxy-inbound", "containerPort": 15003},
            {"name": "proxy-metrics", "containerPort": 15010},
        ])
    );
    let uuid = pod["metadata"]["labels"]["osm-proxy-uuid"]
        .as_str()
        .expect("the label");
    assert_eq!(uuid.len(), 36);
    assert_eq!(variable(sidecar, "OSM_PROXY_UUID")["value"], uuid);
    assert_eq!(
        variable(sidecar, "OSM_XDS_ADDRESS")["value"],
        "osm-controller.osm-system.svc.cluster.local:15128"
    );
    assert_eq!(
        variable(sidecar, "OSM_XDS_SERVER_NAME")["value"],
        "osm-controller.osm-system.svc"
    );
    assert_eq!(
        variable(sidecar, "SERVICE_ACCOUNT")["valueFrom"]["fieldRef"]["fieldPath"],
        "spec.serviceAccountName"
    );
    assert_eq!(variable(sidecar, "OSM_PROBES")["value"], "[]");
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "osm-token", "projected": {"defaultMode": 292, "sources": [
            {"serviceAccountToken": {"audience": "openservicemesh.io", "expirationSeconds": 3600, "path": "token"}},
        ]}}])
    );
    let privileged = injected(
        json!({}),
        web(),
        json!({"sidecar": {"enablePrivilegedInitContainer": true}}),
    );
    assert_eq!(
        privileged["spec"]["initContainers"][0]["securityContext"]["privileged"],
        true
    );
}

#[test]
fn inj_01_own_init_containers_and_volumes_stay_in_front() {
    let spec = json!({
        "initContainers": [{"name": "setup", "image": "busybox"}],
        "containers": [{"name": "web", "image": "nginx"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let pod = injected(json!({}), spec, json!({}));
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "setup");
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "osm-init");
    assert_eq!(pod["spec"]["volumes"][0]["name"], "data");
}

#[test]
fn inj_02_precedence_of_label_and_annotations() {
    let key = "openservicemesh.io/sidecar-injection";
    for (monitored, of_namespace, of_pod, expected) in [
        (None, Some("enabled"), Some("enabled"), false),
        (Some("other"), Some("enabled"), Some("enabled"), false),
        (Some("osm"), Some("disabled"), Some("enabled"), true),
        (Some("osm"), None, Some("Yes"), true),
        (Some("osm"), None, Some("TRUE"), true),
        (Some("osm"), Some("enabled"), None, true),
        (Some("osm"), Some("True"), None, true),
        (Some("osm"), Some("enabled"), Some("disabled"), false),
        (Some("osm"), Some("enabled"), Some("no"), false),
        (Some("osm"), Some("enabled"), Some("False"), false),
        (Some("osm"), None, None, false),
        (Some("osm"), Some("disabled"), None, false),
    ] {
        let labels = monitored.map_or(
            json!({}),
            |mesh| json!({"openservicemesh.io/monitored-by": mesh}),
        );
        let annotation = |value: Option<&str>| value.map_or(json!({}), |value| json!({key: value}));
        let namespace = namespace("shop", labels, annotation(of_namespace));
        let before = pod(annotation(of_pod), web());
        let after = patched(&before, &namespace, &config(json!({}))).unwrap();
        assert_eq!(
            after != before,
            expected,
            "{monitored:?} {of_namespace:?} {of_pod:?}"
        );
    }
}

#[test]
fn inj_03_invalid_annotation_value_blocks_the_pod() {
    let message =
        r#"Invalid annotation value for key "openservicemesh.io/sidecar-injection": maybe"#;
    let maybe = json!({"openservicemesh.io/sidecar-injection": "maybe"});
    let refused = patched(&pod(maybe.clone(), web()), &joined(), &config(json!({})));
    assert_eq!(refused, Err(message.to_owned()));
    let namespace = namespace(
        "shop",
        json!({"openservicemesh.io/monitored-by": "osm"}),
        maybe,
    );
    assert_eq!(
        patched(&pod(json!({}), web()), &namespace, &config(json!({}))),
        Err(message.to_owned())
    );
}

#[test]
fn inj_04_05_06_some_pods_are_never_injected() {
    let mesh = json!({"openservicemesh.io/monitored-by": "osm"});
    let enabled = json!({"openservicemesh.io/sidecar-injection": "enabled"});
    let ignored =
        json!({"openservicemesh.io/monitored-by": "osm", "openservicemesh.io/ignore": ""});
    let host = json!({"hostNetwork": true, "containers": [{"name": "web"}]});
    for (what, namespace, spec) in [
        ("INJ-04 hostNetwork", joined(), host),
        (
            "INJ-05 kube-system",
            namespace("kube-system", mesh.clone(), enabled.clone()),
            web(),
        ),
        (
            "INJ-05 kube-public",
            namespace("kube-public", mesh.clone(), enabled.clone()),
            web(),
        ),
        (
            "INJ-05 control plane",
            namespace("osm-system", mesh, enabled.clone()),
            web(),
        ),
        (
            "INJ-06 ignored",
            namespace("shop", ignored, enabled.clone()),
            web(),
        ),
    ] {
        let before = pod(enabled.clone(), spec);
        assert_eq!(
            patched(&before, &namespace, &config(json!({}))),
            Ok(before),
            "{what}"
        );
    }
    let before = pod(json!({}), web());
    let none = config(json!({"traffic": {"interceptionMode": "none"}}));
    assert_eq!(
        patched(&before, &joined(), &none),
        Ok(before.clone()),
        "interception mode none"
    );
}

#[test]
fn inj_12_13_resources_come_from_mesh_config_namespace_and_pod_in_this_order() {
    assert_eq!(
        sidecar(&injected(json!({}), web(), json!({})))["resources"],
        Value::Null
    );
    let mesh = json!({"sidecar": {"resources": {"limits": {"cpu": "2", "memory": "128M"}, "requests": {"cpu": "1", "memory": "64M"}}}});
    let pod_of = |annotations: Value| injected(annotations, web(), mesh.clone());
    assert_eq!(
        sidecar(&pod_of(json!({})))["resources"],
        json!({"limits": {"cpu": "2", "memory": "128M"}, "requests": {"cpu": "1", "memory": "64M"}})
    );
    let refined = pod_of(json!({
        "openservicemesh.io/sidecar-resource-limits-cpu": "500m",
        "openservicemesh.io/sidecar-resource-requests-ephemeral-storage": "1Gi",
        "openservicemesh.io/sidecar-resource-requests-memory": "much",
    }));
    assert_eq!(
        sidecar(&refined)["resources"],
        json!({"limits": {"cpu": "500m", "memory": "128M"}, "requests": {"cpu": "1", "ephemeral-storage": "1Gi", "memory": "64M"}})
    );
}

#[test]
fn inj_15_what_belongs_to_the_sidecar_is_refused() {
    for (spec, message) in [
        (
            json!({"containers": [{"name": "web", "securityContext": {"runAsUser": 1500}}]}),
            r#"container "web" runs as user 1500, which is reserved for the sidecar: its traffic would bypass the mesh"#,
        ),
        (
            json!({"securityContext": {"runAsUser": 1500}, "containers": [{"name": "web"}]}),
            "the pod runs as user 1500, which is reserved for the sidecar: its traffic would bypass the mesh",
        ),
        (
            json!({"containers": [{"name": "web", "ports": [{"containerPort": 15003}]}]}),
            r#"container "web" declares port 15003, which is reserved for the sidecar"#,
        ),
        (
            json!({"containers": [{"name": "sidecar"}]}),
            r#"container name "sidecar" is reserved for the mesh"#,
        ),
        (
            json!({"containers": [{"name": "web"}], "initContainers": [{"name": "osm-init"}]}),
            r#"container name "osm-init" is reserved for the mesh"#,
        ),
    ] {
        let refused = patched(&pod(json!({}), spec), &joined(), &config(json!({})));
        assert_eq!(refused, Err(message.to_owned()));
    }
}

#[test]
fn inj_16_missing_images_reject_the_pod() {
    let typed: Pod = serde_json::from_value(pod(json!({}), web())).unwrap();
    for (settings, message) in [
        (
            Settings {
                sidecar_image: String::new(),
                ..settings()
            },
            "MeshConfig sidecar.sidecarImage not set",
        ),
        (
            Settings {
                init_container_image: String::new(),
                ..settings()
            },
            "MeshConfig sidecar.initContainerImage not set",
        ),
    ] {
        let error = mutate(&typed, &joined(), &config(json!({})), &settings).expect_err(message);
        assert_eq!(error.to_string(), message);
        let named =
            config(json!({"sidecar": {"sidecarImage": "a/b:1", "initContainerImage": "c/d:1"}}));
        assert!(
            mutate(&typed, &joined(), &named, &settings).is_ok(),
            "MeshConfig's images count"
        );
    }
}

#[test]
fn inj_17_metrics_annotations() {
    let with = |value: &str| {
        let annotations = json!({"openservicemesh.io/sidecar-injection": "enabled", "openservicemesh.io/metrics": value});
        namespace(
            "shop",
            json!({"openservicemesh.io/monitored-by": "osm"}),
            annotations,
        )
    };
    let scraped = patched(&pod(json!({}), web()), &with("enabled"), &config(json!({}))).unwrap();
    assert_eq!(
        scraped["metadata"]["annotations"],
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": "15010", "prometheus.io/path": "/stats/prometheus"})
    );
    let quiet = patched(&pod(json!({}), web()), &with("no"), &config(json!({}))).unwrap();
    assert_eq!(quiet["metadata"]["annotations"], json!({}));
    let refused = patched(&pod(json!({}), web()), &with("perhaps"), &config(json!({})));
    assert_eq!(refused, Err(r#"Invalid annotation value specified for annotation "openservicemesh.io/metrics": perhaps"#.to_owned()));
}

#[test]
fn inj_18_windows_pods_are_refused() {
    let spec =
        json!({"nodeSelector": {"kubernetes.io/os": "windows"}, "containers": [{"name": "web"}]});
    assert!(
        patched(&pod(json!({}), spec), &joined(), &config(json!({})))
            .unwrap_err()
            .contains("no Windows sidecar")
    );
}

#[test]
fn a_copy_of_an_injected_pod_keeps_its_sidecar_and_gets_its_own_id() {
    let first = injected(json!({}), web(), json!({}));
    let second = patched(&first, &joined(), &config(json!({}))).unwrap();
    assert_eq!(second["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(
        second["spec"]["initContainers"].as_array().unwrap().len(),
        1
    );
    let uuid = |pod: &Value| pod["metadata"]["labels"]["osm-proxy-uuid"].clone();
    assert_ne!(uuid(&first), uuid(&second));
    assert_eq!(
        variable(sidecar(&second), "OSM_PROXY_UUID")["value"],
        uuid(&second)
    );
}

#[test]
fn fields_that_these_types_do_not_know_are_left_alone() {
    let mut spec = web();
    spec["fieldOfTheFuture"] = json!({"a": 1});
    spec["containers"][0]["another"] = json!(true);
    let pod = injected(json!({}), spec, json!({}));
    assert_eq!(pod["spec"]["fieldOfTheFuture"], json!({"a": 1}));
    assert_eq!(pod["spec"]["containers"][0]["another"], true);
}

mod class;
mod traffic;
