//! The program for Windows, run by Wine, against the program for this machine: `cargo xtask wine` builds it and names it
//! in `KARAT_WINE_PROGRAM`, and Wine in `KARAT_WINE`. Without them nothing is run, and one line says so.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod local;
mod skip;

use local::{Ran, Server, sha256, tiny_model};
use serde_json::Value as Json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For whatever a loaded machine needs a while for.
const PATIENCE: Duration = Duration::from_secs(120);

#[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// A folder with a model of 0.3 MB, in which both programs are run.
struct Place {
    wine: PathBuf,
    program: PathBuf,
    dir: TempDir,
}

impl Place {
    /// `None`, with a line, where there is no program for Windows.
    fn new() -> Option<Self> {
        let (wine, program) = (variable("KARAT_WINE"), variable("KARAT_WINE_PROGRAM"));
        let (Some(wine), Some(program)) = (wine, program) else {
            skip::say_skipped("the program for Windows: `cargo xtask wine` builds and runs it");
            return None;
        };
        let place = Self { wine, program, dir: tempfile::tempdir().unwrap() };
        karat::testing::write_tiny_model(&place.path("m.gguf")).unwrap();
        Some(place)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program for this machine.
    fn linux(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        self.prepare(&mut command, words);
        command.env("KARAT_CACHE", "cache of this machine");
        command
    }

    /// The program for Windows. Its drive `Z:` is this machine's root.
    fn windows(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.wine);
        command.arg(&self.program);
        self.prepare(&mut command, words);
        command.env("KARAT_CACHE", "cache of Windows");
        command
    }

    fn prepare(&self, command: &mut Command, words: &[&str]) {
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"] {
            command.env_remove(name);
        }
    }

    /// What both say, which is the same.
    #[track_caller]
    fn same(&self, words: &[&str], input: &str) -> Ran {
        let (here, there) = (run(self.linux(words), input), run(self.windows(words), input));
        assert_eq!(there.stdout, here.stdout, "{words:?}: {}", there.stderr);
        assert_eq!((there.code, &there.stderr), (here.code, &here.stderr), "{words:?}");
        there
    }

    /// The prompt and the answer of `karat run`.
    #[track_caller]
    fn answer(&self, mut command: Command, input: &str) -> [Json; 3] {
        command.args(["--temp", "0", "-n", "16", "--json"]);
        let report: Json = serde_json::from_str(&run(command, input).ok().stdout).unwrap();
        ["prompt_ids", "ids", "text"].map(|key| report[key].clone())
    }

    /// Names of files that nobody asked for.
    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("part")).collect()
    }
}

fn run(mut command: Command, input: &str) -> Ran {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        // A command that is refused reads nothing.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ran::of(child.wait_with_output().unwrap())
}

/// A path of this machine as Windows writes it.
fn on_z(path: &Path) -> String {
    format!("Z:{}", path.to_str().unwrap().replace('/', "\\"))
}

#[test]
fn every_value_of_a_run_has_the_bits_of_this_machine() {
    let Some(place) = Place::new() else { return };
    for (i, flags) in [
        &["--backend", "cpu"][..],
        &["--backend", "reference"],
        &["--arithmetic", "f32", "--cache-type", "f32"],
        &["--mmap", "-t", "1"],
    ]
    .into_iter()
    .enumerate()
    {
        let trace = |system: &str, command: &dyn Fn(&[&str]) -> Command| {
            let name = format!("{system}-{i}.safetensors");
            let words = ["trace", "-m", "m.gguf", "-p", "Grüße 世界", "-n", "6", "-o", &name];
            run(command(&[&words[..], flags].concat()), "").ok();
            fs::read(place.path(name)).unwrap()
        };
        let here = trace("linux", &|words| place.linux(words));
        let there = trace("windows", &|words| place.windows(words));
        assert!(here.len() > 50_000 && here == there, "{flags:?}: {} bytes", here.len());
    }
}

