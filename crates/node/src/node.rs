//! The node: what the API server calls, and the loops behind it.

use std::sync::Arc;

use apiserver::backend::{BackendError, BoxFuture, ByteStream, Connection, ExecRequest, ExecSession, LogRequest, PodBackend, PortRequest};

use crate::NodeConfig;

/// The node of the embedded cluster.
pub struct Node {
    config: NodeConfig,
}

impl Node {
    /// A node that runs nothing yet.
    pub fn new(config: NodeConfig) -> Arc<Self> {
        Arc::new(Self { config })
    }

    /// Runs pods, Services and DNS until the future is dropped.
    pub async fn run(self: Arc<Self>, client: kube::Client) -> anyhow::Result<()> {
        drop(client);
        anyhow::bail!("node {}: not built yet", self.config.name)
    }
}

impl PodBackend for Node {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        Box::pin(async move { Err(BackendError::NotFound(format!("pod {} does not run here", request.target.pod))) })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<ByteStream, BackendError>> {
        Box::pin(async move { Err(BackendError::NotFound(format!("pod {} does not run here", request.target.pod))) })
    }

    fn port_forward(&self, request: PortRequest) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move { Err(BackendError::NotFound(format!("pod {} does not run here", request.pod))) })
    }

    fn dial(&self, address: std::net::SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}
