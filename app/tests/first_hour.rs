//! What a person who knows ollama, llama.cpp and cargo types first: it works, or says in one line what to type.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use serde_json::Value as Json;
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with a model of 0.3 MB, and the same without its chat template.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        karat::testing::write_tiny_model(&path).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let key = b"tokenizer.chat_template";
        let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
        bytes[at + key.len() - 1] = b'X';
        fs::write(folder.path().join("bare.gguf"), bytes).unwrap();
        Self(folder)
    }

    /// Runs karat with a pipe that holds `input`, or no input at all.
    fn run(&self, words: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.current_dir(self.0.path()).args(words).stdout(Stdio::piped());
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(stdin).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(input) = input {
            // A command that is refused reads nothing.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        }
        child.wait_with_output().unwrap()
    }

    fn ok(&self, words: &[&str], input: Option<&str>) -> (String, String) {
        let output = self.run(words, input);
        let (stdout, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {stderr}");
        (stdout, stderr)
    }

    /// The ids of the prompt that a command makes of its words and its input.
    fn prompt(&self, words: &[&str], input: Option<&str>) -> Json {
        let common = ["--temp", "0", "-n", "1", "--raw", "--json"];
        let (stdout, _) = self.ok(&[&["run"], words, &common].concat(), input);
        let report: Json = serde_json::from_str(&stdout).unwrap();
        report["prompt_ids"].clone()
    }

    /// One line on stderr, which names `part`, and nothing on stdout.
    fn refused(&self, words: &[&str], part: &str) {
        let output = self.run(words, None);
        let (stdout, stderr) = texts(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (Some(2), ""), "{words:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{words:?}: {stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{words:?}: {stderr}");
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_prompt_comes_from_wherever_it_is_given() {
    let place = Place::new();
    let hello = place.prompt(&["-m", "m.gguf", "hello"], None);
    assert!(hello.as_array().unwrap().len() > 1);
    for (words, input) in [
        (&["m.gguf", "hello"][..], None),
        (&["m.gguf", "-p", "hello"], None),
        // A lone model is never a prompt, and `-` is standard input.
        (&["m.gguf"], Some("hello\n")),
        (&["m.gguf", "-"], Some("hello\n")),
        (&["-m", "m.gguf", "-"], Some("hello\n")),
        (&["m.gguf", "-f", "-"], Some("hello")),
        (&["-m", "m.gguf"], Some("hello")),
        // A pipe that holds nothing adds nothing.
        (&["m.gguf", "hello"], Some("")),
    ] {
        assert_eq!(place.prompt(words, input), hello, "{words:?}");
    }
    let both = place.prompt(&["m.gguf", "hello\n\nfn main() {}"], None);
    assert_eq!(place.prompt(&["m.gguf", "hello"], Some("fn main() {}\n")), both);
    assert_eq!(place.prompt(&["m.gguf", "-p", "hello"], Some("fn main() {}\n")), both);
    let lines = place.prompt(&["m.gguf", "a\nb\tc"], None);
    assert_eq!(place.prompt(&["m.gguf", "-e", r"a\nb\tc"], None), lines);
    assert_ne!(place.prompt(&["m.gguf", r"a\nb\tc"], None), lines);
    let ids = |words: &[&str], input| {
        place.ok(&[&["tokenize", "-m", "m.gguf", "--ids"], words].concat(), input).0
    };
    assert_eq!(ids(&["-"], Some("hello")), ids(&["hello"], None));
    assert_eq!(ids(&["-f", "-"], Some("hello")), ids(&["hello"], None));
}

/// Wherever a command takes a model, it takes it by its name alone and behind -m; two that are not the same are refused.
#[test]
fn a_model_is_named_with_a_flag_or_without() {
    let place = Place::new();
    fs::copy(place.0.path().join("m.gguf"), place.0.path().join("n.gguf")).unwrap();
    for (command, rest) in [
        ("run", &["hi", "-n", "2", "--temp", "0"][..]),
        ("chat", &["-n", "2", "--temp", "0"]),
        ("tokenize", &["hello"]),
        ("detokenize", &["72,105"]),
        ("perplexity", &["-p", "one two three four five six seven eight", "-c", "8", "--json"]),
        ("inspect", &[]),
        ("check", &["--json"]),
        ("why", &["-n", "0", "--repeat", "1", "--json"]),
        ("trace", &["-n", "0", "-o", "t.safetensors", "--force"]),
        ("bench", &["-p", "2", "-n", "0", "-r", "1", "--json"]),
    ] {
        let with = |model: &[&str]| {
            let words = [&[command], model, rest].concat();
            let (said, _) = place.ok(&words, if command == "chat" { Some("hi\n") } else { None });
            // Times differ.
            if said.starts_with('{') { String::new() } else { said }
        };
        let named = with(&["m.gguf"]);
        assert_eq!(with(&["-m", "m.gguf"]), named, "{command}");
        assert_eq!(with(&["m.gguf", "-m", "m.gguf"]), named, "{command}");
        let both = [&[command, "n.gguf", "-m", "m.gguf"], rest].concat();
        place.refused(&both, "n.gguf, and -m m.gguf; hint: ");
    }
    place.ok(&["pull", "-m", "m.gguf"], None);
    place.ok(&["quantize", "q.gguf", "Q8_0", "-m", "m.gguf"], None);
    place.refused(&["run", "m.gguf", "hi", "-p", "ho"], "two texts: \"hi\", and that of -p or -f");
    place.refused(&["inspect"], "no model; hint: karat inspect model.gguf");
    let two =
        place.ok(&["bench", "m.gguf", "n.gguf", "-p", "2", "-n", "0", "-r", "1", "--csv"], None);
    assert_eq!(two.0.lines().count(), 3, "{}", two.0);
}

/// What `karat tokenize` took apart is put together again, whatever is between the two.
#[test]
fn ids_become_the_text_that_they_were() {
    let place = Place::new();
    for text in ["hello world", "Zoë\tfn main() {\n    π\n}", "🌱", " two  spaces "] {
        let (ids, _) = place.ok(&["tokenize", "m.gguf", "--ids", "-p", text], None);
        let (json, _) = place.ok(&["tokenize", "m.gguf", "--json", "-p", text], None);
        let plain = ids.trim().trim_matches(['[', ']']);
        let spaced = plain.replace(',', "");
        let line = format!("{text}\n");
        let words: Vec<&str> = spaced.split(' ').collect();
        for (words, input) in [
            (&[&["m.gguf"], &words[..]].concat()[..], None),
            (&[&["-m", "m.gguf"], &words[..]].concat(), None),
            (&["m.gguf", plain], None),
            (&["m.gguf", "-"], Some(spaced.as_str())),
            (&["m.gguf"], Some(ids.as_str())),
            (&["m.gguf"], Some(json.as_str())),
        ] {
            let (said, _) = place.ok(&[&["detokenize"], words].concat(), input);
            assert_eq!(said, line, "{words:?}");
        }
        let (said, _) = place.ok(&["detokenize", "m.gguf", "--json"], Some(&ids));
        let report: Json = serde_json::from_str(&said).unwrap();
        let tokenized: Json = serde_json::from_str(&json).unwrap();
        assert_eq!(report["text"], text);
        assert_eq!((&report["ids"], &report["pieces"]), (&tokenized["ids"], &tokenized["pieces"]));
    }
    place.refused(&["detokenize", "m.gguf", "1", "x", "3"], "ids[1]: x: no id");
    let beyond = place.run(&["detokenize", "m.gguf", "4000000000"], None);
    let (_, stderr) = texts(&beyond);
    assert_eq!(beyond.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("id 4000000000 is outside of the vocabulary"), "{stderr}");
}

#[test]
fn a_model_without_a_template_can_be_talked_with() {
    let place = Place::new();
    let talk =
        |words: &[&str]| place.ok(&[&["chat"], words, &["-n", "3"]].concat(), Some("hi\nand?\n"));
    let (said, warned) = talk(&["bare.gguf"]);
    assert!(warned.contains("warning: the model has no chat template: "), "{warned}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!talk(&["bare.gguf", "--raw"]).1.contains("no chat template"));
    assert!(!talk(&["m.gguf"]).1.contains("no chat template"));
}

/// From outside; the table itself has tests beside it.
#[test]
fn flags_of_llama_cpp() {
    let place = Place::new();
    let run = |flags: &[&str]| {
        place.ok(&[&["run", "m.gguf", "hi", "-n", "1", "-s", "1"], flags].concat(), None)
    };
    let (plain, _) = run(&[]);
    for (flags, note) in [
        (&["-fa", "on"][..], "note: -fa changes nothing"),
        (&["-st"], "note: -st changes nothing"),
        (&["-tb", "2"], "note: -tb changes nothing"),
        (&["--no-mmap", "--mlock", "--color"], "note: --mlock changes nothing"),
        (&["-ngl", "0"], ""),
        (&["--n-gpu-layers", "0"], ""),
        (&["-ctk", "f16", "-ctv", "f16"], ""),
        (&["-ub", "64", "-b", "512"], "note: -b and -ub are one here: 64"),
    ] {
        let (said, stderr) = run(flags);
        assert_eq!(said, plain, "{flags:?}");
        assert!(stderr.contains(note), "{flags:?}: {stderr}");
    }
    run(&["--top-k", "-1"]);
    for (words, part) in [
        (&["run", "m.gguf", "hi", "-ngl99"][..], "--gpu-layers"),
        (&["run", "m.gguf", "hi", "-cnv"], "karat chat"),
        (&["chat", "m.gguf", "-st"], "karat run"),
        (&["run", "m.gguf", "hi", "-j", "{"], "JSON schema: EOF"),
        (&["run", "m.gguf", "hi", "-j", "{}", "--regex", "a"], "cannot be used with"),
        (&["run", "m.gguf", "hi", "--close"], "required arguments"),
        (&["run", "m.gguf", "hi", "--chat-template", "no-such"], "names: chatml, llama2"),
        (&["run", "m.gguf", "hi", "--chat-template-kwargs", "[]"], "--chat-template-kwargs: "),
        (&["run", "m.gguf", "hi", "--think"], "--reasoning on, off or auto"),
        (&["run", "m.gguf", "hi", "-xyz"], "-xyz: unknown flag"),
        (&["run", "m.gguf", "hi", "--top-p", "-1"], "top_p"),
        (&["run", "m.gguf", "hi", "-c", "-5"], "-5"),
        (
            &["run", "m.gguf", "hi", "-ctk", "q8_0"],
            "[possible values: f16, f32] (-ctk is --cache-type here)",
        ),
        (&["run", "m.gguf", "hi", "-ctk", "q8_0"], "'q8_0'"),
        (&["run", "-hf", "no-owner", "hi"], "hf:"),
    ] {
        place.refused(words, part);
    }
}

/// A slip of the finger in a model's name is said, and is no prompt for the default model.
#[test]
fn a_model_s_name_that_is_nearly_right() {
    let place = Place::new();
    fs::copy(place.0.path().join("m.gguf"), place.0.path().join("m.bin")).unwrap();
    for (words, part) in [
        (&["run", "qwen3:06b"][..], "did you mean qwen3:0.6b? karat list has all names"),
        (&["run", "lama3.2", "hi"], "did you mean llama3.2?"),
        (&["pull", "gemma3:27b"], "did you mean gemma3:270m"),
        (&["show", "no-such-model"], "hint: give a file, a name of karat list, hf:"),
    ] {
        let output = place.run(words, None);
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(4), "{words:?}: {stderr}");
        assert!(stderr.contains(part) && stderr.len() < 250, "{words:?}: {stderr}");
    }
    // A model is one whatever its file is called.
    assert_eq!(place.prompt(&["m.bin"], Some("hello")), place.prompt(&["m.gguf", "hello"], None));
}

/// What is full is named, by whichever command.
#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    let place = Place::new();
    for words in
        [&["inspect", "m.gguf"][..], &["list"], &["run", "m.gguf", "hi", "-n", "2"], &["--help"]]
    {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.current_dir(place.0.path()).args(words).stdin(Stdio::null()).stdout(full);
        let output = command.output().unwrap();
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(4), "{words:?}: {stderr}");
        assert!(stderr.contains("standard output: No space left on device"), "{words:?}: {stderr}");
    }
}

#[test]
fn usage_errors_are_one_line() {
    let place = Place::new();
    for (words, part) in [
        (&["run", "--no-such-flag"][..], "'--no-such-flag'"),
        (&["run", "--tem", "0", "hi"], "--temp"),
        (&["runn"], "run"),
        (&["quantize", "a"], "<TYPE>"),
        (&["run", "--backend", "abacus", "hi"], "hybrid-f32"),
        (&["synth", "out"], "--preset"),
        (&["run", "-n", "x", "hi"], "'x'"),
        (&[], "karat --help"),
        (&["run", "-n", "x", "hi"], "hint: karat run --help"),
        (&["show", "m.gguf", "--foo"], "hint: karat inspect --help"),
        (&["run", "m.gguf", "hi", "-q"], "unexpected argument '-q' found; hint: karat run --help"),
        (&["run", "--backend", "cuda", "hi"], "reference]; hint: karat run --help"),
        (&["update"], "hint: karat help lists the commands"),
        (&["serve", "--port", "80"], "karat has no server"),
        (&["tokenize", "-m", "m.gguf", "--json", "--ids", "x"], "cannot be used with"),
    ] {
        place.refused(words, part);
    }
}

#[test]
fn quantize_needs_no_name() {
    let place = Place::new();
    fs::create_dir(place.0.path().join("sub")).unwrap();
    fs::rename(place.0.path().join("bare.gguf"), place.0.path().join("sub/bare-F32.gguf")).unwrap();
    let (_, said) = place.ok(&["quantize", "sub/bare-F32.gguf", "q8_0"], None);
    assert!(said.contains("karat: sub/bare-Q8_0.gguf: "), "{said}");
    place.refused(&["quantize", "sub/bare-F32.gguf", "Q8_0"], "bare-Q8_0.gguf: is there already");
    let again = ["quantize", "sub/bare-Q8_0.gguf", "q.gguf", "--force", "Q4_0"];
    let (_, said) = place.ok(&again, None);
    assert!(said.contains(" tensors were quantised before"), "{said}");
    let (_, said) = place.ok(&[&again[..], &["--allow-requantize"]].concat(), None);
    assert!(!said.contains("quantised before"), "{said}");
    let (_, said) = place.ok(&["quantize", "sub/bare-Q8_0.gguf", "copy", "--pure"], None);
    assert!(said.contains("karat: sub/bare-COPY.gguf: "), "{said}");
    let (_, said) = place.ok(&["quantize", "m.gguf", "e.gguf", "MXFP4_MOE"], None);
    assert!(said.contains("warning: no tensor became MXFP4_MOE"), "{said}");
    for (words, part) in [
        (&["Q4_0", "Q8_0"][..], "Q4_0 is a type"),
        (&["q.gguf", "Q8_0", "4"], "threads are -t N"),
        (&["q.gguf", "Q9"], "unknown type \"Q9\"; known: F32"),
        (&["q.gguf", "Q8_0", "--tensor-type", "attn_v"], "wanted PATTERN=TYPE"),
        (&["q.gguf", "Q8_0", "--output-tensor-type", "Q4_K_M"], "unknown tensor type"),
    ] {
        place.refused(&[&["quantize", "m.gguf"], words].concat(), part);
    }
}

#[test]
fn more_threads_than_cores_are_cut() {
    let place = Place::new();
    for n in ["1000", "100000"] {
        let (_, stderr) = place.ok(&["run", "m.gguf", "hi", "-n", "2", "-t", n], None);
        assert!(stderr.contains(&format!("warning: {n} threads on a machine of ")), "{stderr}");
        let (_, stderr) =
            place.ok(&["quantize", "m.gguf", "q.gguf", "Q8_0", "-t", n, "--force"], None);
        assert!(stderr.contains(&format!("warning: {n} threads on a machine of ")), "{stderr}");
    }
}

#[test]
fn what_is_printed_is_true() {
    let place = Place::new();
    let run = |flags: &[&str]| {
        place.ok(&[&["run", "m.gguf", "hi", "--temp", "0", "--stats"], flags].concat(), None).1
    };
    // The first token comes with the prompt: there was no step to divide by its time.
    let one = run(&["-n", "1"]);
    assert!(one.contains("generated 1 tokens in ") && one.contains(" s, - tok/s; length"), "{one}");
    let full = run(&["-c", "64"]);
    assert!(
        full.contains("warning: the answer ends here: the context of 64 is full")
            || full.contains("; stop;"),
        "{full}"
    );
    let laws = |flags: &[&str]| {
        place.ok(&[&["why", "-m", "m.gguf", "-n", "0", "--laws"], flags].concat(), None).0
    };
    assert!(laws(&["--a", "reference"]).contains("\nbackend  reference\n"));
    assert!(laws(&[]).contains("\nbackend  cpu ("));
    place.refused(&["why", "-m", "m.gguf", "--laws", "--a", "trace.safetensors"], "--a");
    let help = place.ok(&["--help"], None).0;
    for code in ["0", "1", "2", "3", "4", "5", "6", "7", "129", "130", "143"] {
        assert!(help.contains(&format!("\n{code:>5}  ")), "{code}: {help}");
    }
}

/// The command on the page, given to a shell, is the command that made it.
#[cfg(unix)]
#[test]
fn the_page_of_why_says_how_to_make_it_again() {
    let place = Place::new();
    let prompt = "it's $HOME & a \"test\"";
    place.ok(
        &["why", "-m", "m.gguf", "-n", "0", "--repeat", "1", "-p", prompt, "--html", "a b.html"],
        None,
    );
    let page = fs::read_to_string(place.0.path().join("a b.html")).unwrap();
    let line = page.lines().find(|line| line.starts_with("const report = ")).unwrap();
    let again = line.rsplit_once(", again = ").unwrap().1.trim_end_matches(';');
    let again: String = serde_json::from_str(again).unwrap();
    let script = format!("set -- {again}; printf '%s\\n' \"$@\"");
    let words = Command::new("sh").args(["-c", &script]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert_eq!(
        words.lines().skip(1).collect::<Vec<_>>(),
        ["why", "-m", "m.gguf", "-n", "0", "--repeat", "1", "-p", prompt, "--html", "a b.html"]
    );
}
