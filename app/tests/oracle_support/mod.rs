//! What the tests against llama.cpp share: the recordings, the model's variants, the counts, and runs that put a
//! trace's values in.
#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../skip/mod.rs"]
pub(crate) mod skip;

use cpu::Cpu;
use graph::compare::nmse;
use graph::ops::{attention, rms_norm};
use graph::{Backend, Blocks, Graph, LoadOptions, Loaded, NoTap, Node, Op, Step, Tap, Value, math};
use model::sampler::argmax;
use safetensors::SafeTensors;
use skip::say_skipped;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizer::{Ends, Special, Tokenizer};

/// The default model's file name in the cache.
const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The recordings, and the default model.
pub(crate) struct Oracle {
    pub(crate) dir: PathBuf,
    cases: BTreeMap<String, Prompt>,
    /// The prompts' texts, by name.
    prompts: BTreeMap<String, String>,
    model: PathBuf,
}

/// One case of the greedy recordings.
#[derive(Clone, serde::Deserialize)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) generated: Vec<u32>,
    #[serde(rename = "top5_logits")]
    pub(crate) top5: Vec<Vec<(u32, f64)>>,
}

#[derive(serde::Deserialize)]
struct Greedy {
    cases: BTreeMap<String, Prompt>,
    /// Absent from the large recordings, which have a file for each.
    #[serde(default)]
    prompts: BTreeMap<String, String>,
}

#[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The default model, from KARAT_TEST_MODEL or the cache, or `None` with a printed reason.
fn default_model() -> Option<PathBuf> {
    let cache = variable("KARAT_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("karat")))
        .or_else(|| Some(variable("HOME")?.join(".cache/karat")));
    let cached = cache.map(|c| c.join("models").join(DEFAULT_MODEL));
    let path = variable("KARAT_TEST_MODEL").or(cached).filter(|p| p.is_file());
    if path.is_none() {
        say_skipped(
            "comparing with llama.cpp: the default model is absent (`karat pull smollm2:135m`, or KARAT_TEST_MODEL)",
        );
    }
    path
}

impl Oracle {
    /// The large recordings beside the project, or `None` with a printed reason.
    pub(crate) fn find() -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
        let file = dir.join("smollm2_greedy.json");
        if !file.is_file() {
            say_skipped("comparing with llama.cpp's large recordings: ../shared/oracle is absent");
            return None;
        }
        let mut oracle = Self::open(dir, &file)?;
        for case in oracle.cases.keys() {
            let name = case.split('/').nth(1).unwrap();
            let text = std::fs::read_to_string(oracle.dir.join(format!("prompts/{name}.txt")));
            oracle.prompts.insert(name.to_owned(), text.unwrap());
        }
        Some(oracle)
    }

    /// The small recordings in `tests/llama_cpp`, or `None` with a printed reason.
    pub(crate) fn small() -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/llama_cpp");
        let file = dir.join("greedy.json");
        Self::open(dir, &file)
    }

    fn open(dir: PathBuf, file: &Path) -> Option<Self> {
        let Greedy { cases, prompts } =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        Some(Self { dir, cases, prompts, model: default_model()? })
    }

    pub(crate) fn default_model(&self) -> &Path {
        &self.model
    }

    pub(crate) fn all_cases(&self) -> impl Iterator<Item = (String, Prompt)> + '_ {
        self.cases.iter().map(|(name, prompt)| (name.clone(), prompt.clone()))
    }

    pub(crate) fn cases(&self, variant: &str) -> Vec<(String, Prompt)> {
        self.all_cases().filter(|(name, _)| name.split('/').next() == Some(variant)).collect()
    }

    pub(crate) fn prompt_text(&self, case: &str) -> &str {
        &self.prompts[case.split('/').nth(1).unwrap()]
    }

    /// Tokenizes every prompt, and returns how many gave llama.cpp's ids: all, or it panics.
    pub(crate) fn assert_prompts_have_ids(&self) -> usize {
        let file = gguf::File::open(self.default_model(), gguf::Access::Pread).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        for (case, prompt) in self.all_cases() {
            let text = self.prompt_text(&case);
            let ids = tokenizer.encode(text, Special::Parse, Ends::Default).unwrap();
            assert_eq!(ids, prompt.tokens, "{case}");
        }
        self.cases.len()
    }

    /// The ids of the prompt `france` of this variant, of which the traces are.
    pub(crate) fn france(&self, variant: &str) -> Vec<u32> {
        self.cases[&format!("{variant}/france")].tokens.clone()
    }
}

