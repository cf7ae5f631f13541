//! Dispatches one by one, each with what it read and wrote, so that a test can run the same shader somewhere else:
//! with guards round the buffers, on another device, or as Metal's language on a CPU.

use crate::device::{Device, Range};
use crate::dispatch::{Dispatch, StepSize};
use crate::kv::GpuKv;
use crate::loaded::{LoadedGpu, cache_of};
use crate::matrix::Matrix;
use crate::params::{self, MatMulInt, Params};
use crate::probe;
use crate::shaders::{self, Cache, Shader};
use gguf::DType;
use graph::{Best, Blocks, Graph, Kv, Limits, Loaded, Result, Step, Tap, Timing, Traffic};
use std::sync::Arc;

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
    /// What its buffers held before: group 0, then K and V of the cache, or the states, where it uses them.
    pub buffers: Vec<Vec<u32>>,
    /// For each buffer that it writes the words that it left, `None` where it wrote nothing.
    pub written: Vec<(usize, Vec<Option<u32>>)>,
}

/// Takes the dispatches of a step as they are run.
pub trait Sink: Send {
    /// Whether a dispatch with these parameters and this grid is wanted.
    fn wants(&mut self, shader: &Shader, params: &[u32], grid: [u32; 3]) -> bool;

    /// Takes a dispatch that was wanted.
    fn call(&mut self, call: Call);
}

impl Call {
    /// Which of its buffers a kernel writes: the last ones of group 0, and those of the cache where it stores.
    pub fn outputs(shader: &Shader) -> Vec<usize> {
        let n = shader.buffers as usize;
        let cache = match shader.cache {
            Cache::None | Cache::Reads => 0,
            Cache::Writes => 2,
            Cache::State => 1,
        };
        (n - shader.writes as usize..n + cache).collect()
    }

    /// The one that it reads too, and that is therefore never poisoned: the states.
    pub fn updated(shader: &Shader) -> Option<usize> {
        (shader.cache == Cache::State).then_some(shader.buffers as usize)
    }

    /// The same product on a matrix unit, for devices that have none; `None` for what is no product of many rows.
    pub fn on_matrix_unit(&self, matrix: Matrix) -> Option<Self> {
        let of = |dtype: DType| {
            (1..=3).find_map(|products| {
                let int8 = shaders::mat_mul_int8(dtype, products) == self.shader;
                let int16 = shaders::mat_mul_int16(dtype, products) == self.shader;
                let on_unit = if int8 {
                    shaders::mat_mul_coop(dtype, products, matrix)
                } else {
                    shaders::mat_mul_coop_int16(dtype, products, matrix)
                };
                (int8 || int16).then_some(on_unit)
            })
        };
        let shader = DType::ALL.into_iter().find_map(of)?;
        let param = |name: &str| {
            let field = params::ROWS.iter().chain(MatMulInt::FIELDS).position(|f| f.name == name);
            self.params.get(field?).copied()
        };
        let grid = matrix.grid(param("count")?, param("rows")?);
        Some(Self { shader, grid, ..self.clone() })
    }

    /// The probe of a matrix unit, as it runs when a device is opened, with the sums that are right.
    pub fn of_matrix_probe(matrix: Matrix) -> Self {
        let (operands, sums) = probe::matrix_sums(matrix);
        let n = sums.len() as u32;
        Self {
            shader: shaders::probe_coop(matrix),
            params: probe::params(n),
            grid: [probe::MATRIX_TESTS as u32, 1, 1],
            buffers: vec![operands, vec![0; sums.len()]],
            written: vec![(1, sums.into_iter().map(Some).collect())],
        }
    }
}

/// A loaded graph whose steps give `sink` every dispatch, one by one, before they run as usual.
pub(crate) struct Recorder {
    loaded: LoadedGpu,
    sink: Box<dyn Sink>,
}

impl Recorder {
    pub(crate) fn new(loaded: LoadedGpu, sink: Box<dyn Sink>) -> Self {
        Self { loaded, sink }
    }

    /// Runs the dispatches of a step, with those of the likeliest ids where `greedy`, if the sink wants any of them.
    fn record(&mut self, step: &Step, kv: &mut Kv, greedy: bool) -> Result<()> {
        let kv = &*cache_of(kv)?;
        let Some(plan) = self.loaded.prepare(step, kv)? else { return Ok(()) };
        let argmax = if greedy { &plan.argmax[..] } else { &[] };
        let size = StepSize::of(step);
        let dispatches: Vec<Launched<'_>> = plan
            .dispatches()
            .chain(argmax)
            .filter_map(|dispatch| {
                let launch = dispatch.launch(size)?;
                let params = dispatch.with_params(launch, <[u32]>::to_vec);
                let wanted = self.sink.wants(&dispatch.shader, &params, launch.grid);
                Some(Launched { dispatch, grid: launch.grid, params, wanted })
            })
            .collect();
        // The step as usual follows anyway.
        let any = dispatches.iter().any(|launched| launched.wanted);
        let recorded = if any { self.dispatch_all(dispatches, size, kv) } else { Ok(()) };
        self.loaded.keep(plan);
        recorded
    }

    /// Runs the dispatches of a step one by one, and puts the states back that they have changed.
    fn dispatch_all(
        &mut self,
        dispatches: Vec<Launched<'_>>,
        size: StepSize,
        kv: &GpuKv,
    ) -> Result<()> {
        let states = self.states(kv)?;
        let recorded =
            dispatches.into_iter().try_for_each(|launched| self.dispatch(launched, size, kv));
        for (range, words) in states {
            self.loaded.device().write(&range.buffer, range.offset, &words);
        }
        recorded
    }

