//! Bodies on their way: pieces, and what a filter or another attempt still needs of them.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h1::Length;
use http::HeaderMap;

use super::downstream::Downstream;
use super::filters::{Buffer, Buffered};
use super::limits::Limits;
use crate::reason::Reason;

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// Trailers; nothing comes after them.
    Trailers(HeaderMap),
}

/// Why a message broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The connection or stream ended.
    #[error("connection ended")]
    Ended,
    /// What came is not HTTP.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The peer gave the stream up.
    #[error("reset by the peer")]
    Reset,
    /// The peer has ended TLS with an alert: it does not take our certificate, or wants one.
    #[error("refused by TLS")]
    Alert,
    /// The peer never looked at the message: it may be sent again whatever it is.
    #[error("refused unread")]
    Refused,
}

/// What reading a body yields next; `None` is its end.
pub type Next = Option<Result<Piece, Broken>>;

/// A request's body: what was read of it and may be needed again, then what the client still sends.
#[derive(Debug)]
pub struct RequestBody {
    length: Length,
    /// What was read and is kept, in order.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Bytes that may be kept; beyond them the body can be sent only once.
    limit: usize,
    /// The next of the kept pieces to be sent.
    next: usize,
    trailers: Option<HeaderMap>,
    /// All of it was read.
    is_read: bool,
    /// All that was read is kept.
    is_kept: bool,
    /// The trailers were handed out.
    is_over: bool,
    /// Bytes read from the client.
    received: u64,
}

// === impl RequestBody ===

impl RequestBody {
    /// A body that is framed so.
    pub fn new(length: Length) -> RequestBody {
        RequestBody {
            length,
            kept: Vec::new(),
            kept_bytes: 0,
            limit: 0,
            next: 0,
            trailers: None,
            is_read: length == Length::Empty,
            is_kept: true,
            is_over: false,
            received: 0,
        }
    }

    /// How it is framed.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Bytes the client has sent of it.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the client has sent all of it.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// Announces the length of a body that was read and kept whole; trailers need chunks.
    pub fn settle(&mut self) {
        if self.is_read && self.is_kept && self.trailers.is_none() {
            let length = u64::try_from(self.kept_bytes).unwrap_or(u64::MAX);
            self.length = Length::Exact(length);
        }
    }

    /// Whether nothing is left to be handed out.
    pub fn is_end(&self) -> bool {
        self.is_read && self.next >= self.kept.len() && (self.trailers.is_none() || self.is_over)
    }

    /// Keeps from now on what is read, up to so many bytes in all.
    pub fn keep(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// Goes back to its beginning for another attempt; `false` if that is gone.
    pub fn rewind(&mut self) -> bool {
        if self.is_kept {
            self.next = 0;
            self.is_over = false;
        }
        self.is_kept
    }

    /// Lets go of what is kept: there will be no other attempt. What was not handed out yet still will be.
    pub fn forget(&mut self) {
        self.limit = 0;
        if self.next >= self.kept.len() {
            self.is_kept = false;
            self.kept = Vec::new();
            self.next = 0;
        }
    }

    /// After a switch of protocols so many bytes have come.
    pub fn carried(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// The next piece: of those kept first, then of the client's.
    pub fn poll_piece(&mut self, client: &mut Downstream<'_>, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(piece) = self.kept.get(self.next) {
            let piece = piece.clone();
            self.next = self.next.saturating_add(1);
            return Poll::Ready(Some(Ok(Piece::Data(piece))));
        }
        if self.is_read {
            let trailers = self.trailers.as_ref().filter(|_| !self.is_over);
            let piece = trailers.map(|trailers| Ok(Piece::Trailers(trailers.clone())));
            self.is_over = true;
            return Poll::Ready(piece);
        }
        let next = ready!(self.poll_read(client, cx));
        match &next {
            Some(Ok(Piece::Data(data))) => {
                let data = data.clone();
                self.retain(data);
                self.next = self.kept.len();
            }
            Some(Ok(Piece::Trailers(_))) => self.is_over = true,
            _ => {}
        }
        Poll::Ready(next)
    }

    fn poll_read(&mut self, client: &mut Downstream<'_>, cx: &mut Context<'_>) -> Poll<Next> {
        let next = ready!(client.poll_piece(cx));
        match &next {
            Some(Ok(Piece::Data(data))) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.received = self.received.saturating_add(length);
                self.is_read = client.is_read();
            }
            Some(Ok(Piece::Trailers(trailers))) => {
                self.is_read = true;
                self.trailers = Some(trailers.clone());
            }
            None => self.is_read = true,
            Some(Err(_)) => {}
        }
        Poll::Ready(next)
    }

    /// Keeps a piece if it fits; if not, nothing is kept any more.
    fn retain(&mut self, data: Bytes) {
        self.kept_bytes = self.kept_bytes.saturating_add(data.len());
        if self.is_kept && self.kept_bytes <= self.limit {
            self.kept.push(data);
        } else {
            self.is_kept = false;
            self.kept = Vec::new();
            self.next = 0;
        }
    }

    /// Reads until `limit` bytes are kept or the body has ended, for a filter that must see it.
    pub fn poll_hold(
        &mut self,
        client: &mut Downstream<'_>,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<(), Broken>> {
        // One piece more than asked for is kept whole.
        self.keep(limit.saturating_add(HELD_PIECE));
        while !self.is_read && self.kept_bytes < limit {
            match ready!(self.poll_read(client, cx)) {
                Some(Ok(Piece::Data(data))) => {
                    self.kept_bytes = self.kept_bytes.saturating_add(data.len());
                    self.kept.push(data);
                }
                Some(Ok(Piece::Trailers(_))) | None => {}
                Some(Err(broken)) => return Poll::Ready(Err(broken)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is kept, in one piece.
    pub fn held(&self) -> Bytes {
        match self.kept.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            several => {
                let mut all = BytesMut::with_capacity(self.kept_bytes);
                several
                    .iter()
                    .for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }
    }
}

/// The largest piece a source hands out: a read buffer, or an HTTP/2 frame.
const HELD_PIECE: usize = 64 << 10;

// === Filters ===

/// A request's body as filters may look into it.
pub struct Held<'a, 'c> {
    /// The body.
    pub body: &'a mut RequestBody,
    /// Whose it is.
    pub client: &'a mut Downstream<'c>,
    /// How long it may take to come.
    pub limits: Limits,
}

impl Held<'_, '_> {
    async fn read(&mut self, limit: usize) -> Result<Buffered, Reason> {
        let Held {
            body,
            client,
            limits,
        } = self;
        let mut seen = body.received();
        poll_fn(|cx| {
            if let Poll::Ready(held) = body.poll_hold(client, cx, limit) {
                return Poll::Ready(held.map_err(|broken| match broken {
                    Broken::Protocol(_) => Reason::BadRequest,
                    _ => Reason::ClientGone,
                }));
            }
            if body.received() != seen {
                seen = body.received();
                limits.progress();
            }
            limits.poll(client.timer(), cx).map(Err)
        })
        .await?;
        Ok(Buffered {
            bytes: body.held(),
            whole: body.is_read(),
        })
    }
}

impl Buffer for Held<'_, '_> {
    fn settle(&mut self) {
        self.body.settle();
    }

    fn is_end(&self) -> bool {
        self.body.is_read()
    }

    fn buffer<'a>(
        &'a mut self,
        limit: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Buffered, Reason>> + Send + 'a>> {
        Box::pin(self.read(limit))
    }
}
