//! From the flags to a model that is ready to run: file, tokenizer, plan of the memory, weights.

use crate::bar::{LoadBar, Unit};
use crate::budget::Budget;
use crate::exit::{Code, failure, say};
use crate::{check, devices, sources};
use anyhow::{Context as _, Result};
use graph::split::Split;
use graph::{Arithmetic, Backend, Graph, KvType, LoadOptions};
use karat::{Config, text};
use model::{Engine, EngineOptions, Memory, SeqId, Spec, StopRules};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokenizer::{ChatTemplate, Tokenizer};

/// Positions where the user does not say how many: enough to talk, and a cache that is quick to have.
const DEFAULT_CTX: usize = 4096;
/// Warnings of a file that are printed.
const MAX_WARNINGS: usize = 5;

/// Which model.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// The model: a GGUF file, a name of `karat list`, or a source as for `karat pull`
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<OsString>,
}

/// How to load it.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct LoadArgs {
    /// Positions of the context; 0 takes as many as the model was trained on [default: those, up to 4096, and what fits
    /// in memory]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Tokens of the prompt that are computed at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    batch_size: usize,
    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// What computes: the fast CPU kernels, a GPU (through any API, or a named one), both in f32 (hybrid-f32), or the
    /// slow reference that defines what is right
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Layers on the GPU, the last ones; the output counts as one. More than there are means all, 0 none; the bits are
    /// the same for every N [default: all, and half of them with hybrid-f32]
    #[arg(long, value_name = "N", visible_alias = "ngl")]
    gpu_layers: Option<usize>,
    /// Which GPU: its number in `karat devices`, or a part of its name [default: the first]
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Mebibytes that the model may take on the GPU; more is refused before anything is loaded [default: as many as the
    /// machine has free]
    #[arg(long, value_name = "MIB")]
    gpu_memory: Option<u64>,
    /// Compute on a GPU although its kernels fail their self-test (`karat check`), or have not passed it
    #[arg(long)]
    unchecked: bool,
    /// int8 rounds activations as ggml's CPU backend does; f32 dequantises the weights
    #[arg(long, value_enum, default_value_t = ArithmeticName::Int8)]
    arithmetic: ArithmeticName,
    /// Element type of the KV cache
    #[arg(long, value_enum, default_value_t = CacheType::F16)]
    cache_type: CacheType,
    /// Map the file instead of reading it; it must not be changed while it is in use
    #[arg(long)]
    mmap: bool,
    /// Look for NaN and infinities in all weights first
    #[arg(long)]
    check_tensors: bool,
    /// Sequences at the same time; commands that run several say how many.
    #[arg(skip = 1usize)]
    n_seqs: usize,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum BackendName {
    Cpu,
    Gpu,
    Vulkan,
    Metal,
    Dx12,
    #[value(name = "hybrid-f32")]
    HybridF32,
    Reference,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ArithmeticName {
    Int8,
    F32,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum CacheType {
    F16,
    F32,
}

/// A model that is ready to run, with one sequence.
pub(crate) struct Model {
    /// The weights and the cache.
    pub(crate) engine: Engine,
    /// The sequence.
    pub(crate) seq: SeqId,
    /// Text to ids and back.
    pub(crate) tokenizer: Tokenizer,
    /// When a text ends.
    pub(crate) stop: StopRules,
    /// What it is and how it was loaded.
    pub(crate) info: Info,
}

/// Seconds of each part of a load.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct LoadTimes {
    /// Finding, opening and checking the file.
    pub(crate) open: f64,
    /// Vocabulary and merges.
    pub(crate) tokenizer: f64,
    /// Spec, graph and plan of the memory, and `--check-tensors`.
    pub(crate) graph: f64,
    /// Weights read and repacked.
    pub(crate) weights: f64,
    /// The KV cache.
    pub(crate) cache: f64,
}

/// A stopwatch for the parts of a load.
struct Laps(Instant);

impl Laps {
    /// Seconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now)).as_secs_f64()
    }
}

/// A model's file and graph without weights, for commands that run it on several backends.
pub(crate) struct Parts {
    /// The file.
    pub(crate) path: PathBuf,
    /// The open file.
    pub(crate) file: gguf::File,
    /// Text to ids and back.
    pub(crate) tokenizer: Tokenizer,
    /// The graph.
    pub(crate) graph: Arc<Graph>,
    /// How weights and cache are held.
    pub(crate) options: LoadOptions,
}

impl Parts {
    /// Opens a model for contexts of up to `n_ctx` positions.
    pub(crate) fn open(
        model: Option<&OsStr>,
        args: &LoadArgs,
        config: &Config,
        n_ctx: usize,
    ) -> Result<Self> {
        let path = sources::resolve(model, config)?;
        let access = if args.mmap { gguf::Access::Mmap } else { gguf::Access::Pread };
        let file = open(&path, access)?;
        let tokenizer = tokenizer(&file, &path)?;
        let spec = model::spec(&file).with_context(|| text::path(&path))?;
        let graph = Arc::new(model::graph(&spec, &file, args.ctx_size.unwrap_or(n_ctx))?);
        Ok(Self { path, file, tokenizer, graph, options: args.options() })
    }

    /// Loads the weights into a backend, with a bar.
    pub(crate) fn load(&self, backend: &dyn Backend) -> Result<Box<dyn graph::Loaded>> {
        load_graph((&self.graph, &self.file, self.options), backend)
    }
}

/// What a model is and how it was loaded.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Info {
    /// The file.
    pub(crate) path: String,
    /// `general.name`, or the file's name.
    pub(crate) name: String,
    /// `general.architecture`.
    pub(crate) arch: String,
    /// Weights of all tensors.
    pub(crate) n_params: u64,
    /// Bytes of all tensors.
    pub(crate) weight_bytes: u64,
    /// Bytes of the file, or of all its parts.
    pub(crate) file_bytes: u64,
    /// Bytes of the KV cache.
    pub(crate) kv_bytes: u64,
    /// Positions of the context.
    pub(crate) n_ctx: usize,
    /// Tokens of a step.
    pub(crate) n_batch: usize,
    /// Name of the backend.
    pub(crate) backend: String,
    /// Threads that were asked for.
    pub(crate) threads: usize,
    /// `int8` or `f32`.
    pub(crate) arithmetic: &'static str,
    /// `f16` or `f32`.
    pub(crate) cache_type: &'static str,
    /// Seconds from the flags to the ready model.
    pub(crate) load_seconds: f64,
    /// The parts of that.
    pub(crate) load_times: LoadTimes,
}

