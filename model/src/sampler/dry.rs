//! DRY, "don't repeat yourself": a token that would go on repeating a sequence of the text is held back, the more the longer
//! the sequence is. The sampler is that of text-generation-webui and KoboldCpp; llama.cpp's has the same values.

use super::candidates::Candidates;
use super::params::Dry;
use std::collections::BTreeMap;

/// Logarithm of the highest f32: the exponent stops there, as llama.cpp's does.
const LN_MAX: f64 = 88.722_839_1;

/// A text that no repetition goes across, in one way that it may be cut into tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The token that it begins in.
    pub head: u32,
    /// The tokens behind it; none where the head has the whole text in it.
    pub tail: Vec<u32>,
}

/// Lowers the logits of the tokens that would make a repeated sequence longer than is allowed. `text` is the newest token
/// last.
pub(super) fn penalize(
    candidates: &mut Candidates<'_>,
    text: &[u32],
    dry: &Dry,
    breakers: &[Breaker],
) {
    let text = &text[text.len().saturating_sub(dry.last_n)..];
    if text.len() <= dry.allowed_length {
        return;
    }
    let limit = free_length(text, breakers);
    if limit < dry.allowed_length {
        return;
    }
    let mut lengths = repeats(text, limit, dry.allowed_length);
    lengths.retain(|&id, _| !breakers.iter().any(|b| b.head == id && b.tail.is_empty()));
    let (base, multiplier) = (f64::from(dry.base), f64::from(dry.multiplier));
    let most = if dry.base > 1.000_001 { (LN_MAX / libm::log(base)) as usize } else { 0 };
    candidates.change(&lengths, |logit, length| {
        let exponent = length - dry.allowed_length;
        let exponent = if most > 0 { exponent.min(most) } else { exponent };
        logit - multiplier * libm::pow(base, exponent as f64)
    });
}

/// How many tokens there are behind the last breaker, which no repetition goes across.
fn free_length(text: &[u32], breakers: &[Breaker]) -> usize {
    for (at, &head) in text.iter().enumerate().rev() {
        let after = &text[at + 1..];
        let fits = |breaker: &&Breaker| breaker.head == head && after.starts_with(&breaker.tail);
        if let Some(longest) = breakers.iter().filter(fits).map(|b| b.tail.len()).max() {
            return after.len() - longest;
        }
    }
    text.len()
}

/// For each token that followed an earlier occurrence of the text's end: the length of the longest such end, at most `limit`;
/// those of fewer than `allowed` tokens are left out.
fn repeats(text: &[u32], limit: usize, allowed: usize) -> BTreeMap<u32, usize> {
    let backwards: Vec<u32> = text.iter().rev().copied().collect();
    let lengths = common_with_start(&backwards);
    let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
    for (distance, length) in lengths.into_iter().enumerate().skip(1) {
        let length = length.min(limit);
        if length >= allowed {
            // The token that came next: one nearer to the end than where the occurrence ends.
            let known = longest.entry(backwards[distance - 1]).or_default();
            *known = length.max(*known);
        }
    }
    longest
}

/// For each position the length of the longest sequence that begins there and that `ids` begins with, too; in linear time by
/// the Z-algorithm (Gusfield, Algorithms on Strings, Trees, and Sequences, 1.4). The first is left at 0.
fn common_with_start(ids: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; ids.len()];
    // The match that reaches the furthest to the right.
    let (mut start, mut end) = (0, 0);
    for at in 1..ids.len() {
        let mut length = if at < end { lengths[at - start].min(end - at) } else { 0 };
        while at + length < ids.len() && ids[length] == ids[at + length] {
            length += 1;
        }
        if at + length > end {
            (start, end) = (at, at + length);
        }
        lengths[at] = length;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        text: &'static [u32],
        n_vocab: usize,
        dry: Dry,
        breakers: Vec<Breaker>,
        /// Probabilities, where all were equally likely before.
        wanted: &'static [f64],
    }

    fn case(
        text: &'static [u32],
        n_vocab: usize,
        wanted: &'static [f64],
        multiplier: f32,
        allowed_length: usize,
    ) -> Case {
        let breakers = Vec::new();
        let dry =
            Dry { multiplier, base: 1.1, allowed_length, last_n: text.len(), breakers: Vec::new() };
        Case { text, n_vocab, dry, breakers, wanted }
    }

    /// The five of llama.cpp's `tests/test-sampling.cpp`.
    #[test]
    fn dry_as_llama_cpp_tests_it() {
        let even = &[0.2; 5];
        let mut broken = case(&[0, 1, 3, 4, 0, 1], 5, even, 1.0, 2);
        broken.breakers.push(Breaker { head: 3, tail: Vec::new() });
        let cases = [
            case(&[0, 1], 4, &[0.25; 4], 1.0, 2),
            case(&[0, 1, 2, 0, 1], 4, &[0.296923, 0.296923, 0.109232, 0.296923], 1.0, 2),
            broken,
            case(&[0, 1, 2, 0, 1], 5, &[0.241818, 0.241818, 0.032727, 0.241818, 0.241818], 2.0, 2),
            case(&[0, 1, 2, 3, 4, 0, 1], 5, even, 1.0, 4),
        ];
        for Case { text, n_vocab, dry, breakers, wanted } in cases {
            let logits = vec![0.0; n_vocab];
            let mut candidates = Candidates::new(&logits);
            penalize(&mut candidates, text, &dry, &breakers);
            let found = super::super::candidates::softmax(&candidates.into_list());
            let near =
                found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-5);
            assert!(near, "{text:?}: {found:?}, wanted {wanted:?}");
        }
    }

    /// The example in llama.cpp's comment: behind `a b c` came `c`, behind a `c` came `b`, behind `b c` came `y`.
    #[test]
    fn each_token_has_the_longest_sequence_that_it_would_repeat() {
        let [a, b, c, y] = [1, 2, 3, 4];
        let text = [a, b, c, c, b, c, y, a, b, c];
        assert_eq!(repeats(&text, 10, 1), BTreeMap::from([(c, 3), (b, 1), (y, 2)]));
        assert_eq!(repeats(&text, 10, 2), BTreeMap::from([(c, 3), (y, 2)]));
        assert_eq!(repeats(&text, 2, 2), BTreeMap::from([(c, 2), (y, 2)]));
    }

    #[test]
    fn a_breaker_of_several_tokens_ends_what_may_repeat() {
        let breaker = |head, tail: &[u32]| Breaker { head, tail: tail.to_vec() };
        let text = [9, 5, 6, 1, 2];
        assert_eq!(free_length(&text, &[]), 5);
        assert_eq!(free_length(&text, &[breaker(5, &[6])]), 2);
        assert_eq!(free_length(&text, &[breaker(5, &[6]), breaker(5, &[6, 1])]), 1);
        assert_eq!(free_length(&text, &[breaker(5, &[7]), breaker(9, &[])]), 4);
        assert_eq!(free_length(&text, &[breaker(2, &[])]), 0);
    }
}
