//! Rows 29 to 32 and 35 to 37 of the reliability table: files on disk, split files, mapped files, files that change.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod common;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::{Raw, STRING, check_error, string, tiny};
use gguf::{Access, DType, ErrorKind, File};
use tempfile::TempDir;

const BOTH: [Access; 2] = [Access::Pread, Access::Mmap];

/// Says what a test leaves out, past the test harness, which shows what a test prints only if it fails.
fn say_skipped(what: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn both_ways_of_access_give_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "tiny.gguf", &tiny().bytes());
    let memory = File::from_bytes(tiny().bytes()).unwrap();
    for access in BOTH {
        let file = File::open(&path, access).unwrap();
        assert_eq!(file.path(), Some(&*path));
        assert_eq!(file.n_bytes(), tiny().bytes().len() as u64);
        assert_eq!(file.tensors(), memory.tensors());
        for tensor in file.tensors() {
            assert_eq!(file.data(tensor).unwrap(), memory.data(tensor).unwrap(), "{access:?}");
            let mut one = [0];
            file.read_into(tensor, tensor.n_bytes - 1, &mut one).unwrap();
            assert_eq!(memory.data(tensor).unwrap().last(), Some(&one[0]));
        }
        let borrowed =
            matches!(file.data(&file.tensors()[0]).unwrap(), std::borrow::Cow::Borrowed(_));
        assert_eq!(borrowed, access == Access::Mmap);
    }
}

#[test]
fn threads_share_a_file() {
    let dir = TempDir::new().unwrap();
    let file = File::open(write(&dir, "tiny.gguf", &tiny().bytes()), Access::Pread).unwrap();
    let expect = file.data(&file.tensors()[1]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                (0..200).for_each(|_| assert_eq!(file.data(&file.tensors()[1]).unwrap(), expect))
            });
        }
    });
}

#[test]
fn row_29_not_a_regular_file() {
    let dir = TempDir::new().unwrap();
    let mut cases = vec![(dir.path().to_path_buf(), "a directory")];
    #[cfg(unix)]
    {
        cases.push(("/dev/zero".into(), "a device"));
        cases.push(("/dev/random".into(), "a device"));
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        if made.is_ok_and(|status| status.success()) {
            cases.push((fifo, "a pipe"));
        } else {
            say_skipped("no mkfifo");
        }
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        cases.push((socket, "a socket"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &link).unwrap();
        cases.push((link, "a link to nothing"));
        for (path, what) in cases {
            for access in BOTH {
                let error = File::open(&path, access).unwrap_err();
                let piece = format!("not a regular file: it is {what}");
                check_error(what, &error, ErrorKind::NotRegularFile, &[&piece]);
            }
        }
    }
    let error = File::open(dir.path().join("nothing"), Access::Pread).unwrap_err();
    check_error("nothing", &error, ErrorKind::NotFound, &["nothing: no such file"]);
}

#[test]
fn row_30_odd_paths() {
    let dir = TempDir::new().unwrap();
    for name in ["with space.gguf", "new\nline.gguf", "esc\x1b[31m.gguf", "ü…漢.gguf"] {
        if fs::write(dir.path().join(name), tiny().bytes()).is_err() {
            say_skipped(&format!("no file can have the name {name:?} here"));
            continue;
        }
        for access in BOTH {
            File::open(dir.path().join(name), access).unwrap();
        }
        let bad = write(&dir, name, b"GGUF");
        let shown = name.replace('\n', "\\n").replace('\x1b', "\\u{1b}");
        check_error(
            name,
            &File::open(bad, Access::Pread).unwrap_err(),
            ErrorKind::Truncated,
            &[&shown],
        );
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"not-utf-8-\xff.gguf"));
        if fs::write(&path, tiny().bytes()).is_ok() {
            File::open(&path, Access::Pread).unwrap();
        }
        let long = dir.path().join("x/".repeat(2048));
        let error = File::open(&long, Access::Pread).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::NotFound), "{error}");
        assert!(error.to_string().len() < 1000, "{error}");
        assert!(File::open("a\0b", Access::Pread).is_err());
    }
}

