//! The sidecar's compute resources: MeshConfig's, refined by annotations of the namespace and then of the pod.

use std::collections::BTreeMap;

use api::labels::{SIDECAR_RESOURCE_LIMITS_PREFIX, SIDECAR_RESOURCE_REQUESTS_PREFIX};
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NAMES: [&str; 4] = ["cpu", "memory", "storage", "ephemeral-storage"];

type Annotations = Option<BTreeMap<String, String>>;

/// The resources; `None` if nobody asks for any.
pub(crate) fn resources(
    pod: &Pod,
    namespace: &Namespace,
    of_mesh: Option<&ResourceRequirements>,
) -> Option<ResourceRequirements> {
    let mut resources = of_mesh.cloned().unwrap_or_default();
    for annotations in [&namespace.metadata.annotations, &pod.metadata.annotations] {
        refine(
            &mut resources.limits,
            annotations,
            SIDECAR_RESOURCE_LIMITS_PREFIX,
        );
        refine(
            &mut resources.requests,
            annotations,
            SIDECAR_RESOURCE_REQUESTS_PREFIX,
        );
    }
    (resources != ResourceRequirements::default()).then_some(resources)
}

fn refine(
    resources: &mut Option<BTreeMap<String, Quantity>>,
    annotations: &Annotations,
    prefix: &str,
) {
    for name in NAMES {
        let value = annotations
            .as_ref()
            .and_then(|annotations| annotations.get(&format!("{prefix}{name}")));
        // Upstream ignores what is no quantity, so a typo there never stopped a pod.
        if let Some(value) = value
            .map(|value| value.trim())
            .filter(|value| is_quantity(value))
        {
            resources
                .get_or_insert_default()
                .insert(name.to_owned(), Quantity(value.to_owned()));
        }
    }
}

/// True for Kubernetes' notation of quantities: a decimal number, then an SI or binary suffix or an exponent.
fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits);
    let is_number = number.chars().any(|c| c.is_ascii_digit()) && number.matches('.').count() <= 1;
    let is_exponent = || {
        suffix
            .strip_prefix(['e', 'E'])
            .is_some_and(|exponent| exponent.parse::<i16>().is_ok())
    };
    let suffixes = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    is_number && (suffixes.contains(&suffix) || is_exponent())
}

#[cfg(test)]
mod tests {
    use super::is_quantity;

    #[test]
    fn quantities_are_told_from_other_text() {
        for good in ["1", "0.5", "500m", "128Mi", "1e3", "1E-3", "2G", ".5", "-1"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", "1 G", "1mb", "lots", "1.2.3", "1e", "."] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
