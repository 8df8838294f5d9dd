//! An application that answers a request with what the request asked for and its own name; it can be killed.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The running application; it ends, with its connections, when dropped.
pub struct Application {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Application {
    pub async fn start(name: &'static str) -> Application {
        Application::start_at(name, "127.0.0.1:0".parse().expect("an address")).await
    }

    pub async fn start_at(name: &'static str, at: SocketAddr) -> Application {
        let listener = loop {
            // Connections of a predecessor may linger.
            match TcpListener::bind(at).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            // The connections end with the task that owns them.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, name));
            }
        });
        Application { address, task }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, name: &'static str) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            match buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => match stream.read_buf(&mut buffer).await {
                    Ok(length) if length > 0 => {}
                    _ => return,
                },
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let body = format!("{path} by {name}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
