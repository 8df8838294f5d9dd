//! A connection is used again only when both messages on it are complete.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

use crate::recorder::{OK, Recorder, Script};
use crate::stage::{PATIENCE, pair, say, statuses};
use crate::support::{Http, eventually};

const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: web.ns\r\n\r\n";

/// Ten clients in a row get their own answers.
async fn canaries(front: SocketAddr) {
    for _ in 0..10 {
        let bytes = b"GET /public/canary HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
        let (answer, _) = say(front, bytes, |_| false).await;
        assert!(
            statuses(&answer) == [200] && answer.ends_with("\r\n\r\nok"),
            "{answer}"
        );
    }
}

fn smuggled(backend: &Recorder) -> bool {
    backend
        .seen()
        .iter()
        .any(|seen| seen.line().ends_with("/smuggled"))
        || !backend.broken().is_empty()
}

/// Reads one answer of two bytes' length.
async fn read_answer(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0u8; 1024];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(length) if length > 0 => {
                    text.push_str(&String::from_utf8_lossy(&buffer[..length]))
                }
                _ => return false,
            }
            if text.contains("\r\n\r\n")
                && (text.ends_with("ok") || text.contains("content-length: 0"))
            {
                return true;
            }
        }
    };
    let whole = timeout(PATIENCE, read).await.unwrap_or(false);
    whole.then_some(text)
}

