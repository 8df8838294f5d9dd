//! The PROXY protocol, versions 1 and 2: where a connection that came through a load balancer really comes from.
//!
//! A pure function over the bytes so far, strict as its [specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)
//! asks: what is not a header to the letter is refused, since whoever may write one may claim any address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const LINE: usize = 107;
/// Signature, version and command, family and protocol, length.
const FIXED: usize = 16;
/// Addresses and TLVs of version 2. The format allows 65535 bytes; nobody's load balancer sends more than some hundred.
const VARIABLE: usize = 4096;
/// The TLV with a checksum over the whole header.
const CRC32C: u8 = 0x03;

/// Which versions are taken, and whether a header must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// A connection without header is served as it is.
    pub nothing: bool,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its bytes: what follows belongs to the connection.
    pub length: usize,
    /// Source and destination of the client's connection; none if the load balancer speaks for itself.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A header.
    Header(Header),
    /// None; the connection may go on without.
    Nothing,
    /// More bytes are needed.
    More,
    /// Not a header that is taken.
    Refused(&'static str),
}

/// Looks for a header.
pub fn parse(bytes: &[u8], accepts: Accepts) -> Found {
    let found = if begins(bytes, SIGNATURE) {
        match (accepts.v2, bytes.len() < SIGNATURE.len()) {
            (_, true) => Ok(None),
            (true, false) => version2(bytes),
            (false, false) => return without(accepts, "version 2 is not taken here"),
        }
    } else if begins(bytes, WORD) {
        match (accepts.v1, bytes.len() < WORD.len()) {
            (_, true) => Ok(None),
            (true, false) => version1(bytes),
            (false, false) => return without(accepts, "version 1 is not taken here"),
        }
    } else {
        return without(accepts, "no PROXY header");
    };
    match found {
        Ok(Some(header)) => Found::Header(header),
        Ok(None) => Found::More,
        Err(reason) => Found::Refused(reason),
    }
}

/// Whether the bytes are the beginning of the mark, or begin with it.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, wanted)| byte == wanted)
}

fn without(accepts: Accepts, reason: &'static str) -> Found {
    if accepts.nothing {
        Found::Nothing
    } else {
        Found::Refused(reason)
    }
}

type Parsed = Result<Option<Header>, &'static str>;

fn version1(bytes: &[u8]) -> Parsed {
    let window = bytes.get(..bytes.len().min(LINE)).unwrap_or_default();
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < LINE {
            Ok(None)
        } else {
            Err("the line of version 1 does not end")
        };
    };
    let line = window.get(WORD.len()..end).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "the line of version 1 is not ASCII")?;
    let length = end.saturating_add(2);
    // Whatever follows UNKNOWN is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some(Header {
            length,
            addresses: None,
        }));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words.as_slice() else {
        return Err("the line of version 1 has not five words");
    };
    let source = end_of(family, source, source_port)?;
    let destination = end_of(family, destination, destination_port)?;
    Ok(Some(Header {
        length,
        addresses: Some((source, destination)),
    }))
}

fn end_of(family: &str, address: &str, port: &str) -> Result<SocketAddr, &'static str> {
    let ip = match family {
        "TCP4" => address.parse().map(IpAddr::V4).ok(),
        "TCP6" => address.parse().map(IpAddr::V6).ok(),
        _ => return Err("version 1 knows TCP4, TCP6 and UNKNOWN"),
    };
    let ip = ip.ok_or("not an address of its family")?;
    // Digits only, no leading zero: `+1` and `01` are no ports.
    let is_plain =
        port.bytes().all(|byte| byte.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    let port = port.parse().ok().filter(|_| is_plain).ok_or("not a port")?;
    Ok(SocketAddr::new(ip, port))
}

fn version2(bytes: &[u8]) -> Parsed {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let [.., version, family, high, low] = *fixed;
    if version >> 4 != 2 {
        return Err("not version 2");
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > VARIABLE {
        return Err("the header of version 2 is too long");
    }
    let is_local = match version & 0xf {
        0 => true,
        1 => false,
        _ => return Err("version 2 knows the commands LOCAL and PROXY"),
    };
    let Some(variable) = rest.get(..length) else {
        return Ok(None);
    };
    let (addresses, more) = match (is_local, family) {
        // The load balancer's own connection, or a kind of address it cannot tell: whatever stands there is skipped.
        (true, _) | (false, 0x00) => (None, &[][..]),
        (false, 0x11) => v4(variable)?,
        (false, 0x21) => v6(variable)?,
        (false, _) => return Err("version 2 is taken with TCP over IPv4 or IPv6"),
    };
    let whole = bytes
        .get(..FIXED.saturating_add(length))
        .unwrap_or_default();
    extras(more, whole)?;
    Ok(Some(Header {
        length: whole.len(),
        addresses,
    }))
}

type Ends<'a> = (Option<(SocketAddr, SocketAddr)>, &'a [u8]);

