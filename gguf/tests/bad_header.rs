//! Rows 1 to 28 and 33 of the reliability table that need no disk: header, metadata and tensor infos that must be
//! refused, and what must be accepted beside them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

mod common;

use common::{
    ARRAY, BOOL, F32, I32, Raw, STRING, U8, U32, U64, array_of_len, refused, string, string_of_len,
    tiny,
};
use gguf::{Access, DType, ErrorKind, File, Limits, Options, Value};

use ErrorKind::{BadKey, Limit, Malformed, NotGguf, Truncated, Unsupported};

/// Counts that no file can hold.
const HUGE: [u64; 3] = [u64::MAX, 1 << 63, 1 << 32];

#[test]
fn tiny_is_accepted() {
    let file = File::from_bytes(tiny().bytes()).unwrap();
    assert_eq!(
        (file.version(), file.alignment(), file.keys().len(), file.tensors().len()),
        (3, 32, 7, 3)
    );
    assert!(file.warnings().is_empty(), "{:?}", file.warnings());
    let q = file.tensor("q").unwrap();
    assert_eq!((q.dtype, &q.dims[..], q.n_bytes), (DType::Q4_0, &[32, 2][..], 36));
    let expect: Vec<u8> = (32..68).collect();
    assert_eq!(&*file.data(q).unwrap(), expect);
    assert_eq!(file.tensor("one").unwrap().n_elements(), 1);
    assert_eq!(file.tensor("Q"), None);
    let v2 = Raw { version: 2, ..tiny() };
    assert_eq!(File::from_bytes(v2.bytes()).unwrap().version(), 2);
}

#[test]
fn row_01_empty_file() {
    refused("empty", vec![], NotGguf, &["not a GGUF file: file is empty"]);
}

#[test]
fn row_02_magic_only() {
    refused("magic", b"GGUF".to_vec(), Truncated, &["header truncated: need 24 bytes, file has 4"]);
    refused("GG", b"GG".to_vec(), Truncated, &["header truncated: need 24 bytes, file has 2"]);
    refused(
        "23",
        tiny().bytes()[..23].to_vec(),
        Truncated,
        &["header truncated: need 24 bytes, file has 23"],
    );
}

#[test]
fn row_05_n_kv_huge() {
    for n in HUGE {
        let raw = Raw { n_kv: Some(n), ..tiny() };
        refused(
            &n.to_string(),
            raw.bytes(),
            Malformed,
            &[&format!("n_kv {n} cannot fit in "), "remaining bytes"],
        );
    }
    let mut raw = tiny();
    let left = raw.bytes().len() as u64 - 24;
    raw.n_kv = Some(left / 13 + 1);
    refused(
        "left/13+1",
        raw.bytes(),
        Malformed,
        &["n_kv", &format!("cannot fit in {left} remaining bytes")],
    );
    let limits = Limits { n_kv: 6, ..Limits::default() };
    let error = open_limited(tiny().bytes(), limits).unwrap_err();
    common::check_error("limit", &error, Limit, &["n_kv is 7, limit 6"]);
    assert!(open_limited(tiny().bytes(), Limits { n_kv: 7, ..Limits::default() }).is_ok());
}

#[test]
fn row_06_n_tensors_huge() {
    for n in HUGE {
        let raw = Raw { n_tensors: Some(n), ..tiny() };
        refused(
            &n.to_string(),
            raw.bytes(),
            Malformed,
            &[&format!("n_tensors {n} cannot fit in "), "remaining bytes"],
        );
    }
    let mut raw = tiny();
    let left = raw.bytes().len() as u64 - 24;
    raw.n_tensors = Some(left / 13 + 1);
    refused("left/13+1", raw.bytes(), Malformed, &["n_tensors", "cannot fit in"]);
    let error =
        open_limited(tiny().bytes(), Limits { n_tensors: 2, ..Limits::default() }).unwrap_err();
    common::check_error("limit", &error, Limit, &["n_tensors is 3, limit 2"]);
    assert!(open_limited(tiny().bytes(), Limits { n_tensors: 3, ..Limits::default() }).is_ok());
}

