//! What becomes of local replies, from protobuf.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use http::StatusCode;

use super::matching::header_add;
use super::route::data;
use super::{At, Checked, access, each, format, refuse};
use crate::http::mapping::{Mapper, ReplyMapping};
use crate::route::Mutations;

pub(super) fn mapping(message: &pb::LocalReplyConfig) -> Checked<ReplyMapping> {
    let body = message.body_format.as_ref().map(format::body);
    Ok(ReplyMapping {
        mappers: each("mappers", &message.mappers, mapper)?,
        body: body.transpose().at("body_format")?,
    })
}

fn mapper(message: &pb::ResponseMapper) -> Checked<Mapper> {
    let Some(filter) = &message.filter else {
        return refuse("is needed").at("filter");
    };
    let status = message.status_code.as_ref().map(|status| {
        let status = u16::try_from(status.value).ok();
        let status = status.filter(|status| (200..600).contains(status));
        status
            .and_then(|status| StatusCode::from_u16(status).ok())
            .ok_or(())
            .or_else(|()| refuse("not a status from 200 to 599"))
    });
    let text = message.body.as_ref().map(data).transpose().at("body")?;
    let body = message.body_format_override.as_ref().map(format::body);
    Ok(Mapper {
        condition: access::condition(filter).at("filter")?,
        status: status.transpose().at("status_code")?,
        text: text.map(Into::into),
        body: body.transpose().at("body_format_override")?,
        headers: Mutations {
            remove: Vec::new(),
            add: each("headers_to_add", &message.headers_to_add, header_add)?,
        },
    })
}
