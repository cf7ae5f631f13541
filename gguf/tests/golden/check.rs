//! Compares the decoders with what `tools/golden_quants.py` recorded: for the tests and for `examples/check_golden.rs`.

use gguf::DType;
use std::path::Path;

/// What was compared in one file.
#[allow(dead_code, reason = "the tests do not print sizes and times")]
pub(crate) struct Compared {
    pub(crate) blocks: usize,
    pub(crate) weights: usize,
    /// Weights of which our bits are others; any NaN equals any NaN.
    pub(crate) wrong: usize,
    /// The first of them.
    pub(crate) first: Option<String>,
    pub(crate) seconds: f64,
}

/// Reads `FORMAT.bin` of `folder` (u32 count, blocks, f32 weights) and decodes the blocks.
pub(crate) fn check(dtype: DType, folder: &Path) -> Compared {
    let path = folder.join(format!("{dtype}.bin"));
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (count, rest) = file.split_first_chunk().expect("a count");
    let blocks = u32::from_le_bytes(*count) as usize;
    let weights = blocks * dtype.block_len();
    let (bytes, expected) = rest.split_at(dtype.row_bytes(weights));
    assert!(blocks > 0 && expected.len() == 4 * weights, "{}: sizes disagree", path.display());

    let mut ours = vec![0.0; weights];
    // The first pass pays for the pages of the buffer; the second one is timed.
    dtype.dequantize(bytes, &mut ours);
    let start = std::time::Instant::now();
    dtype.dequantize(bytes, &mut ours);
    let seconds = start.elapsed().as_secs_f64();
    let theirs = expected.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let differs = |&(_, (a, b)): &(usize, (&f32, f32))| {
        a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())
    };
    let mut wrong = ours.iter().zip(theirs).enumerate().filter(differs);
    let first = wrong.next().map(|(i, (a, b))| {
        let len = dtype.block_len();
        format!("block {}, weight {}: ours {a:e}, theirs {b:e}", i / len, i % len)
    });
    let wrong = wrong.count() + usize::from(first.is_some());
    Compared { blocks, weights, wrong, first, seconds }
}
