//! What a stock Envoy writes about requests and connections. It logs nothing unless it is told to; our own proxy writes
//! its line without being told, and is sent nothing of this.

use std::sync::LazyLock;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log},
            listener::v3::{FilterChain, Listener, filter},
        },
        extensions::{
            access_loggers::stream::v3::StdoutAccessLog,
            filters::network::{
                http_connection_manager::v3::HttpConnectionManager, tcp_proxy::v3::TcpProxy,
            },
        },
    },
    google::protobuf::{Any, Value, value},
};
use prost::{Message, Name};

use super::build::append_field;

/// Keys and Envoy's operators: OSM's line, and what our own proxy's has besides.
const LINE: [(&str, &str); 25] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_peer", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("filter_chain", "%FILTER_CHAIN_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("time_to_first_byte", "%RESPONSE_DURATION%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// Field `access_log` of a connection manager.
const OF_HTTP: u32 = 13;
/// Field `access_log` of a TCP proxy.
const OF_TCP: u32 = 5;

/// The logger. It stands in every chain, so it is made once.
static LOGGER: LazyLock<AccessLog> = LazyLock::new(logger);

/// Lets the listener log: its chains what they serve, itself what no chain took.
pub(super) fn add(listener: &mut Listener) {
    let encoded = LOGGER.encode_to_vec();
    for chain in &mut listener.filter_chains {
        add_to(chain, &encoded);
    }
    if let Some(chain) = &mut listener.default_filter_chain {
        add_to(chain, &encoded);
    }
    listener.access_log.push(LOGGER.clone());
}

fn add_to(chain: &mut FilterChain, encoded: &[u8]) {
    for filter in &mut chain.filters {
        let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
            continue;
        };
        // A repeated field may be appended to an encoded message: nothing is decoded for it.
        if any.type_url == HttpConnectionManager::type_url() {
            append_field(&mut any.value, OF_HTTP, encoded);
        } else if any.type_url == TcpProxy::type_url() {
            append_field(&mut any.value, OF_TCP, encoded);
        }
    }
}

fn logger() -> AccessLog {
    // `StdoutAccessLog.log_format.json_format.fields`, a map: encoded by hand, or its order would be another each time.
    let mut line = Vec::new();
    for (key, operator) in LINE {
        let value = Value {
            kind: Some(value::Kind::StringValue(operator.to_owned())),
        };
        let mut entry = Vec::new();
        append_field(&mut entry, 1, key.as_bytes());
        append_field(&mut entry, 2, &value.encode_to_vec());
        append_field(&mut line, 1, &entry);
    }
    let mut format = Vec::new();
    append_field(&mut format, 2, &line);
    let mut stdout = Vec::new();
    append_field(&mut stdout, 1, &format);
    AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(Any {
            type_url: StdoutAccessLog::type_url(),
            value: stdout,
        })),
        ..AccessLog::default()
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3::substitution_format_string::Format,
        extensions::access_loggers::stream::v3::stdout_access_log::AccessLogFormat,
    };

    use super::*;

    #[test]
    fn the_line_is_what_was_meant_and_always_the_same_bytes() {
        let Some(access_log::ConfigType::TypedConfig(any)) = logger().config_type else {
            panic!("a logger")
        };
        let stdout = StdoutAccessLog::decode(any.value.as_slice()).unwrap();
        let Some(AccessLogFormat::LogFormat(format)) = stdout.access_log_format else {
            panic!("a format")
        };
        let Some(Format::JsonFormat(line)) = format.format else {
            panic!("JSON")
        };
        assert_eq!(line.fields.len(), LINE.len());
        for (key, operator) in LINE {
            let value = line.fields[key].kind.clone();
            assert_eq!(value, Some(value::Kind::StringValue(operator.to_owned())));
        }
        assert_eq!(logger().encode_to_vec(), logger().encode_to_vec());
    }
}
