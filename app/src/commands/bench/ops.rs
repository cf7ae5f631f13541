//! Where the time of a test went: nodes of the graph by op and weight, with the bytes and products that they must at
//! least move and compute, against the machine's limits.

use super::limit::Shown;
use super::plan::Shape;
use super::table::Align::{Left, Right};
use super::table::{Table, number, percent};
use graph::{
    Arithmetic, Attention, CacheUse, Graph, Limits, LoadOptions, Node, Op, Rows, Timing, Traffic,
    Value, WeightId, WeightUse,
};

/// The least that a node has to do in a test. Whole numbers, as f64: sums of them do not overflow, and no file's sizes
/// come near 2⁵³.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Bytes of weights in the file's format, and of the cache.
    pub(super) bytes: f64,
    /// Products of 8-bit integers: one for each weight and row in `int8`, two in `int16`.
    pub(super) int8: f64,
    /// Products in f32.
    pub(super) f32: f64,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.int8 += other.int8;
        self.f32 += other.f32;
    }

    /// The seconds that these products take at the limits.
    fn arithmetic_seconds(&self, limits: &Limits) -> f64 {
        self.int8 / limits.int8 + self.f32 / limits.f32
    }
}

/// One row of the table: all nodes of one kind, with weights of one name and format.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct OpTime {
    /// ggml's names of the ops that are computed together.
    op: String,
    /// The weights' names without the layer, or the value's.
    what: String,
    /// Formats of the weights or the cache.
    format: String,
    /// In a step.
    calls: usize,
    /// Milliseconds of a step.
    ms: f64,
    /// Of the test's whole time.
    share: f64,
    /// Gigabytes a second.
    gb_s: f64,
    /// Of the read limit.
    of_read: f64,
    /// Products a second, in 10⁹.
    gmac_s: f64,
    /// Of the limits of 8-bit and f32 products.
    of_mac: f64,
}

/// The table of one test.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Ops {
    /// Measured before the test.
    limits: Shown,
    /// Steps of the engine.
    steps: usize,
    /// The whole test.
    total: OpTime,
    /// Time between the ops.
    outside: OpTime,
    /// What a step moved, where the backend counts that.
    moved: Option<Moved>,
    /// What took longest, first.
    ops: Vec<OpTime>,
}

/// What a step moved between the device and its memory, as its dispatches are bound; each byte once for each dispatch.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Moved {
    dispatches: f64,
    /// Bytes, as the device holds them.
    weights: f64,
    kv: f64,
    logits: f64,
    other: f64,
    /// Weights, cache and logits of all bytes.
    needed: f64,
    /// Bytes of the model's weights in the file.
    of_model: f64,
}

impl Moved {
    fn new(traffic: Traffic, steps: usize, graph: &Graph) -> Self {
        let each = |bytes: u64| bytes as f64 / steps.max(1) as f64;
        let Traffic { weights, kv, logits, other, .. } = traffic;
        let needed = weights as f64 + kv as f64 + logits as f64;
        Self {
            dispatches: each(traffic.dispatches),
            weights: each(weights),
            kv: each(kv),
            logits: each(logits),
            other: each(other),
            needed: needed / (needed + other as f64).max(1.0),
            of_model: graph.weights.iter().map(|w| w.file_bytes() as f64).sum(),
        }
    }

    fn line(&self) -> String {
        let mb = |bytes: f64| format!("{} MB", number(bytes / 1e6));
        format!(
            "a step: {} dispatches; weights {} (the model has {}), cache {}, logits {}, other values {}: {} of the bytes \
             are weights, cache and logits",
            number(self.dispatches),
            mb(self.weights),
            mb(self.of_model),
            mb(self.kv),
            mb(self.logits),
            mb(self.other),
            percent(self.needed)
        )
    }
}

/// What was measured.
pub(super) struct Measured<'a> {
    /// The steps that were run.
    pub(super) shapes: &'a [Shape],
    /// The time of their nodes.
    pub(super) timings: &'a [Timing],
    /// What they moved.
    pub(super) traffic: Option<Traffic>,
    /// Seconds of the whole run.
    pub(super) wall: f64,
}

/// Nodes of one kind.
struct Group {
    labels: Labels,
    calls: usize,
    seconds: f64,
    cost: Cost,
}

/// What tells groups apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Labels {
    op: String,
    what: String,
    format: String,
}

