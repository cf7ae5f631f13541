//! The commands of a chat: `/help` and its like.

use super::Next;
use super::talk::Talk;
use crate::exit::{Code, Failure, failure, say};
use crate::out::Out;
use crate::sampling::{self, Shown};
use anyhow::Result;
use karat::Existing;
use std::path::Path;

/// All commands, for completion and help.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("/help", "this list"),
    ("/clear", "forget the conversation"),
    (
        "/save",
        "[--force] FILE: write the conversation to a file; --force replaces one of another conversation",
    ),
    ("/load", "FILE: go on with a saved conversation"),
    ("/system", "[TEXT]: show or set what the model shall be; `-` removes it"),
    ("/stats", "times of the last answer, and how full the context is"),
    (
        "/set",
        "[NAME VALUE]: show all settings, or change one: temp, top-k, seed, n-predict and the other flags' names",
    ),
    ("/exit", "leave (Ctrl-D, too)"),
];

/// Runs a command.
pub(super) fn run(talk: &mut Talk, line: &str, out: &mut Out) -> Result<Next> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match (name, rest) {
        ("/exit" | "/quit" | "/bye", "") => return Ok(Next::Exit),
        ("/help" | "/?", "") => help(out)?,
        ("/clear", "") => {
            talk.chat.clear();
            say("karat", "the conversation is forgotten");
        }
        ("/save", file) if !file.is_empty() => {
            save(talk, file)?;
        }
        ("/load", file) if !file.is_empty() => {
            let n = talk.chat.load(Path::new(file))?;
            talk.file = Some(file.into());
            say("karat", &format!("{n} messages loaded from {file}"));
        }
        ("/system", "") => out.line(talk.chat.system().unwrap_or("(none)"))?,
        ("/system", "-") => talk.chat.set_system(None),
        ("/system", text) => talk.chat.set_system(Some(text.to_owned())),
        ("/stats", "") => out.line(&talk.stats()?)?,
        ("/set", "") => out.text(&settings(talk))?,
        ("/set", setting) => set(talk, setting)?,
        _ => {
            let what = format!("{name}: unknown, or with too few or too many arguments");
            return Err(Failure::new(Code::Usage, what).hint("/help").into());
        }
    }
    Ok(Next::Read)
}

/// A file that holds this conversation already is replaced; another one only by `--force`.
fn save(talk: &mut Talk, words: &str) -> Result<()> {
    let forced = words.strip_prefix("--force").filter(|file| file.starts_with(char::is_whitespace));
    let file = Path::new(forced.unwrap_or(words).trim());
    let existing = Existing::replaced_if(forced.is_some() || talk.file.as_deref() == Some(file));
    let n = talk.chat.save(file, existing)?;
    say("karat", &format!("{n} messages saved to {}", karat::text::path(file)));
    talk.file = Some(file.to_owned());
    Ok(())
}

fn help(out: &mut Out) -> Result<()> {
    for (name, what) in COMMANDS {
        out.line(&format!("{name:<8} {what}"))?;
    }
    out.line("A message goes over several lines with \\ at the end of a line, or between \"\"\" and \"\"\".")?;
    Ok(out.line("Ctrl-C stops an answer.")?)
}

/// Every setting, and who says it.
fn settings(talk: &Talk) -> String {
    let params = talk.chat.session().sampling();
    let mut lines = String::new();
    for Shown { name, value, from } in talk.origins.settings(params) {
        lines.push_str(&format!("{name:<18} {value:<6} {}\n", from.name()));
    }
    let n_predict = talk.chat.session().max_tokens().map_or("-1".to_owned(), |n| n.to_string());
    lines.push_str(&format!("{:<18} {}\n{:<18} {n_predict}\n", "seed", params.seed, "n-predict"));
    lines
}

fn set(talk: &mut Talk, setting: &str) -> Result<()> {
    let (name, value) = setting.split_once([' ', '=']).unwrap_or((setting, ""));
    let value = value.trim();
    if name == "n-predict" {
        let max_tokens = if value == "-1" { None } else { Some(parse(name, value)?) };
        talk.chat.session_mut().set_max_tokens(max_tokens);
        return Ok(());
    }
    let mut params = talk.chat.session().sampling().clone();
    let refused = |what: String| failure(Code::Usage, format!("{name}: {what}"));
    if name == "seed" {
        params.seed = sampling::seed(value).map_err(refused)?.pick();
    } else if let Some(setting) = karat::sampler::Setting::named(name) {
        setting.set(&mut params, value).map_err(refused)?;
        if let Some(why) = setting.idle(&params) {
            say("warning", &format!("{name} changes nothing: {why}"));
        }
    } else {
        return Err(Failure::new(Code::Usage, format!("/set: no setting \"{name}\""))
            .hint("/set lists them")
            .into());
    }
    talk.chat.session_mut().set_sampling(params)?;
    talk.origins.set(name);
    Ok(())
}

fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|_| failure(Code::Usage, format!("{name}: \"{value}\" is no number in range")))
}
