//! The rows of a step by the experts that they chose: each expert's rows stand side by side, so that its matrices are read
//! once for all of them, and a step of one token reads those of the chosen experts and no other.

use crate::pool::Pool;
use graph::ValueId;
use std::ops::Range;

/// What products over chosen experts of one step share.
#[derive(Default)]
pub(crate) struct Experts {
    /// The value whose indices the rest was made from.
    chosen: Option<ValueId>,
    /// Each expert that somebody chose, with the places of its rows.
    pub(crate) runs: Vec<Run>,
    /// The slot (of all slots of all rows) that stands at each place. An expert begins at a place that is a multiple of
    /// `width`; the places left over hold [`NOBODY`].
    pub(crate) order: Vec<usize>,
    /// Rows of each `width` places.
    pub(crate) counts: Vec<usize>,
    /// The activations by place, and the value that they are of.
    x: Vec<f32>,
    x_of: Option<ValueId>,
}

/// An expert and the places of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) expert: usize,
    pub(crate) places: Range<usize>,
}

/// No slot.
pub(crate) const NOBODY: usize = usize::MAX;

/// A value of a step with its elements.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) id: ValueId,
    pub(crate) data: &'a [f32],
}

impl Experts {
    /// The values of another step have the same ids.
    pub(crate) fn forget(&mut self) {
        (self.chosen, self.x_of) = (None, None);
    }

    /// Puts the slots of `chosen` into the order of their experts, of which there are `n`.
    pub(crate) fn group(&mut self, chosen: Given<'_>, n: usize, width: usize) {
        if self.chosen == Some(chosen.id) {
            return;
        }
        (self.chosen, self.x_of) = (Some(chosen.id), None);
        let mut of_expert = vec![0usize; n];
        chosen.data.iter().for_each(|&expert| of_expert[expert as usize] += 1);
        self.runs.clear();
        self.counts.clear();
        let mut next = vec![0; n];
        let mut end = 0;
        for (expert, &rows) in of_expert.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            next[expert] = end;
            self.runs.push(Run { expert, places: end..end + rows });
            self.counts.extend((0..rows).step_by(width).map(|at| width.min(rows - at)));
            end += rows.next_multiple_of(width);
        }
        self.order.clear();
        self.order.resize(end, NOBODY);
        for (slot, &expert) in chosen.data.iter().enumerate() {
            let place = &mut next[expert as usize];
            self.order[*place] = slot;
            *place += 1;
        }
    }

    /// The activations by place, `[places, n_in]`: a row of `x` for each slot, or one for all slots of a row.
    pub(crate) fn gather(&mut self, x: Given<'_>, n_in: usize, pool: &mut Pool) -> &[f32] {
        if self.x_of != Some(x.id) {
            self.x_of = Some(x.id);
            let slots: usize = self.counts.iter().sum();
            let slots_each = slots * n_in / x.data.len().max(1);
            let order = &self.order;
            self.x.resize(order.len() * n_in, 0.0);
            pool.rows(&mut self.x, n_in, |first, rows| {
                for (row, &slot) in rows.chunks_exact_mut(n_in).zip(&order[first..]) {
                    if slot != NOBODY {
                        row.copy_from_slice(&x.data[slot / slots_each * n_in..][..n_in]);
                    }
                }
            });
        }
        &self.x
    }

    /// What was gathered last.
    pub(crate) fn gathered(&self) -> &[f32] {
        &self.x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expert_s_rows_stand_side_by_side() {
        let mut experts = Experts::default();
        // Three rows of two slots.
        let chosen = [4.0, 1.0, 1.0, 4.0, 0.0, 4.0];
        experts.group(Given { id: ValueId(3), data: &chosen }, 6, 2);
        let run = |expert, places| Run { expert, places };
        assert_eq!(experts.runs, [run(0, 0..1), run(1, 2..4), run(4, 4..7)]);
        assert_eq!(experts.order, [4, NOBODY, 1, 2, 0, 3, 5, NOBODY]);
        assert_eq!(experts.counts, [1, 2, 2, 1]);
        let mut pool = Pool::new(1);
        let (shared, each) = ([0.5, 1.5, 2.5], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let got = experts.gather(Given { id: ValueId(1), data: &shared }, 1, &mut pool).to_vec();
        assert_eq!([&got[..1], &got[2..7]].concat(), [2.5, 0.5, 1.5, 0.5, 1.5, 2.5]);
        let got = experts.gather(Given { id: ValueId(4), data: &each }, 1, &mut pool).to_vec();
        assert_eq!([&got[..1], &got[2..7]].concat(), [4.0, 1.0, 2.0, 0.0, 3.0, 5.0]);
    }
}
