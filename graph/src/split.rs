//! A graph on two backends: the first layers on one, the others and the output on the other, with the same bits.

use crate::{
    Backend, Blocks, CacheId, Error, ErrorKind, Graph, Kv, LoadOptions, Loaded, Node, Op, Result,
    Step, Stop, Tap, Timing, Value, ValueId,
};
use std::collections::HashSet;
use std::sync::Arc;

/// A graph in two halves that do its work one after the other: the front's result is the back's [`Op::Input`].
#[derive(Clone, Debug, PartialEq)]
pub struct SplitGraph {
    /// Embedding and the first layers. Its last value is not logits but what goes on: the residual stream.
    pub front: Graph,
    /// The other layers and the output.
    pub back: Graph,
}

/// Splits a graph after its first `layers`, where only the residual stream is still to be read.
///
/// # Errors
/// [`ErrorKind::Shape`] where there is no such place.
pub fn split(graph: &Graph, layers: usize) -> Result<SplitGraph> {
    let Some(node) = place(graph, layers) else {
        let all = graph.n_layers();
        let what = format!("split after {layers} layers: the graph of {all} has no such place");
        return Err(Error::new(ErrorKind::Shape, what));
    };
    Ok(SplitGraph {
        front: part(graph, 0..node + 1),
        back: part(graph, node + 1..graph.nodes.len()),
    })
}

/// The node that makes the residual stream behind the first `layers`, if nothing else of before it is read after it: no
/// other value, and no cache.
fn place(graph: &Graph, layers: usize) -> Option<usize> {
    let stream = *graph.stream.get(layers)?;
    let at = graph.nodes.iter().position(|node| node.output == Some(stream))?;
    let (before, after) = graph.nodes.split_at(at + 1);
    let made_before = |v: &ValueId| before.iter().any(|node| node.output == Some(*v));
    let reads_others = |node: &Node| node.inputs.iter().any(|v| *v != stream && made_before(v));
    let caches: HashSet<CacheId> =
        before.iter().filter_map(|node| Some(node.op.cache()?.0)).collect();
    let shares_cache = |node: &Node| node.op.cache().is_some_and(|(id, _)| caches.contains(&id));
    let apart = !after.iter().any(|node| reads_others(node) || shares_cache(node));
    (apart && !after.is_empty()).then_some(at)
}

/// Some nodes as a graph of their own; what they read of before becomes its first value.
fn part(graph: &Graph, nodes: std::ops::Range<usize>) -> Graph {
    let mut part = Graph {
        rope_tables: graph.rope_tables.clone(),
        n_vocab: graph.n_vocab,
        groups: graph.groups.clone(),
        output: graph.output,
        ..Graph::default()
    };
    let before = graph.nodes[..nodes.start].iter().rev().find_map(|node| node.output);
    if let Some(input) = before {
        part.values.push(graph.value(input).clone());
        part.nodes.push(Node { op: Op::Input, inputs: vec![], output: Some(ValueId(0)) });
    }
    let first = before.map_or(0, |v| v.0);
    let (mut weights, mut caches) = (Vec::new(), Vec::new());
    for node in &graph.nodes[nodes] {
        let mut node = node.clone();
        let touched = node.op.describe();
        for weight in touched.weights {
            weight.id.0 = index(&mut weights, *weight.id);
        }
        if let Some(cache) = touched.cache {
            cache.id.0 = index(&mut caches, *cache.id);
        }
        node.inputs.iter_mut().chain(&mut node.output).for_each(|v| v.0 -= first);
        if let Some(v) = node.output {
            part.values.push(graph.values[v.0 + first].clone());
        }
        part.nodes.push(node);
    }
    part.weights = weights.into_iter().map(|w| graph.weight(w).clone()).collect();
    part.caches = caches.into_iter().map(|id| graph.caches[id.0]).collect();
    let held = |v: &&ValueId| (first..first + part.values.len()).contains(&v.0);
    part.stream = graph.stream.iter().filter(held).map(|v| ValueId(v.0 - first)).collect();
    part
}

/// Place of `x` in `all`, to which it is added if it is not there.
fn index<T: PartialEq>(all: &mut Vec<T>, x: T) -> usize {
    all.iter().position(|y| *y == x).unwrap_or_else(|| {
        all.push(x);
        all.len() - 1
    })
}

/// Two backends that share a graph's layers.
pub struct Split {
    /// Runs the embedding and the first layers.
    pub front: Box<dyn Backend>,
    /// Runs the other layers and the output.
    pub back: Box<dyn Backend>,
    /// How many layers the front has.
    pub layers: usize,
}

impl Backend for Split {
    fn name(&self) -> String {
        let n = self.layers;
        format!("{} for the first {n} layers, then {}", self.front.name(), self.back.name())
    }

    fn supports(
        &self,
        graph: &Graph,
        node: &Node,
        options: LoadOptions,
    ) -> std::result::Result<(), String> {
        let place = place(graph, self.layers);
        let at = graph.nodes.iter().position(|other| std::ptr::eq(other, node));
        let side = if at <= place { &self.front } else { &self.back };
        side.supports(graph, node, options).map_err(|reason| format!("{}: {reason}", side.name()))
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        let SplitGraph { front, back } = split(&graph, self.layers)?;
        let (in_front, first) = (front.nodes.len(), front.values.len().saturating_sub(1));
        let mut read = 0;
        let front = self.front.load(Arc::new(front), files, options, &mut |n| {
            read = n;
            progress(n);
        })?;
        let back = self.back.load(Arc::new(back), files, options, &mut |n| progress(read + n))?;
        let mut makers = vec![0; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.output.iter().for_each(|v| makers[v.0] = i);
        }
        Ok(Box::new(LoadedSplit { graph, front, back, in_front, first, makers }))
    }
}

