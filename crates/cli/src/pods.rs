//! Pods by the names that users type, and whether they are of a mesh.

use anyhow::{anyhow, bail};
use api::labels::PROXY_UUID;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use crate::cluster::{explain, is_absent};

/// A pod's name: `namespace/pod`, or `pod` in the default namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

// === impl PodName ===

impl std::str::FromStr for PodName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            bail!(
                "Pod name should be of the form <namespace/pod>, or <pod> for default namespace, got {text:?}"
            );
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The pod of a name.
pub async fn find(client: &Client, name: &PodName) -> anyhow::Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    pods.get(&name.name).await.map_err(|error| {
        if is_absent(&error) {
            anyhow!(
                "Could not find pod {} in namespace {}",
                name.name,
                name.namespace
            )
        } else {
            anyhow!("cannot read pod {name}: {}", explain(&error))
        }
    })
}

/// Was it given a sidecar?
pub fn is_meshed(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(PROXY_UUID))
}

/// Is it running?
pub fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_part_or_two() {
        for (text, parsed) in [
            ("curl", Some("default/curl")),
            ("shop/curl", Some("shop/curl")),
            ("", None),
            ("/curl", None),
            ("shop/", None),
            ("a/b/c", None),
        ] {
            let name = text.parse::<PodName>().ok().map(|name| name.to_string());
            assert_eq!(name.as_deref(), parsed, "{text}");
        }
    }
}