#[test]
fn row_07_keys() {
    let twice = tiny().kv(b"a.bool", BOOL, &[0]);
    refused("twice", twice.bytes(), Malformed, &["key \"a.bool\": duplicate key: entries 3 and 7"]);
    let key = |key: &[u8]| Raw::new().kv(b"ok", BOOL, &[0]).kv(key, BOOL, &[0]).bytes();
    refused("empty", key(b""), Malformed, &["key 1: empty key", "metadata, offset"]);
    refused("utf-8", key(b"a\xffb"), Malformed, &["key 1: key \"a\u{fffd}b\" is not UTF-8"]);
    refused("NUL", key(b"a\0b"), Malformed, &["key 1: NUL in key \"a\\u{0}b\""]);
    // A newline or an escape in a key is odd and harmless; it is escaped in messages.
    let file = File::from_bytes(key(b"a\nb\x1b[1m")).unwrap();
    let error = file.u32("a\nb\x1b[1m").unwrap_err();
    common::check_error(
        "escape",
        &error,
        BadKey,
        &["key \"a\\nb\\u{1b}[1m\": found bool, wanted u32"],
    );
}

#[test]
fn row_08_key_length() {
    // 13 bytes follow the length: a pair takes no less.
    for len in [u64::MAX, 1 << 63, 1 << 32, 14] {
        let mut raw = Raw::new();
        raw.kvs.push(string_of_len(len, &[b'k'; 13]));
        let piece = format!(
            "key 0: metadata truncated: key needs {len} bytes, file has 13 left (metadata, offset 32)"
        );
        refused(&len.to_string(), raw.bytes(), Truncated, &[&piece]);
    }
}

#[test]
fn row_09_string_length() {
    for len in [u64::MAX, 1 << 63, 1 << 32, 4] {
        let raw = Raw::new().kv(b"k", STRING, &string_of_len(len, b"abc"));
        let pieces = [&format!(
            "key \"k\": metadata truncated: string value needs {len} bytes, file has 3 left"
        )[..]];
        refused(&len.to_string(), raw.bytes(), Truncated, &pieces);
    }
    let long = |n: usize| Raw::new().kv(b"k", STRING, &string(&vec![b'x'; n])).bytes();
    let limits = || Limits { string_bytes: 1000, ..Limits::default() };
    assert!(open_limited(long(1000), limits()).is_ok());
    let error = open_limited(long(1001), limits()).unwrap_err();
    common::check_error(
        "limit",
        &error,
        Limit,
        &["key \"k\": string value of 1001 bytes, limit 1000"],
    );
    let list = |n: usize| {
        let strings = [string(b"x"), string(&vec![b'x'; n])].concat();
        Raw::new().kv(b"k", ARRAY, &array_of_len(STRING, 2, &strings)).bytes()
    };
    assert!(open_limited(list(1000), limits()).is_ok());
    let error = open_limited(list(1001), limits()).unwrap_err();
    let piece = "key \"k\": string of the array of 1001 bytes, limit 1000";
    common::check_error("limit", &error, Limit, &[piece]);
    assert_eq!(Limits::default().string_bytes, 64 << 20);
}