#[test]
fn the_default_model_answers_the_same() {
    let Some(place) = Place::new() else { return };
    let cached =
        || Some(variable("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = variable("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file());
    let Some(model) = found else {
        skip::say_skipped("a real model on Windows: none at KARAT_TEST_MODEL or in the cache");
        return;
    };
    let words = ["run", "-m", model.to_str().unwrap(), "Why is the sky blue?"];
    let there = on_z(&model);
    let windows = ["run", "-m", &there, words[3]];
    let here = place.answer(place.linux(&words), "");
    assert_eq!(place.answer(place.windows(&windows), ""), here);
    assert_eq!(place.answer(place.windows(&[&windows[..], &["--mmap"]].concat()), ""), here);
}

#[test]
fn text_comes_in_the_ways_of_windows() {
    let Some(place) = Place::new() else { return };
    // What is piped, and what its editors write, has its line ends, and may begin with a mark.
    let here = place.answer(place.linux(&["run", "m.gguf", "Find it:"]), "fn main() {\n}\n");
    let there = place.answer(place.windows(&["run", "m.gguf", "Find it:"]), "fn main() {\r\n}\r\n");
    assert_eq!(there, here);
    fs::write(place.path("prompt.txt"), "\u{feff}eins\r\nzwei\r\n").unwrap();
    let here = place.answer(place.linux(&["run", "m.gguf", "eins\nzwei"]), "");
    assert_eq!(place.answer(place.windows(&["run", "m.gguf", "-f", "prompt.txt"]), ""), here);
    // A chat, a line a message, and one of several lines.
    let chat = ["chat", "m.gguf", "-n", "8", "--temp", "0"];
    let said = "hello\n\"\"\"\nGrüße\n世界\n\"\"\"\n/exit\n";
    let here = run(place.linux(&chat), said).ok();
    let there = run(place.windows(&chat), &said.replace('\n', "\r\n")).ok();
    assert_eq!(there.stdout, here.stdout);
    assert!(here.stdout.lines().count() >= 2, "{}", here.stdout);
    // Arguments are UTF-16 there.
    place.same(&["tokenize", "-m", "m.gguf", "Grüße, 世界 😀 \"x\" C:\\a\\"], "").ok();
    place.same(&["tokenize", "-m", "m.gguf", "-"], "Grüße, 世界 😀\n").ok();
}

#[test]
fn files_lie_in_all_kinds_of_places() {
    let Some(place) = Place::new() else { return };
    run(place.linux(&["quantize", "m.gguf", "expected.gguf", "Q4_0"]), "").ok();
    let expected = fs::read(place.path("expected.gguf")).unwrap();
    let long = ["long ".repeat(20), "länger".repeat(15), "am-längsten".repeat(8)]
        .map(|name| name.trim().to_owned());
    let long = long.join("/");
    assert!(long.len() > 260);
    for folder in ["a b", "grüße", "模型", "sub/below", "semi;and&percent%", &long] {
        let folder = place.path(folder);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("größer 😀.gguf");
        fs::copy(place.path("m.gguf"), &file).unwrap();
        let relative = file.strip_prefix(place.dir.path()).unwrap().to_str().unwrap();
        let forms = [
            on_z(&file),
            format!("Z:{}", file.to_str().unwrap()),
            relative.replace('/', "\\"),
            format!(".\\{}", relative.replace('/', "\\")),
            relative.to_owned(),
        ];
        for (i, input) in forms.iter().enumerate() {
            let name = format!("{i} out.gguf");
            let output = input.replace("größer 😀.gguf", &name);
            let ran = run(place.windows(&["quantize", input, &output, "Q4_0"]), "").ok();
            assert!(ran.stderr.contains(&output), "{}", ran.stderr);
            assert!(fs::read(folder.join(&name)).unwrap() == expected, "{output}");
            let ran = run(place.windows(&["tokenize", "-m", &output, "--ids", "a"]), "").ok();
            assert!(ran.stdout.starts_with('['), "{}", ran.stdout);
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), 6);
    }
    // A drive of its own, and a path from its root.
    let home =
        run(place.windows(&["quantize", "m.gguf", "C:\\windows\\temp\\k.gguf", "Q4_0"]), "").ok();
    assert!(home.stderr.contains("C:\\windows\\temp\\k.gguf"), "{}", home.stderr);
    run(place.windows(&["inspect", "c:/windows/TEMP/K.gguf"]), "").ok();
    // A lone file is a model, with backslashes too.
    let ran = run(place.windows(&["run", "sub\\below\\0 out.gguf", "-n", "1"]), "hi\r\n");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn what_is_printed_is_the_same() {
    let Some(place) = Place::new() else { return };
    for words in [
        &["version"][..],
        &["--help"],
        &["help", "run"],
        &["list"],
        &["ls", "--json"],
        &["show", "m.gguf"],
        &["inspect", "m.gguf", "--json"],
        &["tokenize", "-m", "m.gguf", "--json", "one two"],
        &["completions", "powershell"],
        &["run", "m.gguf", "hi", "-n", "4", "--temp", "0", "--tokens", "-t", "1000"],
    ] {
        place.same(words, "").ok();
    }
    let rows = |output: &str| {
        let rows = output.lines().filter(|line| line.starts_with("RIGHT"));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    let check = ["check", "-m", "m.gguf", "--backend", "cpu"];
    let (here, there) = (run(place.linux(&check), ""), run(place.windows(&check), ""));
    assert_eq!((there.code, rows(&there.stdout)), (here.code, rows(&here.stdout)));
    assert!(rows(&there.stdout).len() > 5, "{}{}", there.stdout, there.stderr);
}

#[test]
fn what_cannot_be_is_refused_with_the_same_code_and_line() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("notes.txt"), "Dear reader").unwrap();
    fs::write(place.path("empty.gguf"), "").unwrap();
    let whole = fs::read(place.path("m.gguf")).unwrap();
    fs::write(place.path("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    for (words, code) in [
        (&["run", "-m", "m.gguf", "--backend", "abacus", "hi"][..], 2),
        (&["no-such-command"], 2),
        (&["quantize", "m.gguf", "x.gguf", "Q9_9"], 2),
        (&["run", "-m", "notes.txt", "hi"], 3),
        (&["run", "-m", "empty.gguf", "hi"], 3),
        (&["inspect", "cut.gguf"], 3),
        (&["run", "-m", "absent.gguf", "hi"], 4),
        (&["run", "-m", "m.gguf", "-c", "8", "a prompt that is longer than its context"], 7),
    ] {
        let ran = place.same(words, "");
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(code), 1), "{}", ran.stderr);
    }
    run(place.windows(&["run", "-m", ".\\absent.gguf", "hi"]), "")
        .fails(4, &[".\\absent.gguf: no such file"]);
    run(place.windows(&["inspect", "."]), "").fails(4, &["not a regular file: it is a directory"]);
    run(place.windows(&["run", "-m", "NUL", "hi"]), "").fails(4, &["NUL: "]);
}

