//! What a connection manager believes of requests and does about their heads, from protobuf.

use envoy_types::pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use http::HeaderValue;
use http::uri::Authority;

use super::matching::range;
use super::{At, Checked, each, flag, refuse};
use crate::http::edge::Edge;
use crate::http::headers::{HeadRules, StripPort, Underscores};
use crate::http::path::{EscapedSlashes, PathRules};
use crate::http::xfcc::CertDetails;
use crate::listener::ClientCert;

pub(super) fn edge(message: &pb::HttpConnectionManager) -> Checked<Edge> {
    use pb::http_connection_manager::ForwardClientCertDetails as Xfcc;
    let client_cert = match Xfcc::try_from(message.forward_client_cert_details) {
        Ok(Xfcc::Sanitize) => ClientCert::Sanitize,
        Ok(Xfcc::ForwardOnly) => ClientCert::ForwardOnly,
        Ok(Xfcc::AppendForward) => ClientCert::AppendForward,
        Ok(Xfcc::SanitizeSet) => ClientCert::SanitizeSet,
        Ok(Xfcc::AlwaysForwardOnly) => ClientCert::AlwaysForwardOnly,
        Err(_) => return refuse("an unknown value").at("forward_client_cert_details"),
    };
    let via = match message.via.as_str() {
        "" => None,
        text => {
            Some(HeaderValue::from_str(text).or_else(|_| refuse("not a header value").at("via"))?)
        }
    };
    let internal = match &message.internal_address_config {
        Some(config) => each(
            "internal_address_config.cidr_ranges",
            &config.cidr_ranges,
            range,
        )?,
        None => Vec::new(),
    };
    Ok(Edge {
        use_remote_address: flag(message.use_remote_address.as_ref(), false),
        trusted_hops: message.xff_num_trusted_hops,
        skip_xff_append: message.skip_xff_append,
        append_port: message.append_x_forwarded_port,
        internal,
        generate_request_id: flag(message.generate_request_id.as_ref(), true),
        keep_request_id: message.preserve_external_request_id,
        client_cert,
        via,
    })
}

pub(super) fn cert_details(message: &pb::HttpConnectionManager) -> CertDetails {
    let details = message.set_current_client_cert_details.as_ref();
    CertDetails {
        subject: flag(details.and_then(|d| d.subject.as_ref()), false),
        dns: details.is_some_and(|d| d.dns),
        uri: details.is_some_and(|d| d.uri),
    }
}

fn default_host(message: &pb::HttpConnectionManager) -> Checked<Box<str>> {
    let options = message.http_protocol_options.as_ref();
    let host = options.map_or("", |options| &options.default_host_for_http_10);
    if !host.is_empty() && host.parse::<Authority>().is_err() {
        return refuse("not an authority").at("http_protocol_options.default_host_for_http_10");
    }
    Ok(host.into())
}

pub(super) fn heads(message: &pb::HttpConnectionManager) -> Checked<HeadRules> {
    use pb::http_connection_manager::{PathWithEscapedSlashesAction as Escaped, StripPortMode};
    let escaped_slashes = match Escaped::try_from(message.path_with_escaped_slashes_action) {
        Ok(Escaped::ImplementationSpecificDefault | Escaped::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Escaped::RejectRequest) => EscapedSlashes::Reject,
        Ok(Escaped::UnescapeAndRedirect) => EscapedSlashes::Redirect,
        Ok(Escaped::UnescapeAndForward) => EscapedSlashes::Forward,
        Err(_) => return refuse("an unknown value").at("path_with_escaped_slashes_action"),
    };
    let common = message.common_http_protocol_options.as_ref();
    let action = common.map_or(0, |common| common.headers_with_underscores_action);
    let underscores = match HeadersWithUnderscoresAction::try_from(action) {
        Ok(HeadersWithUnderscoresAction::Allow) => Underscores::Allow,
        Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::Reject,
        Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::Drop,
        Err(_) => {
            return refuse("an unknown value")
                .at("common_http_protocol_options.headers_with_underscores_action");
        }
    };
    let any = matches!(
        message.strip_port_mode,
        Some(StripPortMode::StripAnyHostPort(true))
    );
    let strip_port = match (any, message.strip_matching_host_port) {
        (true, true) => return refuse("both ways to cut ports off").at("strip_any_host_port"),
        (true, false) => StripPort::Any,
        (false, true) => StripPort::Matching,
        (false, false) => StripPort::None,
    };
    Ok(HeadRules {
        paths: PathRules {
            // Envoy's own default is off; RBAC on paths is only safe on normal paths, so here it is on.
            normalize: flag(message.normalize_path.as_ref(), true),
            merge_slashes: message.merge_slashes,
            escaped_slashes,
        },
        underscores,
        strip_port,
        strip_dot: message.strip_trailing_host_dot,
        default_host: default_host(message)?,
    })
}
