//! A short end for a text that has come to its length in the middle of its grammar.

use llguidance::Matcher;
use std::collections::VecDeque;
use tokenizer::Tokenizer;

/// Beginnings of an end that are followed side by side, each by the few ways that close something soonest: that finds the end
/// of what is deeply nested, as JSON is.
const WIDTH: usize = 8;
const FEW: usize = 3;
/// Longest end that is looked for.
const MAX_LENGTH: usize = 1024;
/// Beginnings that are looked at where none of these comes to an end: by every way, the short ones first.
const MAX_TRIED: usize = 4000;
/// Where no more tokens than this are allowed, the text is all but forced, as a name in a JSON object is: the longest goes
/// furthest.
const FORCED: usize = 32;
/// What closes something comes first; then what makes the shortest value.
const ORDER: &str = "\"}])>;,:@-/._0123456789aeltrunsfbcdghijkmopqvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ{[(<+*=|!?#$%&'\\~^` \n";

/// A vocabulary's tokens of one character, those that close something first.
pub(super) struct Closers {
    ids: Vec<u32>,
    /// Bytes of each token that is no white space; of others 0.
    lengths: Vec<u8>,
}

/// A beginning of an end.
struct Tried {
    matcher: Matcher,
    ids: Vec<u32>,
}

impl Closers {
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let n_vocab = tokenizer.n_vocab() as u32;
        let is_text = |id: &u32| !tokenizer.is_control(*id) && !tokenizer.is_eog(*id);
        let place = |id: u32| match tokenizer.piece(id) {
            [byte] => ORDER.bytes().position(|known| known == *byte),
            _ => None,
        };
        let found = (0..n_vocab).filter(is_text).filter_map(|id| Some((place(id)?, id)));
        let mut found: Vec<(usize, u32)> = found.collect();
        found.sort_unstable();
        found.dedup_by_key(|(place, _)| *place);
        let length = |id: u32| match tokenizer.piece(id) {
            [b' ' | b'\t' | b'\r' | b'\n', ..] => 0,
            piece if is_text(&id) => u8::try_from(piece.len()).unwrap_or(0),
            _ => 0,
        };
        Self {
            ids: found.into_iter().map(|(_, id)| id).collect(),
            lengths: (0..n_vocab).map(length).collect(),
        }
    }

    /// Tokens that make the text whole, few of them; `None` where none of those that are tried does.
    pub(super) fn short_end(&self, matcher: &Matcher) -> Option<Vec<u32>> {
        let start = || Tried { matcher: matcher.clone(), ids: Vec::new() };
        self.straight(start()).or_else(|| self.by_every_way(start()))
    }

    /// Follows the ways that close something.
    fn straight(&self, start: Tried) -> Option<Vec<u32>> {
        let mut row = vec![start];
        for _ in 0..MAX_LENGTH {
            let mut next = Vec::with_capacity(WIDTH);
            for mut tried in row {
                if tried.is_whole()? {
                    return Some(tried.ids);
                }
                let room = WIDTH.saturating_sub(next.len());
                next.extend(
                    self.ways(&mut tried.matcher, FEW)?
                        .into_iter()
                        .take(room)
                        .filter_map(|id| tried.with(id)),
                );
            }
            row = next;
        }
        None
    }

    fn by_every_way(&self, start: Tried) -> Option<Vec<u32>> {
        let mut queue = VecDeque::from([start]);
        for _ in 0..MAX_TRIED {
            let mut tried = queue.pop_front()?;
            if tried.is_whole()? {
                return Some(tried.ids);
            }
            let ways = self.ways(&mut tried.matcher, self.ids.len())?;
            let room = MAX_TRIED.saturating_sub(queue.len());
            queue.extend(ways.into_iter().take(room).filter_map(|id| tried.with(id)));
        }
        None
    }

    /// Tokens to try next, at most `n` and one more.
    fn ways(&self, matcher: &mut Matcher, n: usize) -> Option<Vec<u32>> {
        let mask = matcher.compute_mask().ok()?;
        let allowed = self.ids.iter().copied().filter(|id| mask.is_allowed(*id));
        let mut ways: Vec<u32> = allowed.take(n).collect();
        let forced = if mask.num_set() <= FORCED { mask.to_list() } else { Vec::new() };
        let length = |id: &u32| self.lengths.get(*id as usize).copied().unwrap_or(0);
        match forced.into_iter().max_by_key(length).filter(|id| length(id) > 0) {
            Some(longest) if !ways.contains(&longest) => ways.insert(0, longest),
            // Bytes of a character that was begun.
            None if ways.is_empty() => ways.extend(mask.first_bit_set().map(|id| id as u32)),
            Some(_) | None => {}
        }
        Some(ways)
    }
}

impl Tried {
    fn is_whole(&mut self) -> Option<bool> {
        Some(self.matcher.is_stopped() || self.matcher.is_accepting().ok()?)
    }

    /// The same, one token longer; `None` if it cannot follow.
    fn with(&self, id: u32) -> Option<Self> {
        let mut matcher = self.matcher.clone();
        matcher.consume_token(id).ok()?;
        Some(Self { matcher, ids: [&self.ids[..], &[id]].concat() })
    }
}
