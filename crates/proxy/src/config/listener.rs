//! Listeners and filter chains from protobuf.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, TrafficDirection, TransportSocket, transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::listener::{
    http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
    proxy_protocol::v3::ProxyProtocol, tls_inspector::v3::TlsInspector,
};
use envoy_types::pb::envoy::extensions::filters::network::{
    http_connection_manager::v3::HttpConnectionManager, tcp_proxy::v3 as tcp,
};
use envoy_types::pb::envoy::r#type::v3::hash_policy::PolicySpecifier;
use envoy_types::pb::google::protobuf::Any;
use socket2::TcpKeepalive;

use super::filters::network_filter;
use super::matching::range;
use super::{
    At, Checked, Context, access, each, extension, flag, http, ip_address, limit, port, refuse,
    socket_address, tls,
};
use crate::bell::Bell;
use crate::chain::{ChainMatch, ChainTable, SourceKind};
use crate::http::filters::overrides::Overrides;
use crate::listener::{
    Address, Binding, Chain, Direction, Listener, Predicate, TcpProxy, Terminal,
};
use crate::proxy_protocol::Accepts;
use crate::route::{Edits, Lot, Target, WeightedCluster};
use crate::socket_options::{Moment, Setting, SocketOption, Value};
use crate::tls::DownstreamTls;

/// Envoy waits 15 s for inspectors; so long a wait makes server-first protocols unusable, 200 ms do not …
const INSPECTION_TIMEOUT: Duration = Duration::from_millis(200);
/// … but where the connection would be closed for it, slow clients get Envoy's time.
const FATAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's default of the TCP proxy's idle timeout.
const TCP_IDLE: Duration = Duration::from_secs(3600);
/// For a TLS handshake where the chain sets none.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Linux caps it at `somaxconn`, which is 4096.
const BACKLOG: u32 = 4096;

pub(super) fn listener(message: pb::Listener, context: &mut Context) -> Checked<Listener> {
    let binding = binding(&message)?;
    let matches = each("filter_chains", &message.filter_chains, |chain| {
        chain_match(chain.filter_chain_match.as_ref()).at("filter_chain_match")
    })?;
    let table = ChainTable::new(matches).or_else(|(one, other)| {
        refuse(format!("has the same conditions as filter_chains[{one}]"))
            .at(format_args!("filter_chains[{other}]"))
    })?;
    let direction = match TrafficDirection::try_from(message.traffic_direction) {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        Ok(TrafficDirection::Outbound) => Direction::Outbound,
        _ => Direction::Unspecified,
    };
    if message.filter_chains.is_empty() && message.default_filter_chain.is_none() {
        return refuse("at least one filter chain is needed").at("filter_chains");
    }
    let mut listener = Listener {
        name: message.name.as_str().into(),
        stat_name: stat_name(&message, &binding.addresses),
        access_log: access::loggers(&message.access_log)?.into(),
        binding: Arc::new(binding),
        hands_over: flag(message.use_original_dst.as_ref(), false),
        ignores_limit: message.ignore_global_conn_limit,
        keepalive: message.tcp_keepalive.as_ref().map(keepalive),
        proxy_protocol: None,
        direction,
        original_destination: flag(message.use_original_dst.as_ref(), false),
        tls_inspector: None,
        http_inspector: None,
        inspection_timeout: limit(
            message.listener_filters_timeout.as_ref(),
            Some(if message.continue_on_listener_filters_timeout {
                INSPECTION_TIMEOUT
            } else {
                FATAL_TIMEOUT
            }),
        )
        .at("listener_filters_timeout")?
        .unwrap_or(Duration::from_secs(3600)),
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        table,
        chains: each("filter_chains", &message.filter_chains, |message| {
            chain(message, context).map(Arc::new)
        })?,
        default_chain: match &message.default_filter_chain {
            Some(message) => Some(Arc::new(
                chain(message, context).at("default_filter_chain")?,
            )),
            None => None,
        },
    };
    each("listener_filters", &message.listener_filters, |filter| {
        listener_filter(filter, &mut listener)
    })?;
    if uses_proxy_protocol(&message)? && listener.proxy_protocol.is_none() {
        listener.proxy_protocol = Some(accepts(&ProxyProtocol::default())?);
    }
    Ok(listener)
}

