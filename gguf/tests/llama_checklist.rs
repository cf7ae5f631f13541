//! The 34 files of llama.cpp's tests/test-gguf.cpp, by their names there, and its round trips.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod common;

use common::{ARRAY, I32, Raw, Rng, STRING, U32, array_of_len, string, string_of_len};
use gguf::{Array, DType, File, Strings, Value, Writer};

/// 100 keys of random types and values.
fn random_values(rng: &mut Rng) -> Vec<(String, Value)> {
    (0..100).map(|i| (format!("my.key.{i}"), random_value(rng))).collect()
}

fn random_value(rng: &mut Rng) -> Value {
    let n = rng.below(20);
    let text = |rng: &mut Rng| (0..rng.below(30)).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    match rng.below(24) {
        0 => Value::U8(rng.next() as u8),
        1 => Value::I8(rng.next() as i8),
        2 => Value::U16(rng.next() as u16),
        3 => Value::I16(rng.next() as i16),
        4 => Value::U32(rng.next() as u32),
        5 => Value::I32(rng.next() as i32),
        6 => Value::F32(rng.next() as f32 / 3.0),
        7 => Value::Bool(rng.next().is_multiple_of(2)),
        8 => Value::String(text(rng)),
        9 => Value::U64(rng.next()),
        10 => Value::I64(rng.next() as i64),
        11 => Value::F64(rng.next() as f64 / 3.0),
        12 => Value::Array(Array::U8((0..n).map(|_| rng.next() as u8).collect())),
        13 => Value::from((0..n).map(|_| rng.next() as i8).collect::<Vec<_>>()),
        14 => Value::from((0..n).map(|_| rng.next() as u16).collect::<Vec<_>>()),
        15 => Value::from((0..n).map(|_| rng.next() as i16).collect::<Vec<_>>()),
        16 => Value::from((0..n).map(|_| rng.next() as u32).collect::<Vec<_>>()),
        17 => Value::from((0..n).map(|_| rng.next() as i32).collect::<Vec<_>>()),
        18 => Value::from((0..n).map(|_| rng.next() as f32).collect::<Vec<_>>()),
        19 => Value::from((0..n).map(|_| rng.next().is_multiple_of(2)).collect::<Vec<_>>()),
        20 => Value::from((0..n).map(|_| text(rng)).collect::<Strings>()),
        21 => Value::from((0..n).map(|_| rng.next()).collect::<Vec<_>>()),
        22 => Value::from((0..n).map(|_| rng.next() as i64).collect::<Vec<_>>()),
        _ => Value::from((0..n).map(|_| rng.next() as f64).collect::<Vec<_>>()),
    }
}

/// A writer with 100 random tensors, and their data.
fn random_tensors(rng: &mut Rng, writer: &mut Writer) -> Vec<(String, DType, Vec<u64>, Vec<u8>)> {
    let mut tensors = Vec::new();
    for i in 0..100 {
        let dtype = DType::ALL[rng.below(DType::ALL.len())];
        let mut dims = vec![dtype.block_len() as u64 * (1 + rng.below(3)) as u64];
        dims.extend((0..rng.below(4)).map(|_| 1 + rng.below(3) as u64));
        let name = format!("my.tensor.{i}");
        writer.tensor(&name, dtype, &dims).unwrap();
        let blocks = dims.iter().product::<u64>() as usize / dtype.block_len();
        let data = (0..blocks * dtype.block_bytes()).map(|_| rng.next() as u8).collect();
        tensors.push((name, dtype, dims, data));
    }
    tensors
}

fn rejected(name: &str, raw: &Raw) {
    assert!(File::from_bytes(raw.bytes()).is_err(), "{name}");
}

fn accepted(raw: &Raw) -> File {
    File::from_bytes(raw.bytes()).unwrap()
}

#[test]
fn header_cases() {
    rejected("HEADER_BAD_MAGIC", &Raw { magic: *b"FUGG", ..Raw::new() });
    rejected("HEADER_BAD_VERSION_0", &Raw { version: 0, ..Raw::new() });
    rejected("HEADER_BAD_VERSION_1", &Raw { version: 1, ..Raw::new() });
    rejected("HEADER_BAD_VERSION_FUTURE", &Raw { version: 4, ..Raw::new() });
    rejected("HEADER_BAD_N_KV", &Raw { n_kv: Some(u64::MAX), ..Raw::new() });
    rejected("HEADER_BAD_N_TENSORS", &Raw { n_tensors: Some(u64::MAX), ..Raw::new() });
    let file = accepted(&Raw::new());
    assert_eq!(
        (file.version(), file.keys().len(), file.tensors().len()),
        (3, 0, 0),
        "HEADER_EMPTY"
    );
}

