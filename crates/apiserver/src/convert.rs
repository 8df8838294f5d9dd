//! One stored form, several served: custom kinds in other versions, and Events in both of their APIs.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, builtin};
use crate::schema::decode;

/// Field names of Events in core/v1 and events.k8s.io/v1.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn is_new_event(kind: &Kind) -> bool {
    kind.is("events.k8s.io", "events")
}

/// A stored object as served in a kind's version.
pub fn present(kind: &Kind, stored: &Arc<Value>) -> Arc<Value> {
    let wanted = kind.api_version();
    if stored.get("apiVersion").and_then(Value::as_str) == Some(wanted.as_str()) {
        return stored.clone();
    }
    let mut object = (**stored).clone();
    if is_new_event(kind)
        && let Some(map) = object.as_object_mut()
    {
        rename(map, EVENT_FIELDS.iter().copied());
    }
    object["apiVersion"] = json!(wanted);
    if kind.custom.is_some() {
        // Conversion strategy None: what the version asked for does not know is not shown.
        decode::structural(&mut object, &kind.schema, &builtin().definitions);
    }
    Arc::new(object)
}

/// An object as received, in the form it is stored in.
pub fn to_storage(kind: &Kind, object: &mut Value) {
    if is_new_event(kind) {
        if let Some(map) = object.as_object_mut() {
            rename(map, EVENT_FIELDS.iter().map(|(old, new)| (*new, *old)));
        }
        object["apiVersion"] = json!("v1");
    } else if let Some(custom) = &kind.custom {
        object["apiVersion"] = json!(crate::kinds::api_version(
            &kind.group,
            &custom.storage_version
        ));
    }
}

fn rename<'a>(map: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_the_same_through_both_apis() {
        let new = builtin().kinds.iter().find(|k| is_new_event(k)).unwrap();
        let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "p"}});
        let mut stored = sent.clone();
        to_storage(new, &mut stored);
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"name": "p"}})
        );
        assert_eq!(*present(new, &Arc::new(stored)), sent);
    }
}