/// Envoy's: the first address, its colons as underscores.
fn stat_name(message: &pb::Listener, addresses: &[Address]) -> Arc<str> {
    match (message.stat_prefix.as_str(), addresses.first()) {
        ("", Some(address)) => address.at.to_string().replace(':', "_").into(),
        (prefix, _) => prefix.into(),
    }
}

fn binding(message: &pb::Listener) -> Checked<Binding> {
    let options = options(&message.socket_options).at("socket_options")?;
    let mut addresses = vec![address(message.address.as_ref(), options.clone()).at("address")?];
    addresses.extend(each(
        "additional_addresses",
        &message.additional_addresses,
        |additional| {
            let options = match &additional.socket_options {
                Some(own) => {
                    self::options(&own.socket_options).at("socket_options.socket_options")?
                }
                None => options.clone(),
            };
            address(additional.address.as_ref(), options).at("address")
        },
    )?);
    Ok(Binding {
        addresses,
        backlog: message.tcp_backlog_size.map_or(BACKLOG, |size| size.value),
        transparent: flag(message.transparent.as_ref(), false),
        freebind: flag(message.freebind.as_ref(), false),
        bind_to_port: flag(message.bind_to_port.as_ref(), true),
    })
}

fn address(message: Option<&core::Address>, options: Vec<SocketOption>) -> Checked<Address> {
    let socket = socket_address(message)?;
    Ok(Address {
        at: ip_address(socket).at("socket_address")?,
        v4_too: socket.ipv4_compat,
        options,
    })
}

/// Socket options, of listeners and of clusters.
pub(super) fn options(list: &[core::SocketOption]) -> Checked<Vec<SocketOption>> {
    use core::socket_option::{SocketState, Value as Given};
    let all = list.iter().enumerate().map(|(index, option)| {
        let value = match &option.value {
            Some(Given::IntValue(number)) => Value::Number(*number),
            Some(Given::BufValue(bytes)) => Value::Bytes(bytes.clone()),
            None => return refuse("a value is needed").at(format_args!("[{index}]")),
        };
        let moment = match SocketState::try_from(option.state) {
            Ok(SocketState::StatePrebind) => Moment::Created,
            Ok(SocketState::StateBound) => Moment::Bound,
            Ok(SocketState::StateListening) => Moment::Listening,
            Err(_) => return refuse("an unknown state").at(format_args!("[{index}].state")),
        };
        match Setting::of(option.level, option.name, &value) {
            Some(setting) => Ok(SocketOption { moment, setting }),
            None => refuse(format!(
                "option {} of level {} is not one that is supported",
                option.name, option.level
            ))
            .at(format_args!("[{index}]")),
        }
    });
    all.collect()
}

fn keepalive(message: &core::TcpKeepalive) -> TcpKeepalive {
    let mut keepalive = TcpKeepalive::new();
    if let Some(count) = &message.keepalive_probes {
        keepalive = keepalive.with_retries(count.value);
    }
    if let Some(seconds) = &message.keepalive_time {
        keepalive = keepalive.with_time(Duration::from_secs(seconds.value.into()));
    }
    if let Some(seconds) = &message.keepalive_interval {
        keepalive = keepalive.with_interval(Duration::from_secs(seconds.value.into()));
    }
    keepalive
}

fn listener_filter(message: &pb::ListenerFilter, listener: &mut Listener) -> Checked<()> {
    let Some(pb::listener_filter::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse("a typed_config is needed").at("typed_config");
    };
    let disabled = match &message.filter_disabled {
        Some(message) => predicate(message).at("filter_disabled")?,
        None => Predicate::Never,
    };
    if extension::<OriginalDst>(any).is_some() {
        listener.original_destination = true;
    } else if let Some(proxy) = extension::<ProxyProtocol>(any) {
        if disabled != Predicate::Never {
            return refuse("the PROXY protocol tells the port: it cannot depend on it")
                .at("filter_disabled");
        }
        listener.proxy_protocol = Some(accepts(&proxy?).at("typed_config")?);
    } else if extension::<TlsInspector>(any).is_some() {
        listener.tls_inspector = Some(disabled);
    } else if extension::<HttpInspector>(any).is_some() {
        listener.http_inspector = Some(disabled);
    } else {
        return refuse(format!("{:?} is not supported", any.type_url)).at("typed_config");
    }
    Ok(())
}

