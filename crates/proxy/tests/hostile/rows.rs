//! The rows of the smuggling table.

use crate::smuggling::Expect::{self, Harmless, Passed, Refused};
use crate::smuggling::Row;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n";

/// A POST with these header lines and what follows them.
fn post(headers: &str, rest: &str) -> Vec<u8> {
    let head = format!("POST /public HTTP/1.1\r\nHost: web.ns\r\n{headers}\r\n{rest}");
    head.chars()
        .map(|char| u8::try_from(u32::from(char)).unwrap())
        .collect()
}

/// A POST in chunks; what follows the head is given.
fn chunked(rest: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", rest)
}

/// A GET with these header lines.
fn get(headers: &str) -> Vec<u8> {
    line(
        "GET /public HTTP/1.1",
        &format!("Host: web.ns\r\n{headers}"),
    )
}

fn line(line: &str, headers: &str) -> Vec<u8> {
    let head = format!("{line}\r\n{headers}\r\n");
    head.chars()
        .map(|char| u8::try_from(u32::from(char)).unwrap())
        .collect()
}

fn row(name: &'static str, bytes: Vec<u8>, expect: Expect) -> Row {
    Row {
        name,
        bytes,
        expect,
    }
}

fn once(body: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("POST /public", body)]
}

fn got() -> Vec<(&'static str, &'static str)> {
    vec![("GET /public", "")]
}

