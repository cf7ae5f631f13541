//! What a side computed: every value of every step.

use crate::Result;
use graph::{Best, BlockTable, Blocks, FREED, Graph, Loaded, NoTap, Node, Step, Tap, Value};
use std::sync::Arc;

/// For each step and each node its value `[rows, cols]`, where it is known; nodes without a value have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// `[step][node]`
    pub steps: Vec<Vec<Option<Vec<f32>>>>,
}

impl Values {
    /// The likeliest id of each step's last output, where the logits are known and are numbers.
    pub fn ids(&self, n_vocab: usize) -> Vec<Option<u32>> {
        let id = |nodes: &Vec<Option<Vec<f32>>>| {
            let best = Best::of(nodes.last()?.as_ref()?.chunks(n_vocab.max(1)).next_back()?);
            best.invalid.is_none().then_some(best.id)
        };
        self.steps.iter().map(id).collect()
    }
}

/// Bytes that the values of these steps take.
pub fn value_bytes(graph: &Graph, steps: &[Step]) -> usize {
    let of = |step: &Step| -> usize {
        let bytes = |value: &Value| value.cols.saturating_mul(step.rows(value.rows) * 4);
        graph.values.iter().map(bytes).sum()
    };
    steps.iter().map(of).sum()
}

/// Runs the steps from an empty cache and records every value. With `feed`, each value is replaced by that of `feed`
/// after it was recorded, so that every op is given right inputs and faults behind the first one appear too.
pub fn capture(loaded: &mut dyn Loaded, steps: &[Step], feed: Option<&Values>) -> Result<Values> {
    recorded(loaded, steps, feed, false)
}

/// Runs every op by itself on the inputs that `values` give it, and records what it makes of them.
pub fn capture_alone(loaded: &mut dyn Loaded, steps: &[Step], values: &Values) -> Result<Values> {
    recorded(loaded, steps, Some(values), true)
}

fn recorded(
    loaded: &mut dyn Loaded,
    steps: &[Step],
    feed: Option<&Values>,
    alone: bool,
) -> Result<Values> {
    let graph = Arc::clone(loaded.graph());
    let mut kv = loaded.new_kv(&Blocks::Each(blocks(steps)))?;
    let mut values = Values::default();
    for (i, step) in steps.iter().enumerate() {
        let feed = feed.and_then(|feed| feed.steps.get(i));
        let (makers, seen) = (makers(&graph), vec![None; graph.nodes.len()]);
        let mut tap = Recorder { makers, feed, seen, alone };
        loaded.run(step, &mut kv, &mut tap)?;
        values.steps.push(tap.seen);
    }
    Ok(values)
}

/// Runs the steps as in production, unobserved and with all that a backend fuses, and returns each step's logits.
pub fn logits(loaded: &mut dyn Loaded, steps: &[Step]) -> Result<Vec<Vec<f32>>> {
    let mut kv = loaded.new_kv(&Blocks::Each(blocks(steps)))?;
    let run = |step: &Step| Ok(loaded.run(step, &mut kv, &mut NoTap)?);
    steps.iter().map(run).collect()
}

/// The likeliest id of each step's last output, as the backend's own greedy decoding picks it.
pub fn likeliest(loaded: &mut dyn Loaded, steps: &[Step]) -> Result<Vec<Option<u32>>> {
    let mut kv = loaded.new_kv(&Blocks::Each(blocks(steps)))?;
    let run = |step: &Step| Ok(loaded.run_greedy(step, &mut kv)?.last().map(|best| best.id));
    steps.iter().map(run).collect()
}

/// The steps of a text that is known: the prompt as one step, and each token behind it as a step of its own. All have the
/// frequencies of the whole text: how a sequence came to be long is not what is compared.
pub fn forced(graph: &Graph, prompt: &[u32], behind: &[u32]) -> Vec<Step> {
    let long = graph.is_long(prompt.len() + behind.len());
    let next = behind.iter().zip(prompt.len() as u32..).map(|(&id, at)| Step::single(&[id], at));
    let steps = std::iter::once(Step::single(prompt, 0)).chain(next);
    steps.map(|step| step.with_long(long)).collect()
}

/// The prompt as one step that gives the last token's logits, and `n` greedy tokens behind it, a step each.
pub fn greedy(loaded: &mut dyn Loaded, prompt: &[u32], n: usize) -> Result<Vec<Step>> {
    let mut kv = loaded.new_kv(&Blocks::Each((prompt.len() + n).div_ceil(graph::KV_BLOCK)))?;
    let long = loaded.graph().is_long(prompt.len() + n);
    let mut steps = vec![Step::single(prompt, 0).with_long(long)];
    for i in 0..n {
        let logits = loaded.run(&steps[i], &mut kv, &mut NoTap)?;
        let next = Step::single(&[Best::of(&logits).id], (prompt.len() + i) as u32);
        steps.push(next.with_long(long));
    }
    Ok(steps)
}

/// Cache blocks that the steps use.
pub(crate) fn blocks(steps: &[Step]) -> usize {
    let tables = steps.iter().flat_map(|step| step.tables.iter().flat_map(BlockTable::tables));
    let blocks = tables.flatten().filter(|&&block| block != FREED);
    blocks.max().map_or(0, |&block| block as usize + 1)
}

/// Index of the node that makes each value.
pub(crate) fn makers(graph: &Graph) -> Vec<usize> {
    let mut makers = vec![0; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        if let Some(v) = node.output {
            makers[v.0] = i;
        }
    }
    makers
}

struct Recorder<'a> {
    makers: Vec<usize>,
    feed: Option<&'a Vec<Option<Vec<f32>>>>,
    seen: Vec<Option<Vec<f32>>>,
    alone: bool,
}

impl Tap for Recorder<'_> {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, _: &Value, data: &mut [f32]) {
        let Some(v) = node.output else { return };
        let at = self.makers[v.0];
        self.seen[at] = Some(data.to_vec());
        if let Some(Some(right)) = self.feed.and_then(|feed| feed.get(at))
            && right.len() == data.len()
        {
            data.copy_from_slice(right);
        }
    }

    fn isolates(&self) -> bool {
        self.alone
    }

    fn watches(&self) -> bool {
        self.feed.is_none()
    }
}
