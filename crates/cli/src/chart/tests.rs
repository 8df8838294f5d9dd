use super::*;

fn render(set: &[&str]) -> anyhow::Result<Vec<Value>> {
    let chart = Chart::embedded()?;
    let set: Vec<String> = set.iter().map(|set| set.to_string()).collect();
    let values = chart.values(&set, json!({}))?;
    let release = Release {
        name: "osm".to_owned(),
        namespace: "osm-system".to_owned(),
        api_versions: ["policy/v1".to_owned()].into(),
    };
    chart.render(&release, &values)
}

fn preset(objects: &[Value]) -> Value {
    let map = objects
        .iter()
        .find(|object| object["metadata"]["name"] == "preset-mesh-config")
        .expect("the preset");
    serde_json::from_str(
        map["data"]["preset-mesh-config.json"]
            .as_str()
            .expect("text"),
    )
    .expect("JSON")
}

#[test]
fn the_chart_gives_the_documented_objects_with_their_labels() {
    let objects = render(&[]).expect("the chart renders");
    let names: Vec<String> = objects
        .iter()
        .map(|object| {
            format!(
                "{}/{}",
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            "ServiceAccount/osm",
            "ConfigMap/preset-mesh-config",
            "ClusterRole/osm",
            "ClusterRoleBinding/osm",
            "Role/osm",
            "RoleBinding/osm",
            "Service/osm-bootstrap",
            "Service/osm-controller",
            "Service/osm-validator",
            "Service/osm-injector",
            "Deployment/osm-bootstrap",
            "Deployment/osm-controller",
            "Deployment/osm-injector",
        ]
    );
    for object in &objects {
        let labels = &object["metadata"]["labels"];
        assert_eq!(
            labels["app.kubernetes.io/name"], "openservicemesh.io",
            "{object}"
        );
        assert_eq!(labels["app.kubernetes.io/instance"], "osm", "{object}");
        assert_eq!(
            labels["app.kubernetes.io/version"],
            env!("CARGO_PKG_VERSION"),
            "{object}"
        );
    }
    let controller = objects
        .iter()
        .find(|object| {
            object["kind"] == "Deployment" && object["metadata"]["name"] == "osm-controller"
        })
        .unwrap();
    assert_eq!(
        controller["metadata"]["labels"]["enforceSingleMesh"],
        "true"
    );
    let container = &controller["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"],
        format!("osmium/osm:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(container["resources"]["limits"]["cpu"], "1.5");
    assert!(
        container["args"]
            .as_array()
            .unwrap()
            .contains(&json!("--validator-webhook-config=osm-validator-mesh-osm"))
    );
    assert_eq!(controller["spec"]["replicas"], 1);
}

/// The typed object refuses what Kubernetes would silently drop or refuse.
#[test]
fn objects_decode_as_the_kinds_they_claim_to_be() {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Service;
    for object in render(&[
        "osm.osmController.podLabels.team=mesh",
        "osm.controlPlaneTolerations[0].operator=Exists",
    ])
    .unwrap()
    {
        match object["kind"].as_str().unwrap() {
            "Deployment" => {
                let typed: Deployment =
                    serde_json::from_value(object.clone()).expect("a Deployment");
                assert_eq!(
                    serde_json::to_value(typed).unwrap(),
                    object,
                    "a field was lost"
                );
            }
            "Service" => {
                let typed: Service = serde_json::from_value(object.clone()).expect("a Service");
                assert_eq!(
                    serde_json::to_value(typed).unwrap(),
                    object,
                    "a field was lost"
                );
            }
            _ => {}
        }
    }
}

#[test]
fn inst_01_defaults_land_in_the_preset() {
    let preset = preset(&render(&[]).unwrap());
    assert_eq!(preset["traffic"]["enablePermissiveTrafficPolicyMode"], true);
    assert_eq!(preset["traffic"]["enableEgress"], true);
    assert_eq!(preset["sidecar"]["logLevel"], "error");
    assert_eq!(preset["observability"]["enableDebugServer"], false);
    assert_eq!(preset["observability"]["tracing"], json!({"enable": false}));
    assert_eq!(preset["certificate"]["serviceCertValidityDuration"], "24h");
    let typed: api::config::v1alpha2::MeshConfigSpec =
        serde_json::from_value(preset).expect("a MeshConfig");
    assert!(typed.feature_flags.enable_egress_policy);
}

#[test]
fn inst_02_overrides_land_in_the_preset() {
    let set = [
        "osm.enablePermissiveTrafficPolicy=false",
        "osm.enableEgress=false,osm.envoyLogLevel=debug",
        "osm.enableDebugServer=true",
        "osm.outboundIPRangeExclusionList={10.0.0.0/8,192.168.0.0/16}",
        "osm.outboundPortExclusionList={6379,7070}",
    ];
    let preset = preset(&render(&set).unwrap());
    assert_eq!(
        preset["traffic"]["enablePermissiveTrafficPolicyMode"],
        false
    );
    assert_eq!(preset["traffic"]["enableEgress"], false);
    assert_eq!(preset["sidecar"]["logLevel"], "debug");
    assert_eq!(preset["observability"]["enableDebugServer"], true);
    assert_eq!(
        preset["traffic"]["outboundIPRangeExclusionList"],
        json!(["10.0.0.0/8", "192.168.0.0/16"])
    );
    assert_eq!(
        preset["traffic"]["outboundPortExclusionList"],
        json!([6379, 7070])
    );
}

#[test]
fn inst_04_bad_values_are_refused_by_name() {
    for (set, message) in [
        ("foo", r#"invalid format for --set: key "foo" has no value"#),
        (
            "osm.enableEgres=false",
            "osm: Additional property enableEgres is not allowed",
        ),
        (
            "osm.enableEgress=no",
            "osm.enableEgress: Invalid type. Expected: boolean, given: string",
        ),
        (
            "osm.certificateProvider.kind=nope",
            "osm.certificateProvider.kind: \"nope\" must be one of the following: \"tresor\"",
        ),
        (
            "osm.meshName=Bad_Name!",
            "osm.meshName: \"Bad_Name!\" does not match pattern",
        ),
        (
            "osm.outboundPortExclusionList={0}",
            "osm.outboundPortExclusionList[0]: Must be greater than or equal to 1",
        ),
        (
            "osm.deployGrafana=true",
            "osm.deployGrafana: true must be one of the following: false (Not part of this chart)",
        ),
    ] {
        let error = render(&[set]).expect_err(set).to_string();
        assert!(error.contains(message), "{set}: {error}");
    }
}

#[test]
fn autoscaling_and_disruption_budgets_follow_what_the_cluster_serves() {
    let objects = render(&[
        "osm.injector.autoScale.enable=true",
        "osm.injector.enablePodDisruptionBudget=true",
    ])
    .unwrap();
    let version = |kind: &str| {
        objects
            .iter()
            .find(|object| object["kind"] == kind)
            .map(|object| object["apiVersion"].clone())
            .unwrap()
    };
    assert_eq!(version("PodDisruptionBudget"), "policy/v1");
    assert_eq!(version("HorizontalPodAutoscaler"), "autoscaling/v2beta2");
}
