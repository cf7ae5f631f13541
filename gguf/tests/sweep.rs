//! Every truncation, every bit flip and a few hundred thousand mutations of valid headers: an error or a valid
//! model, never a panic. Replays the fuzzer's corpus too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{ARRAY, BOOL, F32, Raw, Rng, STRING, U8, U32, U64, array_of_len, string, tiny};
use gguf::{ErrorKind, File};

/// What must hold of anything that was accepted: all that it says can be used.
fn check_valid(file: &File) {
    assert!(matches!(file.version(), 2 | 3));
    assert!(file.alignment().is_power_of_two());
    for (key, value) in file.keys() {
        assert!(!key.is_empty() && file.get(key).is_some());
        assert!(value.as_array().is_none_or(|array| array.len() <= 1 << 26));
        let _ = (file.u32(key), file.f32(key), file.str(key), file.strings(key), file.i32s(key));
    }
    for tensor in file.tensors() {
        assert!((1..64).contains(&tensor.name.len()) && tensor.dims.len() <= 4);
        assert_eq!(file.data(tensor).unwrap().len() as u64, tensor.n_bytes);
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        gguf::check_tensor(tensor.dtype, &file.data(tensor).unwrap());
    }
}

/// Whether the file was accepted; either way without a panic, and the error in one line.
fn survives(bytes: &[u8]) -> bool {
    match File::from_bytes(bytes.to_vec()) {
        Ok(file) => {
            check_valid(&file);
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
            assert_ne!(error.kind(), ErrorKind::Usage, "{text}");
            false
        }
    }
}

#[test]
fn row_03_every_prefix_is_refused() {
    let (whole, header) = (tiny().bytes(), tiny().header().len());
    assert!(survives(&whole));
    for len in 0..whole.len() {
        let error = File::from_bytes(whole[..len].to_vec()).expect_err("a prefix");
        let text = error.to_string();
        match len {
            0 => assert_eq!(error.kind(), ErrorKind::NotGguf, "{text}"),
            1..24 => assert!(text.contains("header truncated"), "{len}: {text}"),
            _ if len < header => {
                // The section and the offset, or the tensor whose data is not there.
                let named = [
                    "(header, offset ",
                    "(metadata, offset ",
                    "(tensor infos, offset ",
                    "truncated: tensor ",
                ];
                assert!(named.iter().any(|name| text.contains(name)), "{len}: {text}");
            }
            _ => assert!(
                text.contains("truncated: tensor ") && text.contains("file ends at"),
                "{len}: {text}"
            ),
        }
    }
}

#[test]
fn row_04_every_bit_flip_is_survived() {
    let (whole, header) = (tiny().bytes(), tiny().header().len());
    let mut accepted = 0;
    for bit in 0..header * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        accepted += usize::from(survives(&bytes));
    }
    // Bits of values, names and padding may flip into another valid file; most others may not.
    assert!((1..header * 8).contains(&accepted), "{accepted} of {}", header * 8);
}

#[test]
fn mutations_are_survived() {
    let seeds: Vec<Vec<u8>> = seeds().into_iter().map(|(_, bytes)| bytes).collect();
    let mut rng = Rng(38);
    let mut accepted = 0;
    const RUNS: usize = 300_000;
    for _ in 0..RUNS {
        let mut bytes = match rng.below(2) {
            0 => seeds[rng.below(seeds.len())].clone(),
            _ => random_file(&mut rng).bytes(),
        };
        for _ in 0..rng.below(4) {
            mutate(&mut bytes, &mut rng, &seeds);
        }
        accepted += usize::from(survives(&bytes));
    }
    // Some of both, or the mutations are too tame or too wild to test anything.
    assert!(accepted > RUNS / 100 && accepted < RUNS * 9 / 10, "{accepted} of {RUNS} accepted");
}

