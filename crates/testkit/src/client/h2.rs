//! HTTP/2, well formed: requests with trailers out, responses with trailers in.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Target;
use crate::message::{End, Fields};

/// A response.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub fields: Fields,
    /// Content.
    pub body: Vec<u8>,
    /// Trailer fields, if there were any.
    pub trailers: Option<Fields>,
    /// How the stream ended if not well.
    pub reset: Option<String>,
}

/// A connection.
pub struct Connection {
    send: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
    /// What TLS negotiated.
    pub alpn: Option<String>,
}

/// Sends a request on a new connection.
pub async fn request(
    to: impl Into<Target>,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
    limit: Duration,
) -> Result<Answer, End> {
    let mut connection = Connection::open(&to.into(), limit).await?;
    Ok(connection.request(request, body, trailers, limit).await)
}

/// Header fields as pairs.
pub fn fields(map: &HeaderMap) -> Fields {
    map.iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect()
}

// === impl Connection ===

impl Connection {
    /// Opens a connection with prior knowledge.
    pub async fn open(to: &Target, limit: Duration) -> Result<Connection, End> {
        let (stream, alpn) = to.connect(limit).await?;
        let shake = timeout(limit, h2::client::handshake(stream)).await;
        let (send, connection) = shake.map_err(|_| End::Open)?.map_err(|error| end(&error))?;
        Ok(Connection {
            send,
            task: tokio::spawn(connection),
            alpn,
        })
    }

    /// One request to its end.
    pub async fn request(
        &mut self,
        request: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
        limit: Duration,
    ) -> Answer {
        let mut answer = Answer::default();
        let exchange = self.exchange(request, body, trailers, &mut answer);
        match timeout(limit, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => answer.reset = Some(reset(&error)),
            Err(_) => answer.reset = Some("no end within the limit".to_owned()),
        }
        answer
    }

    async fn exchange(
        &mut self,
        request: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
        answer: &mut Answer,
    ) -> Result<(), h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let ends = body.is_empty() && trailers.is_none();
        let (response, mut stream) = send.send_request(request, ends)?;
        let upload = async {
            if !body.is_empty() {
                stream.reserve_capacity(body.len());
                let mut rest = Bytes::copy_from_slice(body);
                while !rest.is_empty() {
                    let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    // The peer may stop the upload with an early answer.
                    let Some(Ok(granted)) = granted else { return };
                    let part = rest.split_to(granted.min(rest.len()));
                    let last = rest.is_empty() && trailers.is_none();
                    if stream.send_data(part, last).is_err() {
                        return;
                    }
                }
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        };
        let (result, ()) = tokio::join!(receive(response, answer), upload);
        result
    }

    /// Whether the connection ended, and how; waits up to the limit.
    pub async fn end(mut self, limit: Duration) -> End {
        match timeout(limit, &mut self.task).await {
            Err(_) => {
                self.task.abort();
                End::Open
            }
            Ok(Ok(Err(error))) => end(&error),
            Ok(_) => End::Closed,
        }
    }
}

async fn receive(response: ResponseFuture, answer: &mut Answer) -> Result<(), h2::Error> {
    let (parts, mut body): (_, RecvStream) = response.await?.into_parts();
    answer.status = parts.status.as_u16();
    answer.fields = fields(&parts.headers);
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        answer.body.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?;
    answer.trailers = trailers.map(|trailers| fields(&trailers));
    Ok(())
}

fn reset(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_go_away() => format!("GOAWAY {}", name(reason)),
        Some(reason) => format!("RST_STREAM {}", name(reason)),
        None => "connection ended".to_owned(),
    }
}

fn name(reason: Reason) -> String {
    format!("{reason:?}")
}

fn end(error: &h2::Error) -> End {
    match error.get_io() {
        Some(error) => crate::message::ending(error),
        None => End::Closed,
    }
}
