//! The encoders against the bytes that ggml writes, with an importance matrix and without.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use gguf::DType;

/// What `tools/golden_encoders.py` recorded of llama.cpp b11434, without an importance matrix and with one.
const PLAIN: &[u8] = include_bytes!("golden/encoded.bin");
const WEIGHED: &[u8] = include_bytes!("golden/encoded_by.bin");
const ROW: usize = 512;
const ROWS: usize = 13;

/// Numbers in −1..1, by the rule that the recording has, too.
struct Random(u32);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Rows of every sort that an encoder has a branch for.
fn weights() -> Vec<f32> {
    let mut random = Random(1);
    let of = |r: usize, i: usize, a: f32, b: f32| {
        let bell = a * b;
        match r {
            0 => bell,
            1 => bell * 0.02,
            2 => a,
            3 if i % 64 == 5 => bell * 50.0,
            3 => bell,
            4 => a.abs(),
            5 => -a.abs(),
            6 => [0.0, 0.75, -0.75, bell][i / 64 % 4],
            7 => (a * 8.0).floor(),
            8 => 2f32.powi(-(i as i32 / 32)).next_down() * if i % 32 == 3 { 1.0 } else { bell },
            9 => bell * 1e-14,
            10 => bell * 1e-38,
            11 => bell * 1e4,
            _ if i / 16 % 2 == 1 => bell * 1e-3,
            _ => bell,
        }
    };
    let places = (0..ROWS).flat_map(|r| (0..ROW).map(move |i| (r, i)));
    places.map(|(r, i)| of(r, i, random.next(), random.next())).collect()
}

fn importance() -> Vec<f32> {
    let mut random = Random(1);
    let mut column = || (random.next() * random.next()).abs();
    (0..ROW).map(|i| (i, column())).map(|(i, c)| if i % 37 == 0 { 0.0 } else { c }).collect()
}

/// Panics at the first block that is another one.
fn assert_same(dtype: DType, what: &str, ours: &[u8], theirs: &[u8]) {
    let bytes = dtype.block_bytes();
    let mut wrong = ours.chunks(bytes).zip(theirs.chunks(bytes)).enumerate();
    let wrong: Vec<_> = wrong.by_ref().filter(|(_, (ours, theirs))| ours != theirs).collect();
    if let Some((at, (ours, theirs))) = wrong.first() {
        let row = at * dtype.block_len() / ROW;
        let n = wrong.len();
        panic!(
            "{dtype} {what}: {n} blocks differ, the first in row {row}:\n{ours:02x?}\n{theirs:02x?}"
        );
    }
}

/// The formats of a recording, each with its rows.
fn formats(mut rest: &[u8]) -> Vec<(DType, &[u8])> {
    let mut formats = Vec::new();
    while let Some((name, bytes)) = rest.split_at_checked(8) {
        let name = str::from_utf8(name).unwrap().trim_end_matches('\0');
        let dtype = DType::from_name(name).unwrap();
        let (rows, bytes) = bytes.split_at(ROWS * dtype.row_bytes(ROW));
        formats.push((dtype, rows));
        rest = bytes;
    }
    let is_made = |dtype: &DType| dtype.quant().is_some() && dtype.has_encoder();
    let quantised = DType::ALL.into_iter().filter(is_made);
    assert!(formats.iter().map(|(dtype, _)| *dtype).eq(quantised));
    formats
}

#[test]
fn the_bytes_are_ggml_s() {
    let weights = weights();
    for (dtype, theirs) in formats(PLAIN) {
        let mut ours = vec![0; theirs.len()];
        dtype.encode(&weights, &mut ours);
        assert_same(dtype, "without a matrix", &ours, theirs);
    }
}

#[test]
fn the_bytes_by_an_importance_matrix_are_ggml_s() {
    let (weights, importance) = (weights(), importance());
    for (dtype, theirs) in formats(WEIGHED) {
        let mut ours = vec![0; theirs.len()];
        let rows = weights.chunks(ROW).zip(ours.chunks_mut(dtype.row_bytes(ROW)));
        rows.for_each(|(row, out)| dtype.encode_by(row, &importance, out));
        assert_same(dtype, "with a matrix", &ours, theirs);
    }
}
