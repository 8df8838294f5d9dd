//! The CustomResourceDefinitions: schemas derived from the Rust types, made structural for `apiextensions.k8s.io/v1`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{access, config, labels, policy, specs, split};

/// Every definition that the mesh needs, with all their versions, in a fixed order.
pub fn crds() -> Vec<CustomResourceDefinition> {
    definitions()
        .into_iter()
        .map(|definition| {
            serde_json::from_value(definition).expect("a definition built here has the right shape")
        })
        .collect()
}

fn definitions() -> Vec<Value> {
    use config::v1alpha2::MeshConfig;
    use policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};

    let mesh_config = MeshConfig::schema_of_spec();
    let status_column =
        json!([{ "name": "Status", "type": "string", "jsonPath": ".status.currentStatus" }]);
    let service_columns = json!([
        {
            "name": "Service", "type": "string", "jsonPath": ".spec.service",
            "description": "The apex service of this split."
        },
        { "name": "Status", "type": "string", "jsonPath": ".status.currentStatus" },
    ]);
    // Upstream gives a status to some kinds only; with one on each, every author is told what became of an object.
    let stored = |name: &str, spec: Value| Version::stored(name, spec).status();
    let told = |name: &str, spec: Value| stored(name, spec).columns(&status_column);
    vec![
        Definition::of::<MeshConfig>("meshconfig")
            .version(stored("v1alpha2", mesh_config.clone()))
            .version(
                Version::served(
                    "v1alpha1",
                    without(mesh_config, config::v1alpha2::NOT_IN_V1ALPHA1),
                )
                .status()
                .deprecated(
                    "config.openservicemesh.io/v1alpha1 MeshConfig is deprecated; \
                     use config.openservicemesh.io/v1alpha2 MeshConfig",
                ),
            )
            .build(),
        Definition::of::<Egress>("egress")
            .version(told("v1alpha1", Egress::schema_of_spec()))
            .build(),
        Definition::of::<IngressBackend>("ingressbackend")
            .version(told("v1alpha1", IngressBackend::schema_of_spec()))
            .build(),
        Definition::of::<Retry>("retry")
            .version(told("v1alpha1", Retry::schema_of_spec()))
            .build(),
        Definition::of::<UpstreamTrafficSetting>("upstreamtrafficsetting")
            .version(told("v1alpha1", UpstreamTrafficSetting::schema_of_spec()))
            .build(),
        Definition::of::<specs::v1alpha4::HTTPRouteGroup>("htr")
            .version(told(
                "v1alpha4",
                specs::v1alpha4::HTTPRouteGroup::schema_of_spec(),
            ))
            .retired(&["v1alpha3", "v1alpha2", "v1alpha1"])
            .build(),
        Definition::of::<specs::v1alpha4::TCPRoute>("tr")
            .version(told(
                "v1alpha4",
                specs::v1alpha4::TCPRoute::schema_of_spec(),
            ))
            .retired(&["v1alpha3", "v1alpha2", "v1alpha1"])
            .build(),
        Definition::of::<access::v1alpha3::TrafficTarget>("tt")
            .version(told(
                "v1alpha3",
                access::v1alpha3::TrafficTarget::schema_of_spec(),
            ))
            .retired(&["v1alpha2", "v1alpha1"])
            .build(),
        Definition::of::<split::v1alpha4::TrafficSplit>("ts")
            .version(
                stored("v1alpha4", split::v1alpha4::TrafficSplit::schema_of_spec())
                    .columns(&service_columns),
            )
            .version(
                Version::served("v1alpha2", split::v1alpha2::TrafficSplit::schema_of_spec())
                    .status()
                    .columns(&service_columns),
            )
            .retired(&["v1alpha3"])
            .build(),
    ]
}

/// One definition under construction.
struct Definition {
    group: String,
    kind: String,
    plural: String,
    short: &'static str,
    versions: Vec<Value>,
}

/// One version of a definition.
struct Version(Value);

// === impl Definition ===

impl Definition {
    fn of<K: Resource<DynamicType = ()>>(short: &'static str) -> Self {
        Self {
            group: K::group(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            short,
            versions: Vec::new(),
        }
    }

    fn version(mut self, version: Version) -> Self {
        self.versions.push(version.0);
        self
    }

    /// Versions that nobody can use any more, but that a cluster's `status.storedVersions` may still name: an update
    /// of the definition without them would be refused.
    fn retired(mut self, names: &[&str]) -> Self {
        self.versions.extend(names.iter().map(|name| {
            json!({
                "name": name, "served": false, "storage": false,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } }
            })
        }));
        self
    }

    fn build(self) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{}.{}", self.plural, self.group),
                "labels": { (labels::APP_NAME): labels::APP_NAME_VALUE }
            },
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "singular": self.kind.to_lowercase(),
                    "plural": self.plural,
                    "shortNames": [self.short]
                },
                "conversion": { "strategy": "None" },
                "versions": self.versions
            }
        })
    }
}

// === impl Version ===

impl Version {
    fn stored(name: &str, spec: Value) -> Self {
        Self::new(name, true, spec)
    }

    fn served(name: &str, spec: Value) -> Self {
        Self::new(name, false, spec)
    }

    fn new(name: &str, storage: bool, spec: Value) -> Self {
        Self(json!({
            "name": name, "served": true, "storage": storage,
            "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } }
        }))
    }

    fn status(mut self) -> Self {
        self.0["subresources"] = json!({ "status": {} });
        self.0["schema"]["openAPIV3Schema"]["properties"]["status"] =
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        self
    }

    fn columns(mut self, columns: &Value) -> Self {
        self.0["additionalPrinterColumns"] = columns.clone();
        self
    }

    fn deprecated(mut self, warning: &str) -> Self {
        self.0["deprecated"] = json!(true);
        self.0["deprecationWarning"] = json!(warning);
        self
    }
}

/// The structural schema of a type.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    make_structural(&mut schema);
    schema
}

/// Rewrites what schemars writes and Kubernetes refuses or reads otherwise:
/// `format: uint16` and its like are unknown; `nullable` would accept what upstream refuses; `default` comes from serde
/// and would make the server write fields that nobody set (the wanted ones are marked [`DEFAULT`]); an optional
/// struct is an `anyOf` with null; bounds of Rust's integer types say nothing that users should see.
fn make_structural(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(options) = object.remove("anyOf") {
        let inner = options
            .as_array()
            .into_iter()
            .flatten()
            .find(|option| option.get("type").is_some_and(is_not_null));
        for (key, value) in inner.and_then(Value::as_object).into_iter().flatten() {
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    for key in ["title", "nullable", "format", "default", "$schema"] {
        object.remove(key);
    }
    if let Some(value) = object.remove(DEFAULT) {
        object.insert("default".into(), value);
    }
    if object
        .get("maximum")
        .and_then(Value::as_f64)
        .is_some_and(|bound| bound > MAX_PORT)
    {
        object.remove("maximum");
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(make_structural);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            make_structural(inner);
        }
    }
}

fn is_not_null(kind: &Value) -> bool {
    kind != "null"
}

/// Bounds above this come from a Rust type, never from a rule of a kind.
const MAX_PORT: f64 = 65535.0;

/// Marks a default that the API server shall apply.
pub(crate) const DEFAULT: &str = "x-default";

/// The schema without some fields, each named by its path.
fn without(mut schema: Value, paths: &[[&str; 2]]) -> Value {
    for [parent, field] in paths {
        let properties = &mut schema["properties"][*parent]["properties"];
        if let Some(properties) = properties.as_object_mut() {
            properties.remove(*field);
        }
    }
    schema
}

#[cfg(test)]
mod tests;
