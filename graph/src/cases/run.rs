//! How the prompts of a case are run: cut into steps in one way or another, over scattered cache blocks.

use super::Case;
use crate::{
    Best, BlockTable, Blocks, CacheGroup, FREED, KV_BLOCK, Kv, Loaded, Result, Step,
    compare::Recording,
};

/// A way to cut the prompts of a case into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Each sequence by itself, in chunks of this number of tokens.
    Chunks(usize),
    /// All sequences in one step, in chunks of this number of tokens of each.
    Batch(usize),
}

/// Some sequences that share their steps.
#[derive(Clone, Copy)]
struct Together<'a> {
    seqs: &'a [usize],
    /// Tokens of each sequence in a step.
    chunk: usize,
    pass: Pass,
}

/// Which pass over the prompts.
#[derive(Clone, Copy)]
enum Pass {
    /// From position 0, to leave something to read in the cache.
    Past,
    /// From the case's first position.
    Real,
}

impl Case {
    /// Cache blocks of one sequence, and of all.
    fn blocks(&self) -> (usize, usize) {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let per_seq = longest.div_ceil(KV_BLOCK) + 1;
        (per_seq, per_seq * self.prompts.len())
    }

    /// The tables of sequence `s` for a step whose first token of it stands at `position`. What no token sees any more
    /// is freed: a backend that touches it is found out.
    fn tables(&self, s: usize, pass: Pass, position: u32) -> BlockTable {
        let of = |(id, group): (usize, &CacheGroup)| {
            let mut table = self.table(s, pass, id);
            table.truncate(group.table_len(usize::MAX).min(table.len()));
            table[..*group.needs(position).start()].fill(FREED);
            table
        };
        BlockTable::Groups(self.graph.groups.iter().enumerate().map(of).collect())
    }

    /// The table of one group from `first_position` on: scattered blocks, descending in the first group and ascending in
    /// the second, so that a backend that ignores the table or takes another group's is found out. Positions before read
    /// the blocks that a first pass from position 0 left in the upper half of the cache, again and again.
    fn table(&self, s: usize, pass: Pass, group: usize) -> Vec<u32> {
        let (per_seq, upper) = self.blocks();
        let place = |i: usize| if group.is_multiple_of(2) { per_seq - 1 - i } else { i };
        let own = (0..per_seq).map(|i| s * per_seq + place(i));
        let blocks: Vec<usize> = match pass {
            Pass::Past => own.map(|b| b + upper).collect(),
            Pass::Real => {
                let before = self.first_position as usize / KV_BLOCK;
                let written = self.prompts[s].len().div_ceil(KV_BLOCK);
                let past = self.table(s, Pass::Past, group);
                (0..before).map(|i| past[i % written] as usize).chain(own).collect()
            }
        };
        blocks.into_iter().map(|b| b as u32).collect()
    }

    /// The likeliest id after each token of the first prompt.
    pub fn greedy(&self, loaded: &mut dyn Loaded) -> Result<Vec<Best>> {
        let mut kv = loaded.new_kv(&Blocks::Each(2 * self.blocks().1))?;
        let mut step = Step::single(&self.prompts[0], 0);
        step.outputs = (0..step.tokens.len() as u32).collect();
        loaded.run_greedy(&step, &mut kv)
    }

    /// Runs all prompts, cut as told, and records every value. All rows give logits.
    pub fn record(&self, loaded: &mut dyn Loaded, cut: Cut) -> Result<Recording> {
        let mut kv = loaded.new_kv(&Blocks::Each(2 * self.blocks().1))?;
        if self.first_position > 0 {
            self.run(loaded, &mut kv, Pass::Past, Cut::Batch(7), &mut Recording::default())?;
        }
        let mut recording = Recording::default();
        self.run(loaded, &mut kv, Pass::Real, cut, &mut recording)?;
        Ok(recording)
    }

    fn run(
        &self,
        loaded: &mut dyn Loaded,
        kv: &mut Kv,
        pass: Pass,
        cut: Cut,
        recording: &mut Recording,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.prompts.len()).collect();
        let (together, chunk) = match cut {
            Cut::Chunks(n) => (all.chunks(1).collect(), n),
            Cut::Batch(n) => (vec![all.as_slice()], n),
        };
        for seqs in together {
            self.run_chunks(loaded, kv, Together { seqs, chunk, pass }, recording)?;
        }
        Ok(())
    }

    fn run_chunks(
        &self,
        loaded: &mut dyn Loaded,
        kv: &mut Kv,
        together: Together<'_>,
        recording: &mut Recording,
    ) -> Result<()> {
        let Together { seqs, chunk, pass } = together;
        let first_position = match pass {
            Pass::Past => 0,
            Pass::Real => self.first_position,
        };
        let longest = seqs.iter().map(|&s| self.prompts[s].len()).max().unwrap_or(0);
        for start in (0..longest).step_by(chunk) {
            let mut step = Step {
                tables: seqs
                    .iter()
                    .map(|&s| self.tables(s, pass, first_position + start as u32))
                    .collect(),
                // For a table with two sets of frequencies; the others have one for all.
                long: seqs.iter().map(|&s| !s.is_multiple_of(2)).collect(),
                ..Step::default()
            };
            for (i, &s) in seqs.iter().enumerate() {
                let prompt = &self.prompts[s];
                for p in start..prompt.len().min(start + chunk) {
                    step.tokens.push(prompt[p]);
                    step.positions.push(first_position + p as u32);
                    step.seqs.push(i as u32);
                }
            }
            step.outputs = (0..step.tokens.len() as u32).collect();
            let names: Vec<u32> = seqs.iter().map(|&s| s as u32).collect();
            recording.run(loaded, kv, &step, &names)?;
        }
        Ok(())
    }
}
