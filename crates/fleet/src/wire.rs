//! gRPC messages as they arrive, field by field: a proxy that is told megabytes holds no more than one field of them.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in front of a message: a flag and its length.
const PREFIX: usize = 5;
/// Wire type of texts, bytes and messages inside messages.
const LENGTH_DELIMITED: u64 = 2;

/// A part of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A field of the outermost message; only texts, bytes and messages.
    Field(u32, Bytes),
    /// The message is complete.
    End,
}

/// Reads parts from what arrives.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Bytes of the present message that are not read yet; `None` between messages.
    left: Option<usize>,
}

/// What is not a message of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

// === impl Reader ===

impl Reader {
    /// Takes what arrived.
    pub fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next part, if all of it arrived.
    pub fn next(&mut self) -> Result<Option<Part>, Malformed> {
        loop {
            let Some(left) = self.left else {
                let Some(prefix) = self.buffer.get(..PREFIX) else {
                    return Ok(None);
                };
                if prefix.first() != Some(&0) {
                    return Err(Malformed("compressed message"));
                }
                let length = prefix
                    .iter()
                    .skip(1)
                    .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
                self.buffer.advance(PREFIX);
                self.left = Some(length);
                continue;
            };
            if left == 0 {
                self.left = None;
                if self.buffer.is_empty() {
                    // Ten thousand streams at rest hold nothing.
                    self.buffer = BytesMut::new();
                }
                return Ok(Some(Part::End));
            }
            let Some((tag, header, length)) = header(&self.buffer)? else {
                return Ok(None);
            };
            let whole = header + length;
            if whole > left {
                return Err(Malformed("field beyond its message"));
            }
            if self.buffer.len() < whole {
                return Ok(None);
            }
            self.left = Some(left - whole);
            self.buffer.advance(header);
            let value = self.buffer.split_to(length).freeze();
            if tag > 0 {
                return Ok(Some(Part::Field(tag, value)));
            }
        }
    }
}

/// Tag (0 for a number), length of the header, length of the value.
fn header(buffer: &[u8]) -> Result<Option<(u32, usize, usize)>, Malformed> {
    let Some((key, first)) = varint(buffer)? else {
        return Ok(None);
    };
    let rest = buffer.get(first..).unwrap_or_default();
    let tag = u32::try_from(key >> 3).map_err(|_| Malformed("tag"))?;
    match key & 7 {
        0 => Ok(varint(rest)?.map(|(_, second)| (0, first + second, 0))),
        1 => Ok(Some((0, first, 8))),
        5 => Ok(Some((0, first, 4))),
        LENGTH_DELIMITED => match varint(rest)? {
            None => Ok(None),
            Some((length, second)) => {
                let length = usize::try_from(length).map_err(|_| Malformed("length"))?;
                Ok(Some((tag, first + second, length)))
            }
        },
        _ => Err(Malformed("wire type")),
    }
}

fn varint(buffer: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0u64;
    for (index, byte) in buffer.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if buffer.len() >= 10 {
        return Err(Malformed("number"));
    }
    Ok(None)
}

/// Calls `found` with every value that a path of field numbers leads to; numbers on the way are skipped.
pub fn walk<'a>(message: &'a [u8], path: &[u32], found: &mut dyn FnMut(&'a [u8])) {
    let Some((wanted, deeper)) = path.split_first() else {
        found(message);
        return;
    };
    let mut rest = message;
    while let Ok(Some((tag, header, length))) = header(rest) {
        let Some(value) = rest.get(header..header + length) else {
            return;
        };
        if tag == *wanted {
            walk(value, deeper, found);
        }
        rest = rest.get(header + length..).unwrap_or_default();
    }
}

/// The first text at the end of a path.
pub fn text<'a>(message: &'a [u8], path: &[u32]) -> Option<&'a str> {
    let mut first = None;
    walk(message, path, &mut |value| {
        first = first.or(std::str::from_utf8(value).ok());
    });
    first
}

/// A message with its prefix.
pub fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX + length);
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A BytesMut grows as needed.
    let _ = message.encode(&mut framed);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    fn response() -> DeltaDiscoveryResponse {
        let resource = |name: &str| Resource {
            name: name.to_owned(),
            resource: Some(Any {
                type_url: "t".to_owned(),
                value: vec![7; 300],
            }),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            resources: vec![resource("a"), resource("b")],
            nonce: "n".to_owned(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[test]
    fn parts_are_the_same_however_the_bytes_are_cut() {
        let framed = frame(&response());
        for size in [1, 2, 7, 300, framed.len()] {
            let mut reader = Reader::default();
            let mut seen = Vec::new();
            for chunk in framed.chunks(size) {
                reader.feed(chunk);
                while let Some(part) = reader.next().unwrap() {
                    seen.push(match part {
                        Part::Field(2, value) => text(&value, &[3]).unwrap().to_owned(),
                        Part::Field(tag, _) => tag.to_string(),
                        Part::End => "end".to_owned(),
                    });
                }
            }
            assert_eq!(seen, ["a", "b", "5", "end"], "{size}");
        }
    }

    #[test]
    fn a_path_leads_into_messages_inside_messages() {
        let framed = frame(&response());
        let mut values = 0;
        walk(&framed[PREFIX..], &[2, 2, 2], &mut |value| {
            values += usize::from(value == [7; 300]);
        });
        assert_eq!(values, 2);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &[1, 0, 0, 0, 1, 0][..],
            &[0, 0, 0, 0, 1, 0x0a, 5],
            &[0, 0, 0, 0, 1, 7],
        ] {
            let mut reader = Reader::default();
            reader.feed(bytes);
            assert!(reader.next().is_err(), "{bytes:?}");
        }
    }
}
