//! Weights on the device: laid out on the host, a piece at a time, and cut where a tensor is larger than one binding.

use crate::device::{Device, Range};
use crate::fuse::Fusions;
use crate::layout::{Layout, ROWS};
use graph::{Error, ErrorKind, Graph, Op, Result, Weight, WeightForms};

/// Bytes that are laid out on the host at once.
const STAGE: usize = 32 << 20;

/// Consecutive rows of a tensor in one buffer.
pub(crate) struct Piece {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) bytes: u64,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// One tensor, in the forms that its uses want.
#[derive(Default)]
pub(crate) struct Resident {
    /// For products and lookups.
    pub(crate) pieces: Vec<Piece>,
    /// All of it in f32: norms, biases, the rows of a short convolution.
    pub(crate) vector: Option<Range>,
}

/// Bytes that a tensor takes on the device.
fn bytes_of(weight: &Weight, forms: WeightForms) -> u64 {
    let tile = Layout::of(weight.dtype).tile_words(weight.n_in) as u64 * 4;
    let matrix =
        if forms.matrix { tile.saturating_mul(weight.rows().div_ceil(ROWS) as u64) } else { 0 };
    matrix.saturating_add(if forms.vector { (weight.n_in * weight.rows()) as u64 * 4 } else { 0 })
}

/// A tensor whose rows stand in a buffer with those of others, and where.
#[derive(Clone, Copy)]
struct Shared {
    /// The weight that has the buffer.
    first: usize,
    /// Rows before its own.
    before: usize,
    /// Rows of all.
    all: usize,
}

/// The bytes of a tensor in the file, and the threads that lay them out.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    threads: usize,
}

/// Rows of a tensor, and where in a buffer their tiles go.
#[derive(Clone, Copy)]
struct Target<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    first: usize,
    count: usize,
}

/// For each weight whether it shares a buffer.
fn shared(graph: &Graph, fusions: &Fusions) -> Vec<Option<Shared>> {
    let mut shared = vec![None; graph.weights.len()];
    for group in &fusions.products {
        let weights = group.iter().filter_map(|&i| {
            let Op::MatMul { w } = graph.nodes[i].op else { return None };
            Some(w.0)
        });
        let weights: Vec<usize> = weights.collect();
        let all = weights.iter().map(|&w| graph.weights[w].n_out).sum();
        let mut before = 0;
        for &w in &weights {
            shared[w] = Some(Shared { first: weights[0], before, all });
            before += graph.weights[w].n_out;
        }
    }
    shared
}

/// The files of a model, and how many threads lay out what is read.
#[derive(Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) files: &'a [&'a gguf::File],
    pub(crate) threads: usize,
}