#[test]
fn nothing_is_lost() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("precious.txt"), "precious").unwrap();
    let quantize = |output: &str, flags: &[&str]| {
        run(place.windows(&[&["quantize", "m.gguf", output, "Q4_0"], flags].concat()), "")
    };
    quantize("precious.txt", &[]).fails(2, &["precious.txt: is there already"]);
    assert_eq!(fs::read(place.path("precious.txt")).unwrap(), b"precious");
    // Windows does not replace what is marked as read-only: that is found before the work.
    let mark = |read_only: bool| {
        use std::os::unix::fs::PermissionsExt;
        let mode = if read_only { 0o444 } else { 0o644 };
        fs::set_permissions(place.path("precious.txt"), PermissionsExt::from_mode(mode)).unwrap();
    };
    mark(true);
    quantize("precious.txt", &["--force"]).fails(4, &["precious.txt: is read-only"]);
    assert_eq!(fs::read(place.path("precious.txt")).unwrap(), b"precious");
    mark(false);
    quantize("precious.txt", &["--force"]).ok();
    quantize("other.gguf", &[]).ok();
    assert!(
        fs::read(place.path("precious.txt")).unwrap()
            == fs::read(place.path("other.gguf")).unwrap()
    );
    run(place.windows(&["quantize", "m.gguf", "m.gguf", "Q4_0", "--force"]), "")
        .fails(2, &["is the source"]);
    quantize("no\\such\\folder.gguf", &[]).fails(4, &["there is no folder no\\such"]);
    quantize(".", &[]).fails(2, &["is a folder"]);
    // Nothing is written to; a name of a device is never a file that no other program can remove.
    quantize("NUL", &[]).ok();
    quantize("nul", &["--force"]).ok();
    for name in ["aux.gguf", "COM9.gguf", "nul.gguf", "sub\\PRN"] {
        quantize(name, &[]).fails(2, &["is a name that Windows has for a device"]);
    }
    for name in ["NUL", "nul", "aux.gguf", "COM9.gguf", "nul.gguf"] {
        assert!(!place.path(name).exists(), "{name}");
    }
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}