/// A file of a split model with one tensor `t{no}`, keys of the first file only where it is the first.
fn shard(no: u16, count: u16, total: i32) -> Raw {
    let mut raw = Raw::new();
    if no == 0 {
        raw = raw.kv(b"general.architecture", STRING, &string(b"llama"));
    }
    raw.kv(b"split.no", 2, &no.to_le_bytes())
        .kv(b"split.count", 2, &count.to_le_bytes())
        .kv(b"split.tensors.count", 5, &total.to_le_bytes())
        .tensor(format!("t{no}").as_bytes(), &[1], 0, 0)
        .data(4)
}

fn shard_name(no: u16, count: u16) -> String {
    format!("model-{no:05}-of-{count:05}.gguf")
}

/// Writes a good split model of three files, then what `change` says over it.
fn split_model(change: impl FnOnce(&Path)) -> TempDir {
    let dir = TempDir::new().unwrap();
    for no in 0..3 {
        let mut raw = shard(no, 3, 3);
        raw.data = vec![no as u8; 4];
        write(&dir, &shard_name(no + 1, 3), &raw.bytes());
    }
    change(dir.path());
    dir
}

#[test]
fn split_files_open_by_any_of_them() {
    let dir = split_model(|_| ());
    for no in 1..=3 {
        for access in BOTH {
            let file = File::open(dir.path().join(shard_name(no, 3)), access).unwrap();
            let names: Vec<_> = file.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
            assert_eq!(names, [("t0", 0), ("t1", 1), ("t2", 2)]);
            assert_eq!(file.paths().count(), 3);
            assert_eq!(file.path(), Some(&*dir.path().join(shard_name(1, 3))));
            assert_eq!(file.str("general.architecture").unwrap().unwrap(), "llama");
            for (i, tensor) in file.tensors().iter().enumerate() {
                assert_eq!(*file.data(tensor).unwrap(), [i as u8; 4]);
            }
            assert_eq!(file.tensor("t2").unwrap().shard, 2);
        }
    }
    let part = fs::read(dir.path().join(shard_name(1, 3))).unwrap();
    let error = File::from_bytes(part).unwrap_err();
    check_error("memory", &error, ErrorKind::Unsupported, &["one of 3 files of a split model"]);
}

#[test]
fn row_31_split_files_that_do_not_belong_together() {
    let put = |dir: &Path, no: u16, raw: Raw| {
        fs::write(dir.join(shard_name(no, 3)), raw.bytes()).unwrap()
    };
    type Change = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, Change, ErrorKind, Vec<&str>)> = vec![
        (
            "missing",
            Box::new(|dir| fs::remove_file(dir.join(shard_name(2, 3))).unwrap()),
            ErrorKind::NotFound,
            vec!["model-00002-of-00003.gguf: file 2 of 3 of the model is missing"],
        ),
        (
            "wrong count",
            Box::new(move |dir| put(dir, 3, shard(2, 4, 3))),
            ErrorKind::Malformed,
            vec!["model-00003-of-00003.gguf: key \"split.count\": found 4, expected 3"],
        ),
        (
            "files swapped",
            Box::new(|dir| {
                fs::copy(dir.join(shard_name(1, 3)), dir.join(shard_name(2, 3))).map(drop).unwrap()
            }),
            ErrorKind::Malformed,
            vec!["model-00002-of-00003.gguf: key \"split.no\": found 0, expected 1"],
        ),
        (
            "another model",
            Box::new(move |dir| {
                put(dir, 2, shard(1, 3, 3).kv(b"general.architecture", STRING, &string(b"phi3")))
            }),
            ErrorKind::Malformed,
            vec!["model-00002-of-00003.gguf: key \"general.architecture\"", "another model?"],
        ),
        (
            "another model by its tensors",
            Box::new(move |dir| put(dir, 3, shard(2, 3, 9))),
            ErrorKind::Malformed,
            vec!["model-00003-of-00003.gguf: key \"split.tensors.count\"", "another model?"],
        ),
        (
            "too few tensors",
            Box::new(move |dir| (0..3).for_each(|no| put(dir, no + 1, shard(no, 3, 4)))),
            ErrorKind::Malformed,
            vec!["key \"split.tensors.count\": 4 tensors, the 3 files have 3"],
        ),
        (
            "duplicate tensor",
            Box::new(move |dir| {
                let mut raw = shard(2, 3, 3);
                raw.infos.clear();
                put(dir, 3, raw.tensor(b"t0", &[1], 0, 0));
            }),
            ErrorKind::Malformed,
            vec![
                "model-00003-of-00003.gguf: tensor \"t0\": duplicate name: in file 1 and again in file 3",
            ],
        ),
        (
            "no split.no",
            Box::new(move |dir| put(dir, 3, Raw::new().kv(b"split.count", 2, &3u16.to_le_bytes()))),
            ErrorKind::Malformed,
            vec!["model-00003-of-00003.gguf: key \"split.no\": missing, expected 2"],
        ),
        (
            "count as a string",
            Box::new(move |dir| put(dir, 3, Raw::new().kv(b"split.count", STRING, &string(b"3")))),
            ErrorKind::Malformed,
            vec!["model-00003-of-00003.gguf: key \"split.count\": found string, wanted an integer"],
        ),
    ];
    for (case, change, kind, pieces) in cases {
        let dir = split_model(change);
        // By a file that is in order: the error is about the one that is not.
        let error = File::open(dir.path().join(shard_name(1, 3)), Access::Pread).unwrap_err();
        check_error(case, &error, kind, &pieces);
    }
}

