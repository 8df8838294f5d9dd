//! A client of HTTP/2 that writes frames as it likes: no check stands between a test and the wire.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What the proxy sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Headers; the status if they begin with one.
    Headers {
        stream: u32,
        status: Option<u16>,
        end: bool,
    },
    Data {
        stream: u32,
        length: usize,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    GoAway {
        code: u32,
    },
    /// Settings, pings, window updates.
    Other(u8),
    /// The connection has ended.
    Closed,
    /// Nothing came in the time given.
    Silence,
}

/// A raw connection.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals: no table, no Huffman code, any bytes.
pub fn block(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.chars().count());
            block.extend(
                text.chars()
                    .map(|char| u8::try_from(u32::from(char)).unwrap()),
            );
        }
    }
    block
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return out.push(u8::try_from(value).unwrap());
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// A HEADERS frame with everything in it.
pub fn headers(stream: u32, end: bool, list: &[(&str, &str)]) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &block(list))
}

/// The pseudo-headers of a request.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "web.ns"),
        (":path", path),
    ]
}

pub fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

impl Raw {
    /// Connects, greets, and forbids the proxy's encoder its table, so that statuses can be read.
    pub async fn connect(front: SocketAddr) -> Raw {
        Raw::connect_with(front, &[]).await
    }

    pub async fn connect_with(front: SocketAddr, more: &[(u16, u32)]) -> Raw {
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let greeting = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &settings(&[&[(1, 0)], more].concat()),
        ]
        .concat();
        stream.write_all(&greeting).await.unwrap();
        Raw {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Whether the proxy still took the bytes; it may not within the time given.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(
            timeout(Duration::from_secs(2), self.stream.write_all(bytes)).await,
            Ok(Ok(()))
        )
    }

    /// The next frame.
    pub async fn next(&mut self, within: Duration) -> Event {
        loop {
            if let Some((kind, flags, stream, payload)) = self.take() {
                if kind == SETTINGS && flags & ACK == 0 {
                    self.send(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                return event(kind, flags, stream, &payload);
            }
            match timeout(within, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(length)) if length > 0 => {}
                Ok(_) => return Event::Closed,
                Err(_) => return Event::Silence,
            }
        }
    }

    /// All frames until one that ends the wait, which is the last.
    pub async fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next(Duration::from_secs(3)).await;
            let is_last = last(&event) || matches!(event, Event::Closed | Event::Silence);
            events.push(event);
            if is_last {
                return events;
            }
        }
    }

    /// How a stream ended: its status, or `None` if it was reset or the connection ended.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        let ends = |event: &Event| match event {
            Event::Headers {
                stream: id, end, ..
            }
            | Event::Data {
                stream: id, end, ..
            } => *id == stream && *end,
            Event::Reset { stream: id, .. } => *id == stream,
            Event::GoAway { code } => *code != 0,
            _ => false,
        };
        let events = self.until(ends).await;
        let status = events.iter().find_map(|event| match event {
            Event::Headers {
                stream: id, status, ..
            } if *id == stream => *status,
            _ => None,
        });
        match (status, events.last()) {
            (Some(status), _) => Outcome::Status(status),
            (None, Some(Event::Silence)) => Outcome::Silence,
            _ => Outcome::Refused,
        }
    }

    fn take(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head: [u8; 9] = self.buffer.get(..9)?.try_into().ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        self.buffer.drain(..9 + length);
        Some((
            head[3],
            head[4],
            u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]),
            payload,
        ))
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    /// Reset, GOAWAY with an error, or a closed connection.
    Refused,
    Silence,
}

fn event(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Event {
    let code = |at: usize| {
        payload
            .get(at..at + 4)
            .map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
    };
    let end = flags & END_STREAM != 0;
    match kind {
        DATA => Event::Data {
            stream,
            length: payload.len(),
            end,
        },
        HEADERS => Event::Headers {
            stream,
            status: status(payload),
            end,
        },
        RST_STREAM => Event::Reset {
            stream,
            code: code(0),
        },
        GOAWAY => Event::GoAway { code: code(4) },
        other => Event::Other(other),
    }
}

/// The status a header block begins with, after updates of the table's size.
fn status(block: &[u8]) -> Option<u16> {
    let mut rest = block;
    while let [first, after @ ..] = rest
        && first & 0xe0 == 0x20
    {
        rest = after;
    }
    match rest {
        [index @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)])
        }
        [0x48 | 0x08 | 0x18, length, value @ ..] => {
            let value = value.get(..usize::from(length & 127))?;
            let text = if length & 128 == 0 {
                value.iter().map(|byte| char::from(*byte)).collect()
            } else {
                digits(value)
            };
            text.parse().ok()
        }
        _ => None,
    }
}

/// Digits in HPACK's Huffman code: 0, 1, 2 in five bits, 3 to 9 in six.
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let number = |bits: &[u8]| {
        bits.iter()
            .fold(0u32, |all, bit| all << 1 | u32::from(*bit))
    };
    let (mut rest, mut text) = (&bits[..], String::new());
    while rest.len() >= 5 {
        let five = number(&rest[..5]);
        if five < 3 {
            text.push(char::from_digit(five, 10).unwrap());
            rest = &rest[5..];
        } else if rest.len() >= 6 && (25..=31).contains(&number(&rest[..6])) {
            text.push(char::from_digit(number(&rest[..6]) - 25 + 3, 10).unwrap());
            rest = &rest[6..];
        } else {
            break;
        }
    }
    text
}