#[test]
fn a_closed_pipe_ends_it_in_silence() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("long.txt"), "word after word\n".repeat(20_000)).unwrap();
    let mut command = place.windows(&["tokenize", "-m", "m.gguf", "-f", "long.txt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains('\t'), "{first}");
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

/// Ends when it does so by itself, or not at all.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code(), stderr)
}

/// Wine makes of SIGINT what a console makes of Ctrl-C: CTRL_C_EVENT, for the handlers of the process.
#[test]
fn ctrl_c_ends_it_with_130_and_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    let words = ["synth", "big.gguf", "--preset", "qwen2.5-1.5b", "--vocab", "2000"];
    let child = place.windows(&words).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while place.leftovers().is_empty() {
        assert!(start.elapsed() < PATIENCE, "it writes nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(ended(child), (Some(130), String::new()));
    assert!(place.leftovers().is_empty() && !place.path("big.gguf").exists());
}

#[test]
fn models_are_fetched_into_the_cache_of_windows() {
    let Some(place) = Place::new() else { return };
    let model = fs::read(place.path("m.gguf")).unwrap();
    let (body, hash) = (model.clone(), sha256(&model));
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let url = server.url("m.gguf");
    // Nobody knows its hash: what was fetched is read while it is locked, which on Windows one handle may do.
    let first = run(place.windows(&["pull", &url]), "").ok();
    let path = first.stdout.trim();
    assert!(
        path.starts_with("cache of Windows\\models\\https\\") && path.ends_with("\\m.gguf"),
        "{path}"
    );
    let local = place.path(path.replace('\\', "/"));
    assert!(fs::read(&local).unwrap() == model);
    let receipt = fs::read_to_string(local.with_file_name("m.gguf.toml")).unwrap();
    assert!(receipt.contains(&hash), "{receipt}");
    let seen = server.seen().len();
    assert_eq!(run(place.windows(&["pull", &url]), "").ok().stdout, first.stdout);
    assert_eq!(server.seen().len(), seen, "the cache has it");
    run(place.windows(&["pull", "--verify", &url]), "").ok();
    assert!(run(place.windows(&["list"]), "").ok().stdout.contains("m.gguf"));
    run(place.windows(&["rm", "--yes", &url]), "").ok();
    assert!(!local.exists());
    // What is no model is refused, and nothing of it stays.
    let other = Server::start(|_, _, reply| reply.whole(b"<html>", &[]));
    run(place.windows(&["pull", &other.url("x.gguf")]), "").fails(4, &["not a GGUF file"]);
    assert!(place.leftovers().is_empty());
}

/// Without a variable of ours the cache is where Windows has what programs keep for a user on one machine.
#[test]
fn the_cache_is_in_the_folder_of_local_data() {
    let Some(place) = Place::new() else { return };
    let model = tiny_model(place.dir.path());
    let server = Server::start(move |_, _, reply| reply.whole(&model, &[]));
    let mut command = place.windows(&["pull", &server.url("tiny.gguf")]);
    let ran = run(
        {
            command.env_remove("KARAT_CACHE");
            command
        },
        "",
    )
    .ok();
    let path = ran.stdout.trim();
    assert!(path.starts_with("C:\\users\\"), "{path}");
    assert!(path.contains("\\AppData\\Local\\karat\\models\\"), "{path}");
}

/// Wine's Vulkan is this machine's.
#[test]
fn a_gpu_gives_the_same_bits() {
    let Some(place) = Place::new() else { return };
    let devices = run(place.windows(&["devices", "--json"]), "").ok().stdout;
    let devices: Vec<Json> = serde_json::from_str(&devices).unwrap();
    let Some(vulkan) = devices.iter().find(|row| row["api"] == "Vulkan") else {
        skip::say_skipped("a GPU on Windows: Wine has no Vulkan device here");
        return;
    };
    assert_eq!(vulkan["usable"], true, "{vulkan:#}");
    let number = vulkan["number"].to_string();
    let gpu = ["--backend", "vulkan", "--device", &number];
    let here = place.answer(place.linux(&["run", "m.gguf", "Grüße"]), "");
    let there = place.answer(place.windows(&[&["run", "m.gguf", "Grüße"][..], &gpu].concat()), "");
    assert_eq!(there, here);
    let check = run(place.windows(&[&["check", "-m", "m.gguf"][..], &gpu].concat()), "").ok();
    assert!(check.stdout.contains("kernels right, bit for bit"), "{}", check.stdout);
    assert!(!check.stdout.contains("WRONG"), "{}", check.stdout);
}

/// A terminal of tmux, by its socket.
struct Console(PathBuf);

impl Console {
    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.0).args(["-f", "/dev/null"]).args(words);
        let output = command.env_remove("TMUX").stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// Wine draws a console of Windows in a terminal, here one of tmux, and passes its keys on.
#[test]
fn in_a_console_ctrl_c_stops_an_answer_and_ctrl_d_ends_the_chat() {
    let Some(place) = Place::new() else { return };
    let has = Command::new("tmux").arg("-V").stdout(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        skip::say_skipped("a console of Windows: no `tmux` to draw it in");
        return;
    }
    let console = Console(place.path("socket"));
    let tmux = |words: &[&str]| console.tmux(words);
    let until = |part: &str| {
        let start = Instant::now();
        loop {
            let screen = tmux(&["capture-pane", "-p"]);
            if screen.contains(part) {
                break screen;
            }
            assert!(start.elapsed() < PATIENCE, "{part:?} did not come:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // A context that takes seconds to fill; the shell lets a Ctrl-C be karat's.
    let synth = ["synth", "big.gguf", "--arch", "llama", "--layers", "32"];
    run(place.linux(&synth), "").ok();
    let (wine, program) = (place.wine.display(), place.program.display());
    let folder = place.dir.path().display();
    let line = format!(
        "trap : INT; cd {folder}; '{wine}' '{program}' chat big.gguf --raw --temp 0; echo exit code $?; sleep 600"
    );
    tmux(&["new-session", "-d", "-x", "100", "-y", "40", &line]);
    until("/help for help");
    tmux(&["send-keys", "-l", "hello"]);
    tmux(&["send-keys", "Enter"]);
    std::thread::sleep(Duration::from_millis(700));
    tmux(&["send-keys", "C-c"]);
    until("karat: stopped");
    tmux(&["send-keys", "C-d"]);
    until("exit code 0");
}