#[test]
fn row_10_text_that_is_not_utf_8() {
    let raw = Raw::new().kv(b"name", STRING, &string(b"a\xffb\0c")).kv(
        b"tokens",
        ARRAY,
        &array_of_len(STRING, 2, &[string(b"\xe2\x82"), string(b"\0")].concat()),
    );
    let file = File::from_bytes(raw.bytes()).unwrap();
    assert_eq!(file.str("name").unwrap().unwrap(), "a\u{fffd}b\0c");
    assert_eq!(file.bytes("name").unwrap().unwrap(), b"a\xffb\0c");
    let tokens = file.required_strings("tokens").unwrap();
    assert_eq!((&tokens[0], &tokens[1]), (&b"\xe2\x82"[..], &b"\0"[..]));
    assert_eq!(
        file.warnings(),
        ["key \"name\": not UTF-8, shown with U+FFFD in place of what is wrong"]
    );
    let name = Raw::new().tensor(b"a\xff", &[1], 0, 0).data(4);
    refused("tensor name", name.bytes(), Malformed, &["tensor 0: name \"a\u{fffd}\" is not UTF-8"]);
    let name = Raw::new().tensor(b"a\0", &[1], 0, 0).data(4);
    refused("tensor name", name.bytes(), Malformed, &["tensor 0: NUL in name \"a\\u{0}\""]);
}

#[test]
fn row_11_array_length() {
    let sizes = [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 4),
        (5, 4),
        (6, 4),
        (7, 1),
        (8, 8),
        (10, 8),
        (11, 8),
        (12, 8),
    ];
    for (element, size) in sizes {
        let left = 64u64;
        for len in [u64::MAX, 1 << 62, 1 << 27, left / size + 1] {
            let raw = Raw::new().kv(b"k", ARRAY, &array_of_len(element, len, &[0; 64]));
            refused(
                &format!("{element} x {len}"),
                raw.bytes(),
                Truncated,
                &["key \"k\": metadata truncated: array of"],
            );
        }
        let raw = Raw::new().kv(b"k", ARRAY, &array_of_len(element, left / size, &[0; 64]));
        let file = File::from_bytes(raw.bytes()).unwrap();
        assert_eq!(file.get("k").unwrap().as_array().unwrap().len() as u64, left / size);
    }
    let raw =
        |n: u64| Raw::new().kv(b"k", ARRAY, &array_of_len(U8, n, &vec![0; n as usize])).bytes();
    let limits = || Limits { array_len: 100, ..Limits::default() };
    assert!(open_limited(raw(100), limits()).is_ok());
    let error = open_limited(raw(101), limits()).unwrap_err();
    common::check_error("limit", &error, Limit, &["key \"k\": array of 101 elements, limit 100"]);
    assert_eq!(Limits::default().array_len, 1 << 26);
}

#[test]
fn row_12_arrays_of_arrays() {
    for depth in [1, 65, 100_000] {
        let mut value = array_of_len(U8, 1, &[0]);
        for _ in 0..depth {
            value = {
                // Outermost last; built flat, so that the test itself does not take quadratic time.
                let mut outer = Vec::with_capacity(value.len() + 12);
                outer.extend(ARRAY.to_le_bytes());
                outer.extend(1u64.to_le_bytes());
                if depth == 100_000 {
                    let mut all = outer.repeat(depth);
                    all.extend(&value);
                    value = all;
                    break;
                }
                outer.extend(&value);
                outer
            };
        }
        let raw = Raw::new().kv(b"k", ARRAY, &value);
        refused(
            &depth.to_string(),
            raw.bytes(),
            Malformed,
            &["key \"k\": array of arrays, allowed nesting 1"],
        );
    }
}

#[test]
fn row_13_value_types() {
    for id in [13, u32::MAX, 1 << 31] {
        let raw = Raw::new().kv(b"k", id, &[0; 64]);
        refused(
            "scalar",
            raw.bytes(),
            Malformed,
            &[&format!("key \"k\": value type {id}, allowed 0..=12")],
        );
        let raw = Raw::new().kv(b"k", ARRAY, &array_of_len(id, 1, &[0; 64]));
        refused(
            "element",
            raw.bytes(),
            Malformed,
            &[&format!("key \"k\": array element type {id}, allowed")],
        );
    }
}

