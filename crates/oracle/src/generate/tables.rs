//! Random route tables.

use serde_json::{Map, Value, json};

use super::Dice;

/// Domains, wildcards included.
pub const HOSTS: [&str; 12] = [
    "web.ns",
    "web",
    "api.example.com",
    "example.com",
    "*.example.com",
    "*.b.example.com",
    "web.*",
    "api.*",
    "shop.test:8080",
    "*.test",
    "other.org",
    "*-x.org",
];
/// Path segments.
pub const SEGMENTS: [&str; 10] = [
    "a", "b", "api", "v1", "v2", "users", "42", "img", "a.b", "x-y_z",
];
/// Header names.
pub const HEADERS: [&str; 5] = ["x-a", "x-b", "x-version", "x-n", "x-list"];
/// Values of headers and parameters.
pub const VALUES: [&str; 8] = ["1", "2", "42", "-7", "blue", "Blue", "green-1", "a,b"];
/// Query parameters.
pub const PARAMETERS: [&str; 3] = ["p", "q", "debug"];

/// Virtual hosts.
pub fn vhosts(dice: &mut Dice) -> Value {
    // A domain may stand in one virtual host only.
    let mut free: Vec<&str> = HOSTS.to_vec();
    let mut list = Vec::new();
    for index in 0..1 + dice.below(4) {
        let mut domains = Vec::new();
        for _ in 0..1 + dice.below(3) {
            if !free.is_empty() {
                domains.push(free.remove(dice.below(free.len())));
            }
        }
        if domains.is_empty() {
            continue;
        }
        let mut vhost =
            json!({"name": format!("v{index}"), "domains": domains, "routes": routes(dice)});
        edits(dice, &mut vhost, 25);
        list.push(vhost);
    }
    if dice.percent(85) {
        list.push(json!({"name": "all", "domains": ["*"], "routes": routes(dice)}));
    }
    Value::Array(list)
}

fn routes(dice: &mut Dice) -> Vec<Value> {
    let mut routes: Vec<Value> = (0..2 + dice.below(8)).map(|_| route(dice)).collect();
    // Most tables end with something for everybody.
    if dice.percent(70) {
        let mut last = json!({"match": {"prefix": "/"}, "route": action(dice, Path::Prefix)});
        edits(dice, &mut last, 30);
        routes.push(last);
    }
    routes
}

fn route(dice: &mut Dice) -> Value {
    let (mut matching, kind) = path(dice);
    if dice.percent(25) {
        let count = 1 + dice.below(2);
        matching.insert("headers".into(), (0..count).map(|_| header(dice)).collect());
    }
    if dice.percent(15) {
        matching.insert("query_parameters".into(), json!([parameter(dice)]));
    }
    let mut route = json!({"match": matching});
    match dice.below(10) {
        0 => route["direct_response"] = direct(dice),
        1 | 2 => route["redirect"] = redirect(dice, kind),
        _ => route["route"] = action(dice, kind),
    }
    edits(dice, &mut route, 30);
    route
}

/// How a path is matched decides which rewrites are allowed.
#[derive(Clone, Copy, PartialEq)]
enum Path {
    Prefix,
    Other,
}

fn path(dice: &mut Dice) -> (Map<String, Value>, Path) {
    let text = match dice.below(4) {
        0 => "/".to_owned(),
        1 => format!("/{}/{}", dice.pick(&SEGMENTS), dice.pick(&SEGMENTS)),
        _ => format!("/{}", dice.pick(&SEGMENTS)),
    };
    let (field, value, kind) = match dice.below(7) {
        0 | 1 => ("path", json!(text), Path::Other),
        2 if text != "/" => ("path_separated_prefix", json!(text), Path::Prefix),
        3 => {
            let expressions = [
                "/[a-z]+",
                "/.*",
                "/(a|b)/.*",
                r"/api/v\d+(/.*)?",
                "/users/[0-9]+",
                ".*x",
                "/a",
            ];
            (
                "safe_regex",
                json!({"regex": dice.pick(&expressions)}),
                Path::Other,
            )
        }
        _ => ("prefix", json!(text), Path::Prefix),
    };
    let mut matching = Map::from_iter([(field.to_owned(), value)]);
    if field != "safe_regex" && dice.percent(15) {
        matching.insert("case_sensitive".into(), json!(false));
    }
    (matching, kind)
}

fn text_matcher(dice: &mut Dice) -> Value {
    let value = *dice.pick(&VALUES);
    let mut matcher = match dice.below(5) {
        0 => json!({"prefix": value.get(..1)}),
        1 => json!({"suffix": value.get(value.len() - 1..)}),
        2 => json!({"contains": value}),
        3 => {
            return json!({"safe_regex": {"regex": dice.pick(&["[0-9]+", ".*", "[a-z]+(-1)?", "blue|2"])}});
        }
        _ => json!({"exact": value}),
    };
    if dice.percent(20) {
        matcher["ignore_case"] = json!(true);
    }
    matcher
}

