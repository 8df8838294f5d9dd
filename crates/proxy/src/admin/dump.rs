//! `/config_dump` in Envoy's shape. Key material reads `[redacted]`.

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xds::client::{Any, Entry, Kind};

use super::{Admin, Answer, Query, json as answer_json, text};
use crate::config::Resource;

const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";

impl Admin {
    pub(super) fn config_dump(&self, query: &Query<'_>) -> Answer {
        let mut configs = Vec::new();
        configs.extend(self.bootstrap());
        for kind in [
            Kind::Cluster,
            Kind::Listener,
            Kind::Routes,
            Kind::Secret,
            Kind::Endpoints,
        ] {
            // As Envoy: endpoints are many and change often, so they are shown only to those who ask.
            if kind != Kind::Endpoints || query.has("include_eds") {
                configs.push(self.section(kind));
            }
        }
        configs.push(self.ignored());
        if let Some(name) = query.value("name_regex") {
            match regex::Regex::new(&name) {
                Ok(pattern) => configs
                    .iter_mut()
                    .for_each(|config| retain(config, &pattern)),
                Err(error) => {
                    return text(
                        http::StatusCode::BAD_REQUEST,
                        &format!("name_regex: {error}\n"),
                    );
                }
            }
        }
        let configs = match query.value("resource") {
            None => configs,
            Some(field) => {
                let lists = configs.iter().filter_map(|config| config.get(&*field));
                match lists.clone().next() {
                    None => {
                        return text(
                            http::StatusCode::NOT_FOUND,
                            &format!("{field} not found in config dump\n"),
                        );
                    }
                    Some(_) => lists
                        .flat_map(|list| {
                            list.as_array()
                                .cloned()
                                .unwrap_or_else(|| vec![list.clone()])
                        })
                        .collect(),
                }
            }
        };
        let configs = match query.value("mask") {
            None => configs,
            Some(mask) => configs.iter().map(|config| masked(config, &mask)).collect(),
        };
        answer_json(&json!({ "configs": configs }))
    }

    fn bootstrap(&self) -> Option<Json> {
        let bootstrap = self.settings.bootstrap.as_ref()?;
        let any = Any {
            type_url: "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap".to_owned(),
            value: bootstrap.bytes.clone(),
        };
        Some(json!({
            "@type": format!("{PREFIX}BootstrapConfigDump"),
            "bootstrap": schema::redacted(&any).unwrap_or_default(),
            "last_updated": stamp(self.shared.started),
        }))
    }

    /// One kind of resources.
    fn section(&self, kind: Kind) -> Json {
        let (message, fixed, dynamic) = match kind {
            Kind::Cluster => (
                "ClustersConfigDump",
                "static_clusters",
                "dynamic_active_clusters",
            ),
            Kind::Listener => (
                "ListenersConfigDump",
                "static_listeners",
                "dynamic_listeners",
            ),
            Kind::Routes => (
                "RoutesConfigDump",
                "static_route_configs",
                "dynamic_route_configs",
            ),
            Kind::Secret => (
                "SecretsConfigDump",
                "static_secrets",
                "dynamic_active_secrets",
            ),
            Kind::Endpoints => (
                "EndpointsConfigDump",
                "static_endpoint_configs",
                "dynamic_endpoint_configs",
            ),
        };
        let machine = self.machine.lock();
        let mut section = Map::new();
        section.insert("@type".to_owned(), format!("{PREFIX}{message}").into());
        if matches!(kind, Kind::Cluster | Kind::Listener) {
            section.insert("version_info".to_owned(), machine.version(kind).into());
        }
        for (name, entry) in machine.active(kind) {
            let is_fixed = machine.is_fixed(kind, name);
            let field = if is_fixed { fixed } else { dynamic };
            let shown = resource(kind, name, entry, !is_fixed);
            push(&mut section, field, shown);
        }
        for (name, entry, missing) in machine.warming_entries(kind) {
            let mut shown = resource(kind, name, entry, true);
            let waits: Vec<String> = (missing.iter())
                .map(|reference| format!("{}:{}", reference.kind.short(), reference.name))
                .collect();
            shown.insert("waits_for".to_owned(), waits.into());
            match kind {
                Kind::Cluster => push(&mut section, "dynamic_warming_clusters", shown),
                Kind::Secret => push(&mut section, "dynamic_warming_secrets", shown),
                Kind::Listener => {
                    if let Some(state) = shown.remove("active_state") {
                        shown.insert("warming_state".to_owned(), state);
                    }
                    push(&mut section, dynamic, shown);
                }
                Kind::Routes | Kind::Endpoints => push(&mut section, dynamic, shown),
            }
        }
        for (name, rejected) in &machine.status(kind).errors {
            let failed =
                json!({ "name": name, "error_state": { "details": rejected.to_string() } });
            if let Json::Object(failed) = failed {
                push(&mut section, dynamic, failed);
            }
        }
        Json::Object(section)
    }

