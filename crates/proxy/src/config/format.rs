//! Format strings of local replies and logs from protobuf.

use envoy_types::pb::envoy::config::core::v3::SubstitutionFormatString;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http::HeaderValue;

use super::route::data;
use super::{At, Checked, refuse};
use crate::format::{Body, Content, Json, Missing, Template};

/// JSON nested deeper than this is refused.
const DEPTH: usize = 16;

/// How a body is made.
pub(super) fn body(message: &SubstitutionFormatString) -> Checked<Body> {
    let content = content(message)?;
    let default = match &content {
        Content::Text(_) => "text/plain",
        Content::Json(_) => "application/json",
    };
    let content_type = match message.content_type.as_str() {
        "" => HeaderValue::from_static(default),
        text => HeaderValue::from_str(text)
            .or_else(|_| refuse("not a header value").at("content_type"))?,
    };
    Ok(Body {
        content,
        content_type,
        missing: missing(message),
    })
}

/// What stands for absent values.
pub(super) fn missing(message: &SubstitutionFormatString) -> Missing {
    if message.omit_empty_values {
        Missing::Empty
    } else {
        Missing::Dash
    }
}

/// The content of a body or of a log's line.
pub(super) fn content(message: &SubstitutionFormatString) -> Checked<Content> {
    #[allow(deprecated)] // Control planes still send the old form.
    match &message.format {
        Some(Format::TextFormat(text)) => text_of(text).at("text_format"),
        Some(Format::TextFormatSource(source)) => {
            let bytes = data(source).at("text_format_source")?;
            match String::from_utf8(bytes) {
                Ok(text) => text_of(&text).at("text_format_source"),
                Err(_) => refuse("not UTF-8").at("text_format_source"),
            }
        }
        Some(Format::JsonFormat(message)) => {
            Ok(Content::Json(object(message, 0).at("json_format")?))
        }
        None => refuse("a format is needed"),
    }
}

fn text_of(text: &str) -> Checked<Content> {
    Template::parse(text).map(Content::Text).or_else(refuse)
}

fn object(message: &Struct, depth: usize) -> Checked<Json> {
    let fields = message.fields.iter().map(|(key, value)| {
        let value = json(value, depth.saturating_add(1)).at(format_args!("fields[{key:?}]"))?;
        Ok((key.clone(), value))
    });
    let mut fields = fields.collect::<Checked<Vec<(String, Json)>>>()?;
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Json::Object(fields))
}

fn json(message: &Value, depth: usize) -> Checked<Json> {
    if depth > DEPTH {
        return refuse("nested too deeply");
    }
    Ok(match &message.kind {
        None | Some(Kind::NullValue(_)) => Json::Fixed(serde_json::Value::Null),
        Some(Kind::BoolValue(value)) => Json::Fixed((*value).into()),
        Some(Kind::NumberValue(value)) => Json::Fixed(number(*value)),
        Some(Kind::StringValue(text)) => Json::Text(Template::parse(text).or_else(refuse)?),
        Some(Kind::ListValue(list)) => {
            let items = list.values.iter();
            Json::List(
                items
                    .map(|value| json(value, depth.saturating_add(1)))
                    .collect::<Checked<_>>()?,
            )
        }
        Some(Kind::StructValue(message)) => object(message, depth)?,
    })
}

/// Whole numbers are written without a point.
fn number(value: f64) -> serde_json::Value {
    let text = value.to_string();
    match text.parse::<i64>() {
        Ok(whole) => whole.into(),
        Err(_) => value.into(),
    }
}
