//! HTTP/1 connections: clients', and ours to upstreams.

mod client;
mod server;

use bytes::Bytes;
use h1::Length;
use http::HeaderMap;

use super::body::Broken;
use super::wire::Outbox;

pub use client::{Client, Head};
pub use server::{Server, serve};

/// How a body that we send is framed, and how far it has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// There is none.
    Empty,
    /// So many bytes are left.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends.
    Close,
    /// It has ended.
    Over,
}

impl Coding {
    fn new(length: Length) -> Coding {
        match length {
            Length::Empty => Coding::Empty,
            Length::Exact(length) => Coding::Exact(length),
            Length::Chunked => Coding::Chunked,
            Length::Close => Coding::Close,
        }
    }

    /// Queues a piece. A body that is longer than was announced must not become the next message.
    fn push(&mut self, outbox: &mut Outbox, data: Bytes, is_last: bool) -> Result<(), Broken> {
        match self {
            Coding::Empty => {}
            Coding::Exact(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left
                    .checked_sub(length)
                    .ok_or(Broken::Protocol("body longer than announced"))?;
                outbox.push(data);
            }
            Coding::Chunked => {
                // An empty chunk would be the last.
                if !data.is_empty() {
                    h1::chunk_head(outbox.small(), data.len());
                    outbox.push(data);
                    outbox.small().extend_from_slice(b"\r\n");
                }
            }
            Coding::Close => outbox.push(data),
            Coding::Over => return Err(Broken::Protocol("body after its end")),
        }
        if is_last {
            self.finish(outbox, None)?;
        }
        Ok(())
    }

    fn finish(&mut self, outbox: &mut Outbox, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        let ended = std::mem::replace(self, Coding::Over);
        match (ended, trailers) {
            (Coding::Exact(1..), _) => Err(Broken::Protocol("body shorter than announced")),
            (Coding::Chunked, Some(trailers)) => {
                h1::end_of_chunks(outbox.small(), trailers);
                Ok(())
            }
            (Coding::Chunked, None) => {
                outbox.small().extend_from_slice(h1::LAST_CHUNK);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
