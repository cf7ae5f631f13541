//! A graph on two backends: the layers before a cut on one, the others and the output on the other, with the same bits.

use crate::{
    Backend, Error, ErrorKind, Graph, Kv, LoadOptions, Loaded, Node, Op, Result, Step, Tap, Timing,
    Value, ValueId, WeightId,
};
use std::sync::Arc;

/// A graph in two halves that do its work one after the other: the head's result is the tail's [`Op::Input`].
#[derive(Clone, Debug, PartialEq)]
pub struct Halves {
    /// Embedding and the first layers. Its last value is not logits but what goes on: the residual stream.
    pub head: Graph,
    /// The other layers and the output.
    pub tail: Graph,
}

/// Cuts a graph after so many layers (a layer is what has a KV cache), where a single value is still to be read: in a
/// decoder the residual stream, `l_out`.
///
/// # Errors
/// [`ErrorKind::Shape`] where there is no such place.
pub fn cut(graph: &Graph, layers: usize) -> Result<Halves> {
    let Some(node) = place(graph, layers) else {
        let all = graph.kv_layers.len();
        let what = format!("cut after {layers} layers: the graph of {all} has no such place");
        return Err(Error::new(ErrorKind::Shape, what));
    };
    Ok(Halves { head: part(graph, 0..node + 1), tail: part(graph, node + 1..graph.nodes.len()) })
}

/// The last node after which only its own value is still read, and the cache of just the first `layers` is written: the
/// sum that ends a layer, not the norm of the output behind it.
fn place(graph: &Graph, layers: usize) -> Option<usize> {
    let mut last_reader = vec![0; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| last_reader[v.0] = i);
    }
    // Layers whose cache is written up to here, and the last node that reads a value or a cache of before.
    let (mut stored, mut furthest, mut found) = (0, 0, None);
    let last_look = |layer: usize| {
        let looks = |node: &Node| matches!(node.op, Op::Attention(a) if a.kv_layer == layer);
        graph.nodes.iter().rposition(looks).unwrap_or(0)
    };
    for (i, node) in graph.nodes.iter().enumerate() {
        if let Op::StoreKv { kv_layer } = node.op {
            stored += 1;
            furthest = furthest.max(last_look(kv_layer));
        }
        let Some(v) = node.output else { continue };
        let goes_on = last_reader[v.0] > i && (layers == 0 || node.op == Op::Add);
        if stored == layers && furthest <= i && goes_on {
            found = Some(i);
        }
        furthest = furthest.max(last_reader[v.0]);
    }
    found
}

/// Some nodes as a graph of their own; what they read of before becomes its first value.
fn part(graph: &Graph, nodes: std::ops::Range<usize>) -> Graph {
    let mut part = Graph {
        rope_tables: graph.rope_tables.clone(),
        n_vocab: graph.n_vocab,
        ..Graph::default()
    };
    let before = graph.nodes[..nodes.start].iter().rev().find_map(|node| node.output);
    if let Some(input) = before {
        part.values.push(graph.value(input).clone());
        part.nodes.push(Node { op: Op::Input, inputs: vec![], output: Some(ValueId(0)) });
    }
    let first = before.map_or(0, |v| v.0);
    let (mut weights, mut layers) = (Vec::new(), Vec::new());
    for node in &graph.nodes[nodes] {
        let mut node = node.clone();
        node.op = moved(node.op, &mut weights, &mut layers);
        node.inputs.iter_mut().chain(&mut node.output).for_each(|v| v.0 -= first);
        if let Some(v) = node.output {
            part.values.push(graph.values[v.0 + first].clone());
        }
        part.nodes.push(node);
    }
    part.weights = weights.into_iter().map(|w| graph.weight(w).clone()).collect();
    part.kv_layers = layers.into_iter().map(|layer| graph.kv_layers[layer]).collect();
    part
}

/// Place of `x` in `all`, to which it is added if it is not there.
fn index<T: PartialEq>(all: &mut Vec<T>, x: T) -> usize {
    all.iter().position(|y| *y == x).unwrap_or_else(|| {
        all.push(x);
        all.len() - 1
    })
}

