//! Raw clients: bytes in, what came back out.

pub mod h1;
pub mod h2;
pub mod h2_raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::message::{End, Transport, ending};

/// How to reach a proxy.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// TLS, with this configuration and server name.
    pub tls: Option<(Arc<rustls::ClientConfig>, String)>,
    /// Sent before anything else, TLS included: a PROXY protocol header.
    pub preface: Vec<u8>,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target {
            address,
            tls: None,
            preface: Vec::new(),
        }
    }
}

impl Target {
    /// Opens a connection; with TLS also the negotiated ALPN protocol.
    pub async fn connect(
        &self,
        limit: Duration,
    ) -> Result<(Box<dyn Transport>, Option<String>), End> {
        match timeout(limit, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(End::Open),
        }
    }

    async fn open(&self) -> Result<(Box<dyn Transport>, Option<String>), End> {
        use tokio::io::AsyncWriteExt;
        let tcp = TcpStream::connect(self.address).await;
        let mut tcp = tcp.map_err(|error| ending(&error))?;
        let _ = tcp.set_nodelay(true);
        if !self.preface.is_empty() {
            let sent = tcp.write_all(&self.preface).await;
            sent.map_err(|error| ending(&error))?;
        }
        let Some((config, name)) = &self.tls else {
            return Ok((Box::new(tcp), None));
        };
        let name = ServerName::try_from(name.clone()).expect("a server name");
        let connector = TlsConnector::from(config.clone());
        let tls = connector.connect(name, tcp).await;
        let tls = tls.map_err(|error| ending(&error))?;
        let alpn = tls.get_ref().1.alpn_protocol();
        let alpn = alpn.map(|name| String::from_utf8_lossy(name).into_owned());
        Ok((Box::new(tls), alpn))
    }
}
