//! Parts of heads, and heads side by side. Meaning: `graph::ops::heads`.

use super::LoadedCpu;
use graph::ops::heads;
use graph::{Node, Op};

impl LoadedCpu {
    /// Computes a node of one of both.
    pub(super) fn heads(&self, node: &Node, values: &[Vec<f32>], out: &mut [f32]) {
        let width = |i: usize| self.graph.value(node.inputs[i]).cols;
        let input = |i: usize| values[node.inputs[i].0].as_slice();
        let to = node.output.map_or(1, |v| self.graph.value(v).cols);
        if let Op::HeadColumns { head_dim, start } = node.op {
            heads::columns(input(0), head_dim, start, to / (width(0) / head_dim), out);
        } else if let Op::JoinHeads { n_head, n_head_b } = node.op {
            let both = input(0).chunks(width(0)).zip(input(1).chunks(width(1)));
            for ((a, b), out) in both.zip(out.chunks_mut(to)) {
                heads::join(a, b, n_head, n_head_b, out);
            }
        }
    }
}