/// Brings all tensors to the device. `progress` hears the bytes of the file read so far.
pub(crate) fn load(
    device: &Device,
    graph: &Graph,
    fusions: &Fusions,
    files: Files<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Resident>> {
    let shared = shared(graph, fusions);
    let forms = graph.weight_forms();
    let total =
        graph.weights.iter().zip(&forms).map(|(w, &f)| bytes_of(w, f)).fold(0, u64::saturating_add);
    let with_sum = |e: Error| match e.kind() {
        ErrorKind::OutOfMemory => {
            Error::new(e.kind(), format!("the weights take {total} bytes on the device; {e}"))
        }
        ErrorKind::Shape
        | ErrorKind::Unsupported
        | ErrorKind::Read
        | ErrorKind::DeviceLost
        | ErrorKind::Step
        | ErrorKind::Stopped => e,
    };
    let mut all: Vec<Resident> = graph.weights.iter().map(|_| Resident::default()).collect();
    let mut read = 0;
    for (i, (weight, forms)) in graph.weights.iter().zip(forms).enumerate() {
        let bytes = graph::backend::read_weight(files.files, weight)?;
        let source = Source { bytes: &bytes, threads: files.threads };
        match shared[i] {
            Some(place) => {
                let held = &mut all[place.first];
                share(device, weight, place, held, source).map_err(with_sum)?;
            }
            None => all[i] = resident(device, weight, forms, source).map_err(with_sum)?,
        }
        read += bytes.len() as u64;
        progress(read);
    }
    Ok(all)
}

/// Puts a tensor's rows into the buffer that it shares with others; whichever comes first makes it.
fn share(
    device: &Device,
    weight: &Weight,
    place: Shared,
    held: &mut Resident,
    source: Source<'_>,
) -> Result<()> {
    let tile = Layout::of(weight.dtype).tile_words(weight.n_in);
    if held.pieces.is_empty() {
        let bytes = (place.all.div_ceil(ROWS) * tile) as u64 * 4;
        let buffer = device.buffer(&weight.name, bytes)?;
        held.pieces.push(Piece { buffer, bytes, first: 0, count: place.all });
    }
    // The rows before are whole tiles.
    let offset = (place.before / ROWS * tile) as u64 * 4;
    let buffer = &held.pieces[0].buffer;
    fill(device, weight, Target { buffer, offset, first: 0, count: weight.n_out }, source)
}

fn resident(
    device: &Device,
    weight: &Weight,
    forms: WeightForms,
    source: Source<'_>,
) -> Result<Resident> {
    let mut resident = Resident::default();
    if forms.vector {
        let mut values = vec![0.0f32; weight.n_in * weight.rows()];
        weight.dtype.dequantize(source.bytes, &mut values);
        let size = values.len() as u64 * 4;
        let buffer = device.buffer(&weight.name, size)?;
        device.upload(&buffer, 0, bytemuck::cast_slice(&values))?;
        resident.vector = Some(Range::whole(&buffer, size));
    }
    if forms.matrix {
        let layout = Layout::of(weight.dtype);
        let tile = layout.tile_words(weight.n_in);
        let most = device.max_binding() as usize / 4 / tile.max(1);
        if most == 0 {
            let message = format!(
                "{}: 32 rows of {} take {} bytes, {} binds {}",
                weight.name,
                weight.n_in,
                tile * 4,
                device.name,
                device.max_binding()
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        for first in (0..weight.rows()).step_by(most * ROWS) {
            let count = (weight.rows() - first).min(most * ROWS);
            let size = (count.div_ceil(ROWS) * tile) as u64 * 4;
            let buffer = device.buffer(&weight.name, size)?;
            let piece = Piece { buffer, bytes: size, first, count };
            let buffer = &piece.buffer;
            fill(device, weight, Target { buffer, offset: 0, first, count }, source)?;
            resident.pieces.push(piece);
        }
    }
    Ok(resident)
}

/// Lays out some rows of a tensor and uploads them to a place, [`STAGE`] bytes after [`STAGE`] bytes.
fn fill(
    device: &Device,
    weight: &Weight,
    target: Target<'_>,
    Source { bytes, threads }: Source<'_>,
) -> Result<()> {
    let Target { buffer, offset, first, count } = target;
    let layout = Layout::of(weight.dtype);
    let tile = layout.tile_words(weight.n_in);
    let row_bytes = weight.dtype.row_bytes(weight.n_in);
    let rows = &bytes[first * row_bytes..(first + count) * row_bytes];
    let at_once = (STAGE / 4 / tile).max(1);
    let mut staged = vec![0u32; at_once.min(count.div_ceil(ROWS)) * tile];
    for (i, rows) in rows.chunks(at_once * ROWS * row_bytes).enumerate() {
        let n_tiles = rows.len().div_ceil(ROWS * row_bytes);
        let staged = &mut staged[..n_tiles * tile];
        staged.fill(0);
        let share = n_tiles.div_ceil(threads.max(1));
        std::thread::scope(|scope| {
            for (staged, rows) in
                staged.chunks_mut(share * tile).zip(rows.chunks(share * ROWS * row_bytes))
            {
                let mut work = move || {
                    for (out, rows) in staged.chunks_mut(tile).zip(rows.chunks(ROWS * row_bytes)) {
                        let rows: Vec<&[u8]> = rows.chunks(row_bytes).collect();
                        layout.pack(weight.dtype, &rows, out);
                    }
                };
                if share == n_tiles { work() } else { drop(scope.spawn(work)) }
            }
        });
        device.upload(buffer, offset + (i * at_once * tile) as u64 * 4, staged)?;
    }
    Ok(())
}