#[test]
fn row_14_bad_alignment() {
    for n in [0u32, 3, 13, 1 << 21, 1 << 31, u32::MAX] {
        let raw = tiny().kv(b"general.alignment", U32, &n.to_le_bytes());
        let pieces = [&format!(
            "key \"general.alignment\": found {n}, allowed a power of two in 1..=1048576"
        )[..]];
        refused(&n.to_string(), raw.bytes(), Malformed, &pieces);
    }
    let limits = || Limits { alignment: 16, ..Limits::default() };
    let aligned = |n: u32| Raw::new().kv(b"general.alignment", U32, &n.to_le_bytes()).bytes();
    assert!(open_limited(aligned(16), limits()).is_ok());
    let error = open_limited(aligned(32), limits()).unwrap_err();
    common::check_error(
        "limit",
        &error,
        Malformed,
        &["found 32, allowed a power of two in 1..=16"],
    );
    let typed = |id, value: &[u8]| tiny().kv(b"general.alignment", id, value).bytes();
    refused("i32", typed(I32, &32i32.to_le_bytes()), Malformed, &["found i32, wanted u32"]);
    refused("u64", typed(U64, &32u64.to_le_bytes()), Malformed, &["found u64, wanted u32"]);
    refused("string", typed(STRING, &string(b"32")), Malformed, &["found string, wanted u32"]);
}

#[test]
fn row_15_smallest_and_largest_alignment() {
    for alignment in [1u64, 1 << 20] {
        let raw = Raw { alignment: alignment as usize, ..Raw::new() }
            .kv(b"general.alignment", U32, &(alignment as u32).to_le_bytes())
            .tensor(b"a", &[3], 30, 0)
            .tensor(b"b", &[1], 0, 6u64.next_multiple_of(alignment))
            .data(6usize.next_multiple_of(alignment as usize) + 4);
        let bytes = raw.bytes();
        let file = File::from_bytes(bytes.clone()).unwrap();
        assert_eq!(file.alignment(), alignment);
        let b = file.tensor("b").unwrap();
        assert_eq!(&*file.data(b).unwrap(), &bytes[bytes.len() - 4..]);
    }
}

#[test]
fn row_16_tensor_names() {
    let named = |name: &[u8]| {
        Raw::new().tensor(b"x", &[1], 0, 0).tensor(name, &[1], 0, 32).data(36).bytes()
    };
    assert!(File::from_bytes(named(&[b'n'; 63])).is_ok());
    for len in [0, 64, 256, 1 << 20] {
        let pieces = [&format!("tensor 1: name of {len} bytes, allowed 1..=63")[..]];
        refused(&len.to_string(), named(&vec![b'n'; len]), Malformed, &pieces);
    }
    refused("twice", named(b"x"), Malformed, &["tensor \"x\": duplicate name: tensors 0 and 1"]);
    let limits = Limits { tensor_name_bytes: 64, ..Limits::default() };
    assert!(open_limited(named(&[b'n'; 64]), limits).is_ok());
}

#[test]
fn row_17_dimensions() {
    let file = File::from_bytes(Raw::new().tensor(b"t", &[3, 0], 0, 0).bytes()).unwrap();
    assert_eq!((file.tensors()[0].n_bytes, file.tensors()[0].n_elements()), (0, 0));
    assert_eq!(&*file.data(&file.tensors()[0]).unwrap(), b"");
    let file = File::from_bytes(Raw::new().tensor(b"t", &[], 0, 0).data(4).bytes()).unwrap();
    assert_eq!(file.tensors()[0].n_elements(), 1);
    for n in [5, u32::MAX] {
        let raw = Raw::new().tensor_n_dims(b"t", n, &[1; 5], 0, 0).data(64);
        refused(
            "n_dims",
            raw.bytes(),
            Malformed,
            &[&format!("tensor \"t\": {n} dimensions, allowed 0..=4")],
        );
    }
    for n in [u64::MAX, 1 << 63] {
        let raw = Raw::new().tensor(b"t", &[1, n], 0, 0).data(64);
        refused(
            "dim",
            raw.bytes(),
            Malformed,
            &[&format!("tensor \"t\": dimension 1 is {n}, allowed 0..=")],
        );
    }
    let raw = Raw::new().tensor(b"t", &[i64::MAX as u64], 0, 0).data(64);
    refused(
        "2^63-1",
        raw.bytes(),
        Malformed,
        &["tensor \"t\": shape [9223372036854775807] of F32 has over"],
    );
}

