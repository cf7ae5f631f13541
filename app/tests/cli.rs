//! The program from outside: exit codes, pipes, JSON. Tests of the default model are skipped, with a line that says so,
//! where it is absent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod skip;

use serde_json::Value as Json;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn karat() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    karat().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// The default model, or `None` with a line.
fn default_model() -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cached = || Some(var("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = var("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file());
    if found.is_none() {
        skip::say_skipped(
            "the program with a real model: none at KARAT_TEST_MODEL or in the cache (`karat pull`)",
        );
    }
    found.map(|path| path.into_os_string().into_string().expect("the path is UTF-8"))
}

/// Exactly one line on stderr, which names `part`; nothing on stdout; no panic.
fn refused(args: &[impl AsRef<OsStr>], code: i32, part: &str) {
    let shown: Vec<_> =
        args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect();
    let output = karat().args(args).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{shown:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{shown:?}: {}", text(&output.stdout));
    assert!(stderr.contains(part), "{shown:?}: {part} is not in {stderr}");
    assert!(!stderr.contains("panic") && !stderr.contains('\u{1b}'), "{shown:?}: {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{shown:?}: {stderr}");
}

/// A folder with files that are no models.
struct BadFiles {
    dir: tempfile::TempDir,
}

impl BadFiles {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn tiny(arch: &str) -> Vec<u8> {
    gguf::Builder::new()
        .kv("general.architecture", arch)
        .kv("tokenizer.ggml.model", "llama")
        .kv("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "▁a"]))
        .kv("tokenizer.ggml.token_type", gguf::Value::Array(gguf::Array::I32(vec![2, 3, 3, 1])))
        .f32("token_embd.weight", &[2, 4], &[0.0; 8])
        .build()
        .unwrap()
}

fn strings(texts: &[&str]) -> gguf::Value {
    gguf::Value::Array(gguf::Array::String(texts.iter().map(|text| text.as_bytes()).collect()))
}

#[test]
fn usage_is_2() {
    refused(&["run", "--backend", "abacus", "hi"], 2, "abacus");
    refused(&["run", "--no-such-flag", "hi"], 2, "--no-such-flag");
    refused(&["no-such-command"], 2, "no-such-command");
    refused(&["run", "-n", "-2", "hi"], 2, "-2");
    refused(&["run", "-t", "0", "hi"], 2, "0");
    refused(&["run", "-s", "-2", "hi"], 2, "-2");
    refused(&["run", "--temp", "nan", "hi"], 2, "temp");
    refused(&["run", "--top-p", "1.5", "hi"], 2, "top_p");
    refused(&["run", "one", "two", "-p", "three"], 2, "two texts");
    refused(&["quantize", "a", "b", "Q9_9"], 2, "Q9_9");
    refused(&["run", "--tokens", "--json", "hi"], 2, "--json");
}

#[test]
fn paths_are_4() {
    let files = BadFiles::new();
    let missing = files.dir.path().join("missing.gguf");
    for command in ["inspect", "tokenize", "run", "bench", "chat", "quantize"] {
        let arguments = |path: &Path| -> Vec<std::ffi::OsString> {
            let path = path.into();
            match command {
                "inspect" => vec![command.into(), path],
                "bench" | "chat" => vec![command.into(), "-m".into(), path],
                "quantize" => vec![command.into(), path, "out.gguf".into(), "F32".into()],
                _ => vec![command.into(), "-m".into(), path, "text".into()],
            }
        };
        refused(&arguments(&missing), 4, "missing.gguf");
        refused(&arguments(files.dir.path()), 4, "directory");
    }
}

#[test]
fn files_that_are_no_models_are_3() {
    let files = BadFiles::new();
    let whole = tiny("abacus");
    let cases = [
        ("empty", Vec::new(), "empty"),
        ("text", b"This is no model, but it is long enough to be one.".to_vec(), "not a GGUF"),
        ("magic", b"GGUF".to_vec(), "truncated"),
        ("cut", whole[..whole.len() / 2].to_vec(), "cut"),
        ("abacus", whole, "abacus"),
        ("llama", tiny("llama"), "llama."),
    ];
    for (name, bytes, part) in cases {
        let path = files.path(name, &bytes);
        refused(&[OsStr::new("run"), "-m".as_ref(), path.as_ref(), "hi".as_ref()], 3, part);
    }
}

/// RELIABILITY row 30.
#[cfg(target_os = "linux")]
#[test]
fn odd_paths() {
    use std::os::unix::ffi::OsStrExt;
    let files = BadFiles::new();
    let names: [&[u8]; 4] = [b"not utf-8 \xff\xfe.gguf", b"line\nbreak", b"esc \x1b[31m", b" "];
    for name in names {
        let path = files.path(OsStr::from_bytes(name), &tiny("abacus"));
        let output = karat().arg("inspect").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        refused(&[OsStr::new("run"), "-m".as_ref(), path.as_ref(), "hi".as_ref()], 3, "abacus");
        std::fs::remove_file(&path).unwrap();
        refused(&[OsStr::new("inspect"), path.as_ref()], 4, "");
    }
    let long = files.dir.path().join("x".repeat(5000));
    refused(&[OsStr::new("inspect"), long.as_ref()], 4, "xxx");
}

#[test]
fn inspect_prints_json() {
    let files = BadFiles::new();
    let path = files.path("a.gguf", &tiny("abacus"));
    let output = karat().args(["inspect", "--json"]).arg(path).output().unwrap();
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["metadata"]["general.architecture"]["value"], "abacus");
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([2, 4]));
    assert_eq!(json["bits_per_weight"], 32.0);
}

#[test]
fn tokenize_needs_no_weights() {
    let files = BadFiles::new();
    let path = files.path("a.gguf", &tiny("abacus"));
    let run = |flags: &[&str]| {
        let output =
            karat().args(["tokenize", "-m"]).arg(&path).args(flags).arg("a").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // SPM puts a space before the text.
    assert_eq!(run(&["--ids"]), "[1, 3]\n");
    assert_eq!(run(&["--ids", "--no-bos"]), "[3]\n");
    assert_eq!(run(&[]), "1\t\"<s>\"\n3\t\" a\"\n");
    let json: Json = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json, serde_json::json!({"ids": [1, 3], "pieces": ["<s>", " a"]}));
    let text_of = |flags: &[&str]| {
        let output = karat().arg("detokenize").arg(&path).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(text_of(&["1", "3"]), "a\n");
    assert_eq!(text_of(&["1", "3", "--special"]), "<s> a\n");
}

#[test]
fn quantize_does_not_write_over_its_source() {
    let files = BadFiles::new();
    let path = files.path("a.gguf", &tiny("abacus"));
    let args = [OsStr::new("quantize"), path.as_ref(), path.as_ref(), "F16".as_ref()];
    refused(&args, 2, "source");
    assert_eq!(std::fs::read(path).unwrap(), tiny("abacus"));
}

/// RELIABILITY row 112.
#[test]
fn a_closed_stdout_is_quiet() {
    let files = BadFiles::new();
    let names: Vec<String> = (0..20_000).map(|i| format!("key number {i}")).collect();
    let builder = names.iter().fold(gguf::Builder::new(), |builder, name| builder.kv(name, 1u32));
    let path = files.path("many", &builder.build().unwrap());
    let mut child = karat()
        .arg("inspect")
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    assert_quiet(child);
}

fn assert_quiet(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn commands_of_other_programs() {
    let version = output(&["version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(version.stdout, output(&["--version"]).stdout);
    assert_eq!(output(&["show", "--help"]).stdout, output(&["inspect", "--help"]).stdout);
    refused(&["ps"], 2, "karat has no server");
}

#[test]
fn completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = output(&["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("inspect"), "{shell}");
    }
}

#[test]
fn help_names_flags_and_exit_codes() {
    let help = text(&output(&["run", "--help"]).stdout);
    for flag in [
        "--n-predict",
        "--ctx-size",
        "--threads",
        "--seed",
        "--temp",
        "--top-k",
        "--top-p",
        "--min-p",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("llama.cpp"));
    assert!(text(&output(&["--help"]).stdout).contains("Exit codes"));
}

/// Without a home there is no cache: exit 2 names the variable. A path needs none.
#[test]
fn without_home() {
    let files = BadFiles::new();
    let path = files.path("a.gguf", &tiny("abacus"));
    assert!(karat().env_clear().arg("inspect").arg(path).status().unwrap().success());
    let output = karat().env_clear().args(["run", "hi"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.contains(if cfg!(windows) { "USERPROFILE" } else { "HOME" }), "{stderr}");
}

#[test]
fn a_prompt_over_the_context_is_7() {
    let Some(model) = default_model() else { return };
    refused(&["run", "-m", &model, "-c", "64", &"word ".repeat(100)], 7, "context of 64");
    refused(&["run", "-m", &model, "--raw", ""], 7, "prompt");
}

#[test]
fn a_context_over_the_memory_is_5() {
    let Some(model) = default_model() else { return };
    refused(&["run", "-m", &model, "-c", "2000000000", "hi"], 5, "a context of");
}

/// Ids and pieces belong together, in each way of printing.
#[test]
fn tokens_and_json_and_text_agree() {
    let Some(model) = default_model() else { return };
    let run = |flag: &[&str]| {
        let output = karat()
            .args(["run", "-m", &model, "--temp", "0", "-n", "5", "-c", "64"])
            .args(flag)
            .arg("Hi")
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let plain = run(&[]);
    let json: Json = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["text"].as_str().unwrap(), plain.strip_suffix('\n').unwrap());
    assert_eq!(json["finish"], "length");
    assert_eq!(json["timings"]["generated_tokens"], 5);
    let (mut pieces, mut ids, mut prompt) = (String::new(), Vec::new(), Vec::new());
    for line in run(&["--tokens"]).lines() {
        let [kind, id, piece] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        // This model's text has no escapes that JSON does not have.
        let piece: String = serde_json::from_str(piece).unwrap();
        let id: u32 = id.parse().unwrap();
        if kind == "text" {
            ids.push(id);
            pieces.push_str(&piece);
        } else {
            assert_eq!(kind, "prompt");
            prompt.push(id);
        }
    }
    assert_eq!(pieces, json["text"].as_str().unwrap());
    assert_eq!(serde_json::json!(ids), json["ids"]);
    assert_eq!(serde_json::json!(prompt), json["prompt_ids"]);
}

#[test]
fn a_reader_that_leaves_ends_the_answer_quietly() {
    let Some(model) = default_model() else { return };
    let args = ["run", "-m", &model, "-n", "100", "-c", "256", "--raw", "One, two, three, four,"];
    let mut child =
        karat().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    assert_quiet(child);
}

/// A conversation over a pipe: commands work, the second turn reuses the first, the end of the input ends it.
#[test]
fn chat_over_a_pipe() {
    let Some(model) = default_model() else { return };
    let files = BadFiles::new();
    let saved = files.dir.path().join("talk.json");
    let input =
        format!("/set temp 0\nMy name is\\\nAda.\n/stats\nHi\n/stats\n/save {}\n", saved.display());
    let mut child = karat()
        .args(["chat", "-m", &model, "-n", "4", "-c", "256"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let reused: Vec<usize> = stdout
        .lines()
        .filter_map(|line| line.split_once(" reused)")?.0.rsplit_once('(')?.1.parse().ok())
        .collect();
    assert_eq!(reused.len(), 2, "{stdout}");
    assert!(reused[0] == 0 && reused[1] > 20, "{reused:?}");
    let talk: Json = serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    assert_eq!(
        talk["messages"][0],
        serde_json::json!({"role": "user", "content": "My name is\nAda."})
    );
    assert_eq!(talk["messages"].as_array().unwrap().len(), 4);
}

#[test]
fn bench_prints_json() {
    let Some(model) = default_model() else { return };
    let output = output(&["bench", "-m", &model, "-p", "4", "-n", "2", "-r", "1", "--json"]);
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tests"][0]["name"], "pp4");
    assert!(json["tests"][1]["median"].as_f64().unwrap() > 0.0);
}

/// SIGINT ends a run with 130.
#[cfg(unix)]
#[test]
fn an_interrupted_run_is_130() {
    let Some(model) = default_model() else { return };
    let args = ["run", "-m", &model, "-n", "200", "--raw", "One, two, three, four,"];
    let mut child = karat().args(args).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// Ctrl-C at a terminal stops the answer and not the program, which goes on with the next message.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_stops_the_answer_of_a_chat() {
    let Some(model) = default_model() else { return };
    let home = tempfile::tempdir().unwrap();
    // `exec`, or a shell that waits takes the Ctrl-C as meant for it too and ends with 130 in the end (dash does).
    let line = format!("exec '{}' chat -m '{model}' -n 400 -s 3", env!("CARGO_BIN_EXE_karat"));
    // The time limit is for a program that hangs: the test fails then, and does not wait for ever.
    let spawned = Command::new("timeout")
        .args(["240", "script", "-qefc", &line, "/dev/null"])
        .env("XDG_STATE_HOME", home.path())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let has_script = Command::new("script").arg("--version").stdout(Stdio::null()).status().is_ok();
    let (Ok(mut child), true) = (spawned, has_script) else {
        skip::say_skipped(
            "a chat in a terminal: no `timeout` and `script` commands (coreutils, util-linux) to make one",
        );
        return;
    };
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = String::new();
    let mut until = |part: &str, seen: &mut String| {
        let mut buf = [0; 4096];
        while !seen.contains(part) {
            let n = stdout.read(&mut buf).unwrap();
            assert!(n > 0, "{part} did not come: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        // What came after it stays for the next call.
        let end = seen.find(part).unwrap() + part.len();
        seen.drain(..end);
    };
    until("> ", &mut seen);
    stdin.write_all(b"Tell me a long story.\r").unwrap();
    // The editor switches bracketed paste off when it has the line: what comes then is the answer.
    until("[?2004l", &mut seen);
    until("e", &mut seen);
    stdin.write_all(b"\x03").unwrap();
    until("karat: stopped", &mut seen);
    until("> ", &mut seen);
    stdin.write_all(b"/stats\r").unwrap();
    until("positions used", &mut seen);
    until("> ", &mut seen);
    stdin.write_all(b"\x04").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
