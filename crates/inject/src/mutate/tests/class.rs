//! Which program the sidecar is (CFG-06).

use super::*;

const CLASS: &str = "openservicemesh.io/sidecar-class";

fn command(pod: &Value) -> String {
    let sidecar = container(pod, "containers", "sidecar").unwrap();
    let words = [&sidecar["command"], &sidecar["args"]].map(|list| list[0].as_str().unwrap());
    format!("{} {}", sidecar["image"].as_str().unwrap(), words.join(" "))
}

#[test]
fn cfg_06_the_class_is_of_the_mesh_or_the_namespace_or_the_pod() {
    let ours = format!("{IMAGE} osm-proxy run");
    let envoy = "envoyproxy/envoy:v1 /var/run/osm/osm-proxy agent".to_owned();
    let mesh = |class: &str| config(json!({"sidecar": {"sidecarClass": class}}));
    let mut annotated = joined();
    let annotations = annotated.metadata.annotations.get_or_insert_default();
    annotations.insert(CLASS.to_owned(), "envoy".to_owned());
    for (pod_says, namespace, mesh, expected) in [
        (None, &joined(), mesh(""), &ours),
        (None, &joined(), mesh("osm-proxy"), &ours),
        (None, &joined(), mesh("pipy"), &ours),
        (None, &joined(), mesh("envoy"), &envoy),
        (Some("envoy"), &joined(), mesh("osm-proxy"), &envoy),
        (Some("osm-proxy"), &joined(), mesh("envoy"), &ours),
        (None, &annotated, mesh(""), &envoy),
        (Some("pipy"), &annotated, mesh("envoy"), &ours),
    ] {
        let annotations = pod_says.map_or(json!({}), |class| json!({ CLASS: class }));
        let pod = patched(&pod(annotations, web()), namespace, &mesh).unwrap();
        assert_eq!(&command(&pod), expected, "{pod_says:?}");
    }
}

#[test]
fn a_class_that_nobody_knows_is_refused_where_it_stands() {
    let say = |annotations: Value, mesh: Value| {
        patched(&pod(annotations, web()), &joined(), &config(mesh)).unwrap_err()
    };
    assert_eq!(
        say(json!({CLASS: "Envoy"}), json!({})),
        "Invalid sidecar class 'Envoy' specified for annotation 'openservicemesh.io/sidecar-class': must be osm-proxy, pipy or envoy"
    );
    assert_eq!(
        say(json!({}), json!({"sidecar": {"sidecarClass": "nginx"}})),
        "Invalid sidecar class 'nginx' specified for MeshConfig sidecar.sidecarClass: must be osm-proxy, pipy or envoy"
    );
    assert!(say(json!({CLASS: ""}), json!({})).contains("class ''"));
}

#[test]
fn envoy_gets_our_program_from_the_init_container_and_nothing_else_differs() {
    let ours = injected(json!({}), web(), json!({}));
    let mut envoy = injected(
        json!({}),
        web(),
        json!({"sidecar": {"sidecarClass": "envoy"}}),
    );
    let mount = json!({"name": "osm-agent", "mountPath": "/var/run/osm"});
    let init = container(&envoy, "initContainers", "osm-init").unwrap();
    assert_eq!(init["image"], IMAGE);
    assert_eq!(init["volumeMounts"], json!([mount]));
    let flags = init["args"].as_array().unwrap();
    assert!(flags.contains(&json!("--install-into=/var/run/osm")));
    let sidecar = container(&envoy, "containers", "sidecar").unwrap();
    assert_eq!(sidecar["volumeMounts"][1], mount);
    assert_eq!(
        envoy["spec"]["volumes"][1],
        json!({"name": "osm-agent", "emptyDir": {}})
    );
    assert_eq!(envoy["metadata"]["annotations"][CLASS], "envoy");
    // Environment, ports, rights: what the one needs, the other's agent needs.
    let of_ours = container(&ours, "containers", "sidecar").unwrap();
    for field in ["ports", "securityContext"] {
        assert_eq!(sidecar[field], of_ours[field], "{field}");
    }
    let names = |sidecar: &Value| -> Vec<Value> {
        let variables = sidecar["env"].as_array().unwrap().iter();
        variables.map(|variable| variable["name"].clone()).collect()
    };
    assert_eq!(names(sidecar), names(of_ours));
    let volume = json!({"name": "osm-agent", "emptyDir": {}});
    envoy["spec"]["volumes"] = json!([volume]);
    let taken = pod(
        json!({}),
        json!({"containers": [], "volumes": envoy["spec"]["volumes"]}),
    );
    let refused = patched(&taken, &joined(), &config(json!({}))).unwrap_err();
    assert_eq!(
        refused,
        r#"volume name "osm-agent" is reserved for the mesh"#
    );
}

#[test]
fn images_come_from_the_driver_or_the_class_or_the_injector() {
    let driver = |name: &str| json!([{"sidecarName": name, "sidecarImage": "driver/of:1"}]);
    for (sidecar, image) in [
        (json!({"sidecarClass": "envoy"}), "envoyproxy/envoy:v1"),
        (
            json!({"sidecarClass": "envoy", "envoyImage": "my/envoy:2"}),
            "my/envoy:2",
        ),
        (
            json!({"sidecarClass": "envoy", "envoyImage": "my/envoy:2", "sidecarDrivers": driver("envoy")}),
            "driver/of:1",
        ),
        (
            json!({"sidecarClass": "envoy", "sidecarImage": "my/proxy:1"}),
            "envoyproxy/envoy:v1",
        ),
        (
            json!({"sidecarClass": "pipy", "sidecarDrivers": driver("pipy")}),
            IMAGE,
        ),
        (
            json!({"sidecarDrivers": driver("osm-proxy")}),
            "driver/of:1",
        ),
    ] {
        let pod = injected(json!({}), web(), json!({ "sidecar": sidecar }));
        let injected = container(&pod, "containers", "sidecar").unwrap();
        assert_eq!(injected["image"], image, "{sidecar}");
    }
    let typed: Pod = serde_json::from_value(pod(json!({CLASS: "envoy"}), web())).unwrap();
    let none = Settings {
        envoy_image: String::new(),
        ..settings()
    };
    let error = mutate(&typed, &joined(), &config(json!({})), &none).unwrap_err();
    assert_eq!(error.to_string(), "MeshConfig sidecar.envoyImage not set");
}
