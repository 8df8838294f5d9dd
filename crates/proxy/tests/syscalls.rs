//! How many system calls an exchange costs the pair. The pair runs on one thread of a child process, which is traced:
//! counts depend on no machine's load.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use parking_lot::Mutex;
use support::calls::{self, Caller};
use support::{
    Authority, Http, Proxy, any, http_chain, listener, mesh_cluster, routes, static_cluster,
    with_mtls,
};
use xds::client::Kind;

/// Where the child finds the applications: its presence makes a process the child.
const APPLICATIONS: &str = "OSM_TEST_APPLICATIONS";
const READY: &str = "the pair is at ";

/// System calls of the pair for one exchange: two proxies, of which each reads a request, writes it, reads the answer,
/// writes that, and waits once before each read.
const EACH: u64 = 12;
const ROUNDS: u64 = 100;
/// In all rounds: what the clock or the kernel may add.
const MORE: u64 = 10;

#[test]
fn an_exchange_costs_the_pair_its_reads_writes_and_waits() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Ok(applications) = std::env::var(APPLICATIONS) {
        let applications: Vec<SocketAddr> = applications
            .split(',')
            .map(|address| address.parse().unwrap())
            .collect();
        return runtime.block_on(play(&applications));
    }
    runtime.block_on(async {
        let applications = [calls::http1().await, calls::grpc().await];
        let pair = Pair::start(applications);
        for mut caller in [
            Caller::http1(pair.front).await,
            Caller::grpc(pair.front).await,
        ] {
            for _ in 0..10 {
                caller.call().await;
            }
            let before = pair.counts();
            for _ in 0..ROUNDS {
                caller.call().await;
            }
            let Some(counts) = difference(&before, &pair.counts()) else {
                eprintln!("skipped: this machine lets nobody trace a child");
                return;
            };
            let all: u64 = counts.values().sum();
            println!("{:.2} system calls: {counts:?}", all as f64 / ROUNDS as f64);
            assert!(all >= ROUNDS, "nothing was counted");
            assert!(all <= EACH * ROUNDS + MORE, "by number: {counts:?}");
        }
    });
}

/// Calls by number; nothing where they cannot be counted.
type Counts = Option<BTreeMap<u64, u64>>;

fn difference(before: &Counts, after: &Counts) -> Counts {
    let (before, mut after) = (before.as_ref()?, after.clone()?);
    for (number, count) in before {
        *after.get_mut(number).unwrap() -= count;
    }
    Some(after)
}

/// The pair, traced.
struct Pair {
    child: Child,
    front: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Pair {
    fn start(applications: [SocketAddr; 2]) -> Pair {
        let name = "an_exchange_costs_the_pair_its_reads_writes_and_waits";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(
                APPLICATIONS,
                applications.map(|at| at.to_string()).join(","),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let (front, thread) = lines
            .find_map(|line| {
                let (_, said) = line.split_once(READY)?;
                let (front, thread) = said.split_once(' ')?;
                Some((front.parse().unwrap(), thread.parse().unwrap()))
            })
            .expect("the child says where it is");
        let counts = Arc::new(Mutex::new(None));
        let (of_tracer, (ready, is_ready)) = (counts.clone(), std::sync::mpsc::channel());
        // Whoever traces must be one thread from beginning to end.
        std::thread::spawn(move || trace(Pid::from_raw(thread), &of_tracer, &ready));
        is_ready.recv().unwrap();
        Pair {
            child,
            front,
            counts,
        }
    }

    fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts a thread's calls until it ends.
fn trace(thread: Pid, counts: &Mutex<Counts>, ready: &std::sync::mpsc::Sender<()>) {
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD;
    if ptrace::seize(thread, options).is_err() {
        let _ = ready.send(());
        return;
    }
    *counts.lock() = Some(BTreeMap::new());
    ptrace::interrupt(thread).unwrap();
    let _ = ready.send(());
    let mut is_entry = true;
    loop {
        let signal = match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                if is_entry && let Some(counts) = &mut *counts.lock() {
                    *counts.entry(number(thread)).or_default() += 1;
                }
                is_entry = !is_entry;
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) | Err(Errno::EINTR) => None,
            _ => return,
        };
        if ptrace::syscall(thread, signal).is_err() {
            return;
        }
    }
}

/// The number of the call that a thread has just entered.
#[cfg(target_arch = "x86_64")]
fn number(thread: Pid) -> u64 {
    ptrace::getregs(thread).map_or(u64::MAX, |registers| registers.orig_rax)
}

/// Elsewhere only how many there are is known.
#[cfg(not(target_arch = "x86_64"))]
fn number(_: Pid) -> u64 {
    0
}

/// What the child does.
async fn play(applications: &[SocketAddr]) {
    let ca = Authority::new();
    let mut server = Proxy::new(Some(ca.leaf("server")));
    let clusters = [
        static_cluster("http1", &applications[..1], Http::One),
        static_cluster("grpc", &applications[1..], Http::Two),
    ];
    let clusters = clusters.iter().map(|each| (&*each.name, any(each)));
    server.push(Kind::Cluster, clusters.collect(), &[]);
    let chain = with_mtls(http_chain("in", None), &ca);
    let inbound = listener("inbound", vec![chain], true);
    server.push(Kind::Listener, vec![("inbound", any(&inbound))], &[]);
    let table = routes("in", vec![("/get", "http1"), ("/shop.*", "grpc")]);
    server.push(Kind::Routes, vec![("in", any(&table))], &[]);

    let mut client = Proxy::new(Some(ca.leaf("client")));
    let at = server.address("inbound");
    let name = "spiffe://cluster.local/server/ns";
    let mesh = mesh_cluster("mesh", at, Http::Downstream, &ca, &[name]);
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let outbound = listener("outbound", vec![http_chain("out", None)], false);
    client.push(Kind::Listener, vec![("outbound", any(&outbound))], &[]);
    let table = routes("out", vec![("/.*", "mesh")]);
    client.push(Kind::Routes, vec![("out", any(&table))], &[]);

    println!("{READY}{} {}", client.address("outbound"), gettid());
    // The parent holds the other end: the child ends with it.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    std::future::pending().await
}
