//! HTTP/1 on the wire, strict and without I/O: heads, framing, chunks. It must not know sockets, runtimes or routes.
//!
//! Bytes come in as [`bytes::Bytes`], header values and bodies leave as slices of them. What two hops could read
//! differently (RFC 9112 §11.2) is an error, not a guess.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod body;
mod encode;
mod error;
mod framing;
mod head;
mod request;
mod response;

pub use body::{Decoded, Decoder};
pub use encode::{
    LAST_CHUNK, chunk_head, end_of_chunks, request_head, response_head, write_number,
};
pub use error::{BodyError, HeadError};
pub use framing::Length;
pub use head::{Limits, Scanner, skip_empty_lines};
pub use request::{Request, parse_request};
pub use response::{Response, parse_response};
