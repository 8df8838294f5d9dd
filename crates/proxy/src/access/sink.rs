//! Where log lines go: a thread that writes, behind a queue that does not grow.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use crate::stats::Stats;

/// Lines that wait for the writer. Two seconds' worth at a thousand requests a second.
const QUEUE: usize = 2048;
/// Lines that one system call takes.
const BATCH: usize = 64;
/// A line longer than this is cut: no client shall fill the log.
const LINE: usize = 16 << 10;
/// Files open at once; more are as many as somebody can configure.
const FILES: usize = 64;

/// One of the places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file below the folder that the operator allows.
    File(Arc<Path>),
}

/// The way to the writer.
#[derive(Debug)]
pub struct Writer {
    sender: OnceLock<Option<SyncSender<(Sink, String)>>>,
    stats: Arc<Stats>,
}

/// The folder in which configuration may name files; the operator's word, since the control plane's is not enough to
/// write anywhere on the machine.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Allows files below a folder, once and for all.
pub fn allow(folder: PathBuf) {
    let _ = FOLDER.set(folder);
}

// === impl Sink ===

impl Sink {
    /// The place a path names, if configuration may name it; `Ok(None)` is nowhere.
    pub fn of(path: &str) -> Result<Option<Sink>, String> {
        match path {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => return Ok(Some(Sink::Stdout)),
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => return Ok(Some(Sink::Stderr)),
            "/dev/null" => return Ok(None),
            _ => {}
        }
        let named = Path::new(path);
        let is_plain = named.components().all(|part| {
            matches!(
                part,
                std::path::Component::RootDir | std::path::Component::Normal(_)
            )
        });
        match FOLDER.get() {
            Some(folder) if is_plain && named.starts_with(folder) && named != folder => {
                Ok(Some(Sink::File(named.into())))
            }
            _ => Err(format!(
                "{path:?} is neither /dev/stdout, /dev/stderr nor a file below --access-log-folder"
            )),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// A writer whose thread starts with the first line.
    pub fn new(stats: Arc<Stats>) -> Writer {
        Writer {
            sender: OnceLock::new(),
            stats,
        }
    }

    /// Hands a line over; one that finds the queue full is counted and dropped.
    pub fn send(&self, sink: Sink, mut line: String) {
        if line.len() > LINE {
            let end = (0..=LINE).rev().find(|end| line.is_char_boundary(*end));
            line.truncate(end.unwrap_or_default());
            line.push('\n');
        }
        let sender = self.sender.get_or_init(|| {
            let (sender, receiver) = sync_channel(QUEUE);
            let thread = std::thread::Builder::new().name("access-log".into());
            let started = thread.spawn(move || write(&receiver));
            started.ok().map(|_| sender)
        });
        let sent = sender
            .as_ref()
            .is_some_and(|sender| sender.try_send((sink, line)).is_ok());
        let server = &self.stats.server;
        let counter = if sent {
            &server.log_written
        } else {
            &server.log_dropped
        };
        counter.increment();
    }
}

/// Writes until the last sender is gone.
fn write(receiver: &Receiver<(Sink, String)>) {
    let mut files: HashMap<Arc<Path>, File> = HashMap::new();
    let mut waiting: HashMap<Sink, Vec<u8>> = HashMap::new();
    while let Ok(first) = receiver.recv() {
        for (sink, line) in std::iter::once(first).chain(receiver.try_iter().take(BATCH)) {
            waiting
                .entry(sink)
                .or_default()
                .extend_from_slice(line.as_bytes());
        }
        for (sink, bytes) in &mut waiting {
            if !bytes.is_empty() {
                // A log that cannot be written must not stop the traffic.
                let _ = put(sink, bytes, &mut files);
                bytes.clear();
            }
        }
        waiting.retain(|_, bytes| bytes.capacity() <= 1 << 20);
    }
}

fn put(sink: &Sink, bytes: &[u8], files: &mut HashMap<Arc<Path>, File>) -> std::io::Result<()> {
    match sink {
        Sink::Stdout => std::io::stdout().lock().write_all(bytes),
        Sink::Stderr => std::io::stderr().lock().write_all(bytes),
        Sink::File(path) => {
            if !files.contains_key(path) {
                if files.len() >= FILES {
                    files.clear();
                }
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                files.insert(path.clone(), file);
            }
            files
                .get_mut(path)
                .map_or(Ok(()), |file| file.write_all(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_places_can_be_named() {
        assert_eq!(Sink::of("/dev/stdout"), Ok(Some(Sink::Stdout)));
        assert_eq!(Sink::of("/dev/fd/2"), Ok(Some(Sink::Stderr)));
        assert_eq!(Sink::of("/dev/null"), Ok(None));
        assert!(Sink::of("/var/log/x").is_err());
        let folder = tempfile::tempdir().unwrap();
        allow(folder.path().to_owned());
        let file = folder.path().join("a.log");
        assert_eq!(
            Sink::of(file.to_str().unwrap()),
            Ok(Some(Sink::File(file.as_path().into())))
        );
        for path in ["../x", "/etc/passwd", "x.log", ""] {
            assert!(Sink::of(path).is_err(), "{path}");
        }
        let outside = format!("{}/../x", folder.path().display());
        assert!(Sink::of(&outside).is_err());

        let stats = Arc::new(Stats::default());
        let writer = Writer::new(stats.clone());
        writer.send(Sink::File(file.as_path().into()), "line\n".into());
        writer.send(Sink::File(file.as_path().into()), "é".repeat(LINE));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if text.len() == 5 + LINE + 1 {
                assert!(text.starts_with("line\né") && text.ends_with("é\n"));
                break;
            }
            assert!(std::time::Instant::now() < end, "{}", text.len());
            std::thread::yield_now();
        }
        assert_eq!(
            (
                stats.server.log_written.get(),
                stats.server.log_dropped.get()
            ),
            (2, 0)
        );
    }
}
