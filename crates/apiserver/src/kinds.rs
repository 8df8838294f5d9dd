//! The table of built-in kinds and the catalogue of everything served, custom kinds included.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api as k8s;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use parking_lot::RwLock;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::crd::Custom;
use crate::schema::{Definitions, Schema};

/// One row: group, version, kind, plural, short names, namespaced, subresources, categories, schema.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    /// Beside the object itself: `status`, `scale`, and what the kind alone has.
    subresources: &'static [&'static str],
    categories: &'static [&'static str],
    schema: fn(&mut SchemaGenerator) -> schemars::Schema,
}

macro_rules! rows {
    ($( $group:literal $version:literal $kind:literal $plural:literal $short:expr, $namespaced:literal, $sub:expr, $categories:expr, $type:ty; )*) => {
        &[$( Row {
            group: $group, version: $version, kind: $kind, plural: $plural, short: &$short, namespaced: $namespaced,
            subresources: &$sub, categories: &$categories, schema: |g| g.subschema_for::<$type>(),
        }, )*]
    };
}

const ROWS: &[Row] = rows! {
    "" "v1" "Namespace" "namespaces" ["ns"], false, ["status", "finalize"], [], k8s::core::v1::Namespace;
    "" "v1" "Pod" "pods" ["po"], true, ["status", "log", "exec", "attach", "portforward", "proxy", "eviction", "binding", "ephemeralcontainers"], ["all"], k8s::core::v1::Pod;
    "" "v1" "Service" "services" ["svc"], true, ["status", "proxy"], ["all"], k8s::core::v1::Service;
    "" "v1" "Endpoints" "endpoints" ["ep"], true, [], [], k8s::core::v1::Endpoints;
    "" "v1" "ConfigMap" "configmaps" ["cm"], true, [], [], k8s::core::v1::ConfigMap;
    "" "v1" "Secret" "secrets" [], true, [], [], k8s::core::v1::Secret;
    "" "v1" "ServiceAccount" "serviceaccounts" ["sa"], true, ["token"], [], k8s::core::v1::ServiceAccount;
    "" "v1" "Node" "nodes" ["no"], false, ["status"], [], k8s::core::v1::Node;
    "" "v1" "Event" "events" ["ev"], true, [], [], k8s::core::v1::Event;
    "" "v1" "ResourceQuota" "resourcequotas" ["quota"], true, ["status"], [], k8s::core::v1::ResourceQuota;
    "" "v1" "LimitRange" "limitranges" ["limits"], true, [], [], k8s::core::v1::LimitRange;
    "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" ["pvc"], true, ["status"], [], k8s::core::v1::PersistentVolumeClaim;
    "events.k8s.io" "v1" "Event" "events" ["ev"], true, [], [], k8s::events::v1::Event;
    "apps" "v1" "Deployment" "deployments" ["deploy"], true, ["status", "scale"], ["all"], k8s::apps::v1::Deployment;
    "apps" "v1" "ReplicaSet" "replicasets" ["rs"], true, ["status", "scale"], ["all"], k8s::apps::v1::ReplicaSet;
    "apps" "v1" "StatefulSet" "statefulsets" ["sts"], true, ["status", "scale"], ["all"], k8s::apps::v1::StatefulSet;
    "apps" "v1" "DaemonSet" "daemonsets" ["ds"], true, ["status"], ["all"], k8s::apps::v1::DaemonSet;
    "apps" "v1" "ControllerRevision" "controllerrevisions" [], true, [], [], k8s::apps::v1::ControllerRevision;
    "batch" "v1" "Job" "jobs" [], true, ["status"], ["all"], k8s::batch::v1::Job;
    "batch" "v1" "CronJob" "cronjobs" ["cj"], true, ["status"], ["all"], k8s::batch::v1::CronJob;
    "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" [], true, [], [], k8s::discovery::v1::EndpointSlice;
    "coordination.k8s.io" "v1" "Lease" "leases" [], true, [], [], k8s::coordination::v1::Lease;
    "rbac.authorization.k8s.io" "v1" "Role" "roles" [], true, [], [], k8s::rbac::v1::Role;
    "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" [], true, [], [], k8s::rbac::v1::RoleBinding;
    "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" [], false, [], [], k8s::rbac::v1::ClusterRole;
    "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" [], false, [], [], k8s::rbac::v1::ClusterRoleBinding;
    "networking.k8s.io" "v1" "Ingress" "ingresses" ["ing"], true, ["status"], [], k8s::networking::v1::Ingress;
    "networking.k8s.io" "v1" "IngressClass" "ingressclasses" [], false, [], [], k8s::networking::v1::IngressClass;
    "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" ["netpol"], true, [], [], k8s::networking::v1::NetworkPolicy;
    "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" ["pdb"], true, ["status"], [], k8s::policy::v1::PodDisruptionBudget;
    "autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" ["hpa"], true, ["status"], ["all"], k8s::autoscaling::v2::HorizontalPodAutoscaler;
    "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" ["pc"], false, [], [], k8s::scheduling::v1::PriorityClass;
    "admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" [], false, [], ["api-extensions"], k8s::admissionregistration::v1::MutatingWebhookConfiguration;
    "admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" [], false, [], ["api-extensions"], k8s::admissionregistration::v1::ValidatingWebhookConfiguration;
    "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" ["crd", "crds"], false, ["status"], ["api-extensions"], CustomResourceDefinition;
};