#[test]
fn row_18_tensor_types() {
    for id in [4u32, 5, 31, 32, 33, 36, 37, 38, 43, 1000, u32::MAX] {
        let raw = Raw::new().tensor(b"blk.0.x", &[256], id, 0).data(4096);
        let id = format!("({id})");
        let error = File::from_bytes(raw.bytes()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), Unsupported, "{text}");
        assert!(text.contains("\"blk.0.x\"") && text.contains("supported: F32 F16 "), "{text}");
        assert!(text.contains(&id) || text.contains(&id[1..id.len() - 1]), "{text}");
    }
    let raw = Raw::new().tensor(b"blk.0.x", &[256], 15, 0).data(4096);
    let pieces = ["tensor \"blk.0.x\": unsupported tensor type Q8_K (15); supported: F32 F16"];
    refused("Q8_K", raw.bytes(), Unsupported, &pieces);
}

#[test]
fn row_19_element_product_overflows() {
    for dims in [
        &[1u64 << 32, 1 << 32][..],
        &[1 << 22, 1 << 22, 1 << 22],
        &[1 << 16; 4],
        &[1 << 62, 1 << 62, 1, 0],
    ] {
        let raw = Raw::new().tensor(b"t", dims, 0, 0).data(64);
        refused(
            "overflow",
            raw.bytes(),
            Malformed,
            &[&format!("tensor \"t\": shape {dims:?} has over")],
        );
    }
}

#[test]
fn row_20_row_is_no_multiple_of_the_block() {
    let raw = Raw::new().tensor(b"t", &[33, 2], 2, 0).data(64);
    refused(
        "Q4_0",
        raw.bytes(),
        Malformed,
        &["tensor \"t\": row length 33", "not a multiple of Q4_0's block of 32"],
    );
    let raw = Raw::new().tensor(b"t", &[], 2, 0).data(64);
    refused("scalar", raw.bytes(), Malformed, &["row length 1", "block of 32"]);
    let raw = Raw::new().tensor(b"t", &[128], 12, 0).data(144);
    refused("Q4_K", raw.bytes(), Malformed, &["not a multiple of Q4_K's block of 256"]);
}

#[test]
fn row_21_bytes_over_isize_max() {
    // 2^61 elements fit, their 2^63 bytes do not.
    let raw = Raw::new().tensor(b"t", &[1 << 31, 1 << 30], 0, 0).data(64);
    refused(
        "2^63",
        raw.bytes(),
        Malformed,
        &["tensor \"t\"", "of F32 has over 9223372036854775807 bytes"],
    );
}

