//! Telling a story in commands: each is shown, run as it stands by a shell, and its answer compared with the promise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use e2e::bookstore::{Counters, Shop, Wanted};
use e2e::stage::{COMMAND, Stage};
use e2e::{Output, eventually};

/// What a command is promised to do.
#[derive(Clone, Copy, Debug)]
pub enum Promise {
    /// It succeeds and prints this.
    Says(&'static str),
    /// It succeeds and prints both.
    SaysBoth(&'static str, &'static str),
    /// The command in the pod ends with this status.
    Exit(i32),
    /// curl in the pod gets no answer: refused, or closed at once.
    Closed,
    /// The answer of `curl -I` has this status line, `HTTP/1.1 200` or the number alone.
    Answer(&'static str),
}

/// Runs commands and keeps count of promises that were not kept.
pub struct Story {
    wrong: u32,
    terminal: bool,
}

/// How long a promise may take to come true: a change of policy is felt within a second; a busy machine is granted more,
/// and the time it took is printed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longer than a change of policy takes to be felt.
const STILL: Duration = Duration::from_secs(2);

/// Lines of an answer that are shown.
const SHOWN: usize = 6;

// === impl Story ===

impl Story {
    /// A story that begins.
    pub fn new() -> Self {
        Self {
            wrong: 0,
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Promises not kept so far.
    pub fn wrong(&self) -> u32 {
        self.wrong
    }

    /// A headline.
    pub fn chapter(&self, title: &str) {
        println!("\n{title}");
    }

    /// A sentence between commands.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    /// A step without which there is no going on; it may take long.
    pub async fn must(&mut self, stage: &Stage, command: &str, limit: Duration) -> Result<Output> {
        let begin = Instant::now();
        self.announce(command);
        let output = stage.shell(command, limit).await?;
        let done = output.succeeded();
        self.report(done, command, &output, begin.elapsed());
        if done {
            Ok(output)
        } else {
            bail!("the demo cannot go on: {}", output.complaint())
        }
    }

    /// A step that only works if it is shown as what was done by other means.
    pub fn did(&mut self, what: &str, answer: &str, took: Duration) {
        let output = Output {
            stdout: answer.to_owned(),
            code: Some(0),
            ..Output::default()
        };
        self.report(true, what, &output, took);
    }

    /// A command and its promise; tried again until it is kept or patience ends.
    pub async fn see(&mut self, stage: &Stage, command: &str, promise: Promise) {
        self.see_as(stage, command, command, promise).await;
    }

    /// The same with a shorter text for the reader.
    pub async fn see_as(&mut self, stage: &Stage, shown: &str, command: &str, promise: Promise) {
        let begin = Instant::now();
        self.announce(shown);
        let mut last = Output::default();
        let kept = eventually(PATIENCE, async || {
            last = stage.shell(command, COMMAND).await?;
            if promise.kept(&last) {
                Ok(())
            } else {
                bail!("not yet")
            }
        })
        .await;
        self.report(kept.is_ok(), shown, &last, begin.elapsed());
        if kept.is_err() {
            println!(
                "      promised: {promise}; after {} s it is: {}",
                PATIENCE.as_secs(),
                last.complaint()
            );
        }
    }

    /// A command whose promise holds from now on for [`STILL`]: nothing changes where nothing should.
    pub async fn still(&mut self, stage: &Stage, shown: &str, command: &str, promise: Promise) {
        let begin = Instant::now();
        self.announce(shown);
        let mut last = Output::default();
        let mut kept = true;
        while kept && begin.elapsed() < STILL {
            kept = match stage.shell(command, COMMAND).await {
                Ok(output) => {
                    last = output;
                    promise.kept(&last)
                }
                Err(_) => false,
            };
        }
        self.report(kept, shown, &last, begin.elapsed());
        if !kept {
            println!(
                "      promised: {promise}, for {} s; it is: {}",
                STILL.as_secs(),
                last.complaint()
            );
        }
    }

    /// Waits until the counters of the bookstore move as this sentence says, and shows them; gives the later reading.
    pub async fn movement(
        &mut self,
        stage: &Stage,
        shop: &Shop,
        sentence: &str,
        wanted: Wanted,
    ) -> Option<Counters> {
        let begin = Instant::now();
        let moved = shop.moves(stage, wanted, PATIENCE).await;
        let (kept, text) = match &moved {
            Ok((before, after)) => (true, Counters::table(before, after)),
            Err(error) => (false, format!("{error:#}")),
        };
        self.tell(kept, sentence, &text, begin.elapsed());
        moved.ok().map(|(_, after)| after)
    }

    /// A statement that was looked at without a command.
    pub fn tell(&mut self, kept: bool, sentence: &str, text: &str, took: Duration) {
        let mark = if kept { "✓" } else { "✗" };
        println!("  {mark} {sentence}   [{:.1} s]", took.as_secs_f64());
        for line in text.lines() {
            println!("      {}", line.trim_end());
        }
        self.wrong += u32::from(!kept);
    }

    fn announce(&self, command: &str) {
        if self.terminal && !command.contains('\n') {
            print!("  … $ {command}");
            let _ = std::io::stdout().flush();
        }
    }

    fn report(&mut self, kept: bool, command: &str, output: &Output, took: Duration) {
        if self.terminal {
            // Back to the start of the announced line, however many rows it took.
            print!("\r\x1b[2K");
        }
        let mark = if kept { "✓" } else { "✗" };
        println!("  {mark} $ {command}   [{:.1} s]", took.as_secs_f64());
        let text = output.both();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        for line in lines.iter().take(SHOWN) {
            println!("      {line}");
        }
        if lines.len() > SHOWN {
            println!("      … {} more lines", lines.len() - SHOWN);
        }
        self.wrong += u32::from(!kept);
    }
}

// === impl Promise ===

impl Promise {
    fn kept(self, output: &Output) -> bool {
        match self {
            Self::Says(text) => output.succeeded() && output.both().contains(text),
            Self::SaysBoth(one, other) => {
                Self::Says(one).kept(output) && Self::Says(other).kept(output)
            }
            Self::Exit(code) => output.exit() == Some(code),
            Self::Closed => matches!(output.exit(), Some(7 | 52 | 56)),
            Self::Answer(status) => {
                let line = output.stdout.lines().next().unwrap_or_default();
                let number = line.split_whitespace().nth(1).unwrap_or_default();
                output.succeeded() && (line.starts_with(status) || number == status)
            }
        }
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Says(text) => write!(f, "{text:?}"),
            Self::SaysBoth(one, other) => write!(f, "{one:?} and {other:?}"),
            Self::Exit(code) => write!(f, "command terminated with exit code {code}"),
            Self::Closed => write!(f, "command terminated with exit code 7, 52 or 56"),
            Self::Answer(status) => f.write_str(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            code: Some(code),
            stdout: stdout.into(),
            stderr: stderr.into(),
            ..Output::default()
        }
    }

    #[test]
    fn promises_are_kept_by_the_words_of_the_pages() {
        let refused = output(7, "", "command terminated with exit code 7\n");
        let fine = output(0, "HTTP/1.1 200 OK\r\ndate: today\r\n", "");
        let second = output(0, "HTTP/2 200 \r\n", "");
        for (promise, output, kept) in [
            (Promise::Exit(7), &refused, true),
            (Promise::Exit(7), &fine, false),
            (Promise::Answer("HTTP/1.1 200"), &fine, true),
            (Promise::Answer("HTTP/2 200"), &second, true),
            (Promise::Answer("HTTP/2 200"), &fine, false),
            (Promise::Answer("404"), &fine, false),
            (Promise::Says("today"), &fine, true),
        ] {
            assert_eq!(promise.kept(output), kept, "{promise}: {output:?}");
        }
    }
}