/// The op with the numbers that its weight and its cache have in the part.
fn moved(op: Op, weights: &mut Vec<WeightId>, layers: &mut Vec<usize>) -> Op {
    let mut weight = |w| WeightId(index(weights, w));
    match op {
        Op::GetRows { table } => Op::GetRows { table: weight(table) },
        Op::MatMul { w } => Op::MatMul { w: weight(w) },
        Op::AddBias { b } => Op::AddBias { b: weight(b) },
        Op::RmsNorm { w, eps } => Op::RmsNorm { w: weight(w), eps },
        Op::StoreKv { kv_layer } => Op::StoreKv { kv_layer: index(layers, kv_layer) },
        Op::Attention(mut a) => {
            a.kv_layer = index(layers, a.kv_layer);
            Op::Attention(a)
        }
        Op::Add
        | Op::Scale { .. }
        | Op::Rope { .. }
        | Op::Glu { .. }
        | Op::Columns { .. }
        | Op::OutputRows
        | Op::Softcap { .. }
        | Op::Input => op,
    }
}

/// Two backends that share a graph's layers.
pub struct Split {
    /// Runs the embedding and the first layers.
    pub head: Box<dyn Backend>,
    /// Runs the other layers and the output.
    pub tail: Box<dyn Backend>,
    /// How many layers the head has.
    pub layers: usize,
}

impl Backend for Split {
    fn name(&self) -> String {
        let n = self.layers;
        format!("{} for the first {n} layers, then {}", self.head.name(), self.tail.name())
    }

    fn supports(
        &self,
        graph: &Graph,
        node: &Node,
        options: LoadOptions,
    ) -> std::result::Result<(), String> {
        let place = place(graph, self.layers);
        let at = graph.nodes.iter().position(|other| std::ptr::eq(other, node));
        let side = if at <= place { &self.head } else { &self.tail };
        side.supports(graph, node, options).map_err(|reason| format!("{}: {reason}", side.name()))
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        file: &gguf::File,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        let Halves { head, tail } = cut(&graph, self.layers)?;
        let (in_head, first) = (head.nodes.len(), head.values.len().saturating_sub(1));
        let mut read = 0;
        let head = self.head.load(Arc::new(head), file, options, &mut |n| {
            read = n;
            progress(n);
        })?;
        let tail = self.tail.load(Arc::new(tail), file, options, &mut |n| progress(read + n))?;
        let mut makers = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.output.iter().for_each(|v| makers[v.0] = i);
        }
        Ok(Box::new(LoadedSplit { graph, head, tail, in_head, first, makers }))
    }
}

struct LoadedSplit {
    graph: Arc<Graph>,
    head: Box<dyn Loaded>,
    tail: Box<dyn Loaded>,
    /// Nodes of the head.
    in_head: usize,
    /// The value that goes from one to the other.
    first: usize,
    /// Index of the node that makes each value.
    makers: Vec<usize>,
}

/// Each half's cache, with the cache of its own layers only.
struct SplitKv(Kv, Kv);

/// Shows the whole graph's nodes to the tap of the whole.
struct PartTap<'a> {
    tap: &'a mut dyn Tap,
    graph: &'a Graph,
    makers: &'a [usize],
    /// What a value's number is lower by in this half.
    first: usize,
}

impl PartTap<'_> {
    fn whole(&self, node: &Node) -> Option<&Node> {
        let v = node.output.filter(|_| node.op != Op::Input)?;
        Some(&self.graph.nodes[self.makers[v.0 + self.first]])
    }
}

impl Tap for PartTap<'_> {
    fn wants(&mut self, node: &Node, value: &Value) -> bool {
        let Some(node) = self.whole(node).cloned() else { return false };
        self.tap.wants(&node, value)
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        if let Some(node) = self.whole(node).cloned() {
            self.tap.value(&node, value, data);
        }
    }

    fn isolates(&self) -> bool {
        self.tap.isolates()
    }

    fn watches(&self) -> bool {
        self.tap.watches()
    }
}

impl Loaded for LoadedSplit {
    fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn kv_bytes(&self, n_blocks: usize) -> usize {
        self.head.kv_bytes(n_blocks).saturating_add(self.tail.kv_bytes(n_blocks))
    }

