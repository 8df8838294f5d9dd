//! `kind!`: a custom resource from its spec type.
//!
//! Why not kube's derive: upstream's schemas require neither `spec` nor reject an object without one, and with the
//! derive such an object does not decode, which stops the watch of its whole kind.

/// Declares the object around a spec (and a status, if the kind has one) and implements [`kube::Resource`] for it.
macro_rules! kind {
    ($(#[$meta:meta])* $kind:ident: $spec:ident $(, status: $status:ident)?;
     group: $group:literal, version: $version:literal, plural: $plural:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $kind {
            /// Standard metadata.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What the user asks for; all defaults if the object has none.
            #[serde(default)]
            pub spec: $spec,
            $(
                /// What the control plane made of it.
                #[serde(default)]
                pub status: Option<$status>,
            )?
        }

        impl $kind {
            /// An object with a name and a spec.
            pub fn new(name: &str, spec: $spec) -> Self {
                let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                    name: Some(name.to_owned()),
                    ..Default::default()
                };
                Self { metadata, spec, $(status: None::<$status>)? }
            }

            pub(crate) fn schema_of_spec() -> serde_json::Value {
                crate::crd::schema_of::<$spec>()
            }
        }

        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let mut object = serializer.serialize_struct(stringify!($kind), 5)?;
                object.serialize_field("apiVersion", concat!($group, "/", $version))?;
                object.serialize_field("kind", stringify!($kind))?;
                object.serialize_field("metadata", &self.metadata)?;
                object.serialize_field("spec", &self.spec)?;
                $(
                    let status: &Option<$status> = &self.status;
                    if let Some(status) = status {
                        object.serialize_field("status", status)?;
                    }
                )?
                object.end()
            }
        }
    };
}

pub(crate) use kind;