/// The types made from the model dequantised.
pub(crate) const QUANTISED: [&str; 5] = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"];

/// The seven variants of the default model: its own, then `F32` made from it, then each type made from that.
pub(crate) fn variants(oracle: &Oracle) -> Vec<(String, PathBuf)> {
    let own = ("Q4_1".to_owned(), oracle.default_model().to_owned());
    let made =
        ["F32"].iter().chain(&QUANTISED).map(|name| (name.to_string(), variant(oracle, name)));
    std::iter::once(own).chain(made).collect()
}

/// One variant of the default model, made by karat's own quantiser: `F32`, or a type made from that.
pub(crate) fn variant(oracle: &Oracle, name: &str) -> PathBuf {
    static MAKE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = MAKE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle-models");
    std::fs::create_dir_all(&dir).unwrap();
    let full = dir.join("F32.gguf");
    make(oracle.default_model(), &full, "F32");
    if name == "F32" {
        return full;
    }
    let path = dir.join(format!("{name}.gguf"));
    make(&full, &path, name);
    path
}

/// Quantises unless it was done since the binary was built.
fn make(from: &Path, to: &Path, name: &str) {
    let built = std::env::current_exe().unwrap().metadata().unwrap().modified().unwrap();
    if to.metadata().and_then(|m| m.modified()).is_ok_and(|made| made > built) {
        return;
    }
    let file = gguf::File::open(from, gguf::Access::Mmap).unwrap();
    let request = model::quantize::Request {
        recipe: name.parse::<model::quantize::FileType>().unwrap().into(),
        matrix: None,
        existing: model::output::Existing::Replace,
        threads: std::num::NonZero::new(2).unwrap(),
    };
    model::quantize::quantize(&file, to, request, |_| {}).unwrap();
}

/// A model on the CPU backend.
pub(crate) struct Engine {
    loaded: Box<dyn Loaded>,
}

/// Loads a file on the CPU backend with two threads.
pub(crate) fn load(path: &Path, options: LoadOptions) -> Engine {
    let file = gguf::File::open(path, gguf::Access::Mmap).unwrap();
    let spec = model::spec(&file).unwrap();
    let graph = Arc::new(model::graph(&spec, &file).unwrap());
    Engine { loaded: Cpu::new(2).load(graph, &[&file], options, &mut |_| {}).unwrap() }
}

/// One value of a trace against ours.
pub(crate) struct Compared {
    pub(crate) key: String,
    pub(crate) op: String,
    pub(crate) nmse: f64,
}

impl Engine {
    pub(crate) fn graph(&self) -> &Graph {
        self.loaded.graph()
    }

    /// Logits of the prompt's last token and of each generated one but the last.
    pub(crate) fn teacher_forced(
        &mut self,
        prompt: &[u32],
        generated: &[u32],
        tap: &mut dyn Tap,
    ) -> Vec<Vec<f32>> {
        let ids: Vec<u32> =
            prompt.iter().chain(&generated[..generated.len() - 1]).copied().collect();
        let mut step = Step::single(&ids, 0);
        step.outputs = (prompt.len() as u32 - 1..ids.len() as u32).collect();
        let mut kv =
            self.loaded.new_kv(&Blocks::Each(step.tables[0].of(graph::GroupId(0)).len())).unwrap();
        let logits = self.loaded.run(&step, &mut kv, tap).unwrap();
        logits.chunks(self.graph().n_vocab).map(<[f32]>::to_vec).collect()
    }

    pub(crate) fn last_logits(&mut self, prompt: &[u32]) -> Vec<f32> {
        self.teacher_forced(prompt, &[0], &mut NoTap).remove(0)
    }

