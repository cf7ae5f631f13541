//! Which nodes share a dispatch. On a fast GPU a step of one token is some hundred dispatches of microseconds each, with
//! a wait between any two, so fewer are faster; and small products next to one another fill the device better than one
//! after the other. What is computed stays the same: every value is still written, and the kernels that compute a node by
//! itself stay too, for a tap that changes a value in between or wants each op alone.

use crate::layout::{Layout, ROWS, rounding_of};
use graph::{Graph, LoadOptions, Op, ValueId, WeightId};
use std::collections::HashMap;

/// Products of the same activations that one dispatch may take: three results, and what it reads, are six buffers.
const MAX_PRODUCTS: usize = 3;

/// Buffers of the kernel that rotates and stores, the cache's two among them.
const ROPE_STORE_BUFFERS: u32 = 10;

/// Nodes that a chain has at most.
const MAX_NODES: usize = 3;

/// Neighbouring nodes that are computed together. Where a value is quantised, the last node is the first product that wants
/// it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// A norm, with the sum that it is of, or quantised for a product, or both.
    Norm { of_sum: bool, quantize: bool },
    /// A gated activation, quantised.
    GluQuantize,
    /// Attention, quantised.
    AttentionQuantize,
    /// Two rotary embeddings by the same angles, and the storing of the second.
    Ropes { store: bool },
}

impl Chain {
    /// How many nodes it has.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Norm { of_sum, quantize } => 1 + usize::from(of_sum) + usize::from(quantize),
            Self::GluQuantize | Self::AttentionQuantize => 2,
            Self::Ropes { store } => 2 + usize::from(store),
        }
    }
}

/// What a device binds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingLimits {
    /// Bytes of one binding.
    pub(crate) bytes: u64,
    /// Bindings of one kernel.
    pub(crate) buffers: u32,
}

/// What of a graph is computed together.
pub(crate) struct Fusions {
    /// Chains by their first node. No node is in two.
    chains: HashMap<usize, Chain>,
    /// Products of the same activations, in the order of their nodes. Their weights lie behind one another.
    pub(crate) products: Vec<Vec<usize>>,
}

impl Fusions {
    /// What of a graph a device can compute together.
    pub(crate) fn of(graph: &Graph, options: LoadOptions, limits: BindingLimits) -> Self {
        let (mut chains, mut at) = (HashMap::new(), 0);
        while at < graph.nodes.len() {
            let mut chain = chain(graph, options, at);
            if let Some(Chain::Ropes { store }) = &mut chain {
                *store &= limits.buffers >= ROPE_STORE_BUFFERS;
            }
            chains.extend(chain.map(|chain| (at, chain)));
            at += chain.map_or(1, Chain::nodes);
        }
        Self { chains, products: products(graph, options, limits.bytes) }
    }

    /// The chain that begins at a node.
    pub(crate) fn chain_from(&self, first: usize) -> Option<Chain> {
        self.chains.get(&first).copied()
    }

    /// The first node of the chain that ends at a node, and the chain.
    pub(crate) fn chain_to(&self, last: usize) -> Option<(usize, Chain)> {
        let ends = |first: usize| Some((first, self.chain_from(first)?));
        (0..=last).rev().take(MAX_NODES).filter_map(ends).find(|(f, c)| f + c.nodes() == last + 1)
    }

    /// For each node the first and the last of those whose values must be there together with its own.
    pub(crate) fn spans(&self, n_nodes: usize) -> Vec<(usize, usize)> {
        let mut spans: Vec<_> = (0..n_nodes).map(|i| (i, i)).collect();
        for (&first, chain) in &self.chains {
            let end = first + chain.nodes();
            spans[first..end].fill((first, end - 1));
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
    pub(crate) fn products_with(&self, node: usize) -> Option<&[usize]> {
        self.products.iter().find(|group| group.contains(&node)).map(Vec::as_slice)
    }
}

/// The chain that begins at a node.
fn chain(graph: &Graph, options: LoadOptions, first: usize) -> Option<Chain> {
    // The op of the node `i` places after the first, if it reads what the node before it gives.
    let reader = |i: usize| {
        let node = graph.nodes.get(first + i)?;
        let before = graph.nodes[first + i - 1].output;
        (before.is_some() && node.inputs.first().copied() == before).then_some(&node.op)
    };
    // Whether that is a product that wants this value quantised.
    let quantizes = |i: usize| match reader(i) {
        Some(Op::MatMul { w }) => rounding_of(graph, options, *w).is_some(),
        Some(_) | None => false,
    };
    let whole_rows = |w: WeightId, out: Option<ValueId>| {
        out.is_some_and(|out| graph.value(out).cols == graph.weight(w).n_in)
    };
    let (one, two) = (&graph.nodes[first], graph.nodes.get(first + 1)?);
    let norm = match (&one.op, reader(1)) {
        (Op::RmsNorm { w, .. }, _) => Some((false, whole_rows(*w, one.output) && quantizes(1))),
        (Op::Add, Some(Op::RmsNorm { w, .. })) => {
            Some((true, whole_rows(*w, two.output) && quantizes(2)))
        }
        (Op::Glu { .. }, _) if quantizes(1) => return Some(Chain::GluQuantize),
        (Op::Attention(_), _) if quantizes(1) => return Some(Chain::AttentionQuantize),
        (Op::Rope { head_dim, .. }, None) if one.op == two.op => {
            let store = match reader(2) {
                Some(Op::StoreKv { cache }) => graph.kv(*cache).head_dim_k == *head_dim,
                Some(_) | None => false,
            };
            return Some(Chain::Ropes { store });
        }
        (_, _) => None,
    };
    let (of_sum, quantize) = norm?;
    (of_sum || quantize).then_some(Chain::Norm { of_sum, quantize })
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
        (uses[w.0] == 1 && rounding_of(graph, options, w).is_some()).then_some(w)
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
                && group.len() < MAX_PRODUCTS
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