/// 1 and more.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("allowed are whole numbers from 1".to_owned()),
        Ok(n) => Ok(n),
    }
}

/// Opens a model file and says what is odd about it.
pub(crate) fn open(path: &Path, access: gguf::Access) -> Result<gguf::File> {
    let file = gguf::File::open(path, access)?;
    warn(file.warnings());
    Ok(file)
}

/// The tokenizer of a file; what is odd about it is said.
pub(crate) fn tokenizer(file: &gguf::File, path: &Path) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(file).with_context(|| text::path(path))?;
    warn(tokenizer.warnings());
    Ok(tokenizer)
}

fn warn(warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        say("warning", warning);
    }
    if warnings.len() > MAX_WARNINGS {
        say("warning", &format!("{} more of this kind", warnings.len() - MAX_WARNINGS));
    }
}

impl Model {
    /// Loads a model. Everything that can be refused is refused before memory for weights is taken.
    pub(crate) fn load(model: Option<&OsStr>, args: &LoadArgs, config: &Config) -> Result<Self> {
        let path = sources::resolve(model, config)?;
        let start = Instant::now();
        let mut laps = Laps(start);
        let access = if args.mmap { gguf::Access::Mmap } else { gguf::Access::Pread };
        let file = open(&path, access)?;
        let open = laps.lap();
        let tokenizer = tokenizer(&file, &path)?;
        let tokenizer_time = laps.lap();
        if args.check_tensors {
            check_tensors(&file)?;
        }
        let spec = model::spec(&file).with_context(|| text::path(&path))?;
        let plan = Plan::new(args, &spec, &file).with_context(|| text::path(&path))?;
        let backend = args.checked_backend(&plan.graph, plan.load, config)?;
        let name = backend.name();
        let graph = laps.lap();
        let loaded = plan.load(&*backend, &file)?;
        let weights = laps.lap();
        let mut engine = Engine::new(loaded, plan.engine)?;
        let cache = laps.lap();
        let load_times = LoadTimes { open, tokenizer: tokenizer_time, graph, weights, cache };
        let seq = engine.add();
        let stop = StopRules { end_ids: tokenizer.eog_ids().collect(), max_tokens: None };
        stop.check(engine.n_vocab())?;
        let info = Info {
            path: path.to_string_lossy().into_owned(),
            name: model_name(&file, &path),
            arch: spec.arch,
            n_params: file.tensors().iter().map(gguf::TensorInfo::n_elements).sum(),
            weight_bytes: plan.memory.weights,
            file_bytes: file.n_bytes(),
            kv_bytes: plan.memory.kv,
            n_ctx: plan.engine.n_ctx,
            n_batch: plan.engine.n_batch,
            backend: name,
            threads: args.threads(),
            arithmetic: args.arithmetic_name(),
            cache_type: args.cache_type_name(),
            load_seconds: start.elapsed().as_secs_f64(),
            load_times,
        };
        Ok(Self { engine, seq, tokenizer, stop, info })
    }