/// Numbers at which checks go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    9,
    13,
    31,
    32,
    64,
    1 << 26,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng, seeds: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = rng.below(bytes.len());
    let edge = EDGES[rng.below(EDGES.len())].wrapping_add(rng.below(3) as u64).wrapping_sub(1);
    match rng.below(8) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.next() as u8,
        2 => bytes.truncate(at),
        // A u32 or a u64 where there may well be one.
        3 => overwrite(bytes, at, &(edge as u32).to_le_bytes()),
        4 => overwrite(bytes, at, &edge.to_le_bytes()),
        5 => overwrite(bytes, 8 + 8 * rng.below(2), &edge.to_le_bytes()),
        6 => {
            // A piece of it again, in place of another or between.
            let from = rng.below(bytes.len());
            let piece = bytes[from..bytes.len().min(from + 1 + rng.below(64))].to_vec();
            let end = bytes.len().min(at + rng.below(2) * piece.len());
            bytes.splice(at..end, piece);
        }
        _ => {
            let other = &seeds[rng.below(seeds.len())];
            let from = rng.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// A file of the right structure whose every number may be wrong.
fn random_file(rng: &mut Rng) -> Raw {
    // One number in 32 is replaced by an edge.
    let odd =
        |rng: &mut Rng, n: u64| if rng.below(32) == 0 { EDGES[rng.below(EDGES.len())] } else { n };
    let alignment = 1usize << rng.below(7);
    let version = odd(rng, 3) as u32;
    let key_value = odd(rng, alignment as u64) as u32;
    let mut raw = Raw { version, alignment, ..Raw::new() };
    raw = raw.kv(b"general.alignment", U32, &key_value.to_le_bytes());
    for i in 0..rng.below(6) {
        let kind = rng.next() % 13;
        let id = odd(rng, kind) as u32;
        let (key, n) = (format!("k{}", odd(rng, i as u64)), rng.below(5));
        let len = odd(rng, n as u64);
        let value = match id {
            STRING => common::string_of_len(len, &vec![b'x'; n]),
            ARRAY => {
                let kind = rng.next() % 13;
                let id = odd(rng, kind) as u32;
                array_of_len(id, len, &string(b"").repeat(n))
            }
            _ => vec![
                rng.below(2) as u8;
                [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8, 0][(id as usize).min(13)]
            ],
        };
        raw = raw.kv(key.as_bytes(), id, &value);
    }
    let mut offset = 0;
    for i in 0..rng.below(5) {
        let dtype = gguf::DType::ALL[rng.below(gguf::DType::ALL.len())];
        let mut dims = vec![(dtype.block_len() * rng.below(3)) as u64];
        dims[0] = odd(rng, dims[0]);
        for _ in 0..rng.below(4) {
            let n = rng.next() % 4;
            dims.push(odd(rng, n));
        }
        let n_dims = odd(rng, dims.len() as u64) as u32;
        let blocks = dims.iter().fold(1u64, |a, &n| a.wrapping_mul(n)) / dtype.block_len() as u64;
        let name = format!("t{}", odd(rng, i as u64));
        let id = odd(rng, dtype.id().into()) as u32;
        let at = odd(rng, offset);
        raw = raw.tensor_n_dims(name.as_bytes(), n_dims, &dims, id, at);
        let end = offset.wrapping_add(blocks.wrapping_mul(dtype.block_bytes() as u64));
        offset = end.checked_next_multiple_of(raw.alignment as u64).unwrap_or(0);
    }
    raw.n_kv = Some(odd(rng, raw.kvs.len() as u64));
    raw.n_tensors = Some(odd(rng, raw.infos.len() as u64));
    let data = odd(rng, offset).min(1 << 14) as usize;
    raw.data(data)
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(with) {
        *to = *from;
    }
}

/// Valid and nearly valid files, each with a name: what mutations and the fuzzer start from.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut all_values = Raw::new();
    for (id, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        all_values = all_values.kv(format!("scalar.{id}").as_bytes(), id, &vec![1; size]).kv(
            format!("array.{id}").as_bytes(),
            ARRAY,
            &array_of_len(id, 2, &vec![1; 2 * size]),
        );
    }
    all_values = all_values.kv(b"string", STRING, &string("text".as_bytes()));
    let mut all_types = Raw::new();
    let mut offset = 0;
    for dtype in gguf::DType::ALL {
        let len = dtype.block_len() as u64;
        all_types = all_types.tensor(dtype.name().as_bytes(), &[len], dtype.id(), offset);
        offset += (dtype.block_bytes() as u64).next_multiple_of(32);
    }
    let packed = Raw { alignment: 1, ..Raw::new() }
        .kv(b"general.alignment", U32, &1u32.to_le_bytes())
        .tensor(b"a", &[3], 30, 0)
        .tensor(b"b", &[0, 5], 0, 6)
        .tensor(b"c", &[1, 1, 1, 1], 0, 6)
        .data(10);
    let split = tiny()
        .kv(b"split.no", 2, &0u16.to_le_bytes())
        .kv(b"split.count", 2, &2u16.to_le_bytes())
        .kv(b"split.tensors.count", 5, &3i32.to_le_bytes());
    vec![
        ("tiny", tiny().bytes()),
        ("tiny_v2", Raw { version: 2, ..tiny() }.bytes()),
        ("v1", Raw { version: 1, ..tiny() }.bytes()),
        ("big_endian", Raw { version: 3u32.swap_bytes(), ..tiny() }.bytes()),
        ("empty", Raw::new().bytes()),
        ("all_values", all_values.bytes()),
        ("all_types", all_types.data(offset as usize).bytes()),
        ("packed", packed.bytes()),
        ("split", split.bytes()),
        ("duplicate_key", tiny().kv(b"a.bool", BOOL, &[0]).bytes()),
        (
            "nested",
            Raw::new().kv(b"k", ARRAY, &array_of_len(ARRAY, 1, &array_of_len(U8, 1, &[0]))).bytes(),
        ),
        ("huge_array", Raw::new().kv(b"k", ARRAY, &array_of_len(U64, 1 << 62, &[0; 8])).bytes()),
        ("bad_offset", Raw::new().tensor(b"a", &[4], 0, 16).data(64).bytes()),
        ("nan", Raw::new().kv(b"k", F32, &f32::NAN.to_le_bytes()).bytes()),
        (
            "pad_wrap",
            Raw::new().tensor(b"t", &[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0).data(64).bytes(),
        ),
        ("html", b"<!DOCTYPE html>".to_vec()),
    ]
}

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gguf_header")
}

#[test]
fn corpus_is_replayed() {
    let mut n = 0;
    for entry in fs::read_dir(corpus()).expect("fuzz/corpus/gguf_header is committed") {
        survives(&fs::read(entry.unwrap().path()).unwrap());
        n += 1;
    }
    assert!(
        n >= seeds().len(),
        "{n} files: run `cargo test -p karat-gguf --test sweep -- --ignored write_corpus`"
    );
    for (name, bytes) in seeds() {
        assert_eq!(
            fs::read(corpus().join(name)).unwrap(),
            bytes,
            "{name} is not what write_corpus writes"
        );
    }
}

/// Not a test: writes the seeds where the fuzzer finds them.
#[test]
#[ignore = "writes into the source tree: run it after a change to the seeds"]
fn write_corpus() {
    fs::create_dir_all(corpus()).unwrap();
    for (name, bytes) in seeds() {
        fs::write(corpus().join(name), bytes).unwrap();
    }
}
