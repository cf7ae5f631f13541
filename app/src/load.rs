//! The flags that choose a model and how it is loaded, by llama.cpp's names; the library does the rest.

use crate::bar::Screen;
use crate::exit::{Code, Failure};
use anyhow::Result;
use karat::{Arithmetic, Backend, Config, KvType, Model, Options, Parts};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// Which model.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// The model: a GGUF file, a name of `karat list`, or a source as for `karat pull`
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: Option<OsString>,
}

/// Which model, by its name alone or behind -m.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct NamedModel {
    /// The model, as for -m
    #[arg(value_name = "MODEL")]
    name: Option<OsString>,
    #[command(flatten)]
    flag: ModelArgs,
}

impl NamedModel {
    /// A model that was found out otherwise.
    pub(crate) fn new(name: Option<OsString>) -> Self {
        Self { name, flag: ModelArgs { model: None } }
    }

    /// The model; `None` is the default one.
    ///
    /// # Errors
    /// Exit 2 where two were named.
    pub(crate) fn name(&self) -> Result<Option<&OsStr>, Failure> {
        one_model(self.name.as_deref(), self.flag.model.as_deref())
    }
}

/// The one model of a name among the words of the command line and a name behind -m.
///
/// # Errors
/// Exit 2 where the two are not the same.
pub(crate) fn one_model<'m>(
    word: Option<&'m OsStr>,
    flag: Option<&'m OsStr>,
) -> Result<Option<&'m OsStr>, Failure> {
    if let (Some(word), Some(flag)) = (word, flag)
        && word != flag
    {
        let shown = |name: &OsStr| karat::text::path(Path::new(name));
        let what = format!("two models: {}, and -m {}", shown(word), shown(flag));
        return Err(Failure::new(Code::Usage, what).hint("leave one of them out"));
    }
    Ok(word.or(flag))
}

/// How to load it.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct LoadArgs {
    /// Tokens of the prompt that are computed at once
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = positive)]
    batch_size: usize,
    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// How to load it, but for what `karat bench` takes lists of.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub(crate) struct DeviceArgs {
    /// Positions of the context; 0 takes as many as the model was trained on [default: those, up to 4096, and what fits
    /// in memory]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
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
    /// int8 rounds activations as ggml's CPU backend does, int16 to 16 bits; f32 dequantises the weights [default: int16;
    /// for `karat why` beside another engine int8]
    #[arg(long, value_enum)]
    arithmetic: Option<ArithmeticName>,
    /// Element type of the KV cache
    #[arg(long, value_enum, default_value_t = CacheType::F16)]
    cache_type: CacheType,
    /// Map the file instead of reading it; it must not be changed while it is in use
    #[arg(long)]
    mmap: bool,
    /// Look for NaN and infinities in all weights first
    #[arg(long)]
    check_tensors: bool,
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
pub(crate) enum ArithmeticName {
    Int8,
    Int16,
    F32,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum CacheType {
    F16,
    F32,
}

/// 1 and more.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("allowed are whole numbers from 1".to_owned()),
        Ok(n) => Ok(n),
    }
}

impl LoadArgs {
    /// The flags as the library takes them.
    pub(crate) fn options(&self) -> Options {
        Options { batch_size: self.batch_size, threads: self.threads, ..self.device.options() }
    }

    /// Whether no arithmetic was asked for.
    pub(crate) fn takes_any_arithmetic(&self) -> bool {
        self.device.arithmetic.is_none()
    }
}

impl DeviceArgs {
    /// The flags as the library takes them.
    pub(crate) fn options(&self) -> Options {
        Options {
            ctx_size: self.ctx_size,
            backend: self.backend.backend(),
            gpu_layers: self.gpu_layers,
            device: self.device.clone(),
            gpu_memory: self.gpu_memory,
            unchecked: self.unchecked,
            arithmetic: self
                .arithmetic
                .map_or(Options::default().arithmetic, ArithmeticName::arithmetic),
            cache_type: match self.cache_type {
                CacheType::F16 => KvType::F16,
                CacheType::F32 => KvType::F32,
            },
            mmap: self.mmap,
            check_tensors: self.check_tensors,
            ..Options::default()
        }
    }
}

impl ArithmeticName {
    pub(crate) fn arithmetic(self) -> Arithmetic {
        match self {
            Self::Int8 => Arithmetic::Int8,
            Self::Int16 => Arithmetic::Int16,
            Self::F32 => Arithmetic::F32,
        }
    }
}

impl BackendName {
    fn backend(self) -> Backend {
        match self {
            Self::Cpu => Backend::Cpu,
            Self::Gpu => Backend::Gpu,
            Self::Vulkan => Backend::Vulkan,
            Self::Metal => Backend::Metal,
            Self::Dx12 => Backend::Dx12,
            Self::HybridF32 => Backend::HybridF32,
            Self::Reference => Backend::Reference,
        }
    }
}

/// Loads a model, with bars; without a name the default one.
pub(crate) fn model(name: Option<&OsStr>, options: &Options, config: &Config) -> Result<Model> {
    let screen = Screen::default();
    let builder = name.map_or_else(karat::Builder::default, Model::builder);
    let builder = builder.options(options.clone()).config(config.clone());
    Ok(builder.on_event(|event| screen.show(event)).open()?)
}

/// Opens a model's file.
pub(crate) fn parts(name: Option<&OsStr>, options: &Options, config: &Config) -> Result<Parts> {
    let screen = Screen::default();
    Ok(Parts::open(name, options, config, &|event| screen.show(event))?)
}

/// Loads the weights of opened parts, with a bar.
pub(crate) fn weights(
    parts: &Parts,
    backend: &dyn graph::Backend,
) -> Result<Box<dyn graph::Loaded>> {
    let screen = Screen::default();
    Ok(parts.load(backend, &|event| screen.show(event))?)
}

/// What computes a model of `n_layer` layers.
pub(crate) fn backend(options: &Options, n_layer: usize) -> Result<Box<dyn graph::Backend>> {
    let screen = Screen::default();
    Ok(karat::devices::backend(options, n_layer, &|event| screen.show(event))?)
}

/// The local file of a model, fetched if need be.
pub(crate) fn resolve(name: Option<&OsStr>, config: &Config) -> Result<PathBuf> {
    let screen = Screen::default();
    Ok(karat::sources::resolve(name, config, &|event| screen.show(event))?)
}

/// Opens a model file and says what is odd about it.
pub(crate) fn open(path: &Path) -> Result<gguf::File> {
    let screen = Screen::default();
    Ok(karat::open_file(path, gguf::Access::Pread, &|event| screen.show(event))?)
}

/// The tokenizer of a model; what is odd about it is said.
pub(crate) fn tokenizer_of(name: Option<&OsStr>, config: &Config) -> Result<Tokenizer> {
    let path = resolve(name, config)?;
    let file = open(&path)?;
    let screen = Screen::default();
    Ok(karat::read_tokenizer(&file, &path, &|event| screen.show(event))?)
}
