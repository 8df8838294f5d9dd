//! What a connection's first bytes say: TLS with its server name and protocols, or HTTP.
//!
//! Pure functions over the bytes so far; the caller reads more while they ask for more, up to a bound.

/// A ClientHello larger than this is not looked at (post-quantum key shares need under 3 KiB).
const HELLO: usize = 16 << 10;
/// The first line of an HTTP request may be as long as all headers.
const REQUEST_LINE: usize = 64 << 10;
/// The longest method: the verdict must not depend on how the bytes arrive.
const METHOD: usize = 32;
/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It is this.
    Is(T),
    /// It is not.
    IsNot,
    /// More bytes are needed.
    More,
}

/// What a ClientHello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case, without trailing dot.
    pub server_name: Option<String>,
    /// ALPN names, in the client's order.
    pub applications: Vec<String>,
}

/// Looks for a ClientHello, which may be spread over several records.
pub fn tls(bytes: &[u8]) -> Verdict<ClientHello> {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        match record(rest) {
            Verdict::Is((fragment, after)) => {
                handshake.extend_from_slice(fragment);
                rest = after;
            }
            Verdict::IsNot => return Verdict::IsNot,
            Verdict::More => {
                return if bytes.len() > HELLO {
                    Verdict::IsNot
                } else {
                    Verdict::More
                };
            }
        }
        if handshake.len() > HELLO {
            return Verdict::IsNot;
        }
        let mut reader = Reader(&handshake);
        match (reader.byte(), reader.u24()) {
            (Some(1), Some(length)) => {
                if length > HELLO {
                    return Verdict::IsNot;
                }
                if let Some(body) = reader.take(length) {
                    return hello(body).map_or(Verdict::IsNot, Verdict::Is);
                }
            }
            (Some(1) | None, None) => {}
            _ => return Verdict::IsNot,
        }
    }
}

/// One handshake record: its fragment and what follows.
fn record(bytes: &[u8]) -> Verdict<(&[u8], &[u8])> {
    // The type and the version's first byte decide at once, so that other protocols do not wait.
    match bytes {
        [] | [22] | [22, 3] => return Verdict::More,
        [22, 3, ..] => {}
        _ => return Verdict::IsNot,
    }
    let mut reader = Reader(bytes);
    let Some(length) = reader.take(3).and_then(|_| reader.u16()) else {
        return Verdict::More;
    };
    // RFC 8446 §5.1: at most 2^14 bytes, and no empty fragments of handshakes.
    if length == 0 || length > 1 << 14 {
        return Verdict::IsNot;
    }
    match reader.take(length) {
        Some(fragment) => Verdict::Is((fragment, reader.0)),
        None => Verdict::More,
    }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // version, random
    reader.vector8()?; // session
    reader.vector16()?; // suites
    reader.vector8()?; // compression
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello); // No extensions, as TLS 1.2 allows.
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        match kind {
            0 => hello.server_name = server_name(content)?,
            16 => hello.applications = applications(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<Option<String>> {
    let mut names = Reader(Reader(content).vector16()?);
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.vector16()?;
        if kind == 0 {
            let text = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            let text = text.strip_suffix('.').unwrap_or(&text);
            let is_label = |label: &str| {
                let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                !label.is_empty() && label.bytes().all(valid)
            };
            return if text.split('.').all(is_label) {
                Some(Some(text.to_owned()))
            } else {
                None
            };
        }
    }
    Some(None)
}

fn applications(content: &[u8]) -> Option<Vec<String>> {
    let mut names = Reader(Reader(content).vector16()?);
    let mut list = Vec::new();
    while !names.0.is_empty() {
        list.push(String::from_utf8_lossy(names.vector8()?).into_owned());
    }
    Some(list)
}

/// Looks for the beginning of HTTP: `http/1.0`, `http/1.1` or `h2c`.
pub fn http(bytes: &[u8]) -> Verdict<&'static str> {
    if !bytes.is_empty() && PREFACE.starts_with(bytes.get(..PREFACE.len()).unwrap_or(bytes)) {
        return if bytes.len() >= PREFACE.len() {
            Verdict::Is("h2c")
        } else {
            Verdict::More
        };
    }
    // RFC 9112 §2.2: empty lines before the request line are ignored.
    let line = bytes.trim_ascii_start();
    let method_end = line.iter().position(|byte| !is_token(*byte));
    match method_end {
        // No method is so long, and nobody sends so many empty lines.
        None if line.len() > METHOD || bytes.len() > REQUEST_LINE => return Verdict::IsNot,
        None => return Verdict::More,
        Some(end) if end == 0 || end > METHOD => return Verdict::IsNot,
        Some(end) if line.get(end) != Some(&b' ') => return Verdict::IsNot,
        Some(_) => {}
    }
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = line.get(..end).unwrap_or_default().trim_ascii_end();
            match line.rsplit(|byte| *byte == b' ').next() {
                Some(b"HTTP/1.1") => Verdict::Is("http/1.1"),
                Some(b"HTTP/1.0") => Verdict::Is("http/1.0"),
                _ => Verdict::IsNot,
            }
        }
        None if bytes.len() > REQUEST_LINE => Verdict::IsNot,
        None => Verdict::More,
    }
}