#[test]
fn row_31_split_count_against_the_name() {
    let dir = TempDir::new().unwrap();
    let check = |name: &str, raw: Raw, kind, piece: &str| {
        let path = write(&dir, name, &raw.bytes());
        check_error(name, &File::open(path, Access::Pread).unwrap_err(), kind, &[piece]);
    };
    check(
        "model.gguf",
        shard(0, 0, 1),
        ErrorKind::Malformed,
        "key \"split.count\": found 0, allowed 1..=65535",
    );
    check("model.gguf", shard(0, 3, 3), ErrorKind::Malformed, "does not say which of them it is");
    check(
        "m-00001-of-00002.gguf",
        shard(0, 3, 3),
        ErrorKind::Malformed,
        "found 3, the file's name says 2 files",
    );
    check(
        "m-00001-of-00003.gguf",
        tiny(),
        ErrorKind::Malformed,
        "missing, the file's name says 3 files",
    );
    check(
        "m-00000-of-00003.gguf",
        shard(0, 3, 3),
        ErrorKind::Malformed,
        "the file's name says file 0 of 3",
    );
    check(
        "m-00004-of-00003.gguf",
        shard(3, 3, 3),
        ErrorKind::Malformed,
        "the file's name says file 4 of 3",
    );
    check(
        "m-00001-of-65535.gguf",
        shard(0, 65535, 3),
        ErrorKind::NotFound,
        "m-00002-of-65535.gguf: file 2 of 65535",
    );
    // One file that says so is whole, whatever its name.
    for name in ["one.gguf", "one-00001-of-00001.gguf"] {
        assert!(File::open(write(&dir, name, &shard(0, 1, 1).bytes()), Access::Pread).is_ok());
    }
}

#[test]
fn row_32_shard_truncated() {
    let dir = split_model(|dir| {
        let path = dir.join(shard_name(3, 3));
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    });
    let error = File::open(dir.path().join(shard_name(2, 3)), Access::Pread).unwrap_err();
    let pieces =
        ["model-00003-of-00003.gguf: truncated: tensor \"t2\" needs bytes", "download incomplete?"];
    check_error("truncated", &error, ErrorKind::Truncated, &pieces);
}

#[test]
fn row_35_offsets_over_4_gib() {
    // Three tensors of 3.3 GB and a small one behind them, nearly all of it holes.
    let dir = TempDir::new().unwrap();
    let big = 3200u64 << 20;
    let raw = Raw::new()
        .tensor(b"a", &[1 << 20, 800], 0, 0)
        .tensor(b"b", &[1 << 20, 800], 0, big)
        .tensor(b"c", &[1 << 20, 800], 0, 2 * big)
        .tensor(b"last", &[4], 0, 3 * big);
    let path = write(&dir, "sparse.gguf", &raw.header());
    let start = raw.header().len() as u64;
    let mut out = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let marks = [(0, 1u8), (big, 2), (2 * big, 3), (3 * big, 4)];
    for (at, mark) in marks {
        let wrote = out.seek(SeekFrom::Start(start + at)).and_then(|_| out.write_all(&[mark; 16]));
        if let Err(error) = wrote {
            say_skipped(&format!("no sparse file of 10 GB here: {error}"));
            return;
        }
    }
    drop(out);
    for access in BOTH {
        let file = match File::open(&path, access) {
            Err(error) if access == Access::Mmap && error.kind() == ErrorKind::Io => {
                say_skipped(&format!("10 GB cannot be mapped here: {error}"));
                continue;
            }
            other => other.unwrap(),
        };
        assert_eq!(file.n_bytes(), start + 3 * big + 16);
        for (tensor, (at, mark)) in file.tensors().iter().zip(marks) {
            assert_eq!(tensor.offset, start + at);
            let mut buf = [0; 16];
            file.read_into(tensor, 0, &mut buf).unwrap();
            assert_eq!(buf, [mark; 16], "{access:?} {}", tensor.name);
        }
        assert_eq!(*file.data(file.tensor("last").unwrap()).unwrap(), [4; 16]);
    }
    let shorter = start + 3 * big + 15;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(shorter).unwrap();
    let error = File::open(&path, Access::Pread).unwrap_err();
    let piece = format!(
        "truncated: tensor \"last\" needs bytes {}..{}, file ends at {shorter}",
        shorter - 15,
        shorter + 1
    );
    check_error("one byte", &error, ErrorKind::Truncated, &[&piece]);
}

