//! `osm local outside`: a host outside the pod network, routed to the node, that runs one program.
//!
//! The daemon makes it, on request over a socket in the cluster's folder, and takes it away when the requester leaves.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::Outside;
use super::place::Layout;
use crate::Node;
use crate::container::{KillOnDrop, process};

/// What a program gets to end after SIGTERM. (As the first process of its pid namespace it must handle it to see it.)
const GRACE: Duration = Duration::from_secs(1);
/// Programs of this kind on one cluster at a time.
const MOST: u32 = 64;

/// What the requester sends: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    ips: Vec<IpAddr>,
    command: Vec<String>,
    directory: PathBuf,
}

/// What comes back: lines of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// It could not be started.
    Error(String),
    /// Some output.
    Output(String),
    /// It has ended.
    Exit(i32),
}

/// Asks the daemon for an outside host and shows its program's output until it ends. Ctrl-C ends it.
pub fn outside(options: &Outside) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(&options.place)?;
    if layout.running().is_none() {
        bail!("no cluster is running in {}", layout.dir.display());
    }
    let mut command = options.command.clone();
    if let Some(program) = command.first_mut().filter(|p| p.contains('/')) {
        *program = std::path::absolute(&*program)?
            .to_string_lossy()
            .into_owned();
    }
    let request = Request {
        ips: options.ip.iter().chain(&options.ip6).copied().collect(),
        command,
        directory: std::env::current_dir()?,
    };
    // Entered, so that a long path does not exceed what a socket address can hold.
    std::env::set_current_dir(&layout.dir)?;
    let mut stream = StdStream::connect("control.sock").context("the cluster's control socket")?;
    stream.write_all(&serde_json::to_vec(&request)?)?;
    stream.write_all(b"\n")?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("answer of the daemon")? {
            Answer::Error(error) => bail!("{error}"),
            Answer::Output(text) => {
                print!("{text}");
                io::stdout().flush()?;
            }
            Answer::Exit(code) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        }
    }
    bail!("the cluster has ended")
}

/// Takes requests until dropped.
pub async fn serve(node: &Arc<Node>, layout: &Layout) -> anyhow::Result<()> {
    let _ = std::fs::remove_file(layout.socket());
    // By a short name, for the same reason as above.
    let dir = std::fs::File::open(&layout.dir)?;
    let short = format!(
        "/proc/self/fd/{}/control.sock",
        std::os::fd::AsRawFd::as_raw_fd(&dir)
    );
    let listener =
        UnixListener::bind(&short).with_context(|| layout.socket().display().to_string())?;
    let running = Arc::new(AtomicU32::new(0));
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    loop {
        let (stream, _) = listener.accept().await?;
        if running.fetch_add(1, Ordering::Relaxed) >= MOST {
            running.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (node, running, number) = (
            node.clone(),
            running.clone(),
            NUMBER.fetch_add(1, Ordering::Relaxed),
        );
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.into_split();
            if let Err(error) = run(&node, number, &mut reader, &mut writer).await {
                let _ = answer(&mut writer, &Answer::Error(format!("{error:#}"))).await;
            }
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

type Reader = tokio::net::unix::OwnedReadHalf;
type Writer = tokio::net::unix::OwnedWriteHalf;

async fn run(
    node: &Node,
    number: u32,
    reader: &mut Reader,
    writer: &mut Writer,
) -> anyhow::Result<()> {
    let mut line = String::new();
    let mut lines = tokio::io::BufReader::new(&mut *reader);
    (&mut lines).take(1 << 20).read_line(&mut line).await?;
    let request: Request = serde_json::from_str(&line).context("request")?;
    let shared = node.shared().context("the node is not running yet")?;
    let attached = shared
        .network
        .attach_outside(&format!("outside{number}"), request.ips)
        .await?;
    let (process, streams) = process::start_outside(
        attached.netns.file().clone(),
        request.command,
        request.directory,
    )
    .await?;
    let guard = KillOnDrop(Some(process.clone()));
    let (mut stdout, mut stderr) = streams;
    let (mut out, mut err) = (vec![0; 8192], vec![0; 8192]);
    let (mut out_open, mut err_open) = (true, true);
    let mut gone = [0; 1];
    loop {
        let chunk = tokio::select! {
            read = stdout.read(&mut out), if out_open => { let n = read.unwrap_or(0); out_open = n > 0; out.get(..n).unwrap_or_default() }
            read = stderr.read(&mut err), if err_open => { let n = read.unwrap_or(0); err_open = n > 0; err.get(..n).unwrap_or_default() }
            ended = process.wait(), if !out_open && !err_open => {
                answer(writer, &Answer::Exit(ended.code)).await?;
                break;
            }
            _ = lines.read(&mut gone) => {
                process.signal(Signal::SIGTERM);
                let _ = tokio::time::timeout(GRACE, process.wait()).await;
                break;
            }
        };
        let text = String::from_utf8_lossy(chunk).into_owned();
        if !text.is_empty() && answer(writer, &Answer::Output(text)).await.is_err() {
            process.signal(Signal::SIGTERM);
            let _ = tokio::time::timeout(GRACE, process.wait()).await;
            break;
        }
    }
    drop(guard);
    process.wait().await;
    Ok(())
}

async fn answer(writer: &mut Writer, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
