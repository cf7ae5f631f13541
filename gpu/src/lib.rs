//! The ops of the graph crate on a GPU, through wgpu (Vulkan, Metal, DX12), with the bits of `graph::reference`.

#![deny(unsafe_code)]

mod buffers;
mod clock;
mod device;
mod dispatch;
mod fuse;
pub mod kernels;
mod kv;
mod layout;
mod limits;
mod loaded;
pub mod matrix;
mod model;
pub mod params;
mod plan;
mod planner;
mod probe;
pub mod probes;
pub mod record;
pub mod shaders;
pub mod template;
mod traffic;
mod trust;
mod watch;
mod weights;

use graph::{Backend, Error, ErrorKind, Graph, LoadOptions, Loaded, Mask, Node, Op, Result};
use std::sync::Arc;

/// Ways to reach a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Whatever the system has.
    Any,
    /// Vulkan.
    Vulkan,
    /// Apple's Metal.
    Metal,
    /// DirectX 12.
    Dx12,
}

impl Api {
    fn backends(self) -> wgpu::Backends {
        match self {
            Self::Any => wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
            Self::Vulkan => wgpu::Backends::VULKAN,
            Self::Metal => wgpu::Backends::METAL,
            Self::Dx12 => wgpu::Backends::DX12,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "GPU",
            Self::Vulkan => "Vulkan",
            Self::Metal => "Metal",
            Self::Dx12 => "DirectX 12",
        }
    }
}

/// What a device is, as its driver says.
#[derive(Clone, Debug)]
pub struct Info {
    /// The device's name.
    pub name: String,
    /// How it is reached.
    pub api: &'static str,
    /// `discrete`, `integrated`, `software`, `virtual` or `other`.
    pub kind: &'static str,
    /// The driver and its version.
    pub driver: String,
    /// Least and most threads that run in step.
    pub subgroup: (u32, u32),
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
    /// Bytes that one binding may cover.
    pub max_binding: u64,
    /// Threads in a workgroup.
    pub max_threads: u32,
    /// Bytes that a workgroup may share.
    pub shared_memory: u32,
    /// Buffers that a kernel may bind, and bytes of parameters.
    pub per_kernel: (u32, u32),
    /// Workgroups along one dimension of a grid.
    pub max_groups: u32,
    /// What it can do beyond the least, of what bears on kernels.
    pub features: Vec<&'static str>,
}

/// Names of the features that [`Info`] tells of.
const FEATURES: [(wgpu::Features, &str); 6] = [
    (wgpu::Features::IMMEDIATES, "immediate data"),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::SHADER_F16, "f16"),
    (wgpu::Features::SUBGROUP, "subgroups"),
    (wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, "mappable buffers"),
    (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
];

/// A device that was found.
pub struct Adapter {
    adapter: wgpu::Adapter,
}

fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Noop => "none",
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        wgpu::Backend::Gl => "OpenGL",
        wgpu::Backend::BrowserWebGpu => "WebGPU",
    }
}

/// The devices of this machine, fast ones first; none where there is no driver.
pub fn adapters(api: Api) -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = api.backends();
    descriptor.flags = wgpu::InstanceFlags::empty();
    // A driver that would go on in the host's memory when its own is full says that there is none left instead.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(97);
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters: Vec<_> = pollster::block_on(instance.enumerate_adapters(api.backends()))
        .into_iter()
        .map(|adapter| Adapter { adapter })
        .collect();
    adapters.sort_by_key(|adapter| match adapter.adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// wgpu's device without hardware, which checks shaders, layouts and pipelines and computes nothing. There is one only
/// where wgpu was built with its feature `noop`, as for this crate's tests.
pub fn noop_adapter() -> Option<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::NOOP;
    descriptor.backend_options.noop.enable = true;
    let instance = wgpu::Instance::new(descriptor);
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::NOOP));
    found.into_iter().next().map(|adapter| Adapter { adapter })
}

impl Adapter {
    /// Makes the pipeline of every shader there is, for a device of such arithmetic, and says how many.
    ///
    /// # Errors
    /// The first pipeline that the device refuses.
    pub fn compile_all(&self, probes: probes::Probes) -> Result<usize> {
        let wide = device::Device::connect_wide(&self.adapter)?;
        let mut device = match wide {
            Some(device) if probes.wide => device,
            Some(_) | None => device::Device::connect(&self.adapter)?,
        };
        device.trust(probes);
        let mut all = shaders::all();
        all.retain(|shader| shader.matrix.is_none() || device.can_ask_for_matrices());
        for shader in &all {
            device.pipeline(shader)?;
        }
        Ok(all.len())
    }

    /// What it is.
    pub fn info(&self) -> Info {
        let (info, limits) = (self.adapter.get_info(), self.adapter.limits());
        let has = self.adapter.features();
        Info {
            name: info.name,
            api: backend_name(info.backend),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            subgroup: (info.subgroup_min_size, info.subgroup_max_size),
            max_buffer: limits.max_buffer_size,
            max_binding: limits.max_storage_buffer_binding_size,
            max_threads: limits.max_compute_invocations_per_workgroup,
            shared_memory: limits.max_compute_workgroup_storage_size,
            per_kernel: (limits.max_storage_buffers_per_shader_stage, limits.max_immediate_size),
            max_groups: limits.max_compute_workgroups_per_dimension,
            features: FEATURES.iter().filter(|(f, _)| has.contains(*f)).map(|(_, n)| *n).collect(),
        }
    }

