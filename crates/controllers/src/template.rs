//! Pod templates: when two mean the same pods, and the hash that names a ReplicaSet

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label by which pods of one template are told from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Whether both templates make the same pods; the hash label does not count.
pub(crate) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    comparable(a) == comparable(b)
}

/// The hash of a template; `collisions` makes another one where a name is taken by another template.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut hash = fnv1a(comparable(template).to_string().as_bytes(), FNV_OFFSET);
    if collisions > 0 {
        hash = fnv1a(&collisions.to_le_bytes(), hash);
    }
    safe(&hash.to_string())
}

/// Characters without vowels and look-alikes, so that no word comes out; Kubernetes' own alphabet.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Rewrites any text by [`SAFE`] characters.
pub(crate) fn safe(text: &str) -> String {
    text.bytes()
        .filter_map(|byte| {
            SAFE.get(usize::from(byte) % SAFE.len())
                .copied()
                .map(char::from)
        })
        .collect()
}

const FNV_OFFSET: u32 = 2_166_136_261;

/// FNV-1a, 32 bit: not for secrets, only to tell templates apart.
pub(crate) fn fnv1a(bytes: &[u8], seed: u32) -> u32 {
    bytes.iter().fold(seed, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(16_777_619)
    })
}

/// A short stable text for a name made from several parts.
pub(crate) fn suffix(parts: &[&str]) -> String {
    safe(&format!(
        "{:08x}",
        fnv1a(parts.join("\0").as_bytes(), FNV_OFFSET)
    ))
}

fn comparable(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    // A template is made of maps, lists and scalars only, so it always has a JSON form.
    let mut value = serde_json::to_value(template).unwrap_or_default();
    strip(&mut value);
    value
}

/// An absent list, an empty one and null mean the same to Kubernetes; so do absent and empty metadata.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(strip);
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => {
                    !map.is_empty()
                        || !matches!(key.as_str(), "metadata" | "labels" | "annotations")
                }
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_label_and_empty_lists_make_no_difference_but_an_image_does() {
        let base = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
        let cases = [
            (
                json!({"metadata": {"labels": {"app": "web", "pod-template-hash": "x"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}),
                true,
            ),
            (
                json!({"metadata": {"labels": {"app": "web"}, "annotations": {}}, "spec": {"volumes": [], "containers": [{"name": "c", "image": "a", "env": []}]}}),
                true,
            ),
            (
                json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "b"}]}}),
                false,
            ),
            (
                json!({"metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}),
                false,
            ),
        ];
        for (other, wanted) in cases {
            let (a, b) = (template(base.clone()), template(other.clone()));
            assert_eq!(same(&a, &b), wanted, "{other}");
            assert_eq!(hash(&a, 0) == hash(&b, 0), wanted, "{other}");
        }
    }

    #[test]
    fn a_collision_gives_another_hash_of_safe_characters() {
        let template =
            template(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}));
        assert_ne!(hash(&template, 0), hash(&template, 1));
        assert!(hash(&template, 0).bytes().all(|byte| SAFE.contains(&byte)));
    }
}