#[test]
fn row_22_sums_and_padding_overflow() {
    // llama.cpp's TENSORS_NBYTES_PAD_WRAP: 2^64 - 16 bytes, padded to 0.
    let raw = Raw::new().tensor(b"t", &[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0).data(64);
    refused("pad wraps", raw.bytes(), Malformed, &["tensor \"t\"", "bytes"]);
    // llama.cpp's DATA_MEM_SIZE_OVERFLOW: two of 0x7fff_ffff_ffff_ffc0 bytes.
    let (dims, size) = ([(1u64 << 61) - 16], (1u64 << 63) - 64);
    let raw = Raw::new().tensor(b"a", &dims, 0, 0).tensor(b"b", &dims, 0, size).data(64);
    refused("sum", raw.bytes(), Malformed, &["sizes of the tensors add up to over 2^63"]);
    let raw =
        Raw::new().tensor(b"a", &[1 << 60], 0, 0).tensor(b"b", &[1 << 60], 0, 1 << 62).data(64);
    refused(
        "b",
        raw.bytes(),
        Malformed,
        &["tensor \"b\": sizes of the tensors add up to over 2^63"],
    );
    // Two halves that fit alone and whose padded sum does not.
    let raw =
        Raw::new().tensor(b"a", &[(1 << 61) - 1], 0, 0).tensor(b"b", &[1], 0, 1 << 63).data(64);
    refused("pad", raw.bytes(), Malformed, &["add up to over 2^63"]);
}

#[test]
fn row_23_metadata_and_data_overflow() {
    // As large as a tensor can be: with the header before it the file would end beyond 2^63.
    let raw = Raw::new().tensor(b"a", &[(1 << 61) - 8], 0, 0).data(64);
    refused(
        "one",
        raw.bytes(),
        Malformed,
        &["tensor \"a\": sizes of the tensors add up to over 2^63"],
    );
    // As many tensors as the table could never hold.
    let raw =
        Raw { n_tensors: Some(u64::MAX / 400), ..Raw::new() }.tensor(b"a", &[1], 0, 0).data(64);
    refused("many", raw.bytes(), Malformed, &["n_tensors", "cannot fit"]);
}

#[test]
fn row_24_data_truncated() {
    let whole = tiny().bytes();
    let len = whole.len();
    let start = len - 100;
    let pieces = [
        &format!(
            "truncated: tensor \"one\" needs bytes {}..{len}, file ends at {}",
            start + 96,
            len - 1
        ),
        "(download incomplete? 99 %)",
    ];
    refused("1 byte", whole[..len - 1].to_vec(), Truncated, &pieces);
    let pieces = [&format!(
        "truncated: tensor \"q\" needs bytes {}..{}, file ends at {}",
        start + 32,
        start + 68,
        start + 50
    )];
    refused("in q", whole[..start + 50].to_vec(), Truncated, &[pieces[0], "download incomplete?"]);
}

#[test]
fn row_25_offsets_are_the_running_sum() {
    let offsets =
        |a, b| Raw::new().tensor(b"a", &[4], 0, a).tensor(b"b", &[4], 0, b).data(4096).bytes();
    assert!(File::from_bytes(offsets(0, 32)).is_ok());
    for (a, b, at) in
        [(0, 16, "b"), (0, 0, "b"), (32, 0, "a"), (0, 64, "b"), (16, 32, "a"), (0, 33, "b")]
    {
        let piece = format!(
            "tensor \"{at}\": offset {} in the data section, expected",
            if at == "a" { a } else { b }
        );
        refused(&format!("{a} {b}"), offsets(a, b), Malformed, &[&piece]);
    }
}

#[test]
fn row_26_offset_near_2_64() {
    for offset in [u64::MAX, u64::MAX - 31, 1 << 63] {
        let raw = Raw::new().tensor(b"a", &[4], 0, offset).data(64);
        refused("offset", raw.bytes(), Malformed, &[&format!("tensor \"a\": offset {offset}")]);
        let raw = Raw::new().tensor(b"a", &[0], 0, offset).data(64);
        refused(
            "empty tensor",
            raw.bytes(),
            Malformed,
            &[&format!("tensor \"a\": offset {offset}")],
        );
    }
}

#[test]
fn row_27_versions() {
    let version = |version| Raw { version, ..tiny() }.bytes();
    refused("0", version(0), Malformed, &["GGUF version 0 does not exist"]);
    refused("1", version(1), Unsupported, &["GGUF v1 is no longer supported"]);
    refused("4", version(4), Unsupported, &["version 4 is newer than 3"]);
    refused(
        "big-endian",
        version(3u32.swap_bytes()),
        Unsupported,
        &["big-endian GGUF file (its version 3 "],
    );
    // A v1 header is shorter than one of today.
    refused("short v1", version(1)[..16].to_vec(), Unsupported, &["GGUF v1"]);
}

#[test]
fn row_28_other_formats() {
    let mut safetensors = 17u64.to_le_bytes().to_vec();
    safetensors.extend(b"{\"a\":{}}");
    let cases: [(&[u8], &str); 12] = [
        (&safetensors, "a safetensors file"),
        (b"PK\x03\x04rest", "a zip archive or PyTorch checkpoint"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a git-lfs pointer"),
        (b"\x1f\x8b\x08\0", "gzip-compressed data"),
        (b"tjgg\x03\0\0\0", "a GGML file of before GGUF"),
        (b"lmgg\x03\0\0\0", "a GGML file of before GGUF"),
        (b"FUGG\0\0\0\x03", "bytes swapped"),
        (b"{\"error\":1}", "JSON text"),
        (b"\x80\x02}", "a Python pickle"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    ];
    for (bytes, looks) in cases {
        refused(
            looks,
            bytes.to_vec(),
            NotGguf,
            &["not a GGUF file: it looks like", looks, "; hint: "],
        );
    }
    refused(
        "unknown",
        b"ab\x1b\0cd".to_vec(),
        NotGguf,
        &["not a GGUF file: it begins with \"ab..\" (61 62 1b 00)"],
    );
}

#[test]
fn row_33_bools_and_floats() {
    for byte in [2, 255] {
        refused(
            "bool",
            Raw::new().kv(b"k", BOOL, &[byte]).bytes(),
            Malformed,
            &[&format!("key \"k\": bool is {byte}")],
        );
        let raw = Raw::new().kv(b"k", ARRAY, &array_of_len(BOOL, 3, &[0, 1, byte]));
        refused(
            "bools",
            raw.bytes(),
            Malformed,
            &[&format!("key \"k\": bool 2 of the array is {byte}")],
        );
    }
    for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let file = File::from_bytes(Raw::new().kv(b"rope", F32, &v.to_le_bytes()).bytes()).unwrap();
        let error = file.f32("rope").unwrap_err();
        common::check_error(
            "f32",
            &error,
            BadKey,
            &["key \"rope\": found", "allowed a finite number"],
        );
    }
    let file =
        File::from_bytes(Raw::new().kv(b"rope", 12, &1e39f64.to_le_bytes()).bytes()).unwrap();
    common::check_error("f64", &file.f32("rope").unwrap_err(), BadKey, &["found inf"]);
}

#[test]
fn rows_39_and_40_getters_name_key_found_and_wanted() {
    let file = File::from_bytes(tiny().bytes()).unwrap();
    let check =
        |error: gguf::Error, kind, piece| common::check_error(piece, &error, kind, &[piece]);
    check(
        file.required_u32("llama.x").unwrap_err(),
        ErrorKind::MissingKey,
        "missing key \"llama.x\"",
    );
    check(file.u32("general.architecture").unwrap_err(), BadKey, "found string, wanted u32");
    check(file.str("llama.block_count").unwrap_err(), BadKey, "found u32, wanted string");
    check(file.strings("a.list").unwrap_err(), BadKey, "found array of u8, wanted array of string");
    check(file.u32("a.list").unwrap_err(), BadKey, "found array of u8, wanted u32");
    check(file.bool("a.u64").unwrap_err(), BadKey, "found u64, wanted bool");
    check(file.f32("a.u64").unwrap_err(), BadKey, "found u64, wanted f32");
    check(file.i32s("tokens").unwrap_err(), BadKey, "found array of string, wanted array of i32");
    assert_eq!(file.required_u32("a.u64").unwrap(), 7, "any integer type in range");
    assert_eq!(&*file.i32s("a.list").unwrap().unwrap(), [1, 2, 3]);
    assert_eq!(file.u32("no such key").unwrap(), None);
    let raw = Raw::new()
        .kv(b"big", U64, &(1u64 << 32).to_le_bytes())
        .kv(b"neg", I32, &(-1i32).to_le_bytes())
        .kv(b"list", ARRAY, &array_of_len(U32, 2, &[[0; 4], [255; 4]].concat()));
    let file = File::from_bytes(raw.bytes()).unwrap();
    check(file.u32("big").unwrap_err(), BadKey, "found 4294967296, allowed 0..=4294967295");
    check(file.u64("neg").unwrap_err(), BadKey, "found -1, allowed 0..=18446744073709551615");
    check(
        file.i32s("list").unwrap_err(),
        BadKey,
        "element 1 is 4294967295, out of range for array of i32",
    );
    assert_eq!(file.i64("neg").unwrap(), Some(-1));
}

#[test]
fn metadata_over_its_limit() {
    let bytes = Raw::new().kv(b"k", STRING, &string(&[b'x'; 5000])).bytes();
    let size = bytes.len() as u64;
    assert!(
        open_limited(bytes.clone(), Limits { metadata_bytes: size, ..Limits::default() }).is_ok()
    );
    let error =
        open_limited(bytes, Limits { metadata_bytes: size - 1, ..Limits::default() }).unwrap_err();
    common::check_error(
        "limit",
        &error,
        Limit,
        &["key \"k\"", "needs 5000 bytes", "left of the limit on metadata"],
    );
    // A length that the file cannot hold is not the limit's fault.
    let mut bytes = Raw::new().kv(b"k", STRING, &string_of_len(1 << 40, b"")).bytes();
    bytes.resize(5000, 0);
    let error = open_limited(bytes, Limits { metadata_bytes: 1000, ..Limits::default() });
    let pieces = ["string value needs 1099511627776 bytes, file has"];
    common::check_error("length", &error.unwrap_err(), Truncated, &pieces);
}

#[test]
fn trailing_garbage_is_a_warning() {
    let mut bytes = tiny().bytes();
    bytes.extend([0xaa; 100]);
    let file = File::from_bytes(bytes).unwrap();
    assert_eq!(file.warnings(), ["100 bytes follow the last tensor and are ignored"]);
}

#[test]
fn gguf_at_offset_7_of_a_larger_file() {
    for start in [7, 32, 100] {
        let mut bytes = vec![b'x'; start];
        bytes.extend(tiny().bytes());
        let options = Options { start: start as u64, access: Access::Pread, ..Options::default() };
        let file = File::from_bytes_with(bytes, &options).unwrap();
        // The padding counts from the start of the GGUF.
        let expect: Vec<u8> = (32..68).collect();
        assert_eq!(&*file.data(file.tensor("q").unwrap()).unwrap(), expect, "at {start}");
    }
    for start in [1, 1000, u64::MAX] {
        assert!(
            File::from_bytes_with(tiny().bytes(), &Options { start, ..Options::default() })
                .is_err()
        );
    }
}

#[test]
fn data_of_a_foreign_tensor_is_refused() {
    let file = File::from_bytes(tiny().bytes()).unwrap();
    let mut q = file.tensor("q").unwrap().clone();
    assert!(file.read_into(&q, 0, &mut [0; 36]).is_ok());
    let mut part = [0; 4];
    file.read_into(&q, 32, &mut part).unwrap();
    assert_eq!(part, [64, 65, 66, 67]);
    for offset in [1, 37, u64::MAX] {
        let error = file.read_into(&q, offset, &mut [0; 36]).unwrap_err();
        common::check_error("range", &error, ErrorKind::Usage, &["tensor \"q\": bytes"]);
    }
    q.n_bytes += 1;
    assert_eq!(file.data(&q).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn values_of_the_tiny_model() {
    let file = File::from_bytes(tiny().bytes()).unwrap();
    let keys: Vec<&str> = file.keys().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["general.architecture", "llama.block_count", "llama.eps"]);
    assert_eq!(file.get("a.bool"), Some(&Value::Bool(true)));
    assert_eq!(file.required_f32("llama.eps").unwrap(), 1e-5);
}

fn open_limited(bytes: Vec<u8>, limits: Limits) -> gguf::Result<File> {
    File::from_bytes_with(bytes, &Options { limits, ..Options::default() })
}