struct LoadedSplit {
    graph: Arc<Graph>,
    front: Box<dyn Loaded>,
    back: Box<dyn Loaded>,
    /// Nodes of the front.
    in_front: usize,
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

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        self.front.kv_bytes(blocks).saturating_add(self.back.kv_bytes(blocks))
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        let kv = SplitKv(self.front.new_kv(blocks)?, self.back.new_kv(blocks)?);
        Ok(Kv(Box::new(kv)))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let SplitKv(front_kv, back_kv) = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by a split one")
        })?;
        let (graph, makers) = (&*self.graph, &*self.makers);
        let mut front_tap = PartTap { tap: &mut *tap, graph, makers, first: 0 };
        let inputs = self.front.run(step, front_kv, &mut front_tap)?;
        let step = Step { inputs, ..step.clone() };
        let mut back_tap = PartTap { tap, graph, makers, first: self.first };
        self.back.run(&step, back_kv, &mut back_tap)
    }

    fn stop_with(&mut self, stop: Stop) {
        self.front.stop_with(stop.clone());
        self.back.stop_with(stop);
    }

    fn profile(&mut self, on: bool) {
        self.front.profile(on);
        self.back.profile(on);
    }

    fn timings(&self) -> Vec<Timing> {
        let mut all = self.front.timings();
        for Timing { nodes, ns } in self.back.timings() {
            // The back's first node is the input, which is no node of the whole.
            let nodes: Vec<usize> =
                nodes.into_iter().filter(|&i| i > 0).map(|i| i - 1 + self.in_front).collect();
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
        let mut places = 0;
        for case in cases::decoders().unwrap().into_iter().chain(cases::convs().unwrap()) {
            let load = |backend: &dyn Backend| {
                let graph = Arc::clone(&case.graph);
                backend.load(graph, &[&case.file], LoadOptions::default(), &mut |_| {}).unwrap()
            };
            let expected = case.record(&mut *load(&Reference), Cut::Batch(17)).unwrap();
            for layers in 0..=case.graph.n_layers() {
                let both = Split { front: Box::new(Reference), back: Box::new(Reference), layers };
                let mut loaded = load(&both);
                let three = Blocks::Each(3);
                let blocks = (loaded.kv_bytes(&three), load(&Reference).kv_bytes(&three));
                assert_eq!(blocks.0, blocks.1, "{}", case.name);
                let got = case.record(&mut *loaded, Cut::Batch(17)).unwrap();
                let difference = got.first_difference(&expected, &case.graph);
                assert_eq!(difference, None, "{} split after {layers}", case.name);
                places += 1;
            }
        }
        assert!(places > 8, "{places}");
    }

    #[test]
    fn the_halves_hold_what_they_use_and_no_more() {
        for case in cases::decoders().unwrap().into_iter().chain(cases::convs().unwrap()) {
            let whole = &*case.graph;
            let n = whole.n_layers();
            for layers in 0..=n {
                let SplitGraph { front, back } = split(whole, layers).unwrap();
                assert_eq!((front.caches.len(), back.caches.len()), (layers, n - layers));
                assert_eq!(front.nodes.len() + back.nodes.len(), whole.nodes.len() + 1);
                assert_eq!(front.values.len() + back.values.len(), whole.values.len() + 1);
                assert_eq!(back.nodes[0].op, Op::Input);
                assert_eq!(back.values.last(), whole.values.last());
                assert!(front.weights.len() < whole.weights.len());
            }
            let error = split(whole, n + 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.to_string().contains(&format!("after {} layers", n + 1)), "{error}");
        }
    }

    #[test]
    fn a_cut_through_a_shared_cache_is_refused() {
        let mut graph = (*cases::decoders().unwrap()[0].graph).clone();
        // The second layer looks into the first one's cache, as models with shared keys and values do.
        let second = graph.nodes.iter().rposition(|n| matches!(n.op, Op::Attention(_))).unwrap();
        if let Op::Attention(a) = &mut graph.nodes[second].op {
            a.cache = CacheId(0);
        }
        assert_eq!(split(&graph, 1).unwrap_err().kind(), ErrorKind::Shape);
        assert!(split(&graph, 0).is_ok() && split(&graph, 2).is_ok());
    }

    #[test]
    fn a_tail_refuses_a_step_without_its_input() {
        let case = &cases::decoders().unwrap()[0];
        let back = Arc::new(split(&case.graph, 1).unwrap().back);
        let mut loaded =
            Reference.load(back, &[&case.file], LoadOptions::default(), &mut |_| {}).unwrap();
        let mut kv = loaded.new_kv(&Blocks::Each(4)).unwrap();
        let step = Step::single(&case.prompts[0], 0);
        let error = loaded.run(&step, &mut kv, &mut crate::NoTap).unwrap_err();
        assert!(error.to_string().contains("inputs"), "{error}");
    }
}
