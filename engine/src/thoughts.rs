//! What a model thinks before it answers, told apart from the answer.

/// Where thoughts go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thoughts {
    /// They are a part of the text, marks and all.
    #[default]
    InText,
    /// They stand by themselves: the text is the answer.
    Apart,
}

/// How a thought is marked.
struct Marks {
    begin: &'static str,
    end: &'static str,
}

const MARKS: [Marks; 3] = [
    // Qwen3, DeepSeek-R1, SmolLM3, Granite and most others.
    Marks { begin: "<think>", end: "</think>" },
    // Magistral.
    Marks { begin: "[THINK]", end: "[/THINK]" },
    // gpt-oss: a message in the channel for thoughts, and one in the final channel.
    Marks {
        begin: "<|channel|>analysis<|message|>",
        end: "<|start|>assistant<|channel|>final<|message|>",
    },
];
/// What gpt-oss begins with where it answers without a thought.
const NO_THOUGHT: &str = "<|channel|>final<|message|>";

/// What of a piece is thought and what is answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) thought: String,
    pub(crate) text: String,
}

/// Tells thoughts apart as an answer comes. Only what an answer begins with is a thought: a mark further on is text.
#[derive(Debug)]
pub(crate) struct Splitter {
    state: State,
    /// What may be the beginning of a mark, or white space that may be the end of a part.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    Start,
    /// Before a thought with this end: white space is no part of it.
    Before(&'static str),
    /// In it.
    Thought(&'static str),
    /// Behind a thought: white space is no part of the answer.
    Between,
    Answer,
}

impl Splitter {
    /// For the answer to a prompt: many templates end it with the beginning of a thought.
    pub(crate) fn new(thoughts: Thoughts, prompt_end: &str) -> Self {
        let begun = MARKS.iter().find(|marks| prompt_end.trim_end().ends_with(marks.begin));
        let state = match (thoughts, begun) {
            (Thoughts::InText, _) => State::Answer,
            (Thoughts::Apart, Some(marks)) => State::Before(marks.end),
            (Thoughts::Apart, None) => State::Start,
        };
        Self { state, held: String::new() }
    }

    /// The answer goes on with `piece`.
    pub(crate) fn push(&mut self, piece: &str) -> Parts {
        let mut parts = Parts::default();
        self.held.push_str(piece);
        while self.step(&mut parts) {}
        parts
    }

    /// The end of the answer: what was held back is what it seems.
    pub(crate) fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thought(_) => Parts { thought: held.trim_end().to_owned(), text: String::new() },
            State::Start | State::Answer => Parts { thought: String::new(), text: held },
            State::Before(_) | State::Between => Parts::default(),
        }
    }

    /// Moves what is clear out of `held`; whether the state has changed, so that more may be clear.
    fn step(&mut self, parts: &mut Parts) -> bool {
        match self.state {
            State::Start => self.begin(),
            State::Thought(end) => self.think(parts, end),
            State::Before(end) => self.past_space(State::Thought(end)),
            State::Between => self.past_space(State::Answer),
            State::Answer => {
                parts.text.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    /// Goes on to `next` where something but white space has come.
    fn past_space(&mut self, next: State) -> bool {
        self.held.drain(..self.held.len() - self.held.trim_start().len());
        if self.held.is_empty() {
            return false;
        }
        self.state = next;
        true
    }

    fn begin(&mut self) -> bool {
        let seen = self.held.trim_start();
        let begins = MARKS.iter().find(|marks| seen.starts_with(marks.begin));
        let (mark, next) = match begins {
            Some(marks) => (marks.begin, State::Before(marks.end)),
            None if seen.starts_with(NO_THOUGHT) => (NO_THOUGHT, State::Between),
            None => {
                let may_be = |mark: &str| mark.starts_with(seen);
                if MARKS.iter().any(|marks| may_be(marks.begin)) || may_be(NO_THOUGHT) {
                    return false;
                }
                self.state = State::Answer;
                return true;
            }
        };
        let cut = self.held.len() - seen.len() + mark.len();
        self.held.drain(..cut);
        self.state = next;
        true
    }

    fn think(&mut self, parts: &mut Parts, end: &'static str) -> bool {
        if let Some(at) = self.held.find(end) {
            parts.thought.push_str(self.held[..at].trim_end());
            self.held.drain(..at + end.len());
            self.state = State::Between;
            return true;
        }
        // The longest end that the mark, behind white space, may begin with.
        let is_clear = |at: usize| {
            let rest = self.held[at..].trim_start();
            !end.starts_with(rest)
        };
        let starts = self.held.char_indices().map(|(at, _)| at);
        let clear = starts.filter(|&at| !is_clear(at)).min().unwrap_or(self.held.len());
        parts.thought.extend(self.held.drain(..clear));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thought and text, however the whole is cut.
    fn split(prompt_end: &str, whole: &str) -> (String, String) {
        let mut all = Vec::new();
        for size in [1, 2, 3, 7, whole.len().max(1)] {
            let mut splitter = Splitter::new(Thoughts::Apart, prompt_end);
            let chars: Vec<char> = whole.chars().collect();
            let mut found = Parts::default();
            let mut add = |parts: Parts| {
                found.thought += &parts.thought;
                found.text += &parts.text;
            };
            for piece in chars.chunks(size) {
                add(splitter.push(&piece.iter().collect::<String>()));
            }
            add(splitter.finish());
            all.push((found.thought, found.text));
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{whole:?}: {all:?}");
        all.remove(0)
    }

    fn pair(thought: &str, text: &str) -> (String, String) {
        (thought.to_owned(), text.to_owned())
    }

    #[test]
    fn thoughts_of_every_family() {
        for (whole, thought, text) in [
            ("<think>\nOne and one.\n</think>\n\nTwo.", "One and one.", "Two."),
            ("\n<think>a\n\nb</think>c", "a\n\nb", "c"),
            ("<think>\n\n</think>\n\nTwo.", "", "Two."),
            ("[THINK]hm[/THINK]Two.", "hm", "Two."),
            (
                "<|channel|>analysis<|message|>The user asks.<|start|>assistant<|channel|>final<|message|>Two.",
                "The user asks.",
                "Two.",
            ),
            ("<|channel|>final<|message|>Two.", "", "Two."),
            ("Two.", "", "Two."),
            (" Two <think>no</think>.", "", " Two <think>no</think>."),
            ("<thing>", "", "<thing>"),
            ("", "", ""),
            ("<thi", "", "<thi"),
        ] {
            assert_eq!(split("", whole), pair(thought, text), "{whole:?}");
        }
    }

    #[test]
    fn a_thought_may_begin_in_the_prompt_and_never_end() {
        let prompt = "<|im_start|>assistant\n<think>\n";
        assert_eq!(split(prompt, "One.\n</think>\n\nTwo."), pair("One.", "Two."));
        assert_eq!(split(prompt, "One a < b </th \n"), pair("One a < b </th", ""));
        assert_eq!(split("", "<think>\nOne"), pair("One", ""));
    }

    #[test]
    fn in_the_text_everything_is_text() {
        let mut splitter = Splitter::new(Thoughts::InText, "<think>");
        let whole = "<think>a</think> b";
        assert_eq!(splitter.push(whole).text, whole);
    }
}
