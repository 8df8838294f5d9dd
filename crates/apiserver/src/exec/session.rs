//! A remote command over WebSocket: channel 0 in, 1 out, 2 error output, 3 status, 4 terminal size.

use std::time::Duration;

use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, ExecSession, Exit, Reader, TerminalSize, Writer};

pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// v5: `[255, channel]` closes a channel.
const CLOSE: u8 = 255;
/// Bytes per message, as the real server uses.
const CHUNK: usize = 32 * 1024;
/// Output may be held open by a process that the command left behind; it is not waited for longer.
const DRAIN: Duration = Duration::from_secs(2);
/// Pings keep idle sessions alive through whatever is between.
const PING: Duration = Duration::from_secs(20);

/// Finishes the handshake.
pub(super) async fn open(upgrade: hyper::upgrade::OnUpgrade) -> Option<Socket> {
    match upgrade.await {
        Ok(io) => {
            Some(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await)
        }
        Err(e) => {
            tracing::debug!(error = %e, "upgrade");
            None
        }
    }
}

/// Carries a command until it ends, the client goes, or the server stops. Dropping the session ends the command.
pub(super) async fn run(
    upgrade: hyper::upgrade::OnUpgrade,
    session: ExecSession,
    stop: CancellationToken,
) {
    let Some(socket) = open(upgrade).await else {
        return;
    };
    let (mut sink, stream) = socket.split();
    let ExecSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let (send, mut receive) = mpsc::channel::<Message>(16);
    let mut outputs = tokio::task::JoinSet::new();
    for (channel, reader) in [(STDOUT, stdout), (STDERR, stderr)] {
        if let Some(reader) = reader {
            outputs.spawn(copy_out(channel, reader, send.clone()));
        }
    }
    let finish = async move {
        let exit = exit.await;
        let drained = async { while outputs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN, drained).await;
        let mut frame = vec![STATUS];
        frame.extend(serde_json::to_vec(&status(exit)).unwrap_or_default());
        let _ = send.send(Message::Binary(frame.into())).await;
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = send.send(Message::Close(Some(close))).await;
    };
    let write = async move {
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        loop {
            let message = tokio::select! {
                message = receive.recv() => match message { Some(m) => m, None => return },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            let last = message.is_close();
            if sink.send(message).await.is_err() || last {
                return;
            }
        }
    };
    let all = async {
        tokio::join!(finish, write);
    };
    tokio::select! {
        () = stop.cancelled() => {}
        // The client's side ends only when the client goes: input that is closed waits for the command.
        () = copy_in(stream, stdin, resize) => {}
        () = all => {}
    }
}

async fn copy_out(channel: u8, mut reader: Reader, send: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                let mut frame = Vec::with_capacity(n + 1);
                frame.push(channel);
                frame.extend_from_slice(buffer.get(..n).unwrap_or_default());
                if send.send(Message::Binary(frame.into())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn copy_in(
    mut stream: SplitStream<Socket>,
    mut stdin: Option<Writer>,
    resize: Option<mpsc::Sender<TerminalSize>>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let frame = match message {
            Message::Binary(frame) => frame,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            _ => continue,
        };
        match frame.split_first() {
            Some((&STDIN, data)) => {
                if let Some(writer) = &mut stdin {
                    let written = async {
                        writer.write_all(data).await?;
                        writer.flush().await
                    };
                    if written.await.is_err() {
                        stdin = None;
                    }
                }
            }
            Some((&RESIZE, data)) => {
                if let (Some(resize), Some(size)) = (&resize, terminal_size(data)) {
                    let _ = resize.try_send(size);
                }
            }
            Some((&CLOSE, [STDIN])) => {
                if let Some(mut writer) = stdin.take() {
                    let _ = writer.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

fn terminal_size(data: &[u8]) -> Option<TerminalSize> {
    let size: Value = serde_json::from_slice(data).ok()?;
    let number = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize {
        width: number("Width")?,
        height: number("Height")?,
    })
}

fn status(exit: Result<Exit, BackendError>) -> Value {
    match exit {
        Ok(Exit { code: 0 }) => json!({"metadata": {}, "status": "Success"}),
        Ok(Exit { code }) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {error}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_where_kubectl_looks() {
        let status = status(Ok(Exit { code: 7 }));
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "7"})
        );
    }

    #[test]
    fn terminal_sizes_are_read_and_nonsense_is_not() {
        assert_eq!(
            terminal_size(br#"{"Width":80,"Height":24}"#),
            Some(TerminalSize {
                width: 80,
                height: 24
            })
        );
        assert_eq!(terminal_size(br#"{"Width":-1}"#), None);
    }
}
