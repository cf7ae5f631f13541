//! The self-test of a device: the kernels that a model will use against the reference, bit for bit. A GPU is tested
//! before its first use with a model, and again when its driver or the kernels change; the answer is remembered.

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listener, Progress, Task};
use crate::text::one_line;
use gpu::Gpu;
use graph::cases::{Case, Cut};
use graph::reference::Reference;
use graph::{Backend, Graph, LoadOptions};
use model::output::{Existing, any_length, give_name};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a device shall compute.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    /// The model's graph.
    pub graph: &'s Graph,
    /// How weights and cache are held.
    pub load: LoadOptions,
}

/// One kind of op, tested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The op, its formats and widths.
    pub name: String,
    /// Numbers that were compared.
    pub values: usize,
    /// The first that is wrong, or why there are none.
    pub wrong: Option<String>,
}

/// What is remembered of a test.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Receipt {
    device: String,
    driver: String,
    kernels: usize,
    /// Names of kernels that were wrong, with how.
    wrong: Vec<String>,
}

/// Tests the kernels of a graph. What a backend refuses or loses on the way counts as wrong.
///
/// # Errors
/// Those of the reference: a bug, or no memory.
pub fn run(
    backend: &dyn Backend,
    subject: Subject<'_>,
    listener: Listener<'_>,
) -> Result<Vec<Kernel>> {
    let Subject { graph, load } = subject;
    let cases = graph::selftest::cases(graph)?;
    let progress = Progress::start(listener, Task::CheckKernels, Some(cases.len() as u64));
    let mut kernels = Vec::with_capacity(cases.len());
    for (i, case) in cases.into_iter().enumerate() {
        let expected = record(&Reference, &case, load)?;
        let wrong = match record(backend, &case, load) {
            Ok(got) => got.first_difference(&expected, &case.graph).map(|first| first.to_string()),
            Err(e) => Some(one_line(&e.to_string())),
        };
        kernels.push(Kernel { name: case.name, values: expected.values(), wrong });
        progress.at(i as u64 + 1);
    }
    Ok(kernels)
}

fn record(
    backend: &dyn Backend,
    case: &Case,
    options: LoadOptions,
) -> graph::Result<graph::compare::Recording> {
    let mut loaded = backend.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {})?;
    case.record(&mut *loaded, Cut::Chunks(512))
}

/// Where the answer for a device and a graph is remembered; `None` without a cache folder.
fn receipt_path(gpu: &Gpu, subject: Subject<'_>, config: &Config) -> Option<PathBuf> {
    let Subject { graph, load } = subject;
    let info = gpu.info();
    let mut hash = Sha256::new();
    let about = [info.name.clone(), info.api.to_owned(), info.driver.clone(), gpu.kernels()];
    let load = [format!("{load:?}")];
    for text in about.into_iter().chain(load).chain(graph::selftest::names(graph)) {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let digest: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    Some(config.cache_dir().ok()?.join("checks").join(digest + ".json"))
}

/// Tests a GPU and remembers the answer; that it cannot be written is said and no more.
///
/// # Errors
/// As [`run`].
pub fn run_and_remember(
    gpu: &Gpu,
    subject: Subject<'_>,
    config: &Config,
    listener: Listener<'_>,
) -> Result<Vec<Kernel>> {
    let kernels = run(gpu, subject, listener)?;
    if let Some(path) = receipt_path(gpu, subject, config)
        && let Err(e) = write(&path, &Receipt::of(gpu, &kernels))
    {
        listener(Event::Warning(&format!("the check is not remembered: {e}")));
    }
    Ok(kernels)
}

fn write(path: &Path, receipt: &Receipt) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(any_length(dir))?;
    file.write_all(serde_json::to_string_pretty(receipt)?.as_bytes())?;
    give_name(file, path, Existing::Replace).map(drop)
}

impl Receipt {
    fn of(gpu: &Gpu, kernels: &[Kernel]) -> Self {
        let line = |k: &Kernel| k.wrong.as_ref().map(|wrong| format!("{}: {wrong}", k.name));
        Self {
            device: gpu.info().name.clone(),
            driver: gpu.info().driver.clone(),
            kernels: kernels.len(),
            wrong: kernels.iter().filter_map(line).collect(),
        }
    }
}

/// Refuses a GPU whose kernels are wrong; tests it where that was not done yet.
///
/// # Errors
/// [`ErrorKind::Device`] with the first kernel that is wrong.
pub(crate) fn require(
    gpu: &Gpu,
    subject: Subject<'_>,
    config: &Config,
    listener: Listener<'_>,
) -> Result<()> {
    let remembered = receipt_path(gpu, subject, config)
        .and_then(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| serde_json::from_str::<Receipt>(&text).ok());
    let Receipt { wrong, .. } = match remembered {
        Some(receipt) => receipt,
        None => Receipt::of(gpu, &run_and_remember(gpu, subject, config, listener)?),
    };
    let Some(first) = wrong.first() else { return Ok(()) };
    let more =
        if wrong.len() > 1 { format!(" and {} more", wrong.len() - 1) } else { String::new() };
    let what = format!("{}: computes wrong numbers: {}{more}", gpu.name(), one_line(first));
    let hint = "test it again, or compute on it all the same with the option unchecked";
    Err(Error::new(ErrorKind::Device, what).with_hint(hint).with_option("unchecked"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use graph::cases::Tapped;
    use graph::{Loaded, Node, Op};

    /// The reference with one bit of every product wrong.
    struct Broken;

    impl Backend for Broken {
        fn name(&self) -> String {
            "broken".to_owned()
        }

        fn supports(&self, _: &Graph, _: &Node, _: LoadOptions) -> Result<(), String> {
            Ok(())
        }

        fn load(
            &self,
            graph: Arc<Graph>,
            files: &[&gguf::File],
            options: LoadOptions,
            progress: &mut dyn FnMut(u64),
        ) -> graph::Result<Box<dyn Loaded>> {
            let inner = Reference.load(graph, files, options, progress)?;
            Ok(Box::new(Tapped::new(inner, |node, _, data| {
                if let Op::MatMul { .. } = node.op {
                    data[2] = f32::from_bits(data[2].to_bits() ^ 1);
                }
            })))
        }
    }

    #[test]
    fn a_right_backend_passes_and_a_wrong_op_is_named() {
        let graph = &graph::cases::decoders().unwrap()[2].graph;
        let subject = Subject { graph, load: LoadOptions::default() };
        let cpu = run(&cpu::Cpu::new(1), subject, &|_| {}).unwrap();
        assert!(cpu.len() > 10, "{cpu:?}");
        assert!(cpu.iter().all(|kernel| kernel.wrong.is_none() && kernel.values > 0), "{cpu:?}");
        for kernel in run(&Broken, subject, &|_| {}).unwrap() {
            let product = kernel.name.contains("MUL_MAT");
            let wrong = kernel.wrong.as_deref().unwrap_or("");
            assert_eq!(product, wrong.contains("out_0:MUL_MAT"), "{}: {wrong}", kernel.name);
        }
    }
}
