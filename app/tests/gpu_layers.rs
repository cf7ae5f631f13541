//! A model with its layers on two backends gives the CPU's bits, wherever it is cut, and on the GPU alone.
//!
//! Each format and number of layers runs all prompts as one batch, together from the first step on (the kernels for many
//! rows), and one of the prompts alone, token by token (the kernels for few). What both must give is what the CPU gives
//! for each prompt by itself. Now and then a step is run once more for the likeliest ids alone, which the device finds.
//!
//! Without further ado one format, five short prompts and a few tokens. `KARAT_GPU_PROOF=1` takes six formats, the five
//! prompts of `../shared/oracle` and 64 tokens, which is what the GPU backend is accepted by. `KARAT_GPU_DEVICE=text`
//! takes the devices whose name holds the text, `KARAT_GPU_FORMAT=Q6_K` and `KARAT_GPU_LAYERS=15` one format and one
//! cut, so that a proof can be spread over processes. `KARAT_TEST_MODEL` and `KARAT_TEST_ORACLE` say where the model (in
//! Q4_1, from which the others are made) and the folder `oracle` are, `TMPDIR` where the other formats are put,
//! `KARAT_TEST_THREADS` how many threads the CPU's side has: the test needs nothing else than its program.
//! `bench/gpu/proof.sh` runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the figures are what the proof is run for")]
#![allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]

mod skip;

use cpu::Cpu;
use graph::split::Split;
use graph::{
    Arithmetic, Backend, BlockTable, Blocks, Graph, KV_BLOCK, KvType, LoadOptions, Loaded, NoTap,
    Result, Step,
};
use model::sampler::argmax;
use skip::say_skipped;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The formats of the proof; the file that is there has the fifth.
const FORMATS: [&str; 6] = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0"];
const OF_THE_FILE: usize = 4;
/// Layers on the GPU, the output among them, and what they are called.
const LAYERS: [(usize, &str); 4] = [(0, "0"), (1, "1"), (15, "15"), (usize::MAX, "all")];

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Whether a variable is unset, or this.
fn wanted(name: &str, this: &str) -> bool {
    std::env::var(name).map_or(true, |value| value.eq_ignore_ascii_case(this))
}

/// Those of the CPU's side.
fn threads() -> usize {
    let given = std::env::var("KARAT_TEST_THREADS").ok().and_then(|n| n.parse().ok());
    given.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from).min(16))
}

