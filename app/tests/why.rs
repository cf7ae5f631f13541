//! `karat why` from outside: each layer of its walk, and what it says where they differ.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stderr, reason = "what was measured is shown")]

mod skip;

use safetensors::SafeTensors;
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn karat(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.current_dir(dir).env("KARAT_CACHE", dir).args(args).output().unwrap()
}

/// The exit code, stdout as JSON where it is any, and stderr.
fn why(dir: &Path, args: &[&str]) -> (i32, Json, String) {
    let out = karat(dir, &[&["why", "-m", "m.gguf", "--json"], args].concat());
    let json = serde_json::from_slice(&out.stdout).unwrap_or(Json::Null);
    (out.status.code().unwrap(), json, String::from_utf8_lossy(&out.stderr).into_owned())
}

/// A folder with a small model and a trace of it.
fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let shape = ["--arch", "llama", "--layers", "2", "--embd", "64", "--ff", "96"];
    let made =
        karat(dir.path(), &[&["synth", "m.gguf"], &shape[..], &["--format", "Q8_0"]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let traced =
        karat(dir.path(), &["trace", "-m", "m.gguf", "-p", "Hello", "-o", "t.safetensors"]);
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    dir
}

/// The trace with another header, which its own length and its tensors' places allow.
fn rewritten(path: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Json>)) {
    let bytes = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Json = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    edit(header.as_object_mut().unwrap());
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(&bytes[8 + n..]);
    std::fs::write(path, out).unwrap();
}

fn tokens(path: &Path) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["tokens"]).unwrap()
}

/// A trace of karat's says its arithmetic; without that it is another engine's, which rounds as ggml does.
#[test]
fn a_trace_is_judged_in_its_own_arithmetic() {
    let dir = model();
    for arithmetic in ["int8", "int16", "f32"] {
        let args = ["trace", "-m", "m.gguf", "-p", "Hello", "-o", "a.safetensors", "--force"];
        let traced = karat(dir.path(), &[&args[..], &["--arithmetic", arithmetic]].concat());
        assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
        let (code, _, stderr) = why(dir.path(), &["-p", "Hello", "--b", "a.safetensors"]);
        assert_eq!(code, 0, "{arithmetic}: {stderr}");
        rewritten(&dir.path().join("a.safetensors"), |header| {
            header["__metadata__"].as_object_mut().unwrap().remove("arithmetic").unwrap();
        });
        let (code, ..) = why(dir.path(), &["-p", "Hello", "--b", "a.safetensors"]);
        assert_eq!(code == 0, arithmetic == "int8", "{arithmetic}");
    }
}

#[test]
fn a_right_trace_is_right_in_every_element() {
    let dir = model();
    let (code, report, stderr) = why(dir.path(), &["-p", "Hello", "--b", "t.safetensors"]);
    assert_eq!(code, 0, "{stderr}");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["verdict"] == "RIGHT" && row["checked"] == row["elements"]));
    assert!(rows.iter().all(|row| row["elements"].as_u64().unwrap() > 0));
    let ids = report["ids"].as_array().unwrap();
    assert!(ids.len() == 3 && ids.iter().all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[test]
fn other_ids_end_the_walk_or_are_gone_on_with() {
    let dir = model();
    let args = ["-p", "Hullo there", "--b", "t.safetensors"];
    let (code, report, stderr) = why(dir.path(), &args);
    assert!(code == 6 && report.is_null(), "{stderr}");
    assert!(stderr.contains("another prompt, tokenizer or template"), "{stderr}");
    // Then every op is right, and the ids are still what is wrong.
    let (code, report, stderr) = why(dir.path(), &[&args[..], &["--continue"]].concat());
    assert_eq!(code, 6, "{stderr}");
    assert!(report["remarks"][0].as_str().unwrap().starts_with("tokens: "), "{report}");
    let rows = report["rows"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["verdict"] == "RIGHT"), "{stderr}");
}

#[test]
fn what_was_sampled_is_held_against_the_logits() {
    let dir = model();
    let path = dir.path().join("t.safetensors");
    let mut ids = tokens(&path);
    let n = ids.len();
    // The id behind the prompt: the step that it feeds is wrong from the embedding on, and so is the choice.
    ids[n - 2] ^= 1;
    rewritten(&path, |header| header["__metadata__"]["tokens"] = json!(format!("{ids:?}")));
    let (code, report, _) = why(dir.path(), &["-p", "Hello", "--b", "t.safetensors"]);
    assert_eq!(code, 6);
    let said = report["remarks"].to_string();
    assert!(said.contains("sampling: behind step 0 side B went on with"), "{said}");
}

#[test]
fn a_value_that_is_missing_is_unmeasured_and_no_pass() {
    let dir = model();
    let path = dir.path().join("t.safetensors");
    rewritten(&path, |header| {
        let key = header.keys().find(|key| key.contains("ffn_norm-1#0")).unwrap().clone();
        let value = header.remove(&key).unwrap();
        header.insert(key.replace("ffn_norm-1", "else-1"), value);
    });
    let (code, report, stderr) = why(dir.path(), &["-p", "Hello", "--b", "t.safetensors"]);
    assert!(code == 6 && stderr.contains("1 values unmeasured"), "{stderr}");
    let rows = report["rows"].as_array().unwrap();
    let unmeasured: Vec<_> = rows.iter().filter(|row| row["verdict"] == "UNMEASURED").collect();
    assert_eq!((unmeasured.len(), &unmeasured[0]["name"]), (1, &json!("ffn_norm-1")));
    assert_eq!(unmeasured[0]["checked"], 0);
}