    /// The file's chat template.
    ///
    /// # Errors
    /// Exit 7 where there is none, or it cannot be compiled.
    pub(crate) fn template(&self) -> Result<ChatTemplate> {
        ChatTemplate::from_tokenizer(&self.tokenizer)
            .context("use --raw for a prompt without a template")
    }
}

fn model_name(file: &gguf::File, path: &Path) -> String {
    match file.str("general.name") {
        Ok(Some(name)) if !name.is_empty() => text::shortened(&name, 80),
        Ok(_) | Err(_) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

impl LoadArgs {
    /// At least `n_ctx` positions where the user does not say how many, for each of `n_seqs` sequences.
    pub(crate) fn needs(&mut self, n_ctx: usize, n_seqs: usize) {
        self.ctx_size.get_or_insert(n_ctx);
        self.n_seqs = n_seqs;
    }

    /// `-c`, if it was given or needed.
    pub(crate) fn ctx_size(&self) -> Option<usize> {
        self.ctx_size
    }

    /// `-b`.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// `-t`, or the physical cores.
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(default_threads)
    }

    /// Whether the fast CPU backend computes.
    pub(crate) fn is_cpu(&self) -> bool {
        match self.backend {
            BackendName::Cpu => true,
            BackendName::Gpu
            | BackendName::Vulkan
            | BackendName::Metal
            | BackendName::Dx12
            | BackendName::HybridF32
            | BackendName::Reference => false,
        }
    }

    /// Whether one device computes that can time its ops: the CPU, or a GPU with all layers.
    pub(crate) fn is_one_device(&self) -> bool {
        match self.backend {
            BackendName::Cpu => true,
            BackendName::Gpu | BackendName::Vulkan | BackendName::Metal | BackendName::Dx12 => {
                self.gpu_layers.is_none()
            }
            BackendName::HybridF32 | BackendName::Reference => false,
        }
    }

    /// `int8` or `f32`.
    pub(crate) fn arithmetic_name(&self) -> &'static str {
        match self.options().arithmetic {
            Arithmetic::Int8 => "int8",
            Arithmetic::F32 => "f32",
        }
    }

    fn cache_type_name(&self) -> &'static str {
        match self.cache_type {
            CacheType::F16 => "f16",
            CacheType::F32 => "f32",
        }
    }

    /// The backend of this name, as with `--backend`; `None` for a name that is none.
    ///
    /// # Errors
    /// As [`LoadArgs::backend`].
    pub(crate) fn backend_named(
        &self,
        name: &str,
        n_layer: usize,
    ) -> Result<Option<Box<dyn Backend>>> {
        let Ok(backend) = <BackendName as clap::ValueEnum>::from_str(name, true) else {
            return Ok(None);
        };
        let mut args = Self { backend, ..self.clone() };
        if matches!(backend, BackendName::Cpu | BackendName::Reference) {
            (args.device, args.gpu_layers, args.gpu_memory) = (None, None, None);
        }
        args.backend(n_layer).map(Some)
    }

    /// The name that `--backend` has.
    pub(crate) fn backend_name(&self) -> String {
        let name = clap::ValueEnum::to_possible_value(&self.backend);
        name.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The same with so many layers on the GPU; `None` without one.
    pub(crate) fn with_gpu_layers(&self, n: usize) -> Option<Self> {
        let without = matches!(self.backend, BackendName::Cpu | BackendName::Reference);
        (!without).then(|| Self { gpu_layers: Some(n), ..self.clone() })
    }

    /// What computes a model of so many layers.
    ///
    /// # Errors
    /// Exit 6 where a GPU is asked for and there is none, or it cannot be used; exit 2 for `--device` or `--gpu-layers`
    /// without a GPU.
    pub(crate) fn backend(&self, n_layer: usize) -> Result<Box<dyn Backend>> {
        self.assemble(self.gpu()?, n_layer)
    }

    /// The same for a graph that is used in earnest: a GPU must pass its self-test, or have passed it.
    ///
    /// # Errors
    /// As [`LoadArgs::backend`], and exit 6 for a GPU that computes wrong numbers.
    fn checked_backend(
        &self,
        graph: &Graph,
        options: LoadOptions,
        config: &Config,
    ) -> Result<Box<dyn Backend>> {
        let gpu = self.gpu()?;
        if let Some(gpu) = gpu.as_ref().filter(|_| !self.unchecked) {
            check::require(gpu, graph, options, config)?;
        }
        self.assemble(gpu, graph.n_layers())
    }

    /// What `karat check` tests: a GPU, where one is asked for, and what computes on it.
    ///
    /// # Errors
    /// As [`LoadArgs::backend`].
    pub(crate) fn to_check(&self) -> Result<(Option<gpu::Gpu>, Box<dyn Backend>)> {
        match self.gpu()? {
            Some(gpu) => Ok((Some(gpu.clone()), Box::new(gpu))),
            None => Ok((None, self.assemble(None, 0)?)),
        }
    }

    /// The GPU that is asked for.
    fn gpu(&self) -> Result<Option<gpu::Gpu>> {
        let api = match self.backend {
            BackendName::Cpu | BackendName::Reference if self.gpu_flag().is_some() => {
                let flag = self.gpu_flag().unwrap_or_default();
                let what =
                    format!("{flag}: only with --backend gpu, vulkan, metal, dx12 or hybrid-f32");
                return Err(failure(Code::Usage, what));
            }
            BackendName::Cpu | BackendName::Reference => return Ok(None),
            BackendName::Gpu | BackendName::HybridF32 => gpu::Api::Any,
            BackendName::Vulkan => gpu::Api::Vulkan,
            BackendName::Metal => gpu::Api::Metal,
            BackendName::Dx12 => gpu::Api::Dx12,
        };
        // The device is opened even for no layer: who asks for one that is not there hears of it.
        devices::open(api, self.device.as_deref(), self.threads()).map(Some)
    }

    /// A flag that means nothing without a GPU, if one was given.
    fn gpu_flag(&self) -> Option<&'static str> {
        let given = [
            ("--device", self.device.is_some()),
            ("--gpu-layers", self.gpu_layers.is_some()),
            ("--gpu-memory", self.gpu_memory.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// How many of a model's layers, the output among them, lie on the GPU; 0 without one.
    fn on_gpu(&self, n_layer: usize) -> usize {
        let all = n_layer + 1;
        let default = match self.backend {
            BackendName::Cpu | BackendName::Reference => return 0,
            BackendName::HybridF32 => all.div_ceil(2),
            BackendName::Gpu | BackendName::Vulkan | BackendName::Metal | BackendName::Dx12 => all,
        };
        self.gpu_layers.unwrap_or(default).min(all)
    }

    /// CPU and GPU with their layers.
    fn assemble(&self, gpu: Option<gpu::Gpu>, n_layer: usize) -> Result<Box<dyn Backend>> {
        if let BackendName::Reference = self.backend {
            return Ok(Box::new(graph::reference::Reference));
        }
        let cpu = cpu::Cpu::new(self.threads());
        let Some(gpu) = gpu else { return Ok(Box::new(cpu)) };
        let (all, on_gpu) = (n_layer + 1, self.on_gpu(n_layer));
        if on_gpu == all {
            return Ok(Box::new(gpu));
        }
        if on_gpu == 0 {
            return Ok(Box::new(cpu));
        }
        let layers = all - on_gpu;
        Ok(Box::new(Split { head: Box::new(cpu), tail: Box::new(gpu), layers }))
    }

    /// How weights and cache are held.
    pub(crate) fn options(&self) -> LoadOptions {
        let arithmetic = match (self.arithmetic, self.backend) {
            (ArithmeticName::F32, _) | (_, BackendName::HybridF32) => Arithmetic::F32,
            (ArithmeticName::Int8, _) => Arithmetic::Int8,
        };
        let kv = match self.cache_type {
            CacheType::F16 => KvType::F16,
            CacheType::F32 => KvType::F32,
        };
        LoadOptions { arithmetic, kv }
    }
}

/// A second thread on a core brings nothing to kernels that wait for memory; a control group may allow fewer.
pub(crate) fn default_threads() -> usize {
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}

/// What will be loaded, checked to fit.
struct Plan {
    graph: Arc<Graph>,
    load: LoadOptions,
    engine: EngineOptions,
    memory: Memory,
}

impl Plan {
    fn new(args: &LoadArgs, spec: &Spec, file: &gguf::File) -> Result<Self> {
        let load = args.options();
        let n_layer = spec.layers.len();
        let budget = Budget::new(args.gpu_memory, args.on_gpu(n_layer), n_layer);
        let limit = budget.of_most();
        let n_ctx = match args.ctx_size {
            Some(0) => spec.n_ctx_train,
            Some(n) => n,
            None => spec.n_ctx_train.min(DEFAULT_CTX),
        };
        if n_ctx > spec.n_ctx_train {
            let trained = spec.n_ctx_train;
            say(
                "warning",
                &format!(
                    "-c: the model was trained on {trained} positions, {n_ctx} may give bad text"
                ),
            );
        }
        let mut engine = EngineOptions {
            n_ctx,
            n_batch: args.batch_size,
            n_seqs: args.n_seqs,
            keep: model::Keep::All,
        };
        let mut graph = model::graph(spec, file, n_ctx)?;
        if args.ctx_size.is_none()
            && let Some(fits) = model::largest_context(&graph, load, &engine, limit)
            && fits < n_ctx
        {
            say(
                "warning",
                &format!(
                    "the context is {fits} positions instead of {n_ctx}: more does not fit in memory"
                ),
            );
            engine.n_ctx = fits;
            graph = model::graph(spec, file, fits)?;
        }
        let memory = budget.check(&graph, load, &engine)?;
        Ok(Self { graph: Arc::new(graph), load, engine, memory })
    }

    fn load(&self, backend: &dyn Backend, file: &gguf::File) -> Result<Box<dyn graph::Loaded>> {
        load_graph((&self.graph, file, self.load), backend)
    }
}

/// Makes a graph's weights resident, with a bar; what the backend cannot do is refused before.
fn load_graph(
    (graph, file, options): (&Arc<Graph>, &gguf::File, LoadOptions),
    backend: &dyn Backend,
) -> Result<Box<dyn graph::Loaded>> {
    for node in &graph.nodes {
        if let Err(reason) = backend.supports(graph, node, options) {
            return Err(failure(Code::Device, format!("{}: {reason}", backend.name())));
        }
    }
    let total = file.tensors().iter().map(|tensor| tensor.n_bytes).sum();
    let mut bar = LoadBar::new("loading", total, Unit::Bytes);
    let loaded = backend.load(Arc::clone(graph), &[file], options, &mut |n| {
        // A tied embedding is read twice where both halves of a split use it.
        bar.at(n.min(total));
    });
    bar.finish();
    Ok(loaded.map_err(model::Error::from)?)
}

/// Refuses weights that are no numbers, by tensor and block.
pub(crate) fn check_tensors(file: &gguf::File) -> Result<()> {
    let total = file.tensors().iter().map(|tensor| tensor.n_bytes).sum();
    let mut bar = LoadBar::new("checking", total, Unit::Bytes);
    let mut done = 0;
    for tensor in file.tensors() {
        let data = file.data(tensor)?;
        if let Some(block) = gguf::check_tensor(tensor.dtype, &data) {
            let what = format!(
                "{}: tensor \"{}\": block {block} of {} holds NaN or an infinity",
                text::path(file.path().unwrap_or(Path::new("?"))),
                text::one_line(&tensor.name),
                tensor.dtype
            );
            return Err(failure(Code::BadFile, what));
        }
        done += tensor.n_bytes;
        bar.at(done);
    }
    bar.finish();
    Ok(())
}
