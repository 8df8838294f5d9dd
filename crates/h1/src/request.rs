//! Request heads.

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, HeaderMap};
use http::request::Parts;
use http::{Method, Uri, Version};

use crate::error::HeadError;
use crate::framing::{Length, announced, has_token};
use crate::head::{Limits, map, refused, with_room};

/// A request's head.
#[derive(Debug)]
pub struct Request {
    /// Method, target, version and headers; names in lower case, in order.
    pub parts: Parts,
    /// Where its body ends.
    pub length: Length,
    /// The client wants to go on with the connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Methods besides those of the `http` crate: the registered ones. Envoy, too, refuses any other.
const METHODS: [&str; 26] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "M-SEARCH",
];

/// Parses a head that [`crate::Scanner`] has found whole: `head` ends with its empty line.
pub fn parse_request(head: &Bytes, limits: &Limits) -> Result<Request, HeadError> {
    let (method, target, version, headers) = with_room(limits.headers, |room| {
        let mut request = httparse::Request::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_request_with_uninit_headers(&mut request, head, room)
            .map_err(|error| match refused(error) {
                HeadError::Version | HeadError::StartLine => of_line(head),
                other => other,
            })?;
        // A head that ends elsewhere than its scanner says would leave bytes to be read as something else.
        if parsed != httparse::Status::Complete(head.len()) {
            return Err(HeadError::LineEnd);
        }
        let method = method(request.method.unwrap_or_default())?;
        let target = head.slice_ref(request.path.unwrap_or_default().as_bytes());
        Ok((method, target, request.version, map(head, request.headers)?))
    })?;
    let version = match version {
        Some(1) => Version::HTTP_11,
        Some(0) => Version::HTTP_10,
        _ => return Err(HeadError::Version),
    };
    let is_version_10 = version == Version::HTTP_10;
    let uri = target_uri(&method, target)?;
    host(&headers, is_version_10)?;
    let length = announced(&headers, is_version_10)?.unwrap_or(Length::Empty);
    let keep_alive = !has_token(headers.get_all(CONNECTION), b"close")
        && (!is_version_10 || has_token(headers.get_all(CONNECTION), b"keep-alive"));
    let expects_continue = !is_version_10
        && length != Length::Empty
        && headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = headers;
    Ok(Request {
        parts,
        length,
        keep_alive,
        expects_continue,
    })
}

/// What is wrong with a request line that does not parse: one without a version, or with another one, may be the
/// right line of another HTTP.
fn of_line(head: &Bytes) -> HeadError {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next();
    let words: Vec<&[u8]> = line
        .unwrap_or_default()
        .split(|byte| *byte == b' ')
        .collect();
    let known = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| method(name).is_ok());
    match words.as_slice() {
        [name, target] if known(name) && target.starts_with(b"/") => HeadError::Version,
        [name, _, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]]
            if known(name)
                && major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !matches!((*major, *minor), (b'1', b'0' | b'1')) =>
        {
            HeadError::Version
        }
        _ => HeadError::StartLine,
    }
}

fn method(name: &str) -> Result<Method, HeadError> {
    let method = Method::from_bytes(name.as_bytes()).map_err(|_| HeadError::Method)?;
    let standard = matches!(
        method,
        Method::GET
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS
            | Method::CONNECT
            | Method::PATCH
            | Method::TRACE
    );
    if standard || METHODS.contains(&name) {
        Ok(method)
    } else {
        Err(HeadError::Method)
    }
}

/// One of the four forms of RFC 9112 §3.2, each for the methods it is for.
fn target_uri(method: &Method, target: Bytes) -> Result<Uri, HeadError> {
    // A fragment is not sent (RFC 9112 §3.2); who cuts it off and who does not would see two paths.
    let sane = target
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    if !sane {
        return Err(HeadError::Target);
    }
    let first = target.first().copied();
    let uri = Uri::from_maybe_shared(target).map_err(|_| HeadError::Target)?;
    let has_host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty());
    let fits = match first {
        Some(b'/') => *method != Method::CONNECT,
        Some(b'*') => *method == Method::OPTIONS && uri.path() == "*",
        _ if *method == Method::CONNECT => {
            has_host && uri.scheme().is_none() && uri.port_u16().is_some()
        }
        _ => has_host && matches!(uri.scheme_str(), Some("http" | "https")),
    };
    if fits {
        Ok(uri)
    } else {
        Err(HeadError::Target)
    }
}

/// RFC 9112 §3.2: one `Host` exactly; HTTP/1.0 may have none.
fn host(headers: &HeaderMap, is_version_10: bool) -> Result<(), HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        (None, _) if is_version_10 => Ok(()),
        (None, _) => Err(HeadError::NoHost),
        (Some(_), Some(_)) => Err(HeadError::ManyHosts),
    }
}
