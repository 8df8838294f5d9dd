//! What is a request, what a response, and what neither: row by row.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};
use h1::{
    HeadError, Length, Limits, Request, Response, Scanner, parse_request, parse_response,
    skip_empty_lines,
};
use http::{Method, StatusCode, Version};

fn request_within(text: &[u8], limits: &Limits) -> Result<Request, HeadError> {
    let mut bytes = BytesMut::from(text);
    skip_empty_lines(&mut bytes, &mut 0)?;
    match Scanner::default().scan(&bytes, limits)? {
        Some(length) => parse_request(&bytes.split_to(length).freeze(), limits),
        None => panic!("not whole: {:?}", String::from_utf8_lossy(text)),
    }
}

fn request(text: &[u8]) -> Result<Request, HeadError> {
    request_within(text, &Limits::default())
}

fn response(text: &str, method: &Method) -> Result<Response, HeadError> {
    let limits = Limits::default();
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    match Scanner::default().scan(&bytes, &limits)? {
        Some(length) => parse_response(&bytes.slice(..length), method, &limits),
        None => panic!("not whole: {text:?}"),
    }
}

#[test]
fn requests_that_are_one() {
    let rows: &[(&str, Length, bool)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Length::Empty, true),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Length::Empty, true),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            Length::Empty,
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
            Length::Empty,
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", Length::Empty, false),
        (
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            Length::Empty,
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            Length::Exact(5),
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Length::Empty,
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n",
            Length::Exact(i64::MAX as u64),
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            Length::Chunked,
            true,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:  CHUNKED \r\n\r\n",
            Length::Chunked,
            true,
        ),
        (
            "GET http://b:1/x?y HTTP/1.1\r\nHost: b:1\r\n\r\n",
            Length::Empty,
            true,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Length::Empty, true),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            Length::Empty,
            true,
        ),
        (
            "PURGE //a//b?%20 HTTP/1.1\r\nHost: a\r\n\r\n",
            Length::Empty,
            true,
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Length::Empty, true),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: \ta b\t\r\n\r\n",
            Length::Empty,
            true,
        ),
    ];
    for (text, length, keep_alive) in rows {
        let request = request(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert_eq!(
            (request.length, request.keep_alive),
            (*length, *keep_alive),
            "{text:?}"
        );
    }
}

#[test]
fn requests_that_are_none() {
    use HeadError as E;
    let rows: &[(&str, E)] = &[
        // Line ends.
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", E::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", E::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", E::LineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::LineEnd),
        (
            "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            E::StartLine,
        ),
        // Request lines.
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("\tGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET /\r\nHost: a\r\n\r\n", E::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::LineEnd),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("FOO / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::StartLine),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        // Headers.
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::Header),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
            E::Header,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tfolded\r\n\r\n",
            E::Header,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", E::Header),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n",
            E::Header,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{1}b\r\n\r\n", E::Header),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", E::Header),
        // Hosts.
        ("GET / HTTP/1.1\r\n\r\n", E::NoHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::ManyHosts),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", E::ManyHosts),
        // Framing.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            E::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
            E::Coding,
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::CodingInVersion10,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
            E::ContentLength,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n",
            E::ContentLength,
        ),
    ];
    for (text, expected) in rows {
        match request(text.as_bytes()) {
            Err(error) => assert_eq!(error, *expected, "{text:?}"),
            Ok(request) => panic!("taken: {text:?} as {request:?}"),
        }
    }
    // Statuses as Envoy's.
    assert_eq!(E::Coding.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(E::TooLarge.status().as_u16(), 431);
    assert_eq!(E::NoHost.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn the_head_is_understood() {
    let text = b"POST /p?q HTTP/1.1\r\nHOST: a.b:8\r\nX-Request-Id:1\r\nX-Odd: \xff\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    let request = request(text).unwrap();
    assert_eq!(request.parts.method, Method::POST);
    assert_eq!(request.parts.uri, "/p?q");
    assert_eq!(request.parts.version, Version::HTTP_11);
    assert_eq!(request.parts.headers["host"], "a.b:8");
    assert_eq!(request.parts.headers["x-request-id"], "1");
    assert_eq!(request.parts.headers["x-odd"].as_bytes(), b"\xff");
    assert!(request.expects_continue);
}

#[test]
fn limits_hold_to_the_byte_and_the_header() {
    let limits = Limits {
        bytes: 100,
        headers: 3,
    };
    let padded = |length: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(length - fixed)
        )
    };
    for (length, fits) in [(99, true), (100, true), (101, false)] {
        let parsed = request_within(padded(length).as_bytes(), &limits);
        assert_eq!(parsed.is_ok(), fits, "{length} bytes");
        assert!(fits || parsed.unwrap_err() == HeadError::TooLarge);
    }
    // A head that never ends is refused when it is too long, not when it is whole.
    let endless = vec![b'x'; 101];
    assert_eq!(
        Scanner::default().scan(&endless, &limits),
        Err(HeadError::TooLarge)
    );
    assert_eq!(Scanner::default().scan(&endless[..100], &limits), Ok(None));
    for (count, fits) in [(2, true), (3, true), (4, false)] {
        let text = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "x: 1\r\n".repeat(count - 1)
        );
        let parsed = request_within(text.as_bytes(), &limits);
        assert_eq!(parsed.is_ok(), fits, "{count} headers");
        assert!(fits || parsed.unwrap_err() == HeadError::TooManyHeaders);
    }
    // More than fit on the stack.
    let many = Limits {
        bytes: 1 << 20,
        headers: 500,
    };
    let text = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: 1\r\n".repeat(499)
    );
    assert_eq!(
        request_within(text.as_bytes(), &many)
            .unwrap()
            .parts
            .headers
            .len(),
        500
    );
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nGET /next";
    let whole = text.len() - "GET /next".len();
    let mut scanner = Scanner::default();
    for end in 0..whole {
        assert_eq!(
            scanner.scan(&text[..end], &Limits::default()),
            Ok(None),
            "{end}"
        );
    }
    assert_eq!(
        scanner.scan(&text[..whole], &Limits::default()),
        Ok(Some(whole))
    );
    assert_eq!(
        Scanner::default().scan(text, &Limits::default()),
        Ok(Some(whole))
    );
}