impl Ops {
    /// Puts times, bytes and products together.
    pub(super) fn new(
        graph: &Graph,
        load: LoadOptions,
        measured: &Measured<'_>,
        limits: &Limits,
        shown: Shown,
    ) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for timing in measured.timings {
            let nodes: Vec<&Node> =
                timing.nodes.iter().filter_map(|&node| graph.nodes.get(node)).collect();
            let labels = labels(graph, load, &nodes);
            let mut found = Cost::default();
            nodes.iter().for_each(|node| found.add(cost(graph, load, node, measured.shapes)));
            let seconds = timing.ns as f64 / 1e9;
            match groups.iter_mut().find(|group| group.labels == labels) {
                Some(group) => {
                    group.calls += 1;
                    group.seconds += seconds;
                    group.cost.add(found);
                }
                None => groups.push(Group { labels, calls: 1, seconds, cost: found }),
            }
        }
        groups.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut all = Group {
            labels: Labels { op: "total".into(), what: String::new(), format: String::new() },
            calls: 0,
            seconds: measured.wall,
            cost: Cost::default(),
        };
        groups.iter().for_each(|group| all.cost.add(group.cost));
        all.calls = groups.iter().map(|group| group.calls).sum();
        let inside: f64 = groups.iter().map(|group| group.seconds).sum();
        let outside = Group {
            labels: Labels { op: "outside".into(), what: String::new(), format: String::new() },
            calls: 0,
            seconds: (measured.wall - inside).max(0.0),
            cost: Cost::default(),
        };
        let row = |group: &Group| op_time(group, measured, limits);
        Self {
            limits: shown,
            steps: measured.shapes.len(),
            total: row(&all),
            outside: row(&outside),
            moved: measured
                .traffic
                .map(|traffic| Moved::new(traffic, measured.shapes.len(), graph)),
            ops: groups.iter().map(row).collect(),
        }
    }

    /// How near the whole test came to the limit that binds it: of reading in generation, of products in a prompt.
    pub(super) fn of_limit(&self) -> f64 {
        self.total.of_read.max(self.total.of_mac)
    }

    /// `128 steps; limits …`.
    pub(super) fn title(&self) -> String {
        let s = if self.steps == 1 { "" } else { "s" };
        let moved = self.moved.as_ref().map(|moved| format!("; {}", moved.line()));
        format!("{} step{s}; {}{}", self.steps, self.limits.line(), moved.unwrap_or_default())
    }

    /// For people.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("op", Left),
            ("weights or value", Left),
            ("format", Left),
            ("calls", Right),
            ("ms/step", Right),
            ("share", Right),
            ("GB/s", Right),
            ("of read", Right),
            ("GMAC/s", Right),
            ("of limit", Right),
        ]);
        for op in self.ops.iter().chain([&self.outside, &self.total]) {
            // What moves no weights has no rate to speak of.
            let rate = |rate: f64, show: fn(f64) -> String| {
                if rate > 0.0 { show(rate) } else { String::new() }
            };
            table.row([
                op.op.clone(),
                op.what.clone(),
                op.format.clone(),
                if op.calls > 0 { op.calls.to_string() } else { String::new() },
                number(op.ms),
                percent(op.share),
                rate(op.gb_s, number),
                rate(op.of_read, percent),
                rate(op.gmac_s, number),
                rate(op.of_mac, percent),
            ]);
        }
        table
    }
}

fn op_time(group: &Group, measured: &Measured<'_>, limits: &Limits) -> OpTime {
    let steps = measured.shapes.len().max(1) as f64;
    let Group { labels, calls, seconds, cost } = group;
    // A clock that saw no time pass gives no rate.
    let per_second = |amount: f64| if *seconds > 0.0 { amount / seconds } else { 0.0 };
    OpTime {
        op: labels.op.clone(),
        what: labels.what.clone(),
        format: labels.format.clone(),
        calls: *calls,
        ms: seconds / steps * 1e3,
        share: if measured.wall > 0.0 { seconds / measured.wall } else { 0.0 },
        gb_s: per_second(cost.bytes) / 1e9,
        of_read: per_second(cost.bytes) / limits.read,
        gmac_s: per_second(cost.int8 + cost.f32) / 1e9,
        of_mac: per_second(cost.arithmetic_seconds(limits)),
    }
}

/// Each text once, in order, with `+` between.
fn joined(texts: impl IntoIterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen.join("+")
}

