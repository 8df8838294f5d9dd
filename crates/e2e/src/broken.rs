//! Broken policies, made from valid ones: wrong types, missing fields, huge and odd texts, impossible numbers.
//!
//! The same seed gives the same objects. Their names, namespaces, kinds and versions stay valid, so that each can be
//! sent; everything below `spec` may be anything.

use serde_json::{Map, Value, json};

/// The Service that broken policies are about; nothing else should depend on it.
pub const VICTIM: &str = "victim";

/// The ServiceAccount that broken policies may come to allow something.
pub const STRANGER: &str = "stranger";

/// Numbers that look random and are the same each time (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

// === impl Dice ===

impl Dice {
    /// Dice that fall the same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn)
            .unwrap_or_default()
            .checked_rem(bound)
            .unwrap_or_default()
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).cloned()
    }
}

/// Broken objects for a namespace, named `broken-0000` and so on.
pub fn objects(namespace: &str, count: usize, seed: u64) -> Vec<Value> {
    let mut dice = Dice::new(seed);
    let valid = templates(namespace);
    (0..count)
        .filter_map(|index| {
            let mut object = dice.pick(&valid)?;
            object["metadata"] =
                json!({ "name": format!("broken-{index:04}"), "namespace": namespace });
            for _ in 0..=dice.below(3) {
                break_once(&mut object["spec"], &mut dice);
            }
            Some(object)
        })
        .collect()
}

/// Valid policies of every kind, about [`VICTIM`] and [`STRANGER`] only.
pub fn templates(namespace: &str) -> Vec<Value> {
    let stranger = json!({ "kind": "ServiceAccount", "name": STRANGER, "namespace": namespace });
    let object = |version: &str, kind: &str, spec: Value| json!({ "apiVersion": version, "kind": kind, "metadata": {}, "spec": spec });
    let policy = |kind: &str, spec: Value| object("policy.openservicemesh.io/v1alpha1", kind, spec);
    let http = json!({ "requests": 5, "unit": "minute", "burst": 1, "responseStatusCode": 503, "responseHeadersToAdd": [{ "name": "x-limit", "value": "yes" }] });
    vec![
        object(
            "access.smi-spec.io/v1alpha3",
            "TrafficTarget",
            json!({
                "destination": { "kind": "ServiceAccount", "name": VICTIM, "namespace": namespace },
                "rules": [{ "kind": "HTTPRouteGroup", "name": "server", "matches": ["everything"] }, { "kind": "TCPRoute", "name": "ports" }],
                "sources": [stranger],
            }),
        ),
        object(
            "specs.smi-spec.io/v1alpha4",
            "HTTPRouteGroup",
            json!({
                "matches": [
                    { "name": "a", "pathRegex": "/a/.*", "methods": ["GET", "POST"], "headers": [{ "user-agent": ".*curl.*" }] },
                    { "name": "b", "pathRegex": "/b", "methods": ["*"] },
                ],
            }),
        ),
        object(
            "specs.smi-spec.io/v1alpha4",
            "TCPRoute",
            json!({ "matches": { "ports": [80, 443] } }),
        ),
        object(
            "split.smi-spec.io/v1alpha4",
            "TrafficSplit",
            json!({
                "service": VICTIM, "matches": [{ "kind": "HTTPRouteGroup", "name": "server" }],
                "backends": [{ "service": "victim-v1", "weight": 90 }, { "service": "victim-v2", "weight": 10 }],
            }),
        ),
        // A circle: each is a backend of the other.
        object(
            "split.smi-spec.io/v1alpha2",
            "TrafficSplit",
            json!({
                "service": "victim-v1", "backends": [{ "service": "victim-v2", "weight": 1 }, { "service": "victim-v1", "weight": 1 }],
            }),
        ),
        object(
            "split.smi-spec.io/v1alpha2",
            "TrafficSplit",
            json!({
                "service": "victim-v2", "backends": [{ "service": "victim-v1", "weight": 1 }],
            }),
        ),
        policy(
            "Egress",
            json!({
                "sources": [stranger], "hosts": ["a.test", "*.b.test"], "ipAddresses": ["203.0.113.0/24"],
                "ports": [{ "number": 80, "protocol": "http" }, { "number": 443, "protocol": "https" }],
                "matches": [{ "apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "server" }],
            }),
        ),
        policy(
            "IngressBackend",
            json!({
                "backends": [{ "name": VICTIM, "port": { "number": 8080, "protocol": "https" }, "tls": { "skipClientCertValidation": false, "sniHosts": ["a.test"] } }],
                "sources": [{ "kind": "IPRange", "name": "203.0.113.0/24" }, { "kind": "AuthenticatedPrincipal", "name": "gateway.test" }],
            }),
        ),
        policy(
            "Retry",
            json!({
                "source": stranger, "destinations": [{ "kind": "Service", "name": VICTIM, "namespace": namespace }],
                "retryPolicy": { "retryOn": "5xx,reset", "perTryTimeout": "1s", "numRetries": 3, "retryBackoffBaseInterval": "10ms" },
            }),
        ),
        policy(
            "UpstreamTrafficSetting",
            json!({
                "host": format!("{VICTIM}.{namespace}.svc.cluster.local"),
                "connectionSettings": {
                    "tcp": { "maxConnections": 10, "connectTimeout": "1s" },
                    "http": { "maxRequests": 10, "maxPendingRequests": 1, "circuitBreaking": { "statTimeWindow": "1m", "minRequestAmount": 10, "errorRatioThreshold": 0.5 } },
                },
                "rateLimit": { "local": { "tcp": { "connections": 1, "unit": "second" }, "http": http } },
                "httpRoutes": [{ "path": "/a/.*", "rateLimit": { "local": http } }],
            }),
        ),
    ]
}

/// A place in a tree: the keys and indices that lead to it.
type Path = Vec<String>;

fn places(value: &Value, path: &Path, all: &mut Vec<Path>) {
    all.push(path.clone());
    let mut below = |key: String, inner: &Value| {
        let mut path = path.clone();
        path.push(key);
        places(inner, &path, all);
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, inner)| below(key.clone(), inner)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, inner)| below(index.to_string(), inner));
        }
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(fields) => fields.get_mut(key),
        Value::Array(items) => key
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get_mut(index)),
        _ => None,
    })
}