/// The default model, or `None` with a line.
fn default_model() -> Option<PathBuf> {
    let cached =
        || Some(variable("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = variable("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file());
    if found.is_none() {
        say_skipped("no model at KARAT_TEST_MODEL or in the cache (`karat pull`)");
    }
    found
}

fn gpus() -> Vec<gpu::Gpu> {
    let text = std::env::var("KARAT_GPU_DEVICE").unwrap_or_default();
    let found = gpu::adapters(gpu::Api::Any);
    let found = found.iter().filter(|adapter| adapter.info().name.contains(&text));
    let all: Vec<gpu::Gpu> = found.map(|adapter| adapter.open(threads()).unwrap()).collect();
    if all.is_empty() {
        assert!(variable("CI").is_none(), "no GPU device, and CI is set");
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        say_skipped(&format!("{test}: no GPU device with \"{text}\" in its name"));
    }
    all
}

/// Token ids of each prompt, and how many tokens follow.
fn prompts(proof: bool) -> (Vec<Vec<u32>>, usize) {
    if !proof {
        // "The capital of France is", and its ends.
        let ids = [504, 3575, 282, 4649, 314];
        return ((0..ids.len()).map(|i| ids[i..].to_vec()).collect(), 1);
    }
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
    let dir = variable("KARAT_TEST_ORACLE").unwrap_or_else(beside);
    let file = dir.join("smollm2_greedy.json");
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let cases = all["cases"].as_object().unwrap().iter();
    let cases = cases.filter(|(name, _)| name.starts_with("Q8_0/"));
    let ids = |case: &serde_json::Value| serde_json::from_value(case["tokens"].clone()).unwrap();
    (cases.map(|(_, case)| ids(case)).collect(), 64)
}

/// The bits of one token's logits.
type Row = Vec<u32>;

/// What is run: a graph and its file.
struct Subject {
    graph: Arc<Graph>,
    file: gguf::File,
    options: LoadOptions,
}

impl Subject {
    /// The model in a format; one that is not the file's is made in `dir`, and gone from there after this.
    fn open(model: &Path, format: usize, options: LoadOptions, dir: &Path) -> Self {
        let mut path = model.to_owned();
        if format != OF_THE_FILE {
            path = dir.join(format!("{}.gguf", FORMATS[format]));
            let file = gguf::File::open(model, gguf::Access::Mmap).unwrap();
            let threads = std::num::NonZero::new(threads()).unwrap();
            let request = model::quantize::Request {
                recipe: FORMATS[format].parse::<model::quantize::FileType>().unwrap().into(),
                matrix: None,
                existing: model::output::Existing::Replace,
                threads,
            };
            model::quantize::quantize(&file, &path, request, |_| {}).unwrap();
        }
        let file = gguf::File::open(&path, gguf::Access::Mmap).unwrap();
        let spec = model::spec(&file).unwrap();
        let graph = Arc::new(model::graph(&spec, &file).unwrap());
        Self { graph, file, options }
    }

    fn load(&self, backend: &dyn Backend) -> Result<Box<dyn Loaded>> {
        backend.load(Arc::clone(&self.graph), &[&self.file], self.options, &mut |_| {})
    }

    /// The logits of every token of some prompts and of `n` tokens that follow greedily, for each prompt. A step takes
    /// up to `at_once` tokens of each.
    fn logits(
        &self,
        loaded: &mut dyn Loaded,
        prompts: &[Vec<u32>],
        (at_once, n): (usize, usize),
    ) -> Vec<Vec<Row>> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + n;
        let blocks = longest.div_ceil(KV_BLOCK);
        let mut kv = loaded.new_kv(&Blocks::Each(blocks * prompts.len())).unwrap();
        // Descending, so that a table that is not read is found out.
        let table = |s: usize| (s * blocks..(s + 1) * blocks).rev().map(|b| b as u32).collect();
        let tables: Vec<BlockTable> =
            (0..prompts.len()).map(|s| BlockTable::Same(table(s))).collect();
        let mut pending = prompts.to_vec();
        let mut rows: Vec<Vec<Row>> = vec![Vec::new(); prompts.len()];
        for at in 0.. {
            let mut step = Step { tables: tables.clone(), ..Step::default() };
            for (s, (tokens, rows)) in pending.iter().zip(&rows).enumerate() {
                for (i, &token) in tokens.iter().take(at_once).enumerate() {
                    step.tokens.push(token);
                    step.positions.push((rows.len() + i) as u32);
                    step.seqs.push(s as u32);
                }
            }
            if step.tokens.is_empty() {
                break;
            }
            step.outputs = (0..step.tokens.len() as u32).collect();
            let logits = loaded.run(&step, &mut kv, &mut NoTap).unwrap();
            let ids: Vec<u32> = logits.chunks(self.graph.n_vocab).map(argmax).collect();
            if at % 8 == 2 {
                let best = loaded.run_greedy(&step, &mut kv).unwrap();
                assert!(best.iter().map(|best| best.id).eq(ids.iter().copied()), "step {at}");
            }
            let found = logits.chunks(self.graph.n_vocab).zip(&step.seqs);
            for ((logits, &s), id) in found.zip(ids) {
                let s = s as usize;
                pending[s].remove(0);
                rows[s].push(logits.iter().map(|v| v.to_bits()).collect());
                if pending[s].is_empty() && rows[s].len() < prompts[s].len() + n {
                    pending[s].push(id);
                }
            }
        }
        rows
    }

    /// With the last `on_gpu` layers on the GPU, as `--gpu-layers` puts them there.
    fn backend(&self, gpu: &gpu::Gpu, on_gpu: usize) -> Box<dyn Backend> {
        let all = self.graph.n_layers() + 1;
        let cpu = Box::new(Cpu::new(threads()));
        match on_gpu {
            0 => cpu,
            n if n >= all => Box::new(gpu.clone()),
            n => Box::new(Split { front: cpu, back: Box::new(gpu.clone()), layers: all - n }),
        }
    }
}

