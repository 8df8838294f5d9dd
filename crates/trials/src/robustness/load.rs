//! Clients that never stop asking, and check that each answer is the one they asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A request that takes longer is counted as one that failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the clients saw.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// The right answers.
    pub good: u64,
    /// Answers to another request, or what is no answer; each with its text.
    pub wrong: Vec<String>,
    /// Requests that failed, by what the client saw.
    pub failed: BTreeMap<String, u64>,
    /// The longest an answer took.
    pub slowest: Duration,
}

/// The running clients.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    started: Instant,
}

impl Tally {
    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// One line.
    pub fn told(&self) -> String {
        let failed = match self.failures() {
            0 => "none failed".to_owned(),
            number => format!("{number} failed {:?}", self.failed),
        };
        format!(
            "{} right, {} wrong, {failed}, slowest {} ms",
            self.good,
            self.wrong.len(),
            self.slowest.as_millis()
        )
    }

    /// No wrong answer; this many may have failed.
    pub fn judge(&self, may_fail: u64) -> anyhow::Result<()> {
        if let Some(first) = self.wrong.first() {
            bail!("{}; the first wrong one: {first}", self.told());
        }
        ensure!(self.good > 0, "nothing was answered: {}", self.told());
        ensure!(
            self.failures() <= may_fail,
            "{} (at most {may_fail} may fail)",
            self.told()
        );
        Ok(())
    }
}

impl Load {
    /// So many clients, each with one connection at a time and a short breath between requests.
    pub fn start(front: SocketAddr, clients: usize) -> Load {
        let mut load = Load {
            tally: Arc::default(),
            stop: Arc::default(),
            tasks: JoinSet::new(),
            started: Instant::now(),
        };
        let numbers = Arc::new(AtomicU64::new(0));
        for _ in 0..clients {
            let (tally, stop, numbers) = (load.tally.clone(), load.stop.clone(), numbers.clone());
            load.tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let path = format!("/{}", numbers.fetch_add(1, Ordering::Relaxed));
                    let asked = Instant::now();
                    let answer = timeout(PATIENCE, ask(&mut connection, front, &path)).await;
                    let answer = answer.unwrap_or_else(|_| {
                        connection = None;
                        Err("no answer".into())
                    });
                    count(&tally, &path, answer, asked.elapsed());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        load
    }

    /// What was seen so far.
    pub fn tally(&self) -> Tally {
        self.tally
            .lock()
            .map(|tally| tally.clone())
            .unwrap_or_default()
    }

    /// How long it runs already.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets every client finish its request.
    pub async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.tally()
    }
}

fn count(tally: &Mutex<Tally>, path: &str, answer: Result<(u16, String), String>, took: Duration) {
    let Ok(mut tally) = tally.lock() else {
        return;
    };
    match answer {
        Ok((200, body))
            if body
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(" by ")) =>
        {
            tally.good += 1;
            tally.slowest = tally.slowest.max(took);
        }
        Ok((200, body)) => tally.wrong.push(format!("{path}: {body:?}")),
        Ok((status @ (429 | 500..=599), body)) => {
            let reason = body
                .rsplit(". ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            *tally
                .failed
                .entry(format!("{status} {reason}"))
                .or_default() += 1;
        }
        Ok((status, body)) => tally.wrong.push(format!("{path}: {status} {body:?}")),
        Err(why) => *tally.failed.entry(why).or_default() += 1,
    }
}

async fn ask(
    connection: &mut Option<TcpStream>,
    front: SocketAddr,
    path: &str,
) -> Result<(u16, String), String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(front)
            .await
            .map_err(|error| format!("connecting: {:?}", error.kind()))?,
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: web.ns\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|error| format!("sending: {:?}", error.kind()))?;
    let mut all = Vec::new();
    loop {
        if let Some((status, body, closes)) = parse(&all) {
            if !closes {
                *connection = Some(stream);
            }
            return Ok((status, body));
        }
        match stream.read_buf(&mut all).await {
            Ok(0) if all.is_empty() => return Err("closed without an answer".into()),
            Ok(0) => return Err("closed within an answer".into()),
            Ok(_) => {}
            Err(error) => return Err(format!("receiving: {:?}", error.kind())),
        }
    }
}

/// Status, body, and whether the connection ends: answers with a length only.
fn parse(all: &[u8]) -> Option<(u16, String, bool)> {
    let text = std::str::from_utf8(all).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let lower = head.to_ascii_lowercase();
    let length = lower
        .split_once("content-length: ")?
        .1
        .lines()
        .next()?
        .parse()
        .ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    (body.len() >= length).then(|| (status, body.to_owned(), lower.contains("connection: close")))
}