/// The old way to ask for the PROXY protocol, which Envoy reads off the first chain.
#[allow(deprecated)]
fn uses_proxy_protocol(message: &pb::Listener) -> Checked<bool> {
    let asks = |chain: &pb::FilterChain| flag(chain.use_proxy_proto.as_ref(), false);
    let first = message.filter_chains.first().is_some_and(asks);
    match message
        .filter_chains
        .iter()
        .position(|chain| asks(chain) != first)
    {
        None => Ok(first),
        Some(index) => refuse("must be the same in every chain")
            .at(format_args!("filter_chains[{index}].use_proxy_proto")),
    }
}

fn accepts(message: &ProxyProtocol) -> Checked<Accepts> {
    use core::proxy_protocol_config::Version;
    let mut accepts = Accepts {
        v1: true,
        v2: true,
        nothing: message.allow_requests_without_proxy_protocol,
    };
    for version in &message.disallowed_versions {
        match Version::try_from(*version) {
            Ok(Version::V1) => accepts.v1 = false,
            Ok(Version::V2) => accepts.v2 = false,
            Err(_) => return refuse("an unknown version").at("disallowed_versions"),
        }
    }
    Ok(accepts)
}

fn predicate(message: &pb::ListenerFilterChainMatchPredicate) -> Checked<Predicate> {
    use pb::listener_filter_chain_match_predicate::Rule;
    Ok(match &message.rule {
        Some(Rule::OrMatch(set)) => Predicate::Or(each("or_match.rules", &set.rules, predicate)?),
        Some(Rule::AndMatch(set)) => {
            Predicate::And(each("and_match.rules", &set.rules, predicate)?)
        }
        Some(Rule::NotMatch(inner)) => Predicate::Not(Box::new(predicate(inner).at("not_match")?)),
        Some(Rule::AnyMatch(true)) => Predicate::Always,
        Some(Rule::AnyMatch(false)) | None => Predicate::Never,
        Some(Rule::DestinationPortRange(range)) => {
            Predicate::Ports(range.start.into(), range.end.into())
        }
    })
}

fn chain_match(message: Option<&pb::FilterChainMatch>) -> Checked<ChainMatch> {
    use pb::filter_chain_match::ConnectionSourceType as Source;
    let Some(message) = message else {
        return Ok(ChainMatch::default());
    };
    let mut ports = each("source_ports", &message.source_ports, |number| {
        port(*number)
    })?;
    ports.sort_unstable();
    let server_names = each("server_names", &message.server_names, |name| {
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
                Ok(suffix.to_owned())
            }
            None if !lower.contains('*') => Ok(lower),
            _ => refuse(format!("{name:?} is neither a name nor *.suffix")),
        }
    })?;
    Ok(ChainMatch {
        port: message
            .destination_port
            .map(|number| port(number.value))
            .transpose()
            .at("destination_port")?,
        destinations: each("prefix_ranges", &message.prefix_ranges, range)?,
        server_names,
        transport: Some(message.transport_protocol.clone())
            .filter(|transport| !transport.is_empty()),
        applications: message.application_protocols.clone(),
        direct_sources: each(
            "direct_source_prefix_ranges",
            &message.direct_source_prefix_ranges,
            range,
        )?,
        source_kind: match Source::try_from(message.source_type) {
            Ok(Source::Any) => SourceKind::Any,
            Ok(Source::SameIpOrLoopback) => SourceKind::Local,
            Ok(Source::External) => SourceKind::External,
            Err(_) => return refuse("an unknown source type").at("source_type"),
        },
        sources: each("source_prefix_ranges", &message.source_prefix_ranges, range)?,
        source_ports: ports,
    })
}