/// The scale of a kind, as JSON paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `.spec.replicas`.
    pub spec: String,
    /// `.status.replicas`.
    pub status: String,
    /// `.status.selector`, if the kind says.
    pub selector: Option<String>,
}

/// A kind in one version, as served.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Resource name.
    pub plural: String,
    /// Resource name for one.
    pub singular: String,
    /// Short names.
    pub short: Vec<String>,
    /// Categories (`all`).
    pub categories: Vec<String>,
    /// In a namespace or in the cluster.
    pub namespaced: bool,
    /// Subresources.
    pub subresources: Vec<String>,
    /// The scale subresource of a custom kind.
    pub scale: Option<Scale>,
    /// How objects look.
    pub schema: Schema,
    /// Where objects are stored; versions of a kind share it.
    pub storage: Arc<str>,
    /// What only custom kinds have.
    pub custom: Option<Arc<Custom>>,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether a subresource exists.
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s == subresource)
    }

    /// Whether this is a given built-in resource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.custom.is_none() && self.group == group && self.plural == plural
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The storage name of a resource.
pub fn storage_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{group}/{plural}")
    }
}

/// Everything compiled in.
pub struct Builtin {
    /// The kinds, in table order.
    pub kinds: Vec<Arc<Kind>>,
    /// Their types, compiled.
    pub definitions: Definitions,
    /// Their types, as OpenAPI v3 documents.
    pub documents: Map<String, Value>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let settings =
        SchemaSettings::draft07().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let kinds = ROWS
        .iter()
        .map(|row| Arc::new(builtin_kind(row, &(row.schema)(&mut generator))))
        .collect();
    let mut documents = generator.take_definitions(false);
    for document in documents.values_mut() {
        wrap_references(document);
    }
    Builtin {
        kinds,
        definitions: Definitions::compile(&documents),
        documents,
    }
});

/// The built-in kinds; generated at first use.
pub fn builtin() -> &'static Builtin {
    &BUILTIN
}

/// A schema that refers to a named built-in type.
pub fn schema_of(type_name: &str) -> Schema {
    Schema {
        reference: Some(Arc::from(type_name)),
        ..Schema::default()
    }
}

fn builtin_kind(row: &Row, reference: &schemars::Schema) -> Kind {
    let type_name = reference
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.rsplit('/').next())
        .unwrap_or_default();
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    // Both Event APIs are views of one store.
    let group = if row.group == "events.k8s.io" {
        ""
    } else {
        row.group
    };
    Kind {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        short: owned(row.short),
        categories: owned(row.categories),
        namespaced: row.namespaced,
        subresources: owned(row.subresources),
        scale: row.subresources.contains(&"scale").then(|| Scale {
            spec: ".spec.replicas".to_owned(),
            status: ".status.replicas".to_owned(),
            selector: None,
        }),
        schema: schema_of(type_name),
        storage: Arc::from(storage_name(group, row.plural)),
        custom: None,
    }
}

/// OpenAPI 3.0 forbids siblings of `$ref`: they are wrapped in `allOf`, as Kubernetes publishes them.
fn wrap_references(document: &mut Value) {
    match document {
        Value::Object(map) => {
            if map.len() > 1 && map.get("$ref").is_some_and(Value::is_string) {
                let reference = map.remove("$ref").unwrap_or_default();
                map.insert(
                    "allOf".to_owned(),
                    serde_json::json!([{ "$ref": reference }]),
                );
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

/// All kinds served now.
#[derive(Default)]
pub struct Catalogue {
    kinds: BTreeMap<(String, String, String), Arc<Kind>>,
}

impl Catalogue {
    /// The built-in kinds and the given custom ones.
    pub fn new(custom: Vec<Kind>) -> Self {
        let kinds = builtin()
            .kinds
            .iter()
            .cloned()
            .chain(custom.into_iter().map(Arc::new));
        Self {
            kinds: kinds
                .map(|k| ((k.group.clone(), k.version.clone(), k.plural.clone()), k))
                .collect(),
        }
    }

    /// By group, version and plural.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// Whether the group is served in that version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        let first = (group.to_owned(), version.to_owned(), String::new());
        self.kinds
            .range(first..)
            .next()
            .is_some_and(|((g, v, _), _)| g == group && v == version)
    }

    /// All, sorted by group, version, plural.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }
}

/// The present catalogue, replaced as a whole when CRDs change.
#[derive(Default)]
pub struct Registry {
    current: RwLock<Arc<Catalogue>>,
}

impl Registry {
    /// The present catalogue.
    pub fn now(&self) -> Arc<Catalogue> {
        self.current.read().clone()
    }

    /// Replaces it.
    pub fn set(&self, catalogue: Catalogue) {
        *self.current.write() = Arc::new(catalogue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_compiled_schema_with_metadata() {
        for kind in &builtin().kinds {
            let schema = builtin().definitions.resolve(&kind.schema);
            assert!(schema.properties.contains_key("metadata"), "{}", kind.kind);
        }
    }

    #[test]
    fn no_reference_has_siblings() {
        fn walk(value: &Value) {
            match value {
                Value::Object(map) => {
                    assert!(!map.get("$ref").is_some_and(Value::is_string) || map.len() == 1);
                    map.values().for_each(walk);
                }
                Value::Array(items) => items.iter().for_each(walk),
                _ => {}
            }
        }
        builtin().documents.values().for_each(walk);
    }
}
