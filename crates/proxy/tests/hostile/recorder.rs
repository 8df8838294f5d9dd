//! A backend that keeps what it was sent, byte by byte, and reads it more strictly than any application would.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The head as it was on the wire, Latin-1.
    pub head: String,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Which connection brought it.
    pub connection: usize,
}

impl Seen {
    /// Method and target.
    pub fn line(&self) -> &str {
        let line = self.head.lines().next().unwrap_or_default();
        line.rsplit_once(' ').map_or(line, |(rest, _)| rest)
    }

    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        fields
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

/// The backend.
#[derive(Debug, Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    broken: Arc<Mutex<Vec<String>>>,
}

/// What the backend does once it has a request's head; the default reads the body and says `ok`.
pub type Answer = fn(&str) -> Script;

/// A backend's conduct for one request.
#[derive(Debug, Clone)]
pub enum Script {
    /// Reads the body, then says so.
    Then(Vec<u8>),
    /// Answers before it reads the body.
    First(Vec<u8>),
    /// Answers, and closes without reading the body.
    Close(Vec<u8>),
}

pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Recorder {
    pub async fn new() -> Recorder {
        Recorder::with(|_| Script::Then(OK.to_vec())).await
    }

    pub async fn with(answer: Answer) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Recorder {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            broken: Arc::default(),
        };
        let shared = recorder.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let recorder = shared.clone();
                tokio::spawn(async move {
                    if let Err(why) = recorder.serve(stream, connection, answer).await {
                        recorder.broken.lock().push(why);
                    }
                });
            }
        });
        recorder
    }

    /// Everything that arrived whole, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// What could not be read as HTTP.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().clone()
    }

    async fn serve(
        &self,
        mut stream: TcpStream,
        connection: usize,
        answer: Answer,
    ) -> Result<(), String> {
        let mut buffer = Vec::new();
        loop {
            let Some(head) = read_head(&mut stream, &mut buffer).await? else {
                return Ok(());
            };
            let framing = framing(&head)?;
            let script = answer(&head);
            if let Script::First(bytes) | Script::Close(bytes) = &script {
                let _ = stream.write_all(bytes).await;
            }
            if let Script::Close(_) = &script {
                return Ok(());
            }
            let Some(body) = read_body(&mut stream, &mut buffer, framing).await? else {
                return Ok(());
            };
            self.seen.lock().push(Seen {
                head,
                body,
                connection,
            });
            if let Script::Then(bytes) = &script {
                let _ = stream.write_all(bytes).await;
            }
        }
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

/// Refuses everything that two readers could read in two ways.
fn framing(head: &str) -> Result<Framing, String> {
    let broken = |why: &str| Err(format!("{why}: {head:?}"));
    let Some(lines) = head.strip_suffix("\r\n\r\n") else {
        return broken("no end");
    };
    let (mut lengths, mut encodings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            return broken("no colon");
        };
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return broken("name");
        }
        if value.contains(['\r', '\n', '\0']) {
            return broken("value");
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().to_owned()),
            "transfer-encoding" => encodings.push(value.trim().to_owned()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    let line = head.split("\r\n").next().unwrap_or_default();
    if line.split(' ').count() != 3
        || !line.ends_with(" HTTP/1.1")
        || !line
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return broken("request line");
    }
    if hosts != 1 {
        return broken("host");
    }
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Framing::None),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => length
            .parse()
            .map(Framing::Length)
            .or_else(|_| broken("length")),
        ([], [encoding]) if encoding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        _ => broken("two framings"),
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    matches!(stream.read_buf(buffer).await, Ok(length) if length > 0)
}

async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<String>, String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return Ok(Some(head.iter().map(|byte| char::from(*byte)).collect()));
        }
        if !fill(stream, buffer).await {
            return Ok(None);
        }
    }
}

/// `None`: the connection ended inside the body.
async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    framing: Framing,
) -> Result<Option<Vec<u8>>, String> {
    match framing {
        Framing::None => Ok(Some(Vec::new())),
        Framing::Length(length) => {
            while buffer.len() < length {
                if !fill(stream, buffer).await {
                    return Ok(None);
                }
            }
            Ok(Some(buffer.drain(..length).collect()))
        }
        Framing::Chunked => read_chunks(stream, buffer).await,
    }
}

async fn read_chunks(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(size) = read_line(stream, buffer).await else {
            return Ok(None);
        };
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("chunk size {size:?}"))?;
        if size == 0 {
            break;
        }
        while buffer.len() < size + 2 {
            if !fill(stream, buffer).await {
                return Ok(None);
            }
        }
        body.extend(buffer.drain(..size));
        if buffer.drain(..2).collect::<Vec<u8>>() != b"\r\n" {
            return Err("no CRLF after a chunk".into());
        }
    }
    loop {
        match read_line(stream, buffer).await {
            None => return Ok(None),
            Some(line) if line.is_empty() => return Ok(Some(body)),
            Some(line) if line.contains(':') => {}
            Some(line) => return Err(format!("trailer {line:?}")),
        }
    }
}

async fn read_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).take(end).collect();
            return Some(line.iter().map(|byte| char::from(*byte)).collect());
        }
        if !fill(stream, buffer).await {
            return None;
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
