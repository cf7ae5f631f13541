//! The chain of symbols and the queue of candidate pairs that both merging algorithms share.
//! What may be merged, and how well, is the caller's: ranks in `bpe.rs`, scores in `spm.rs`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One symbol of a text: a character at first, longer as pairs merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// The token that spells it, if any does.
    pub(crate) id: Option<u32>,
    /// Byte range in the text.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A pair that could merge into `merged`; the greatest `priority` goes first, then the leftmost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<P> {
    pub(crate) priority: P,
    pub(crate) merged: u32,
}

/// Merges the best pair again and again until no pair is a candidate, and calls `emit` with what is left, in order.
///
/// `candidate(left, right)` says what two neighbours would become. O(n log n) in the number of symbols.
pub(crate) fn merge<P: Copy + Ord>(
    symbols: &mut [Symbol],
    candidate: impl Fn(&Symbol, &Symbol) -> Option<Candidate<P>>,
    mut emit: impl FnMut(&Symbol),
) {
    const NONE: usize = usize::MAX;
    let n = symbols.len();
    let mut links: Vec<Link> = (0..n)
        .map(|i| Link { prev: i.wrapping_sub(1), next: if i + 1 < n { i + 1 } else { NONE } })
        .collect();
    let mut queue = BinaryHeap::new();
    let offer =
        |queue: &mut BinaryHeap<Entry<P>>, symbols: &[Symbol], left: usize, right: usize| {
            if left != NONE && right != NONE {
                let end = symbols[right].end;
                let found = candidate(&symbols[left], &symbols[right]);
                queue.extend(found.map(|candidate| Entry { candidate, left, end }));
            }
        };
    for right in 1..n {
        offer(&mut queue, symbols, right - 1, right);
    }
    while let Some(Entry { candidate, left, end }) = queue.pop() {
        let right = links[left].next;
        // Stale: the left symbol is gone, or one of the two has grown since. Symbols only ever grow to the right, so a
        // pair that still begins and ends where it did when it was queued is still the same two symbols.
        if symbols[left].start == symbols[left].end || right == NONE || symbols[right].end != end {
            continue;
        }
        symbols[left].end = end;
        symbols[left].id = Some(candidate.merged);
        symbols[right].start = symbols[right].end;
        links[left].next = links[right].next;
        if links[left].next != NONE {
            let after = links[left].next;
            links[after].prev = left;
        }
        offer(&mut queue, symbols, links[left].prev, left);
        offer(&mut queue, symbols, left, links[left].next);
    }
    let mut at = if n == 0 { NONE } else { 0 };
    while at != NONE {
        emit(&symbols[at]);
        at = links[at].next;
    }
}

#[derive(Clone, Copy)]
struct Link {
    prev: usize,
    next: usize,
}

struct Entry<P> {
    candidate: Candidate<P>,
    left: usize,
    /// Where the right symbol ended when the pair was queued.
    end: usize,
}

impl<P: Ord> Ord for Entry<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.candidate
            .priority
            .cmp(&other.candidate.priority)
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl<P: Ord> PartialOrd for Entry<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord> PartialEq for Entry<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P: Ord> Eq for Entry<P> {}