    /// Runs the prompt; each value that the trace has is compared and then replaced by the trace's, so that every op
    /// is fed the trace's own inputs.
    pub(crate) fn against_trace(&mut self, prompt: &[u32], trace: &Trace) -> Vec<Compared> {
        let graph = Arc::clone(self.loaded.graph());
        let mut tap = Substitute { graph: &graph, trace, compared: Vec::new() };
        self.teacher_forced(prompt, &[0], &mut tap);
        tap.compared
    }
}

struct Substitute<'a> {
    graph: &'a Graph,
    trace: &'a Trace,
    compared: Vec<Compared>,
}

/// llama.cpp's op for a value of ours: the weight of a norm is a MUL there, and what comes out of attention is taken
/// at the reshape behind it.
fn op_in_trace(node: &Node, value: &Value, trace: &Trace) -> &'static str {
    if matches!(node.op, Op::RmsNorm { .. }) {
        return "MUL";
    }
    if matches!(node.op, Op::Attention(_)) {
        let flash = trace.get(&value.name, "CONT", 0).is_none();
        return if flash { "RESHAPE" } else { "CONT" };
    }
    node.op.kind()
}

impl Tap for Substitute<'_> {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let op = op_in_trace(node, value, self.trace);
        let Some(theirs) = self.trace.get(&value.name, op, 0) else {
            assert!(
                self.trace.is_cut || matches!(node.op, Op::OutputRows),
                "{} is not in the trace",
                self.graph.key(node)
            );
            return;
        };
        assert_eq!(theirs.len(), data.len(), "{}", value.name);
        let key = format!("{}:{op}", value.name);
        self.compared.push(Compared { key, op: op.to_owned(), nmse: nmse(data, theirs) });
        data.copy_from_slice(theirs);
    }
}

/// A recorded trace: `index/name#n:OP` → values.
pub(crate) struct Trace {
    values: HashMap<(String, String, usize), Vec<f32>>,
    /// Whether only a part of the model's values was kept.
    is_cut: bool,
}

impl Trace {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut names = tensors.names();
        names.sort();
        let mut values: HashMap<(String, String, usize), Vec<f32>> = HashMap::new();
        for name in names {
            let (_, rest) = name.split_once('/').unwrap();
            let (label, op) = rest.rsplit_once(':').unwrap();
            let (label, _) = label.split_once('#').unwrap();
            let data = tensors.tensor(name).unwrap();
            let floats = data
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            let nth = (0..)
                .find(|&n| !values.contains_key(&(label.to_owned(), op.to_owned(), n)))
                .unwrap();
            values.insert((label.to_owned(), op.to_owned(), nth), floats);
        }
        let is_cut = !values.keys().any(|(label, _, _)| label == "result_output");
        Self { values, is_cut }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Values made by this op.
    pub(crate) fn count(&self, op: &str) -> usize {
        self.values.keys().filter(|k| k.1 == op).count()
    }

    /// The `n`-th value of this name and op.
    pub(crate) fn get(&self, name: &str, op: &str, n: usize) -> Option<&[f32]> {
        self.values.get(&(name.to_owned(), op.to_owned(), n)).map(Vec::as_slice)
    }

    /// Reshapes hold what the op before them made.
    pub(crate) fn reshapes(&self) -> Vec<Compared> {
        let reshapes = self.values.iter().filter(|(k, _)| k.1 == "RESHAPE");
        reshapes
            .map(|((name, op, _), values)| {
                let before = self.get(name, "MUL_MAT", 0).unwrap();
                Compared { key: format!("{name}:{op}"), op: op.clone(), nmse: nmse(values, before) }
            })
            .collect()
    }
}

