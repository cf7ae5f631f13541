//! Ids to text as they come: whole characters only, the rest kept until it is complete.

use super::vocab::TokenKind;

/// Whether the texts of control tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// They do not.
    Text,
    /// They do.
    All,
}

/// The bytes and the kind of every token.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) bytes: Vec<Box<[u8]>>,
    pub(crate) kinds: Vec<TokenKind>,
}

impl Pieces {
    /// The bytes of token `id`; empty for an id outside of the vocabulary.
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |piece| piece)
    }

    /// Whether `id` is a mark for the model and no text.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(TokenKind::Control | TokenKind::Unknown))
    }
}

/// Turns ids into text one by one. What all pushes and the finish return together is the text of the whole.
#[derive(Debug)]
pub struct Decoder<'t> {
    pieces: &'t Pieces,
    show: Show,
    /// The beginning of a character, at most three bytes between pushes.
    pending: Vec<u8>,
}

impl<'t> Decoder<'t> {
    pub(crate) fn new(pieces: &'t Pieces, show: Show) -> Self {
        Self { pieces, show, pending: Vec::new() }
    }

    /// The text that `id` completes; bytes that no character begins with are U+FFFD.
    ///
    /// An id outside of the vocabulary is no text.
    pub fn push(&mut self, id: u32) -> String {
        if self.show == Show::All || !self.pieces.is_control(id) {
            self.pending.extend_from_slice(self.pieces.get(id));
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