#[test]
fn kv_cases() {
    let mut bad_key_size = Raw::new();
    bad_key_size.kvs.push(string_of_len(u64::MAX, &[0; 64]));
    rejected("KV_BAD_KEY_SIZE", &bad_key_size);
    rejected("KV_EMPTY_KEY", &Raw::new().kv(b"", U32, &[0; 4]));
    rejected("KV_BAD_TYPE", &Raw::new().kv(b"k", 13, &[0; 8]));
    rejected("KV_BAD_TYPE array", &Raw::new().kv(b"k", ARRAY, &array_of_len(13, 1, &[0; 8])));
    rejected("KV_DUPLICATE_KEY", &Raw::new().kv(b"k", U32, &[0; 4]).kv(b"k", U32, &[0; 4]));
    let alignment = |id, value: &[u8]| Raw::new().kv(b"general.alignment", id, value);
    rejected("KV_BAD_ALIGN", &alignment(U32, &13u32.to_le_bytes()));
    rejected("KV_WRONG_TYPE_ALIGN", &alignment(I32, &32i32.to_le_bytes()));
    for len in [u64::MAX, 1 << 41] {
        rejected("KV_BAD_VALUE_SIZE", &Raw::new().kv(b"k", STRING, &string_of_len(len, b"abc")));
        rejected(
            "KV_BAD_VALUE_SIZE array",
            &Raw::new().kv(b"k", ARRAY, &array_of_len(U32, len, &[0; 8])),
        );
    }
}