    /// The states before a step, to be put back: the step is run again as usual, and begins where they stand.
    fn states(&self, kv: &GpuKv) -> Result<Vec<(Range, Vec<u32>)>> {
        let caches = self.loaded.graph().caches.iter().zip(&kv.layers);
        let states = caches.filter(|(cache, _)| matches!(cache, graph::Cache::State(_)));
        let ranges = states.flat_map(|(_, layer)| layer.parts.iter().cloned());
        ranges.map(|range| Ok((range.clone(), words_of(self.loaded.device(), &range)?))).collect()
    }

    /// Runs one dispatch by itself and tells the sink, if it wants that, what it read and wrote.
    fn dispatch(&mut self, launched: Launched<'_>, size: StepSize, kv: &GpuKv) -> Result<()> {
        let (device, dispatch) = (self.loaded.device(), launched.dispatch);
        if launched.wanted {
            let (shader, grid, written) = (dispatch.shader.clone(), launched.grid, Vec::new());
            let buffers = read(device, dispatch, kv)?;
            let mut call = Call { shader, params: launched.params, grid, buffers, written };
            call.written = written_by(device, &call)?;
            self.sink.call(call);
        }
        let mut encoder = device.encoder();
        dispatch.encode(
            &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()),
            size,
            &kv.layers,
        );
        device.submit(encoder)
    }
}

/// A dispatch as a step launches it.
struct Launched<'p> {
    dispatch: &'p Dispatch,
    params: Vec<u32>,
    /// Workgroups.
    grid: [u32; 3],
    /// Whether the sink wants to know what it reads and writes.
    wanted: bool,
}

impl Loaded for Recorder {
    fn graph(&self) -> &Arc<Graph> {
        self.loaded.graph()
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        self.loaded.kv_bytes(blocks)
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        self.loaded.new_kv(blocks)
    }

    fn stop_with(&mut self, stop: graph::Stop) {
        self.loaded.stop_with(stop);
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        self.record(step, kv, false)?;
        self.loaded.run(step, kv, tap)
    }

    fn run_greedy(&mut self, step: &Step, kv: &mut Kv) -> Result<Vec<Best>> {
        self.record(step, kv, true)?;
        self.loaded.run_greedy(step, kv)
    }

    fn limits(&mut self) -> Result<Option<Limits>> {
        self.loaded.limits()
    }

    fn profile(&mut self, on: bool) {
        self.loaded.profile(on);
    }

    fn traffic(&self) -> Option<Traffic> {
        self.loaded.traffic()
    }

    fn timings(&self) -> Vec<Timing> {
        self.loaded.timings()
    }
}

fn words_of(device: &Device, range: &Range) -> Result<Vec<u32>> {
    let held = device.read(device.encoder(), range, &mut None)?;
    Ok(held.into_iter().map(f32::to_bits).collect())
}

/// What the buffers of a dispatch hold: group 0, then those of its cache.
fn read(device: &Device, dispatch: &Dispatch, kv: &GpuKv) -> Result<Vec<Vec<u32>>> {
    let cache = dispatch.cache.into_iter().flat_map(|cache| &kv.layers[cache.0].parts);
    dispatch.ranges.iter().chain(cache).map(|range| words_of(device, range)).collect()
}

/// The words that a call writes: those that do not differ between two runs with different poison in the outputs.
fn written_by(device: &Device, call: &Call) -> Result<Vec<(usize, Vec<Option<u32>>)>> {
    let [one, other] = [0xffff_ffff, 0x7fc1_2345].map(|poison| replay(device, call, poison));
    let (one, other) = (one?, other?);
    let written = |at: usize| {
        let inner = |all: &[Vec<u32>]| all[at][GUARD..all[at].len() - GUARD].to_vec();
        let same = |(a, b): (u32, u32)| (a == b).then_some(a);
        (at, inner(&one).into_iter().zip(inner(&other)).map(same).collect())
    };
    Ok(Call::outputs(&call.shader).into_iter().map(written).collect())
}

/// As [`crate::Gpu::replay`].
pub(crate) fn replay(device: &Device, call: &Call, poison: u32) -> Result<Vec<Vec<u32>>> {
    let shader = &call.shader;
    let pipeline = device.pipeline(shader)?;
    let outputs = Call::outputs(shader);
    let mut ranges = Vec::new();
    for (i, held) in call.buffers.iter().enumerate() {
        let mut words = vec![poison; held.len() + 2 * GUARD];
        if !outputs.contains(&i) || Call::updated(shader) == Some(i) {
            words[GUARD..GUARD + held.len()].copy_from_slice(held);
        }
        let buffer = device.buffer("replay", words.len() as u64 * 4)?;
        device.write(&buffer, 0, &words);
        ranges.push(Range { buffer, offset: GUARD as u64 * 4, bytes: held.len() as u64 * 4 });
    }
    let (ours, cache) = ranges.split_at(shader.buffers as usize);
    let bind = device.bind(&pipeline, ours);
    let bind_cache = (!cache.is_empty()).then(|| device.bind_cache(cache));
    let mut encoder = device.encoder();
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind, &[]);
        if let Some(bind_cache) = &bind_cache {
            pass.set_bind_group(1, bind_cache, &[]);
        }
        pass.set_immediates(0, bytemuck::cast_slice(&call.params));
        let [x, y, z] = call.grid;
        pass.dispatch_workgroups(x, y, z);
    }
    device.submit(encoder)?;
    let whole = |range: &Range| Range::whole(&range.buffer, range.bytes + 2 * range.offset);
    ranges.iter().map(|range| words_of(device, &whole(range))).collect()
}
