//! Processor time of processes, from the scheduler's own books: nanoseconds, where `utime` counts ticks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

/// What the scheduler has written down for a set of processes at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Instant,
    /// Per thread: nanoseconds on a processor, nanoseconds waiting for one.
    threads: BTreeMap<(u32, u32), (u64, u64)>,
    /// Ticks that the hypervisor gave to others, all processors.
    steal: u64,
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spent {
    /// Nanoseconds on a processor.
    pub run: u64,
    /// Share of the wall time that the processes waited for a processor.
    pub delay: f64,
    /// Share of the wall time that was stolen, per processor.
    pub steal: f64,
    /// Whether a thread came or went: then `run` lacks what it used.
    pub threads_changed: bool,
}

/// Above this share of stolen time a window says more about the neighbours (method: 5 %).
const STEAL_LIMIT: f64 = 0.05;
/// Above this share of waiting, too.
const DELAY_LIMIT: f64 = 0.30;
/// Linux' clock tick of `/proc/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

// === impl Sample ===

impl Sample {
    /// Of these processes and their children.
    pub fn of(processes: &[u32]) -> anyhow::Result<Sample> {
        let mut threads = BTreeMap::new();
        for process in family(processes)? {
            let folder = format!("/proc/{process}/task");
            let entries = fs::read_dir(&folder).with_context(|| format!("process {process}"))?;
            for entry in entries {
                let path = entry?.path();
                let Ok(text) = fs::read_to_string(path.join("schedstat")) else {
                    continue; // The thread ended between the listing and the reading.
                };
                let mut fields = text.split_whitespace().map(str::parse);
                let (Some(Ok(run)), Some(Ok(delay))) = (fields.next(), fields.next()) else {
                    anyhow::bail!("unknown form of schedstat: {text:?}");
                };
                threads.insert((process, thread(&path)), (run, delay));
            }
        }
        Ok(Sample {
            at: Instant::now(),
            threads,
            steal: steal()?,
        })
    }

    /// What was spent since an earlier sample.
    pub fn since(&self, earlier: &Sample) -> Spent {
        let wall = self.at.duration_since(earlier.at).as_secs_f64().max(1e-9);
        let sum = |pick: fn(&(u64, u64)) -> u64| {
            let all = self.threads.iter().map(|(thread, now)| {
                let before = earlier.threads.get(thread).map_or(0, pick);
                pick(now).saturating_sub(before)
            });
            all.sum::<u64>()
        };
        let processors = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let stolen = self.steal.saturating_sub(earlier.steal) as f64 / TICKS_PER_SECOND;
        Spent {
            run: sum(|times| times.0),
            delay: sum(|times| times.1) as f64 / 1e9 / wall,
            steal: stolen / wall / processors,
            threads_changed: !self.threads.keys().eq(earlier.threads.keys()),
        }
    }
}

// === impl Spent ===

impl Spent {
    /// Whether the window may count. Its result is not asked.
    pub fn is_quiet(&self) -> bool {
        self.steal <= STEAL_LIMIT && self.delay <= DELAY_LIMIT && !self.threads_changed
    }
}

/// Anonymous memory of a process, MiB: what is its own and no file's.
pub fn anonymous_mib(process: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("no RssAnon in the status of a process")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// The processes and all their descendants.
pub fn family(processes: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut all = processes.to_vec();
    let mut next = 0;
    while let Some(process) = all.get(next).copied() {
        next += 1;
        let children = format!("/proc/{process}/task/{process}/children");
        for child in fs::read_to_string(children)
            .unwrap_or_default()
            .split_whitespace()
        {
            all.push(child.parse()?);
        }
    }
    Ok(all)
}

fn thread(path: &Path) -> u32 {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

fn steal() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let all = text.lines().next().context("/proc/stat is empty")?;
    Ok(all.split_whitespace().nth(8).map_or(Ok(0), str::parse)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_seen() {
        let me = [std::process::id()];
        let before = Sample::of(&me).unwrap();
        let mut sum = 0u64;
        while Sample::of(&me).unwrap().since(&before).run < 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(anonymous_mib(me[0]).unwrap() > 0.0);
    }

    #[test]
    fn a_window_counts_by_its_noise_only() {
        let quiet = Spent {
            run: 0,
            delay: 0.30,
            steal: 0.05,
            threads_changed: false,
        };
        assert!(quiet.is_quiet());
        assert!(
            !Spent {
                delay: 0.31,
                ..quiet
            }
            .is_quiet()
        );
        assert!(
            !Spent {
                steal: 0.06,
                ..quiet
            }
            .is_quiet()
        );
        assert!(
            !Spent {
                threads_changed: true,
                ..quiet
            }
            .is_quiet()
        );
    }
}
