//! Ids to text as they come: whole characters only, the rest kept until it is complete.

use super::tokenizer::{Show, Tokenizer};

/// Turns ids into text one by one. What all pushes and the finish return together is the text of the whole.
#[derive(Debug)]
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    show: Show,
    /// The beginning of a character, at most three bytes between pushes.
    pending: Vec<u8>,
}

impl<'t> Decoder<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, show: Show) -> Self {
        Self { tokenizer, show, pending: Vec::new() }
    }

    /// The text that `id` completes; bytes that no character begins with are U+FFFD.
    ///
    /// An id outside of the vocabulary is no text.
    pub fn push(&mut self, id: u32) -> String {
        if self.show == Show::All || !self.tokenizer.is_control(id) {
            self.pending.extend_from_slice(self.tokenizer.piece(id));
        }
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// The end of the text: a character that was never completed becomes U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
