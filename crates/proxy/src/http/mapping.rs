//! Local replies in a form of the operator's: Envoy's `local_reply_config`.

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderValue;
use http::response::Parts;

use super::facts::Scene;
use super::router::Way;
use crate::access::{Condition, milliseconds};
use crate::format::Body;
use crate::route::Mutations;

/// What becomes of local replies.
#[derive(Debug, Default)]
pub struct ReplyMapping {
    /// The first that concerns a reply changes it.
    pub mappers: Vec<Mapper>,
    /// How bodies are made, unless the mapper says so; absent, they stay.
    pub body: Option<Body>,
}

/// What becomes of some local replies.
#[derive(Debug)]
pub struct Mapper {
    /// Which.
    pub condition: Condition,
    /// Their status.
    pub status: Option<StatusCode>,
    /// Their text, which a format may still use.
    pub text: Option<Bytes>,
    /// How their bodies are made.
    pub body: Option<Body>,
    /// Headers that they have besides.
    pub headers: Mutations,
}

impl ReplyMapping {
    /// Changes a reply; returns the type that its body has unless a header says otherwise.
    pub fn apply(&self, way: &mut Way<'_, '_>, head: &mut Parts, body: &mut Bytes) -> HeaderValue {
        way.exchange.line.response_code = head.status.as_u16();
        way.exchange.line.duration = milliseconds(way.exchange.started().elapsed());
        let request = way.target.view(&way.parts.method, &way.parts.headers);
        let line = &way.exchange.line;
        let mut mappers = self.mappers.iter();
        let mapper = mappers.find(|mapper| mapper.condition.holds(line, Some(&request)));
        let mut format = self.body.as_ref();
        if let Some(mapper) = mapper {
            if let Some(text) = &mapper.text {
                body.clone_from(text);
            }
            mapper.headers.response(&mut head.headers, &way.scene());
            if let Some(status) = mapper.status {
                head.status = status;
                way.exchange.line.response_code = status.as_u16();
            }
            format = mapper.body.as_ref().or(format);
        }
        let Some(format) = format else {
            return HeaderValue::from_static("text/plain");
        };
        let text = String::from_utf8_lossy(body);
        let made = format.make(&Scene {
            response: Some(&head.headers),
            body: Some(&text),
            ..way.scene()
        });
        *body = made;
        format.content_type.clone()
    }
}
