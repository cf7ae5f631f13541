//! The weights of a graph in memory: repacked for products, as in the file for the rest, all in one arena.
//!
//! Threads read a few rows each, by position, and repack them while they are in the cache: the file's bytes are in memory
//! once, and never twice. The arena is one anonymous mapping that asks for huge pages: a stream of reads is 24 GB/s with
//! small ones on two threads and 30 GB/s with huge ones (the measure of `karat bench`, an EPYC of 2022).

use crate::kernels::mat_mul;
use crate::kernels::mat_mul_f32::Source;
use crate::pack::{FileRows, pack_rows};
use crate::pool::{Pool, Workers};
use crate::simd::LANES;
use crate::tiles::{F32_BIAS, Layout, decode_row};
use graph::backend::Found;
use graph::ints::Rounding;
use graph::{Arithmetic, Error, ErrorKind, Graph, LoadOptions, Result, Weight, WeightId};
use memmap2::MmapMut;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

/// Bytes of the file that a thread reads at a time: half of a second-level cache.
const READ_BYTES: usize = 256 << 10;
/// Where tensors start in the arena.
const ALIGN: usize = 64;

/// All weights of a graph.
pub(crate) struct Weights {
    arena: MmapMut,
    items: Vec<Resident>,
    bias: u8,
    arithmetic: Arithmetic,
}

/// One tensor.
struct Resident {
    form: Form,
    /// Its bytes in the arena.
    range: Range<usize>,
    /// All of it in f32: norms, biases, the rows of a short convolution.
    vector: Vec<f32>,
}

/// How a tensor lies in the arena.
enum Form {
    /// Not at all: it is a vector.
    Absent,
    /// As in the file: floats.
    Raw,
    /// Repacked: quants. Rows are looked up here too.
    Tiles(Layout),
}

fn no_memory(what: &str, bytes: usize) -> Error {
    Error::new(ErrorKind::OutOfMemory, format!("{what}: no memory for {bytes} bytes"))
}

impl Weights {
    /// Reads and repacks every tensor of the graph.
    pub(crate) fn load(
        graph: &Graph,
        files: &[&gguf::File],
        options: LoadOptions,
        workers: Workers<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let Workers { level, pool } = workers;
        let arithmetic = options.arithmetic;
        let mut items = Vec::with_capacity(graph.weights.len());
        let mut end = 0usize;
        for (weight, forms) in graph.weights.iter().zip(graph.weight_forms()) {
            graph::backend::find_weight(files, weight)?;
            let tiles = Layout::of(weight.dtype);
            let (form, bytes) = match tiles {
                _ if !forms.matrix => (Form::Absent, 0),
                Some(layout) => {
                    // Every matrix begins with a tile of its own.
                    let tiles = weight.n_out.div_ceil(LANES) * weight.n_mats;
                    let bytes = layout.tile_bytes(weight.n_in) * tiles;
                    (Form::Tiles(layout), bytes)
                }
                None => (Form::Raw, weight.dtype.row_bytes(weight.n_in) * weight.rows()),
            };
            let n = if forms.vector { weight.n_in * weight.rows() } else { 0 };
            let vector = vec![0.0; n];
            items.push(Resident { form, range: end..end + bytes, vector });
            end = (end + bytes).next_multiple_of(ALIGN);
        }
        let bias = match arithmetic {
            Arithmetic::Int8 | Arithmetic::Int16 => level.i8_bias(),
            Arithmetic::F32 => F32_BIAS,
        };
        let mut weights = Self { arena: arena(end)?, items, bias, arithmetic };
        let mut read = 0;
        for (i, weight) in graph.weights.iter().enumerate() {
            let found = graph::backend::find_weight(files, weight)?;
            weights.fill(i, weight, found, pool)?;
            read += found.info.n_bytes;
            progress(read);
        }
        Ok(weights)
    }