    fn new_kv(&self, n_blocks: usize) -> Result<Kv> {
        let kv = SplitKv(self.head.new_kv(n_blocks)?, self.tail.new_kv(n_blocks)?);
        Ok(Kv(Box::new(kv)))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let SplitKv(head_kv, tail_kv) = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by a split one")
        })?;
        let (graph, makers) = (&*self.graph, &*self.makers);
        let mut head_tap = PartTap { tap: &mut *tap, graph, makers, first: 0 };
        let inputs = self.head.run(step, head_kv, &mut head_tap)?;
        let step = Step { inputs, ..step.clone() };
        let mut tail_tap = PartTap { tap, graph, makers, first: self.first };
        self.tail.run(&step, tail_kv, &mut tail_tap)
    }

    fn profile(&mut self, on: bool) {
        self.head.profile(on);
        self.tail.profile(on);
    }

    fn timings(&self) -> Vec<Timing> {
        let mut all = self.head.timings();
        for Timing { nodes, ns } in self.tail.timings() {
            // The tail's first node is the input, which is no node of the whole.
            let nodes: Vec<usize> =
                nodes.into_iter().filter(|&i| i > 0).map(|i| i - 1 + self.in_head).collect();
            if !nodes.is_empty() {
                all.push(Timing { nodes, ns });
            }
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use crate::cases::{self, Cut};
    use crate::reference::Reference;

    #[test]
    fn every_place_of_every_decoder_gives_the_whole_graph_s_bits() {
        let mut cuts = 0;
        for case in cases::decoders().unwrap() {
            let load = |backend: &dyn Backend| {
                let graph = Arc::clone(&case.graph);
                backend.load(graph, &case.file, LoadOptions::default(), &mut |_| {}).unwrap()
            };
            let expected = case.record(&mut *load(&Reference), Cut::Batch(17)).unwrap();
            for layers in 0..=case.graph.kv_layers.len() {
                let both = Split { head: Box::new(Reference), tail: Box::new(Reference), layers };
                let mut loaded = load(&both);
                let blocks = (loaded.kv_bytes(3), load(&Reference).kv_bytes(3));
                assert_eq!(blocks.0, blocks.1, "{}", case.name);
                let got = case.record(&mut *loaded, Cut::Batch(17)).unwrap();
                let difference = got.first_difference(&expected, &case.graph);
                assert_eq!(difference, None, "{} cut after {layers}", case.name);
                cuts += 1;
            }
        }
        assert!(cuts > 8, "{cuts}");
    }

    #[test]
    fn the_halves_hold_what_they_use_and_no_more() {
        for case in cases::decoders().unwrap() {
            let whole = &*case.graph;
            let n = whole.kv_layers.len();
            for layers in 0..=n {
                let Halves { head, tail } = cut(whole, layers).unwrap();
                assert_eq!((head.kv_layers.len(), tail.kv_layers.len()), (layers, n - layers));
                assert_eq!(head.nodes.len() + tail.nodes.len(), whole.nodes.len() + 1);
                assert_eq!(head.values.len() + tail.values.len(), whole.values.len() + 1);
                assert_eq!(tail.nodes[0].op, Op::Input);
                assert_eq!(tail.values.last(), whole.values.last());
                assert!(head.weights.len() < whole.weights.len());
            }
            let error = cut(whole, n + 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.to_string().contains(&format!("after {} layers", n + 1)), "{error}");
        }
    }

    #[test]
    fn a_tail_refuses_a_step_without_its_input() {
        let case = &cases::decoders().unwrap()[0];
        let tail = Arc::new(cut(&case.graph, 1).unwrap().tail);
        let mut loaded =
            Reference.load(tail, &case.file, LoadOptions::default(), &mut |_| {}).unwrap();
        let mut kv = loaded.new_kv(4).unwrap();
        let step = Step::single(&case.prompts[0], 0);
        let error = loaded.run(&step, &mut kv, &mut crate::NoTap).unwrap_err();
        assert!(error.to_string().contains("inputs"), "{error}");
    }
}
