//! The flags for guessing what comes next, with llama.cpp's names.

use crate::load;
use anyhow::Result;
use karat::{Config, Options, Speculation};
use std::ffi::OsString;

/// Flags of speculation.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Speculation (the same text, sooner)")]
pub(crate) struct SpeculationArgs {
    /// Guess by what followed the same tokens before, in the prompt and in the answer: for code, lists and quotes
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "draft_model")]
    spec_type: Option<SpecType>,
    /// Guess by a smaller model with the same vocabulary (-md in llama.cpp)
    #[arg(long, value_name = "MODEL", visible_alias = "model-draft", alias = "spec-draft-model")]
    draft_model: Option<OsString>,
    /// Most tokens of a guess
    #[arg(long, value_name = "N", default_value_t = 16, aliases = ["draft", "draft-n", "spec-draft-n-max"],
          value_parser = load::positive)]
    draft_max: usize,
}

/// llama.cpp's names; all that look the text's own tokens up are one here.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum SpecType {
    None,
    #[value(aliases = ["ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"])]
    Ngram,
}

impl SpeculationArgs {
    /// How to guess, if at all. Loads the draft model, as the model is.
    ///
    /// # Errors
    /// Those of loading.
    pub(crate) fn speculation(
        &self,
        options: &Options,
        config: &Config,
    ) -> Result<Option<Speculation>> {
        let how = match (&self.draft_model, self.spec_type) {
            (Some(name), _) => Speculation::draft(load::model(Some(name), options, config)?),
            (None, Some(SpecType::Ngram)) => Speculation::ngram(),
            (None, Some(SpecType::None) | None) => return Ok(None),
        };
        Ok(Some(how.with_most(self.draft_max)))
    }
}