    /// Opens it and probes its arithmetic. `threads` threads of the host lay out weights.
    ///
    /// # Errors
    /// Where the device lacks what the kernels need, or cannot be made to give the contract's bits.
    pub fn open(&self, threads: usize) -> Result<Gpu> {
        let device = probe::open(&self.adapter)?;
        Ok(Gpu { device: Arc::new(device), info: Arc::new(self.info()), threads: threads.max(1) })
    }
}

/// The GPU backend: one opened device.
#[derive(Clone)]
pub struct Gpu {
    device: Arc<device::Device>,
    info: Arc<Info>,
    threads: usize,
}

impl Gpu {
    /// What the device's arithmetic is.
    pub fn probes(&self) -> probes::Probes {
        self.device.probes
    }

    /// The matrix unit that multiplies prompts, where the device has one whose sums are exact.
    pub fn matrix(&self) -> Option<matrix::Matrix> {
        self.device.matrix
    }

    /// The same device with the kernels of one that has threads to spare, to test them on one that has not; `None` where a
    /// workgroup cannot have that many.
    pub fn widened(&self) -> Option<Self> {
        let mut device = device::Device::clone(&self.device);
        device.widen().then(|| self.on(device))
    }

    /// The same device as one that binds no more than `binding` bytes at once, and as few buffers as any device may, to
    /// test what is taken in pieces.
    pub fn narrowed(&self, binding: u64) -> Self {
        let mut device = device::Device::clone(&self.device);
        device.narrow(binding);
        self.on(device)
    }

    /// The same device with naga's checks in every shader, and without doubles, to test those forms of the kernels too.
    pub fn checked(&self) -> Self {
        let mut device = device::Device::clone(&self.device);
        device.check_shaders();
        self.on(device)
    }

    fn on(&self, device: device::Device) -> Self {
        Self { device: Arc::new(device), ..self.clone() }
    }

    /// What it is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Threads that share the work on a row of weights in a step of few rows.
    pub fn lanes(&self) -> usize {
        self.device.lanes
    }

    /// Bytes that are held on the device by everything that uses it, as far as the driver's allocator says.
    pub fn held_bytes(&self) -> Option<u64> {
        self.device.held_bytes()
    }

    /// Gives the device up, for a test: to whatever uses it, it is lost.
    pub fn lose(&self) {
        self.device.lose();
    }

    /// Gives the device work and waits for no time at all, for a test of what happens when one does not answer.
    ///
    /// # Errors
    /// That it did not answer.
    pub fn hang(&self) -> Result<()> {
        limits::hang(&self.device)
    }

    /// A version of the kernels as this device gets them: another text, or another choice, is another version.
    pub fn kernels(&self) -> String {
        let probes = self.device.probes;
        let (lanes, matrix) = (self.device.lanes, self.device.matrix);
        format!("{:016x} {probes:?} {lanes} lanes {matrix:?}", shaders::version())
    }
}

impl Gpu {
    /// Loads a graph whose steps give `sink` every dispatch, with what it read and wrote: for tests of the kernels one
    /// by one. The steps run as usual behind that.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn load_recorded(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        sink: Box<dyn record::Sink>,
    ) -> Result<Box<dyn Loaded>> {
        let loaded = self.load_graph(graph, files, options, &mut |_| {})?;
        Ok(Box::new(record::Recorder::new(loaded, sink)))
    }

    /// Runs one dispatch on copies of its buffers. What it writes begins as `poison`; each buffer has
    /// [`record::GUARD`] words of it before and behind, which are returned too.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn replay(&self, call: &record::Call, poison: u32) -> Result<Vec<Vec<u32>>> {
        record::replay(&self.device, call, poison)
    }

    fn load_graph(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<loaded::LoadedGpu> {
        for node in &graph.nodes {
            self.supports(&graph, node, options)
                .map_err(|why| Error::new(ErrorKind::Unsupported, why))?;
        }
        let buffers = self.device.limits.max_storage_buffers_per_shader_stage;
        let limits = fuse::BindingLimits { bytes: self.device.max_binding(), buffers };
        let fusions = fuse::Fusions::of(&graph, options, limits);
        let files = weights::Files { files, threads: self.threads };
        let weights = weights::load(&self.device, &graph, &fusions, files, progress)?;
        let model = model::Model { graph, fusions, weights, options };
        Ok(loaded::LoadedGpu::new(Arc::clone(&self.device), model))
    }
}

impl Backend for Gpu {
    fn name(&self) -> String {
        format!("gpu {}", self.device.name)
    }

    fn supports(
        &self,
        graph: &Graph,
        node: &Node,
        _: LoadOptions,
    ) -> std::result::Result<(), String> {
        if let Op::Attention(a) = &node.op {
            if a.mask == Mask::None {
                return Err("attention without a mask".to_owned());
            }
            let dim = graph.kv(a.cache).head_dim_v;
            let room = self.device.limits.max_compute_workgroup_storage_size as usize / 4 - 128;
            if dim > room {
                return Err(format!("heads of {dim} elements, room for {room} in a workgroup"));
            }
        }
        Ok(())
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        Ok(Box::new(self.load_graph(graph, files, options, progress)?))
    }
}
