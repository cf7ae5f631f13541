//! A loaded model with its cache: sequences that grow step by step. A step may serve several of them, each with its own
//! number of tokens.

use crate::kv::{Pages, SeqId};
use crate::{Error, ErrorKind, Result};
use graph::{
    Best, Blocks, CacheGroup, KV_BLOCK, Kv, Limits, Loaded, NoTap, Output, Step, Stop, Tap, Timing,
    Traffic,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Positions that one sequence may have.
    pub n_ctx: usize,
    /// Tokens that one step may have; longer prompts are cut.
    pub n_batch: usize,
    /// Sequences that may be full at the same time.
    pub n_seqs: usize,
    /// What layers with a window keep.
    pub keep: Keep,
}

/// Sequences with a state that there is room for at least. Sequences share the positions of a cache, however many they are;
/// a state is one's own, and small beside the positions of a context.
const LEAST_STATES: usize = 8;

/// What the caches of layers with a window keep of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// All positions, so that a sequence can be cut anywhere and goes on from there.
    #[default]
    All,
    /// Only what a token can still see. A sequence that is cut to where more would be seen begins anew.
    Seen,
}

impl EngineOptions {
    /// Blocks that the caches of a graph need.
    pub fn blocks(&self, graph: &graph::Graph) -> Blocks {
        let of = |group: &CacheGroup| {
            let all = group.table_len(self.n_ctx);
            let one = match (self.keep, group) {
                (Keep::Seen, CacheGroup::Positions { window: Some(window) }) => {
                    // The tokens of a step, and what the first of them sees, wherever blocks begin.
                    let span = (*window as usize).saturating_sub(1).saturating_add(self.n_batch);
                    all.min(span.div_ceil(KV_BLOCK) + 1)
                }
                (Keep::All | Keep::Seen, CacheGroup::Positions { .. }) => all,
                (Keep::All | Keep::Seen, CacheGroup::States) => {
                    return all.saturating_mul(self.n_seqs.max(LEAST_STATES));
                }
            };
            one.saturating_mul(self.n_seqs)
        };
        Blocks::Groups(graph.groups.iter().map(of).collect())
    }

