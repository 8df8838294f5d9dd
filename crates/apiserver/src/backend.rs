//! What the API server asks of the node: run a command, read logs, reach a port of a pod or an address of the cluster network.
//!
//! The trait is object-safe and its futures are boxed, so that the server can be started before the node exists
//! (the node needs a client of the running server) and be given the backend afterwards.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A boxed future, the return type of the object-safe async methods.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Chunks of a log.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;
/// Output of a command.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Input of a command.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Both directions of a byte stream to a pod or an address.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Which container of which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// `metadata.uid` of the pod: a pod of the same name made since is another pod.
    pub uid: String,
    /// Name of the container; the server has resolved defaults and checked that it exists in the spec.
    pub container: String,
}

/// A command to run in a running container.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// Where to run it.
    pub target: Target,
    /// Program and arguments; never empty. Empty argv never reaches the backend.
    pub command: Vec<String>,
    /// The client sends input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error (never together with `tty`).
    pub stderr: bool,
    /// Run on a pseudo terminal.
    pub tty: bool,
}

/// Size of the client's terminal, in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128+N for signal N, as the container runtimes report it.
    pub code: i32,
}

/// A running command. Dropping it must end the command.
pub struct ExecSession {
    /// Standard input if asked for; the server shuts it down when the client closes its side.
    pub stdin: Option<Writer>,
    /// Standard output if asked for (with `tty`: everything).
    pub stdout: Option<Reader>,
    /// Standard error if asked for and no `tty`.
    pub stderr: Option<Reader>,
    /// Terminal size changes, if `tty`.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Resolves when the command has ended; output may still be unread.
    pub exit: BoxFuture<'static, Result<Exit, BackendError>>,
}

/// Which part of a log.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// Whose log.
    pub target: Target,
    /// Go on while the container runs.
    pub follow: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Prefix each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last N lines.
    pub tail_lines: Option<u64>,
    /// Only lines since this time.
    pub since: Option<jiff::Timestamp>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// A TCP port inside a pod's network namespace, reached over its loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// TCP port.
    pub port: u16,
}

/// Why the node could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The pod or container is not known or not running here: HTTP 404/400 with this text.
    #[error("{0}")]
    NotFound(String),
    /// The request cannot be served in the container's present state: HTTP 400 with this text
    /// (`container "x" in pod "y" is waiting to start: PodInitializing`).
    #[error("{0}")]
    BadRequest(String),
    /// Anything else: HTTP 500 with this text.
    #[error("{0}")]
    Internal(String),
}

/// The node, as the API server sees it.
pub trait PodBackend: Send + Sync {
    /// Starts a command in a running container.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, BackendError>>;

    /// Connects to the container's main process (its stdin/stdout); by default unsupported.
    fn attach(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        let text = format!(
            "container \"{}\": attach is not supported by this node",
            request.target.container
        );
        Box::pin(async move { Err(BackendError::BadRequest(text)) })
    }

    /// Reads a container's log.
    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<ByteStream, BackendError>>;

    /// Connects to a port inside a pod's network namespace (port-forward).
    fn port_forward(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>>;

    /// Connects to an address of the cluster network from the node's network namespace (webhooks, pod and service proxy).
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn Connection>>>;
}