/// Breaks one place of a spec.
fn break_once(spec: &mut Value, dice: &mut Dice) {
    let mut all = Vec::new();
    places(spec, &Vec::new(), &mut all);
    let Some(path) = dice.pick(&all) else { return };
    let Some(place) = at(spec, &path) else { return };
    match dice.below(10) {
        0 => remove(spec, &path),
        1 => repeat(spec, &path),
        2 => add_unknown(place),
        _ => *place = odd(place, dice),
    }
}

fn remove(spec: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else {
        *spec = Value::Null;
        return;
    };
    match at(spec, parents) {
        Some(Value::Object(fields)) => drop(fields.remove(last)),
        Some(Value::Array(items)) => items.clear(),
        _ => {}
    }
}

/// The same entry many times.
fn repeat(spec: &mut Value, path: &[String]) {
    let Some((_, parents)) = path.split_last() else {
        return;
    };
    if let Some(Value::Array(items)) = at(spec, parents)
        && let Some(first) = items.first().cloned()
    {
        items.extend(std::iter::repeat_n(first, 200));
    }
}

fn add_unknown(place: &mut Value) {
    if let Value::Object(fields) = place {
        fields.insert("surprise".to_owned(), json!({ "deep": [[[]]] }));
    }
}

/// Something odd, of the same type more often than not: the schema stops the other types.
fn odd(place: &Value, dice: &mut Dice) -> Value {
    let texts = [
        "",
        " ",
        "(",
        "[",
        "a{99999}",
        "(?i)(a+)+$",
        "\\",
        "\\u0000",
        "*",
        "..",
        ".",
        "/",
        "a/b/c",
        "300.1.1.1/99",
        "::/0",
        "0.0.0.0/0",
        "10.0.0.0/33",
        "x10.0.0.0/8",
        "TCP",
        "https",
        "grpc",
        "-1s",
        "99999h",
        "1",
        "\u{202e}\u{200b}",
        "\u{0}",
        "äöü.\u{1f980}",
        "%zz",
        "\r\nx: y",
        "UDPRoute",
        "User",
        "Service",
        "IPRange",
        "second",
        "decade",
        "*.*",
        "5xx,,nonsense",
    ];
    let numbers = [
        json!(0),
        json!(-1),
        json!(65536),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e300),
        json!(4_294_967_296_u64),
        json!(999),
    ];
    let same = dice.below(4) > 0;
    match place {
        Value::String(_) if same => match dice.below(8) {
            0 => json!("x".repeat(70_000)),
            1 => json!("(a|".repeat(2_000)),
            _ => json!(dice.pick(&texts)),
        },
        Value::Number(_) if same => dice.pick(&numbers).unwrap_or_default(),
        Value::Bool(value) if same => json!(!value),
        Value::Array(_) if same => json!([]),
        Value::Object(_) if same => json!({}),
        _ => dice
            .pick(&[
                json!(null),
                json!(true),
                json!(7),
                json!("text"),
                json!([1, "a"]),
                json!({ "a": {} }),
            ])
            .unwrap_or_else(|| Value::Object(Map::new())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_objects_and_they_are_all_sorts() {
        let all = objects("n", 1000, 7);
        assert_eq!(all, objects("n", 1000, 7));
        assert_ne!(all, objects("n", 1000, 8));
        let kinds: BTreeSet<&str> = all
            .iter()
            .filter_map(|object| object["kind"].as_str())
            .collect();
        assert_eq!(kinds.len(), 8);
        let specs: BTreeSet<String> = all
            .iter()
            .map(|object| object["spec"].to_string())
            .collect();
        assert!(specs.len() > 600, "{}", specs.len());
        let whole = templates("n");
        let untouched = all
            .iter()
            .filter(|object| whole.iter().any(|valid| valid["spec"] == object["spec"]));
        assert!(untouched.count() < 100);
        assert!(
            all.iter()
                .any(|object| object["spec"].to_string().len() > 65_536)
        );
    }
}
