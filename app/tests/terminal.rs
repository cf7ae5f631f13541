//! `karat chat` in a terminal, as a person has it: a tmux of its own, driven key by key. Paste, Ctrl-C in a prompt and in
//! an answer, the end of the input, another size, the history.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod skip;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For whatever a loaded machine needs a while for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal with a shell's command in it.
struct Terminal {
    home: TempDir,
}

impl Terminal {
    /// `None`, with a line, where there is no tmux.
    fn new() -> Option<Self> {
        let has = Command::new("tmux").arg("-V").stdout(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            skip::say_skipped("a chat in a terminal: no `tmux` to make one with");
            return None;
        }
        Some(Self { home: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.path("socket")).args(["-f", "/dev/null"]).args(words);
        let output = command.env_remove("TMUX").stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs karat; the terminal stays, with its exit code, when it has ended. The shell lets a Ctrl-C be karat's.
    fn start(&self, words: &str) {
        let karat = env!("CARGO_BIN_EXE_karat");
        let home = self.home.path().display();
        let line = format!(
            "trap : INT; XDG_STATE_HOME={home} '{karat}' {words}; echo \"exit code $?\"; sleep 600"
        );
        self.tmux(&[
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            &format!("sh -c '{}'", line.replace('\'', "'\\''")),
        ]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-200"])
    }

    /// Waits for a part on the screen; how long it took.
    fn until(&self, part: &str) -> Duration {
        let start = Instant::now();
        while !self.screen().contains(part) {
            assert!(start.elapsed() < PATIENCE, "{part:?} did not come:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }

    /// Prompts so far.
    fn prompts(&self) -> usize {
        self.screen().lines().filter(|line| line.starts_with('>')).count()
    }

    /// Waits for more prompts than there were, the last of them with nothing behind it.
    fn until_prompt(&self, before: usize) {
        let start = Instant::now();
        let is_empty = |screen: &str| screen.trim_end().lines().last() == Some(">");
        while self.prompts() <= before || !is_empty(&self.screen()) {
            assert!(start.elapsed() < PATIENCE, "no prompt came:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does something to which the chat answers with another prompt.
    fn answered(&self, act: impl FnOnce()) {
        let before = self.prompts();
        act();
        self.until_prompt(before);
    }

    fn say(&self, line: &str) {
        self.answered(|| self.type_line(line));
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn type_line(&self, line: &str) {
        self.keys(&["-l", line]);
        self.keys(&["Enter"]);
    }

    /// As a terminal without bracketed paste gives it: as if it were typed.
    fn paste(&self, text: &str) {
        self.tmux(&["set-buffer", text]);
        self.tmux(&["paste-buffer"]);
    }

    /// What the chat holds, by the roles and texts of its messages.
    fn saved(&self) -> Vec<(String, String)> {
        let path = self.path("talk.json");
        self.say(&format!("/save {}", path.display()));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let text =
            |message: &serde_json::Value, key: &str| message[key].as_str().unwrap().to_owned();
        let messages = json["messages"].as_array().unwrap().iter();
        messages.map(|message| (text(message, "role"), text(message, "content"))).collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// A chat with a model of 0.3 MB.
fn tiny_chat(terminal: &Terminal) {
    karat::testing::write_tiny_model(&terminal.path("m.gguf")).unwrap();
    terminal.start(&format!("chat {} -n 8 --temp 0", terminal.path("m.gguf").display()));
    terminal.until_prompt(0);
}

#[test]
fn a_paste_of_several_lines_is_one_message() {
    let Some(terminal) = Terminal::new() else { return };
    tiny_chat(&terminal);
    // Longer than what the line editor reads at once.
    let long: Vec<String> = (0..150).map(|i| format!("line {i:03} of it")).collect();
    terminal.answered(|| terminal.paste("fn main() {\n    todo\n}\n"));
    let messages = terminal.saved();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!(messages[0], ("user".to_owned(), "fn main() {\n    todo\n}".to_owned()));
    terminal.say("/clear");
    // The last line is not ended: the person does it, and may change it before.
    let before = terminal.prompts();
    terminal.paste("one\ntwo\nthr");
    while terminal.screen().matches("> one").count() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    terminal.keys(&["-l", "ee"]);
    terminal.keys(&["Enter"]);
    terminal.until_prompt(before + 1);
    assert_eq!(terminal.saved()[0].1, "one\ntwo\nthree");
    terminal.say("/clear");
    terminal.answered(|| terminal.paste(&format!("{}\n", long.join("\n"))));
    let messages = terminal.saved();
    let texts: Vec<&str> = messages.iter().map(|(_, text)| text.as_str()).collect();
    // Over the context of this model, or in it: one message or none, never a hundred and fifty.
    assert!(messages.is_empty() || texts[0] == long.join("\n"), "{texts:?}");
}

#[test]
fn the_end_of_the_input_ends_a_chat_and_its_history_is_kept() {
    let Some(terminal) = Terminal::new() else { return };
    tiny_chat(&terminal);
    terminal.tmux(&["resize-window", "-x", "40", "-y", "12"]);
    terminal.say("a message that is longer than the forty columns of this window");
    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    assert!(terminal.saved()[0].1.ends_with("columns of this window"));
    // At the prompt Ctrl-C throws the line away, and nothing else.
    terminal.keys(&["-l", "not this"]);
    terminal.keys(&["C-c"]);
    terminal.until("Ctrl-D or /exit leaves");
    terminal.keys(&["C-d"]);
    terminal.until("exit code 0");
    let history = fs::read_to_string(terminal.path("karat/chat_history")).unwrap();
    assert!(history.contains("columns of this window") && !history.contains("not this"));
}

/// A prompt whose reading takes longer than anybody waits: 16 layers of Qwen2.5-1.5B's shape, on one thread.
#[test]
fn ctrl_c_stops_the_reading_of_a_prompt() {
    let Some(terminal) = Terminal::new() else { return };
    let model = terminal.path("big.gguf");
    let made = Command::new(env!("CARGO_BIN_EXE_karat"))
        .args(["synth"])
        .arg(&model)
        .args(["--preset", "qwen2.5-1.5b", "--layers", "16", "--vocab", "2000"])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    terminal.start(&format!("chat {} -n 4 --temp 0 -c 4096 -t 1", model.display()));
    terminal.until_prompt(0);
    terminal.say("hello");
    let before = terminal.prompts();
    let long = "word ".repeat(350);
    terminal.paste(&format!("{long}\n"));
    std::thread::sleep(Duration::from_millis(700));
    assert!(
        !terminal.screen().trim_end().ends_with('>'),
        "the prompt was read before: {}",
        terminal.screen()
    );
    terminal.keys(&["C-c"]);
    let heard = terminal.until("karat: stopp");
    terminal.until("karat: stopped");
    terminal.until_prompt(before);
    // 200 ms on a machine that does nothing else; this one runs other tests beside.
    let _ = writeln!(std::io::stderr(), "Ctrl-C in a prompt: stopped after {heard:?}");
    assert!(heard < Duration::from_secs(3), "{heard:?}");
    let messages = terminal.saved();
    assert_eq!((messages.len(), messages[0].1.as_str()), (2, "hello"), "the conversation stays");
    terminal.say("go on");
    terminal.keys(&["C-d"]);
    terminal.until("exit code 0");
    let history = fs::read_to_string(terminal.path("karat/chat_history")).unwrap();
    assert!(
        history.contains("hello") && history.contains("word word") && history.contains("go on")
    );
}

#[test]
fn a_model_without_a_prompt_opens_a_chat_and_karat_alone_says_what_to_type() {
    let Some(terminal) = Terminal::new() else { return };
    karat::testing::write_tiny_model(&terminal.path("m.gguf")).unwrap();
    terminal.start(&format!("run {} -n 2", terminal.path("m.gguf").display()));
    terminal.until("/help for help");
    terminal.until_prompt(0);
    terminal.keys(&["C-d"]);
    terminal.until("exit code 0");
    let Some(terminal) = Terminal::new() else { return };
    terminal.start("");
    terminal.until("exit code 0");
    let screen = terminal.screen();
    assert_eq!(screen.lines().take_while(|line| !line.starts_with("exit")).count(), 5, "{screen}");
    assert!(screen.starts_with("karat run \"Why is the sky blue?\""), "{screen}");
}
