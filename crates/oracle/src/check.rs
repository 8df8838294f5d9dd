//! What is sent in a case, as the case files write it.
//!
//! A request is one line: `POST /path | name: value | name: value > body`, with `h2 ` before it for HTTP/2,
//! `h1.0 ` for HTTP/1.0; `Host: oracle` (`:authority`) unless it says otherwise. `*300` as value or body is
//! filler of 300 bytes.

use serde::Deserialize;
use serde_json::Value;

/// One case: what is sent, and in which way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// Says what is special; else the request is the name.
    pub name: String,
    /// Requests, one after the other, each on its own connection …
    pub request: Requests,
    /// … or all on the first one's.
    pub keep: bool,
    /// HTTP/1: exact bytes, on one connection.
    pub raw: Option<String>,
    /// The methods of `raw`, one answer each.
    pub methods: Vec<String>,
    /// HTTP/2 frames by hand.
    pub frames: Vec<Frame>,
    /// TCP: bytes, and then what comes back.
    pub tcp: Option<String>,
    /// TCP: the client ends its half after the bytes.
    pub finish: bool,
    /// TCP: what comes back is that long; else until the end or the limit.
    pub expect: usize,
    /// TLS, and with what.
    pub tls: Option<Tls>,
    /// Bytes before everything.
    pub preface: String,
    /// So many times: answers and backends are counted, and compared as distributions.
    pub repeat: usize,
    /// So many at the same time: answers are counted.
    pub parallel: usize,
    /// Milliseconds until an answer must have come.
    pub limit: u64,
    /// Fields of which only the presence is compared; with `-` before the name, not even that (`-backend`: nothing of
    /// what the backend received). `reset`: counts as closed, where it is a race between the close and bytes under way.
    pub mask: Vec<String>,
    /// Pause in milliseconds between requests.
    pub pause: u64,
    /// Not over HTTP/2, although the setup says `h2_too`.
    pub h1_only: bool,
}

/// One request line or several.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum Requests {
    /// Something else is sent.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// How the client shakes hands.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// `none`, `client`, `other-root`, `expired`, `no-names`, `wrong-name`.
    pub cert: String,
    /// Server name.
    pub sni: String,
    /// Protocols offered.
    pub alpn: Vec<String>,
}

/// One HTTP/2 frame.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Frame {
    /// HEADERS: `name: value` each; a pseudo header begins with its colon.
    pub headers: Option<Vec<String>>,
    /// DATA.
    pub data: Option<String>,
    /// Any other: type, flags and payload.
    pub other: Option<(u8, u8, Vec<u8>)>,
    /// END_STREAM.
    pub end: bool,
    /// Stream, 1 if not said.
    pub stream: Option<u32>,
}

/// Which HTTP a request is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    One0,
    /// HTTP/1.1.
    One1,
    /// HTTP/2.
    Two,
}

/// A request that was read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Over which HTTP.
    pub version: Version,
    /// Method.
    pub method: String,
    /// Target.
    pub target: String,
    /// `Host` or `:authority`.
    pub host: String,
    /// Other fields.
    pub fields: Vec<(String, String)>,
    /// Content.
    pub body: Vec<u8>,
}

/// `*300` is 300 times `x`; everything else is itself.
pub fn filler(text: &str) -> String {
    match text.strip_prefix('*').and_then(|count| count.parse().ok()) {
        Some(count) => "x".repeat(count),
        None => text.to_owned(),
    }
}

// === impl Check ===

impl Check {
    /// From a line or a mapping.
    pub fn parse(value: &Value) -> Result<Check, String> {
        match value {
            Value::String(line) => Ok(Check {
                request: Requests::One(line.clone()),
                ..Check::default()
            }),
            other => serde_json::from_value(other.clone()).map_err(|error| error.to_string()),
        }
    }