    /// A context that a model has no positions for is refused.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] with the size, and the tensor that says how many there are.
    pub fn check_positions(&self, graph: &graph::Graph) -> Result<()> {
        match graph.n_positions() {
            Some((most, table)) if self.n_ctx > most => {
                let (n, name) = (self.n_ctx, &table.name);
                let what = format!(
                    "context of {n} positions: the model has learned {most} ({name}), allowed 1..={most}"
                );
                Err(Error::new(ErrorKind::BadRequest, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        for (name, n) in [("n_ctx", self.n_ctx), ("n_batch", self.n_batch), ("n_seqs", self.n_seqs)]
        {
            if n == 0 {
                return Err(Error::new(
                    ErrorKind::BadRequest,
                    format!("{name}: 0, allowed 1 and more"),
                ));
            }
        }
        Ok(())
    }
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The sequence to which the tokens are added.
    pub seq: SeqId,
    /// At least one.
    pub tokens: &'a [u32],
    /// Which rows of logits are wanted.
    pub wanted: Wanted,
}

impl Work<'_> {
    /// Rows of logits that are wanted.
    fn rows(&self) -> usize {
        match self.wanted {
            Wanted::None => 0,
            Wanted::Last => 1,
            Wanted::All => self.tokens.len(),
        }
    }
}

/// Which of a work item's tokens give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: the beginning of a cut prompt.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// A model ready to run.
pub struct Engine {
    loaded: Box<dyn Loaded>,
    kv: Kv,
    pages: Pages,
    texts: BTreeMap<SeqId, Text>,
    options: EngineOptions,
}

/// What a sequence is.
#[derive(Clone, Debug, Default)]
struct Text {
    /// One for each of its positions.
    ids: Vec<u32>,
    /// Positions that it will have at least: a prompt of which only a part is computed yet.
    expected: usize,
    /// Whether the keys in the cache have the long frequencies of the rotary embedding ([`Graph::is_long`]).
    ///
    /// [`Graph::is_long`]: graph::Graph::is_long
    long: bool,
}

impl Engine {
    /// Allocates the cache.
    pub fn new(loaded: Box<dyn Loaded>, options: EngineOptions) -> Result<Self> {
        options.check()?;
        options.check_positions(loaded.graph())?;
        if loaded.graph().output == Output::Embedding {
            let what = "embedding model: gives a vector for a text, and no logits to go on with";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let blocks = options.blocks(loaded.graph());
        let kv = loaded.new_kv(&blocks)?;
        let pages = Pages::new(&loaded.graph().groups, &blocks);
        Ok(Self { loaded, kv, pages, texts: BTreeMap::new(), options })
    }

    /// The sizes.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Columns of a row of logits.
    pub fn n_vocab(&self) -> usize {
        self.loaded.graph().n_vocab
    }

    /// The model's graph.
    pub fn graph(&self) -> &graph::Graph {
        self.loaded.graph()
    }

    /// Whether the steps from now on are timed, node by node.
    pub fn profile(&mut self, on: bool) {
        self.loaded.profile(on);
    }

    /// Calls `f`, whose steps end with `Stopped` soon after `stop` is requested: [`Loaded::stop_with`]. A step that was
    /// given up leaves every sequence as it was.
    pub fn stopping<T>(&mut self, stop: &Stop, f: impl FnOnce(&mut Self) -> T) -> T {
        self.loaded.stop_with(stop.clone());
        let result = f(self);
        self.loaded.stop_with(Stop::new());
        result
    }

    /// What the device can do at most: [`Loaded::limits`].
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn limits(&mut self) -> crate::Result<Option<Limits>> {
        Ok(self.loaded.limits()?)
    }

    /// What was timed: [`Loaded::timings`].
    pub fn timings(&self) -> Vec<Timing> {
        self.loaded.timings()
    }

    /// What the timed steps moved: [`Loaded::traffic`].
    pub fn traffic(&self) -> Option<Traffic> {
        self.loaded.traffic()
    }

    /// Starts an empty sequence.
    pub fn add(&mut self) -> SeqId {
        let seq = self.pages.add();
        self.texts.insert(seq, Text::default());
        seq
    }

    /// Starts a sequence that shares the beginning of another, in whole blocks of [`KV_BLOCK`] positions up to `len`. Where a
    /// layer keeps a state, nothing can be shared: it starts empty. So does the short beginning of a long sequence, whose keys
    /// have other frequencies.
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId> {
        let fork = self.pages.fork(seq, self.usable(seq, len))?;
        let ids = self.ids(seq)[..self.pages.len(fork)?].to_vec();
        let long = self.is_long(seq) && !ids.is_empty();
        self.texts.insert(fork, Text { ids, expected: 0, long });
        Ok(fork)
    }

    /// Ends a sequence and frees its blocks.
    pub fn remove(&mut self, seq: SeqId) -> Result<()> {
        self.pages.remove(seq)?;
        self.texts.remove(&seq);
        Ok(())
    }

    /// The ids of a sequence; empty for one that is not there.
    pub fn ids(&self, seq: SeqId) -> &[u32] {
        self.texts.get(&seq).map_or(&[], |text| text.ids.as_slice())
    }

    fn is_long(&self, seq: SeqId) -> bool {
        self.texts.get(&seq).is_some_and(|text| text.long)
    }

    /// How many of the first `len` positions of a sequence are of use to one of that length: none where the keys have the
    /// frequencies of longer ones.
    fn usable(&self, seq: SeqId, len: usize) -> usize {
        if self.is_long(seq) && !self.graph().is_long(len) { 0 } else { len }
    }

    /// Forgets the positions from `len` on, and returns how many are left: fewer inside a shared block, and none where a
    /// layer keeps a state, which cannot go back, or a sequence that was long is no longer so ([`Graph::is_long`]).
    ///
    /// [`Graph::is_long`]: graph::Graph::is_long
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize> {
        self.cut(seq, self.usable(seq, len))
    }

    fn cut(&mut self, seq: SeqId, len: usize) -> Result<usize> {
        let left = self.pages.truncate(seq, len)?;
        if let Some(text) = self.texts.get_mut(&seq) {
            text.ids.truncate(left);
            text.expected = 0;
            text.long &= left > 0;
        }
        Ok(left)
    }

    /// Cuts a sequence to what it has in common with `ids`, and returns how many of `ids` need not be computed again:
    /// the next turn of a chat. At least the last id is left to compute, since its logits are wanted. Where a layer keeps a
    /// state, that is all of the sequence or nothing.
    pub fn reuse(&mut self, seq: SeqId, ids: &[u32]) -> Result<usize> {
        let common = self.ids(seq).iter().zip(ids).take_while(|(a, b)| a == b).count();
        let same_freqs = self.is_long(seq) == self.graph().is_long(ids.len());
        let common = if same_freqs { common.min(ids.len().saturating_sub(1)) } else { 0 };
        self.cut(seq, common)
    }

    /// Runs one step over several sequences and returns the wanted logits of each item, row by row.
    ///
    /// Where a sequence passes the context for which longrope's short factors are, it is read again from its start with
    /// the long ones, as Hugging Face's transformers do: every position of a sequence has the same frequencies, and what a
    /// sequence gives depends on its ids alone.
    ///
    /// A step that fails leaves every sequence as it was, but for one with a state, which is empty after a step that failed
    /// under way, and one that was being read again, which keeps what was read.
    pub fn step(&mut self, work: &[Work<'_>], tap: &mut dyn Tap) -> Result<Vec<Vec<f32>>> {
        let n_vocab = self.n_vocab();
        let logits = self.add_step(work, |loaded, step, kv| loaded.run(step, kv, tap))?;
        let mut rest = logits.as_slice();
        let mut take_rows = |item: &Work<'_>| {
            let Some((rows, after)) = rest.split_at_checked(item.rows() * n_vocab) else {
                let rows: usize = work.iter().map(Work::rows).sum();
                let what = format!(
                    "backend returned {} logits for {rows} rows of {n_vocab}",
                    logits.len()
                );
                return Err(Error::new(ErrorKind::Backend, what));
            };
            rest = after;
            Ok(rows.to_vec())
        };
        work.iter().map(&mut take_rows).collect()
    }

    /// Runs one step and returns the argmax of each wanted row: a GPU then sends an id back, not a row of logits.
    ///
    /// A step that fails leaves every sequence as [`Engine::step`] says.
    pub fn step_greedy(&mut self, work: &[Work<'_>]) -> Result<Vec<Best>> {
        self.add_step(work, |loaded, step, kv| loaded.run_greedy(step, kv))
    }

    /// Runs one step; the sequences grow if it succeeds.
    fn add_step<T>(
        &mut self,
        work: &[Work<'_>],
        run: impl FnOnce(&mut dyn Loaded, &Step, &mut Kv) -> graph::Result<T>,
    ) -> Result<T> {
        self.check(work)?;
        for item in work {
            self.read_again_if_long(item)?;
        }
        self.add_checked(work, run)
    }

    /// Says that a sequence will have at least `len` positions: longrope's factors go by that from its next step on.
    pub fn expect(&mut self, seq: SeqId, len: usize) {
        if let Some(text) = self.texts.get_mut(&seq) {
            text.expected = len;
        }
    }

    /// Reads a sequence again from its start, where it has other frequencies with the item's tokens than without.
    fn read_again_if_long(&mut self, item: &Work<'_>) -> Result<()> {
        let Some(text) = self.texts.get(&item.seq) else { return Ok(()) };
        let long = self.graph().is_long((text.ids.len() + item.tokens.len()).max(text.expected));
        if long == text.long {
            return Ok(());
        }
        let Text { ids, expected, .. } = text.clone();
        self.cut(item.seq, 0)?;
        self.texts.insert(item.seq, Text { ids: Vec::new(), expected, long });
        for tokens in ids.chunks(self.options.n_batch) {
            let again = Work { seq: item.seq, tokens, wanted: Wanted::None };
            self.add_checked(&[again], |loaded, step, kv| loaded.run(step, kv, &mut NoTap))?;
        }
        Ok(())
    }

    /// Runs one step whose sequences have the frequencies of their new lengths.
    fn add_checked<T>(
        &mut self,
        work: &[Work<'_>],
        run: impl FnOnce(&mut dyn Loaded, &Step, &mut Kv) -> graph::Result<T>,
    ) -> Result<T> {
        let before: Vec<usize> = work.iter().map(|item| self.ids(item.seq).len()).collect();
        let result = match self.make_step(work) {
            Ok(step) => {
                let result = run(&mut *self.loaded, &step, &mut self.kv);
                for item in work {
                    match &result {
                        Ok(_) => self.pages.ran(item.seq)?,
                        Err(_) => self.pages.failed(item.seq)?,
                    }
                }
                result.map_err(Error::from)
            }
            Err(error) => Err(error),
        };
        for (item, &len) in work.iter().zip(&before) {
            match &result {
                Ok(_) => {
                    self.texts.entry(item.seq).or_default().ids.extend(item.tokens);
                    if self.options.keep == Keep::Seen {
                        self.pages.free_unseen(item.seq)?;
                    }
                }
                Err(_) => {
                    self.cut(item.seq, len)?;
                }
            }
        }
        result
    }

    fn check(&self, work: &[Work<'_>]) -> Result<()> {
        let n_tokens: usize = work.iter().map(|item| item.tokens.len()).sum();
        if n_tokens > self.options.n_batch {
            let what = format!("step: {n_tokens} tokens, allowed 1..={}", self.options.n_batch);
            return Err(Error::new(ErrorKind::Usage, what));
        }
        for (i, item) in work.iter().enumerate() {
            if item.tokens.is_empty() || work[..i].iter().any(|other| other.seq == item.seq) {
                let what = format!("step: item {i} has no tokens, or the sequence of another item");
                return Err(Error::new(ErrorKind::Usage, what));
            }
            let len = self.pages.len(item.seq)?;
            self.check_ids(item.tokens, len)?;
            if item.tokens.len() > self.options.n_ctx.saturating_sub(len) {
                return Err(self.too_long(len.saturating_add(item.tokens.len())));
            }
        }
        Ok(())
    }

    fn check_ids(&self, ids: &[u32], first: usize) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.n_vocab()) {
            Some(i) => {
                let (at, n_vocab) = (first + i, self.n_vocab());
                let what =
                    format!("prompt[{at}]: token id {} out of vocabulary (0..{n_vocab})", ids[i]);
                Err(Error::new(ErrorKind::BadRequest, what))
            }
            None => Ok(()),
        }
    }

    fn too_long(&self, n: usize) -> Error {
        let n_ctx = self.options.n_ctx;
        let what = format!(
            "prompt of {n} tokens is over the context of {n_ctx}; hint: a larger context, or a shorter prompt"
        );
        Error::new(ErrorKind::PromptTooLong, what)
    }

    /// The step of these items; their pages grow.
    fn make_step(&mut self, work: &[Work<'_>]) -> Result<Step> {
        let mut step = Step::default();
        for (s, item) in (0u32..).zip(work) {
            let first = self.pages.grow(item.seq, item.tokens.len())?;
            let (start, n) = (step.tokens.len(), item.tokens.len());
            step.tokens.extend(item.tokens);
            // Below 2^30: `n_ctx` bounds positions, `n_batch` bounds rows.
            step.positions.extend((first..first + n).map(|p| p as u32));
            step.seqs.extend(std::iter::repeat_n(s, n));
            step.tables.push(self.pages.table(item.seq)?);
            step.long.push(self.is_long(item.seq));
            step.outputs.extend((start + n - item.rows()..start + n).map(|row| row as u32));
        }
        Ok(step)
    }

    /// Adds `ids` in steps of up to `n_batch` tokens, and returns the logits after the last.
    ///
    /// `progress` hears after each step how many are done; where it breaks, or a step is given up
    /// ([`Engine::stopping`]), the sequence keeps what was computed and the result is `None`. An empty prompt, ids out of the vocabulary, and a prompt over the context are refused
    /// before anything is computed.
    pub fn prefill(
        &mut self,
        seq: SeqId,
        ids: &[u32],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        let len = self.pages.len(seq)?;
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::BadRequest, "prompt: no tokens, allowed 1 and more"));
        }
        self.check_ids(ids, len)?;
        if ids.len() > self.options.n_ctx.saturating_sub(len) {
            return Err(self.too_long(len.saturating_add(ids.len())));
        }
        self.expect(seq, len.saturating_add(ids.len()));
        let logits = self.prefill_checked(seq, ids, progress);
        if !matches!(logits, Ok(Some(_))) {
            self.expect(seq, 0);
        }
        logits
    }

    fn prefill_checked(
        &mut self,
        seq: SeqId,
        ids: &[u32],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        let mut done = 0;
        loop {
            let n = (ids.len() - done).min(self.options.n_batch);
            let wanted = if done + n == ids.len() { Wanted::Last } else { Wanted::None };
            let work = [Work { seq, tokens: &ids[done..done + n], wanted }];
            let mut rows = match self.step(&work, &mut NoTap) {
                Err(error) if error.kind() == ErrorKind::Stopped => return Ok(None),
                rows => rows?,
            };
            done += n;
            let go_on = progress(done);
            match wanted {
                Wanted::Last | Wanted::All => return Ok(rows.pop()),
                Wanted::None if go_on.is_break() => return Ok(None),
                Wanted::None => {}
            }
        }
    }

    /// Adds one token and returns the logits after it.
    pub fn decode(&mut self, seq: SeqId, id: u32) -> Result<Vec<f32>> {
        let rows = self.step(&[Work { seq, tokens: &[id], wanted: Wanted::Last }], &mut NoTap)?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Adds one token and returns the argmax of the logits after it.
    pub fn decode_greedy(&mut self, seq: SeqId, id: u32) -> Result<Best> {
        let best = self.step_greedy(&[Work { seq, tokens: &[id], wanted: Wanted::Last }])?;
        let what = "backend returned no id for a row";
        best.first().copied().ok_or_else(|| Error::new(ErrorKind::Backend, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::reference::Reference;
    use graph::{Backend, Builder, LoadOptions};
    use std::sync::Arc;

    #[test]
    fn a_graph_without_logits_is_refused() {
        let mut builder = Builder::new(4);
        let table = builder.weight("table", gguf::DType::F32, 8, 4);
        let x = builder.get_rows(table, "embd").unwrap();
        builder.output_rows(x, "result_embd").unwrap();
        let graph = Arc::new(builder.finish_with(Output::Embedding).unwrap());
        let file = gguf::Builder::new().tensor("table", gguf::DType::F32, &[8, 4], &[0; 128]);
        let file = gguf::File::from_bytes(file.build().unwrap()).unwrap();
        let loaded = Reference.load(graph, &[&file], LoadOptions::default(), &mut |_| {}).unwrap();
        let options = EngineOptions { n_ctx: 8, n_batch: 8, n_seqs: 1, keep: Keep::All };
        let error = Engine::new(loaded, options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("embedding model: "), "{error}");
    }
}
