//! One opened GPU: adapter, device, queue, and the shaders that its probes select. Errors of wgpu arrive through its
//! callbacks and become errors of the run that is under way.

use crate::matrix::Matrix;
use crate::probes::Probes;
use crate::shaders::{self, Cache, Shader};
use crate::trust;
use graph::{Error, ErrorKind, Result};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest wait for one submission. A software device takes minutes over a long prompt; a hung one is lost before.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest wait for another thread, which has polled the device meanwhile, to hand on what it was told.
const HANDED_ON: Duration = Duration::from_secs(60);
/// Bytes of parameters that every kernel may have.
pub(crate) const MAX_PARAMS: u32 = 64;
/// Lanes for each row of weights where threads cost nothing.
const WIDE: u32 = 32;
/// What shaders for a matrix unit want.
const MATRIX_FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SHADER_I16)
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::SUBGROUP_BARRIER);
/// What an fma made of doubles wants.
const WIDE_FEATURES: wgpu::Features =
    wgpu::Features::SHADER_F64.union(wgpu::Features::SHADER_INT64);
/// Bytes that are uploaded in one go.
const UPLOAD: usize = 16 << 20;

/// The first error that wgpu reported through a callback.
type Fault = Arc<Mutex<Option<(ErrorKind, String)>>>;

fn set(fault: &Fault, kind: ErrorKind, what: String) {
    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
    fault.get_or_insert((kind, what));
}

/// The device is lost, whatever else went wrong.
fn set_lost(fault: &Fault, what: String) {
    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(*fault, Some((ErrorKind::DeviceLost, _))) {
        *fault = Some((ErrorKind::DeviceLost, what));
    }
}

/// A range of a buffer, to be bound.
#[derive(Clone)]
pub(crate) struct Range {
    pub(crate) buffer: wgpu::Buffer,
    /// In bytes.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Range {
    /// `bytes` bytes from the start.
    pub(crate) fn whole(buffer: &wgpu::Buffer, bytes: u64) -> Self {
        Self { buffer: buffer.clone(), offset: 0, bytes }
    }
}

/// A kernel, compiled.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// A read that was submitted and is not finished.
pub(crate) struct PendingRead {
    index: wgpu::SubmissionIndex,
    staging: Option<wgpu::Buffer>,
    bytes: u64,
    /// How the mapping ended. Whichever thread polls the device first hands that on, not only the one that waits for it.
    mapped: Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

/// The compiled form of a shader, once it has one. Each has a lock of its own: others can be compiled meanwhile.
type Slot = Arc<Mutex<Option<Arc<Pipeline>>>>;

/// An opened device. A clone is the same device, with the same pipelines.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) probes: Probes,
    pub(crate) limits: wgpu::Limits,
    /// Lanes for each row of weights in a step of few rows.
    pub(crate) lanes: usize,
    /// The matrix unit, once it has been found exact.
    pub(crate) matrix: Option<Matrix>,
    /// Whether shaders get naga's checks, in tests.
    pub(crate) checked: bool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    fault: Fault,
    pipelines: Arc<Mutex<HashMap<Shader, Slot>>>,
    kv_layout: wgpu::BindGroupLayout,
    state_layout: wgpu::BindGroupLayout,
}

