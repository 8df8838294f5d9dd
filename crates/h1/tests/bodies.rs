//! Bodies that arrive in any pieces, and those that are refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::BytesMut;
use h1::{BodyError, Decoded, Decoder, Length, Limits};
use http::HeaderMap;

type Outcome = Result<(Vec<u8>, HeaderMap, Vec<u8>), BodyError>;

/// Feeds a body in pieces of `step` bytes: its content, its trailers, what was left behind it.
fn decode(length: Length, wire: &[u8], step: usize, limits: Limits) -> Outcome {
    let mut decoder = Decoder::new(length, limits);
    let mut buffer = BytesMut::new();
    let (mut content, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut pieces = wire.chunks(step);
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty());
                content.extend_from_slice(&data);
            }
            Decoded::Trailers(map) => trailers = map,
            Decoded::End => {
                assert!(decoder.is_done());
                let rest = pieces.flatten().copied();
                return Ok((
                    content,
                    trailers,
                    buffer.iter().copied().chain(rest).collect(),
                ));
            }
            Decoded::More => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => decoder.close()?,
            },
        }
    }
}

#[test]
fn bodies_end_where_they_say_however_they_are_cut() {
    let rows: &[(Length, &str, &str, &str)] = &[
        (Length::Empty, "next", "", "next"),
        (Length::Exact(5), "hellonext", "hello", "next"),
        (Length::Close, "hello", "hello", ""),
        (
            Length::Chunked,
            "5\r\nhello\r\n0\r\n\r\nnext",
            "hello",
            "next",
        ),
        (Length::Chunked, "0\r\n\r\n", "", ""),
        (Length::Chunked, "1\r\na\r\n1\r\nb\r\n00\r\n\r\n", "ab", ""),
        (
            Length::Chunked,
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "01234567890123456789",
            "",
        ),
        (
            Length::Chunked,
            "5;x=y;z=\"q\"\r\nhello\r\n0;last\r\n\r\n",
            "hello",
            "",
        ),
        (
            Length::Chunked,
            "5 \t;x\r\nhello\r\n0  \r\n\r\n",
            "hello",
            "",
        ),
        (
            Length::Chunked,
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
            "hello",
            "",
        ),
        (Length::Chunked, "2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
    ];
    for (length, wire, content, rest) in rows {
        for step in [1, 2, 3, 5, 100] {
            let (decoded, trailers, left) =
                decode(*length, wire.as_bytes(), step, Limits::default()).unwrap();
            assert_eq!(decoded, content.as_bytes(), "{wire:?} by {step}");
            assert_eq!(left, rest.as_bytes(), "{wire:?} by {step}");
            assert!(trailers.is_empty());
        }
    }
}

#[test]
fn trailers_pass_but_for_those_that_frame() {
    let wire = "0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\nnext";
    for step in [1, 7, 1000] {
        let (_, trailers, left) =
            decode(Length::Chunked, wire.as_bytes(), step, Limits::default()).unwrap();
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(left, b"next");
    }
}

#[test]
fn bodies_that_are_none() {
    use BodyError as E;
    let rows: &[(&str, E)] = &[
        ("5\nhello\r\n0\r\n\r\n", E::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", E::ChunkEnd),
        ("5\r\nhelloX0\r\n\r\n", E::ChunkEnd),
        ("5\r\nhello0\r\n\r\n", E::ChunkEnd),
        ("\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        (" 5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("+5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("-5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("0x5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("5_\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("g\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("8000000000000000\r\nx", E::ChunkSize),
        ("ffffffffffffffff\r\nx", E::ChunkSize),
        ("5 5\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("5;a\0b\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", E::ChunkEnd),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", E::ChunkSize),
        ("0\r\nX : y\r\n\r\n", E::Trailers),
        ("0\r\n X: y\r\n\r\n", E::Trailers),
        ("0\r\nX: y\n\r\n", E::Trailers),
        ("0\r\nX: y\r\n z\r\n\r\n", E::Trailers),
        ("0\r\nX\r\n\r\n", E::Trailers),
        ("5\r\nhel", E::Cut),
        ("5\r\nhello\r\n0\r\n", E::Cut),
        ("5", E::Cut),
    ];
    for (wire, expected) in rows {
        for step in [1, 3, 1000] {
            match decode(Length::Chunked, wire.as_bytes(), step, Limits::default()) {
                Err(error) => assert_eq!(error, *expected, "{wire:?} by {step}"),
                Ok(body) => panic!("taken: {wire:?} as {body:?}"),
            }
        }
    }
    assert_eq!(
        decode(Length::Exact(5), b"hell", 3, Limits::default()).unwrap_err(),
        E::Cut
    );
}

#[test]
fn limits_hold_to_the_byte_and_the_trailer() {
    let limits = Limits {
        bytes: 100,
        headers: 3,
    };
    // All extensions of a body together: 16 KiB.
    let body = |last: usize| {
        let line = format!("1;{}\r\na\r\n", "x".repeat(1023));
        format!(
            "{}1;{}\r\na\r\n0\r\n\r\n",
            line.repeat(15),
            "x".repeat(last - 1)
        )
    };
    for (last, fits) in [(1023, true), (1024, true), (1025, false)] {
        let decoded = decode(Length::Chunked, body(last).as_bytes(), 1 << 20, limits);
        assert_eq!(decoded.is_ok(), fits, "{last}");
        assert!(fits || decoded.unwrap_err() == BodyError::Extensions);
    }
    // A size line that never ends.
    let endless = format!("1;{}", "x".repeat(8 << 10));
    assert_eq!(
        decode(Length::Chunked, endless.as_bytes(), 1000, limits).unwrap_err(),
        BodyError::Extensions
    );
    for (count, fits) in [(2, true), (3, true), (4, false)] {
        let wire = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(count));
        let decoded = decode(Length::Chunked, wire.as_bytes(), 1000, limits);
        assert_eq!(decoded.is_ok(), fits, "{count} trailers");
        assert!(fits || decoded.unwrap_err() == BodyError::TrailersTooLarge);
    }
    for (length, fits) in [(99, true), (100, true), (101, false)] {
        let wire = format!(
            "0\r\nx: {}\r\n\r\n",
            "y".repeat(length - "x: \r\n\r\n".len())
        );
        let decoded = decode(Length::Chunked, wire.as_bytes(), 1000, limits);
        assert_eq!(decoded.is_ok(), fits, "{length} bytes of trailers");
    }
}

#[test]
fn what_we_write_we_read() {
    let mut wire = Vec::new();
    for piece in [&b"a"[..], &[b'b'; 300], &[b'c'; 70_000]] {
        h1::chunk_head(&mut wire, piece.len());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    h1::end_of_chunks(&mut wire, &trailers);
    let (content, read, left) = decode(Length::Chunked, &wire, 4096, Limits::default()).unwrap();
    assert_eq!((content.len(), read, left.len()), (70_301, trailers, 0));
    let mut numbers = Vec::new();
    for number in [0, 7, 10, 12345, u64::MAX] {
        h1::write_number(&mut numbers, number);
        numbers.push(b' ');
    }
    assert_eq!(numbers, b"0 7 10 12345 18446744073709551615 ");
}
