//! The words of a command line that have no flag: a model, a text, or both.

use crate::exit::{Code, Failure};
use crate::load::one_model;
use anyhow::Result;
use karat::{Config, sources, text};
use std::ffi::OsString;
use std::path::Path;

/// What flags say already.
#[derive(Clone, Copy)]
pub(crate) struct Flags<'a> {
    /// The model, by `-m`.
    pub(crate) model: Option<&'a OsString>,
    /// Whether the text is there, by `-p` or `-f`.
    pub(crate) text: bool,
}

/// The model and the text, as far as they were named.
pub(crate) struct Wanted {
    pub(crate) model: Option<OsString>,
    /// The text among the words; flags are the caller's.
    pub(crate) text: Option<OsString>,
}

/// Tells a model from a text. Of two words the first is the model; a lone one is if it looks like one, and if the text
/// is there already.
///
/// # Errors
/// Exit 2 where two models or two texts were named.
pub(crate) fn sort_out(words: &[OsString], flags: Flags<'_>, config: &Config) -> Result<Wanted> {
    let (model, text) = match words {
        [] => (None, None),
        [word] if flags.text || sources::is_model(word, config)? => (Some(word), None),
        [word] => (None, Some(word)),
        [model, text, ..] => (Some(model), Some(text)),
    };
    if let (Some(text), true) = (text, flags.text) {
        let what = format!("two texts: {}, and that of -p or -f", quoted(text));
        return Err(Failure::new(Code::Usage, what).hint("leave one of them out").into());
    }
    let model = one_model(model.map(OsString::as_os_str), flags.model.map(OsString::as_os_str))?;
    Ok(Wanted { model: model.map(OsString::from), text: text.cloned() })
}

fn quoted(word: &OsString) -> String {
    let shown = text::shortened(&text::path(Path::new(word)), 40);
    format!("\"{shown}\"")
}
