//! A way between two programs that can be shut, with everything that is on it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Passes connections on while it is open.
pub struct Gate {
    pub address: SocketAddr,
    to: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Gate {
    /// An open gate at a free port of this address.
    pub async fn new(at: SocketAddr, to: SocketAddr) -> anyhow::Result<Gate> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let task = Some(tokio::spawn(pass(listener, to)));
        Ok(Gate { address, to, task })
    }

    /// Ends all connections and takes no more.
    pub fn shut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Opens again, at the same address.
    pub async fn open(&mut self) {
        self.shut();
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.task = Some(tokio::spawn(pass(listener, self.to)));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

async fn pass(listener: TcpListener, to: SocketAddr) {
    // The connections end with the task that owns them.
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
