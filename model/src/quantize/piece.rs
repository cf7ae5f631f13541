//! The next weights of a tensor, read, converted by several threads, and checked.

use super::Job;
use crate::{Error, ErrorKind, Result};
use gguf::{DType, File, TensorInfo};
use std::num::NonZero;

/// Weights converted at once: a multiple of every block, and 16 MiB as f32.
const PIECE: u64 = 4 << 20;

/// Buffers for a part of a tensor.
pub(super) struct Piece {
    threads: NonZero<usize>,
    source: Vec<u8>,
    weights: Vec<f32>,
    /// The converted bytes.
    pub(super) out: Vec<u8>,
}

impl Piece {
    pub(super) fn new(threads: NonZero<usize>) -> Self {
        Self { threads, source: Vec::new(), weights: Vec::new(), out: Vec::new() }
    }

    /// Reads the next weights of a tensor, from the one numbered `first`, and leaves them converted in `out`; returns
    /// how many.
    pub(super) fn convert(&mut self, source: &File, job: &Job<'_>, first: u64) -> Result<u64> {
        let planned = job.planned;
        let (from, to) = (planned.info.dtype, planned.dtype);
        let columns = job.importance.map(|importance| Columns::of(planned.info, importance));
        // A tensor is whole blocks of either format, so it may be cut at any multiple of the longest block; at the end of a
        // row where its columns count differently.
        let piece = columns.map_or(PIECE, |columns| {
            let row = columns.row_len as u64;
            (PIECE / row).max(1) * row
        });
        let n = piece.min(planned.info.n_elements() - first) as usize;
        self.source.resize(from.row_bytes(n), 0);
        let offset = first / from.block_len() as u64 * from.block_bytes() as u64;
        source.read_into(planned.info, offset, &mut self.source)?;
        if let Some(block) = gguf::check_named(&planned.info.name, from, &self.source) {
            let found = "NaN or infinity";
            return Err(bad_weights(planned.info, first, block * from.block_len(), found));
        }
        if from == to {
            self.out.clone_from(&self.source);
            return Ok(n as u64);
        }
        self.weights.resize(n, 0.0);
        self.out.resize(to.row_bytes(n), 0);
        match columns {
            Some(columns) => self.requantize_by(from, to, columns.from(first)),
            None => self.requantize(from, to),
        }
        if let Some(block) = gguf::check_named(&planned.info.name, to, &self.out) {
            let found = format!("weights too large for {to}");
            return Err(bad_weights(planned.info, first, block * to.block_len(), &found));
        }
        if let Some(at) = self.first_lost(to) {
            let found = format!("weights too large for {to}");
            return Err(bad_weights(planned.info, first, at, &found));
        }
        Ok(n as u64)
    }

    /// Where the first block begins whose largest weight the format does not hold: with weights beyond every scale some
    /// encoders write a block of zeros, which has nothing wrong about it but its numbers.
    fn first_lost(&self, to: DType) -> Option<usize> {
        // The largest f16, of which scales are made: smaller weights never come near what a format holds.
        let largest = 65_504.0;
        let len = to.block_len();
        let blocks = self.weights.chunks(len).zip(self.out.chunks(to.block_bytes()));
        let mut again = vec![0.0; len];
        let magnitude = |weights: &[f32]| weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let mut lost = |weights: &[f32], block: &[u8]| {
            let wanted = magnitude(weights);
            if wanted <= largest {
                return false;
            }
            to.dequantize(block, &mut again);
            // The coarsest formats keep the largest weight to a quarter.
            (magnitude(&again) - wanted).abs() > wanted / 4.0
        };
        let found = blocks.enumerate().find(|(_, (weights, block))| lost(weights, block));
        found.map(|(i, _)| i * len)
    }

    /// Dequantises and quantises what is in `source`; each thread takes a share of it.
    fn requantize(&mut self, from: DType, to: DType) {
        const BLOCK: usize = 256;
        self.share(from, to, BLOCK, |_, weights, out| to.encode(weights, out));
    }

    /// The same by the importance of columns, row by row.
    fn requantize_by(&mut self, from: DType, to: DType, columns: Columns<'_>) {
        let row_len = columns.row_len;
        self.share(from, to, row_len, |first, weights, out| {
            let rows = weights.chunks(row_len).zip(out.chunks_mut(to.row_bytes(row_len)));
            for (i, (row, out)) in rows.enumerate() {
                to.encode_by(row, columns.of_row(first / row_len + i), out);
            }
        });
    }

    /// Cuts the piece at multiples of `unit` weights; `encode` gets the number of a share's first weight, the weights, and
    /// room for their bytes.
    fn share(
        &mut self,
        from: DType,
        to: DType,
        unit: usize,
        encode: impl Fn(usize, &[f32], &mut [u8]) + Sync,
    ) {
        let share = self.weights.len().div_ceil(unit).div_ceil(self.threads.get()) * unit;
        let sources = self.source.chunks(from.row_bytes(share));
        let outs = self.out.chunks_mut(to.row_bytes(share));
        let shares = self.weights.chunks_mut(share).zip(sources).zip(outs);
        let encode = &encode;
        std::thread::scope(|scope| {
            for (i, ((weights, source), out)) in shares.enumerate() {
                scope.spawn(move || {
                    from.dequantize(source, weights);
                    encode(i * share, weights, out);
                });
            }
        });
    }
}

/// How much the columns of a matrix count.
#[derive(Clone, Copy)]
struct Columns<'a> {
    /// For each expert.
    importance: &'a [f32],
    row_len: usize,
    rows_per_expert: usize,
    /// The first row of a piece.
    first_row: usize,
}

impl<'a> Columns<'a> {
    fn of(info: &TensorInfo, importance: &'a [f32]) -> Self {
        let rows_per_expert = info.dims.get(1).map_or(1, |&n| n as usize);
        Self { importance, row_len: info.row_len() as usize, rows_per_expert, first_row: 0 }
    }

    /// The same for a piece that begins at weight number `first`.
    fn from(self, first: u64) -> Self {
        Self { first_row: (first / self.row_len as u64) as usize, ..self }
    }

    /// Those of a row of the piece.
    fn of_row(&self, row: usize) -> &'a [f32] {
        let expert = (self.first_row + row) / self.rows_per_expert;
        &self.importance[expert * self.row_len..][..self.row_len]
    }
}

/// The error about weight number `at` of a piece, whose first weight is number `first` of the tensor.
fn bad_weights(info: &TensorInfo, first: u64, at: usize, found: &str) -> Error {
    let row = (first + at as u64) / info.row_len().max(1);
    let what = format!("tensor {}: {found} in row {row}, which cannot be quantised", info.name);
    Error::new(ErrorKind::BadTensor, what)
}