/// Watching every value takes less than twice the time of a plain run: the best of some runs, and one of three tries, for
/// a machine that does other things too.
#[test]
fn watching_costs_less_than_as_much_again() {
    #[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let model = home.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.is_file() {
        skip::say_skipped("what watching costs: the default model is absent (`karat pull`)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ratio = || {
        let args = ["why", "--json", "--b", "cpu", "--repeat", "5", "-m"];
        let out = karat(dir.path(), &[&args[..], &[model.to_str().unwrap()]].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let report: Json = serde_json::from_slice(&out.stdout).unwrap();
        let of = |key: &str| report["capture"][key].as_f64().unwrap();
        of("watched") / of("plain")
    };
    let best = (0..3).map(|_| ratio()).fold(f64::INFINITY, f64::min);
    eprintln!("{best:.2} times a plain run");
    assert!(best <= 2.0, "{best}");
}

/// What a llama.cpp server would say: `/props`, `/tokenize` and `/completion`, its probabilities `off` from a trace's.
struct Server {
    ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
    prompt: usize,
    off: f64,
}

impl Server {
    fn of(path: &Path, off: f64) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<_> =
            tensors.names().into_iter().filter(|n| n.contains("result_output#0")).collect();
        names.sort_unstable_by_key(|name| (name.matches('/').count(), (*name).to_owned()));
        let floats = |name: &&str| -> Vec<f32> {
            let data = tensors.tensor(name).unwrap();
            data.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let ids = tokens(path);
        let prompt = ids.len() - (names.len() - 1);
        Self { ids, logits: names.iter().map(floats).collect(), prompt, off }
    }

    fn answer(&self, path: &str) -> Json {
        let place = |logits: &Vec<f32>| {
            let sum: f64 = logits.iter().map(|&v| f64::from(v).exp()).sum();
            let mut by: Vec<usize> = (0..logits.len()).collect();
            by.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let pair = |&id: &usize| json!({"id": id, "logprob": f64::from(logits[id]) - sum.ln() + self.off});
            let top: Vec<Json> = by.iter().take(5).map(pair).collect();
            json!({"id": by[0], "top_logprobs": top})
        };
        match path {
            "/props" => json!({"default_generation_settings": {}}),
            "/tokenize" => json!({"tokens": self.ids[..self.prompt]}),
            "/completion" => {
                let places: Vec<Json> = self.logits.iter().map(place).collect();
                json!({"completion_probabilities": places})
            }
            _ => json!({"error": path}),
        }
    }

    /// Serves until the process ends; its address.
    fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || listener.incoming().flatten().for_each(|stream| self.serve(stream));
        std::thread::Builder::new().spawn(serve).unwrap();
        address
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = self.answer(&path).to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        let all = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(all.as_bytes()).unwrap();
    }
}

#[test]
fn a_server_of_llama_cpp_is_a_side() {
    let dir = model();
    let path = dir.path().join("t.safetensors");
    // As llama.cpp computes.
    let args = ["trace", "-m", "m.gguf", "-p", "Hello", "-o", "t.safetensors", "--force"];
    assert!(karat(dir.path(), &[&args[..], &["--arithmetic", "int8"]].concat()).status.success());
    let right = Server::of(&path, 0.0).start();
    let (code, report, stderr) = why(dir.path(), &["-p", "Hello", "--b", &right]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        (&report["server"], report["rows"].as_array().unwrap().len()),
        (&json!("llama.cpp"), 3)
    );
    let near = |row: &Json| row["difference"].as_f64().unwrap() < 1e-3;
    assert!(report["rows"].as_array().unwrap().iter().all(near), "{report}");
    let (code, _, stderr) = why(dir.path(), &["-p", "Hullo", "--b", &right]);
    assert!(code == 6 && stderr.contains("another tokenizer"), "{stderr}");
    // A proxy is for other machines, and an error says that it was one.
    let server = |url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.current_dir(dir.path()).args(["why", "-m", "m.gguf", "-n", "2", "-p", "Hello"]);
        let proxy = ("http_proxy", "http://127.0.0.1:1");
        let output = command
            .args(["--b", url])
            .envs([proxy])
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = server(&right);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = server("http://192.0.2.1:8080");
    let said =
        "(through the proxy of http_proxy, http://127.0.0.1:1); hint: is the server running?";
    assert!(code == Some(4) && stderr.contains(said), "{stderr}");
    let off = Server::of(&path, 1.5).start();
    let (code, _, stderr) = why(dir.path(), &["-p", "Hello", "--b", &off]);
    assert!(code == 6 && stderr.contains("log-probabilities differ by 1.5"), "{stderr}");
}
