//! The parser's heap stays under 8 times the metadata plus 4 MiB, and a refusal is quick and small. One test in this
//! program, so that nothing else allocates beside it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod common;

use std::time::{Duration, Instant};

use common::{ARRAY, BOOL, Raw, STRING, array_of_len, string};
use gguf::{Access, File};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Bytes of heap that opening takes at its highest, and whether it opened.
fn peak_of_open(path: &std::path::Path) -> (usize, bool) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let opened = File::open(path, Access::Pread);
    (HEAP.peak_usage() - before, opened.is_ok())
}

fn check(name: &str, raw: &Raw, opens: bool) {
    let bytes = raw.bytes();
    let metadata = raw.header().len();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, &bytes).unwrap();
    drop(bytes);
    let start = Instant::now();
    let (peak, opened) = peak_of_open(&path);
    let took = start.elapsed();
    assert_eq!(opened, opens, "{name}: {:?}", File::open(&path, Access::Pread).err());
    let bound = 8 * metadata + 4 * MIB;
    assert!(
        peak <= bound,
        "{name}: {peak} bytes of heap for {metadata} of metadata, bound {bound}"
    );
    println!("{name}: {:.2} times {metadata} bytes, {took:?}", peak as f64 / metadata as f64);
    if !opens {
        assert!(peak <= 64 * MIB, "{name}: {peak}");
        // The row says 100 ms; five times that for a slow machine and an unoptimised build.
        assert!(took < Duration::from_millis(500), "{name}: {took:?}");
    }
}

#[test]
fn heap_bound_and_speed_of_refusal() {
    for (id, size) in [(0, 1), (1, 1), (2, 2), (4, 4), (6, 4), (7, 1), (10, 8), (12, 8)] {
        let n = (24 * MIB + 8) / size;
        let raw = Raw::new().kv(b"k", ARRAY, &array_of_len(id, n as u64, &vec![1; n * size]));
        check(&format!("array of type {id}"), &raw, true);
    }
    for len in [0, 1, 7] {
        let n = 2 << 20;
        let raw = Raw::new().kv(
            b"k",
            ARRAY,
            &array_of_len(STRING, n as u64, &string(&vec![b'x'; len]).repeat(n)),
        );
        check(&format!("strings of {len}"), &raw, true);
    }
    check("one string", &Raw::new().kv(b"k", STRING, &string(&vec![b'x'; 33 * MIB])), true);
    let mut raw = Raw::new();
    for i in 0..65_536 {
        raw = raw.kv(format!("{i:x}").as_bytes(), BOOL, &[0]);
    }
    check("65536 keys", &raw, true);
    check("65537 keys", &raw.kv(b"more", BOOL, &[0]), false);
    for dims in [&[][..], &[1, 1, 1, 1]] {
        let mut raw = Raw::new();
        for i in 0..300_000u64 {
            raw = raw.tensor(format!("{i:x}").as_bytes(), dims, 0, 32 * i);
        }
        // All of it is read before the missing data is noticed.
        check(
            &format!("300000 tensors of {} dimensions", dims.len()),
            &raw.clone().data(32 * 300_000),
            true,
        );
    }
    refusals();
}

/// Headers that lie about sizes, in front of 256 MiB that could hold what they claim.
fn refusals() {
    let with_hole = |raw: &Raw| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, raw.bytes()).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(256 << 20).unwrap();
        (dir, path)
    };
    let cases = [
        ("n_tensors", Raw { n_tensors: Some(1 << 20), ..common::tiny() }),
        ("n_kv", Raw { n_kv: Some(60_000), ..common::tiny() }),
        ("key length", {
            let mut raw = Raw::new();
            raw.kvs.push(common::string_of_len(200 << 20, b"k"));
            raw
        }),
        (
            "strings",
            Raw::new().kv(
                b"k",
                ARRAY,
                &array_of_len(STRING, 1 << 24, &common::string_of_len(65 << 20, b"")),
            ),
        ),
        ("nested", Raw::new().kv(b"k", ARRAY, &array_of_len(ARRAY, 1 << 20, b""))),
        ("offset", Raw::new().tensor(b"a", &[4], 0, 64)),
    ];
    for (name, raw) in cases {
        let (_dir, path) = with_hole(&raw);
        let start = Instant::now();
        let (peak, opened) = peak_of_open(&path);
        let took = start.elapsed();
        assert!(!opened, "{name}");
        assert!(peak <= 4 * MIB, "{name}: {peak}");
        assert!(took < Duration::from_millis(500), "{name}: {took:?}");
    }
}