fn header(dice: &mut Dice) -> Value {
    let mut matcher = match dice.below(6) {
        0 => json!({"present_match": dice.percent(70)}),
        1 => json!({"range_match": {"start": -10, "end": 10 + dice.below(50)}}),
        2 => {
            return json!({"name": ":method", "string_match": {"exact": dice.pick(&["GET", "POST", "PUT"])}});
        }
        _ => json!({"string_match": text_matcher(dice)}),
    };
    matcher["name"] = json!(dice.pick(&HEADERS));
    if dice.percent(20) {
        matcher["invert_match"] = json!(true);
    }
    if dice.percent(15) {
        matcher["treat_missing_header_as_empty"] = json!(true);
    }
    matcher
}

fn parameter(dice: &mut Dice) -> Value {
    let name = dice.pick(&PARAMETERS);
    match dice.percent(40) {
        true => json!({"name": name, "present_match": true}),
        false => json!({"name": name, "string_match": text_matcher(dice)}),
    }
}

fn direct(dice: &mut Dice) -> Value {
    let mut direct = json!({"status": dice.pick(&[200, 204, 403, 404, 503])});
    if direct["status"] != 204 && dice.percent(60) {
        direct["body"] = json!({"inline_string": "direct"});
    }
    direct
}

fn redirect(dice: &mut Dice, kind: Path) -> Value {
    let mut redirect = json!({});
    if dice.percent(40) {
        redirect["host_redirect"] = json!("new.example");
    }
    if dice.percent(25) {
        redirect["https_redirect"] = json!(true);
    } else if dice.percent(15) {
        redirect["scheme_redirect"] = json!("https");
    }
    if dice.percent(15) {
        redirect["port_redirect"] = json!(dice.pick(&[80, 443, 8443]));
    }
    match dice.below(4) {
        0 => redirect["path_redirect"] = json!(dice.pick(&["/new", "/new?x=1"])),
        1 if kind == Path::Prefix => {
            redirect["prefix_rewrite"] = json!(dice.pick(&["/", "/new", "/new/"]))
        }
        2 => redirect["regex_rewrite"] = regex_rewrite(dice),
        _ => {}
    }
    if dice.percent(50) {
        let codes = [
            "FOUND",
            "SEE_OTHER",
            "TEMPORARY_REDIRECT",
            "PERMANENT_REDIRECT",
        ];
        redirect["response_code"] = json!(dice.pick(&codes));
    }
    if dice.percent(25) {
        redirect["strip_query"] = json!(true);
    }
    redirect
}

fn regex_rewrite(dice: &mut Dice) -> Value {
    let (regex, to) = *dice.pick(&[
        ("/a", "/z"),
        ("^/([a-z]+)/(.*)$", r"/\2/\1"),
        ("[0-9]+", "N"),
        (r"\.b", "_"),
        ("^/api", ""),
    ]);
    json!({"pattern": {"regex": regex}, "substitution": to})
}

fn action(dice: &mut Dice, kind: Path) -> Value {
    let mut action = match dice.below(8) {
        0 => {
            json!({"weighted_clusters": {"clusters": [{"name": "a", "weight": 0}, {"name": "b", "weight": 1}]}})
        }
        1 => json!({"cluster_header": "x-version"}),
        2 => json!({"cluster": "missing"}),
        _ => json!({"cluster": dice.pick(&["a", "b", "c", "a2"])}),
    };
    match dice.below(6) {
        0 if kind == Path::Prefix => {
            action["prefix_rewrite"] = json!(dice.pick(&["/", "/new", "/new/"]))
        }
        1 => action["regex_rewrite"] = regex_rewrite(dice),
        _ => {}
    }
    match dice.below(8) {
        0 => action["host_rewrite_literal"] = json!("rewritten.example"),
        1 => action["host_rewrite_header"] = json!("x-b"),
        2 => {
            action["host_rewrite_path_regex"] =
                json!({"pattern": {"regex": "^/([a-zA-Z0-9]*).*$"}, "substitution": r"\1.example"});
        }
        _ => {}
    }
    action
}

/// Header edits of a virtual host or route.
fn edits(dice: &mut Dice, to: &mut Value, chance: usize) {
    const TEXTS: [&str; 8] = [
        "plain",
        "%REQ(x-a)%",
        "%REQ(x-missing?:path)%",
        "%PROTOCOL%",
        "%REQ(:method)%-%REQ(x-b)%",
        "100%%",
        "%REQ(x-version):2%",
        "%ROUTE_NAME%",
    ];
    for field in ["request_headers_to_add", "response_headers_to_add"] {
        if dice.percent(chance) {
            let actions = [
                "APPEND_IF_EXISTS_OR_ADD",
                "ADD_IF_ABSENT",
                "OVERWRITE_IF_EXISTS_OR_ADD",
                "OVERWRITE_IF_EXISTS",
            ];
            let name = *dice.pick(&["x-a", "x-b", "x-new", "x-more"]);
            to[field] = json!([{
                "header": {"key": name, "value": dice.pick(&TEXTS)},
                "append_action": dice.pick(&actions),
                "keep_empty_value": dice.percent(30),
            }]);
        }
    }
    for field in ["request_headers_to_remove", "response_headers_to_remove"] {
        if dice.percent(chance / 3) {
            to[field] = json!([dice.pick(&["x-a", "x-list", "content-type"])]);
        }
    }
}
