//! Running programs: output kept apart, a time limit on each, whole process groups ended when time is up.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a program printed and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

// === impl Output ===

impl Output {
    /// Ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The exit status of the command in the pod when this is `kubectl exec`: 7 for `command terminated with exit code 7`.
    pub fn exit(&self) -> Option<i32> {
        let said = self
            .stderr
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("command terminated with exit code "));
        said.and_then(|code| code.trim().parse().ok()).or(self.code)
    }

    /// Standard output if the program succeeded.
    pub fn text(self) -> Result<String> {
        if self.succeeded() {
            Ok(self.stdout)
        } else {
            bail!("{}", self.complaint())
        }
    }

    /// Output and error as one text, as a terminal shows them.
    pub fn both(&self) -> String {
        let apart = [&self.stdout, &self.stderr]
            .iter()
            .any(|text| text.is_empty());
        let separator = if apart || self.stdout.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        format!("{}{separator}{}", self.stdout, self.stderr)
    }

    /// One line: what was run, how it ended, what it said.
    pub fn complaint(&self) -> String {
        let status = self.code.map_or_else(
            || "ended by a signal".to_owned(),
            |code| format!("exit {code}"),
        );
        format!(
            "{}: {status}: {}",
            self.command,
            self.both().trim().replace('\n', " | ")
        )
    }
}

/// Runs a program in a process group of its own; when the limit passes or the future is dropped, the group is ended.
pub async fn run(command: &mut Command, input: Option<&str>, limit: Duration) -> Result<Output> {
    let name = describe(command);
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name}: cannot be started"))?;
    let _group = Group(child.id());
    let feed = child.stdin.take();
    let text = input.unwrap_or_default().to_owned();
    let work = async {
        if let Some(mut feed) = feed {
            // A program that ends before it has read everything tells why by its status.
            let _ = feed.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let Ok(done) = tokio::time::timeout(limit, work).await else {
        bail!("{name}: no end after {} s", limit.as_secs())
    };
    let done = done.with_context(|| format!("{name}: cannot be read"))?;
    Ok(Output {
        command: name,
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let program = std::path::Path::new(command.get_program());
    let program = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let words = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(program)
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Ends what is left of a process group when dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.and_then(|id| i32::try_from(id).ok());
        // After an ordinary end nothing of the group is left, and the signal reaches nobody.
        let _ = id.map(|id| killpg(Pid::from_raw(id), Signal::SIGKILL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_status_are_kept_apart() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo oops >&2; exit 3"]);
        let output = run(&mut command, Some("hello\n"), Duration::from_secs(20))
            .await
            .expect("runs");
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (Some(3), "hello\n", "oops\n")
        );
        assert!(
            output.complaint().contains("exit 3: hello | oops"),
            "{}",
            output.complaint()
        );
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000"]);
        let error = run(&mut command, None, Duration::from_millis(50))
            .await
            .expect_err("limit");
        assert!(error.to_string().contains("no end"), "{error}");
    }

    #[test]
    fn the_status_in_the_pod_counts() {
        let output = Output {
            code: Some(1),
            stderr: "command terminated with exit code 56\n".into(),
            ..Output::default()
        };
        assert_eq!(output.exit(), Some(56));
        assert_eq!(
            Output {
                code: Some(7),
                ..Output::default()
            }
            .exit(),
            Some(7)
        );
    }
}