fn v4(bytes: &[u8]) -> Result<Ends<'_>, &'static str> {
    let (ends, more) = bytes
        .split_first_chunk::<12>()
        .ok_or("too short for IPv4 addresses")?;
    let [a, b, c, d, e, f, g, h, p, q, r, s] = *ends;
    let source = SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([p, q]));
    let destination = SocketAddr::new(Ipv4Addr::new(e, f, g, h).into(), u16::from_be_bytes([r, s]));
    Ok((Some((source, destination)), more))
}

fn v6(bytes: &[u8]) -> Result<Ends<'_>, &'static str> {
    const SHORT: &str = "too short for IPv6 addresses";
    let (source, rest) = bytes.split_first_chunk::<16>().ok_or(SHORT)?;
    let (destination, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
    let (ports, more) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let [p, q, r, s] = *ports;
    let end = |ip: [u8; 16], port: [u8; 2]| {
        SocketAddr::new(Ipv6Addr::from(ip).into(), u16::from_be_bytes(port))
    };
    Ok((
        Some((end(*source, [p, q]), end(*destination, [r, s]))),
        more,
    ))
}

/// The TLVs must fill the header exactly, and a checksum among them must be right.
fn extras(mut rest: &[u8], whole: &[u8]) -> Result<(), &'static str> {
    const BROKEN: &str = "a TLV is longer than its header";
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<3>().ok_or(BROKEN)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = after.split_at_checked(length).ok_or(BROKEN)?;
        if kind == CRC32C {
            let stated: [u8; 4] = value
                .try_into()
                .map_err(|_| "the checksum has not four bytes")?;
            let place = whole.len().saturating_sub(after.len()).saturating_sub(4);
            if crc32c(whole, place) != u32::from_be_bytes(stated) {
                return Err("the checksum is wrong");
            }
        }
        rest = after;
    }
    Ok(())
}

