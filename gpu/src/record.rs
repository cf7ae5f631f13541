//! Dispatches one by one, each with what it read and wrote, so that a test can run the same shader somewhere else:
//! with guards round the buffers, on another device, or as Metal's language on a CPU.

use crate::device::Device;
use crate::kv::GpuKv;
use crate::matrix::Matrix;
use crate::plan::{Dispatch, Sizes};
use crate::probe;
use crate::shaders::{self, Cache, Shader};
use gguf::DType;
use graph::Result;

/// Words of poison before and behind every buffer of a replay: 256 bytes, a multiple of every alignment.
pub const GUARD: usize = 64;

/// One dispatch.
#[derive(Clone, Debug)]
pub struct Call {
    /// The kernel.
    pub shader: Shader,
    /// Its parameters.
    pub params: Vec<u32>,
    /// Workgroups.
    pub grid: [u32; 3],
    /// What its buffers held before: group 0, then K and V of the cache where it uses them.
    pub buffers: Vec<Vec<u32>>,
    /// For each buffer that it writes the words that it left, `None` where it wrote nothing.
    pub written: Vec<(usize, Vec<Option<u32>>)>,
}

/// Takes the dispatches of a step as they are run.
pub trait Sink: Send {
    /// Whether a dispatch with these parameters and this grid is wanted.
    fn wants(&mut self, shader: &Shader, params: &[u32], grid: [u32; 3]) -> bool;

    /// One that is.
    fn call(&mut self, call: Call);
}

impl Call {
    /// Which of its buffers a kernel writes: the last ones of group 0, and those of the cache where it stores.
    pub fn outputs(shader: &Shader) -> Vec<usize> {
        let n = shader.buffers as usize;
        (n - shader.writes as usize..if shader.cache == Cache::Writes { n + 2 } else { n })
            .collect()
    }

    /// The same product on a matrix unit, for devices that have none; `None` for what is no product of many rows.
    pub fn on_matrix_unit(&self, matrix: Matrix) -> Option<Self> {
        let with =
            |dtype, n| (shaders::mat_mul_int8(dtype, n) == self.shader).then_some((dtype, n));
        let of = |dtype| (1..=3).find_map(|n| with(dtype, n));
        let (dtype, products) = DType::ALL.into_iter().find_map(of)?;
        // Parameters as in dot.wgsl: rows of activations first, rows of weights seventh.
        let grid = matrix.grid(*self.params.get(6)?, *self.params.first()?);
        Some(Self { shader: shaders::mat_mul_coop(dtype, products, matrix), grid, ..self.clone() })
    }

    /// What a matrix unit is asked when its device is opened, with the answer that is wanted.
    pub fn of_matrix_probe(matrix: Matrix) -> Self {
        let (operands, sums) = probe::matrix_sums(matrix);
        let n = sums.len() as u32;
        Self {
            shader: shaders::probe_coop(matrix),
            params: vec![1, 0, n],
            grid: [probe::MATRIX_TESTS as u32, 1, 1],
            buffers: vec![operands, vec![0; sums.len()]],
            written: vec![(1, sums.into_iter().map(Some).collect())],
        }
    }
}

/// Runs a dispatch by itself and tells `sink` what it read and wrote. What it wrote is known from two more
/// runs on copies, with different poison in the outputs: a word that differs between them was not written.
pub(crate) fn lay_open(
    device: &Device,
    dispatch: &Dispatch,
    sizes: Sizes,
    kv: &GpuKv,
    sink: &mut dyn Sink,
) -> Result<()> {
    let Some((rows, grid)) = dispatch.sized(sizes) else { return Ok(()) };
    let (words, n) = dispatch.params(rows);
    let params = words[..n].to_vec();
    let shader = &dispatch.shader;
    if sink.wants(shader, &params, grid) {
        sink.call(read_and_written(device, (dispatch, kv), (params, grid))?);
    }
    let mut encoder = device.encoder();
    dispatch.encode(
        &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()),
        sizes,
        &kv.layers,
    );
    device.submit(encoder)
}

fn read_and_written(
    device: &Device,
    (dispatch, kv): (&Dispatch, &GpuKv),
    (params, grid): (Vec<u32>, [u32; 3]),
) -> Result<Call> {
    let shader = &dispatch.shader;
    let mut buffers = Vec::new();
    let halves = dispatch.kv.into_iter().flat_map(|layer| &kv.layers[layer].halves);
    let halves = halves.map(|(buffer, bytes)| (buffer.clone(), 0, *bytes));
    for (buffer, offset, bytes) in dispatch.ranges.iter().cloned().chain(halves) {
        let words = bytes.div_ceil(4) as usize;
        let held = device.read(device.encoder(), (&buffer, offset), words, &mut None)?;
        buffers.push(held.into_iter().map(f32::to_bits).collect());
    }
    let mut call = Call { shader: shader.clone(), params, grid, buffers, written: Vec::new() };
    let [one, other] = [0xffff_ffff, 0x7fc1_2345].map(|poison| replay(device, &call, poison));
    let (one, other) = (one?, other?);
    for at in Call::outputs(shader) {
        let inner = |all: &[Vec<u32>]| all[at][GUARD..all[at].len() - GUARD].to_vec();
        let same = |(a, b): (u32, u32)| (a == b).then_some(a);
        call.written.push((at, inner(&one).into_iter().zip(inner(&other)).map(same).collect()));
    }
    Ok(call)
}

/// As [`crate::Gpu::replay`].
pub(crate) fn replay(device: &Device, call: &Call, poison: u32) -> Result<Vec<Vec<u32>>> {
    let shader = &call.shader;
    let pipeline = device.pipeline(shader)?;
    let outputs = Call::outputs(shader);
    let mut buffers = Vec::new();
    for (i, held) in call.buffers.iter().enumerate() {
        let mut words = vec![poison; held.len() + 2 * GUARD];
        if !outputs.contains(&i) {
            words[GUARD..GUARD + held.len()].copy_from_slice(held);
        }
        let buffer = device.buffer("replay", words.len() as u64 * 4)?;
        device.write(&buffer, 0, &words);
        buffers.push((buffer, held.len() as u64 * 4));
    }
    let guard = GUARD as u64 * 4;
    let ranges: Vec<_> = buffers.iter().map(|(buffer, bytes)| (buffer, guard, *bytes)).collect();
    let (ours, cache) = ranges.split_at(shader.buffers as usize);
    let bind = device.bind(&pipeline, ours);
    let bind_kv = (!cache.is_empty()).then(|| device.bind_kv(cache));
    let mut encoder = device.encoder();
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind, &[]);
        if let Some(bind_kv) = &bind_kv {
            pass.set_bind_group(1, bind_kv, &[]);
        }
        pass.set_immediates(0, bytemuck::cast_slice(&call.params));
        let [x, y, z] = call.grid;
        pass.dispatch_workgroups(x, y, z);
    }
    device.submit(encoder)?;
    let read = |(buffer, bytes): &(wgpu::Buffer, u64)| {
        let words = *bytes as usize / 4 + 2 * GUARD;
        let held = device.read(device.encoder(), (buffer, 0), words, &mut None)?;
        Ok(held.into_iter().map(f32::to_bits).collect())
    };
    buffers.iter().map(read).collect()
}
