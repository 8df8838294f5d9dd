//! What informers watch: objects that may not decode without stopping the watch of their kind.

use std::borrow::Cow;
use std::fmt::Debug;

use families::{Kind, Object};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::inform::Change;

/// An object an informer can turn into a change.
pub(crate) trait Watched: Resource<DynamicType = ()> {
    /// The change that the object, as it is now, means.
    fn into_change(self, kind: Kind) -> Change;
}

/// An object of a kind that is defined by a CRD. Objects from before the definition was as strict as
/// today's may not decode; they count as absent, so that they grant nothing, and are logged.
#[derive(Clone, Debug)]
pub(crate) struct Lenient<K> {
    metadata: ObjectMeta,
    object: Result<K, String>,
}

// === impl Lenient ===

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        let metadata = serde_json::from_value(metadata).map_err(D::Error::custom)?;
        let object = serde_json::from_value(value).map_err(|error| error.to_string());
        Ok(Self { metadata, object })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<K> Watched for Lenient<K>
where
    K: Resource<DynamicType = ()>,
    Object: From<K>,
{
    fn into_change(self, kind: Kind) -> Change {
        match self.object {
            Ok(object) => Change::Apply(object.into()),
            Err(error) => {
                let (namespace, name) = (
                    self.metadata.namespace.unwrap_or_default(),
                    self.metadata.name.unwrap_or_default(),
                );
                if kind == Kind::MeshConfig {
                    tracing::error!(
                        error,
                        "MeshConfig {namespace}/{name} cannot be read, the last one stays"
                    );
                } else {
                    tracing::warn!(
                        error,
                        "{} {namespace}/{name} cannot be read, ignoring it",
                        K::kind(&())
                    );
                }
                Change::Unreadable(kind, namespace, name, error)
            }
        }
    }
}

macro_rules! watched {
    ($($kind:ty),*) => {
        $(impl Watched for $kind {
            fn into_change(self, _: Kind) -> Change {
                Change::Apply(self.into())
            }
        })*
    };
}

watched!(Namespace, Pod, Service, Endpoints);

#[cfg(test)]
mod tests {
    use api::access::v1alpha3::TrafficTarget;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_does_not_decode_counts_as_absent() {
        let good = json!({
            "metadata": { "name": "t", "namespace": "n" },
            "spec": { "destination": { "kind": "ServiceAccount", "name": "a", "namespace": "n" }, "rules": [], "sources": [] },
        });
        let mut bad = good.clone();
        bad["spec"]["sources"] = json!("not a list");
        for (object, applied) in [(good, true), (bad, false)] {
            let read: Lenient<TrafficTarget> = serde_json::from_value(object).unwrap();
            assert_eq!(read.meta().name.as_deref(), Some("t"));
            match read.into_change(Kind::TrafficTarget) {
                Change::Apply(_) => assert!(applied),
                Change::Unreadable(Kind::TrafficTarget, namespace, name, why) => {
                    assert!(!applied && why.contains("invalid type"), "{why}");
                    assert_eq!((namespace.as_str(), name.as_str()), ("n", "t"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