/// Whether a connection that is HTTP speaks HTTP/2; `None` until enough bytes are there.
pub fn is_http2(bytes: &[u8]) -> Option<bool> {
    let length = bytes.len().min(PREFACE.len());
    match bytes.get(..length) == PREFACE.get(..length) {
        false => Some(false),
        true if length == PREFACE.len() => Some(true),
        true => None,
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Takes bytes off the front; everything is `None` at the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)?
            .try_into()
            .ok()
            .map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn u24(&mut self) -> Option<usize> {
        let bytes = self.take(3)?;
        Some(
            bytes
                .iter()
                .fold(0, |value, byte| (value << 8) | usize::from(*byte)),
        )
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A ClientHello as rustls writes it.
    fn real(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn expected(name: &str, alpn: &[&str]) -> Verdict<ClientHello> {
        Verdict::Is(ClientHello {
            server_name: Some(name.into()),
            applications: alpn.iter().map(|name| (*name).into()).collect(),
        })
    }

    /// The same handshake in records of a few bytes each.
    fn fragmented(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = bytes;
        while let Verdict::Is((fragment, after)) = record(rest) {
            for piece in fragment.chunks(size) {
                out.extend([22, 3, 1]);
                out.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
                out.extend(piece);
            }
            rest = after;
        }
        out
    }

    #[test]
    fn a_client_hello_tells_name_and_protocols_also_in_pieces() {
        let bytes = real("web.default.svc.cluster.local", &["osm", "h2"]);
        let wanted = expected("web.default.svc.cluster.local", &["osm", "h2"]);
        assert_eq!(tls(&bytes), wanted);
        for size in [1, 7, 100, 1000] {
            assert_eq!(tls(&fragmented(&bytes, size)), wanted, "records of {size}");
        }
        for length in 0..bytes.len() {
            assert_eq!(
                tls(&bytes[..length]),
                Verdict::More,
                "the first {length} bytes"
            );
        }
    }

    #[test]
    fn names_are_lower_case() {
        assert_eq!(tls(&real("Example.COM", &[])), expected("example.com", &[]));
    }

    #[test]
    fn names_with_empty_labels_are_none() {
        let bytes = real("web.example.com", &[]);
        let at = bytes
            .windows(7)
            .position(|bytes| bytes == b"example")
            .unwrap();
        for (place, byte) in [(at + 6, b'.'), (at - 4, b'.'), (at + 2, 0), (at + 2, b'*')] {
            let mut bytes = bytes.clone();
            bytes[place] = byte;
            assert_eq!(tls(&bytes), Verdict::IsNot, "{byte} at {place}");
        }
    }

    #[test]
    fn what_is_not_tls_is_told_at_once_and_nothing_panics() {
        for bytes in [
            &b"G"[..],
            b"\x16\x02",
            b"\x80\x2e\x01",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\x00\x01\x02",
        ] {
            assert_eq!(tls(bytes), Verdict::IsNot, "{bytes:?}");
        }
        let mut bytes = real("a.example", &["h2"]);
        for index in 0..bytes.len() {
            let kept = bytes[index];
            for value in [0, 1, 0x7f, 0xff] {
                bytes[index] = value;
                let _ = tls(&bytes);
            }
            bytes[index] = kept;
        }
        let endless = [
            &[22, 3, 1, 0x40, 0][..],
            &[1, 0, 0xff, 0xff],
            &vec![0; 16_380],
        ]
        .concat();
        assert_eq!(
            tls(&endless),
            Verdict::IsNot,
            "a ClientHello beyond the bound"
        );
    }

    #[test]
    fn http_is_recognized_by_its_first_line() {
        let long = "A".repeat(33) + " / HTTP/1.1\r\n";
        let empty = "\r\n".repeat(REQUEST_LINE);
        let cases: [(&[u8], Verdict<&str>); 15] = [
            (long.as_bytes(), Verdict::IsNot),
            (empty.as_bytes(), Verdict::IsNot),
            (b"", Verdict::More),
            (b"GET", Verdict::More),
            (b"GET / HTTP/1.1\r\n", Verdict::Is("http/1.1")),
            (b"\r\nGET / HTTP/1.0\r\n", Verdict::Is("http/1.0")),
            (b"PURGE /a b HTTP/1.1\n", Verdict::Is("http/1.1")),
            (b"PRI * HT", Verdict::More),
            (PREFACE, Verdict::Is("h2c")),
            (b"PRI * HTTP/1.1\r\n", Verdict::Is("http/1.1")),
            (b"EHLO mail\r\n", Verdict::IsNot),
            (b"\x16\x03", Verdict::IsNot),
            (b"*1\r\n", Verdict::IsNot),
            (b"GET / HTTP/2\r\n", Verdict::IsNot),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                Verdict::IsNot,
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(http(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(
            is_http2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n rest"),
            Some(true)
        );
        assert_eq!((is_http2(b"PR"), is_http2(b"PUT")), (None, Some(false)));
    }
}
