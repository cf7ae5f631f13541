//! Child processes: with no stdin, with a time limit where the network is involved, with their output kept apart where
//! stages run side by side.

use anyhow::{Context, Result};
use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
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

thread_local! {
    /// Where this thread and its children print, if not to our own output.
    static KEPT: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Runs `f`, and has all that this thread and its children print go to `file`.
pub(crate) fn kept_in<T>(file: File, f: impl FnOnce() -> T) -> T {
    KEPT.set(Some(file));
    let result = f();
    KEPT.set(None);
    result
}

/// Prints a line.
pub(crate) fn say(line: &str) {
    KEPT.with_borrow_mut(|kept| match kept {
        // A full disk loses lines; what matters is the table.
        Some(file) => drop(writeln!(file, "{line}")),
        None => println!("{line}"),
    });
}

/// Prepares a child, and says what it is.
fn prepared<'a>(dir: &Path, command: &'a mut Command) -> Result<&'a mut Command> {
    say(&format!("$ {}", shown(command)));
    command.current_dir(dir).stdin(Stdio::null());
    KEPT.with_borrow(|kept| {
        if let Some(file) = kept {
            command.stdout(file.try_clone()?).stderr(file.try_clone()?);
        }
        Ok(command)
    })
}

/// Prints the command, runs it in `dir` with its output passed on, and waits without a limit.
pub(crate) fn run(dir: &Path, command: &mut Command) -> Result<End> {
    let status = prepared(dir, command)?
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    Ok(End::Code(status.code().unwrap_or(-1)))
}

/// As [`run`], but returns what the child writes to its stdout; `None` if it does not succeed.
pub(crate) fn answer_of(dir: &Path, command: &mut Command) -> Result<Option<String>> {
    let output = prepared(dir, command)?
        .stdout(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// As [`run`], but kills the child after `limit`: for what may hang on an unreachable host.
pub(crate) fn run_limited(dir: &Path, command: &mut Command, limit: Duration) -> Result<End> {
    let mut child = prepared(dir, command)?
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

/// The cargo that runs us, so that a `+toolchain` choice is kept. What that cargo tells us of our own package is not handed
/// on: build scripts that look at it (`ring`'s) would run again, and all behind them be compiled again, each time that a
/// person's own cargo and ours take turns.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        let of_package = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
        };
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
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
    fn what_a_thread_prints_can_be_kept_apart() {
        let path = std::env::temp_dir().join(format!("karat-kept-{}", std::process::id()));
        kept_in(File::create(&path).unwrap(), || {
            say("a line");
            let mut child = Command::new("sh");
            let end = run(Path::new("."), child.args(["-c", "echo out; echo err >&2"])).unwrap();
            assert!(end.ok());
            let mut child = Command::new("sh");
            let answer = answer_of(Path::new("."), child.args(["-c", "echo 7; echo why >&2"]));
            assert_eq!(answer.unwrap().as_deref(), Some("7\n"));
        });
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(
            text,
            "a line\n$ sh -c echo out; echo err >&2\nout\nerr\n$ sh -c echo 7; echo why >&2\nwhy\n"
        );
    }

    /// This test is run by cargo, which sets them.
    #[test]
    fn a_package_s_own_variables_are_not_handed_on() {
        let command = cargo(&["--version"]);
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            let is_set = std::env::vars_os().any(|(set, _)| set == *name);
            assert_eq!(removed.iter().any(|(gone, _)| *gone == name), is_set, "{name}");
        }
        assert!(!removed.is_empty(), "cargo runs this test");
    }

    #[test]
    fn exit_codes_come_back() {
        let end = run(Path::new("."), Command::new("sh").args(["-c", "exit 4"])).unwrap();
        assert_eq!(end, End::Code(4));
        assert!(!end.ok());
        assert!(run(Path::new("."), &mut Command::new("no-such-program-here")).is_err());
    }
}
