//! Texts that end an answer. One may come in several tokens, so what may be its beginning is held back until that is clear.

/// The texts, and what is held back of an answer.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    texts: Vec<String>,
    held: String,
}

/// What becomes of a piece of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// What is said for certain.
    pub(crate) text: String,
    /// The text that ends the answer here; it is no part of it.
    pub(crate) stop: Option<String>,
}

impl Stops {
    /// Empty texts stop nothing.
    pub(crate) fn new(texts: &[String]) -> Self {
        let texts = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { texts, held: String::new() }
    }

    /// The answer goes on with `piece`.
    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        if self.texts.is_empty() {
            return Passed { text: piece.to_owned(), stop: None };
        }
        self.held.push_str(piece);
        // The first that is whole; of two that begin at the same place the longer.
        let found = self.texts.iter().filter_map(|text| Some((self.held.find(text)?, text)));
        let first = found.min_by_key(|(at, text)| (*at, std::cmp::Reverse(text.len())));
        let (end, stop) = match first {
            Some((at, text)) => (at, Some(text.clone())),
            None => (self.held.len() - self.beginning(), None),
        };
        let text = self.held.drain(..end).collect();
        if stop.is_some() {
            self.held.clear();
        }
        Passed { text, stop }
    }

    /// What was held back at the end of the answer.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of what is held that one of the texts may begin with.
    fn beginning(&self) -> usize {
        let held = &self.held;
        let begins = |from: usize| self.texts.iter().any(|text| text.starts_with(&held[from..]));
        let starts = held.char_indices().map(|(at, _)| at);
        starts.filter(|&at| begins(at)).map(|at| held.len() - at).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces that are let through, what ended them, and what was held at the end.
    fn run(texts: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>, String) {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut stops = Stops::new(&texts);
        let mut passed = Vec::new();
        for piece in pieces {
            let Passed { text, stop } = stops.push(piece);
            passed.push(text);
            if stop.is_some() {
                return (passed, stop, stops.finish());
            }
        }
        (passed, None, stops.finish())
    }

    #[test]
    fn a_stop_in_pieces_is_held_back_until_it_is_one() {
        let (passed, stop, held) = run(&["User:"], &["Hi", " Us", "er", ":", " x"]);
        assert_eq!(passed, ["Hi", " ", "", ""]);
        assert_eq!((stop.as_deref(), held.as_str()), (Some("User:"), ""));
        let (passed, stop, held) = run(&["User:"], &["Us", "e it", " Use"]);
        assert_eq!(passed, ["", "Use it", " "]);
        assert_eq!((stop, held.as_str()), (None, "Use"));
    }

    #[test]
    fn the_first_stop_counts_and_of_two_at_a_place_the_longer() {
        let (passed, stop, _) = run(&["b", "cd"], &["acdb"]);
        assert_eq!((passed, stop.as_deref()), (vec!["a".to_owned()], Some("cd")));
        let (passed, stop, _) = run(&["\n", "\n\n"], &["a\n\nb"]);
        assert_eq!((passed, stop.as_deref()), (vec!["a".to_owned()], Some("\n\n")));
        // It cannot be known that more would have come.
        let (passed, stop, _) = run(&["\n", "\n\n"], &["a\n", "\n"]);
        assert_eq!((passed, stop.as_deref()), (vec!["a".to_owned()], Some("\n")));
    }

    #[test]
    fn beginnings_overlap_and_characters_are_whole() {
        let (passed, stop, held) = run(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!((passed.concat(), stop.as_deref()), ("a".to_owned(), Some("aab")));
        assert_eq!(held, "");
        let (passed, _, held) = run(&["\u{e9}\u{e9}"], &["x\u{e9}", "y"]);
        assert_eq!((passed.concat(), held.as_str()), ("x\u{e9}y".to_owned(), ""));
        assert_eq!(run(&[""], &["abc"]).0, ["abc"]);
    }
}
