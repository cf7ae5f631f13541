//! The self-test of a device: the kernels that a model will use against the reference, bit for bit. A GPU is tested
//! before its first use with a model, and again when its driver or the kernels change; the answer is remembered.

use crate::bar::{LoadBar, Unit};
use crate::config::Config;
use crate::exit::{Code, Failure, say};

use crate::text::one_line;
use anyhow::{Context as _, Result};
use gpu::Gpu;
use graph::cases::{Case, Cut};
use graph::reference::Reference;
use graph::{Backend, Graph, LoadOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// One kind of op, tested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kernel {
    /// The op, its formats and widths.
    pub(crate) name: String,
    /// Numbers that were compared.
    pub(crate) values: usize,
    /// The first that is wrong, or why there are none.
    pub(crate) wrong: Option<String>,
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
pub(crate) fn run(
    backend: &dyn Backend,
    graph: &Graph,
    options: LoadOptions,
) -> Result<Vec<Kernel>> {
    let cases = graph::selftest::cases(graph)?;
    let mut bar = LoadBar::new("checking the kernels", cases.len() as u64, Unit::Ops);
    let mut kernels = Vec::with_capacity(cases.len());
    for (i, case) in cases.into_iter().enumerate() {
        let expected = record(&Reference, &case, options)?;
        let wrong = match record(backend, &case, options) {
            Ok(got) => got.first_difference(&expected, &case.graph).map(|first| first.to_string()),
            Err(e) => Some(one_line(&e.to_string())),
        };
        kernels.push(Kernel { name: case.name, values: expected.values(), wrong });
        bar.at(i as u64 + 1);
    }
    bar.finish();
    Ok(kernels)
}

fn record(
    backend: &dyn Backend,
    case: &Case,
    options: LoadOptions,
) -> graph::Result<graph::compare::Recording> {
    let mut loaded = backend.load(Arc::clone(&case.graph), &case.file, options, &mut |_| {})?;
    case.record(&mut *loaded, Cut::Chunks(512))
}

/// Where the answer for a device and a graph is remembered; `None` without a cache folder.
fn receipt_path(
    gpu: &Gpu,
    graph: &Graph,
    options: LoadOptions,
    config: &Config,
) -> Option<PathBuf> {
    let names = graph::selftest::cases(graph).ok()?.into_iter().map(|case| case.name);
    let info = gpu.info();
    let mut hash = Sha256::new();
    let about = [info.name.clone(), info.api.to_owned(), info.driver.clone(), gpu.kernels()];
    for text in about.into_iter().chain([format!("{options:?}")]).chain(names) {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let digest: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    Some(config.cache_dir().ok()?.join("checks").join(digest + ".json"))
}

/// Remembers the answer; that it cannot be written is said and no more.
pub(crate) fn remember(
    gpu: &Gpu,
    graph: &Graph,
    options: LoadOptions,
    kernels: &[Kernel],
    config: &Config,
) {
    let Some(path) = receipt_path(gpu, graph, options, config) else { return };
    let info = gpu.info();
    let line = |k: &Kernel| k.wrong.as_ref().map(|wrong| format!("{}: {wrong}", k.name));
    let receipt = Receipt {
        device: info.name.clone(),
        driver: info.driver.clone(),
        kernels: kernels.len(),
        wrong: kernels.iter().filter_map(line).collect(),
    };
    let write = || -> Result<()> {
        let dir = path.parent().context("no folder")?;
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(serde_json::to_string_pretty(&receipt)?.as_bytes())?;
        file.persist(&path)?;
        Ok(())
    };
    if let Err(e) = write() {
        say("warning", &format!("the check is not remembered: {e}"));
    }
}

/// Refuses a GPU whose kernels are wrong; tests it where that was not done yet.
///
/// # Errors
/// Exit 6 with the first kernel that is wrong.
pub(crate) fn require(
    gpu: &Gpu,
    graph: &Graph,
    options: LoadOptions,
    config: &Config,
) -> Result<()> {
    let remembered = receipt_path(gpu, graph, options, config)
        .and_then(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| serde_json::from_str::<Receipt>(&text).ok());
    let wrong = match remembered {
        Some(receipt) => receipt.wrong,
        None => {
            let kernels = run(gpu, graph, options)?;
            remember(gpu, graph, options, &kernels, config);
            let line = |k: Kernel| Some(format!("{}: {}", k.name, k.wrong?));
            kernels.into_iter().filter_map(line).collect()
        }
    };
    let Some(first) = wrong.first() else { return Ok(()) };
    let more =
        if wrong.len() > 1 { format!(" and {} more", wrong.len() - 1) } else { String::new() };
    let what = format!("{}: computes wrong numbers: {}{more}", gpu.name(), one_line(first));
    let hint = "`karat check` tests it again; --unchecked computes on it all the same";
    Err(Failure::new(Code::Device, what).hint(hint).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use graph::{Kv, Loaded, Node, Op, Step, Tap, Value};

    /// The reference with one bit of every product wrong.
    struct Broken;

    struct BrokenLoaded(Box<dyn Loaded>);

    struct Flip<'a>(&'a mut dyn Tap);

    impl Tap for Flip<'_> {
        fn wants(&mut self, node: &Node, value: &Value) -> bool {
            self.0.wants(node, value)
        }

        fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
            if let Op::MatMul { .. } = node.op {
                data[2] = f32::from_bits(data[2].to_bits() ^ 1);
            }
            self.0.value(node, value, data);
        }
    }

    impl Loaded for BrokenLoaded {
        fn graph(&self) -> &Arc<Graph> {
            self.0.graph()
        }

        fn kv_bytes(&self, n_blocks: usize) -> usize {
            self.0.kv_bytes(n_blocks)
        }

        fn new_kv(&self, n_blocks: usize) -> graph::Result<Kv> {
            self.0.new_kv(n_blocks)
        }

        fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> graph::Result<Vec<f32>> {
            self.0.run(step, kv, &mut Flip(tap))
        }
    }

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
            file: &gguf::File,
            options: LoadOptions,
            progress: &mut dyn FnMut(u64),
        ) -> graph::Result<Box<dyn Loaded>> {
            Ok(Box::new(BrokenLoaded(Reference.load(graph, file, options, progress)?)))
        }
    }

    #[test]
    fn a_right_backend_passes_and_a_wrong_op_is_named() {
        let graph = &graph::cases::decoders().unwrap()[2].graph;
        let cpu = run(&cpu::Cpu::new(1), graph, LoadOptions::default()).unwrap();
        assert!(cpu.len() > 10, "{cpu:?}");
        assert!(cpu.iter().all(|kernel| kernel.wrong.is_none() && kernel.values > 0), "{cpu:?}");
        for kernel in run(&Broken, graph, LoadOptions::default()).unwrap() {
            let product = kernel.name.contains("MUL_MAT");
            let wrong = kernel.wrong.as_deref().unwrap_or("");
            assert_eq!(product, wrong.contains("out_0:MUL_MAT"), "{}: {wrong}", kernel.name);
        }
    }
}