    fn fill(
        &mut self,
        i: usize,
        weight: &Weight,
        Found { file, info }: Found<'_>,
        pool: &mut Pool,
    ) -> Result<()> {
        let Self { arena, items, bias, .. } = self;
        let Resident { form, range, vector } = &mut items[i];
        let out = &mut arena[range.clone()];
        let read = |e: gguf::Error| Error::new(ErrorKind::Read, e.to_string());
        if !vector.is_empty() {
            let mut bytes = vec![0; weight.dtype.row_bytes(weight.n_in) * weight.rows()];
            file.read_into(info, 0, &mut bytes).map_err(read)?;
            weight.dtype.dequantize(&bytes, vector);
        }
        let row_bytes = weight.dtype.row_bytes(weight.n_in);
        // The first error of any thread.
        let failed = Mutex::new(Ok(()));
        let note = |result: gguf::Result<()>| {
            if let Err(error) = result {
                *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    Err(read(error));
            }
        };
        match form {
            Form::Absent => {}
            Form::Raw => pool.rows(out, row_bytes, |first, rows| {
                note(file.read_into(info, (first * row_bytes) as u64, rows));
            }),
            Form::Tiles(layout) => {
                let tile_bytes = layout.tile_bytes(weight.n_in);
                let mat_bytes = tile_bytes * weight.n_out.div_ceil(LANES);
                let at_once = (READ_BYTES / (LANES * row_bytes)).max(1);
                // The tiles of all matrices; what is read at once is of one of them.
                pool.rows(out, tile_bytes, |first, tiles| {
                    let of_one = pieces(first, tiles, Cut { tile_bytes, mat_bytes, at_once });
                    for (place, tiles) in of_one {
                        let (mat, tile) =
                            (place * tile_bytes / mat_bytes, place * tile_bytes % mat_bytes);
                        let start = tile / tile_bytes * LANES;
                        let n_tiles = tiles.len() / tile_bytes;
                        let end = weight.n_out.min(start + n_tiles * LANES);
                        let at = (mat * weight.n_out + start) * row_bytes;
                        with_buffer((end - start) * row_bytes, |bytes| {
                            note(file.read_into(info, at as u64, bytes));
                            let rows = bytes.chunks(LANES * row_bytes);
                            for (tile, rows) in tiles.chunks_exact_mut(tile_bytes).zip(rows) {
                                let rows = FileRows { bytes: rows, row_bytes };
                                pack_rows(weight.dtype, layout, rows, *bias, tile);
                            }
                        });
                    }
                });
            }
        }
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One matrix of a weight of several, in tiles or as in the file.
    pub(crate) fn matrix(&self, w: WeightId, weight: &Weight, mat: usize) -> Source<'_> {
        let Resident { form, range, .. } = &self.items[w.0];
        let of = |bytes: usize| &self.arena[range.clone()][mat * bytes..][..bytes];
        match form {
            Form::Tiles(layout) => {
                let bytes = layout.tile_bytes(weight.n_in) * weight.n_out.div_ceil(LANES);
                Source::Tiles(mat_mul::Weight { layout, tiles: of(bytes), n_in: weight.n_in })
            }
            Form::Raw | Form::Absent => {
                let bytes = of(weight.dtype.row_bytes(weight.n_in) * weight.n_out);
                Source::Rows { dtype: weight.dtype, bytes }
            }
        }
    }

    /// The tiles of a weight with rows of `n_in`, if it is in tiles.
    pub(crate) fn tiled(&self, w: WeightId, n_in: usize) -> Option<mat_mul::Weight<'_>> {
        let Resident { form, range, .. } = &self.items[w.0];
        match form {
            Form::Tiles(layout) => {
                Some(mat_mul::Weight { layout, tiles: &self.arena[range.clone()], n_in })
            }
            Form::Raw | Form::Absent => None,
        }
    }

    /// The layout of a weight that is in tiles.
    pub(crate) fn layout(&self, w: WeightId) -> Option<&Layout> {
        match &self.items[w.0].form {
            Form::Tiles(layout) => Some(layout),
            Form::Raw | Form::Absent => None,
        }
    }

    /// What a weight wants its activations rounded to; `None` where the product is one of floats.
    pub(crate) fn rounding(&self, w: WeightId) -> Option<Rounding> {
        self.layout(w)?.form.rounding(self.arithmetic)
    }

    /// A weight's bytes as in the file; empty for one that is in tiles.
    pub(crate) fn raw(&self, w: WeightId) -> &[u8] {
        let Resident { form, range, .. } = &self.items[w.0];
        match form {
            Form::Raw => &self.arena[range.clone()],
            Form::Tiles(_) | Form::Absent => &[],
        }
    }

    /// The elements of a weight that is used one by one: a norm's, a bias.
    pub(crate) fn vector(&self, w: WeightId) -> &[f32] {
        &self.items[w.0].vector
    }

    /// Decodes one row of a weight.
    pub(crate) fn decode_row(&self, w: WeightId, weight: &Weight, row: usize, out: &mut [f32]) {
        match self.layout(w) {
            Some(layout) => {
                let tile_bytes = layout.tile_bytes(weight.n_in);
                let tiles = &self.arena[self.items[w.0].range.clone()];
                let tile = &tiles[row / LANES * tile_bytes..][..tile_bytes];
                decode_row(layout, tile, row % LANES, self.bias, out);
            }
            None => {
                let row_bytes = weight.dtype.row_bytes(weight.n_in);
                weight.dtype.dequantize(&self.raw(w)[row * row_bytes..][..row_bytes], out);
            }
        }
    }
}

/// How the tiles of a weight are cut.
#[derive(Clone, Copy)]
struct Cut {
    tile_bytes: usize,
    mat_bytes: usize,
    /// Tiles of a piece.
    at_once: usize,
}

/// Pieces of consecutive tiles, none of which is of two matrices, each with the place of its first tile.
fn pieces(first: usize, mut tiles: &mut [u8], cut: Cut) -> Vec<(usize, &mut [u8])> {
    let Cut { tile_bytes, mat_bytes, at_once } = cut;
    let (mut all, mut at) = (Vec::new(), first * tile_bytes);
    while !tiles.is_empty() {
        let left = mat_bytes - at % mat_bytes;
        let (piece, rest) = tiles.split_at_mut(tiles.len().min(left).min(at_once * tile_bytes));
        let place = at / tile_bytes;
        at += piece.len();
        all.push((place, piece));
        tiles = rest;
    }
    all
}

/// Zeroed memory in huge pages where the system has them. Pages that are never written take no memory.
fn arena(bytes: usize) -> Result<MmapMut> {
    let map = MmapMut::map_anon(bytes.max(1)).map_err(|_| no_memory("weights", bytes))?;
    // Only advice: a system without huge pages gives small ones, and the same results.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// Lends this thread's read buffer, `len` bytes of any contents.
fn with_buffer(len: usize, f: impl FnOnce(&mut [u8])) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        f(&mut buffer[..len]);
    });
}
