//! HTTP/1 messages: what is taken is taken whole and in one way, however it arrives and whoever reads it again.

use bytes::{Bytes, BytesMut};
use h1::{Decoded, Decoder, HeadError, Length, Limits, Scanner};
use http::{HeaderMap, Method};

use crate::Target;

/// A request's head.
pub const REQUEST: Target = Target {
    name: "h1-request",
    run: |data| {
        let limits = Limits::default();
        let Some(end) = scan(data, &limits) else {
            return;
        };
        let Ok(request) = h1::parse_request(&Bytes::copy_from_slice(&data[..end]), &limits) else {
            return;
        };
        let parts = &request.parts;
        for (name, value) in &parts.headers {
            assert!(
                !value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)),
                "{name}"
            );
        }
        let framings = parts.headers.contains_key("content-length") as u8
            + parts.headers.contains_key("transfer-encoding") as u8;
        assert!(
            framings < 2 || request.length == Length::Empty,
            "two framings were taken"
        );
        // What we send on is read as the same request.
        let host = parts
            .headers
            .get("host")
            .map_or("a", |host| host.to_str().unwrap_or("a"));
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        if !host.bytes().all(|byte| byte.is_ascii_graphic())
            || !target.bytes().all(|byte| byte.is_ascii_graphic())
            // `http://a?q` has no path: the proxy's own rules for paths put `/` there before anything is sent on.
            || target.starts_with('?')
        {
            return;
        }
        let mut headers = parts.headers.clone();
        for name in [
            "host",
            "connection",
            "transfer-encoding",
            "upgrade",
            "expect",
        ] {
            headers.remove(name);
        }
        let mut out = Vec::new();
        h1::request_head(
            &mut out,
            &parts.method,
            target,
            host,
            &headers,
            request.length,
            None,
        );
        let wide = Limits {
            bytes: 1 << 20,
            headers: 200,
        };
        let again = h1::parse_request(&Bytes::from(out.clone()), &wide);
        let again =
            again.unwrap_or_else(|error| panic!("{error:?}: {}", String::from_utf8_lossy(&out)));
        assert_eq!(again.parts.method, parts.method);
        let same = again.length == request.length
            || (request.length, again.length) == (Length::Empty, Length::Exact(0));
        assert!(same, "{:?} became {:?}", request.length, again.length);
    },
    seeds: || {
        [
            "GET /a?b=c HTTP/1.1\r\nHost: web\r\nX: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n",
            "GET http://a/ HTTP/1.0\r\n\r\n",
        ]
        .map(Into::into)
        .to_vec()
    },
};

/// A response's head.
pub const RESPONSE: Target = Target {
    name: "h1-response",
    run: |data| {
        let limits = Limits::default();
        let Some(end) = scan(data, &limits) else {
            return;
        };
        let head = Bytes::copy_from_slice(&data[..end]);
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            if let Ok(response) = h1::parse_response(&head, &method, &limits) {
                let coded = response.parts.headers.contains_key("transfer-encoding");
                let long = response.parts.headers.contains_key("content-length");
                assert!(
                    !(coded && long) || response.length == Length::Empty,
                    "two framings were taken"
                );
            }
        }
    },
    seeds: || {
        [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.0 200\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]
        .map(Into::into)
        .to_vec()
    },
};

/// A body in chunks, at once and in pieces (the first byte says how large).
pub const BODY: Target = Target {
    name: "h1-body",
    run: |data| {
        let Some((piece, body)) = data.split_first() else {
            return;
        };
        let whole = decode(body, body.len().max(1));
        let pieces = decode(body, usize::from(*piece).max(1));
        assert_eq!(whole, pieces);
    },
    seeds: || {
        [
            "\x013\r\nabc\r\n0\r\n\r\n",
            "\x07a;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
            "\x0200003\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        ]
        .map(Into::into)
        .to_vec()
    },
};

/// Where the head ends; the same whether it comes at once or byte by byte.
fn scan(data: &[u8], limits: &Limits) -> Option<usize> {
    let whole: Result<Option<usize>, HeadError> = Scanner::default().scan(data, limits);
    let mut scanner = Scanner::default();
    for length in 1..=data.len().min(4096) {
        match scanner.scan(&data[..length], limits) {
            Ok(None) => {}
            Ok(Some(end)) => {
                assert!(
                    matches!(whole, Ok(Some(found)) if found == end),
                    "{end} or {whole:?}"
                );
                break;
            }
            Err(_) => {
                assert!(whole.is_err(), "an error in pieces, {whole:?} at once");
                break;
            }
        }
    }
    whole.ok().flatten()
}

/// Body, trailers and whether it ended; `None` for an error.
fn decode(data: &[u8], piece: usize) -> Option<(Vec<u8>, Option<HeaderMap>, bool)> {
    let mut decoder = Decoder::new(Length::Chunked, Limits::default());
    let (mut buffer, mut body, mut trailers) = (BytesMut::new(), Vec::new(), None);
    for piece in data.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer).ok()? {
                Decoded::Data(bytes) => body.extend_from_slice(&bytes),
                Decoded::Trailers(found) => {
                    trailers = Some(found);
                    return Some((body, trailers, true));
                }
                Decoded::End => return Some((body, trailers, true)),
                Decoded::More => break,
            }
        }
    }
    Some((body, trailers, false))
}
