//! Speculation: tokens that are guessed, computed all in one step, and kept as far as they are what would have been drawn.
//!
//! A step of several tokens costs little more than one of a single token, since the weights are read once for all of them.
//! Each token is drawn from the same bits of logits as without guesses, in the same order, so the text is the same, too.

/// Guesses how a text goes on.
pub trait Drafter: Send {
    /// At most `n` tokens that may follow `ids`, the whole text; none where it has no idea.
    fn guess(&mut self, ids: &[u32], n: usize) -> Vec<u32>;

    /// How many of a guess's tokens the text has taken.
    fn took(&mut self, guess: Guess);
}

/// What became of a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guess {
    /// Tokens of it.
    pub n: usize,
    /// Those that the text has taken, from the first on.
    pub taken: usize,
}

/// Guesses what followed where the text had the same tokens before: prompts that are quoted, code that repeats itself.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Most tokens of a guess.
    most: usize,
    /// Those of the next one: fewer while guesses are wrong.
    next: usize,
}

/// Fewest tokens that must be the same.
const LEAST_SAME: usize = 3;
/// A place with more tokens in common is not looked for.
const MOST_SAME: usize = 32;

impl Lookup {
    /// Guesses of at most `most` tokens.
    pub fn new(most: usize) -> Self {
        Self { most, next: most }
    }
}

impl Drafter for Lookup {
    fn guess(&mut self, ids: &[u32], n: usize) -> Vec<u32> {
        let Some(at) = last_alike(ids) else { return Vec::new() };
        ids[at..].iter().copied().take(n.min(self.next)).collect()
    }

    fn took(&mut self, guess: Guess) {
        self.next = if guess.taken == guess.n {
            (self.next * 2).min(self.most)
        } else {
            (guess.taken + 1).min(self.most)
        };
    }
}

/// Where the text went on when it last ended as it does now; of places the one with the most tokens in common.
fn last_alike(ids: &[u32]) -> Option<usize> {
    let mut best = None;
    let mut most = LEAST_SAME - 1;
    for at in (LEAST_SAME..ids.len()).rev() {
        let pairs = ids[..at].iter().rev().zip(ids.iter().rev());
        let same = pairs.take(MOST_SAME).take_while(|(a, b)| a == b).count();
        if same > most {
            (best, most) = (Some(at), same);
            if same == MOST_SAME {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_likeness_and_of_equals_the_last() {
        assert_eq!(last_alike(&[1, 2, 3, 4, 1, 2, 3]), Some(3));
        assert_eq!(last_alike(&[1, 2, 3, 4, 1, 2]), None);
        // 1 2 3 went on with 5, 9 1 2 3 with 4.
        assert_eq!(last_alike(&[9, 1, 2, 3, 4, 1, 2, 3, 5, 9, 1, 2, 3]), Some(4));
        assert_eq!(last_alike(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]), Some(7));
        assert_eq!(last_alike(&[7, 7, 7, 7]), Some(3));
        assert_eq!(last_alike(&[]), None);
    }

    #[test]
    fn guesses_grow_while_they_are_right() {
        let ids = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3];
        let mut lookup = Lookup::new(4);
        assert_eq!(lookup.guess(&ids, 16), [4, 5, 6, 7]);
        assert_eq!(lookup.guess(&ids, 2), [4, 5]);
        lookup.took(Guess { n: 4, taken: 0 });
        assert_eq!(lookup.guess(&ids, 16), [4]);
        lookup.took(Guess { n: 1, taken: 1 });
        assert_eq!(lookup.guess(&ids, 16), [4, 5]);
        assert!(lookup.guess(&[1, 2, 3], 16).is_empty());
    }
}
