//! Discovery: which groups, versions and resources there are, also in the aggregated form.

use std::collections::BTreeMap;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::Server;
use crate::kinds::{Catalogue, Kind, api_version};
use crate::request::{self, Answer, Call, Route};
use crate::status::{Failure, Outcome};

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const CUSTOM_VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Resources that are questions and no stored kinds: group, plural, kind, namespaced.
pub const REVIEWS: [(&str, &str, &str, bool); 6] = [
    (
        "authentication.k8s.io",
        "selfsubjectreviews",
        "SelfSubjectReview",
        false,
    ),
    (
        "authentication.k8s.io",
        "tokenreviews",
        "TokenReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        true,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        "SubjectAccessReview",
        false,
    ),
];

/// Answers a discovery request.
pub fn answer(server: &Server, call: &Call) -> Outcome<Answer> {
    let catalogue = server.registry.now();
    let aggregated = call
        .header(header::ACCEPT)
        .contains("as=APIGroupDiscoveryList")
        && call.header(header::ACCEPT).contains("v=v2");
    let body = match request::route(&call.path) {
        Route::CoreVersions if aggregated => return Ok(aggregate(&catalogue, true)),
        Route::Groups if aggregated => return Ok(aggregate(&catalogue, false)),
        Route::CoreVersions => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.header(header::HOST)}],
        }),
        Route::Groups => {
            let groups: Vec<Value> = versions(&catalogue)
                .iter()
                .filter(|(g, _)| !g.is_empty())
                .map(|(g, v)| group(g, v))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Route::Group(name) => {
            let all = versions(&catalogue);
            let versions = all
                .get(&name)
                .filter(|_| !name.is_empty())
                .ok_or_else(Failure::no_such_path)?;
            let mut body = group(&name, versions);
            body["kind"] = json!("APIGroup");
            body["apiVersion"] = json!("v1");
            body
        }
        Route::Resources(group, version) => {
            if !versions(&catalogue)
                .get(&group)
                .is_some_and(|v| v.contains(&version))
            {
                return Err(Failure::no_such_path());
            }
            let list: Vec<Value> = resources(&catalogue, &group, &version);
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(&group, &version), "resources": list})
        }
        _ => return Err(Failure::no_such_path()),
    };
    Ok(request::json(StatusCode::OK, &body))
}

/// Groups and their versions, the preferred first.
fn versions(catalogue: &Catalogue) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let reviews = REVIEWS
        .iter()
        .map(|(g, ..)| ((*g).to_owned(), "v1".to_owned()));
    for (group, version) in catalogue
        .all()
        .map(|k| (k.group.clone(), k.version.clone()))
        .chain(reviews)
    {
        let versions = groups.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
    }
    groups
}

/// Kubernetes' order: stable over beta over alpha, then by number; anything else last.
fn priority(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let Ok(major) = digits.parse() else {
        return (0, 0, 0);
    };
    let tail = rest.get(digits.len()..).unwrap_or_default();
    for (rank, word) in [(2, "beta"), (1, "alpha")] {
        if let Some(minor) = tail.strip_prefix(word) {
            return (rank, major, minor.parse().unwrap_or(0));
        }
    }
    if tail.is_empty() {
        (3, major, 0)
    } else {
        (0, 0, 0)
    }
}

fn group(name: &str, versions: &[String]) -> Value {
    let list: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": api_version(name, v), "version": v}))
        .collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    let collection = !kind.is("", "namespaces");
    let order = if kind.custom.is_some() {
        CUSTOM_VERBS
    } else {
        VERBS
    };
    order
        .into_iter()
        .filter(|v| collection || *v != "deletecollection")
        .collect()
}

/// Verbs and the kind of a subresource.
fn subresource(kind: &Kind, name: &str) -> (Vec<&'static str>, Value) {
    let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let core = |k: &str| json!({"group": "", "version": "v1", "kind": k});
    match name {
        "scale" => (
            vec!["get", "patch", "update"],
            json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}),
        ),
        "finalize" => (vec!["update"], own),
        "log" => (vec!["get"], own),
        "exec" => (vec!["create", "get"], core("PodExecOptions")),
        "attach" => (vec!["create", "get"], core("PodAttachOptions")),
        "portforward" => (vec!["create", "get"], core("PodPortForwardOptions")),
        "proxy" => {
            let options = if kind.plural == "pods" {
                "PodProxyOptions"
            } else {
                "ServiceProxyOptions"
            };
            (
                vec!["create", "delete", "get", "patch", "update"],
                core(options),
            )
        }
        "eviction" => (
            vec!["create"],
            json!({"group": "policy", "version": "v1", "kind": "Eviction"}),
        ),
        "binding" => (vec!["create"], core("Binding")),
        "token" => (
            vec!["create"],
            json!({"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}),
        ),
        _ => (vec!["get", "patch", "update"], own),
    }
}

fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Vec<Value> {
    let mut list = Vec::new();
    for kind in catalogue
        .all()
        .filter(|k| k.group == group && k.version == version)
    {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind), "storageVersionHash": hash(kind),
        });
        if !kind.short.is_empty() {
            entry["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for sub in &kind.subresources {
            let (verbs, gvk) = subresource(kind, sub);
            let mut entry = json!({
                "name": format!("{}/{sub}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": gvk["kind"], "verbs": verbs,
            });
            if gvk["group"] != kind.group.as_str() || gvk["version"] != kind.version.as_str() {
                entry["group"] = gvk["group"].clone();
                entry["version"] = gvk["version"].clone();
            }
            list.push(entry);
        }
    }
    for (_, plural, kind, namespaced) in REVIEWS
        .iter()
        .filter(|(g, ..)| *g == group && version == "v1")
    {
        list.push(json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": ["create"]}));
    }
    list
}

fn hash(kind: &Kind) -> String {
    use base64::Engine;
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&kind.group, &kind.version, &kind.kind).hash(&mut hasher);
    base64::engine::general_purpose::STANDARD.encode(hasher.finish().to_be_bytes())
}

fn aggregate(catalogue: &Catalogue, core: bool) -> Answer {
    let items: Vec<Value> = versions(catalogue)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| json!({"version": v, "freshness": "Current", "resources": aggregated_resources(catalogue, group, v)}))
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut answer = request::json(StatusCode::OK, &body);
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    answer
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    answer
}

fn aggregated_resources(catalogue: &Catalogue, group: &str, version: &str) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut list = Vec::new();
    for kind in catalogue
        .all()
        .filter(|k| k.group == group && k.version == version)
    {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|name| {
                let (verbs, gvk) = subresource(kind, name);
                json!({"subresource": name, "responseKind": gvk, "verbs": verbs})
            })
            .collect();
        let mut entry = json!({
            "resource": kind.plural, "singularResource": kind.singular, "scope": scope(kind.namespaced), "verbs": verbs(kind),
            "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        });
        for (field, values) in [
            ("shortNames", &kind.short),
            ("categories", &kind.categories),
        ] {
            if !values.is_empty() {
                entry[field] = json!(values);
            }
        }
        if !subresources.is_empty() {
            entry["subresources"] = json!(subresources);
        }
        list.push(entry);
    }
    for (_, plural, kind, namespaced) in REVIEWS
        .iter()
        .filter(|(g, ..)| *g == group && version == "v1")
    {
        list.push(json!({
            "resource": plural, "singularResource": kind.to_lowercase(), "scope": scope(*namespaced), "verbs": ["create"],
            "responseKind": {"group": group, "version": version, "kind": kind},
        }));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_does() {
        let mut versions = ["v1alpha2", "v2", "foo", "v1beta1", "v1", "v11"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v11", "v2", "v1", "v1beta1", "v1alpha2", "foo"]);
    }

    #[test]
    fn every_built_in_kind_is_discoverable() {
        let catalogue = Catalogue::new(Vec::new());
        let core = resources(&catalogue, "", "v1");
        let names: Vec<&str> = core.iter().filter_map(|r| r["name"].as_str()).collect();
        for name in [
            "pods",
            "pods/exec",
            "pods/log",
            "namespaces/finalize",
            "serviceaccounts/token",
        ] {
            assert!(names.contains(&name), "{name}");
        }
        let scale = resources(&catalogue, "apps", "v1")
            .into_iter()
            .find(|r| r["name"] == "deployments/scale")
            .unwrap();
        assert_eq!(
            (&scale["group"], &scale["kind"]),
            (&json!("autoscaling"), &json!("Scale"))
        );
    }
}
