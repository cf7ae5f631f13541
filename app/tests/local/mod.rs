//! A server on this machine that can misbehave, and a home of its own for each test, for the tests of `karat pull`.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What the server does with the n-th request, and what it saw of each.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) stop: Arc<AtomicBool>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// First byte asked for.
    pub(crate) range: Option<usize>,
    pub(crate) if_range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// A connection on which the answer is to be written.
pub(crate) struct Reply {
    pub(crate) stream: TcpStream,
    pub(crate) port: u16,
}

impl Reply {
    pub(crate) fn head(&mut self, status: &str, headers: &[(&str, String)]) {
        let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        // The client may have gone: it was killed, or has seen enough.
        let _ = self.stream.write_all(format!("{text}\r\n").as_bytes());
    }

    pub(crate) fn body(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn whole(&mut self, bytes: &[u8], headers: &[(&str, String)]) {
        let mut all = headers.to_vec();
        all.push(("Content-Length", bytes.len().to_string()));
        self.head("200 OK", &all);
        self.body(bytes);
    }

    pub(crate) fn partial(&mut self, bytes: &[u8], start: usize, headers: &[(&str, String)]) {
        let mut all = headers.to_vec();
        all.push(("Content-Length", (bytes.len() - start).to_string()));
        all.push(("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
        self.head("206 Partial Content", &all);
        self.body(&bytes[start..]);
    }
}

impl Server {
    pub(crate) fn start(
        answer: impl Fn(usize, &Seen, &mut Reply) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, end, answer) = (Arc::clone(&seen), Arc::clone(&stop), Arc::new(answer));
        std::thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    if end.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                    std::thread::Builder::new()
                        .spawn(move || {
                            let Some(request) = read_request(&stream) else { return };
                            let n = {
                                let mut log = log.lock().unwrap();
                                log.push(request.clone());
                                log.len() - 1
                            };
                            answer(n, &request, &mut Reply { stream, port });
                        })
                        .unwrap();
                }
            })
            .unwrap();
        Server { port, seen, stop }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

pub(crate) fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut seen = Seen { path: first.split(' ').nth(1)?.to_owned(), ..Seen::default() };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "if-range" => seen.if_range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(seen)
}

/// A file that begins like GGUF; what follows differs at every offset.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes = b"GGUF".to_vec();
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push((state >> 24) as u8);
    }
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A home of its own for each test.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    /// A home whose catalogue has one model, `t`, of these bytes.
    pub(crate) fn with(bytes: &[u8], sources: &[String]) -> Home {
        let home = Home::new();
        let config = home.dir.path().join("config/karat");
        fs::create_dir_all(&config).unwrap();
        let text = format!(
            "[[model]]\nname = \"t\"\nlicence = \"MIT\"\nfile = \"t.gguf\"\nsize = {}\nsha256 = \"{}\"\nsources = {sources:?}\n",
            bytes.len(),
            sha256(bytes),
        );
        fs::write(config.join("catalogue.toml"), text).unwrap();
        home
    }

    /// A home whose catalogue has one model, `t`, of unknown hash.
    pub(crate) fn of_first_use(source: &str) -> Home {
        let home = Home::new();
        let config = home.dir.path().join("config/karat");
        fs::create_dir_all(&config).unwrap();
        let text = format!(
            "[[model]]\nname = \"t\"\naliases = [\"tee\"]\nlicence = \"MIT\"\nfile = \"t.gguf\"\nabout = 7\nsources = [{source:?}]\n"
        );
        fs::write(config.join("catalogue.toml"), text).unwrap();
        home
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.dir.path().join("cache/models")
    }

    pub(crate) fn karat(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.args(args).stdin(Stdio::null());
        for name in [
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
            "no_proxy",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "HF_TOKEN",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.dir.path());
        command.env("KARAT_CACHE", self.dir.path().join("cache"));
        command.env("XDG_CONFIG_HOME", self.dir.path().join("config"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.karat(args).output().unwrap())
    }

    /// Every file in the models folder, hidden ones too.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.models()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    names.push(path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        names
    }
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "not one line of error: {}", self.stderr);
        for text in says {
            assert!(errors[0].contains(text), "{text:?} is not in {:?}", errors[0]);
        }
        self
    }
}

pub(crate) fn etag(tag: &str) -> (&'static str, String) {
    ("ETag", format!("\"{tag}\""))
}

/// A tiny model that opens, for sources whose hash nobody knows.
pub(crate) fn tiny_model(dir: &Path) -> Vec<u8> {
    let path = dir.join("tiny-source.gguf");
    // Magic, version 3, no tensors, no metadata: the smallest file that is whole.
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    fs::write(path, &bytes).unwrap();
    bytes
}
