//! The flags for how messages become a prompt, with llama.cpp's names.

use crate::commands::run::read_file;
use crate::exit::{Code, Failure, say};
use anyhow::Result;
use karat::tokenizer::ChatTemplate;
use karat::{Model, Thoughts};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Flags of the chat template.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Chat template (default: the file's)")]
pub(crate) struct TemplateArgs {
    /// Another template: Jinja, or a name of llama.cpp's, such as chatml, llama3 or gemma
    #[arg(long, value_name = "JINJA|NAME", conflicts_with = "raw", allow_hyphen_values = true)]
    chat_template: Option<String>,
    /// Another template, in a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chat_template", "raw"])]
    chat_template_file: Option<PathBuf>,
    /// Variables for the template, as a JSON object: {"enable_thinking": false}
    #[arg(long, value_name = "JSON", conflicts_with = "raw")]
    chat_template_kwargs: Option<String>,
    /// Whether the model thinks before it answers, where its template has a switch for it (enable_thinking)
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Reasoning::Auto)]
    reasoning: Reasoning,
    /// What becomes of the thought: auto has it apart (dim on a terminal, `reasoning` in --json, nowhere in a pipe), none
    /// leaves it in the answer
    #[arg(long, value_enum, value_name = "HOW", default_value_t = ReasoningFormat::Auto)]
    reasoning_format: ReasoningFormat,
    /// How much the model thinks, where its template asks: low, medium, high (reasoning_effort)
    #[arg(long, value_name = "LEVEL", conflicts_with = "raw")]
    reasoning_effort: Option<String>,
}

/// Whether a model thinks first.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reasoning {
    On,
    Off,
    /// As the template has it.
    #[default]
    Auto,
}

/// What becomes of thoughts; llama.cpp's names.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReasoningFormat {
    #[default]
    #[value(alias = "deepseek")]
    Auto,
    None,
}

impl TemplateArgs {
    /// Where thoughts go.
    pub(crate) fn thoughts(&self) -> Thoughts {
        match self.reasoning_format {
            ReasoningFormat::Auto => Thoughts::Apart,
            ReasoningFormat::None => Thoughts::InText,
        }
    }

    /// The template, with its variables; `None` where nothing is asked for. Says which variables change nothing.
    ///
    /// # Errors
    /// Exit 2 for what is no template and no JSON object, 4 for a file that cannot be read, 7 where there is no template.
    pub(crate) fn template(&self, model: &Model) -> Result<Option<ChatTemplate>> {
        let variables = self.variables()?;
        let template = match (&self.chat_template, &self.chat_template_file) {
            (Some(text), _) => model.template_by(text)?,
            (None, Some(file)) => model.template_by(&read_file(file)?)?,
            (None, None) if variables.is_empty() => return Ok(None),
            (None, None) => model.template()?,
        };
        for name in variables.keys().filter(|name| !template.mentions(name)) {
            say("warning", &format!("{name} changes nothing: the template does not have it"));
        }
        Ok(Some(template.with_variables(variables).map_err(karat::Error::from)?))
    }

    fn variables(&self) -> Result<Map<String, Value>> {
        let mut variables = match &self.chat_template_kwargs {
            None => Map::new(),
            Some(json) => serde_json::from_str(json).map_err(|error| {
                let what = format!("--chat-template-kwargs: {error}");
                Failure::new(Code::Usage, what).hint("{\"enable_thinking\": false}")
            })?,
        };
        if self.reasoning != Reasoning::Auto {
            let on = self.reasoning == Reasoning::On;
            variables.insert("enable_thinking".to_owned(), on.into());
        }
        if let Some(level) = self.reasoning_effort.as_ref().filter(|level| *level != "default") {
            variables.insert("reasoning_effort".to_owned(), level.as_str().into());
        }
        Ok(variables)
    }
}