/// Content-Length and Transfer-Encoding: RFC 9112 §6.
pub fn lengths() -> Vec<Row> {
    let tail = format!("0\r\n\r\n{SMUGGLED}");
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &tail);
    let cl = |value: &str| {
        post(
            &format!("Content-Length: {value}\r\n"),
            &format!("abc{SMUGGLED}"),
        )
    };
    vec![
        row(
            "length, then chunked",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "chunked, then length",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &tail),
            Refused,
        ),
        row(
            "length 0 and chunked",
            post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "length and an unknown coding",
            post("Content-Length: 5\r\nTransfer-Encoding: x\r\n", &tail),
            Refused,
        ),
        row(
            "length and an empty coding",
            post("Transfer-Encoding:\r\nContent-Length: 3\r\n", "abc"),
            Refused,
        ),
        row(
            "two codings",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                &tail,
            ),
            Refused,
        ),
        row(
            "chunked, then identity",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                &tail,
            ),
            Refused,
        ),
        row(
            "identity, then chunked",
            post(
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
                &tail,
            ),
            Refused,
        ),
        row("chunked twice in one line", te("chunked, chunked"), Refused),
        row("gzip, chunked", te("gzip, chunked"), Refused),
        row("chunked, gzip", te("chunked, gzip"), Refused),
        row("identity", te("identity"), Refused),
        row("xchunked", te("xchunked"), Refused),
        row("chunked with a parameter", te("chunked;q=1"), Refused),
        row("chunked in quotes", te("\"chunked\""), Refused),
        row("chunked and a comma", te("chunked,"), Refused),
        row("a comma and chunked", te(",chunked"), Refused),
        row("chunked and a vertical tab", te("chunked\x0b"), Refused),
        row("a vertical tab and chunked", te("\x0bchunked"), Refused),
        row("chunked and NUL", te("chunked\0"), Refused),
        row("chunked and a high byte", te("chunked\u{a0}"), Refused),
        row(
            "space before the colon",
            post("Transfer-Encoding : chunked\r\n", &tail),
            Refused,
        ),
        row(
            "tab before the colon",
            post("Transfer-Encoding\t: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "coding on a folded line",
            post("Transfer-Encoding:\r\n chunked\r\n", &tail),
            Refused,
        ),
        row(
            "coding hidden in a fold",
            post("X: y\r\n Transfer-Encoding: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "coding after a bare CR",
            post("X: y\rTransfer-Encoding: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "coding after a bare LF",
            post("X: y\nTransfer-Encoding: chunked\r\n", &tail),
            Refused,
        ),
        row(
            "chunked in 1.0",
            line(
                "POST /public HTTP/1.0",
                &format!("Host: web.ns\r\nTransfer-Encoding: chunked\r\n\r\n{tail}"),
            ),
            Refused,
        ),
        row(
            "upper case",
            post("Transfer-Encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            Passed(once("abc")),
        ),
        row(
            "a tab and chunked",
            post("Transfer-Encoding:\tchunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            Passed(once("abc")),
        ),
        row("length +3", cl("+3"), Refused),
        row("length -3", cl("-3"), Refused),
        row("length 0x3", cl("0x3"), Refused),
        row("length 3abc", cl("3abc"), Refused),
        row("length 3 3", cl("3 3"), Refused),
        row("length 3.0", cl("3.0"), Refused),
        row("length 1e1", cl("1e1"), Refused),
        row("length empty", cl(""), Refused),
        row("length with NUL", cl("3\0"), Refused),
        row("length with a no-break space", cl("\u{a0}3"), Refused),
        row("length 2^64", cl("18446744073709551616"), Refused),
        row("length 2^64 + 3", cl("18446744073709551619"), Refused),
        row("length 2^63", cl("9223372036854775808"), Refused),
        row("length 3, 4", cl("3, 4"), Refused),
        row("length 3;", cl("3;"), Refused),
        row(
            "length 3, 3",
            post("Content-Length: 3, 3\r\n", "abc"),
            Harmless(once("abc")),
        ),
        row(
            "lengths 3 and 3",
            post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
            Harmless(once("abc")),
        ),
        row(
            "lengths 3 and 4",
            post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
            Refused,
        ),
        row(
            "lengths 0 and 40",
            post("Content-Length: 0\r\nContent-Length: 40\r\n", SMUGGLED),
            Refused,
        ),
        row(
            "space before the length's colon",
            post("Content-Length : 3\r\n", "abc"),
            Refused,
        ),
        row(
            "length 03",
            post("Content-Length: 03\r\n", "abc"),
            Harmless(once("abc")),
        ),
        row(
            "length between blanks",
            post("Content-Length: \t3 \r\n", "abc"),
            Passed(once("abc")),
        ),
        row(
            "a hop's length",
            post(
                "Connection: Content-Length\r\nContent-Length: 40\r\n",
                SMUGGLED,
            ),
            Harmless(once(SMUGGLED)),
        ),
        row(
            "a hop's coding",
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "3\r\nabc\r\n0\r\n\r\n",
            ),
            Harmless(once("abc")),
        ),
        row(
            "a length of a GET",
            line(
                "GET /public HTTP/1.1",
                &format!(
                    "Host: web.ns\r\nContent-Length: 40\r\n\r\n{}",
                    SMUGGLED.trim_end_matches("\r\n")
                ),
            ),
            Harmless(vec![]),
        ),
    ]
}

/// Chunks: RFC 9112 §7.1.
pub fn chunks() -> Vec<Row> {
    let end = format!("0\r\n\r\n{SMUGGLED}");
    let long = "a".repeat(20_000);
    let many: String = (0..2000)
        .map(|_| "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n")
        .collect();
    vec![
        row("size +3", chunked(&format!("+3\r\nabc\r\n{end}")), Refused),
        row("size -3", chunked(&format!("-3\r\nabc\r\n{end}")), Refused),
        row(
            "size 0x3",
            chunked(&format!("0x3\r\nabc\r\n{end}")),
            Refused,
        ),
        row("no size", chunked(&format!("\r\nabc\r\n{end}")), Refused),
        row(
            "size of a word",
            chunked(&format!("three\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size of 17 digits that overflows",
            chunked(&format!("10000000000000003\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size of all Fs",
            chunked(&format!("FFFFFFFFFFFFFFFF\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size with a leading space",
            chunked(&format!(" 3\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size with spaces inside",
            chunked(&format!("3 3\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size and a space",
            chunked("3 \r\nabc\r\n0\r\n\r\n"),
            Harmless(once("abc")),
        ),
        row(
            "size with leading zeros",
            chunked("0003\r\nabc\r\n0\r\n\r\n"),
            Harmless(once("abc")),
        ),
        row(
            "size ended by LF",
            chunked(&format!("3\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "size ended by CR",
            chunked(&format!("3\rabc\r\n{end}")),
            Refused,
        ),
        row(
            "size ended by CR CR LF",
            chunked(&format!("3\r\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "data ended by LF",
            chunked(&format!("3\r\nabc\n{end}")),
            Refused,
        ),
        row(
            "data without end",
            chunked(&format!("3\r\nabc{end}")),
            Refused,
        ),
        row(
            "more data than the size",
            chunked(&format!("3\r\nabcd\r\n{end}")),
            Refused,
        ),
        row(
            "NUL after the size",
            chunked(&format!("3\0\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "an extension",
            chunked("3;a=b\r\nabc\r\n0\r\n\r\n"),
            Harmless(once("abc")),
        ),
        row(
            "an extension with LF",
            chunked(&format!("3;a\nb\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "an extension with CR",
            chunked(&format!("3;a\rb\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "an extension of 20 KB",
            chunked(&format!("3;{long}\r\nabc\r\n{end}")),
            Refused,
        ),
        row(
            "extensions of 128 KB in all",
            chunked(&format!("{many}0\r\n\r\n")),
            Refused,
        ),
        row(
            "last chunk with LF",
            chunked(&format!("3\r\nabc\r\n0\n\r\n{SMUGGLED}")),
            Refused,
        ),
        row(
            "end of trailers with LF",
            chunked(&format!("3\r\nabc\r\n0\r\n\n{SMUGGLED}")),
            Refused,
        ),
        row(
            "a trailer",
            chunked("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
            Passed(once("abc")),
        ),
        row(
            "a trailer that frames",
            chunked("3\r\nabc\r\n0\r\nContent-Length: 40\r\n\r\n"),
            Harmless(once("abc")),
        ),
        row(
            "a trailer that codes",
            chunked("3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Harmless(once("abc")),
        ),
        row(
            "a trailer without colon",
            chunked("3\r\nabc\r\n0\r\nnothing\r\n\r\n"),
            Refused,
        ),
        row(
            "a trailer with a bare LF",
            chunked(&format!("3\r\nabc\r\n0\r\nX: 1\nY: 2\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        row(
            "a folded trailer",
            chunked("3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n"),
            Refused,
        ),
        row(
            "trailers of 100 KB",
            chunked(&format!(
                "3\r\nabc\r\n0\r\n{}\r\n",
                format!("X: {}\r\n", &long[..1000]).repeat(100)
            )),
            Refused,
        ),
    ]
}

/// The request line and the header block: RFC 9112 §2 to §5.
pub fn heads() -> Vec<Row> {
    let host = "Host: web.ns\r\n";
    vec![
        row(
            "every line ended by LF",
            b"GET /public HTTP/1.1\nHost: web.ns\n\n".to_vec(),
            Refused,
        ),
        row("one line ended by LF", get("X: 1\nY: 2\r\n"), Refused),
        row("a bare CR in a value", get("X: a\rb\r\n"), Refused),
        row("NUL in a value", get("X: a\0b\r\n"), Refused),
        row("NUL in a name", get("X\0: a\r\n"), Refused),
        row("DEL in a value", get("X: a\x7fb\r\n"), Refused),
        row("a bell in a value", get("X: a\x07b\r\n"), Refused),
        row("a folded value", get("X: a\r\n b\r\n"), Refused),
        row(
            "a first header that begins with a space",
            line("GET /public HTTP/1.1", " Host: web.ns\r\n"),
            Refused,
        ),
        row("a space before the colon", get("X : a\r\n"), Refused),
        row("a header without colon", get("nothing\r\n"), Refused),
        row("an empty name", get(": a\r\n"), Refused),
        row("a name that is no token", get("X(y): a\r\n"), Refused),
        row("a name with a high byte", get("X\u{e9}: a\r\n"), Refused),
        row(
            "a request in a header's name",
            get("GET /smuggled HTTP/1.1\r\nHost: x\r\n"),
            Refused,
        ),
        row("two hosts", get("Host: web.ns\r\n"), Refused),
        row("two different hosts", get("Host: other\r\n"), Refused),
        row("no host", line("GET /public HTTP/1.1", ""), Refused),
        row(
            "a host with a path",
            line("GET /public HTTP/1.1", "Host: web.ns/smuggled\r\n"),
            Refused,
        ),
        row(
            "a host with a space",
            line("GET /public HTTP/1.1", "Host: web.ns x\r\n"),
            Refused,
        ),
        row(
            "a host with a user",
            line("GET /public HTTP/1.1", "Host: a@web.ns\r\n"),
            Refused,
        ),
        row(
            "an authority with a user",
            line("GET http://a@web.ns/public HTTP/1.1", host),
            Refused,
        ),
        row(
            "an absolute target and another host",
            line("GET http://web.ns/public HTTP/1.1", "Host: other\r\n"),
            Harmless(got()),
        ),
        row("two spaces", line("GET  /public HTTP/1.1", host), Refused),
        row("a tab", line("GET\t/public HTTP/1.1", host), Refused),
        row(
            "a space before the method",
            line(" GET /public HTTP/1.1", host),
            Refused,
        ),
        row(
            "a space in the path",
            line("GET /public x HTTP/1.1", host),
            Refused,
        ),
        row(
            "a space after the version",
            line("GET /public HTTP/1.1 ", host),
            Refused,
        ),
        row("HTTP/2.0", line("GET /public HTTP/2.0", host), Refused),
        row("HTTP/1.2", line("GET /public HTTP/1.2", host), Refused),
        row("HTTP/1.10", line("GET /public HTTP/1.10", host), Refused),
        row("http/1.1", line("GET /public http/1.1", host), Refused),
        row("HTTP/0.9", line("GET /public", host), Refused),
        row("no method", line("/public HTTP/1.1", host), Refused),
        row(
            "a method that is no token",
            line("GE<T /public HTTP/1.1", host),
            Refused,
        ),
        row(
            "a method in lower case",
            line("get /public HTTP/1.1", host),
            Harmless(vec![("get /public", "")]),
        ),
        row(
            "NUL in the path",
            line("GET /pub\0lic HTTP/1.1", host),
            Refused,
        ),
        row(
            "a high byte in the path",
            line("GET /public\u{e9} HTTP/1.1", host),
            Refused,
        ),
        row(
            "a bare CR in the path",
            line("GET /public\rx HTTP/1.1", host),
            Refused,
        ),
        row(
            "a fragment",
            line("GET /public#/../admin HTTP/1.1", host),
            Refused,
        ),
        row(
            "a relative path",
            line("GET public HTTP/1.1", host),
            Refused,
        ),
        row(
            "an empty line first",
            [b"\r\n".to_vec(), get("")].concat(),
            Harmless(got()),
        ),
        row("CONNECT", line("CONNECT web.ns:80 HTTP/1.1", host), Refused),
        row("PRI", line("PRI * HTTP/1.1", host), Refused),
        row(
            "h2c",
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            ),
            Passed(got()),
        ),
        row(
            "h2c and websocket",
            get("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n"),
            Harmless(got()),
        ),
        row(
            "an upgrade nobody configured",
            get("Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n"),
            Harmless(got()),
        ),
        row(
            "an upgrade that Connection does not name",
            get("Upgrade: websocket\r\n"),
            Passed(got()),
        ),
        row("a hop's host", get("Connection: Host\r\n"), Harmless(got())),
        row("300 headers", get(&"X: 1\r\n".repeat(300)), Refused),
        row(
            "a header of 100 KB",
            get(&format!("X: {}\r\n", "a".repeat(100_000))),
            Refused,
        ),
        row(
            "a path of 100 KB",
            line(
                &format!("GET /public/{} HTTP/1.1", "a".repeat(100_000)),
                host,
            ),
            Refused,
        ),
        row(
            "two requests in a row",
            [get(""), get("")].concat(),
            Passed([got(), got()].concat()),
        ),
        row(
            "a request after a chunked one",
            [chunked("3\r\nabc\r\n0\r\n\r\n"), get("")].concat(),
            Passed([once("abc"), got()].concat()),
        ),
        row(
            "a request after close",
            [get("Connection: close\r\n"), SMUGGLED.into()].concat(),
            Passed(got()),
        ),
    ]
}
