//! HTTP/2, ill formed on purpose: frames written by hand, headers as uncompressed literals.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::Target;
use crate::message::{End, Reader};

/// What every client begins with: preface and an empty SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// What came back first on the stream or the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A response; its status if it is in the static table.
    Status(Option<u16>),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was given up with this code.
    GoAway(u32),
    /// The connection ended without a word.
    End(End),
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals without indexing (RFC 7541 §6.2.2), names as given.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

/// A HEADERS frame that is whole.
pub fn headers(stream: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &block(fields))
}

/// A DATA frame.
pub fn data(stream: u32, content: &[u8], ends: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(ends), stream, content)
}

/// Sends frames after the preface and waits for what they lead to.
pub async fn exchange(to: impl Into<Target>, frames: &[u8], limit: Duration) -> Verdict {
    let (mut stream, _) = match to.into().connect(limit).await {
        Ok(connected) => connected,
        Err(end) => return Verdict::End(end),
    };
    let _ = stream.write_all(PREFACE).await;
    let _ = stream.write_all(frames).await;
    let _ = stream.flush().await;
    let mut reader = Reader::new(stream);
    verdict(&mut reader, limit).await
}

/// Reads frames until one decides.
pub async fn verdict(reader: &mut Reader, limit: Duration) -> Verdict {
    let end = Instant::now() + limit;
    let mut at = 0;
    loop {
        while let Some((kind, payload, next)) = next_frame(reader.rest(), at) {
            at = next;
            let code = |from: usize| {
                let bytes = payload.get(from..from + 4).and_then(|b| b.try_into().ok());
                u32::from_be_bytes(bytes.unwrap_or([0; 4]))
            };
            match kind {
                kind::HEADERS => return Verdict::Status(status(&payload)),
                kind::RST_STREAM => return Verdict::Reset(code(0)),
                // A graceful GOAWAY announces the end; what comes before it decides.
                kind::GOAWAY if code(4) != 0 => return Verdict::GoAway(code(4)),
                _ => {}
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if let Err(end) = reader.more(left).await {
            return Verdict::End(end);
        }
    }
}

fn next_frame(bytes: &[u8], at: usize) -> Option<(u8, Vec<u8>, usize)> {
    let head = bytes.get(at..at + 9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let payload = bytes.get(at + 9..at + 9 + length)?.to_vec();
    Some((head[3], payload, at + 9 + length))
}

/// The status if the block begins with an entry of the static table (RFC 7541, appendix A: 8 to 14) or with a
/// literal of that name whose value is not Huffman coded; dynamic table size updates before it are skipped.
fn status(block: &[u8]) -> Option<u16> {
    let skip = block
        .iter()
        .take_while(|byte| (0x20..0x40).contains(*byte))
        .count();
    let block = &block[skip..];
    match *block.first()? {
        indexed @ 0x88..=0x8e => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)])
        }
        0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e if block.get(1) == Some(&3) => {
            let digits = std::str::from_utf8(block.get(2..5)?).ok()?;
            digits.parse().ok()
        }
        // Huffman: two digits of five bits and more; enough to tell the classes that proxies answer with.
        0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e => huffman_digits(block),
        _ => None,
    }
}

/// Digits in HPACK's Huffman code: 0, 1 and 2 have five bits, the others six (RFC 7541, appendix B).
fn huffman_digits(block: &[u8]) -> Option<u16> {
    let length = usize::from(block.get(1)? & 0x7f);
    let bits: String = block
        .get(2..2 + length)?
        .iter()
        .map(|byte| format!("{byte:08b}"))
        .collect();
    let mut rest = bits.as_str();
    let mut value = 0;
    for _ in 0..3 {
        let five = u16::from_str_radix(rest.get(..5)?, 2).ok()?;
        let (digit, length) = match five {
            0..=2 => (five, 5),
            // Six bits: 3 is 011001, and so on up to 9, 011111.
            _ => (
                u16::from_str_radix(rest.get(..6)?, 2)
                    .ok()?
                    .checked_sub(22)?,
                6,
            ),
        };
        value = value * 10 + digit;
        rest = &rest[length..];
    }
    Some(value)
}

/// A string literal without Huffman coding; the length is an integer with a prefix of 7 bits (RFC 7541 §5.1).
fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap_or(0));
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).unwrap_or(0) | 128);
            length /= 128;
        }
        bytes.push(u8::try_from(length).unwrap_or(0));
    }
    bytes.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_from_indexed_literal_and_huffman_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x3f, 0x8c][1..]), Some(400));
        assert_eq!(status(&[0x48, 3, b'5', b'0', b'3']), Some(503));
        // 302 in Huffman code, from RFC 7541, C.6.1: 0x6402.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    }

    #[test]
    fn long_strings_have_a_long_length() {
        let value = "x".repeat(300);
        let block = block(&[("a", &value)]);
        assert_eq!(&block[..6], [0, 1, b'a', 127, 128 | 45, 1]);
        assert_eq!(block.len(), 6 + 300);
    }
}
