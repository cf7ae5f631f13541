//! What is computed together, and which buffer each value lies in: found once, when a graph is loaded.

use graph::{Act, Graph, Op, Rows, ValueId, WeightId};

/// Most products that share one pass over their input: q, k and v.
pub(crate) const MAX_PRODUCTS: usize = 3;

/// A product node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// Index of the node.
    pub(crate) node: usize,
    pub(crate) w: WeightId,
    pub(crate) out: ValueId,
}

/// What happens at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// The node by itself.
    Alone,
    /// This product and those of later nodes with the same input.
    Products(Vec<Product>),
    /// Two products and the gated unit that is their only reader, unless somebody wants to see a product's value.
    Glu { act: Act, products: [Product; 2], node: usize, out: ValueId },
    /// The gated unit of an earlier `Glu`.
    GluOf { products: [Product; 2] },
    /// A product that an earlier node computes too.
    Done,
}

/// The plan of a graph.
pub(crate) struct Plan {
    /// For each node.
    pub(crate) jobs: Vec<Job>,
    /// For each node the values that no later node reads. The logits stay.
    pub(crate) dead_after: Vec<Vec<ValueId>>,
    /// For each value its buffer: values with one buffer have one size and are never alive at the same time.
    pub(crate) slots: Vec<usize>,
    /// Number of buffers.
    pub(crate) n_slots: usize,
}

impl Plan {
    /// `kind` says which products can be computed together: those of one kind. `None`: this one cannot.
    pub(crate) fn new<K: PartialEq>(graph: &Graph, kind: impl Fn(WeightId) -> Option<K>) -> Self {
        let jobs = jobs(graph, kind);
        let dead_after = dead_after(graph);
        let (slots, n_slots) = slots(graph, &jobs, &dead_after);
        Self { jobs, dead_after, slots, n_slots }
    }
}

fn jobs<K: PartialEq>(graph: &Graph, kind: impl Fn(WeightId) -> Option<K>) -> Vec<Job> {
    let product = |node: usize| {
        let (Op::MatMul { w }, Some(out)) = (&graph.nodes[node].op, graph.nodes[node].output)
        else {
            return None;
        };
        Some((Product { node, w: *w, out }, (graph.nodes[node].inputs[0], kind(*w)?)))
    };
    let mut jobs = vec![Job::Alone; graph.nodes.len()];
    for i in 0..jobs.len() {
        let (Job::Alone, Some((first, key))) = (&jobs[i], product(i)) else { continue };
        let later = (i + 1..jobs.len()).filter_map(product).filter(|(_, k)| *k == key);
        let all: Vec<Product> =
            std::iter::once(first).chain(later.map(|(p, _)| p)).take(MAX_PRODUCTS).collect();
        if all.len() == 1 {
            continue;
        }
        all.iter().for_each(|product| jobs[product.node] = Job::Done);
        jobs[i] = match all[..] {
            [gate, up] if let Some((act, node, out)) = glu_of(graph, gate, up) => {
                jobs[node] = Job::GluOf { products: [gate, up] };
                Job::Glu { act, products: [gate, up], node, out }
            }
            _ => Job::Products(all),
        };
    }
    jobs
}

/// The gated unit over two products, if nothing else reads these and one loop can compute both.
fn glu_of(graph: &Graph, gate: Product, up: Product) -> Option<(Act, usize, ValueId)> {
    let (gate_w, up_w) = (graph.weight(gate.w), graph.weight(up.w));
    let reads = |i: usize| {
        let inputs = &graph.nodes[i].inputs;
        inputs.contains(&gate.out) || inputs.contains(&up.out)
    };
    let readers: Vec<usize> = (0..graph.nodes.len()).filter(|&i| reads(i)).collect();
    let [node] = readers[..] else { return None };
    let Op::Glu { act } = graph.nodes[node].op else { return None };
    let alike = (gate_w.dtype, gate_w.n_out) == (up_w.dtype, up_w.n_out);
    let in_order = graph.nodes[node].inputs == [gate.out, up.out];
    (alike && in_order).then_some((act, node, graph.nodes[node].output?))
}

/// For each node the values whose last reader it is.
fn dead_after(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut last = vec![None; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for input in &node.inputs {
            last[input.0] = Some(i);
        }
    }
    let mut dead = vec![Vec::new(); graph.nodes.len()];
    for (v, last) in last.into_iter().enumerate() {
        if let Some(i) = last {
            dead[i].push(ValueId(v));
        }
    }
    dead
}

/// Gives each value a buffer of its size that is free from its first writing to its last reading.
fn slots(graph: &Graph, jobs: &[Job], dead_after: &[Vec<ValueId>]) -> (Vec<usize>, usize) {
    let mut slots = vec![None; graph.values.len()];
    let mut sizes: Vec<(usize, Rows)> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for (i, job) in jobs.iter().enumerate() {
        let more: Vec<ValueId> = match job {
            Job::Alone | Job::Done | Job::GluOf { .. } => vec![],
            Job::Products(all) => all.iter().map(|product| product.out).collect(),
            Job::Glu { products: [gate, up], out, .. } => vec![gate.out, up.out, *out],
        };
        for value in graph.nodes[i].output.into_iter().chain(more) {
            if slots[value.0].is_some() {
                continue;
            }
            let size = (graph.value(value).cols, graph.value(value).rows);
            let slot = match free.iter().position(|&slot| sizes[slot] == size) {
                Some(at) => free.swap_remove(at),
                None => {
                    sizes.push(size);
                    sizes.len() - 1
                }
            };
            slots[value.0] = Some(slot);
        }
        free.extend(dead_after[i].iter().filter_map(|value| slots[value.0]));
    }
    (slots.into_iter().map(Option::unwrap_or_default).collect(), sizes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::DType;
    use graph::cases;

    #[test]
    fn a_decoder_layer_shares_its_passes_and_no_two_live_values_share_a_buffer() {
        let (mut products, mut glus) = (0, 0);
        for case in cases::decoders().expect("cases") {
            let plan = Plan::new(&case.graph, |_| Some(()));
            products += plan.jobs.iter().filter(|job| matches!(job, Job::Products(_))).count();
            glus += plan.jobs.iter().filter(|job| matches!(job, Job::Glu { .. })).count();
            let mut holder = vec![None; plan.n_slots];
            let write = |value: ValueId, holder: &mut Vec<Option<ValueId>>| {
                let slot = &mut holder[plan.slots[value.0]];
                assert!(slot.is_none() || *slot == Some(value), "{}: overwritten", case.name);
                *slot = Some(value);
            };
            for (i, node) in case.graph.nodes.iter().enumerate() {
                match &plan.jobs[i] {
                    Job::Products(all) => all.iter().for_each(|p| write(p.out, &mut holder)),
                    Job::Glu { products, out, .. } => {
                        products.iter().for_each(|p| write(p.out, &mut holder));
                        write(*out, &mut holder);
                    }
                    Job::Alone | Job::GluOf { .. } | Job::Done => {}
                }
                node.output.iter().for_each(|&value| write(value, &mut holder));
                for value in &plan.dead_after[i] {
                    holder[plan.slots[value.0]] = None;
                }
            }
        }
        assert!(products > 0 && glus > 0, "{products} {glus}");
    }

    #[test]
    fn products_of_unlike_kinds_stay_apart() {
        for case in cases::decoders().expect("cases") {
            let plan = Plan::new(&case.graph, |w| {
                let weight = case.graph.weight(w);
                (weight.dtype != DType::F32).then_some(w.0)
            });
            assert!(plan.jobs.iter().all(|job| *job == Job::Alone), "{}", case.name);
        }
    }
}