/// CRC-32C of the bytes, the four at `place` taken as zero.
fn crc32c(bytes: &[u8], place: usize) -> u32 {
    let own = place..place.saturating_add(4);
    let crc = bytes
        .iter()
        .enumerate()
        .fold(u32::MAX, |crc, (index, byte)| {
            let byte = if own.contains(&index) { 0 } else { *byte };
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                // Castagnoli's polynomial, reflected.
                (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
            })
        });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Accepts = Accepts {
        v1: true,
        v2: true,
        nothing: false,
    };

    fn ends(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    fn second(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, variable].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let good = [
            (
                "PROXY TCP4 1.2.3.4 5.6.7.8 11 443\r\n",
                ends("1.2.3.4:11", "5.6.7.8:443"),
            ),
            (
                "PROXY TCP6 ::1 2001:db8::2 65535 0\r\n",
                ends("[::1]:65535", "[2001:db8::2]:0"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN whatever stands here\r\n", None),
        ];
        for (line, addresses) in good {
            let text = format!("{line}GET / HTTP/1.1\r\n");
            let header = Header {
                length: line.len(),
                addresses,
            };
            assert_eq!(
                parse(text.as_bytes(), STRICT),
                Found::Header(header),
                "{line}"
            );
            for cut in 0..line.len() {
                assert_eq!(
                    parse(&text.as_bytes()[..cut], STRICT),
                    Found::More,
                    "{line} {cut}"
                );
            }
        }
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 11\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 443 1\r\n",
            "PROXY TCP4 ::1 5.6.7.8 11 443\r\n",
            "PROXY TCP6 1.2.3.4 ::1 11 443\r\n",
            "PROXY TCP4 1.2.3.4  5.6.7.8 11 443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +11 443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 011 443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 65536\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 11 443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 443\n\r\n",
            "proxy TCP4 1.2.3.4 5.6.7.8 11 443\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 11 443\r\n",
            "PROXY UNKNOWNS\r\n",
        ] {
            assert!(
                matches!(parse(line.as_bytes(), STRICT), Found::Refused(_)),
                "{line}"
            );
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(LINE));
        assert!(matches!(
            parse(endless.as_bytes(), STRICT),
            Found::Refused(_)
        ));
        assert_eq!(parse(&endless.as_bytes()[..LINE - 1], STRICT), Found::More);
    }

    #[test]
    fn headers_of_version_2() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 1, 187];
        let six = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
        let good = [
            (second(0x21, 0x11, &four), ends("1.2.3.4:11", "5.6.7.8:443")),
            (second(0x21, 0x21, &six), ends("[::1]:1", "[::2]:2")),
            (second(0x20, 0x00, &[]), None),
            (second(0x20, 0x11, &[9, 9]), None),
            (second(0x21, 0x00, &[9, 9, 9]), None),
            (
                second(0x21, 0x11, &[&four[..], &[4, 0, 2, 0, 0]].concat()),
                ends("1.2.3.4:11", "5.6.7.8:443"),
            ),
        ];
        for (bytes, addresses) in good {
            let header = Header {
                length: bytes.len(),
                addresses,
            };
            let with_more = [&bytes[..], b"more"].concat();
            assert_eq!(
                parse(&with_more, STRICT),
                Found::Header(header),
                "{bytes:?}"
            );
            for cut in 0..bytes.len() {
                assert_eq!(
                    parse(&bytes[..cut], STRICT),
                    Found::More,
                    "{cut} of {bytes:?}"
                );
            }
        }
        for bytes in [
            second(0x31, 0x11, &four),
            second(0x22, 0x11, &four),
            second(0x21, 0x12, &four),
            second(0x21, 0x31, &[0; 216]),
            second(0x21, 0x11, &four[..11]),
            second(0x21, 0x21, &four),
            second(0x21, 0x11, &[&four[..], &[4, 0]].concat()),
            second(0x21, 0x11, &[&four[..], &[4, 0, 9, 1]].concat()),
            second(0x21, 0x11, &[&four[..], &[3, 0, 4, 1, 2, 3, 4]].concat()),
            second(0x21, 0x11, &[&four[..], &[3, 0, 1, 1]].concat()),
            second(0x21, 0x11, &[0; VARIABLE + 1]),
        ] {
            assert!(
                matches!(parse(&bytes, STRICT), Found::Refused(_)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_right_checksum_is_taken() {
        assert_eq!(
            crc32c(b"123456789", 100),
            0xe306_9283,
            "the check value of CRC-32C"
        );
        let mut bytes = second(
            0x21,
            0x11,
            &[1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 1, 187, 3, 0, 4, 0, 0, 0, 0],
        );
        let place = bytes.len() - 4;
        let sum = crc32c(&bytes, place).to_be_bytes();
        bytes[place..].copy_from_slice(&sum);
        assert!(matches!(parse(&bytes, STRICT), Found::Header(_)));
        bytes[20] ^= 1;
        assert!(matches!(parse(&bytes, STRICT), Found::Refused(_)));
    }

    #[test]
    fn what_is_not_a_header_passes_only_where_that_is_allowed() {
        let lenient = Accepts {
            nothing: true,
            ..STRICT
        };
        assert_eq!(parse(b"GET / HTTP/1.1\r\n", lenient), Found::Nothing);
        assert!(matches!(
            parse(b"GET / HTTP/1.1\r\n", STRICT),
            Found::Refused(_)
        ));
        assert_eq!(parse(b"", lenient), Found::More);
        assert_eq!(parse(b"PR", lenient), Found::More, "it may become one");
        let first = Accepts {
            v2: false,
            ..STRICT
        };
        assert!(matches!(
            parse(&second(0x20, 0, &[]), first),
            Found::Refused(_)
        ));
        let second_only = Accepts {
            v1: false,
            ..STRICT
        };
        assert!(matches!(
            parse(b"PROXY UNKNOWN\r\n", second_only),
            Found::Refused(_)
        ));
    }

    #[test]
    fn no_bytes_make_it_panic_or_take_more_than_there_are() {
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        for round in 0..50_000usize {
            let mut bytes = match round % 3 {
                0 => SIGNATURE.to_vec(),
                1 => WORD.to_vec(),
                _ => Vec::new(),
            };
            for _ in 0..round % 50 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push((state >> 8) as u8 & if state & 1 == 0 { 0x3f } else { 0xff });
            }
            if let Found::Header(header) = parse(&bytes, STRICT) {
                assert!(header.length <= bytes.len());
            }
        }
    }
}
