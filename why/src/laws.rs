//! One backend against itself: however a text is cut into steps, whoever shares them and the cache, what every layer
//! gives and the logits have the same bits.

use crate::Result;
use graph::{BlockTable, Blocks, Graph, GroupId, KV_BLOCK, Kv, Loaded, Node, Step, Tap, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// All tokens at once = one at a time.
    OneByOne,
    /// = in chunks of this many tokens.
    Chunks(usize),
    /// = in a step that computes a stranger's tokens too.
    WithStrangers,
    /// = after another sequence whose first cache block is used again; not tested where a layer keeps a state.
    PrefixReuse,
    /// = a second time.
    Again,
    /// = with this many layers on the GPU and the others on the CPU; only a program that has both can test it.
    GpuLayers(usize),
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which.
    pub law: Law,
    /// The first value that differs: what a layer gives, or the logits.
    pub value: String,
    /// First position at which it differs.
    pub position: u32,
    /// First column that differs there.
    pub col: usize,
}

/// Tests all laws on a text, which is repeated until it fills a cache block and some; returns those that do not hold, and
/// calls `heard` after each.
///
/// # Errors
/// Where the backend cannot run a step.
pub fn laws(
    loaded: &mut dyn Loaded,
    tokens: &[u32],
    heard: &mut dyn FnMut(Law, bool),
) -> Result<Vec<Broken>> {
    let text = long(tokens);
    let n = text.len();
    let expected = Run::new(loaded)?.chunks(&text, n)?;
    let mut broken = Vec::new();
    // No sequence shares another's state, so there is no beginning to use again.
    let reuses = !loaded.graph().has_states();
    let all = [
        Law::Again,
        Law::Chunks(3),
        Law::Chunks(KV_BLOCK - 1),
        Law::OneByOne,
        Law::WithStrangers,
        Law::PrefixReuse,
    ];
    for law in all.into_iter().filter(|law| reuses || *law != Law::PrefixReuse) {
        let run = Run::new(loaded)?;
        let got = match law {
            Law::Again | Law::GpuLayers(_) => run.chunks(&text, n)?,
            Law::OneByOne => run.chunks(&text, 1)?,
            Law::Chunks(len) => run.chunks(&text, len)?,
            Law::WithStrangers => run.with_strangers(&text)?,
            Law::PrefixReuse => run.prefix_reuse(&text)?,
        };
        let first = first_other(loaded.graph(), law, &expected, &got);
        heard(law, first.is_none());
        broken.extend(first);
    }
    Ok(broken)
}

/// Holds two backends of one graph against each other, as a law has it.
///
/// # Errors
/// Where one of them cannot run a step.
pub fn alike(
    one: &mut dyn Loaded,
    other: &mut dyn Loaded,
    tokens: &[u32],
    law: Law,
) -> Result<Option<Broken>> {
    let text = long(tokens);
    let expected = Run::new(one)?.chunks(&text, text.len())?;
    let got = Run::new(other)?.chunks(&text, text.len())?;
    Ok(first_other(one.graph(), law, &expected, &got))
}

/// A text that fills a cache block and some.
fn long(tokens: &[u32]) -> Vec<u32> {
    let n = tokens.len().clamp(KV_BLOCK + 9, KV_BLOCK * BLOCKS as usize);
    tokens.iter().copied().cycle().take(n).collect()
}

/// Bits by value, in the order in which they are made, and position.
type Seen = BTreeMap<(usize, u32), Vec<u32>>;

fn first_other(graph: &Graph, law: Law, expected: &Seen, got: &Seen) -> Option<Broken> {
    let (&(value, position), _) = expected.iter().find(|(key, row)| got.get(key) != Some(row))?;
    let key = (value, position);
    let other = |i: &usize| got.get(&key).and_then(|row| row.get(*i)) != Some(&expected[&key][*i]);
    let col = (0..expected[&key].len()).find(other).unwrap_or(0);
    Some(Broken { law, value: graph.values[value].name.clone(), position, col })
}

