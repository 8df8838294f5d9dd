//! Route tables as YAML, taken or refused by name.

use xds::client::{Any, Kind, Parser};

use crate::config::{ConfigParser, Value};
use crate::route::{Action, RouteTable};

fn parse(yaml: &str) -> Result<std::sync::Arc<RouteTable>, String> {
    let any = schema::yaml("envoy.config.route.v3.RouteConfiguration", yaml).unwrap();
    let any = Any {
        type_url: any.type_url,
        value: any.value,
    };
    let mut parser = ConfigParser {
        own_certificate: "own".into(),
    };
    let parsed = parser.parse(Kind::Routes, "r", &any);
    match parsed.map(|parsed| parsed.value.value) {
        Ok(Value::Routes(table)) => Ok(table),
        Ok(_) => panic!("not a route table"),
        Err(rejected) => Err(rejected.to_string()),
    }
}

/// A table of one route.
fn one(route: &str) -> String {
    format!("name: r\nvirtual_hosts: [{{name: h, domains: ['*'], routes: [{route}]}}]")
}

fn outcome(yaml: &str) -> String {
    match parse(yaml) {
        Ok(_) => "accepted".to_owned(),
        Err(refused) => refused,
    }
}

#[test]
fn conditions_are_taken_or_refused_by_name() {
    let cases = [
        ("prefix: /", "accepted"),
        ("path: /a, case_sensitive: false", "accepted"),
        ("safe_regex: {regex: '/[a-z]+'}", "accepted"),
        (
            "safe_regex: {regex: '('}",
            "safe_regex.regex: the regular expression \"(\" is not valid",
        ),
        (
            "path_separated_prefix: /a, case_sensitive: false",
            "accepted",
        ),
        (
            "path_separated_prefix: /a/",
            "path_separated_prefix: \"/a/\" does not begin, or ends, with a slash",
        ),
        ("connect_matcher: {}", "accepted"),
        ("", ": a path specifier is needed"),
        ("prefix: /, grpc: {}", "accepted"),
        (
            "prefix: /, cookies: [{name: a, string_match: {exact: b}, invert_match: true}]",
            "accepted",
        ),
        (
            "prefix: /, cookies: [{name: a}]",
            "cookies[0].string_match: a condition is needed",
        ),
        (
            "prefix: /, runtime_fraction: {default_value: {numerator: 5, denominator: MILLION}, runtime_key: k}",
            "accepted",
        ),
        (
            "prefix: /, runtime_fraction: {runtime_key: k}",
            "runtime_fraction.default_value: a default is needed",
        ),
        (
            "prefix: /, tls_context: {presented: true, validated: false}",
            "accepted",
        ),
        (
            "prefix: /, headers: [{name: x, range_match: {start: 1, end: 5}, invert_match: true}]",
            "accepted",
        ),
        (
            "prefix: /, dynamic_metadata: [{filter: f, path: [{key: k}], value: {present_match: true}}]",
            "dynamic_metadata: this field changes the meaning",
        ),
    ];
    for (condition, expected) in cases {
        let found = outcome(&one(&format!(
            "{{match: {{{condition}}}, route: {{cluster: c}}}}"
        )));
        let at = "virtual_hosts[0].routes[0].match";
        let expected = match expected {
            "accepted" => expected.to_owned(),
            reason if reason.starts_with(':') => format!("{at}{reason}"),
            reason => format!("{at}.{reason}"),
        };
        assert!(found.starts_with(&expected), "{condition}: {found}");
    }
}