#[test]
fn kv_success() {
    let mut rng = Rng(14);
    let values = random_values(&mut rng);
    let mut writer = Writer::new();
    for (key, value) in &values {
        writer.set(key, value.clone()).unwrap();
    }
    let file = File::from_bytes(writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    assert_eq!(file.alignment(), 32);
    let read: Vec<_> = file.keys().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    assert_eq!(read, values);
}

#[test]
fn tensor_cases() {
    let tensor = |dims: &[u64], id, offset| Raw::new().tensor(b"t", dims, id, offset).data(4096);
    rejected("TENSORS_BAD_NAME_SIZE", &Raw::new().tensor(&[b'n'; 64], &[1], 0, 0).data(64));
    rejected("TENSORS_BAD_N_DIMS", &Raw::new().tensor(b"t", &[1; 5], 0, 0).data(64));
    rejected("TENSORS_BAD_SHAPE", &tensor(&[u64::MAX; 4], 0, 0));
    let file = accepted(&Raw::new().tensor(b"t", &[7, 0], 0, 0));
    assert_eq!(file.tensors()[0].n_bytes, 0, "TENSORS_ZERO_DIM");
    let too_big = 4 * i32::MAX as u64;
    rejected("TENSORS_NE_TOO_BIG", &tensor(&[too_big, too_big], 0, 0));
    // I64 there, which karat does not read: F32 with twice the elements.
    let root = (1.01 * ((u64::MAX / 4) as f64).sqrt()) as u64;
    rejected("TENSORS_NBYTES_TOO_BIG", &tensor(&[root, root], 0, 0));
    rejected("TENSORS_NBYTES_TOO_BIG I64", &tensor(&[root, root], 27, 0));
    rejected("TENSORS_NBYTES_PAD_WRAP", &tensor(&[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0));
    rejected("TENSORS_BAD_TYPE", &tensor(&[256], 43, 0));
    rejected("TENSORS_BAD_OFFSET", &tensor(&[1], 0, u64::MAX));
    rejected("TENSORS_DUPLICATE_NAME", &tensor(&[1], 0, 0).tensor(b"t", &[1], 0, 32));
    let aligned = |alignment: u32, packed: u64, padded: usize| {
        Raw { alignment: padded, ..Raw::new() }
            .kv(b"general.alignment", U32, &alignment.to_le_bytes())
            .tensor(b"a", &[1], 0, 0)
            .tensor(b"b", &[1], 0, packed)
            .data(packed as usize + 4)
    };
    rejected("TENSORS_BAD_ALIGN, DATA_BAD_ALIGN", &aligned(13, 13, 13));
    rejected("TENSORS_INCONSISTENT_ALIGN, DATA_INCONSISTENT_ALIGN", &aligned(32, 4, 1));
    let file = accepted(&aligned(1, 4, 1));
    assert_eq!(
        *file.data(&file.tensors()[1]).unwrap(),
        [4, 5, 6, 7],
        "TENSORS_CUSTOM_ALIGN, DATA_CUSTOM_ALIGN"
    );
    let mut short = aligned(32, 32, 32);
    short.data.pop();
    rejected("DATA_NOT_ENOUGH_DATA", &short);
    let half = [(1u64 << 61) - 16];
    let two = Raw::new().tensor(b"a", &half, 0, 0).tensor(b"b", &half, 0, (1 << 63) - 64).data(32);
    rejected("DATA_MEM_SIZE_OVERFLOW", &two);
}

#[test]
fn tensors_and_data_success() {
    for alignment in [1u32, 32, 4096] {
        let mut rng = Rng(27);
        let mut writer = Writer::new();
        writer.set("general.alignment", alignment).unwrap();
        let tensors = random_tensors(&mut rng, &mut writer);
        let mut out = writer.start(Vec::new()).unwrap();
        for (name, _, _, data) in &tensors {
            assert_eq!(out.next_tensor(), Some(name.as_str()));
            // In two pieces.
            let (a, b) = data.split_at(rng.below(data.len()));
            out.write(a).unwrap();
            out.write(b).unwrap();
        }
        let bytes = out.finish().unwrap();
        let file = File::from_bytes(bytes.clone()).unwrap();
        assert_eq!(file.tensors().len(), 100);
        assert!(file.warnings().is_empty());
        for (tensor, (name, dtype, dims, data)) in file.tensors().iter().zip(&tensors) {
            assert_eq!((&tensor.name, tensor.dtype, &tensor.dims), (name, *dtype, dims));
            assert_eq!(*file.data(tensor).unwrap(), data[..]);
            assert_eq!(tensor.offset % u64::from(alignment), 0);
        }
        assert_eq!(rewritten(&file), bytes, "a file written from what was read is the same");
    }
}

/// The file again, through the writer.
fn rewritten(file: &File) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in file.keys() {
        writer.set(key, value.clone()).unwrap();
    }
    for tensor in file.tensors() {
        writer.tensor(&tensor.name, tensor.dtype, &tensor.dims).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for tensor in file.tensors() {
        out.write(&file.data(tensor).unwrap()).unwrap();
    }
    out.finish().unwrap()
}

#[test]
fn setting_a_key_again_replaces_it() {
    let mut writer = Writer::new();
    writer.set("a", 1u32).unwrap().set("b", "x").unwrap().set("a", vec![1.5f32]).unwrap();
    let file = File::from_bytes(writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    let read: Vec<_> = file.keys().collect();
    assert_eq!(read, [("a", &Value::from(vec![1.5f32])), ("b", &Value::from("x"))]);
}

#[test]
fn the_writer_refuses_misuse() {
    let mut writer = Writer::new();
    assert!(writer.set("", 1u32).is_err());
    assert!(writer.set("a\0", 1u32).is_err());
    assert!(writer.set("general.alignment", 13u32).is_err());
    assert!(writer.set("general.alignment", 32u64).is_err());
    assert!(writer.tensor("", DType::F32, &[1]).is_err());
    assert!(writer.tensor(&"n".repeat(64), DType::F32, &[1]).is_err());
    assert!(writer.tensor("t", DType::F32, &[1; 5]).is_err());
    assert!(writer.tensor("t", DType::Q4_0, &[33]).is_err());
    assert!(writer.tensor("t", DType::F32, &[1 << 61]).is_err());
    writer.tensor("empty", DType::F32, &[0]).unwrap().tensor("t", DType::F32, &[2]).unwrap();
    assert!(writer.tensor("t", DType::F32, &[1]).is_err(), "twice");
    assert!(writer.set("general.alignment", 64u32).is_err(), "after a tensor");
    let mut out = writer.start(Vec::new()).unwrap();
    assert_eq!(out.next_tensor(), Some("t"), "the empty one needs no data");
    assert!(out.write(&[0; 9]).is_err(), "too much");
    out.write(&[0; 4]).unwrap();
    assert!(writer.start(Vec::new()).unwrap().finish().is_err(), "nothing written");
    out.write(&[0; 4]).unwrap();
    assert!(out.write(&[0]).is_err(), "after the last");
    assert!(File::from_bytes(out.finish().unwrap()).is_ok());
    let wrong = gguf::Builder::new().f32("t", &[3], &[1.0, 2.0]).build();
    assert!(wrong.unwrap_err().to_string().contains("8 of 12 bytes"));
    let bytes = gguf::Builder::new()
        .kv("k", string(b"x").len() as u32)
        .f32("t", &[2], &[1.0, 2.0])
        .build()
        .unwrap();
    assert_eq!(File::from_bytes(bytes).unwrap().tensors()[0].n_bytes, 8);
}

#[test]
fn values_across_the_reader_s_buffer() {
    // Lists longer than its 64 KiB, at every distance of a value from its end.
    for shift in 0..16 {
        let mut writer = Writer::new();
        writer.set("shift", "x".repeat(shift)).unwrap();
        writer
            .set("u64", (0..20_000u64).map(|i| i * 0x0123_4567_89ab).collect::<Vec<_>>())
            .unwrap();
        writer.set("i16", (0..70_000).map(|i| i as i16).collect::<Vec<_>>()).unwrap();
        writer.set("strings", (0..30_000).map(|i| format!("{i:x}")).collect::<Strings>()).unwrap();
        writer
            .set(
                "text",
                (0..70_000u32).map(|i| char::from(b'a' + (i % 26) as u8)).collect::<String>(),
            )
            .unwrap();
        for i in 0..3000 {
            writer.tensor(&format!("t{i}"), DType::F32, &[0, i]).unwrap();
        }
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path, gguf::Access::Pread).unwrap();
        assert_eq!(rewritten(&file), bytes);
    }
}