/// The parts of attention that are values of their own without flash attention: `kq`, `kq_soft_max`, `kqv`. They are
/// inside one op of ours; here the reference's own steps compute them from the trace's q, k and v.
pub(crate) fn attention_parts(trace: &Trace, graph: &Graph) -> Vec<Compared> {
    let mut compared = Vec::new();
    let attentions = graph
        .nodes
        .iter()
        .filter_map(|node| if let Op::Attention(a) = node.op { Some(a) } else { None });
    for (il, a) in attentions.enumerate() {
        let kv = graph.kv(a.cache);
        let (dk, dv) = (kv.head_dim_k, kv.head_dim_v);
        let get = |name: &str, op: &str| trace.get(&format!("{name}-{il}"), op, 0).unwrap();
        let (q, k, v) = (get("Qcur", "ROPE"), get("Kcur", "ROPE"), get("Vcur", "MUL_MAT"));
        let (kq, soft_max, kqv) =
            (get("kq", "MUL_MAT"), get("kq_soft_max", "SOFT_MAX"), get("kqv", "MUL_MAT"));
        let n = q.len() / (a.n_head * dk);
        let padded = kq.len() / (a.n_head * n);
        let (mut our_kq, mut our_soft_max, mut our_kqv) =
            (vec![0.0; kq.len()], vec![0.0; kq.len()], vec![0.0; kqv.len()]);
        let unscaled = graph::Attention { scale: 1.0, ..a };
        for h in 0..a.n_head {
            let h_kv = h / (a.n_head / kv.n_head_kv);
            for t in 0..n {
                let row = (h * n + t) * padded;
                let q = &q[(t * a.n_head + h) * dk..][..dk];
                let keys: Vec<&[f32]> =
                    (0..n).map(|p| &k[(p * kv.n_head_kv + h_kv) * dk..][..dk]).collect();
                our_kq[row..row + n].copy_from_slice(&attention::scores(&unscaled, q, &keys));
                let s: Vec<f32> = kq[row..=row + t].iter().map(|s| s * a.scale).collect();
                let max = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let p: Vec<f32> = s.iter().map(|s| math::exp(s - max)).collect();
                let inverse = 1.0 / math::sum_strided(&p, |acc, v| acc + v);
                for (j, p) in p.iter().enumerate() {
                    our_soft_max[row + j] = p * inverse;
                }
                for d in 0..dv {
                    let value = |j: usize| v[(j * kv.n_head_kv + h_kv) * dv + d];
                    let chain = (0..n)
                        .fold(0.0f32, |acc, j| graph::math::fma(soft_max[row + j], value(j), acc));
                    our_kqv[(h * n + t) * dv + d] = chain;
                }
            }
        }
        for (name, op, ours, theirs) in [
            ("kq", "MUL_MAT", &our_kq, kq),
            ("kq_soft_max", "SOFT_MAX", &our_soft_max, soft_max),
            ("kqv", "MUL_MAT", &our_kqv, kqv),
        ] {
            compared.push(Compared {
                key: format!("{name}-{il}:{op}"),
                op: op.to_owned(),
                nmse: nmse(ours, theirs),
            });
        }
    }
    compared
}

/// llama.cpp's norms before their weight: ours have the weight inside.
pub(crate) fn plain_norms(trace: &Trace, graph: &Graph) -> Vec<Compared> {
    let n_layer = graph.n_layers();
    let mut compared = Vec::new();
    let mut check = |name: String, nth: usize, input: &[f32]| {
        let theirs = trace.get(&name, "RMS_NORM", nth).unwrap();
        let eps = graph
            .nodes
            .iter()
            .find_map(|node| if let Op::RmsNorm { eps, .. } = node.op { Some(eps) } else { None });
        let n_embd = graph.values[0].cols;
        let mut ours = vec![0.0; input.len()];
        rms_norm::rms_norm(input, &vec![1.0; n_embd], eps.unwrap(), &mut ours);
        let key = format!("{name}#{nth}:RMS_NORM");
        compared.push(Compared { key, op: "RMS_NORM".to_owned(), nmse: nmse(&ours, theirs) });
    };
    for il in 0..n_layer {
        let before = match il {
            0 => trace.get("embd", "GET_ROWS", 0),
            _ => trace.get(&format!("l_out-{}", il - 1), "ADD", 0),
        };
        check(format!("norm-{il}"), 0, before.unwrap());
        check(format!("norm-{il}"), 1, trace.get(&format!("ffn_inp-{il}"), "ADD", 0).unwrap());
    }
    check("norm".to_owned(), 0, trace.get(&format!("l_out-{}", n_layer - 1), "ADD", 0).unwrap());
    compared
}

