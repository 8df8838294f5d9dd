//! Changes to headers from protobuf.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;

use crate::config::matching::{header_add, header_name};
use crate::config::{Checked, each};
use crate::route::Edits;

pub(super) fn edits(
    request: (&[String], &[HeaderValueOption]),
    response: (&[String], &[HeaderValueOption]),
) -> Checked<Edits> {
    Ok(Edits {
        request_remove: each("request_headers_to_remove", request.0, |name| {
            header_name(name)
        })?,
        request_add: each("request_headers_to_add", request.1, header_add)?,
        response_remove: each("response_headers_to_remove", response.0, |name| {
            header_name(name)
        })?,
        response_add: each("response_headers_to_add", response.1, header_add)?,
    })
}
