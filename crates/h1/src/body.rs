//! Bodies as they arrive: slices of the read buffer, no copies.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
    HeaderMap, HeaderName, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use memchr::memchr;

use crate::error::{BodyError, HeadError};
use crate::framing::Length;
use crate::head::{Limits, Scanner, map, with_room};

/// Digits of a chunk's size.
const DIGITS: usize = 16;
/// Bytes of all chunk extensions of a body: nobody uses them, so they can only be meant to keep us busy.
const EXTENSIONS: usize = 16 << 10;
/// Bytes of one size line.
const SIZE_LINE: usize = 4 << 10;

/// Where a body has got to.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
    scanner: Scanner,
    limits: Limits,
}

/// What comes next.
#[derive(Debug)]
pub enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// The trailers, not empty; nothing comes after them.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed first.
    More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are left.
    Exact(u64),
    /// A size line is next.
    Size,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The end of a chunk's line is next.
    ChunkEnd,
    /// Trailers, or the last empty line.
    Trailers,
    /// Until the connection ends.
    Close,
    /// Over.
    Done,
}

impl Decoder {
    /// A decoder for a body that begins now; `limits` are those of its trailers.
    pub fn new(length: Length, limits: Limits) -> Decoder {
        let state = match length {
            Length::Empty | Length::Exact(0) => State::Done,
            Length::Exact(length) => State::Exact(length),
            Length::Chunked => State::Size,
            Length::Close => State::Close,
        };
        Decoder {
            state,
            extensions: 0,
            scanner: Scanner::default(),
            limits,
        }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that must still come at least in this body (or chunk); a hint for buffers.
    pub fn wanted(&self) -> u64 {
        match self.state {
            State::Exact(left) | State::Chunk(left) => left,
            _ => 0,
        }
    }

    /// The connection ended: an end of the body, or a cut.
    pub fn close(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Close | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Cut),
        }
    }

    /// Takes the next piece off the front of `bytes`.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Close if bytes.is_empty() => return Ok(Decoded::More),
                State::Close => return Ok(Decoded::Data(bytes.split().freeze())),
                State::Exact(left) => {
                    let Some((data, left)) = take(bytes, left) else {
                        return Ok(Decoded::More);
                    };
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Exact(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let Some((data, left)) = take(bytes, left) else {
                        return Ok(Decoded::More);
                    };
                    self.state = if left == 0 {
                        State::ChunkEnd
                    } else {
                        State::Chunk(left)
                    };
                    self.finish_early(bytes);
                    return Ok(Decoded::Data(data));
                }
                State::Size => match self.size(bytes)? {
                    None => return Ok(Decoded::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size),
                },
                State::ChunkEnd => {
                    if !line_end(bytes)? {
                        return Ok(Decoded::More);
                    }
                    self.state = State::Size;
                }
                State::Trailers => return self.trailers(bytes),
            }
        }
    }

    /// Notices the end behind the last data, so that both can travel on together.
    fn finish_early(&mut self, bytes: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if self.state == State::ChunkEnd && bytes.starts_with(END) {
            bytes.advance(END.len());
            self.state = State::Done;
        }
    }

    /// The size of the next chunk, once its line is whole: RFC 9112 §7.1.
    fn size(&mut self, bytes: &mut BytesMut) -> Result<Option<u64>, BodyError> {
        let seen = bytes.get(..bytes.len().min(SIZE_LINE)).unwrap_or_default();
        let digits = seen.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > DIGITS || (digits == 0 && !seen.is_empty()) {
            return Err(BodyError::ChunkSize);
        }
        let Some(end) = memchr(b'\n', seen) else {
            // A stray byte is told before the line is whole.
            return match seen.get(digits) {
                Some(b'\r' | b';' | b' ' | b'\t') | None if seen.len() < SIZE_LINE => Ok(None),
                Some(b'\r' | b';' | b' ' | b'\t') | None => Err(BodyError::Extensions),
                Some(_) => Err(BodyError::ChunkSize),
            };
        };
        let line = seen.get(..end).unwrap_or_default();
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(BodyError::ChunkEnd);
        };
        let (number, extension) = line.split_at_checked(digits).unwrap_or_default();
        if !extension.is_empty() {
            self.extension(extension)?;
        }
        let mut size: u64 = 0;
        for digit in number {
            let digit = char::from(*digit)
                .to_digit(16)
                .ok_or(BodyError::ChunkSize)?;
            size = size
                .checked_mul(16)
                .and_then(|size| size.checked_add(u64::from(digit)))
                .ok_or(BodyError::ChunkSize)?;
        }
        if i64::try_from(size).is_err() {
            return Err(BodyError::ChunkSize);
        }
        bytes.advance(end.saturating_add(1));
        Ok(Some(size))
    }

    /// Extensions are not passed on, but must be harmless and few.
    fn extension(&mut self, extension: &[u8]) -> Result<(), BodyError> {
        let blank = extension.trim_ascii_start();
        let begins = blank.is_empty() || blank.first() == Some(&b';');
        let sane = extension
            .iter()
            .all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
        if !begins || !sane {
            return Err(BodyError::ChunkSize);
        }
        self.extensions = self.extensions.saturating_add(extension.len());
        if self.extensions > EXTENSIONS {
            return Err(BodyError::Extensions);
        }
        Ok(())
    }

    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Decoded, BodyError> {
        if bytes.starts_with(b"\r\n") {
            bytes.advance(2);
            self.state = State::Done;
            return Ok(Decoded::End);
        }
        // The scanner wants a start line before headers; a trailer's first line serves as one.
        let length = match self.scanner.scan(bytes, &self.limits) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(Decoded::More),
            Err(HeadError::TooLarge | HeadError::TooManyHeaders) => {
                return Err(BodyError::TrailersTooLarge);
            }
            Err(_) => return Err(BodyError::Trailers),
        };
        let block = bytes.split_to(length.min(bytes.len())).freeze();
        self.state = State::Done;
        let mut trailers = parse_trailers(&block, &self.limits)?;
        for name in FORBIDDEN {
            trailers.remove(name);
        }
        Ok(if trailers.is_empty() {
            Decoded::End
        } else {
            Decoded::Trailers(trailers)
        })
    }
}