#[tokio::test]
async fn a_body_after_an_early_answer_is_no_request() {
    for hop in [Http::One, Http::Two] {
        let backend = Recorder::with(|head| match head.contains("/public/early") {
            true => Script::First(OK.to_vec()),
            false => Script::Then(OK.to_vec()),
        })
        .await;
        let pair = pair(backend.address, hop);
        for length in [SMUGGLED.len(), 1_000_000] {
            let mut client = TcpStream::connect(pair.front).await.unwrap();
            let head = format!(
                "POST /public/early HTTP/1.1\r\nHost: web.ns\r\nContent-Length: {length}\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let answer = read_answer(&mut client).await.expect("an early answer");
            assert_eq!(statuses(&answer), [200]);
            canaries(pair.front).await;
            // The body, late: a reader that took the exchange for finished would see a request.
            let _ = client.write_all(SMUGGLED).await;
            canaries(pair.front).await;
            assert!(
                !smuggled(&backend),
                "{:?} {:?}",
                backend.seen(),
                backend.broken()
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_is_cut_spoils_no_connection() {
    for hop in [Http::One, Http::Two] {
        let backend = Recorder::new().await;
        let pair = pair(backend.address, hop);
        for head in [
            "Content-Length: 1000\r\n\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let mut client = TcpStream::connect(pair.front).await.unwrap();
            let bytes = format!("POST /public/cut HTTP/1.1\r\nHost: web.ns\r\n{head}");
            client.write_all(bytes.as_bytes()).await.unwrap();
            canaries(pair.front).await;
            drop(client);
            canaries(pair.front).await;
        }
        assert!(
            backend
                .seen()
                .iter()
                .all(|seen| seen.line() == "GET /public/canary")
        );
        assert_eq!(backend.broken(), [] as [String; 0]);
    }
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_arrives_although_the_server_closes() {
    let backend = Recorder::with(|head| match head.contains("/public/large") {
        true => Script::Close(
            b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                .to_vec(),
        ),
        false => Script::Then(OK.to_vec()),
    })
    .await;
    let pair = pair(backend.address, Http::One);
    for _ in 0..5 {
        let mut client = TcpStream::connect(pair.front).await.unwrap();
        client
            .write_all(
                b"POST /public/large HTTP/1.1\r\nHost: web.ns\r\nContent-Length: 50000000\r\n\r\n",
            )
            .await
            .unwrap();
        let (mut read, mut write) = client.split();
        let body = async {
            let piece = vec![b'a'; 65_536];
            while write.write_all(&piece).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let answer = async {
            let mut buffer = vec![0u8; 4096];
            let length = read.read(&mut buffer).await.unwrap_or(0);
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let answer = tokio::select! { answer = answer => answer, () = body => unreachable!() };
        // The reset that follows may overtake the answer; what must not come is another's answer.
        assert!(
            answer.is_empty() || statuses(&answer) == [413] || statuses(&answer) == [503],
            "{answer}"
        );
    }
    canaries(pair.front).await;
}

/// A backend that answers an upgrade when it is told to, and keeps what came before.
async fn hesitant(
    answer: &'static [u8],
) -> (SocketAddr, Arc<Mutex<Vec<u8>>>, Arc<tokio::sync::Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (before, go) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (kept, told) = (before.clone(), go.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (kept, told) = (kept.clone(), told.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0u8; 4096];
                loop {
                    tokio::select! {
                        read = stream.read(&mut buffer) => match read {
                            Ok(length) if length > 0 => kept.lock().extend_from_slice(&buffer[..length]),
                            _ => return,
                        },
                        () = told.notified() => break,
                    }
                }
                let _ = stream.write_all(answer).await;
                while let Ok(length) = stream.read(&mut buffer).await {
                    if length == 0 {
                        return;
                    }
                    kept.lock().extend_from_slice(&buffer[..length]);
                }
            });
        }
    });
    (address, before, go)
}

const UPGRADE: &[u8] = b"GET /public/ws HTTP/1.1\r\nHost: web.ns\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const HIDDEN: &[u8] = b"GET /admin HTTP/1.1\r\nHost: web.ns\r\n\r\n";

#[tokio::test]
async fn nothing_follows_an_upgrade_before_it_is_granted() {
    for hop in [Http::One, Http::Two] {
        let (backend, kept, go) = hesitant(OK).await;
        let pair = pair(backend, hop);
        let mut client = TcpStream::connect(pair.front).await.unwrap();
        client.write_all(&[UPGRADE, HIDDEN].concat()).await.unwrap();
        eventually("the request is there", async || {
            kept.lock().windows(4).any(|bytes| bytes == b"\r\n\r\n")
        })
        .await;
        // Give what should not come the time to come: the client's bytes were sent with the head.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = String::from_utf8_lossy(&kept.lock()).into_owned();
        assert!(
            before.ends_with("\r\n\r\n") && !before.contains("/admin"),
            "{before}"
        );
        // Not granted: what followed was a request, and it is judged as one.
        go.notify_one();
        let mut answer = String::new();
        let mut buffer = [0u8; 4096];
        while let Ok(Ok(length)) = timeout(Duration::from_secs(1), client.read(&mut buffer)).await
            && length > 0
        {
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert_eq!(statuses(&answer).first(), Some(&200), "{answer}");
        assert!(
            statuses(&answer)[1..].iter().all(|status| *status == 403),
            "{answer}"
        );
        let after = String::from_utf8_lossy(&kept.lock()).into_owned();
        assert!(!after.contains("/admin"), "{after}");
    }
}

#[tokio::test]
async fn what_follows_a_granted_upgrade_arrives_in_order() {
    for hop in [Http::One, Http::Two] {
        let granted = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        let (backend, kept, go) = hesitant(granted).await;
        let pair = pair(backend, hop);
        let mut client = TcpStream::connect(pair.front).await.unwrap();
        client
            .write_all(&[UPGRADE, b"first"].concat())
            .await
            .unwrap();
        eventually("the request is there", async || {
            kept.lock().windows(4).any(|bytes| bytes == b"\r\n\r\n")
        })
        .await;
        go.notify_one();
        client.write_all(b"second").await.unwrap();
        eventually("both pieces are there", async || {
            kept.lock().ends_with(b"firstsecond")
        })
        .await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert!(
                timeout(PATIENCE, client.read_buf(&mut answer))
                    .await
                    .unwrap()
                    .unwrap()
                    > 0
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_may_send_its_next_request_instead() {
    for hop in [Http::One, Http::Two] {
        let backend = Recorder::with(|head| match head.contains("/public/early") {
            true => Script::First(
                b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            ),
            false => Script::Then(OK.to_vec()),
        })
        .await;
        let pair = pair(backend.address, hop);
        let mut client = TcpStream::connect(pair.front).await.unwrap();
        let head = format!(
            "POST /public/early HTTP/1.1\r\nHost: web.ns\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            SMUGGLED.len()
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_answer(&mut client).await.expect("an answer");
        assert!(statuses(&answer).contains(&417), "{answer}");
        // A client that was refused may go on with a new request or with the body: no reader may guess.
        let _ = client.write_all(SMUGGLED).await;
        canaries(pair.front).await;
        assert!(
            !smuggled(&backend),
            "{:?} {:?}",
            backend.seen(),
            backend.broken()
        );
    }
}
