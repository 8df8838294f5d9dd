//! What the API server asks of the node: exec, logs, port-forward, and connections to the cluster network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use apiserver::backend::{
    BackendError, BoxFuture, ByteStream, Connection, ExecRequest, ExecSession, Exit, LogRequest,
    PodBackend, PortRequest, Reader, Target, TerminalSize, Writer,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::container::{KillOnDrop, process};
use crate::logs::Part;
use crate::node::Node;

/// How long a connection into a pod may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Terminal size changes waiting to be set.
const RESIZES: usize = 4;

impl PodBackend for Node {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        Box::pin(self.start_command(request))
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<ByteStream, BackendError>> {
        Box::pin(async move { self.read_logs(&request) })
    }

    fn port_forward(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move {
            let task = self
                .pod(&request.uid)
                .ok_or_else(|| unknown(&request.pod))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, request.port));
            let Some(attachment) = task.attachment() else {
                return connect(address).await.map_err(|e| failed(address, &e));
            };
            let connecting = tokio::task::spawn_blocking(move || {
                attachment.netns.connect(address, CONNECT_DEADLINE)
            });
            let stream = connecting
                .await
                .map_err(|e| BackendError::Internal(e.to_string()))?
                .map_err(|e| failed(address, &e))?;
            stream
                .set_nonblocking(true)
                .map_err(|e| failed(address, &e))?;
            let stream = TcpStream::from_std(stream).map_err(|e| failed(address, &e))?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }

    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(connect(address))
    }
}

impl Node {
    async fn start_command(&self, request: ExecRequest) -> Result<ExecSession, BackendError> {
        let target = &request.target;
        let task = self.pod(&target.uid).ok_or_else(|| unknown(&target.pod))?;
        let instance = task
            .instance(&target.container)
            .ok_or_else(|| not_running(target, &task.waiting_reason(&target.container)))?;
        let mut env = instance.env.clone();
        if request.tty && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let started = process::exec(
            &instance.process,
            instance.rights.clone(),
            request.command.clone(),
            env,
            request.tty,
        )
        .await;
        let (process, streams) = started
            .map_err(|e| BackendError::Internal(format!("command could not be started: {e}")))?;
        let mut session = ExecSession {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
            exit: Box::pin(async move {
                let mut guard = KillOnDrop(Some(process.clone()));
                let ended = process.wait().await;
                guard.0 = None;
                Ok(Exit { code: ended.code })
            }),
        };
        let broken = |e: io::Error| BackendError::Internal(format!("streams of the command: {e}"));
        if let Some(master) = streams.terminal {
            terminal(master, &request, &mut session).map_err(broken)?;
            return Ok(session);
        }
        if let Some(pipe) = streams.stdin.filter(|_| request.stdin) {
            session.stdin =
                Some(Box::new(pipe::Sender::from_owned_fd(pipe).map_err(broken)?) as Writer);
        }
        let reader =
            |pipe: OwnedFd| pipe::Receiver::from_owned_fd(pipe).map(|r| Box::new(r) as Reader);
        session.stdout = streams
            .stdout
            .map(reader)
            .transpose()
            .map_err(broken)?
            .filter(|_| request.stdout);
        session.stderr = streams
            .stderr
            .map(reader)
            .transpose()
            .map_err(broken)?
            .filter(|_| request.stderr);
        Ok(session)
    }

    fn read_logs(&self, request: &LogRequest) -> Result<ByteStream, BackendError> {
        let target = &request.target;
        let task = self.pod(&target.uid).ok_or_else(|| unknown(&target.pod))?;
        let waiting = || {
            let reason = task.waiting_reason(&target.container);
            let message = format!(
                "container \"{}\" in pod \"{}\" is waiting to start: {reason}",
                target.container, target.pod
            );
            BackendError::BadRequest(message)
        };
        let logs = task.logs(&target.container).ok_or_else(waiting)?;
        let log = if request.previous {
            logs.previous.ok_or_else(|| {
                BackendError::BadRequest(format!(
                    "previous terminated container \"{}\" in pod \"{}\" not found",
                    target.container, target.pod
                ))
            })?
        } else {
            logs.current
        };
        let chunks = log.read(Part {
            follow: request.follow && !request.previous,
            timestamps: request.timestamps,
            tail: request.tail_lines,
            since: request.since,
            limit: request.limit_bytes,
        });
        Ok(Box::pin(futures::stream::unfold(
            chunks,
            |mut chunks| async { chunks.recv().await.map(|chunk| (chunk, chunks)) },
        )))
    }
}

async fn connect(address: SocketAddr) -> io::Result<Box<dyn Connection>> {
    let stream = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address))
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("dial tcp {address}: i/o timeout"),
            )
        })??;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

fn unknown(pod: &str) -> BackendError {
    BackendError::NotFound(format!("pod {pod:?} does not run on this node"))
}

fn not_running(target: &Target, reason: &str) -> BackendError {
    BackendError::BadRequest(format!(
        "container \"{}\" in pod \"{}\" is not running: {reason}",
        target.container, target.pod
    ))
}

fn failed(address: SocketAddr, error: &io::Error) -> BackendError {
    BackendError::Internal(format!("dial tcp {address}: {error}"))
}

/// Connects a session to the master side of a terminal.
fn terminal(master: OwnedFd, request: &ExecRequest, session: &mut ExecSession) -> io::Result<()> {
    if request.stdin {
        session.stdin = Some(Box::new(tokio::fs::File::from_std(File::from(
            master.try_clone()?,
        ))));
    }
    session.stdout = Some(Box::new(Master(tokio::fs::File::from_std(File::from(
        master.try_clone()?,
    )))));
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(RESIZES);
    session.resize = Some(sender);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            let size = rustix::termios::Winsize {
                ws_col: size.width,
                ws_row: size.height,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            if rustix::termios::tcsetwinsize(&master, size).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The master side of a terminal: its end is an EIO when the last slave is closed.
struct Master(tokio::fs::File);

impl AsyncRead for Master {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error))
                if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) =>
            {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}