/// `Σ p log(p / q)` over the softmax of two rows of logits, in f64.
pub(crate) fn softmax_kl(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| -> Vec<f64> {
        let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = x.iter().map(|&v| (f64::from(v) - max).exp()).sum();
        x.iter().map(|&v| f64::from(v) - max - sum.ln()).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Prints the worst of the trace's products; panics if one is further off than 1e-12, or was not compared.
pub(crate) fn assert_products_equal(name: &str, compared: &[Compared], trace: &Trace) {
    let products: Vec<_> = compared.iter().filter(|c| c.op == "MUL_MAT").collect();
    let worst = products.iter().max_by(|a, b| a.nmse.total_cmp(&b.nmse)).unwrap();
    println!("{name:8} {} MUL_MAT, worst NMSE {:.2e} at {}", products.len(), worst.nmse, worst.key);
    for c in products.iter().filter(|c| c.nmse.is_nan() || c.nmse > 1e-12) {
        println!("  {} {:.2e}", c.key, c.nmse);
    }
    assert_eq!(products.len(), trace.count("MUL_MAT"), "every MUL_MAT of the trace was compared");
    assert!(worst.nmse <= 1e-12);
}

/// Counts where karat, fed llama.cpp's text, picks llama.cpp's next id; and where it picks its own, fed embeddings that
/// are off by one bit.
pub(crate) fn next_tokens(engine: &mut Engine, cases: &[(String, Prompt)]) -> Counts {
    let mut counts = Counts::default();
    for (_, prompt) in cases {
        let rows = engine.teacher_forced(&prompt.tokens, &prompt.generated, &mut NoTap);
        let nudged = engine.teacher_forced(&prompt.tokens, &prompt.generated, &mut LastBit);
        for (i, (row, nudged)) in rows.iter().zip(&nudged).enumerate() {
            let best = argmax(row);
            let gap = prompt.top5[i][0].1 - prompt.top5[i][1].1;
            counts.llama_cpp.add(best == prompt.generated[i], gap);
            counts.itself.add(best == argmax(nudged), gap);
        }
    }
    counts
}

/// Agreements, and disagreements where llama.cpp's best two logits were 0.1 or more apart.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    pub(crate) agree: usize,
    pub(crate) total: usize,
    pub(crate) wide: usize,
}

impl Share {
    fn add(&mut self, agrees: bool, gap: f64) {
        self.agree += usize::from(agrees);
        self.total += 1;
        self.wide += usize::from(!agrees && gap >= 0.1);
    }

    fn extend(&mut self, other: Self) {
        self.agree += other.agree;
        self.total += other.total;
        self.wide += other.wide;
    }

    fn share(self) -> f64 {
        self.agree as f64 / self.total as f64
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:5} of {:4} = {:6.2} % ({:2})",
            self.agree,
            self.total,
            100.0 * self.share(),
            self.wide
        )
    }
}

/// How often karat picked llama.cpp's id, and its own.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) llama_cpp: Share,
    pub(crate) itself: Share,
}

impl Counts {
    /// In f32 arithmetic: 99.5 %, and no wide gap.
    pub(crate) fn assert_f32_agrees(&self) {
        let Share { agree, total, wide } = self.llama_cpp;
        assert!(agree as f64 >= 0.995 * total as f64 && wide == 0, "F32 has no rounding to blame");
    }

    /// In `int8` arithmetic: not lower than karat's share with itself by more than three standard deviations of such a
    /// count.
    pub(crate) fn assert_int8_agrees(&self) {
        let (p, n) = (self.itself.share(), self.itself.total as f64);
        let deviation = (2.0 * p * (1.0 - p) / n).sqrt();
        assert!(
            self.llama_cpp.share() >= p - 3.0 * deviation,
            "further from llama.cpp than rounding explains"
        );
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.llama_cpp.extend(other.llama_cpp);
        self.itself.extend(other.itself);
    }
}

/// Flips the last bit of every embedding.
pub(crate) struct LastBit;

impl graph::Tap for LastBit {
    fn wants(&mut self, _: &graph::Node, value: &graph::Value) -> bool {
        value.name == "embd"
    }

    fn value(&mut self, _: &graph::Node, _: &graph::Value, data: &mut [f32]) {
        data.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits() ^ 1));
    }
}