    /// Which fields are set and have no effect, and why: ours alone, Envoy would have refused or honoured them.
    fn ignored(&self) -> Json {
        let machine = self.machine.lock();
        let mut list = Vec::new();
        if let Some(bootstrap) = &self.settings.bootstrap {
            for (path, reason) in &bootstrap.ignored {
                list.push(json!({ "kind": "bootstrap", "field": path, "reason": reason }));
            }
        }
        for kind in Kind::ALL {
            for (name, entry) in machine.active(kind) {
                for (path, reason) in &entry.value.ignored {
                    list.push(json!({ "kind": kind.short(), "name": &**name, "field": path, "reason": reason }));
                }
            }
        }
        json!({ "@type": "osm.proxy.IgnoredFieldsDump", "ignored_fields": list })
    }
}

/// One resource as the messages of Envoy's dumps hold it.
fn resource(
    kind: Kind,
    name: &str,
    entry: &Entry<Resource>,
    is_dynamic: bool,
) -> Map<String, Json> {
    let shown = schema::redacted(&entry.any).map(|mut shown| {
        if let Json::Object(members) = &mut shown {
            members.insert("@type".to_owned(), kind.type_url().into());
        }
        shown
    });
    let shown = shown
        .unwrap_or_else(|error| json!({ "@type": kind.type_url(), "error": error.to_string() }));
    let field = match kind {
        Kind::Cluster => "cluster",
        Kind::Listener => "listener",
        Kind::Routes => "route_config",
        Kind::Secret => "secret",
        Kind::Endpoints => "endpoint_config",
    };
    let mut state = Map::new();
    if is_dynamic {
        state.insert("version_info".to_owned(), entry.version.as_str().into());
    }
    state.insert(field.to_owned(), shown);
    state.insert("last_updated".to_owned(), stamp(entry.updated));
    match (kind, is_dynamic) {
        (Kind::Listener, true) => {
            let mut listener = Map::new();
            listener.insert("name".to_owned(), name.into());
            listener.insert("active_state".to_owned(), Json::Object(state));
            listener
        }
        (Kind::Secret, _) => {
            state.insert("name".to_owned(), name.into());
            state
        }
        _ => state,
    }
}

fn push(section: &mut Map<String, Json>, field: &str, item: Map<String, Json>) {
    let list = section
        .entry(field)
        .or_insert_with(|| Json::Array(Vec::new()));
    if let Json::Array(list) = list {
        list.push(Json::Object(item));
    }
}

fn stamp(at: Instant) -> Json {
    let at = SystemTime::now().checked_sub(at.elapsed());
    OffsetDateTime::from(at.unwrap_or(SystemTime::UNIX_EPOCH))
        .format(&Rfc3339)
        .map_or(Json::Null, Json::String)
}

/// Keeps the resources whose name matches.
fn retain(config: &mut Json, pattern: &regex::Regex) {
    let Json::Object(members) = config else {
        return;
    };
    for list in members.values_mut().filter_map(Json::as_array_mut) {
        list.retain(|item| name_of(item).is_some_and(|name| pattern.is_match(name)));
    }
}

fn name_of(item: &Json) -> Option<&str> {
    let inner = ["cluster", "route_config", "listener"]
        .iter()
        .find_map(|field| item.get(*field));
    let cluster_name = item
        .get("endpoint_config")
        .and_then(|config| config.get("cluster_name"));
    let own = item
        .get("name")
        .or_else(|| inner?.get("name"))
        .or(cluster_name);
    own.and_then(Json::as_str)
}

/// A field mask such as `cluster.name,cluster.type`: the paths of it, and `@type`.
fn masked(config: &Json, mask: &str) -> Json {
    let mut out = json!({});
    if let (Some(kind), Json::Object(members)) = (config.get("@type"), &mut out) {
        members.insert("@type".to_owned(), kind.clone());
    }
    for path in mask.split(',').filter(|path| !path.is_empty()) {
        let steps: Vec<&str> = path.split('.').collect();
        pick(config, &steps, &mut out);
    }
    out
}

fn pick(from: &Json, steps: &[&str], into: &mut Json) {
    let (Some((first, rest)), Json::Object(members)) = (steps.split_first(), into) else {
        return;
    };
    let Some(value) = from.get(*first) else {
        return;
    };
    if rest.is_empty() {
        members.insert((*first).to_owned(), value.clone());
        return;
    }
    let child = members.entry(*first).or_insert_with(|| json!({}));
    pick(value, rest, child);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_its_paths() {
        let config = json!({ "@type": "t", "cluster": { "name": "c", "type": "EDS", "x": { "y": 1, "z": 2 } }, "version_info": "1" });
        assert_eq!(
            masked(&config, "cluster.name,cluster.x.y,none"),
            json!({ "@type": "t", "cluster": { "name": "c", "x": { "y": 1 } } })
        );
    }
}
