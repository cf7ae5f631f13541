//! How a model is loaded: the options of `karat run`, by the same names.

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listener};
use graph::{Arithmetic, KvType, LoadOptions};
use std::fmt;
use std::str::FromStr;

/// How a model is loaded. [`crate::Builder`] has a method for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Positions of the context of one sequence; `Some(0)` takes as many as the model was trained on, `None` those, up
    /// to 4096, and what fits in memory.
    pub ctx_size: Option<usize>,
    /// Tokens that are computed at once; longer prompts are cut.
    pub batch_size: usize,
    /// Threads; `None` for the physical cores.
    pub threads: Option<usize>,
    /// What computes.
    pub backend: Backend,
    /// Layers on the GPU, the last ones; the output counts as one. More than there are means all, 0 none. `None` for all,
    /// and half of them with [`Backend::HybridF32`].
    pub gpu_layers: Option<usize>,
    /// Which GPU: its number among [`crate::devices::list`], or a part of its name; `None` for the first.
    pub device: Option<String>,
    /// Mebibytes that the model may take on the GPU; `None` for as many as the machine has free.
    pub gpu_memory: Option<u64>,
    /// Compute on a GPU although its kernels fail their self-test, or have not passed it.
    pub unchecked: bool,
    /// How products with quantised weights are computed.
    pub arithmetic: Arithmetic,
    /// Element type of the KV cache.
    pub cache_type: KvType,
    /// Map the file instead of reading it; it must not be changed while it is in use.
    pub mmap: bool,
    /// Look for NaN and infinities in all weights first.
    pub check_tensors: bool,
    /// Sequences that may each fill their context at the same time: the cache holds `ctx_size` positions for each, and
    /// they share them out as they need them.
    pub sequences: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ctx_size: None,
            batch_size: 512,
            threads: None,
            backend: Backend::Cpu,
            gpu_layers: None,
            device: None,
            gpu_memory: None,
            unchecked: false,
            arithmetic: Arithmetic::Int16,
            cache_type: KvType::F16,
            mmap: false,
            check_tensors: false,
            sequences: 1,
        }
    }
}

/// What computes. The bits are the same for all, but for [`Backend::HybridF32`], which computes in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The fast CPU kernels.
    Cpu,
    /// A GPU, through whichever API it has.
    Gpu,
    /// A GPU through Vulkan.
    Vulkan,
    /// A GPU through Metal.
    Metal,
    /// A GPU through DirectX 12.
    Dx12,
    /// CPU and GPU, half of the layers on each, in f32.
    HybridF32,
    /// The slow loops that define what is right.
    Reference,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Gpu,
        Self::Vulkan,
        Self::Metal,
        Self::Dx12,
        Self::HybridF32,
        Self::Reference,
    ];

    /// Its name for `--backend`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::HybridF32 => "hybrid-f32",
            Self::Reference => "reference",
        }
    }

    /// How a GPU is reached; `None` where none is used.
    pub(crate) fn api(self) -> Option<gpu::Api> {
        match self {
            Self::Cpu | Self::Reference => None,
            Self::Gpu | Self::HybridF32 => Some(gpu::Api::Any),
            Self::Vulkan => Some(gpu::Api::Vulkan),
            Self::Metal => Some(gpu::Api::Metal),
            Self::Dx12 => Some(gpu::Api::Dx12),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|backend| backend.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            let what = format!("backend: \"{}\", allowed {names}", crate::text::one_line(name));
            Error::new(ErrorKind::Usage, what)
        })
    }
}