/// How many logits are the expected ones: all, or the panic says where the first is that is not.
fn equal(what: &str, got: &[Row], expected: &[Row]) -> usize {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (token, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.len(), expected.len(), "{what}: token {token}");
        if let Some(id) = (0..got.len()).find(|&id| got[id] != expected[id]) {
            let [got, expected] = [got[id], expected[id]].map(f32::from_bits);
            panic!("{what}: token {token}, logit {id}: {got:e} instead of {expected:e}");
        }
    }
    got.iter().map(Vec::len).sum()
}

/// The figures of all runs: for each device and format a line, for each number of layers what was equal.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, first: &str, cells: &[String]) {
        let cells: String = cells.iter().map(|cell| format!(" | {cell:>22}")).collect();
        writeln!(self.0, "| {first:<42}{cells} |").unwrap();
    }
}

fn compare(options: LoadOptions) {
    let Some(model) = default_model() else { return };
    let proof = variable("KARAT_GPU_PROOF").is_some();
    let (gpus, (prompts, n)) = (gpus(), prompts(proof));
    if gpus.is_empty() {
        assert!(!proof, "a proof without a device");
        return;
    }
    let formats = (0..FORMATS.len()).filter(|&f| proof || f == OF_THE_FILE);
    let formats: Vec<_> = formats.filter(|&f| wanted("KARAT_GPU_FORMAT", FORMATS[f])).collect();
    let cuts = LAYERS.into_iter().enumerate();
    let cuts: Vec<_> = cuts.filter(|(_, l)| wanted("KARAT_GPU_LAYERS", l.1)).collect();
    let mut table = Table::default();
    let names: Vec<_> = cuts.iter().map(|(_, (_, name))| format!("{name} layers")).collect();
    table.line(&format!("{} prompts × {n} tokens", prompts.len()), &names);
    let mut alone = BTreeSet::new();
    for &f in &formats {
        let (format, start, dir) = (FORMATS[f], Instant::now(), tempfile::tempdir().unwrap());
        let subject = Subject::open(&model, f, options, dir.path());
        let mut loaded = subject.load(&Cpu::new(threads())).unwrap();
        let by_itself = |prompt: &Vec<u32>| {
            let one = std::slice::from_ref(prompt);
            subject.logits(&mut *loaded, one, (usize::MAX, n)).remove(0)
        };
        let expected: Vec<Vec<Row>> = prompts.iter().map(by_itself).collect();
        println!("{format}: made, and run on the CPU, in {:.1} s", start.elapsed().as_secs_f64());
        for gpu in &gpus {
            let mut cells = Vec::new();
            for &(l, (on_gpu, layers)) in &cuts {
                let (start, name) = (Instant::now(), gpu.name());
                let what = format!("{format}, {layers} layers on {name}");
                let mut loaded = subject.load(&*subject.backend(gpu, on_gpu)).unwrap();
                let mut same = 0;
                let got = subject.logits(&mut *loaded, &prompts, (usize::MAX, n));
                for (p, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    same += equal(&format!("{what}: prompt {p} of the batch"), got, expected);
                }
                let together = start.elapsed().as_secs_f64();
                // Over the formats every prompt has its turn with every number of layers.
                let p = (f + l) % prompts.len();
                let got = subject.logits(&mut *loaded, &prompts[p..=p], (1, n));
                same += equal(&format!("{what}: prompt {p} alone"), &got[0], &expected[p]);
                alone.insert(p);
                let seconds = start.elapsed().as_secs_f64();
                println!(
                    "{what}: {} prompts × {n} tokens together ({together:.1} s), prompt {p} token by token ({:.1} s): \
                     {same} logits equal",
                    prompts.len(),
                    seconds - together
                );
                cells.push(format!("{same} in {seconds:.1} s"));
            }
            table.line(&format!("{format} {:?} {}", options.arithmetic, gpu.info().name), &cells);
        }
    }
    print!("{}", table.0);
    assert!(!formats.is_empty() && !cuts.is_empty(), "no such format, or no such layers");
    let whole = formats.len() == FORMATS.len() && cuts.len() == LAYERS.len();
    assert!(!whole || alone.len() == prompts.len(), "{alone:?}");
}

#[test]
fn int8_logits_are_the_cpu_s_wherever_the_layers_lie() {
    compare(LoadOptions::default());
}

#[test]
fn f32_logits_are_the_cpu_s_wherever_the_layers_lie() {
    compare(LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F16 });
}