/// Fields that frame, route, authorize or describe a message stand in heads only: RFC 9110 §6.5.1. They are dropped.
const FORBIDDEN: [HeaderName; 12] = [
    TRANSFER_ENCODING,
    CONTENT_LENGTH,
    HOST,
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CONTENT_RANGE,
    SET_COOKIE,
];

fn parse_trailers(block: &Bytes, limits: &Limits) -> Result<HeaderMap, BodyError> {
    with_room(limits.headers, |room| {
        let mut list: Vec<httparse::Header<'_>> = vec![httparse::EMPTY_HEADER; room.len()];
        match httparse::parse_headers(block, &mut list) {
            Ok(httparse::Status::Complete((length, found))) if length == block.len() => {
                map(block, found).map_err(|_| BodyError::Trailers)
            }
            Err(httparse::Error::TooManyHeaders) => Err(BodyError::TrailersTooLarge),
            _ => Err(BodyError::Trailers),
        }
    })
}

/// Up to `left` bytes off the front, and how many are left then.
fn take(bytes: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    if bytes.is_empty() {
        return None;
    }
    let available = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let length = available.min(left);
    let data = bytes.split_to(usize::try_from(length).unwrap_or(bytes.len()));
    Some((data.freeze(), left.saturating_sub(length)))
}

/// Takes CR LF off the front; `false` if it is not whole yet.
fn line_end(bytes: &mut BytesMut) -> Result<bool, BodyError> {
    match (bytes.first(), bytes.get(1)) {
        (None, _) | (Some(b'\r'), None) => Ok(false),
        (Some(b'\r'), Some(b'\n')) => {
            bytes.advance(2);
            Ok(true)
        }
        _ => Err(BodyError::ChunkEnd),
    }
}