impl Options {
    /// Refuses what no model could be loaded with.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] with the option's name.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("batch_size", Some(self.batch_size)),
            ("threads", self.threads),
            ("sequences", Some(self.sequences)),
        ];
        for (name, n) in counts {
            if n == Some(0) {
                let what = format!("{name}: 0, allowed are whole numbers from 1");
                return Err(Error::new(ErrorKind::Usage, what).with_option(name));
            }
        }
        if let (None, Some(option)) = (self.backend.api(), self.gpu_option()) {
            let what =
                format!("{option}: only with the backends gpu, vulkan, metal, dx12 and hybrid-f32");
            return Err(Error::new(ErrorKind::Usage, what).with_option(option));
        }
        Ok(())
    }

    /// An option that means nothing without a GPU, if one was given.
    fn gpu_option(&self) -> Option<&'static str> {
        let given = [
            ("device", self.device.is_some()),
            // None of them on the GPU is what happens without one.
            ("gpu_layers", self.gpu_layers.is_some_and(|n| n > 0)),
            ("gpu_memory", self.gpu_memory.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// Threads: those that were asked for, as far as the machine has cores for them, or the physical cores.
    pub fn n_threads(&self) -> usize {
        self.threads.map_or_else(default_threads, |n| n.min(most_threads()))
    }

    /// Whether one device computes that can time its ops: the CPU, or a GPU with all layers.
    pub fn is_one_device(&self) -> bool {
        match self.backend {
            Backend::Cpu => true,
            Backend::Gpu | Backend::Vulkan | Backend::Metal | Backend::Dx12 => {
                self.gpu_layers.is_none()
            }
            Backend::HybridF32 | Backend::Reference => false,
        }
    }

    /// The same options for another backend; what is said of a GPU is dropped where it has none.
    #[must_use]
    pub fn with_backend(&self, backend: Backend) -> Self {
        let mut options = Self { backend, ..self.clone() };
        if backend.api().is_none() {
            (options.device, options.gpu_layers, options.gpu_memory) = (None, None, None);
        }
        options
    }

    /// The same options with `n` layers on the GPU; `None` without one.
    #[must_use]
    pub fn with_gpu_layers(&self, n: usize) -> Option<Self> {
        self.backend.api().map(|_| Self { gpu_layers: Some(n), ..self.clone() })
    }

    /// How many of `n_layer` layers and the output lie on the GPU; 0 without one.
    pub(crate) fn on_gpu(&self, n_layer: usize) -> usize {
        let all = n_layer + 1;
        let default = match self.backend {
            Backend::Cpu | Backend::Reference => return 0,
            Backend::HybridF32 => all.div_ceil(2),
            Backend::Gpu | Backend::Vulkan | Backend::Metal | Backend::Dx12 => all,
        };
        self.gpu_layers.unwrap_or(default).min(all)
    }

    /// How weights and cache are held.
    pub fn load_options(&self) -> LoadOptions {
        let arithmetic = match self.backend {
            Backend::HybridF32 => Arithmetic::F32,
            Backend::Cpu
            | Backend::Gpu
            | Backend::Vulkan
            | Backend::Metal
            | Backend::Dx12
            | Backend::Reference => self.arithmetic,
        };
        LoadOptions { arithmetic, kv: self.cache_type }
    }

    /// `int8`, `int16` or `f32`: what [`Options::load_options`] says.
    pub fn arithmetic_name(&self) -> &'static str {
        self.load_options().arithmetic.name()
    }
}

/// The threads to use where `wanted` were asked for: no more than the machine has cores, since they wait for one another
/// after every op. Where that cuts them, it is told.
pub fn usable_threads(wanted: Option<usize>, listener: Listener<'_>) -> usize {
    let used = Options { threads: wanted, ..Options::default() }.n_threads();
    if let Some(wanted) = wanted.filter(|&wanted| wanted > used) {
        let what = format!("{wanted} threads on a machine of {used} cores: {used} are used");
        listener(Event::Warning(&what));
    }
    used
}

/// The cores that this process may use, counting those of two threads twice.
fn most_threads() -> usize {
    num_cpus::get().max(1)
}

/// The physical cores, or fewer where a control group allows fewer: a second thread on a core brings nothing to kernels
/// that wait for memory.
pub fn default_threads() -> usize {
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_read_back_as_written() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().to_uppercase().parse::<Backend>().unwrap(), backend);
        }
        assert_eq!("cuda".parse::<Backend>().unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn impossible_options_are_refused_by_name() {
        let refused = |options: Options| options.check().unwrap_err().to_string();
        assert!(refused(Options { threads: Some(0), ..Options::default() }).starts_with("threads"));
        assert!(refused(Options { batch_size: 0, ..Options::default() }).starts_with("batch_size"));
        let device = Options { device: Some("0".into()), ..Options::default() };
        assert!(refused(device.clone()).starts_with("device: only with"));
        assert!(device.with_backend(Backend::Gpu).check().is_ok());
        assert!(device.with_backend(Backend::Reference).check().is_ok());
    }

    #[test]
    fn more_threads_than_cores_are_cut_and_told_of() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let heard = std::cell::RefCell::new(String::new());
        let listener = |event: Event<'_>| {
            if let Event::Warning(line) = event {
                heard.borrow_mut().push_str(line);
            }
        };
        assert_eq!(usable_threads(Some(1), &listener), 1);
        assert_eq!(usable_threads(None, &listener), default_threads());
        assert_eq!(*heard.borrow(), "");
        assert!(usable_threads(Some(100_000), &listener) <= cores);
        assert!(heard.borrow().starts_with("100000 threads on a machine of "));
    }

    #[test]
    fn layers_on_the_gpu() {
        let on_gpu =
            |backend, gpu_layers| Options { backend, gpu_layers, ..Options::default() }.on_gpu(12);
        assert_eq!(on_gpu(Backend::Cpu, None), 0);
        assert_eq!(on_gpu(Backend::Gpu, None), 13);
        assert_eq!(on_gpu(Backend::Vulkan, Some(99)), 13);
        assert_eq!(on_gpu(Backend::HybridF32, None), 7);
        assert_eq!(on_gpu(Backend::HybridF32, Some(0)), 0);
    }
}
