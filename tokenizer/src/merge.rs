//! The chain of symbols and the queue of candidate pairs that both merging algorithms share.
//! What may be merged, and how well, is the caller's: ranks in `bpe.rs`, scores in `spm.rs`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One symbol of a text: a character at first, longer as pairs merge. Offsets are `u32`: the
/// smaller a symbol, the more of them fit in the processor's cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// The token that spells it, if any does.
    pub(crate) id: Option<u32>,
    /// Byte range in the text.
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Symbol {
    /// The bytes from `start` to `end`; a text that is encoded at once is shorter than 4 GiB.
    pub(crate) fn new(id: Option<u32>, start: usize, end: usize) -> Self {
        let offset =
            |at: usize| u32::try_from(at).unwrap_or_else(|_| unreachable!("texts are below 4 GiB"));
        Self { id, start: offset(start), end: offset(end) }
    }

    /// Where the symbol is in the text.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What a pair would become; the greatest `priority` goes first, then the leftmost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<P> {
    pub(crate) priority: P,
    pub(crate) merged: u32,
}

/// Merges the best pair again and again until no pair is a candidate, and calls `emit` with what is left, in order.
///
/// `candidate(left, right)` says what two neighbours would become. O(n log n) in the number of symbols.
pub(crate) fn merge<P: Copy + Ord>(
    symbols: &[Symbol],
    candidate: impl Fn(&Symbol, &Symbol) -> Option<Candidate<P>>,
    mut emit: impl FnMut(&Symbol),
) {
    let mut chain: Vec<Node> = (0..NONE)
        .zip(symbols)
        .map(|(i, &symbol)| Node { symbol, prev: i.wrapping_sub(1), next: i + 1 })
        .collect();
    let Some(last) = chain.last_mut() else { return };
    last.next = NONE;
    let entry = |chain: &[Node], left: u32, right: u32| {
        let (from, to) = (&chain[left as usize].symbol, &chain[right as usize].symbol);
        candidate(from, to).map(|candidate| Entry { candidate, left, end: to.end })
    };
    // Made of all pairs at once, a heap costs O(n).
    let pairs: Vec<Entry<P>> =
        (0..NONE).zip(1..chain.len()).filter_map(|(i, _)| entry(&chain, i, i + 1)).collect();
    let mut queue = BinaryHeap::from(pairs);
    while let Some(Entry { candidate, left, end }) = queue.pop() {
        let Node { symbol, prev: before, next: right } = chain[left as usize];
        // Stale: the left symbol is gone, or one of the two has grown since. Symbols only ever grow to the right, so a
        // pair that still begins and ends where it did when it was queued is still the same two symbols.
        if symbol.start == symbol.end || right == NONE || chain[right as usize].symbol.end != end {
            continue;
        }
        let after = chain[right as usize].next;
        chain[right as usize].symbol.start = end;
        let merged = Symbol { id: Some(candidate.merged), start: symbol.start, end };
        chain[left as usize] = Node { symbol: merged, prev: before, next: after };
        if before != NONE {
            queue.extend(entry(&chain, before, left));
        }
        if after != NONE {
            chain[after as usize].prev = left;
            queue.extend(entry(&chain, left, after));
        }
    }
    let mut at = 0;
    while at != NONE {
        let node = &chain[at as usize];
        emit(&node.symbol);
        at = node.next;
    }
}

/// No neighbour. The index before the first is this, too.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    symbol: Symbol,
    prev: u32,
    next: u32,
}

struct Entry<P> {
    candidate: Candidate<P>,
    left: u32,
    /// Where the right symbol ended when the pair was queued.
    end: u32,
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

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    /// What [`merge`] means, said plainly: the best pair, leftmost first, until there is none.
    fn merge_plainly(symbols: &mut Vec<Symbol>, rank: impl Fn(u32, u32) -> Option<(u32, u32)>) {
        loop {
            let pairs = (1..symbols.len()).filter_map(|right| {
                let (rank, merged) = rank(symbols[right - 1].id?, symbols[right].id?)?;
                Some((rank, right, merged))
            });
            let Some((_, right, merged)) = pairs.min() else { return };
            symbols[right - 1].id = Some(merged);
            symbols[right - 1].end = symbols[right].end;
            symbols.remove(right);
        }
    }

    #[test]
    fn the_queue_merges_like_the_plain_loop() {
        // A small linear congruential generator: the cases are the same in every run.
        let mut state = 1u32;
        let mut next = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..2000 {
            let letters = 2 + next(3);
            let merges: Vec<((u32, u32), u32)> = (0..next(12))
                .map(|i| ((next(letters + i), next(letters + i)), letters + i))
                .collect();
            // Of a pair that is listed twice the first counts.
            let rank = |left, right| {
                let found = merges.iter().position(|&(pair, _)| pair == (left, right))?;
                Some((u32::try_from(found).unwrap(), merges[found].1))
            };
            let symbols: Vec<Symbol> = (0..next(40) as usize)
                .map(|i| Symbol::new(Some(next(letters)), i, i + 1))
                .collect();
            let mut plain = symbols.clone();
            merge_plainly(&mut plain, rank);
            let mut found = Vec::new();
            let candidate = |left: &Symbol, right: &Symbol| {
                let (rank, merged) = rank(left.id?, right.id?)?;
                Some(Candidate { priority: Reverse(rank), merged })
            };
            merge(&symbols, candidate, |symbol| found.push((symbol.id, symbol.start, symbol.end)));
            let plain: Vec<_> =
                plain.iter().map(|symbol| (symbol.id, symbol.start, symbol.end)).collect();
            assert_eq!(found, plain, "{merges:?} {symbols:?}");
        }
    }
}
