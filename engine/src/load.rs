//! From a source to weights on a device: file, tokenizer, plan of the memory, self-test, weights.

use crate::budget::Budget;
use crate::check::Subject;
use crate::config::Config;
use crate::devices;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listener, Progress, Task};
use crate::options::Options;
use crate::sources;
use crate::text;
use graph::{Backend, Graph, LoadOptions, Loaded};
use model::{Engine, EngineOptions, Memory, Recommended, Spec};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokenizer::Tokenizer;

/// Positions where the user does not say how many: enough to talk, and a cache that is quick to have.
const DEFAULT_CTX: usize = 4096;
/// Warnings of a file that are told one by one.
const MAX_WARNINGS: usize = 5;

/// What a model is and how it was loaded.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Info {
    /// The file.
    pub path: String,
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub arch: String,
    /// Weights of all tensors.
    pub n_params: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Bytes of the file, or of all its parts.
    pub file_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    /// Positions of the context.
    pub n_ctx: usize,
    /// Tokens of a step.
    pub n_batch: usize,
    /// Name of the backend.
    pub backend: String,
    /// Threads that were asked for.
    pub threads: usize,
    /// `int8` or `f32`.
    pub arithmetic: &'static str,
    /// `f16` or `f32`.
    pub cache_type: &'static str,
    /// Seconds from the options to the ready model.
    pub load_seconds: f64,
    /// The parts of that.
    pub load_times: LoadTimes,
}

/// Seconds of each part of a load.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct LoadTimes {
    /// Opening and checking the file.
    pub open: f64,
    /// Vocabulary and merges.
    pub tokenizer: f64,
    /// Spec, graph and plan of the memory, [`Options::check_tensors`] and the self-test.
    pub graph: f64,
    /// Weights read and repacked.
    pub weights: f64,
    /// The KV cache.
    pub cache: f64,
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

/// How tokens are to be chosen.
pub(crate) struct Sampling {
    /// By the file, and by the card for what the file leaves open.
    pub(crate) recommended: Recommended,
    /// What of that the card says.
    pub(crate) card: Recommended,
}

/// Everything that [`crate::Model`] is made of.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) sampling: Sampling,
    pub(crate) info: Info,
}

/// Loads a model. Everything that can be refused is refused before memory for weights is taken.
pub(crate) fn open(
    source: Option<&OsStr>,
    options: &Options,
    config: &Config,
    listener: Listener<'_>,
) -> Result<Opened> {
    options.check()?;
    let path = sources::resolve(source, config, listener)?;
    let start = Instant::now();
    let mut laps = Laps(start);
    let file = open_file(&path, access(options), listener)?;
    let open = laps.lap();
    let tokenizer = read_tokenizer(&file, &path, listener)?;
    let tokenizer_time = laps.lap();
    if options.check_tensors {
        check_tensors(&file, listener)?;
    }
    let spec = read_spec(&file, &path, listener)?;
    let by_file = Recommended::of(&file);
    warn(&by_file.warnings, listener);
    let card = sources::card(&by_file, source, config);
    let sampling = Sampling { recommended: by_file.or(&card), card };
    let plan = Plan::new(options, &spec, &file, listener).map_err(|e| e.at(text::path(&path)))?;
    let subject = Subject { graph: &plan.graph, load: plan.load };
    let backend = devices::checked_backend(options, subject, config, listener)?;
    let graph = laps.lap();
    let loaded = load_graph(&plan.graph, &file, plan.load, &*backend, listener)?;
    let weights = laps.lap();
    let engine = Engine::new(loaded, plan.engine)?;
    let cache = laps.lap();
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
        backend: backend.name(),
        threads: options.n_threads(),
        arithmetic: options.arithmetic_name(),
        cache_type: options.cache_type.name(),
        load_seconds: start.elapsed().as_secs_f64(),
        load_times: LoadTimes { open, tokenizer: tokenizer_time, graph, weights, cache },
    };
    Ok(Opened { engine, tokenizer, sampling, info })
}

/// A model's file and graph without weights, for programs that run it on several backends: to compare them, to record
/// their values, to judge them with [`crate::why`].
pub struct Parts {
    /// The file.
    pub path: PathBuf,
    /// The open file.
    pub file: gguf::File,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The graph.
    pub graph: Arc<Graph>,
    /// How weights and cache are held.
    pub options: LoadOptions,
}

impl Parts {
    /// Opens a model; `None` is [`sources::DEFAULT_MODEL`].
    ///
    /// # Errors
    /// As [`sources::resolve`], and [`ErrorKind::ModelFile`] where it is no model that karat runs.
    pub fn open(
        source: Option<&OsStr>,
        options: &Options,
        config: &Config,
        listener: Listener<'_>,
    ) -> Result<Self> {
        let path = sources::resolve(source, config, listener)?;
        let file = open_file(&path, access(options), listener)?;
        let tokenizer = read_tokenizer(&file, &path, listener)?;
        let spec = read_spec(&file, &path, listener)?;
        let graph = Arc::new(model::graph(&spec, &file)?);
        Ok(Self { path, file, tokenizer, graph, options: options.load_options() })
    }

    /// Loads the weights into a backend.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] where the backend cannot run the graph, [`ErrorKind::DoesNotFit`] where memory is short,
    /// [`ErrorKind::Io`] where the file cannot be read.
    pub fn load(&self, backend: &dyn Backend, listener: Listener<'_>) -> Result<Box<dyn Loaded>> {
        load_graph(&self.graph, &self.file, self.options, backend, listener)
    }
}

