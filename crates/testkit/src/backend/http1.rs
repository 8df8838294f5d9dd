//! The backend's HTTP/1.

use std::time::Duration;

use socket2::Socket;
use tokio::io::AsyncWriteExt;

use super::{Received, Reply, Session};
use crate::message::{Framing, Head, Reader, Transport};

/// An idle connection is left after this.
const IDLE: Duration = Duration::from_secs(60);

/// What a reply left of the connection.
enum Left {
    Open,
    Ended,
}

pub(super) async fn serve(session: Session, stream: Box<dyn Transport>, socket: Option<Socket>) {
    let mut reader = Reader::new(stream);
    while let Ok(head) = reader.head(IDLE).await {
        let mut words = head.line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let received = Received {
            method: word(),
            target: word(),
            version: word(),
            fields: head.fields.clone(),
            raw: head.raw.clone(),
            ..Received::default()
        };
        let method = received.method.clone();
        let note = session.note(received);
        if let Reply::Early(reply) = &note.reply
            && let Left::Ended = play(&mut reader, &method, reply, &socket).await
        {
            return;
        }
        if expects_continue(&head) && !matches!(note.reply, Reply::Early(_)) {
            let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
            let _ = reader.stream.write_all(interim).await;
        }
        let body = reader.body(head.framing(Framing::None), IDLE).await;
        let whole = body.is_complete;
        session.complete(&note, body);
        if matches!(note.reply, Reply::Early(_)) {
            continue;
        }
        if !whole
            || matches!(
                play(&mut reader, &method, &note.reply, &socket).await,
                Left::Ended
            )
        {
            return;
        }
    }
}

fn expects_continue(head: &Head) -> bool {
    let expect = head.field("expect");
    expect.is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"))
}

async fn play(reader: &mut Reader, method: &str, reply: &Reply, socket: &Option<Socket>) -> Left {
    let mut reply = reply;
    while let Reply::After(wait, then) = reply {
        tokio::time::sleep(*wait).await;
        reply = then;
    }
    match reply {
        Reply::Raw(bytes, keeps) => {
            let written = reader.stream.write_all(bytes).await;
            let _ = reader.stream.flush().await;
            match written.is_ok() && *keeps {
                true => Left::Open,
                false => {
                    let _ = reader.stream.shutdown().await;
                    Left::Ended
                }
            }
        }
        Reply::Reset(_) => {
            // Zero linger: the close becomes a reset.
            if let Some(socket) = socket {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            Left::Ended
        }
        Reply::Close => {
            let _ = reader.stream.shutdown().await;
            Left::Ended
        }
        Reply::Hang => {
            let _ = reader.end(IDLE).await;
            Left::Ended
        }
        Reply::Upgrade => upgrade(reader).await,
        Reply::Answer { .. } => write(reader, method, reply).await,
        // Nested forms stand only at the outside.
        Reply::Early(_) | Reply::After(..) => Left::Ended,
    }
}

async fn upgrade(reader: &mut Reader) -> Left {
    let head =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let _ = reader.stream.write_all(head).await;
    let mut from = 0;
    loop {
        let bytes = reader.rest()[from..].to_vec();
        from += bytes.len();
        if reader.stream.write_all(&bytes).await.is_err() {
            return Left::Ended;
        }
        let _ = reader.stream.flush().await;
        if reader.more(IDLE).await.is_err() {
            let _ = reader.stream.shutdown().await;
            return Left::Ended;
        }
    }
}

async fn write(reader: &mut Reader, method: &str, reply: &Reply) -> Left {
    let Reply::Answer {
        status,
        fields,
        body,
        trailers,
    } = reply
    else {
        return Left::Ended;
    };
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
    let mut is_framed = *status == 204 || *status == 304;
    let mut closes = false;
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
        is_framed |= name == "content-length" || name == "transfer-encoding";
        closes |= name == "connection" && value == "close";
    }
    let chunked = !trailers.is_empty();
    match (is_framed, chunked) {
        (true, _) => {}
        (false, true) => text.push_str("transfer-encoding: chunked\r\n"),
        (false, false) => text.push_str(&format!("content-length: {}\r\n", body.len())),
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if method != "HEAD" && *status != 204 && *status != 304 {
        if chunked {
            bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n0\r\n");
            for (name, value) in trailers {
                bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
        } else {
            bytes.extend_from_slice(body);
        }
    }
    if reader.stream.write_all(&bytes).await.is_err() || closes {
        let _ = reader.stream.shutdown().await;
        return Left::Ended;
    }
    let _ = reader.stream.flush().await;
    Left::Open
}