/// A backend with a fresh cache of room for two texts, and what it has given so far.
struct Run<'a> {
    loaded: &'a mut dyn Loaded,
    graph: Arc<Graph>,
    kv: Kv,
    seen: Seen,
}

/// Blocks of each text.
const BLOCKS: u32 = 64;

/// Watches the last value of each layer, and the logits, of one sequence.
struct Layers<'a> {
    graph: &'a Graph,
    step: &'a Step,
    seq: u32,
    seen: &'a mut Seen,
}

impl Tap for Layers<'_> {
    fn wants(&mut self, node: &Node, value: &Value) -> bool {
        let layer = |name: &str| name.rsplit_once('-').and_then(|(_, n)| n.parse::<u32>().ok());
        let behind = node.output.and_then(|v| self.graph.values.get(v.0 + 1));
        behind.is_none_or(|behind| {
            layer(&value.name).is_some() && layer(&behind.name) != layer(&value.name)
        })
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let Some(v) = node.output else { return };
        for (i, row) in data.chunks(value.cols.max(1)).enumerate() {
            let token = self.step.token_of(value.rows, i);
            if self.step.seqs[token] == self.seq {
                let bits = row.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() });
                self.seen.insert((v.0, self.step.positions[token]), bits.collect());
            }
        }
    }

    fn watches(&self) -> bool {
        true
    }
}

impl<'a> Run<'a> {
    fn new(loaded: &'a mut dyn Loaded) -> Result<Self> {
        let (graph, kv) =
            (Arc::clone(loaded.graph()), loaded.new_kv(&Blocks::Each(2 * BLOCKS as usize))?);
        Ok(Self { loaded, graph, kv, seen: Seen::new() })
    }

    /// Runs a step in which the text is this sequence; all its tokens give logits.
    fn step(&mut self, mut step: Step, seq: u32) -> Result<()> {
        step.outputs = (0..step.tokens.len() as u32).collect();
        let mut tap = Layers { graph: &self.graph, step: &step, seq, seen: &mut self.seen };
        self.loaded.run(&step, &mut self.kv, &mut tap)?;
        Ok(())
    }

    fn chunks(mut self, text: &[u32], len: usize) -> Result<Seen> {
        for (i, chunk) in text.chunks(len).enumerate() {
            self.step(Step::single(chunk, (i * len) as u32), 0)?;
        }
        Ok(self.seen)
    }

    /// The text as the second sequence of steps of 17, the first being the text backwards.
    fn with_strangers(mut self, text: &[u32]) -> Result<Seen> {
        let stranger: Vec<u32> = text.iter().rev().copied().collect();
        for start in (0..text.len()).step_by(17) {
            let end = text.len().min(start + 17);
            let mut step = Step::default();
            for (s, ids) in [&stranger, text].into_iter().enumerate() {
                step.tokens.extend(&ids[start..end]);
                step.positions.extend(start as u32..end as u32);
                step.seqs.extend(std::iter::repeat_n(s as u32, end - start));
                let first = BLOCKS * s as u32;
                let blocks = first..first + end.div_ceil(KV_BLOCK) as u32;
                step.tables.push(BlockTable::Same(blocks.collect()));
            }
            self.step(step, 1)?;
        }
        Ok(self.seen)
    }

    /// The text, then only what is behind its first block again, in a sequence that shares that block.
    fn prefix_reuse(mut self, text: &[u32]) -> Result<Seen> {
        self.step(Step::single(text, 0), 0)?;
        self.seen.retain(|&(_, position), _| (position as usize) < KV_BLOCK);
        let mut step = Step::single(&text[KV_BLOCK..], KV_BLOCK as u32);
        let own = |(i, &block): (usize, &u32)| if i == 0 { block } else { block + BLOCKS };
        let shared = step.tables[0].of(GroupId(0)).iter().enumerate().map(own).collect();
        step.tables = vec![BlockTable::Same(shared)];
        self.step(step, 0)?;
        Ok(self.seen)
    }
}
