use super::*;

#[test]
fn definitions_are_the_golden_ones() {
    insta::assert_json_snapshot!("crds", definitions());
}

#[test]
fn every_definition_is_structural() {
    for definition in definitions() {
        let name = definition["metadata"]["name"]
            .as_str()
            .expect("name")
            .to_owned();
        for version in definition["spec"]["versions"].as_array().expect("versions") {
            check(&name, &version["schema"]["openAPIV3Schema"]);
        }
    }
}

/// What the API server demands of every node, and what schemars likes to leave behind.
fn check(path: &str, schema: &Value) {
    let object = schema
        .as_object()
        .unwrap_or_else(|| panic!("{path} is no object"));
    let free = object.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    assert!(object.contains_key("type") || free, "{path} has no type");
    for key in object.keys() {
        let known = [
            "type",
            "properties",
            "items",
            "required",
            "enum",
            "minimum",
            "maximum",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "pattern",
            "description",
            "default",
            "oneOf",
            "additionalProperties",
            "x-kubernetes-preserve-unknown-fields",
        ];
        assert!(known.contains(&key.as_str()), "{path} has {key}");
    }
    for (name, inner) in object
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        check(&format!("{path}.{name}"), inner);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get(key) {
            check(&format!("{path}[]"), inner);
        }
    }
}

#[test]
fn only_wanted_defaults_survive() {
    let schema = config::v1alpha2::MeshConfig::schema_of_spec();
    let sidecar = &schema["properties"]["sidecar"]["properties"];
    assert_eq!(sidecar["tlsMinProtocolVersion"]["default"], "TLSv1_2");
    assert_eq!(sidecar["localProxyMode"]["default"], "Localhost");
    assert!(sidecar["logLevel"].get("default").is_none());
    assert!(schema.get("required").is_none());
}

#[test]
fn v1alpha1_mesh_config_lacks_newer_fields() {
    let all = crds();
    let mesh_config = all
        .iter()
        .find(|crd| crd.spec.names.kind == "MeshConfig")
        .expect("MeshConfig");
    let old = mesh_config
        .spec
        .versions
        .iter()
        .find(|version| version.name == "v1alpha1")
        .expect("v1alpha1");
    assert_eq!(old.deprecated, Some(true));
    let text = serde_json::to_string(&old.schema).expect("schema");
    assert!(!text.contains("localProxyMode") && text.contains("enableEgress"));
}

#[test]
fn an_object_without_spec_decodes() {
    let text = json!({ "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress", "metadata": { "name": "e" } });
    let egress: policy::v1alpha1::Egress = serde_json::from_value(text).expect("decodes");
    assert_eq!(egress.spec, Default::default());
}

#[test]
fn objects_carry_their_type_when_written() {
    let group = specs::v1alpha4::HTTPRouteGroup::new("g", Default::default());
    let written = serde_json::to_value(&group).expect("json");
    assert_eq!(written["apiVersion"], "specs.smi-spec.io/v1alpha4");
    assert_eq!(written["kind"], "HTTPRouteGroup");
    assert_eq!(
        serde_json::from_value::<specs::v1alpha4::HTTPRouteGroup>(written).expect("reads"),
        group
    );
}