fn storage(binding: u32, read_only: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

/// The matrix unit that a device says it has: products of f16 with sums in f32, by subgroups of one size. Through Vulkan
/// alone: DirectX has none, and on the way to Metal naga passes workgroup memory to a helper (wgpu issue 4500).
pub(crate) fn offered_matrix(adapter: &wgpu::Adapter) -> Option<Matrix> {
    let info = adapter.get_info();
    let subgroup = info.subgroup_min_size;
    if info.backend != wgpu::Backend::Vulkan
        || !adapter.features().contains(MATRIX_FEATURES)
        || subgroup != info.subgroup_max_size
        || ![8, 16, 32].contains(&subgroup)
    {
        return None;
    }
    let has = |size: u32| {
        adapter.cooperative_matrix_properties().iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [size; 3]
                && p.ab_type == wgpu::CooperativeScalarType::F16
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
    };
    let matrix = Matrix { size: [16, 8].into_iter().find(|&size| has(size))?, subgroup };
    let room = adapter.limits().max_compute_workgroup_storage_size;
    (matrix.shared_memory() <= room).then_some(matrix)
}

fn cannot(name: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{name}: {why}"))
}

impl Device {
    /// Opens an adapter; nothing is known of its arithmetic yet.
    pub(crate) fn connect(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::connect_with(adapter, wgpu::Features::empty())
    }

    /// The same with doubles and 64-bit integers in shaders; `None` where the adapter has none.
    pub(crate) fn connect_wide(adapter: &wgpu::Adapter) -> Result<Option<Self>> {
        let info = adapter.get_info();
        // Metal has no doubles, and naga writes none of their bits for DirectX. The device of the tests takes all.
        let takes = matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Noop)
            && adapter.features().contains(WIDE_FEATURES);
        takes.then(|| Self::connect_with(adapter, WIDE_FEATURES)).transpose()
    }

    fn connect_with(adapter: &wgpu::Adapter, more: wgpu::Features) -> Result<Self> {
        let info = adapter.get_info();
        let name = format!("{} ({})", info.name, crate::backend_name(info.backend));
        let limits = adapter.limits();
        if !adapter.features().contains(wgpu::Features::IMMEDIATES)
            || limits.max_immediate_size < MAX_PARAMS
        {
            return Err(cannot(
                &name,
                "takes no immediate data (push constants), which the kernels need",
            ));
        }
        if limits.max_compute_invocations_per_workgroup < 256
            || limits.max_storage_buffers_per_shader_stage < 6
        {
            let found = limits.max_compute_invocations_per_workgroup;
            let buffers = limits.max_storage_buffers_per_shader_stage;
            return Err(cannot(
                &name,
                format!(
                    "{found} threads and {buffers} buffers in a workgroup, the kernels need 256 and 6"
                ),
            ));
        }
        let mut features = wgpu::Features::TIMESTAMP_QUERY | more;
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if offered_matrix(adapter).is_some() {
            features |= MATRIX_FEATURES;
            experimental = trust::experimental();
        }
        let description = wgpu::DeviceDescriptor {
            label: Some("karat"),
            required_features: wgpu::Features::IMMEDIATES | (adapter.features() & features),
            required_limits: limits.clone(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&description))
            .map_err(|e| Error::new(ErrorKind::DeviceLost, format!("{name}: {e}")))?;
        let mut device = Self::new(name, device, queue, limits);
        // A real GPU has threads to spare; in software each costs.
        if info.subgroup_min_size >= 16 {
            device.widen();
        }
        Ok(device)
    }

    fn new(name: String, device: wgpu::Device, queue: wgpu::Queue, limits: wgpu::Limits) -> Self {
        let fault = Fault::default();
        let sink = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| match error {
            wgpu::Error::OutOfMemory { source } => {
                set(&sink, ErrorKind::OutOfMemory, source.to_string())
            }
            wgpu::Error::Validation { description, .. }
            | wgpu::Error::Internal { description, .. } => {
                set(&sink, ErrorKind::Unsupported, description);
            }
        }));
        let sink = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device calls this too, when nobody listens any more.
            set_lost(&sink, format!("device lost ({reason:?}): {message}"));
        });
        let kv_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("kv"),
            entries: &[storage(0, false), storage(1, false)],
        });
        let state_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("state"),
            entries: &[storage(0, false)],
        });
        Self {
            name,
            probes: Probes::worst(),
            limits,
            lanes: 8,
            matrix: None,
            checked: false,
            device,
            queue,
            fault,
            pipelines: Arc::default(),
            kv_layout,
            state_layout,
        }
    }

    /// Compiles every shader with naga's checks, and without doubles, from now on.
    pub(crate) fn check_shaders(&mut self) {
        self.checked = true;
        self.trust(Probes { wide: false, ..self.probes });
    }

    /// Makes shaders for such arithmetic from now on.
    pub(crate) fn trust(&mut self, probes: Probes) {
        self.probes = probes;
        self.pipelines = Arc::default();
    }

    /// Whether the device was opened with what shaders for a matrix unit want.
    pub(crate) fn can_ask_for_matrices(&self) -> bool {
        self.device.features().contains(MATRIX_FEATURES)
    }

    /// Takes the kernels with many lanes, if a workgroup may have their threads.
    pub(crate) fn widen(&mut self) -> bool {
        let enough = self.limits.max_compute_invocations_per_workgroup >= 32 * WIDE;
        if enough {
            self.lanes = WIDE as usize;
        }
        enough
    }

    /// Binds no more than `bytes` bytes at once, and no more buffers than WebGPU promises.
    pub(crate) fn narrow(&mut self, bytes: u64) {
        self.limits.max_storage_buffer_binding_size = bytes;
        self.limits.max_storage_buffers_per_shader_stage = 8;
    }

    /// The error that a callback left, if any. A lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &*fault {
            Some((ErrorKind::DeviceLost, _)) => fault.clone(),
            Some(_) | None => fault.take(),
        };
        match found {
            None => Ok(()),
            Some((kind, what)) => {
                let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
                Err(Error::new(kind, format!("{}: {what}", self.name)))
            }
        }
    }

    /// As [`crate::Gpu::lose`].
    pub(crate) fn lose(&self) {
        self.device.destroy();
        set_lost(&self.fault, "device lost: given up".to_owned());
    }

    /// As [`crate::Gpu::held_bytes`].
    pub(crate) fn held_bytes(&self) -> Option<u64> {
        // What was dropped is freed when the device looks.
        self.device.poll(wgpu::PollType::Poll).ok()?;
        Some(self.device.generate_allocator_report()?.total_allocated_bytes)
    }

    /// The compiled form of a shader, made at its first use.
    pub(crate) fn pipeline(&self, shader: &Shader) -> Result<Arc<Pipeline>> {
        let slot = {
            let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(pipelines.entry(shader.clone()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*slot {
            return Ok(Arc::clone(pipeline));
        }
        let pipeline = Arc::new(self.compile(shader)?);
        *slot = Some(Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(&self, shader: &Shader) -> Result<Pipeline> {
        let source = shaders::source(shader, self.probes)
            .map_err(|e| Error::new(ErrorKind::Unsupported, e))?;
        let label = Some(shader.file);
        let source = wgpu::ShaderSource::Wgsl(source.into());
        let description = wgpu::ShaderModuleDescriptor { label, source };
        let module = if self.checked {
            self.device.create_shader_module(description)
        } else {
            trust::shader_module(&self.device, description)
        };
        let entries: Vec<_> =
            (0..shader.buffers).map(|i| storage(i, i + shader.writes < shader.buffers)).collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &entries,
        });
        let cache_layout = match shader.cache {
            Cache::None => None,
            Cache::Reads | Cache::Writes => Some(&self.kv_layout),
            Cache::State => Some(&self.state_layout),
        };
        let groups = [Some(&layout), cache_layout];
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &groups[..1 + usize::from(cache_layout.is_some())],
            immediate_size: MAX_PARAMS,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.check()?;
        Ok(Pipeline { pipeline, layout })
    }

    /// A buffer of the device, zeroed; `what` is for the error.
    pub(crate) fn buffer(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        self.buffer_for(what, bytes, usage)
    }

    fn buffer_for(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        let largest = self.limits.max_buffer_size;
        if size > largest {
            let message =
                format!("{what}: {size} bytes, {} has buffers of up to {largest}", self.name);
            return Err(Error::new(ErrorKind::OutOfMemory, message));
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        });
        self.check().map_err(|e| {
            Error::new(e.kind(), format!("{what}: no memory for {size} bytes: {e}"))
        })?;
        Ok(buffer)
    }

    /// Bytes that one binding may cover, a multiple of every alignment.
    pub(crate) fn max_binding(&self) -> u64 {
        let limit = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        // Shaders count bytes in 32 bits.
        let limit = limit.min(u64::from(u32::MAX));
        limit - limit % 65536
    }

    /// Binds ranges in order.
    pub(crate) fn bind(&self, pipeline: &Pipeline, ranges: &[Range]) -> wgpu::BindGroup {
        self.bind_to(&pipeline.layout, ranges)
    }

    fn bind_to(&self, layout: &wgpu::BindGroupLayout, ranges: &[Range]) -> wgpu::BindGroup {
        let entries: Vec<_> = (0u32..)
            .zip(ranges)
            .map(|(binding, range)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &range.buffer,
                    offset: range.offset,
                    size: std::num::NonZeroU64::new(range.bytes.next_multiple_of(4)),
                }),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout,
            entries: &entries,
        })
    }

    /// Binds the cache of a layer: K and V, or its state.
    pub(crate) fn bind_cache(&self, ranges: &[Range]) -> wgpu::BindGroup {
        let layout = if ranges.len() == 1 { &self.state_layout } else { &self.kv_layout };
        self.bind_to(layout, ranges)
    }

    /// Whether the device can time passes.
    pub(crate) fn has_clock(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Nanoseconds of a tick.
    pub(crate) fn tick_ns(&self) -> f32 {
        self.queue.get_timestamp_period()
    }

    pub(crate) fn query_set(&self, count: u32) -> wgpu::QuerySet {
        self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        })
    }

    /// Where queries are resolved, and where they are kept.
    pub(crate) fn query_buffers(&self, bytes: u64) -> Result<(wgpu::Buffer, wgpu::Buffer)> {
        let copies = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let resolve = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok((
            self.buffer_for("timestamps", bytes, resolve)?,
            self.buffer_for("timestamps", bytes, copies)?,
        ))
    }

    /// Writes before everything that is submitted later.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: u64, words: &[u32]) {
        if !words.is_empty() {
            self.queue.write_buffer(buffer, offset, bytemuck::cast_slice(words));
        }
    }

    /// Writes much, a piece at a time, so that no second copy of it is held for long.
    pub(crate) fn upload(&self, buffer: &wgpu::Buffer, offset: u64, words: &[u32]) -> Result<()> {
        for (i, piece) in words.chunks(UPLOAD / 4).enumerate() {
            self.write(buffer, offset + (i * UPLOAD) as u64, piece);
            self.wait(self.queue.submit([]))?;
        }
        Ok(())
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Runs what was encoded and waits for it.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> Result<()> {
        self.submit_for(encoder, PATIENCE)
    }

    /// The same with another patience.
    pub(crate) fn submit_for(
        &self,
        encoder: wgpu::CommandEncoder,
        patience: Duration,
    ) -> Result<()> {
        let index = self.queue.submit([encoder.finish()]);
        self.wait_for(index, patience)
    }

    pub(crate) fn wait(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        self.wait_for(index, PATIENCE)
    }

    /// A device that does not answer in time is lost: nobody knows what its buffers will hold.
    fn wait_for(&self, index: wgpu::SubmissionIndex, patience: Duration) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(patience) };
        if let Err(e) = self.device.poll(wait) {
            set_lost(&self.fault, format!("device lost: {e} after {patience:?}"));
        }
        self.check()
    }

    /// Runs what was encoded, then reads a range as f32. `staging` is kept between calls.
    pub(crate) fn read(
        &self,
        encoder: wgpu::CommandEncoder,
        range: &Range,
        staging: &mut Option<wgpu::Buffer>,
    ) -> Result<Vec<f32>> {
        let pending = self.start_read(None, encoder, range, staging)?;
        self.finish_read(pending)
    }

    /// The first half of [`Device::read`]: submits, after commands that may have been encoded before, and does not wait.
    pub(crate) fn start_read(
        &self,
        ready: Option<wgpu::CommandBuffer>,
        mut encoder: wgpu::CommandEncoder,
        Range { buffer, offset, bytes }: &Range,
        staging: &mut Option<wgpu::Buffer>,
    ) -> Result<PendingRead> {
        let bytes = bytes.next_multiple_of(4);
        if staging.as_ref().is_none_or(|s| s.size() < bytes) {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            *staging = Some(self.buffer_for("read-back", bytes.next_power_of_two(), usage)?);
        }
        let (sender, mapped) = channel();
        let staging = staging.clone().filter(|_| bytes > 0);
        if let Some(staging) = &staging {
            encoder.copy_buffer_to_buffer(buffer, *offset, staging, 0, bytes);
        }
        let index = self.queue.submit(ready.into_iter().chain([encoder.finish()]));
        if let Some(staging) = &staging {
            staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
                // Nobody waits any more where the device was lost.
                let _ = sender.send(result);
            });
        }
        Ok(PendingRead { index, staging, bytes, mapped })
    }

    /// The second half: waits, and reads.
    pub(crate) fn finish_read(&self, pending: PendingRead) -> Result<Vec<f32>> {
        self.wait(pending.index)?;
        let Some(staging) = pending.staging else { return Ok(Vec::new()) };
        let result = pending.mapped.recv_timeout(HANDED_ON);
        let lost = |why: String| Error::new(ErrorKind::DeviceLost, format!("{}: {why}", self.name));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(lost(format!("results cannot be read: {e}"))),
            Err(_) => return Err(lost("results did not arrive".to_owned())),
        }
        let slice = staging.slice(..pending.bytes);
        let view = slice.get_mapped_range().map_err(|e| lost(e.to_string()))?;
        let values =
            view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        drop(view);
        staging.unmap();
        Ok(values)
    }
}
