//! What a backend remembers of a cache from step to step: its blocks, and how far the states in them have read. A step that
//! would read a state where it does not stand is refused here, for every backend.

use crate::{Blocks, CacheGroup, Error, ErrorKind, Graph, GroupId, Result, Span, Step};
use std::collections::HashMap;

/// How a cache is filled, as far as a step must fit it.
#[derive(Clone, Debug)]
pub struct Contents {
    blocks: Blocks,
    /// For each state, by group and block, how far it has read. One that is not in here has read nothing.
    states: HashMap<(GroupId, usize), Read>,
}

/// What a state has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// The positions below this.
    Below(u32),
    /// Nobody knows: a step failed under way.
    Lost,
}

/// The states that a step reads.
fn states(graph: &Graph, step: &Step) -> Vec<(GroupId, Vec<Span>)> {
    let groups = graph.groups.iter().enumerate();
    let states = groups.filter(|(_, group)| **group == CacheGroup::States);
    states.map(|(id, _)| (GroupId(id), step.spans().collect())).collect()
}

impl Contents {
    /// Of a cache that is new.
    pub fn new(blocks: &Blocks) -> Self {
        Self { blocks: blocks.clone(), states: HashMap::new() }
    }

    /// The blocks of each group.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Checks a step as [`Step::check`] does, and that each of its sequences goes on where its states stand or begins at
    /// position 0. Call [`Contents::done`] when the step has run; until then its states count as lost.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] with what does not fit; nothing has changed then.
    pub fn begin(&mut self, graph: &Graph, step: &Step) -> Result<()> {
        step.check(graph, &self.blocks)?;
        let states = states(graph, step);
        for (group, spans) in &states {
            spans.iter().try_for_each(|span| self.check(*group, step, span))?;
        }
        for (group, spans) in states {
            for Span { seq, .. } in spans {
                self.states.insert((group, step.state_block(group, seq)), Read::Lost);
            }
        }
        Ok(())
    }

    fn check(&self, group: GroupId, step: &Step, span: &Span) -> Result<()> {
        let Span { seq, position, tokens } = span;
        let read = self.states.get(&(group, step.state_block(group, *seq)));
        let read = *read.unwrap_or(&Read::Below(0));
        if *position == 0 || read == Read::Below(*position) {
            return Ok(());
        }
        let found = match read {
            Read::Below(n) => format!("has read {n} positions, allowed {n}, or 0 to begin anew"),
            Read::Lost => "is lost since a step failed, allowed 0 to begin anew".to_owned(),
        };
        let what = format!(
            "step: token {}: position {position} of sequence {seq}, whose state {found}",
            tokens.start
        );
        Err(Error::new(ErrorKind::Step, what))
    }

    /// The step that was begun has run.
    pub fn done(&mut self, graph: &Graph, step: &Step) {
        for (group, spans) in states(graph, step) {
            for Span { seq, position, tokens } in spans {
                let read = Read::Below(position + tokens.len() as u32);
                self.states.insert((group, step.state_block(group, seq)), read);
            }
        }
    }
}