/// Where products are computed together with other ops, the products' weights are named.
fn labels(graph: &Graph, load: LoadOptions, nodes: &[&Node]) -> Labels {
    let products: Vec<&Node> = nodes
        .iter()
        .copied()
        .filter(|node| matches!(node.op, Op::MatMul { .. } | Op::MatMulId { .. }))
        .collect();
    let named = if products.is_empty() { nodes } else { &products };
    Labels {
        op: joined(nodes.iter().map(|node| node.op.kind().to_owned())),
        what: joined(named.iter().map(|node| what(graph, node))),
        format: joined(named.iter().map(|node| format(graph, load, node))),
    }
}

/// `blk.3.attn_q.weight` as `attn_q`, `Qcur-3` as `Qcur`.
fn what(graph: &Graph, node: &Node) -> String {
    let output = node.output.map(|value| graph.value(value));
    // The matrix of the logits is often the embedding's: what it does here is told by what it makes.
    if matches!(node.op, Op::MatMul { .. }) && output.is_some_and(|value| is_logits(graph, value)) {
        return "output".to_owned();
    }
    if node.output.is_none() {
        return "kv".to_owned();
    }
    let weight = node.op.weights().first().map(|(w, _)| *w);
    match (weight, output) {
        (Some(w), _) => {
            let name = graph.weight(w).name.as_str();
            let name = name.strip_suffix(".weight").unwrap_or(name);
            let mut parts = name.splitn(3, '.');
            match (parts.next(), parts.next(), parts.next()) {
                (Some("blk"), Some(_), Some(rest)) => rest.to_owned(),
                (_, _, _) => name.to_owned(),
            }
        }
        (None, Some(value)) => match value.name.rsplit_once('-') {
            Some((name, layer)) if layer.parse::<u32>().is_ok() => name.to_owned(),
            Some(_) | None => value.name.clone(),
        },
        (None, None) => String::new(),
    }
}

fn is_logits(graph: &Graph, value: &Value) -> bool {
    value.rows == Rows::Outputs && value.cols == graph.n_vocab
}

fn format(graph: &Graph, load: LoadOptions, node: &Node) -> String {
    let rows = |(w, usage): (WeightId, WeightUse)| match usage {
        WeightUse::Table | WeightUse::Matrix | WeightUse::Experts => {
            Some(graph.weight(w).dtype.name())
        }
        WeightUse::Vector => None,
    };
    let of_cache = || node.op.cache().map_or("", |_| load.kv.name());
    node.op.weights().into_iter().find_map(rows).unwrap_or_else(of_cache).to_owned()
}

/// Bytes and products of a node in all steps: those of its matrices and of the keys and values. Norms, biases and states are
/// small, and what ops read and write besides is in the caches.
fn cost(graph: &Graph, load: LoadOptions, node: &Node, shapes: &[Shape]) -> Cost {
    let mut all = Cost::default();
    for shape in shapes {
        let tokens: usize = shape.spans.iter().map(|&(_, n)| n).sum();
        let rows = match node.output.map(|value| graph.value(value).rows) {
            Some(Rows::Tokens) => tokens,
            Some(Rows::Outputs) => shape.outputs,
            Some(Rows::Sequences) => shape.spans.len(),
            None => 0,
        };
        for (w, usage) in node.op.weights() {
            let weight = graph.weight(w);
            all.add(match usage {
                WeightUse::Table => {
                    let bytes = weight.dtype.row_bytes(weight.n_in) as f64 * rows as f64;
                    Cost { bytes, ..Cost::default() }
                }
                WeightUse::Matrix => product(weight, load, rows),
                WeightUse::Experts => {
                    let slots = node.inputs.get(1).map_or(1, |chosen| graph.value(*chosen).cols);
                    chosen_products(weight, load, rows, slots)
                }
                WeightUse::Vector => Cost::default(),
            });
        }
        all.add(match (node.op.cache(), &node.op) {
            (Some((_, CacheUse::Reads)), Op::Attention(a)) => attention_cost(graph, load, a, shape),
            (Some((id, CacheUse::Writes)), _) => {
                let bytes = graph.kv(id).position_bytes(load.kv) as f64 * tokens as f64;
                Cost { bytes, ..Cost::default() }
            }
            (Some((_, CacheUse::Reads | CacheUse::Updates)) | None, _) => Cost::default(),
        });
    }
    all
}