fn chain(message: &pb::FilterChain, context: &mut Context) -> Checked<Chain> {
    let tls = message
        .transport_socket
        .as_ref()
        .map(|socket| downstream(socket, context));
    let Some((last, first)) = message.filters.split_last() else {
        return refuse("at least one filter is needed").at("filters");
    };
    let position = first.len();
    Ok(Chain {
        name: message.name.as_str().into(),
        source: message.clone(),
        tls: tls.transpose().at("transport_socket.typed_config")?,
        tls_server: ArcSwapOption::empty(),
        handshake_timeout: limit(
            message.transport_socket_connect_timeout.as_ref(),
            Some(HANDSHAKE),
        )
        .at("transport_socket_connect_timeout")?
        .unwrap_or(HANDSHAKE),
        filters: each("filters", first, |filter| {
            network_filter(typed(filter)?).at("typed_config")
        })?,
        terminal: typed(last)
            .and_then(|any| terminal(any, context).at("typed_config"))
            .at(format_args!("filters[{position}]"))?,
        drain: Bell::default(),
        http_stats: OnceLock::new(),
    })
}

fn typed(filter: &pb::Filter) -> Checked<&Any> {
    match &filter.config_type {
        Some(pb::filter::ConfigType::TypedConfig(any)) => Ok(any),
        _ => refuse("a typed_config is needed").at("typed_config"),
    }
}

fn downstream(socket: &TransportSocket, context: &mut Context) -> Checked<DownstreamTls> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return refuse("a DownstreamTlsContext is needed");
    };
    match extension(any) {
        Some(message) => tls::downstream(&message?, context),
        None => refuse(format!("{:?} is not supported", any.type_url)),
    }
}

fn terminal(any: &Any, context: &mut Context) -> Checked<Terminal> {
    if let Some(message) = extension::<tcp::TcpProxy>(any) {
        return Ok(Terminal::Tcp(tcp_proxy(&message?)?));
    }
    match extension::<HttpConnectionManager>(any) {
        Some(message) => Ok(Terminal::Http(Box::new(http::manager(&message?, context)?))),
        None => refuse(format!("{:?} cannot be the last filter", any.type_url)),
    }
}

fn tcp_proxy(message: &tcp::TcpProxy) -> Checked<TcpProxy> {
    let target = match &message.cluster_specifier {
        Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
            Target::Cluster(name.as_str().into())
        }
        Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(list)) => {
            let clusters: Vec<WeightedCluster> = list
                .clusters
                .iter()
                .map(|cluster| WeightedCluster {
                    subset: Default::default(),
                    name: cluster.name.as_str().into(),
                    header: None,
                    weight: cluster.weight,
                    host: None,
                    edits: Edits::default(),
                    overrides: Overrides::default(),
                })
                .collect();
            let total = clusters
                .iter()
                .try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
            match total {
                Some(total) if total > 0 => Target::Weighted {
                    total,
                    clusters,
                    by: Lot::Random,
                },
                _ => {
                    return refuse("the weights must sum to a positive 32-bit number")
                        .at("weighted_clusters");
                }
            }
        }
        None => return refuse("cluster or weighted_clusters is needed"),
    };
    Ok(TcpProxy {
        access_log: access::loggers(&message.access_log)?,
        stat_prefix: message.stat_prefix.as_str().into(),
        target,
        idle_timeout: limit(message.idle_timeout.as_ref(), Some(TCP_IDLE)).at("idle_timeout")?,
        hash_source: message
            .hash_policy
            .iter()
            .any(|policy| matches!(&policy.policy_specifier, Some(PolicySpecifier::SourceIp(_)))),
        connect_attempts: message
            .max_connect_attempts
            .map_or(1, |attempts| attempts.value.clamp(1, 10)),
        max_duration: limit(message.max_downstream_connection_duration.as_ref(), None)
            .at("max_downstream_connection_duration")?,
    })
}
