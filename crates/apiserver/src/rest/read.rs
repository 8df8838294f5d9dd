//! GET: objects, lists, watches, in the form the client asks for (whole objects, tables, metadata only).

use std::sync::Arc;

use base64::Engine;
use http::StatusCode;
use serde_json::{Value, json};

use super::Target;
use crate::convert;
use crate::object;
use crate::request::{self, Answer, Call};
use crate::selectors::{FieldSelector, LabelSelector};
use crate::status::{Cause, Failure, Outcome};
use crate::table::Shape;
use crate::watch;

/// The form of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whole objects.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// PartialObjectMetadata.
    Metadata,
}

/// What the Accept header asks for, the first offer that can be served.
pub fn form(call: &Call) -> Form {
    for offer in call.header(http::header::ACCEPT).split(',') {
        let mut parts = offer.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        if !matches!(
            media_type,
            "application/json" | "*/*" | "application/*" | "application/yaml"
        ) {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        let version = parameters.iter().find_map(|p| p.strip_prefix("v="));
        match parameters.iter().find_map(|p| p.strip_prefix("as=")) {
            Some("Table") if version == Some("v1") => return Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList")
                if version == Some("v1") =>
            {
                return Form::Metadata;
            }
            Some(_) => {}
            None => return Form::Object,
        }
    }
    Form::Object
}

/// Refuses a client that takes none of the forms there are; streams of bytes and proxied answers have their own.
pub fn acceptable(call: &Call, subresource: &str) -> Outcome<()> {
    if matches!(
        subresource,
        "log" | "exec" | "attach" | "portforward" | "proxy"
    ) {
        return Ok(());
    }
    let accept = call.header(http::header::ACCEPT);
    let media_types = accept
        .split(',')
        .map(|o| o.split(';').next().unwrap_or_default().trim());
    let known = [
        "",
        "application/json",
        "*/*",
        "application/*",
        "application/yaml",
    ];
    if media_types.into_iter().any(|m| known.contains(&m)) {
        return Ok(());
    }
    let message = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    Err(Failure::new(406, "NotAcceptable", message))
}

/// How tables and rows are to be made.
pub fn shape(target: &Target, call: &Call) -> Shape {
    let include = call
        .query
        .get("includeObject")
        .unwrap_or("Metadata")
        .to_owned();
    Shape::new(target.kind.clone(), include)
}

/// Only the metadata of an object.
pub fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A stored object as an answer.
pub fn present(target: &Target, call: &Call, status: StatusCode, stored: &Arc<Value>) -> Answer {
    let object = convert::present(&target.kind, stored);
    let value = match form(call) {
        Form::Object => return request::json(status, &object),
        Form::Metadata => metadata_only(&object),
        Form::Table => {
            let mut table = shape(target, call).table(std::slice::from_ref(&object));
            table["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            table
        }
    };
    request::json(status, &value)
}

/// Answers GET of one object.
pub fn object(target: &Target, call: &Call) -> Outcome<Answer> {
    let (stored, _) = target
        .server
        .store
        .get(&target.key())
        .ok_or_else(|| target.not_found())?;
    Ok(present(target, call, StatusCode::OK, &stored))
}

/// The selectors of a request.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// From the query.
    pub fn parse(target: &Target, call: &Call) -> Outcome<Self> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or_default())?;
        let fields = call.query.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(fields, &target.kind.plural, &target.kind.group)?;
        Ok(Self { labels, fields })
    }

    /// Only one object.
    pub fn named(name: &str) -> Self {
        let fields =
            FieldSelector::parse(&format!("metadata.name={name}"), "", "").unwrap_or_default();
        Self {
            labels: LabelSelector::default(),
            fields,
        }
    }

    /// Whether an object passes.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object.pointer("/metadata/labels")) && self.fields.matches(object)
    }
}

fn scope(target: &Target) -> Option<&str> {
    (target.kind.namespaced && !target.namespace.is_empty()).then_some(target.namespace.as_str())
}

/// All stored objects that a collection request names.
pub fn selected(target: &Target, call: &Call) -> Outcome<Vec<Arc<Value>>> {
    let filter = Filter::parse(target, call)?;
    let (objects, _) = target
        .server
        .store
        .list(&target.kind.storage, scope(target));
    Ok(objects.into_iter().filter(|o| filter.matches(o)).collect())
}

/// Answers GET of a collection: a list or a watch.
pub fn collection(target: &Target, call: &Call) -> Outcome<Answer> {
    let filter = Filter::parse(target, call)?;
    if call.query.flag("watch") {
        return watch::start(target, call, scope(target), filter);
    }
    list(target, call, &filter)
}

