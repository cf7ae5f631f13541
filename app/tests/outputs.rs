//! Nothing is lost: what each writer does to a name that is taken, to links, devices and pipes, and what is left of one
//! that was stopped, killed, or met a full disk.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod skip;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with a model of 0.3 MB, and files that must not be lost.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        karat::testing::write_tiny_model(&place.path("m.gguf")).unwrap();
        fs::write(place.path("precious"), "precious").unwrap();
        fs::create_dir(place.path("sub")).unwrap();
        fs::write(place.path("sub/target"), "precious").unwrap();
        symlink("sub/target", place.path("link")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn karat(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.current_dir(self.0.path()).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.karat(words).output().unwrap()
    }

    /// Names of files that nobody asked for.
    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("part")).collect()
    }
}

/// Every writer, as the words before and after the name of its output.
const WRITERS: [(&str, &[&str], &[&str]); 4] = [
    ("quantize", &["quantize", "m.gguf"], &["Q4_0"]),
    ("synth", &["synth"], &["--arch", "llama", "--layers", "1", "--vocab", "300"]),
    ("trace", &["trace", "-m", "m.gguf", "-n", "0", "-o"], &[]),
    ("why --html", &["why", "-m", "m.gguf", "-n", "0", "--repeat", "1", "--html"], &[]),
];

fn words<'a>(before: &[&'a str], name: &'a str, after: &[&'a str]) -> Vec<&'a str> {
    [before, &[name], after].concat()
}

fn check(what: &str, output: &Output, code: i32, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
    assert!(stderr.contains(part), "{what}: {part} is not in {stderr}");
    assert!(!stderr.contains(".part"), "{what}: names a temporary file: {stderr}");
}

#[test]
fn what_is_there_is_replaced_only_by_force() {
    let place = Place::new();
    let is_new = |name: &str| fs::read(place.path(name)).unwrap() != b"precious";
    for (what, before, after) in WRITERS {
        for name in ["precious", "link"] {
            let refused = place.run(&words(before, name, after));
            check(what, &refused, 2, &format!("error: {name}: is there already"));
            let kept = if name == "link" { "sub/target" } else { name };
            assert!(!is_new(kept), "{what}");
            let forced = place.run(&[&words(before, name, after)[..], &["--force"]].concat());
            check(what, &forced, 0, "");
        }
        assert!(is_new("precious") && is_new("sub/target") && place.path("link").is_symlink());
        fs::write(place.path("precious"), "precious").unwrap();
        fs::write(place.path("sub/target"), "precious").unwrap();
        assert_eq!(place.leftovers(), [""; 0], "{what}");
    }
}

#[test]
fn what_no_file_can_be_is_found_before_the_work() {
    let place = Place::new();
    for (what, before, after) in WRITERS {
        for (name, code, part) in [
            ("sub", 2, "error: sub: is a folder"),
            ("no/such/file", 4, "error: no/such/file: there is no folder no/such"),
            ("precious/file", 4, "error: precious/file: "),
        ] {
            let start = Instant::now();
            check(what, &place.run(&words(before, name, after)), code, part);
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        }
    }
    // Before the model is even looked for.
    let early = place.run(&["trace", "-m", "missing.gguf", "-o", "precious"]);
    check("trace", &early, 2, "error: precious: is there already");
}

#[test]
fn devices_and_pipes_are_written_to_and_stay() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    for (what, before, after) in WRITERS {
        check(what, &place.run(&words(before, "/dev/null", after)), 0, "");
        check(what, &place.run(&words(before, "/dev/full", after)), 4, "/dev/full: ");
        let mut writer = place.karat(&words(before, "pipe", after));
        let mut writer = writer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let got = fs::read(place.path("pipe")).unwrap();
        assert!(writer.wait().unwrap().success(), "{what}");
        let file = place.run(&words(before, "file", after));
        check(what, &file, 0, "");
        let file = fs::read(place.path("file")).unwrap();
        // The page holds its own command line and times; the others are the same bytes.
        assert!(got == file || what == "why --html" && got.ends_with(b"</html>\n"), "{what}");
        fs::remove_file(place.path("file")).unwrap();
    }
    for name in ["/dev/null", "/dev/full"] {
        assert!(fs::metadata(name).unwrap().file_type().is_char_device(), "{name}");
    }
    assert!(fs::metadata(place.path("pipe")).unwrap().file_type().is_fifo());
}

/// A writer that has begun a file of 4 GB.
fn begun(place: &Place) -> Child {
    let big = ["synth", "big.gguf", "--preset", "tinyllama-1.1b", "--format", "F32", "-t", "1"];
    let mut child = place.karat(&big).stderr(Stdio::piped()).spawn().unwrap();
    while place.leftovers().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a file");
        std::thread::yield_now();
    }
    child
}

fn kill(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn a_killed_writer_leaves_nothing_or_is_swept() {
    let place = Place::new();
    for (signal, code) in [("-HUP", 129), ("-INT", 130), ("-TERM", 143)] {
        let mut child = begun(&place);
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(place.leftovers(), [""; 0], "{signal}");
    }
    let mut child = begun(&place);
    kill(&child, "-KILL");
    child.wait().unwrap();
    assert_eq!(place.leftovers().len(), 1);
    check("quantize", &place.run(&["quantize", "m.gguf", "q.gguf", "Q4_0"]), 0, "");
    assert_eq!(place.leftovers(), [""; 0], "the next run sweeps");
    assert!(place.path("q.gguf").exists() && !place.path("big.gguf").exists());
}

/// `nohup karat …`: the end of the terminal is no reason to stop.
#[test]
fn a_signal_that_was_switched_off_stays_off() {
    let place = Place::new();
    let line = "trap '' HUP; exec \"$0\" synth big.gguf --preset tinyllama-1.1b --format F32 -t 1";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", line, env!("CARGO_BIN_EXE_karat")]).stderr(Stdio::null());
    let mut child = shell.current_dir(place.0.path()).spawn().unwrap();
    while place.leftovers().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a file");
        std::thread::yield_now();
    }
    kill(&child, "-HUP");
    std::thread::sleep(Duration::from_millis(300));
    let going_on = child.try_wait().unwrap().is_none();
    kill(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(going_on || !Path::new("/proc/self/status").exists());
}

/// A disk of 1 MiB, where this machine lets a test mount one.
#[test]
fn a_full_disk_is_found_before_the_work_and_leaves_nothing() {
    let place = Place::new();
    let script = "mount -t tmpfs -o size=1m none sub || exit 99
        \"$0\" synth sub/big.gguf --preset tinyllama-1.1b; echo \"code $?\"
        dd if=/dev/zero of=sub/fill bs=1k count=980 2>/dev/null
        \"$0\" trace -m m.gguf -n 0 -o sub/t.safetensors; echo \"code $?\"
        ls -A sub";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_karat")]);
    let Ok(output) = command.current_dir(place.0.path()).output() else {
        return skip::say_skipped("a full disk: no `unshare` (util-linux) to make one with");
    };
    if output.status.code() != Some(0) {
        return skip::say_skipped("a full disk: this machine lets no test mount one");
    }
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout, "code 4\ncode 4\nfill\n", "{stderr}");
    assert!(
        stderr.contains("error: sub/big.gguf: needs ") && !stderr.contains(".part"),
        "{stderr}"
    );
}
