//! Port-forward over WebSocket: for the Nth port, channel 2N carries data and 2N+1 errors; each begins with the port number.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::session;
use crate::backend::{Connection, PodBackend, PortRequest};
use crate::object;
use crate::request::Call;
use crate::status::{Failure, Outcome};

/// Channel numbers are one byte.
const MOST_PORTS: usize = 64;

/// The ports that a request names.
pub(super) fn ports(call: &Call, pod: &Value) -> Outcome<Vec<PortRequest>> {
    let mut ports = Vec::new();
    for text in call.query.all("ports").flat_map(|p| p.split(',')) {
        let port = text.parse().ok().filter(|p| *p != 0);
        let port: u16 =
            port.ok_or_else(|| Failure::bad_request(format!("invalid port {text:?}")))?;
        ports.push(PortRequest {
            namespace: object::namespace(pod).to_owned(),
            pod: object::name(pod).to_owned(),
            uid: object::uid(pod).to_owned(),
            port,
        });
    }
    match ports.len() {
        0 => Err(Failure::bad_request("query parameter \"port\" is required")),
        n if n > MOST_PORTS => Err(Failure::bad_request(format!(
            "at most {MOST_PORTS} ports can be forwarded at once"
        ))),
        _ => Ok(ports),
    }
}

type Writers = Vec<Option<WriteHalf<Box<dyn Connection>>>>;

/// Carries the ports until the client goes, all connections end, or the server stops.
pub(super) async fn run(
    upgrade: hyper::upgrade::OnUpgrade,
    backend: Arc<dyn PodBackend>,
    ports: Vec<PortRequest>,
    stop: CancellationToken,
) {
    let Some(socket) = session::open(upgrade).await else {
        return;
    };
    let (mut sink, mut stream) = socket.split();
    let (send, mut receive) = mpsc::channel::<Message>(16);
    let mut writers: Writers = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for (i, request) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(i * 2) else {
            return;
        };
        let [low, high] = request.port.to_le_bytes();
        for channel in [data, data + 1] {
            if sink
                .send(Message::Binary(vec![channel, low, high].into()))
                .await
                .is_err()
            {
                return;
            }
        }
        let port = request.port;
        match backend.port_forward(request).await {
            Ok(connection) => {
                let (read, write) = tokio::io::split(connection);
                writers.push(Some(write));
                readers.spawn(copy_out(data, read, send.clone()));
            }
            Err(e) => {
                writers.push(None);
                let mut frame = vec![data + 1];
                frame.extend(format!("error forwarding port {port}: {e}").into_bytes());
                let _ = send.send(Message::Binary(frame.into())).await;
            }
        }
    }
    drop(send);
    let write = async move {
        while let Some(message) = receive.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(close))).await;
    };
    let read = async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(frame) = message else {
                if message.is_close() {
                    return;
                }
                continue;
            };
            let Some((channel, data)) = frame.split_first() else {
                continue;
            };
            if let Some(Some(writer)) = writers
                .get_mut(usize::from(*channel) / 2)
                .filter(|_| channel % 2 == 0)
            {
                let _ = writer.write_all(data).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = write => {}
        () = read => {}
    }
    readers.shutdown().await;
}

async fn copy_out(
    channel: u8,
    mut reader: tokio::io::ReadHalf<Box<dyn Connection>>,
    send: mpsc::Sender<Message>,
) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(n) = reader.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let mut frame = Vec::with_capacity(n + 1);
        frame.push(channel);
        frame.extend_from_slice(buffer.get(..n).unwrap_or_default());
        if send.send(Message::Binary(frame.into())).await.is_err() {
            return;
        }
    }
}
