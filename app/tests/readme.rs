//! What README.md shows of commands is what they print. With `KARAT_README=write` the test writes what differs into it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]

mod skip;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The commands that are run, in their order; the others need a GPU, a terminal, minutes or the network.
const CHECKED: [&str; 11] = [
    "karat run --temp 0 -n 40 ",
    "karat run --temp 0 --raw ",
    "karat pull smollm2:135m",
    "karat list",
    "karat tokenize ",
    "karat detokenize ",
    "karat inspect model.gguf",
    "karat quantize smollm2:135m ",
    "karat synth small.gguf ",
    "karat run -m cut.gguf ",
    "karat run -m notes.txt ",
];

/// The folder of the default model in the cache.
fn cached() -> Option<PathBuf> {
    let folder = std::env::var_os("KARAT_CACHE").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/karat"));
    let file = folder.or_else(home)?.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    file.is_file().then_some(file)
}

/// What a command prints, as a person sees it.
fn run(folder: &Path, line: &str) -> String {
    let script = format!("karat() {{ '{}' \"$@\"; }}; {line}", env!("CARGO_BIN_EXE_karat"));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{{ {script}\n}} 2>&1")]).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Whether README's lines say the same: lines may be broken and columns be set elsewhere, and `...` or `…` is any text.
fn agrees(shown: &str, printed: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let printed = words(printed);
    let shown = words(shown).replace("...", "…");
    let parts: Vec<&str> = shown.split('…').map(str::trim).collect();
    let mut rest = printed.as_str();
    for (i, part) in parts.iter().enumerate() {
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(at) if i > 0 => rest = &rest[at + part.len()..],
            Some(_) | None => return false,
        }
    }
    parts.len() > 1 && parts.last().is_some_and(|last| printed.ends_with(last)) || rest.is_empty()
}

#[test]
fn what_the_readme_shows_is_what_is_printed() {
    let Some(model) = cached() else {
        return skip::say_skipped("README's outputs: no default model in the cache (`karat pull`)");
    };
    let folder = tempfile::tempdir().unwrap();
    symlink(&model, folder.path().join("model.gguf")).unwrap();
    let bytes = fs::read(&model).unwrap();
    fs::write(folder.path().join("cut.gguf"), &bytes[..40_000_000]).unwrap();
    fs::write(folder.path().join("notes.txt"), "Dear diary, today I met a model.\n").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (mut written, mut different, mut checked) = (String::new(), Vec::new(), Vec::new());
    let mut lines = readme.lines().peekable();
    while let Some(line) = lines.next() {
        written.push_str(&format!("{line}\n"));
        let command = line.strip_prefix("$ ").unwrap_or_default();
        let Some(prefix) = CHECKED.iter().find(|prefix| command.starts_with(**prefix)) else {
            continue;
        };
        checked.push(*prefix);
        let mut shown = String::new();
        while let Some(next) = lines.next_if(|l| !l.starts_with("$ ") && !l.starts_with("```")) {
            shown.push_str(&format!("{next}\n"));
        }
        let printed = run(folder.path(), command);
        if agrees(&shown, &printed) {
            written.push_str(&shown);
        } else {
            // The blank line before the next command is no output.
            let gap = if shown.ends_with("\n\n") { "\n" } else { "" };
            written.push_str(&format!("{printed}{gap}"));
            different.push(format!("$ {command}\nshown:\n{shown}\nprinted:\n{printed}"));
        }
    }
    if std::env::var_os("KARAT_README").is_some_and(|value| value == "write") {
        fs::write(&path, written).unwrap();
    } else {
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
    assert_eq!(checked, CHECKED, "each is in README, once and in this order");
}

/// An answer of docs/arithmetic.md: a line `   - int16: `` text ```, behind that of its question, `3. **question**`.
fn shown_answer(line: &str) -> Option<(&str, &str)> {
    let (name, text) = line.strip_prefix("   - ")?.split_once(": `` ")?;
    Some((name, text.strip_suffix(" ``")?))
}

#[test]
fn the_sample_questions_are_answered_as_the_page_says() {
    let Some(model) = cached() else {
        return skip::say_skipped("sample questions: no default model in the cache (`karat pull`)");
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/arithmetic.md");
    let page = fs::read_to_string(path).unwrap();
    let (mut question, mut asked) = ("", 0);
    for line in page.lines() {
        if let Some((_, rest)) = line.split_once(". **") {
            question = rest.strip_suffix("**").unwrap_or_default();
        }
        // What llama.cpp answers is not ours to give again; tools/answers.py asks it.
        let Some((arithmetic, shown)) = shown_answer(line).filter(|(name, _)| *name != "llama.cpp")
        else {
            continue;
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.args(["run", "--temp", "0", "-n", "24", "--arithmetic", arithmetic, "-m"]);
        let output = command.arg(&model).arg(question).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.trim().replace('\n', "⏎"), shown, "{arithmetic}: {question}");
        asked += 1;
    }
    assert_eq!(asked, 30, "ten questions in three arithmetics");
}

#[test]
fn an_agreement_is_one() {
    assert!(agrees("a  b\nc", "a b c\n"));
    assert!(agrees("a\n  ...\nd", "a\nb\nc\nd"));
    assert!(agrees("path …/x.gguf", "path over/there/x.gguf"));
    assert!(!agrees("a b", "a b c") && !agrees("b", "a b") && !agrees("a … d", "a b c"));
}
