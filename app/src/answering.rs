//! The flags that shape an answer, for `run` and `chat` alike: how the prompt is made, where the answer ends, which form it has,
//! and how it is guessed.

use crate::grammar::GrammarArgs;
use crate::shift::ShiftArgs;
use crate::speculation::SpeculationArgs;
use crate::template::TemplateArgs;
use anyhow::Result;
use karat::tokenizer::ChatTemplate;
use karat::{Config, Grammar, Model, Options, Session};

/// Flags of an answer.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct AnswerArgs {
    /// End where the answer would say this; may be given again
    #[arg(
        short = 'r',
        long,
        visible_alias = "reverse-prompt",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    shift: ShiftArgs,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    grammar: GrammarArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
}

/// What of an answer other flags say.
pub(crate) struct Given<'a> {
    /// As the model is loaded; a draft model is, too.
    pub(crate) options: &'a Options,
    pub(crate) config: &'a Config,
    /// The form, which is read before the model is loaded.
    pub(crate) grammar: Option<Grammar>,
    /// The texts of `--stop`, without escapes.
    pub(crate) stops: Vec<String>,
    /// Without a template nothing is told apart.
    pub(crate) raw: bool,
}

impl AnswerArgs {
    /// The form of the answer, if there is one.
    ///
    /// # Errors
    /// Exit 2 for what is no JSON, 4 for a file that cannot be read.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>> {
        self.grammar.grammar()
    }

    /// The template that is asked for in place of the model's own, or with variables.
    ///
    /// # Errors
    /// Exit 2 for what is no template, 4 for a file that cannot be read, 7 where the model has none.
    pub(crate) fn template(&self, model: &Model) -> Result<Option<ChatTemplate>> {
        self.template.template(model)
    }

    /// Sets a session's answers.
    ///
    /// # Errors
    /// Exit 2 for a grammar that cannot be held and a draft model with another vocabulary, and those of loading it.
    pub(crate) fn set(&self, session: &mut Session, given: Given<'_>) -> Result<()> {
        if !given.raw {
            session.set_thoughts(self.template.thoughts());
        }
        session.set_context_shift(self.shift.keep());
        session.set_stop_texts(given.stops);
        session.set_grammar(given.grammar.as_ref(), self.grammar.at_limit())?;
        let speculation = self.speculation.speculation(given.options, given.config)?;
        Ok(session.set_speculation(speculation.as_ref())?)
    }
}