    /// The case's name within its setup.
    pub fn title(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let what = match &self.request {
            Requests::One(line) => line.clone(),
            Requests::Many(lines) => lines.join("; "),
            Requests::None => {
                let text = self.raw.as_deref().or(self.tcp.as_deref());
                text.unwrap_or("frames").escape_default().to_string()
            }
        };
        let tls = self.tls.as_ref().map(|tls| {
            let alpn = tls.alpn.join(",");
            format!(" [{} {} {alpn}]", tls.cert, tls.sni)
        });
        let mut title = what + &tls.unwrap_or_default();
        if title.len() > 120 {
            let end = (0..=120).rev().find(|at| title.is_char_boundary(*at));
            title.truncate(end.unwrap_or(0));
        }
        title
    }

    /// The request lines.
    pub fn lines(&self) -> &[String] {
        match &self.request {
            Requests::None => &[],
            Requests::One(line) => std::slice::from_ref(line),
            Requests::Many(lines) => lines,
        }
    }

    /// The same over HTTP/2, if it is a plain request over HTTP/1.1.
    pub fn over_h2(&self) -> Option<Check> {
        let is_plain = |line: &String| !line.starts_with("h2 ") && !line.starts_with("h1.0 ");
        if self.h1_only || self.lines().is_empty() || !self.lines().iter().all(is_plain) {
            return None;
        }
        let lines = self.lines().iter().map(|line| format!("h2 {line}"));
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!("h2 {name}"),
        };
        Some(Check {
            name,
            request: Requests::Many(lines.collect()),
            ..self.clone()
        })
    }
}

// === impl Request ===

impl Request {
    /// Reads a request line of the case files.
    pub fn parse(line: &str) -> Request {
        let (version, line) = match line {
            line if line.starts_with("h2 ") => (Version::Two, &line[3..]),
            line if line.starts_with("h1.0 ") => (Version::One0, &line[5..]),
            line => (Version::One1, line),
        };
        let (head, body) = line.split_once(" > ").unwrap_or((line, ""));
        let mut parts = head.split(" | ");
        let start = parts.next().unwrap_or_default().trim();
        let (method, target) = start.split_once(' ').unwrap_or((start, "/"));
        let mut host = "oracle".to_owned();
        let mut fields = Vec::new();
        for part in parts {
            let (name, value) = part.split_once(':').unwrap_or((part, ""));
            let (name, value) = (name.trim(), filler(value.trim()));
            match name.eq_ignore_ascii_case("host") {
                true => host = value,
                false => fields.push((name.to_owned(), value)),
            }
        }
        Request {
            version,
            method: method.to_owned(),
            target: target.to_owned(),
            host,
            fields,
            body: filler(body).into_bytes(),
        }
    }

    /// HTTP/1: its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let version = match self.version {
            Version::One0 => "1.0",
            _ => "1.1",
        };
        let mut text = format!("{} {} HTTP/{version}\r\n", self.method, self.target);
        if !self.host.is_empty() {
            text.push_str(&format!("Host: {}\r\n", self.host));
        }
        let mut is_framed = false;
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
            is_framed |= name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding");
        }
        if !self.body.is_empty() && !is_framed {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// HTTP/2: as the client library takes it.
    pub fn http(&self) -> Result<http::Request<()>, http::Error> {
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(self.host.as_str());
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(uri.path_and_query(self.target.as_str()).build()?);
        for (name, value) in &self.fields {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        request.body(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_request() {
        let request = Request::parse("POST /a?b=1 | Host: x.y | A: b: c | big: *3 > body");
        let text = String::from_utf8(request.bytes()).unwrap();
        assert_eq!(
            text,
            "POST /a?b=1 HTTP/1.1\r\nHost: x.y\r\nA: b: c\r\nbig: xxx\r\nContent-Length: 4\r\n\r\nbody"
        );
        let request = Request::parse("h2 GET /");
        assert_eq!(request.version, Version::Two);
        assert_eq!(request.http().unwrap().uri(), "http://oracle/");
        assert_eq!(
            Request::parse("h1.0 GET / | host:").bytes(),
            b"GET / HTTP/1.0\r\n\r\n"
        );
    }
}
