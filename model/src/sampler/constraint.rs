//! Which tokens a text may go on with, said from outside.

/// Says after each token of a text which ones may come next.
pub trait Constraint: Send {
    /// Another text begins.
    fn begin(&mut self);

    /// The tokens that may come next; the model's end tokens among them where the text may end here.
    ///
    /// # Errors
    /// Where it has come to its bounds, or a token was not one of these.
    fn allowed(&mut self) -> Result<Allowed, String>;

    /// The text goes on with this token.
    fn accept(&mut self, id: u32);

    /// Whether the text is whole: nothing may come next but its end.
    fn is_complete(&self) -> bool;

    /// Tokens that make the text whole where it comes to its length; none where it is left as it is.
    ///
    /// # Errors
    /// No short end is found.
    fn closing(&mut self) -> Result<Vec<u32>, NoEnd>;
}

/// No short end of the text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEnd;

/// A set of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    words: Vec<u32>,
}

impl Allowed {
    /// A bit for each of `n_vocab` ids, from the lowest on in words of 32; words that are missing allow none.
    pub fn from_words(mut words: Vec<u32>, n_vocab: usize) -> Self {
        words.resize(n_vocab.div_ceil(32), 0);
        if let (Some(last), used @ 1..) = (words.last_mut(), n_vocab % 32) {
            *last &= (1 << used) - 1;
        }
        Self { words }
    }

    /// Whether `id` is allowed.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32);
        word.is_some_and(|word| word >> (id % 32) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_for_each_id_and_none_beyond() {
        let allowed = Allowed::from_words(vec![0b101, u32::MAX], 34);
        let ids: Vec<u32> = (0..100).filter(|id| allowed.contains(*id)).collect();
        assert_eq!(ids, [0, 2, 32, 33]);
        assert_eq!(Allowed::from_words(Vec::new(), 32), Allowed::from_words(vec![0], 32));
    }
}