/// Answers a watch of one object by its path.
pub fn watch_one(target: &Target, call: &Call) -> Outcome<Answer> {
    watch::start(target, call, scope(target), Filter::named(&target.name))
}

/// Refuses a revision that has not happened.
pub fn check_revision(target: &Target, text: &str) -> Outcome<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let wanted: u64 = text.parse().map_err(|_| {
        let cause = Cause::invalid(
            "resourceVersion",
            &json!(text),
            "strconv.ParseUint: parsing: invalid syntax",
        );
        Failure::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
    })?;
    let now = target.server.store.revision();
    if wanted > now {
        let message = format!("Too large resource version: {wanted}, current: {now}");
        let mut failure = Failure::new(504, "Timeout", format!("Timeout: {message}"));
        failure.causes.push(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        });
        failure.retry_after = Some(1);
        return Err(failure);
    }
    Ok(Some(wanted))
}

fn list(target: &Target, call: &Call, filter: &Filter) -> Outcome<Answer> {
    check_revision(
        target,
        call.query.get("resourceVersion").unwrap_or_default(),
    )?;
    let (objects, revision) = target
        .server
        .store
        .list(&target.kind.storage, scope(target));
    let (start, revision) = match call.query.get("continue").filter(|c| !c.is_empty()) {
        None => (None, revision),
        Some(token) => {
            let token = Continue::parse(token)?;
            (Some((token.namespace, token.name)), token.revision)
        }
    };
    let position = |o: &Value| (object::namespace(o).to_owned(), object::name(o).to_owned());
    let mut matching = objects
        .into_iter()
        .filter(|o| start.as_ref().is_none_or(|s| position(o) > *s))
        .filter(|o| filter.matches(o));
    let limit = call
        .query
        .number("limit")?
        .and_then(|l| usize::try_from(l).ok())
        .filter(|l| *l > 0);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let page: Vec<Arc<Value>> = match limit {
        None => matching.collect(),
        Some(limit) => {
            let page: Vec<_> = matching.by_ref().take(limit).collect();
            let remaining = matching.count();
            if let Some(last) = page.last().filter(|_| remaining > 0) {
                let (namespace, name) = position(last);
                metadata["continue"] = json!(
                    Continue {
                        revision,
                        namespace,
                        name
                    }
                    .encode()
                );
                metadata["remainingItemCount"] = json!(remaining);
            }
            page
        }
    };
    let page: Vec<Arc<Value>> = page
        .iter()
        .map(|o| convert::present(&target.kind, o))
        .collect();
    Ok(request::json(
        StatusCode::OK,
        &render(target, call, &page, &metadata),
    ))
}

fn render(target: &Target, call: &Call, page: &[Arc<Value>], metadata: &Value) -> Value {
    match form(call) {
        Form::Table => {
            let mut table = shape(target, call).table(page);
            table["metadata"] = metadata.clone();
            table
        }
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": page.iter().map(|o| metadata_only(o)).collect::<Vec<_>>(),
        }),
        Form::Object => json!({
            "kind": target.kind.list_kind, "apiVersion": target.kind.api_version(), "metadata": metadata,
            "items": page.iter().map(|o| item(target, o)).collect::<Vec<_>>(),
        }),
    }
}

/// Built-in kinds leave kind and version out of lists' items.
fn item(target: &Target, object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(map) = item
        .as_object_mut()
        .filter(|_| target.kind.custom.is_none())
    {
        map.remove("apiVersion");
        map.remove("kind");
    }
    item
}

/// A continue token. It names a position, not a snapshot: what changed since the first page is seen, and the list's
/// revision stays that of the first page so that a watch from there misses nothing.
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        let text = json!([self.revision, self.namespace, self.name]).to_string();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    }

    fn parse(text: &str) -> Outcome<Self> {
        let fail = || Failure::bad_request("continue key is not valid: illegal continue token");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| fail())?;
        let (revision, namespace, name) = serde_json::from_slice(&bytes).map_err(|_| fail())?;
        Ok(Self {
            revision,
            namespace,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_and_garbage_does_not() {
        let token = Continue {
            revision: 7,
            namespace: "a".into(),
            name: "b".into(),
        }
        .encode();
        let parsed = Continue::parse(&token).unwrap();
        assert_eq!(
            (
                parsed.revision,
                parsed.namespace.as_str(),
                parsed.name.as_str()
            ),
            (7, "a", "b")
        );
        assert!(Continue::parse("!!").is_err());
    }
}
