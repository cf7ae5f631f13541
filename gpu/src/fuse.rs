//! Which nodes share a dispatch. On a fast GPU a step of one token is some hundred dispatches of microseconds each, with
//! a wait between any two, so fewer are faster; and small products next to one another fill the device better than one
//! after the other. What is computed stays the same: every value is still written, and the kernels that compute a node by
//! itself stay too, for a tap that changes a value in between or wants each op alone.

use crate::layout::{Layout, ROWS};
use crate::plan::act_of;
use graph::{Graph, LoadOptions, Op};
use std::collections::HashMap;

/// Products of the same activations that one dispatch may take: three results, and what it reads, are six buffers.
const MOST_PRODUCTS: usize = 3;

/// What is done together in neighbouring nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// A sum and its norm.
    AddNorm,
    /// A gated activation and the rounding of it for the product that follows.
    GluRound,
    /// Two rotary embeddings by the same angles.
    Ropes,
}

/// What of a graph is computed together.
pub(crate) struct Fusions {
    /// Chains by their first node; each has two nodes.
    pub(crate) chains: HashMap<usize, Chain>,
    /// Products of the same activations, in the order of their nodes. Their weights lie behind one another.
    pub(crate) products: Vec<Vec<usize>>,
}

impl Fusions {
    /// What a device that binds `max_binding` bytes can do together.
    pub(crate) fn of(graph: &Graph, options: LoadOptions, max_binding: u64) -> Self {
        let chains =
            (1..graph.nodes.len()).filter_map(|i| Some((i - 1, chain(graph, options, i)?)));
        Self { chains: chains.collect(), products: products(graph, options, max_binding) }
    }

    /// For each node the first and the last of those whose values must be there together with its own.
    pub(crate) fn spans(&self, n_nodes: usize) -> Vec<(usize, usize)> {
        let mut spans: Vec<_> = (0..n_nodes).map(|i| (i, i)).collect();
        for &first in self.chains.keys() {
            (spans[first].1, spans[first + 1].0) = (first + 1, first);
        }
        for group in &self.products {
            let ends = (group[0], group[group.len() - 1]);
            for &node in group {
                spans[node] = (spans[node].0.min(ends.0), spans[node].1.max(ends.1));
            }
        }
        spans
    }

    /// The products that are computed with this one, itself among them.
    pub(crate) fn group_of(&self, node: usize) -> Option<&[usize]> {
        self.products.iter().find(|group| group.contains(&node)).map(Vec::as_slice)
    }
}

/// What node `i` does together with the one before it.
fn chain(graph: &Graph, options: LoadOptions, i: usize) -> Option<Chain> {
    let (one, two) = (&graph.nodes[i - 1], &graph.nodes[i]);
    let reads = one.output.is_some_and(|output| two.inputs.first() == Some(&output));
    if let (Op::Add, Op::RmsNorm { .. }, true) = (&one.op, &two.op, reads) {
        return Some(Chain::AddNorm);
    }
    if let (Op::Glu { .. }, Op::MatMul { w }, true) = (&one.op, &two.op, reads) {
        return act_of(graph, options, *w).map(|_| Chain::GluRound);
    }
    let turns = matches!(one.op, Op::Rope { .. }) && one.op == two.op && !reads;
    turns.then_some(Chain::Ropes)
}

fn products(graph: &Graph, options: LoadOptions, max_binding: u64) -> Vec<Vec<usize>> {
    let mut uses = vec![0; graph.weights.len()];
    for node in &graph.nodes {
        if let Op::GetRows { table: w } | Op::MatMul { w } = node.op {
            uses[w.0] += 1;
        }
    }
    let weight_of = |i: usize| {
        let Op::MatMul { w } = graph.nodes[i].op else { return None };
        (uses[w.0] == 1 && act_of(graph, options, w).is_some()).then_some(w)
    };
    let mut taken = vec![false; graph.nodes.len()];
    let mut groups = Vec::new();
    for first in 0..graph.nodes.len() {
        let Some(w) = weight_of(first).filter(|_| !taken[first]) else { continue };
        let (dtype, mut group) = (graph.weight(w).dtype, vec![first]);
        let tile = Layout::of(dtype).tile_words(graph.weight(w).n_in) as u64 * 4;
        let mut rows = graph.weight(w).n_out;
        // Later products stand within a few nodes: a bias or a norm of heads may come between.
        for i in first + 1..graph.nodes.len().min(first + 8) {
            let Some(next) = weight_of(i).filter(|_| !taken[i]) else { continue };
            let weight = graph.weight(next);
            let together = rows + weight.n_out;
            if weight.dtype == dtype
                && graph.nodes[i].inputs == graph.nodes[first].inputs
                && rows.is_multiple_of(ROWS)
                && group.len() < MOST_PRODUCTS
                && together.div_ceil(ROWS) as u64 * tile <= max_binding
            {
                group.push(i);
                rows = together;
            }
        }
        if group.len() > 1 {
            group.iter().for_each(|&i| taken[i] = true);
            groups.push(group);
        }
    }
    groups
}
