//! Executes the console blocks of documentation pages, so that what the pages show is what happens.
//!
//! In a block fenced with `console`, a line that starts with `$ ` is a command; a here-document goes on to its end mark; the other lines
//! are what the command prints, where `...` stands for anything. All commands of a page run in one shell, so `export` and `cd` last.
//! A command that only reads (`kubectl get`, `kubectl exec`, ...) is repeated until it prints what the page says or its deadline passes,
//! because a mesh takes a moment to follow a change. A block fenced with `console no-test` is not run.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a command that only reads may take to show what the page says: a rollout on a busy machine, not a policy change.
const DEADLINE: Duration = Duration::from_secs(60);
/// Printed by the shell behind each command, with the exit status; no program prints it by chance.
const MARK: &str = "--osmium-docs-end-of-command--";

/// One command of a page and what the page says it prints.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

/// One shell that lives as long as its page.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

fn main() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for page in std::env::args().skip(1) {
        match run_page(&page) {
            Ok(steps) => {
                println!("✓ {page}: {steps} commands");
                passed += 1;
            }
            Err(error) => {
                println!("✗ {page}: {error:#}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_page(page: &str) -> Result<usize> {
    let text = std::fs::read_to_string(page).with_context(|| format!("{page}: cannot be read"))?;
    let steps = steps(&text);
    let mut shell = Shell::start()?;
    for step in &steps {
        println!(
            "  {page}:{}: $ {}",
            step.line,
            step.command.lines().next().unwrap_or_default()
        );
        run_step(&mut shell, step)
            .with_context(|| format!("line {}: $ {}", step.line, step.command))?;
    }
    Ok(steps.len())
}

fn run_step(shell: &mut Shell, step: &Step) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (status, printed) = shell.run(&step.command)?;
        if matches(&step.expected, &printed) {
            return Ok(());
        }
        if !only_reads(&step.command) || Instant::now() > deadline {
            bail!(
                "exit status {status}; the page says:\n{}\nbut it printed:\n{}",
                step.expected.join("\n"),
                printed.join("\n")
            );
        }
        // Not a wait for a fixed time: the loop above is the condition, this only keeps it from spinning.
        std::thread::park_timeout(Duration::from_millis(250));
    }
}

// === impl Shell ===

impl Shell {
    fn start() -> Result<Self> {
        let mut child = Command::new("bash")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("bash cannot be started")?;
        let input = child.stdin.take().context("bash has no input")?;
        let output = BufReader::new(child.stdout.take().context("bash has no output")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Runs one command to its end; its exit status and the lines it printed on both streams.
    fn run(&mut self, command: &str) -> Result<(i32, Vec<String>)> {
        writeln!(
            self.input,
            "{{ {command}\n}} 2>&1 </dev/null\nprintf '\\n%s %s\\n' {MARK} $?"
        )?;
        self.input.flush()?;
        let mut lines = Vec::new();
        for line in (&mut self.output).lines() {
            let line = line?;
            if let Some(status) = line.strip_prefix(MARK) {
                while lines
                    .last()
                    .is_some_and(|line: &String| line.trim().is_empty())
                {
                    lines.pop();
                }
                return Ok((status.trim().parse().unwrap_or(-1), lines));
            }
            lines.push(line.trim_end().to_owned());
        }
        bail!("the shell ended during this command")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Its input is closed by now or soon: nothing to save, and an error here has nobody to hear it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === reading a page ===

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_block = false;
    let mut here_document: Option<String> = None;
    let mut fresh = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") && here_document.is_none() {
            in_block = !in_block && line.trim() == "```console";
            fresh = in_block;
            continue;
        }
        if !in_block {
            continue;
        }
        if let (Some(mark), Some(step)) = (&here_document, steps.last_mut()) {
            step.command.push('\n');
            step.command.push_str(line);
            if line.trim() == mark {
                here_document = None;
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            here_document = command
                .split_once("<<")
                .map(|(_, mark)| mark.trim().trim_matches('\'').to_owned());
            steps.push(Step {
                line: index + 1,
                command: command.to_owned(),
                expected: Vec::new(),
            });
            fresh = false;
        } else if let (false, Some(step)) = (fresh, steps.last_mut()) {
            step.expected.push(line.trim_end().to_owned());
        }
    }
    steps
}

fn only_reads(command: &str) -> bool {
    [
        "kubectl get",
        "kubectl exec",
        "kubectl logs",
        "kubectl describe",
        "osm mesh list",
        "osm namespace list",
        "curl ",
    ]
    .iter()
    .any(|prefix| command.starts_with(prefix))
}

/// Do the printed lines match the page's? An empty expectation matches anything.
fn matches(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => true,
        Some((first, rest)) if first.trim() == "..." => {
            rest.is_empty()
                || (0..=printed.len()).any(|skip| {
                    printed
                        .get(skip..)
                        .is_some_and(|tail| matches_exactly(rest, tail))
                })
        }
        Some(_) => matches_exactly(expected, printed),
    }
}

fn matches_exactly(expected: &[String], printed: &[String]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((first, _)), _) if first.trim() == "..." => matches(expected, printed),
        (Some((pattern, expected)), Some((line, printed))) => {
            line_matches(pattern, line) && matches_exactly(expected, printed)
        }
        _ => false,
    }
}

/// `...` inside a line stands for any run of characters; runs of blanks are alike (columns of tables grow and shrink).
fn line_matches(pattern: &str, line: &str) -> bool {
    let fold = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, line) = (fold(pattern), fold(line));
    let mut parts = pattern.split("...");
    let Some(first) = parts.next() else {
        return line.is_empty();
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_yields_its_commands_with_here_documents_and_what_they_print() {
        let page = "text\n```console\n$ kubectl apply -f - <<EOF\nkind: Egress\nEOF\negress created\n$ true\n```\n```console no-test\n$ rm -r /\n```\n";
        assert_eq!(
            steps(page),
            vec![
                Step {
                    line: 3,
                    command: "kubectl apply -f - <<EOF\nkind: Egress\nEOF".into(),
                    expected: vec!["egress created".into()]
                },
                Step {
                    line: 7,
                    command: "true".into(),
                    expected: vec![]
                },
            ]
        );
    }

    #[test]
    fn dots_stand_for_anything_and_blanks_are_folded() {
        for (expected, printed, same) in [
            (
                "NAME READY\ncurl-... 2/2 Running ...",
                "NAME      READY\ncurl-54cc   2/2   Running   0   20s",
                true,
            ),
            (
                "curl-... 2/2 Running ...",
                "curl-54cc 1/2 Running 0 20s",
                false,
            ),
            ("...\ndone", "one\ntwo\ndone", true),
            ("...\ndone", "one\ntwo", false),
            (
                "HTTP/1.1 200 OK\n...",
                "HTTP/1.1 200 OK\ndate: x\nserver: y",
                true,
            ),
            ("one", "one\ntwo", false),
            ("", "", true),
        ] {
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(
                matches(&lines(expected), &lines(printed)),
                same,
                "{expected:?} against {printed:?}"
            );
        }
    }
}