/// The weights are read once for all rows; a step without rows does not read them.
pub(super) fn product(weight: &graph::Weight, load: LoadOptions, rows: usize) -> Cost {
    if rows == 0 {
        return Cost::default();
    }
    let bytes = weight.file_bytes() as f64;
    let macs = weight.n_in as f64 * weight.n_out as f64 * rows as f64;
    match computed_in(weight.dtype, load) {
        Arithmetic::Int8 => Cost { bytes, int8: macs, f32: 0.0 },
        Arithmetic::Int16 => Cost { bytes, int8: 2.0 * macs, f32: 0.0 },
        Arithmetic::F32 => Cost { bytes, int8: 0.0, f32: macs },
    }
}

/// A product for each slot of each row. A matrix is read once for all rows that chose it; which do, only the run knows: here
/// every slot has a matrix of its own as long as there are as many, which a single row does have.
fn chosen_products(weight: &graph::Weight, load: LoadOptions, rows: usize, slots: usize) -> Cost {
    let read = (rows * slots).min(weight.n_mats);
    let all = product(weight, load, rows * slots);
    Cost { bytes: all.bytes * read as f64 / weight.n_mats.max(1) as f64, ..all }
}

/// The arithmetic of products with this format: formats of floats are multiplied in f32.
pub(super) fn computed_in(dtype: gguf::DType, load: LoadOptions) -> Arithmetic {
    match graph::ints::form(dtype) {
        Some(_) => load.arithmetic,
        None => Arithmetic::F32,
    }
}

