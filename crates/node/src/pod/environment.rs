//! A container's environment variables and command line, as the kubelet makes them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Service};

use super::facts::Facts;
use crate::catalog::cluster_ips;
use crate::mirror::Key;

/// What container runtimes set when the image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables of a container. `uid` decides HOME.
pub fn environment(
    facts: &Facts,
    container: &Container,
    uid: u32,
) -> Result<Vec<(String, String)>, String> {
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    result.insert("PATH".into(), PATH.into());
    result.insert("HOME".into(), if uid == 0 { "/root" } else { "/" }.into());
    let hostname = facts.pod.spec.as_ref().and_then(|s| s.hostname.clone());
    result.insert(
        "HOSTNAME".into(),
        hostname
            .or_else(|| facts.pod.metadata.name.clone())
            .unwrap_or_default(),
    );
    result.extend(facts.services.iter().cloned());
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match facts.config_maps.get(&reference.name) {
                Some(map) => result.extend(
                    map.data
                        .iter()
                        .flatten()
                        .map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match facts.secrets.get(&reference.name) {
                Some(secret) => result.extend(secret.data.iter().flatten().map(|(k, v)| {
                    (
                        format!("{prefix}{k}"),
                        String::from_utf8_lossy(&v.0).into_owned(),
                    )
                })),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(facts, container, variable, &result)? {
            result.insert(variable.name.clone(), value);
        }
    }
    Ok(result.into_iter().collect())
}

/// A variable's value; `None`: an optional source is missing, so the variable is not set.
fn value(
    facts: &Facts,
    container: &Container,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(
            variable.value.as_deref().unwrap_or_default(),
            known,
        )));
    };
    if let Some(selector) = &source.field_ref {
        return facts.field(selector).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return facts.resource(selector, Some(container)).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let Some(map) = facts.config_maps.get(&selector.name) else {
            return missing(selector.optional, || {
                format!("configmap {:?} not found", selector.name)
            });
        };
        return match map.data.as_ref().and_then(|d| d.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing(selector.optional, || {
                format!(
                    "couldn't find key {} in ConfigMap {}",
                    selector.key, selector.name
                )
            }),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let Some(secret) = facts.secrets.get(&selector.name) else {
            return missing(selector.optional, || {
                format!("secret {:?} not found", selector.name)
            });
        };
        return match secret.data.as_ref().and_then(|d| d.get(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing(selector.optional, || {
                format!(
                    "couldn't find key {} in Secret {}",
                    selector.key, selector.name
                )
            }),
        };
    }
    Ok(None)
}

fn missing(optional: Option<bool>, message: impl Fn() -> String) -> Result<Option<String>, String> {
    if optional == Some(true) {
        Ok(None)
    } else {
        Err(message())
    }
}

/// Program and arguments: the pod's `command` and `args`, each in place of the image's own.
pub fn command_line(
    container: &Container,
    image: &[String],
    env: &[(String, String)],
) -> Vec<String> {
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let given = |list: &Option<Vec<String>>| list.clone().filter(|l| !l.is_empty());
    let (entry, image_args) = image.split_at(image.len().min(1));
    let line = match (given(&container.command), given(&container.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [entry.to_vec(), args].concat(),
        (None, None) => [entry, image_args].concat(),
    };
    line.iter().map(|word| expand(word, &known)).collect()
}

/// Replaces `$(NAME)`; unknown names stay, `$$` is a dollar sign.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        result.push_str(before);
        let tail = &tail[1..];
        if let Some(after) = tail.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match known.get(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
            rest = tail;
        }
    }
    result.push_str(rest);
    result
}

/// The variables that tell of the namespace's Services (only `kubernetes` if `links` is false).
pub fn service_variables<'a>(
    services: impl Iterator<Item = (&'a Key, &'a Service)>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut result = Vec::new();
    for ((service_namespace, name), service) in services {
        let api = service_namespace == "default" && name == "kubernetes";
        if !(api || links && service_namespace == namespace) {
            continue;
        }
        let Some(ip) = cluster_ips(service).first().copied() else {
            continue;
        };
        let base = name.to_uppercase().replace('-', "_");
        let host = if ip.is_ipv6() {
            format!("[{ip}]")
        } else {
            ip.to_string()
        };
        result.push((format!("{base}_SERVICE_HOST"), ip.to_string()));
        for (index, port) in service
            .spec
            .iter()
            .flat_map(|s| s.ports.iter().flatten())
            .enumerate()
        {
            let number = port.port;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            if index == 0 {
                result.push((format!("{base}_SERVICE_PORT"), number.to_string()));
                result.push((format!("{base}_PORT"), format!("{lower}://{host}:{number}")));
            }
            if let Some(port_name) = &port.name {
                let suffix = port_name.to_uppercase().replace('-', "_");
                result.push((format!("{base}_SERVICE_PORT_{suffix}"), number.to_string()));
            }
            let stem = format!("{base}_PORT_{number}_{protocol}");
            result.push((stem.clone(), format!("{lower}://{host}:{number}")));
            result.push((format!("{stem}_PROTO"), lower));
            result.push((format!("{stem}_PORT"), number.to_string()));
            result.push((format!("{stem}_ADDR"), ip.to_string()));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_expanded_like_the_kubelet_does() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn env_has_its_sources_in_order_and_missing_ones_are_named() {
        let facts = Facts {
            config_maps: BTreeMap::from([(
                "cm".to_owned(),
                serde_json::from_value(json!({"data": {"k": "v"}})).unwrap(),
            )]),
            ..Facts::default()
        };
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [{"name": "A", "value": "$(P_k)!"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}}],
            "command": ["run", "$(A)"]
        }))
        .unwrap();
        let env = environment(&facts, &container, 1500).unwrap();
        let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(
            (value("A"), value("B"), value("C"), value("HOME")),
            (Some("v!"), Some("v"), None, Some("/"))
        );
        assert_eq!(command_line(&container, &["x".into()], &env), ["run", "v!"]);
        let mut container = container;
        container.env_from = None;
        container.env = serde_json::from_value(
            json!([{"name": "D", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}]),
        )
        .unwrap();
        assert_eq!(
            environment(&facts, &container, 0),
            Err("secret \"no\" not found".to_owned())
        );
    }

    #[test]
    fn args_replace_the_images_arguments_only() {
        let container = |value| serde_json::from_value::<Container>(value).unwrap();
        let image = ["prog".to_owned(), "default".to_owned()];
        for (given, expected) in [
            (json!({"name": "c"}), vec!["prog", "default"]),
            (json!({"name": "c", "args": ["a"]}), vec!["prog", "a"]),
            (json!({"name": "c", "command": ["b"]}), vec!["b"]),
            (
                json!({"name": "c", "command": ["b"], "args": ["a"]}),
                vec!["b", "a"],
            ),
        ] {
            assert_eq!(
                command_line(&container(given.clone()), &image, &[]),
                expected,
                "{given}"
            );
        }
    }
}
