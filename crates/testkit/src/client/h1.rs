//! HTTP/1: exact bytes out, parsed responses in.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::Target;
use crate::message::{Body, End, Fields, Framing, Head, Reader, ending, field};

/// How long an unannounced close may take to be seen.
const GRACE: Duration = Duration::from_millis(40);

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub fields: Fields,
    /// The head's exact bytes.
    pub raw: Vec<u8>,
    /// How the body was framed.
    pub framing: Framing,
    /// Content.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Fields,
    /// Whether the body came to its end.
    pub is_complete: bool,
    /// Status codes of the informational responses before it.
    pub interim: Vec<u16>,
}

/// What a connection yielded.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Responses, in order.
    pub responses: Vec<Answer>,
    /// How the connection ended.
    pub end: End,
}

/// A connection to a proxy.
pub struct Connection {
    reader: Reader,
    /// What TLS negotiated.
    pub alpn: Option<String>,
}

/// Sends bytes on a new connection and reads one response per method named; what became of the connection then.
pub async fn exchange(
    to: impl Into<Target>,
    bytes: &[u8],
    methods: &[&str],
    limit: Duration,
) -> Exchange {
    let mut responses = Vec::new();
    let mut connection = match Connection::open(&to.into(), limit).await {
        Ok(connection) => connection,
        Err(end) => return Exchange { responses, end },
    };
    // A peer that answers before it has read everything may reset: the answer counts.
    let _ = connection.send(bytes).await;
    for method in methods {
        match connection.answer(method, limit).await {
            Ok(answer) => responses.push(answer),
            Err(end) => return Exchange { responses, end },
        }
    }
    let end = connection.end_after(responses.last(), limit).await;
    Exchange { responses, end }
}

// === impl Connection ===

impl Connection {
    /// Opens a connection.
    pub async fn open(to: &Target, limit: Duration) -> Result<Connection, End> {
        let (stream, alpn) = to.connect(limit).await?;
        Ok(Connection {
            reader: Reader::new(stream),
            alpn,
        })
    }

    /// Writes bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let sent = async {
            self.reader.stream.write_all(bytes).await?;
            self.reader.stream.flush().await
        };
        sent.await.map_err(|error| ending(&error))
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) {
        let _ = self.reader.stream.shutdown().await;
    }

    /// Reads the response to a request of this method.
    pub async fn answer(&mut self, method: &str, limit: Duration) -> Result<Answer, End> {
        let mut interim = Vec::new();
        let (head, version, status) = loop {
            let head = self.reader.head(limit).await?;
            let (version, status) = start(&head);
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            break (head, version, status);
        };
        let bodiless = method == "HEAD"
            || status == 204
            || status == 304
            || status == 101
            || (method == "CONNECT" && status / 100 == 2);
        let framing = match bodiless {
            true => Framing::None,
            false => head.framing(Framing::Close),
        };
        let Body {
            content,
            trailers,
            is_complete,
        } = self.reader.body(framing, limit).await;
        Ok(Answer {
            version,
            status,
            fields: head.fields,
            raw: head.raw,
            framing,
            body: content,
            trailers,
            is_complete,
            interim,
        })
    }

    /// Reads exactly so many bytes, or what came until the end or the limit.
    pub async fn bytes(&mut self, count: usize, limit: Duration) -> Vec<u8> {
        let length = u64::try_from(count).unwrap_or(u64::MAX);
        self.reader
            .body(Framing::Length(length), limit)
            .await
            .content
    }

    /// Reads to the connection's end; what came and how it ended.
    pub async fn rest(&mut self, limit: Duration) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.reader.more(limit).await {
                return (self.reader.rest().to_vec(), end);
            }
        }
    }

    /// What becomes of the connection after a response: awaited where the response says that it will close.
    pub async fn end_after(&mut self, answer: Option<&Answer>, limit: Duration) -> End {
        let closes = answer.is_some_and(|answer| {
            let connection = field(&answer.fields, "connection");
            answer.framing == Framing::Close
                || connection.is_some_and(|value| value.eq_ignore_ascii_case("close"))
        });
        self.reader.end(if closes { limit } else { GRACE }).await
    }
}

// === impl Answer ===

impl Answer {
    /// A field's first value.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn start(head: &Head) -> (String, u16) {
    let mut words = head.line.split(' ');
    let version = words.next().unwrap_or_default().to_owned();
    let status = words.next().and_then(|status| status.parse().ok());
    (version, status.unwrap_or_default())
}