fn access(options: &Options) -> gguf::Access {
    if options.mmap { gguf::Access::Mmap } else { gguf::Access::Pread }
}

/// Opens a model file; what is odd about it is told.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Io`], or [`ErrorKind::ModelFile`] where it is no GGUF file that karat reads.
pub fn open_file(path: &Path, access: gguf::Access, listener: Listener<'_>) -> Result<gguf::File> {
    let file = gguf::File::open(path, access)?;
    warn(file.warnings(), listener);
    Ok(file)
}

/// The tokenizer of a file; what is odd about it is told.
///
/// # Errors
/// [`ErrorKind::ModelFile`] where the file has none that karat knows.
pub fn read_tokenizer(file: &gguf::File, path: &Path, listener: Listener<'_>) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(file).map_err(|e| Error::from(e).at(text::path(path)))?;
    warn(tokenizer.warnings(), listener);
    Ok(tokenizer)
}

/// What a file's model is; what is odd about it is told.
fn read_spec(file: &gguf::File, path: &Path, listener: Listener<'_>) -> Result<Spec> {
    let spec = model::spec(file).map_err(|e| Error::from(e).at(text::path(path)))?;
    warn(&spec.warnings, listener);
    Ok(spec)
}

fn warn(warnings: &[String], listener: Listener<'_>) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        listener(Event::Warning(warning));
    }
    if warnings.len() > MAX_WARNINGS {
        let more = format!("{} more of this kind", warnings.len() - MAX_WARNINGS);
        listener(Event::Warning(&more));
    }
}

fn model_name(file: &gguf::File, path: &Path) -> String {
    match file.str("general.name") {
        Ok(Some(name)) if !name.is_empty() => text::shortened(&name, 80),
        Ok(_) | Err(_) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// What will be loaded, checked to fit.
struct Plan {
    graph: Arc<Graph>,
    load: LoadOptions,
    engine: EngineOptions,
    memory: Memory,
}

impl Plan {
    fn new(
        options: &Options,
        spec: &Spec,
        file: &gguf::File,
        listener: Listener<'_>,
    ) -> Result<Self> {
        let load = options.load_options();
        let n_layer = spec.layers.len();
        let budget = Budget::new(options.gpu_memory, options.on_gpu(n_layer), n_layer, listener);
        let limit = budget.of_most();
        let trained = spec.n_ctx_train;
        let n_ctx = match options.ctx_size {
            Some(0) => trained,
            Some(n) => n,
            None => trained.min(DEFAULT_CTX),
        };
        if n_ctx > trained {
            let what = format!(
                "-c: the model was trained on {trained} positions, {n_ctx} may give bad text"
            );
            listener(Event::Warning(&what));
        }
        let (n_batch, n_seqs) = (options.batch_size, options.sequences);
        let mut engine = EngineOptions { n_ctx, n_batch, n_seqs, keep: model::Keep::All };
        let graph = model::graph(spec, file)?;
        engine.check_positions(&graph)?;
        if options.ctx_size.is_none()
            && let Some(fits) = model::largest_context(&graph, load, &engine, limit)
            && fits < n_ctx
        {
            let what = format!(
                "the context is {fits} positions instead of {n_ctx}: more does not fit in memory"
            );
            listener(Event::Warning(&what));
            engine.n_ctx = fits;
        }
        let memory = budget.check(&graph, load, &engine)?;
        Ok(Self { graph: Arc::new(graph), load, engine, memory })
    }
}

/// Makes a graph's weights resident; what the backend cannot do is refused before.
fn load_graph(
    graph: &Arc<Graph>,
    file: &gguf::File,
    options: LoadOptions,
    backend: &dyn Backend,
    listener: Listener<'_>,
) -> Result<Box<dyn Loaded>> {
    for node in &graph.nodes {
        if let Err(reason) = backend.supports(graph, node, options) {
            return Err(Error::new(ErrorKind::Device, format!("{}: {reason}", backend.name())));
        }
    }
    let total = file.tensors().iter().map(|tensor| tensor.n_bytes).sum();
    let progress = Progress::start(listener, Task::Load, Some(total));
    let loaded = backend.load(Arc::clone(graph), &[file], options, &mut |n| {
        // A tied embedding is read twice where both halves of a split use it.
        progress.at(n.min(total));
    });
    Ok(loaded?)
}

/// Refuses weights that are no numbers, by tensor and block.
///
/// # Errors
/// [`ErrorKind::ModelFile`] with the first such block; [`ErrorKind::Io`] where the file cannot be read.
pub fn check_tensors(file: &gguf::File, listener: Listener<'_>) -> Result<()> {
    let total = file.tensors().iter().map(|tensor| tensor.n_bytes).sum();
    let progress = Progress::start(listener, Task::CheckTensors, Some(total));
    let mut done = 0;
    for tensor in file.tensors() {
        let data = file.data(tensor)?;
        if let Some(block) = gguf::check_named(&tensor.name, tensor.dtype, &data) {
            let what = format!(
                "{}: tensor \"{}\": block {block} of {} holds NaN or an infinity",
                text::path(file.path().unwrap_or(Path::new("?"))),
                text::one_line(&tensor.name),
                tensor.dtype
            );
            return Err(Error::new(ErrorKind::ModelFile, what));
        }
        done += tensor.n_bytes;
        progress.at(done);
    }
    Ok(())
}