/// Each sequence's visible positions are read once in a step; every token and head multiplies those that it sees.
fn attention_cost(graph: &Graph, load: LoadOptions, op: &Attention, shape: &Shape) -> Cost {
    let window = op.mask.window().map_or(usize::MAX, |window| window as usize);
    let (mut read, mut seen) = (0usize, 0usize);
    for &(first, n) in &shape.spans {
        // From the first token's first visible position to the last token's own.
        read += (first + n).min(window.saturating_add(n).saturating_sub(1));
        seen += (first..first + n).map(|position| (position + 1).min(window)).sum::<usize>();
    }
    let kv = graph.kv(op.cache);
    let width = (kv.head_dim_k + kv.head_dim_v) as f64;
    Cost {
        bytes: kv.position_bytes(load.kv) as f64 * read as f64,
        int8: 0.0,
        f32: seen as f64 * op.n_head as f64 * width,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::DType;
    use graph::{Builder, CacheId, KvHeads, KvType, Mask};

    const LIMITS: Limits = Limits { read: 10e9, int8: 100e9, f32: 50e9 };

    /// Embedding, a product in two formats, attention, logits.
    fn graph() -> Graph {
        let mut b = Builder::new(100);
        let table = b.weight("token_embd.weight", DType::Q8_0, 64, 100);
        let x = b.get_rows(table, "embd").unwrap();
        let wq = b.weight("blk.0.attn_q.weight", DType::Q4_0, 64, 64);
        let q = b.mat_mul(wq, x, "Qcur-0").unwrap();
        let wk = b.weight("blk.0.attn_k.weight", DType::F16, 64, 32);
        let k = b.mat_mul(wk, x, "Kcur-0").unwrap();
        let heads = KvHeads { n_head_kv: 2, head_dim_k: 16, head_dim_v: 16 };
        let cache = b.kv_cache(heads, None);
        b.store_kv(cache, k, k).unwrap();
        let attention = Attention {
            cache,
            n_head: 4,
            scale: 0.25,
            mask: Mask::Causal,
            sinks: None,
            softcap: None,
        };
        let x = b.attention(attention, q, "kqv_out-0").unwrap();
        let x = b.output_rows(x, "rows").unwrap();
        b.mat_mul(table, x, "result_output").unwrap();
        b.finish().unwrap()
    }

    fn load() -> LoadOptions {
        LoadOptions::default()
    }

    #[test]
    fn bytes_and_products_follow_from_the_graph() {
        let graph = graph();
        let shapes = [Shape { spans: vec![(10, 1), (20, 1)], outputs: 2 }];
        let of = |i: usize| cost(&graph, load(), &graph.nodes[i], &shapes);
        // Two rows of 64 weights in blocks of 34 bytes.
        assert_eq!(of(0), Cost { bytes: 2.0 * 2.0 * 34.0, int8: 0.0, f32: 0.0 });
        assert_eq!(of(1), Cost { bytes: 64.0 * 36.0, int8: 2.0 * 64.0 * 64.0, f32: 0.0 });
        assert_eq!(of(2), Cost { bytes: 64.0 * 64.0, int8: 0.0, f32: 2.0 * 64.0 * 32.0 });
        // A position is 2 heads · (16 + 16) · 2 bytes.
        assert_eq!(of(3).bytes, 2.0 * 128.0);
        let attention = Cost { bytes: 32.0 * 128.0, int8: 0.0, f32: 32.0 * 4.0 * 32.0 };
        assert_eq!(of(4), attention);
        assert_eq!(of(6), Cost { bytes: 100.0 * 68.0, int8: 2.0 * 64.0 * 100.0, f32: 0.0 });
        let f32_too = LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F32 };
        assert_eq!(cost(&graph, f32_too, &graph.nodes[1], &shapes).f32, 2.0 * 64.0 * 64.0);
        assert_eq!(cost(&graph, f32_too, &graph.nodes[3], &shapes).bytes, 2.0 * 256.0);
    }

    #[test]
    fn a_prompt_without_logits_does_not_read_their_matrix() {
        let graph = graph();
        let shapes = [Shape { spans: vec![(0, 8)], outputs: 0 }];
        assert_eq!(cost(&graph, load(), &graph.nodes[6], &shapes), Cost::default());
    }

    #[test]
    fn a_window_bounds_what_attention_reads() {
        let graph = graph();
        let cache = CacheId(0);
        let op =
            |mask| Attention { cache, n_head: 4, scale: 1.0, mask, sinks: None, softcap: None };
        let shape = Shape { spans: vec![(100, 3)], outputs: 1 };
        let all = attention_cost(&graph, load(), &op(Mask::Causal), &shape);
        assert_eq!(all.bytes, 103.0 * 128.0);
        assert_eq!(all.f32, (101.0 + 102.0 + 103.0) * 4.0 * 32.0);
        let some = attention_cost(&graph, load(), &op(Mask::Window(10)), &shape);
        // Positions 91..=102.
        assert_eq!(some.bytes, 12.0 * 128.0);
        assert_eq!(some.f32, 30.0 * 4.0 * 32.0);
    }

    #[test]
    fn nodes_are_put_together_by_op_weight_and_format() {
        let graph = graph();
        let timing = |nodes: &[usize], ns| Timing { nodes: nodes.to_vec(), ns };
        let timings = [
            timing(&[0], 1_000),
            timing(&[1, 2, 3], 8_000),
            timing(&[4], 2_000),
            timing(&[5], 0),
            timing(&[6], 5_000),
        ];
        let shapes = [Shape { spans: vec![(0, 1)], outputs: 1 }];
        let traffic = Traffic { dispatches: 7, weights: 6400, kv: 2000, logits: 600, other: 1000 };
        let (traffic, wall) = (Some(traffic), 20e-6);
        let measured = Measured { shapes: &shapes, timings: &timings, traffic, wall };
        let probe = super::super::limit::Probe::new(2);
        let ops = Ops::new(&graph, load(), &measured, &LIMITS, probe.shown(&LIMITS));
        assert!(ops.title().starts_with("1 step; limits of"), "{}", ops.title());
        assert!(
            ops.title().ends_with("90.0 % of the bytes are weights, cache and logits"),
            "{}",
            ops.title()
        );
        assert!(ops.title().contains("a step: 7"), "{}", ops.title());
        let first = &ops.ops[0];
        assert_eq!(
            (first.op.as_str(), first.what.as_str(), first.format.as_str()),
            ("MUL_MAT+SET_ROWS", "attn_q+attn_k", "Q4_0+F16")
        );
        // 64·36 + 64·64 + 128 bytes in 8 µs.
        assert!((first.gb_s - 6528.0 / 8e3).abs() < 1e-9, "{first:?}");
        assert!((first.of_read - first.gb_s / 10.0).abs() < 1e-9);
        let seconds = 4096.0 / LIMITS.int8 + 2048.0 / LIMITS.f32;
        assert!((first.of_mac - seconds / 8e-6).abs() < 1e-9, "{first:?}");
        assert!((ops.outside.share - 0.2).abs() < 1e-9, "{:?}", ops.outside);
        assert_eq!(ops.total.calls, 5);
        assert_eq!(ops.of_limit(), ops.total.of_read.max(ops.total.of_mac));
        let names: Vec<&str> = ops.ops.iter().map(|op| op.what.as_str()).collect();
        assert_eq!(names, ["attn_q+attn_k", "output", "kqv_out", "token_embd", "rows"]);
        let text = ops.table().markdown();
        assert!(text.lines().count() == 2 + 5 + 2, "{text}");
        assert!(text.contains("| outside "), "{text}");
    }
}
