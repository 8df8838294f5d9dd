//! HTTP/1 messages as they are on the wire: read without judgement, bytes kept.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// What a connection carries.
pub trait Transport: AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Transport for S {}

/// Header fields in the order in which they came, names as they were written.
pub type Fields = Vec<(String, String)>;

/// How a connection ended, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Still open.
    Open,
    /// The peer closed it.
    Closed,
    /// The peer reset it.
    Reset,
    /// The peer sent a TLS alert; its name as rustls prints it.
    Alert(String),
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection's end.
    Close,
}

/// A message's start line and fields.
#[derive(Clone, Debug)]
pub struct Head {
    /// The first line.
    pub line: String,
    /// The fields.
    pub fields: Fields,
    /// The exact bytes, empty line included.
    pub raw: Vec<u8>,
}

/// A body and the trailers behind it.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Content, without framing.
    pub content: Vec<u8>,
    /// Trailer fields.
    pub trailers: Fields,
    /// Whether the framing said that it is whole.
    pub is_complete: bool,
}

/// Reads messages from a stream.
pub struct Reader {
    /// The connection.
    pub stream: Box<dyn Transport>,
    buffer: Vec<u8>,
}

/// The first value of a field, by lower-case name.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let found = fields
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

// === impl Head ===

impl Head {
    fn parse(raw: Vec<u8>) -> Head {
        let text = String::from_utf8_lossy(&raw);
        let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Head {
            line,
            fields: fields.collect(),
            raw: raw.clone(),
        }
    }

    /// A field's first value.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// The framing that the fields declare; `otherwise` if they declare none.
    pub fn framing(&self, otherwise: Framing) -> Framing {
        if let Some(coding) = self.field("transfer-encoding")
            && coding.to_ascii_lowercase().contains("chunked")
        {
            return Framing::Chunked;
        }
        let length = self.field("content-length");
        length
            .and_then(|length| length.parse().ok())
            .map_or(otherwise, Framing::Length)
    }
}

// === impl Reader ===

impl Reader {
    /// Nothing read yet.
    pub fn new(stream: Box<dyn Transport>) -> Reader {
        Reader {
            stream,
            buffer: Vec::new(),
        }
    }

    /// What was read and not yet taken.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads a little more, within a limit.
    pub async fn more(&mut self, limit: Duration) -> Result<(), End> {
        let mut chunk = [0; 16 << 10];
        match timeout(limit, self.stream.read(&mut chunk)).await {
            Err(_) => Err(End::Open),
            Ok(Ok(0)) => Err(End::Closed),
            Ok(Ok(length)) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Ok(Err(error)) => Err(ending(&error)),
        }
    }

    /// A head; how the connection ended if there is none.
    pub async fn head(&mut self, limit: Duration) -> Result<Head, End> {
        loop {
            // Empty lines before a start line are skipped, as servers do.
            let skip = self
                .buffer
                .iter()
                .take_while(|b| b"\r\n".contains(b))
                .count();
            self.buffer.drain(..skip);
            if let Some(length) = head_length(&self.buffer) {
                return Ok(Head::parse(self.buffer.drain(..length).collect()));
            }
            self.more(limit).await?;
        }
    }

    /// A body; with `is_complete` unset if the connection ended within it or nothing came any more.
    pub async fn body(&mut self, framing: Framing, limit: Duration) -> Body {
        let mut body = Body::default();
        body.is_complete = match framing {
            Framing::None => true,
            Framing::Length(length) => self.take(length, &mut body.content, limit).await,
            Framing::Chunked => self.chunks(&mut body, limit).await.is_some(),
            Framing::Close => loop {
                body.content.append(&mut self.buffer);
                match self.more(limit).await {
                    Ok(()) => {}
                    Err(end) => break end == End::Closed,
                }
            },
        };
        body
    }

    async fn take(&mut self, length: u64, content: &mut Vec<u8>, limit: Duration) -> bool {
        let mut missing = usize::try_from(length).unwrap_or(usize::MAX);
        loop {
            let part = missing.min(self.buffer.len());
            content.extend(self.buffer.drain(..part));
            missing -= part;
            if missing == 0 {
                return true;
            }
            if self.more(limit).await.is_err() {
                return false;
            }
        }
    }

    async fn line(&mut self, limit: Duration) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more(limit).await.ok()?;
        }
    }

    async fn chunks(&mut self, body: &mut Body, limit: Duration) -> Option<()> {
        loop {
            let size = self.line(limit).await?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).ok()?;
            if size == 0 {
                break;
            }
            if !self.take(size, &mut body.content, limit).await {
                return None;
            }
            self.line(limit).await?;
        }
        loop {
            let line = self.line(limit).await?;
            match line.split_once(':') {
                Some((name, value)) => {
                    let trailer = (name.to_owned(), value.trim().to_owned());
                    body.trailers.push(trailer);
                }
                None => return Some(()),
            }
        }
    }

    /// Waits for the connection's end; bytes on the way there are dropped.
    pub async fn end(&mut self, limit: Duration) -> End {
        loop {
            if let Err(end) = self.more(limit).await {
                return end;
            }
            self.buffer.clear();
        }
    }
}

/// What an error of a connection means.
pub fn ending(error: &std::io::Error) -> End {
    use std::io::ErrorKind;
    let text = error.to_string();
    if let Some((_, alert)) = text.split_once("alert: ") {
        return End::Alert(alert.to_owned());
    }
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        // A TLS peer that left without close_notify.
        ErrorKind::UnexpectedEof => End::Closed,
        _ => End::Alert(text),
    }
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let lf = bytes.windows(2).position(|two| two == b"\n\n");
    match (crlf, lf) {
        (Some(crlf), Some(lf)) => Some((crlf + 4).min(lf + 2)),
        (crlf, lf) => crlf.map(|at| at + 4).or(lf.map(|at| at + 2)),
    }
}