#[test]
fn row_36_file_shortened_or_rewritten_while_open() {
    let dir = TempDir::new().unwrap();
    for access in BOTH {
        let path = write(&dir, "tiny.gguf", &tiny().bytes());
        let file = File::open(&path, access).unwrap();
        let tensor = &file.tensors()[1];
        let before = file.data(tensor).unwrap().into_owned();
        assert_eq!(before.len(), 36);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        let error = file.data(tensor).unwrap_err();
        let pieces =
            ["tiny.gguf: ", "model file changed on disk while in use: it had", "bytes, now 0"];
        check_error("shortened", &error, ErrorKind::Changed, &pieces);
        assert_eq!(file.read_into(tensor, 0, &mut [0]).unwrap_err().kind(), ErrorKind::Changed);

        let path = write(&dir, "same.gguf", &tiny().bytes());
        let file = File::open(&path, access).unwrap();
        let out = fs::OpenOptions::new().write(true).open(&path).unwrap();
        out.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let error = file.data(&file.tensors()[1]).unwrap_err();
        check_error("rewritten", &error, ErrorKind::Changed, &["while in use: it was written to"]);
    }
}

/// Run by the test below in a process of its own, in a folder with `victim.gguf`; dies of SIGBUS.
#[cfg(unix)]
#[test]
#[ignore = "ends its process: row_36_sigbus_says_why_and_exits_4 runs it"]
fn child_reads_past_the_new_end() {
    let file = File::open("victim.gguf", Access::Mmap).unwrap();
    let data = file.data(&file.tensors()[0]).unwrap();
    assert_eq!(data[data.len() - 1], 7);
    fs::OpenOptions::new().write(true).open("victim.gguf").unwrap().set_len(0).unwrap();
    let sum: u64 = data.iter().map(|&b| u64::from(b)).sum();
    panic!("read {sum} from a file without bytes");
}

#[cfg(unix)]
#[test]
fn row_36_sigbus_says_why_and_exits_4() {
    let dir = TempDir::new().unwrap();
    let mut raw = Raw::new().tensor(b"t", &[1 << 16], 0, 0);
    raw.data = vec![7; 4 << 16];
    write(&dir, "victim.gguf", &raw.bytes());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "child_reads_past_the_new_end",
            "--nocapture",
            "--test-threads=1",
        ])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{:?} {stderr}", output.status);
    assert!(stderr.contains("error: model file changed on disk while in use\n"), "{stderr}");
}

#[test]
fn row_37_file_replaced_by_rename() {
    let dir = TempDir::new().unwrap();
    for access in BOTH {
        let path = write(&dir, "tiny.gguf", &tiny().bytes());
        let file = File::open(&path, access).unwrap();
        let other = write(&dir, "other.gguf", b"quite another file");
        fs::rename(other, &path).unwrap();
        let expect: Vec<u8> = (32..68).collect();
        assert_eq!(&*file.data(file.tensor("q").unwrap()).unwrap(), expect, "{access:?}");
        assert!(File::open(&path, access).is_err());
    }
}

#[test]
fn unmapped_regions_are_forgotten() {
    // More mappings in turn than the handler's table has places.
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "tiny.gguf", &tiny().bytes());
    for _ in 0..3000 {
        let file = File::open(&path, Access::Mmap).unwrap();
        assert_eq!(file.tensor("q").map(|t| t.dtype), Some(DType::Q4_0));
    }
}
