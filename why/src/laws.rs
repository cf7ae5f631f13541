//! One backend against itself: however a text is cut into steps, whoever shares them and the cache, the logits have the
//! same bits.

use crate::Result;
use graph::{Graph, KV_BLOCK, Kv, Loaded, NoTap, Step};
use serde::Serialize;

/// A law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// All tokens at once = one at a time.
    OneByOne,
    /// = in chunks of so many.
    Chunks(usize),
    /// = in a step that computes a stranger's tokens too.
    WithStrangers,
    /// = after another sequence whose first cache block is used again.
    PrefixReuse,
    /// = a second time.
    Again,
    /// = with so many layers on the GPU and the others on the CPU. Tested by whoever has both.
    GpuLayers(usize),
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which.
    pub law: Law,
    /// First position whose logits differ.
    pub position: usize,
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
    let n_vocab = loaded.graph().n_vocab;
    let n = tokens.len().clamp(KV_BLOCK + 9, KV_BLOCK * BLOCKS as usize);
    let text: Vec<u32> = tokens.iter().copied().cycle().take(n).collect();
    let expected = Run::new(loaded)?.chunks(&text, n)?;
    let mut broken = Vec::new();
    let all = [
        Law::Again,
        Law::Chunks(3),
        Law::Chunks(KV_BLOCK - 1),
        Law::OneByOne,
        Law::WithStrangers,
        Law::PrefixReuse,
    ];
    for law in all {
        let mut run = Run::new(loaded)?;
        let got = match law {
            Law::Again | Law::GpuLayers(_) => run.chunks(&text, n)?,
            Law::OneByOne => run.chunks(&text, 1)?,
            Law::Chunks(len) => run.chunks(&text, len)?,
            Law::WithStrangers => run.with_strangers(&text)?,
            Law::PrefixReuse => run.prefix_reuse(&text)?,
        };
        let differs = |(i, &e): (usize, &u32)| (got.get(i) != Some(&e)).then_some(i);
        let first = expected.iter().enumerate().find_map(differs);
        heard(law, first.is_none());
        if let Some(at) = first {
            broken.push(Broken { law, position: at / n_vocab, col: at % n_vocab });
        }
    }
    Ok(broken)
}

/// A backend with a fresh cache of room for two texts.
struct Run<'a> {
    loaded: &'a mut dyn Loaded,
    kv: Kv,
}

/// Blocks of each text.
const BLOCKS: u32 = 64;

fn bits(logits: &[f32]) -> impl Iterator<Item = u32> + '_ {
    logits.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() })
}

impl<'a> Run<'a> {
    fn new(loaded: &'a mut dyn Loaded) -> Result<Self> {
        let kv = loaded.new_kv(2 * BLOCKS as usize)?;
        Ok(Self { loaded, kv })
    }

    fn graph(&self) -> &Graph {
        self.loaded.graph()
    }

    fn step(&mut self, step: &Step) -> Result<Vec<f32>> {
        Ok(self.loaded.run(step, &mut self.kv, &mut NoTap)?)
    }

    fn chunks(&mut self, text: &[u32], len: usize) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for (i, chunk) in text.chunks(len).enumerate() {
            let mut step = Step::single(chunk, (i * len) as u32);
            step.outputs = (0..chunk.len() as u32).collect();
            all.extend(bits(&self.step(&step)?));
        }
        Ok(all)
    }

    /// The text as the second sequence of steps of 17, the first being the text backwards.
    fn with_strangers(&mut self, text: &[u32]) -> Result<Vec<u32>> {
        let (n_vocab, mut all) = (self.graph().n_vocab, Vec::new());
        let stranger: Vec<u32> = text.iter().rev().copied().collect();
        for start in (0..text.len()).step_by(17) {
            let end = text.len().min(start + 17);
            let mut step = Step::default();
            for (s, ids) in [&stranger, text].into_iter().enumerate() {
                step.tokens.extend(&ids[start..end]);
                step.positions.extend(start as u32..end as u32);
                step.seqs.extend(std::iter::repeat_n(s as u32, end - start));
                let first = BLOCKS * s as u32;
                step.tables.push((first..first + end.div_ceil(KV_BLOCK) as u32).collect());
            }
            step.outputs = (0..step.tokens.len() as u32).collect();
            let logits = self.step(&step)?;
            all.extend(bits(&logits[(end - start) * n_vocab..]));
        }
        Ok(all)
    }

    /// The text, then only what is behind its first block again, in a sequence that shares that block.
    fn prefix_reuse(&mut self, text: &[u32]) -> Result<Vec<u32>> {
        let n_vocab = self.graph().n_vocab;
        let mut all = self.chunks(text, text.len())?;
        all.truncate(KV_BLOCK * n_vocab);
        let rest = &text[KV_BLOCK..];
        let mut step = Step::single(rest, KV_BLOCK as u32);
        step.outputs = (0..rest.len() as u32).collect();
        for block in step.tables[0].iter_mut().skip(1) {
            *block += BLOCKS;
        }
        all.extend(bits(&self.step(&step)?));
        Ok(all)
    }
}