#[test]
fn responses_and_their_framing() {
    let get = Method::GET;
    let rows: &[(&str, &Method, Length, bool)] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            &get,
            Length::Exact(5),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            &get,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
            &get,
            Length::Chunked,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
            &get,
            Length::Close,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            &get,
            Length::Exact(5),
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            &get,
            Length::Exact(5),
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            &get,
            Length::Exact(5),
            true,
        ),
        (
            "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
            &get,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            &get,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\nX: y\r\n\r\n",
            &get,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            &get,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            &Method::HEAD,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &Method::HEAD,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
            &Method::CONNECT,
            Length::Empty,
            true,
        ),
        (
            "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n",
            &Method::CONNECT,
            Length::Exact(5),
            true,
        ),
    ];
    for (text, method, length, keep_alive) in rows {
        let response = response(text, method).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert_eq!(
            (response.length, response.keep_alive),
            (*length, *keep_alive),
            "{text:?}"
        );
    }
    assert!(
        response("HTTP/1.1 103 Early\r\nX: y\r\n\r\n", &get)
            .unwrap()
            .is_interim()
    );
    assert!(
        !response("HTTP/1.1 101 S\r\nX: y\r\n\r\n", &get)
            .unwrap()
            .is_interim()
    );
}

#[test]
fn responses_that_are_none() {
    use HeadError as E;
    let rows: &[(&str, E)] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::LengthAndCoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            E::ContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            E::ContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            E::Coding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::Coding,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::CodingInVersion10,
        ),
        ("HTTP/1.1 20 OK\r\nX: y\r\n\r\n", E::StartLine),
        ("HTTP/1.1 2000 OK\r\nX: y\r\n\r\n", E::StartLine),
        ("HTTP/2 200\r\nX: y\r\n\r\n", E::Version),
        ("ICY 200 OK\r\nX: y\r\n\r\n", E::Version),
        ("HTTP/1.1 200 OK\nX: y\r\n\r\n", E::LineEnd),
        ("HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n", E::Header),
        ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", E::Header),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", E::Header),
    ];
    for (text, expected) in rows {
        match response(text, &Method::GET) {
            Err(error) => assert_eq!(error, *expected, "{text:?}"),
            Ok(response) => panic!("taken: {text:?} as {response:?}"),
        }
    }
}
