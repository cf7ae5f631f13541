//! The conversation at the terminal: what is printed of it.

use crate::exit::say;
use crate::interrupt::{self, Answering};
use crate::out::Out;
use crate::sampling::Origins;
use anyhow::Result;
use karat::{Chat, Finish, Timings};
use std::path::PathBuf;

/// A conversation with a model.
pub(super) struct Talk {
    /// What was said, and its settings.
    pub(super) chat: Chat,
    /// Where the conversation was saved or loaded last.
    pub(super) file: Option<PathBuf>,
    /// Who says how tokens are chosen.
    pub(super) origins: Origins,
    last: Option<Timings>,
    /// Whether times are printed after each answer.
    stats: bool,
}

impl Talk {
    /// Nothing was said yet.
    pub(super) fn new(chat: Chat, origins: Origins, stats: bool) -> Self {
        Self { chat: chat.stop_with(interrupt::stop()), file: None, origins, last: None, stats }
    }

    /// Says `text` and prints the answer as it comes. Ctrl-C stops the answer; what there is of it counts as said.
    pub(super) fn say(&mut self, text: &str, out: &mut Out) -> Result<()> {
        let answering = Answering::begin();
        let mut stream = self.chat.send(text)?;
        for piece in stream.by_ref() {
            let piece = piece?;
            out.said(&piece.thought, &piece.text)?;
        }
        out.end_thought()?;
        let answer = stream.answer()?;
        drop(answering);
        out.line("")?;
        let timings = answer.timings();
        self.last = Some(timings);
        if self.stats {
            say("stats", &timings.to_string());
        }
        if answer.unclosed {
            say("warning", crate::commands::run::UNCLOSED);
        }
        match answer.finish {
            Finish::Stopped => say("karat", "stopped"),
            Finish::ContextFull => say("warning", "the context is full; /clear begins anew"),
            Finish::EndToken(_) | Finish::StopText | Finish::Complete | Finish::MaxTokens => {}
        }
        Ok(())
    }

    /// Times of the last answer, how full the context is, and which settings are recommended ones.
    pub(super) fn stats(&self) -> Result<String> {
        let sequence = self.chat.session().sequence();
        let (used, info) = (sequence.ids()?.len(), sequence.model().info());
        let last = self.last.map_or("no answer yet".to_owned(), |timings| timings.to_string());
        let followed = self.origins.followed(self.chat.session().sampling());
        let followed = if followed.is_empty() { followed } else { format!("; {followed}") };
        Ok(format!("{last}; {used} of {} positions used{followed}; {}", info.n_ctx, info.backend))
    }
}
