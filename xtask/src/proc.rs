//! Child processes: with no stdin, with a time limit where the network is involved.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its exit code; -1 if a signal ended it.
    Code(i32),
    /// It ran past its limit and was killed.
    TimedOut,
}

impl End {
    pub(crate) fn ok(self) -> bool {
        self == Self::Code(0)
    }
}

/// Prints the command, runs it in `dir` with its output passed on, and waits without a limit.
pub(crate) fn run(dir: &Path, command: &mut Command) -> Result<End> {
    println!("$ {}", shown(command));
    let status = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    Ok(End::Code(status.code().unwrap_or(-1)))
}

/// As [`run`], but kills the child after `limit`: for what may hang on an unreachable host.
pub(crate) fn run_limited(dir: &Path, command: &mut Command, limit: Duration) -> Result<End> {
    println!("$ {}", shown(command));
    let mut child = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Code(status.code().unwrap_or(-1)));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(End::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A child's stdout if it could be started and succeeded; for questions such as `id -u`.
pub(crate) fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The cargo that runs us, so that a `+toolchain` choice is kept.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.args(args);
    command
}

/// An environment variable that is set, valid UTF-8 and not empty.
#[allow(
    clippy::disallowed_methods,
    reason = "the rule sends the program's settings to karat::Config; this is a tool's"
)]
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_past_its_limit_is_killed() {
        let end = run_limited(
            Path::new("."),
            Command::new("sleep").arg("60"),
            Duration::from_millis(200),
        );
        assert_eq!(end.unwrap(), End::TimedOut);
    }

    #[test]
    fn exit_codes_come_back() {
        let end = run(Path::new("."), Command::new("sh").args(["-c", "exit 4"])).unwrap();
        assert_eq!(end, End::Code(4));
        assert!(!end.ok());
        assert!(run(Path::new("."), &mut Command::new("no-such-program-here")).is_err());
    }
}
