//! The flags for the form of an answer, with llama.cpp's names, and ollama's `--format`.

use crate::commands::run::read_file;
use anyhow::Result;
use karat::{AtLimit, Grammar};
use std::path::PathBuf;

/// Flags for the form of an answer.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Form of the answer")]
pub(crate) struct GrammarArgs {
    #[command(flatten)]
    form: FormArgs,
    /// Close an answer that comes to its most tokens, so that it can be read: `{"name": "Par` becomes `{"name": "Par"}`
    #[arg(long, requires = "form")]
    close: bool,
}

/// The form: one of these.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(id = "form", multiple = false)]
struct FormArgs {
    /// The answer is a JSON text that this schema describes; {} is any
    #[arg(short = 'j', long, value_name = "SCHEMA", allow_hyphen_values = true)]
    json_schema: Option<String>,
    /// The same, with the schema in a file (-jf in llama.cpp)
    #[arg(long, value_name = "FILE")]
    json_schema_file: Option<PathBuf>,
    /// json: the answer is a JSON object; or a schema
    #[arg(long, value_name = "json|SCHEMA")]
    format: Option<String>,
    /// A grammar in llama.cpp's GBNF, or in Lark behind a line with %llguidance {}
    #[arg(long, value_name = "GRAMMAR")]
    grammar: Option<String>,
    /// The same, in a file
    #[arg(long, value_name = "FILE")]
    grammar_file: Option<PathBuf>,
    /// A regular expression for the whole answer
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    regex: Option<String>,
}

impl GrammarArgs {
    /// The form, if there is one.
    ///
    /// # Errors
    /// Exit 2 for what is no JSON, 4 for a file that cannot be read.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>> {
        self.form.grammar()
    }

    /// What becomes of an answer that comes to its most tokens.
    pub(crate) fn at_limit(&self) -> AtLimit {
        if self.close { AtLimit::Close } else { AtLimit::Cut }
    }
}

impl FormArgs {
    fn grammar(&self) -> Result<Option<Grammar>> {
        if let Some(schema) = &self.json_schema {
            return Ok(Some(Grammar::json_schema(schema)?));
        }
        if let Some(file) = &self.json_schema_file {
            return Ok(Some(Grammar::json_schema(&read_file(file)?)?));
        }
        if let Some(format) = &self.format {
            return Ok(Some(if format == "json" {
                Grammar::json()
            } else {
                Grammar::json_schema(format)?
            }));
        }
        if let Some(text) = &self.grammar {
            return Ok(Some(Grammar::from_text(text)));
        }
        if let Some(file) = &self.grammar_file {
            return Ok(Some(Grammar::from_text(&read_file(file)?)));
        }
        Ok(self.regex.clone().map(Grammar::Regex))
    }
}