#[test]
fn actions_are_taken_or_refused_by_name() {
    let retry = "route: {cluster: c, retry_policy: {retry_on: '5xx,reset', num_retries: 3, per_try_timeout: 1s, \
                 per_try_idle_timeout: 0.5s, retry_back_off: {base_interval: 0.01s}, retriable_status_codes: [418], \
                 retriable_headers: [{name: x}], retriable_request_headers: [{name: z}], host_selection_retry_max_attempts: 3, \
                 retry_host_predicate: [{name: p, typed_config: \
                 {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], \
                 rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}], max_interval: 60s}}}";
    let cases = [
        (retry, "accepted"),
        (
            "route: {cluster: c, retry_policy: {retry_on: 'often'}}",
            "route.retry_policy.retry_on: \"often\" is no condition",
        ),
        (
            "route: {cluster: c, retry_policy: {retry_back_off: {base_interval: 1s, max_interval: 0.5s}}}",
            "route.retry_policy.retry_back_off.max_interval: less than base_interval",
        ),
        (
            "route: {cluster: c, retry_policy: {rate_limited_retry_back_off: {}}}",
            "route.retry_policy.rate_limited_retry_back_off.reset_headers: at least one header",
        ),
        (
            "route: {cluster: c, retry_policy: {retry_priority: {name: p}}}",
            "route.retry_policy.retry_priority: this field changes the meaning",
        ),
        (
            "route: {cluster: c, hedge_policy: {hedge_on_per_try_timeout: true}}",
            "route.hedge_policy: this field changes the meaning",
        ),
        ("route: {cluster_header: x-cluster}", "accepted"),
        (
            "route: {weighted_clusters: {clusters: [{name: a, weight: 1, host_rewrite_literal: h}, \
             {cluster_header: x, weight: 2}], header_name: x-draw}}",
            "accepted",
        ),
        (
            "route: {weighted_clusters: {clusters: [{name: a, cluster_header: x, weight: 1}]}}",
            "route.weighted_clusters.clusters[0].name: both name and cluster_header",
        ),
        (
            "route: {cluster: c, regex_rewrite: {pattern: {regex: '^/(a)'}, substitution: '/\\1'}}",
            "accepted",
        ),
        (
            "route: {cluster: c, regex_rewrite: {pattern: {regex: '^/a'}, substitution: '/\\1'}}",
            "route.regex_rewrite.substitution: \\1 names no group",
        ),
        (
            "route: {cluster: c, prefix_rewrite: /, path_rewrite: /x}",
            "route: only one of prefix_rewrite",
        ),
        ("route: {cluster: c, path_rewrite: '/%REQ(x)%'}", "accepted"),
        (
            "route: {cluster: c, path_rewrite: '/%REQ%'}",
            "route.path_rewrite: the command %REQ%",
        ),
        ("route: {cluster: c, host_rewrite_header: x-h}", "accepted"),
        (
            "route: {cluster: c, host_rewrite_path_regex: {pattern: {regex: '^/(.+)/.+$'}, substitution: '\\1'}}",
            "accepted",
        ),
        (
            "route: {cluster: c, host_rewrite: 'a-%REQ(x)%'}",
            "accepted",
        ),
        (
            "route: {cluster: c, max_stream_duration: {max_stream_duration: 1s, grpc_timeout_header_max: 0s, grpc_timeout_header_offset: 0.1s}}",
            "accepted",
        ),
        (
            "route: {cluster: c, flush_timeout: 1s, idle_timeout: 0s}",
            "accepted",
        ),
        (
            "route: {cluster: c, max_grpc_timeout: 1s}",
            "route.max_grpc_timeout: this field changes the meaning",
        ),
        (
            "redirect: {regex_rewrite: {pattern: {regex: a}, substitution: b}}",
            "accepted",
        ),
        ("redirect: {path_rewrite: '/%REQ(x)%'}", "accepted"),
        (
            "direct_response: {status: 200, body: {inline_string: hi}}",
            "accepted",
        ),
        (
            "direct_response: {status: 99}",
            "direct_response.status: 99 is not a status",
        ),
        (
            "direct_response: {status: 200, body_format: {text_format: '%RESPONSE_CODE%', content_type: text/html}}",
            "accepted",
        ),
        (
            "direct_response: {status: 200, body_format: {json_format: {code: '%RESPONSE_CODE%', n: 1, l: [x]}}}",
            "accepted",
        ),
        (
            "direct_response: {status: 200, body_format: {json_format: {code: '%NO%'}}}",
            "direct_response.body_format.json_format.fields[\"code\"]: the command %NO%",
        ),
    ];
    for (action, expected) in cases {
        let found = outcome(&one(&format!("{{match: {{prefix: /}}, {action}}}")));
        let expected = match expected {
            "accepted" => expected.to_owned(),
            reason => format!("virtual_hosts[0].routes[0].{reason}"),
        };
        assert!(found.starts_with(&expected), "{action}: {found}");
    }
}

#[test]
fn bodies_have_a_largest_size() {
    let table = |most: &str, length: usize| {
        let body = "x".repeat(length);
        let route = one(&format!(
            "{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}"
        ));
        outcome(&format!("{route}\n{most}"))
    };
    let refused = "virtual_hosts[0].routes[0].direct_response.body: ";
    assert_eq!(table("", 4096), "accepted");
    assert!(table("", 4097).starts_with(refused));
    assert_eq!(
        table("max_direct_response_body_size_bytes: 5000", 5000),
        "accepted"
    );
}

#[test]
fn headers_are_taken_or_refused_by_name() {
    let cases = [
        (
            "{header: {key: x, value: '%REQ(z)%'}, append_action: ADD_IF_ABSENT}",
            "accepted",
        ),
        (
            "{header: {key: x, value: '50%'}}",
            "header.value: \"50%\" has an incorrect command",
        ),
        (
            "{header: {key: x, value: '50%%'}, keep_empty_value: true}",
            "accepted",
        ),
        (
            "{header: {key: host, value: x}}",
            "header.key: host cannot be changed",
        ),
        (
            "{header: {key: ':path', value: x}}",
            "header.key: \":path\" is not a header name",
        ),
    ];
    for (add, expected) in cases {
        let route = "{match: {prefix: /}, route: {cluster: c}}";
        let found = outcome(&format!("{}\nrequest_headers_to_add: [{add}]", one(route)));
        let expected = match expected {
            "accepted" => expected.to_owned(),
            reason => format!("request_headers_to_add[0].{reason}"),
        };
        assert!(found.starts_with(&expected), "{add}: {found}");
    }
}

#[test]
fn a_route_without_a_retry_policy_has_its_hosts() {
    let table = parse(
        "name: r\nvirtual_hosts: [{name: h, domains: ['*'], retry_policy: {retry_on: reset, num_retries: 7}, \
         require_tls: ALL, include_request_attempt_count: true, routes: [{match: {prefix: /a}, route: {cluster: c}}, \
         {match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: 5xx}}}]}]",
    )
    .unwrap();
    let host = &table.hosts()[0];
    let retries: Vec<u32> = host
        .routes
        .all()
        .iter()
        .map(|route| match &route.action {
            Action::Forward(forward) => forward.retry.as_ref().unwrap().retries,
            _ => 0,
        })
        .collect();
    assert_eq!(retries, [7, 1]);
    assert!(host.https.is_some() && host.attempts_in_request);
}
