//! Both directions of a stream. Windows are given back when what they counted was taken, not before.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h1::Length;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};

use crate::http::body::{Broken, Next, Piece};

/// Of a request's body, queued before its stream has a window: one frame's worth.
const EARLY: usize = 16 << 10;
/// Trailers may have as many fields as a head.
const FIELDS: usize = 100;

/// What the peer sends.
#[derive(Debug)]
pub struct Source {
    stream: RecvStream,
    /// Handed out, and not yet known to be taken.
    held: usize,
    is_done: bool,
}

/// What we send.
#[derive(Debug)]
pub struct Sink {
    stream: SendStream<Bytes>,
    /// Waits for the peer's window.
    waiting: Bytes,
    /// `waiting` is the body's last piece.
    is_last: bool,
    is_over: bool,
    /// The stream may still have to be opened by its connection's task, and has no window until then.
    is_new: bool,
}

// === impl Source ===

impl Source {
    /// What the peer sends on this stream.
    pub fn new(stream: RecvStream) -> Source {
        Source {
            is_done: stream.is_end_stream(),
            stream,
            held: 0,
        }
    }

    /// The next piece. Wishing for it says that the last one was taken.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.is_done {
            return Poll::Ready(None);
        }
        loop {
            self.release();
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.held = data.len();
                    self.is_done = self.stream.is_end_stream();
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Piece::Data(data))));
                    }
                    if self.is_done {
                        return Poll::Ready(None);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(broken(&error)))),
                None => break,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.is_done = true;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) if trailers.len() > FIELDS => {
                Some(Err(Broken::Protocol("too many trailers")))
            }
            Ok(Some(trailers)) => Some(Ok(Piece::Trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(broken(&error))),
        })
    }

    fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held > 0 {
            // Fails only for streams that are closed: their windows are the connection's business.
            let _ = self.stream.flow_control().release_capacity(held);
        }
    }

    /// Whether all was handed out.
    pub fn is_done(&self) -> bool {
        self.is_done
    }
}

// === impl Sink ===

impl Sink {
    /// What we send on this stream; `is_over` if nothing comes after the head.
    pub fn new(stream: SendStream<Bytes>, is_over: bool) -> Sink {
        Sink {
            stream,
            waiting: Bytes::new(),
            is_last: false,
            is_over,
            is_new: false,
        }
    }

    /// The same for a stream that is ours to open: what is there of the body leaves together with the head, in one
    /// write and one TLS record, although `h2` gives it no window before that.
    pub fn opening(stream: SendStream<Bytes>, is_over: bool) -> Sink {
        Sink {
            is_new: true,
            ..Sink::new(stream, is_over)
        }
    }

    /// Ready once nothing waits for the peer's window.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.waiting.is_empty() {
            let mut room = self.stream.capacity();
            if room == 0 {
                self.stream.reserve_capacity(self.waiting.len());
                room = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                    None => return Poll::Ready(Err(Broken::Ended)),
                };
            }
            let piece = self.waiting.split_to(room.min(self.waiting.len()));
            let is_last = self.is_last && self.waiting.is_empty();
            self.send(piece, is_last)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a piece, after [`Self::poll_ready`].
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        if data.is_empty() && !is_last {
            return Ok(());
        }
        self.is_over |= is_last;
        let is_early = std::mem::take(&mut self.is_new) && data.len() <= EARLY;
        self.stream.reserve_capacity(data.len());
        if is_early || self.stream.capacity() >= data.len() {
            return self.send(data, is_last);
        }
        self.waiting = data;
        self.is_last = is_last;
        Ok(())
    }

    /// Queues the end, after [`Self::poll_ready`].
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        match trailers {
            Some(trailers) => self
                .stream
                .send_trailers(trailers)
                .map_err(|error| broken(&error)),
            None => self.send(Bytes::new(), true),
        }
    }

    fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        self.stream
            .send_data(data, is_last)
            .map_err(|error| broken(&error))
    }

    /// Whether the end was queued.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Ready once the peer has given the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// Gives the stream up.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

/// Why a stream broke off.
pub fn broken(error: &h2::Error) -> Broken {
    match error.reason() {
        // Streams above the id that a GOAWAY names were not looked at, either.
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Broken::Refused,
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Broken::Refused,
        Some(_) if error.is_reset() && error.is_remote() => Broken::Reset,
        Some(Reason::PROTOCOL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::COMPRESSION_ERROR) => {
            Broken::Protocol("HTTP/2")
        }
        _ => Broken::Ended,
    }
}

/// How a body is framed; `h2` itself holds it to its `content-length`.
pub fn length(headers: &HeaderMap, is_end: bool) -> Length {
    if is_end {
        return Length::Empty;
    }
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    match announced {
        Some(0) | None => Length::Chunked,
        Some(length) => Length::Exact(length),
    }
}

/// The same for a response to `method`.
pub fn response_length(
    headers: &HeaderMap,
    is_end: bool,
    method: &Method,
    status: StatusCode,
) -> Length {
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        return Length::Empty;
    }
    length(headers, is_end)
}
