//! Resources as text to review: the types' own debug form without what is unset, `Any`s unfolded.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
};

use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StdoutAccessLog, stdout_access_log::AccessLogFormat,
};
use envoy_types::pb::envoy::extensions::filters::http::{
    ext_authz::v3::ExtAuthz, local_ratelimit::v3::LocalRateLimit as RequestRateLimit,
};
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit as ConnectionRateLimit;
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        rbac::v3::Rbac, route::v3::RouteConfiguration, trace::v3::ZipkinConfig,
    },
    extensions::{
        filters::{
            http::{rbac::v3::Rbac as HttpRbac, router::v3::Router},
            listener::{
                http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
                tls_inspector::v3::TlsInspector,
            },
            network::{
                http_connection_manager::v3::HttpConnectionManager, rbac::v3::Rbac as NetworkRbac,
                tcp_proxy::v3::TcpProxy,
            },
        },
        transport_sockets::tls::v3::{DownstreamTlsContext, Secret, UpstreamTlsContext},
        upstreams::http::v3::HttpProtocolOptions,
    },
};
use prost::{Message, Name};
use xds::resources::{KINDS, Snapshot};

/// The whole snapshot, in push order.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for kind in KINDS {
        for (name, resource) in &snapshot.resources[kind] {
            writeln!(text, "=== {} {name}", kind.rsplit('.').next().unwrap()).unwrap();
            text.push_str(&any(&resource.any.type_url, &resource.any.value));
        }
    }
    text
}

fn any(type_url: &str, value: &[u8]) -> String {
    fn debug<M: Message + Name + Default + Debug>(type_url: &str, value: &[u8]) -> Option<String> {
        (M::type_url() == type_url).then(|| format!("{:#?}", M::decode(value).unwrap()))
    }
    type Decoder = fn(&str, &[u8]) -> Option<String>;
    let decoders: [Decoder; 23] = [
        debug::<Cluster>,
        debug::<ClusterLoadAssignment>,
        debug::<Listener>,
        debug::<RouteConfiguration>,
        debug::<Secret>,
        |type_url, value| {
            let is = HttpRbac::type_url() == type_url;
            is.then(|| rules(HttpRbac::decode(value).unwrap().rules))
        },
        |type_url, value| {
            let is = NetworkRbac::type_url() == type_url;
            is.then(|| rules(NetworkRbac::decode(value).unwrap().rules))
        },
        debug::<Router>,
        debug::<HttpInspector>,
        debug::<OriginalDst>,
        debug::<TlsInspector>,
        debug::<HttpConnectionManager>,
        debug::<TcpProxy>,
        debug::<DownstreamTlsContext>,
        debug::<UpstreamTlsContext>,
        debug::<HttpProtocolOptions>,
        debug::<ConnectionRateLimit>,
        debug::<RequestRateLimit>,
        debug::<ExtAuthz>,
        // A map, whose own order is another each time.
        |type_url, value| {
            let is = StdoutAccessLog::type_url() == type_url;
            is.then(|| log_line(StdoutAccessLog::decode(value).unwrap()))
        },
        debug::<envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit>,
        debug::<envoy_types::pb::envoy::extensions::filters::network::ratelimit::v3::RateLimit>,
        debug::<ZipkinConfig>,
    ];
    let text = decoders.iter().find_map(|decode| decode(type_url, value));
    tidy(&text.unwrap_or_else(|| panic!("no decoder for {type_url}")))
}

/// Policies in the order of their names; the debug form of a map has none.
fn rules(rules: Option<Rbac>) -> String {
    let rules = rules.unwrap();
    let policies: BTreeMap<_, _> = rules.policies.iter().collect();
    format!("Rbac {{ action: {:?} }}\n{policies:#?}", rules.action())
}

/// Enum fields that say no more than that nothing was said.
const DEFAULTS: [&str; 17] = [
    "cluster_not_found_response_code: ServiceUnavailable",
    "codec_type: Auto",
    "dns_lookup_family: Auto",
    "drain_type: Default",
    "enforcement_type: OneTimeOnFirstByte",
    "forward_client_cert_details: Sanitize",
    "health_status: Unknown",
    "internal_redirect_action: PassThroughInternalRedirect",
    "ocsp_staple_policy: LenientStapling",
    "path_with_escaped_slashes_action: ImplementationSpecificDefault",
    "priority: Default",
    "protocol: Tcp",
    "protocol_selection: UseConfiguredProtocol",
    "server_header_transformation: Overwrite",
    "source_type: Any",
    "trace_context_option: UseB3",
    "trust_chain_verification: VerifyTrustChain",
];

/// Drops what is unset and all brackets, unfolds `Any`, and joins lines of which one holds the next.
fn tidy(text: &str) -> String {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut input = text.lines().peekable();
    while let Some(line) = input.next() {
        let word = line.trim();
        let indent = line.len() - word.len();
        let unset = [": None,", ": [],", ": {},", ": \"\",", ": 0,", ": false,"];
        let closes = word.starts_with(['}', ']', ')']);
        if closes || unset.iter().any(|end| word.ends_with(end)) {
            continue;
        }
        if word == "Any {" || word.ends_with(": Any {") {
            let type_url = input.next().unwrap().split('"').nth(1).unwrap();
            let end = format!("{:indent$}}},", "");
            let bytes: Vec<u8> = input
                .by_ref()
                .take_while(|line| *line != end)
                .filter_map(|byte| byte.trim().trim_end_matches(',').parse().ok())
                .collect();
            lines.push((indent, word.trim_end_matches(" {").to_owned()));
            let inner = any(type_url, &bytes);
            lines.extend(inner.lines().map(|line| {
                let word = line.trim_start();
                (indent + 4 + line.len() - word.len(), word.to_owned())
            }));
            continue;
        }
        let word = word.trim_end_matches(',');
        let word = word
            .trim_end_matches(" {")
            .trim_end_matches(['(', '[', '{'])
            .trim_end();
        let word = word.trim_end_matches(" Some");
        if !word.is_empty() && word != "Some" && !DEFAULTS.contains(&word) {
            lines.push((indent, word.to_owned()));
        }
    }
    let mut text = String::new();
    print(&lines, 0, &mut text);
    text
}

/// Prints a tree given by indentation; an only child goes on its parent's line.
fn print(lines: &[(usize, String)], depth: usize, text: &mut String) {
    let mut rest = lines;
    while let Some(((indent, word), below)) = rest.split_first() {
        let count = below.iter().take_while(|(inner, _)| inner > indent).count();
        let mut children = &below[..count];
        write!(text, "{:width$}{word}", "", width = depth * 2).unwrap();
        while let Some(((indent, word), below)) = children.split_first()
            && below.iter().all(|(inner, _)| inner > indent)
        {
            write!(text, " {word}").unwrap();
            children = below;
        }
        text.push('\n');
        print(children, depth + 1, text);
        rest = &below[count..];
    }
}

fn log_line(log: StdoutAccessLog) -> String {
    let Some(AccessLogFormat::LogFormat(format)) = log.access_log_format else {
        panic!("an access log without a format")
    };
    let Some(Format::JsonFormat(line)) = format.format else {
        panic!("an access log that is not JSON")
    };
    let keys: BTreeMap<_, _> = line.fields.into_iter().collect();
    format!("StdoutAccessLog {:?}", keys.keys().collect::<Vec<_>>())
}
