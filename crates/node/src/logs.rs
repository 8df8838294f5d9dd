//! Container logs: one file per run in the CRI line format (`<time> stdout F <text>`), bounded by rotation, followed live.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

/// A log file is put aside at this size (the kubelet's default); one older file is kept.
const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// A line longer than this is split, as container runtimes do.
const LONGEST_LINE: usize = 16 * 1024;
/// Chunks in flight to a slow reader.
const CHUNKS: usize = 16;

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    open: Mutex<Open>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Counts writes.
    writes: u64,
    /// Counts rotations.
    rotations: u64,
    /// Nothing comes any more.
    closed: bool,
}

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Go on while the container runs.
    pub follow: bool,
    /// Prefix lines with their time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit: Option<u64>,
}

// === impl Log ===

impl Log {
    /// Starts the log at `path`.
    pub fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path)?;
        Ok(Arc::new(Self {
            path,
            open: Mutex::new(Open { file, size: 0 }),
            progress: watch::Sender::default(),
        }))
    }

    /// Writes what arrives from a container's pipes until both are closed.
    pub async fn record(self: Arc<Self>, stdout: OwnedFd, stderr: OwnedFd) {
        tokio::join!(self.copy("stdout", stdout), self.copy("stderr", stderr));
        self.progress.send_modify(|p| p.closed = true);
    }

    /// Nothing will be written: readers need not wait.
    pub fn close(&self) {
        self.progress.send_modify(|p| p.closed = true);
    }

    async fn copy(&self, stream: &str, pipe: OwnedFd) {
        let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else {
            return;
        };
        let mut buffer = Vec::with_capacity(4096);
        // An error of a pipe means its end too.
        while let Ok(read) = pipe.read_buf(&mut buffer).await {
            let mut done = 0;
            while let Some(length) = buffer
                .get(done..)
                .and_then(|rest| rest.iter().position(|b| *b == b'\n'))
            {
                self.line(
                    stream,
                    "F",
                    buffer.get(done..done + length).unwrap_or_default(),
                );
                done += length + 1;
            }
            buffer.drain(..done);
            if read == 0 {
                break;
            }
            if buffer.len() >= LONGEST_LINE {
                self.line(stream, "P", &buffer);
                buffer.clear();
            }
        }
        if !buffer.is_empty() {
            self.line(stream, "F", &buffer);
        }
    }

    fn line(&self, stream: &str, tag: &str, text: &[u8]) {
        let mut line = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        let mut open = self.open.lock();
        let mut rotated = false;
        if open.size + line.len() as u64 > ROTATE_AT {
            // On failure the log goes on in the same file: better too long than lost.
            if std::fs::rename(&self.path, older(&self.path)).is_ok()
                && let Ok(file) = File::create(&self.path)
            {
                *open = Open { file, size: 0 };
                rotated = true;
            }
        }
        if open.file.write_all(&line).is_ok() {
            open.size += line.len() as u64;
        }
        drop(open);
        self.progress.send_modify(|p| {
            p.writes += 1;
            p.rotations += u64::from(rotated);
        });
    }

    /// Reads a part of the log in chunks.
    pub fn read(&self, part: Part) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (path, progress) = (self.path.clone(), self.progress.subscribe());
        tokio::spawn(async move {
            if let Err(error) = send(&path, progress, part, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }

    /// The last text of the log, for termination messages.
    pub fn tail(&self, lines: u64, bytes: usize) -> String {
        let mut text = Vec::new();
        let part = Part {
            tail: Some(lines),
            ..Part::default()
        };
        if let Ok(mut file) = File::open(&self.path) {
            let mut all = Vec::new();
            let _ = file.read_to_end(&mut all);
            let mut last = VecDeque::new();
            select(&all, &part, &mut last);
            last.iter().for_each(|line| text.extend_from_slice(line));
        }
        let from = text.len().saturating_sub(bytes);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

async fn send(
    path: &Path,
    mut progress: watch::Receiver<Progress>,
    part: Part,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut left = part.limit.unwrap_or(u64::MAX);
    let mut seen = *progress.borrow_and_update();
    let mut earlier = Vec::new();
    match File::open(older(path)) {
        Ok(mut file) => drop(file.read_to_end(&mut earlier)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut reader = BufReader::new(File::open(path)?);
    let mut rest = Vec::new();
    complete_lines(&mut reader, &mut rest, &mut earlier)?;
    let mut lines = VecDeque::new();
    select(&earlier, &part, &mut lines);
    if deliver(lines, &mut left, sender).await.is_err() {
        return Ok(());
    }
    let later = Part {
        tail: None,
        ..part.clone()
    };
    while part.follow && left > 0 {
        let now = *progress.borrow_and_update();
        let mut fresh = Vec::new();
        complete_lines(&mut reader, &mut rest, &mut fresh)?;
        if now.rotations != seen.rotations {
            reader = BufReader::new(File::open(path)?);
            complete_lines(&mut reader, &mut rest, &mut fresh)?;
            seen = now;
        }
        let mut lines = VecDeque::new();
        select(&fresh, &later, &mut lines);
        if deliver(lines, &mut left, sender).await.is_err() || now.closed {
            break;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { break },
            () = sender.closed() => break,
        }
    }
    Ok(())
}

/// Appends whole lines to `out`; a line that is still being written stays in `rest`.
fn complete_lines(
    reader: &mut BufReader<File>,
    rest: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    while reader.read_until(b'\n', rest)? > 0 && rest.ends_with(b"\n") {
        out.append(rest);
    }
    Ok(())
}

/// Turns CRI lines into what a reader gets, keeping the last ones if `part` says so.
fn select(bytes: &[u8], part: &Part, lines: &mut VecDeque<Vec<u8>>) {
    let mut partial = false;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(_), Some(tag), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let Some(since) = part.since {
            let time = std::str::from_utf8(time)
                .ok()
                .and_then(|t| t.parse::<Timestamp>().ok());
            if time.is_some_and(|t| t < since) {
                continue;
            }
        }
        let mut out = Vec::with_capacity(line.len());
        if part.timestamps && !partial {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        let is_partial = tag == b"P";
        out.extend_from_slice(if is_partial {
            text.strip_suffix(b"\n").unwrap_or(text)
        } else {
            text
        });
        match lines.back_mut().filter(|_| partial) {
            Some(last) => last.append(&mut out),
            None => lines.push_back(out),
        }
        partial = is_partial;
        if !partial && part.tail.is_some_and(|tail| lines.len() as u64 > tail) {
            lines.pop_front();
        }
    }
}

/// Sends lines in one chunk per call; an error means that the reader is gone.
async fn deliver(
    lines: VecDeque<Vec<u8>>,
    left: &mut u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), ()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut chunk = lines.into_iter().flatten().collect::<Vec<u8>>();
    chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= chunk.len() as u64;
    sender.send(Ok(chunk.into())).await.map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Arc<Log>) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("c/0.log")).unwrap();
        (folder, log)
    }

    async fn text(mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> String {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log_are_read_as_asked() {
        let (_folder, log) = log();
        log.line("stdout", "F", b"one");
        log.line("stderr", "P", b"tw");
        log.line("stderr", "F", b"o");
        log.line("stdout", "F", b"three");
        assert_eq!(text(log.read(Part::default())).await, "one\ntwo\nthree\n");
        assert_eq!(
            text(log.read(Part {
                tail: Some(2),
                ..Part::default()
            }))
            .await,
            "two\nthree\n"
        );
        assert_eq!(
            text(log.read(Part {
                tail: Some(0),
                ..Part::default()
            }))
            .await,
            ""
        );
        assert_eq!(
            text(log.read(Part {
                limit: Some(5),
                ..Part::default()
            }))
            .await,
            "one\nt"
        );
        let stamped = text(log.read(Part {
            timestamps: true,
            tail: Some(1),
            ..Part::default()
        }))
        .await;
        assert!(stamped.ends_with("Z three\n"), "{stamped}");
    }

    #[tokio::test]
    async fn following_sees_lines_until_the_end_and_across_a_rotation() {
        let (_folder, log) = log();
        let (stdout, out) = io::pipe().unwrap();
        let (stderr, err) = io::pipe().unwrap();
        let recording = tokio::spawn(log.clone().record(stdout.into(), stderr.into()));
        let mut follow = log.read(Part {
            follow: true,
            ..Part::default()
        });
        let mut out = out;
        out.write_all(b"first\n").unwrap();
        assert_eq!(follow.recv().await.unwrap().unwrap(), "first\n");
        let big = vec![b'x'; LONGEST_LINE - 1];
        let count = ROTATE_AT as usize / LONGEST_LINE + 2;
        let writer = std::thread::spawn(move || {
            for _ in 0..count {
                out.write_all(&big).unwrap();
                out.write_all(b"\n").unwrap();
            }
            out.write_all(b"last").unwrap();
            drop((out, err));
        });
        let rest = text(follow).await;
        writer.join().unwrap();
        recording.await.unwrap();
        assert!(rest.ends_with("last\n"));
        assert_eq!(
            rest.lines().count(),
            count + 1,
            "no line is lost by the rotation"
        );
    }
}
