//! `karat chat`: a conversation. What the model has read already is not computed again.

mod input;
mod slash;
mod talk;

use crate::answering::{AnswerArgs, Given};
use crate::exit::{Code, code, say};
use crate::load::{self, LoadArgs, NamedModel};
use crate::out::{Controls, Out};
use crate::sampling::{Advice, SamplingArgs};
use anyhow::Result;
use input::Input;
use karat::text;
use karat::{Chat, ChatForm, Config, Model};
use talk::Talk;

/// What `karat chat` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) model: NamedModel,
    /// What the model shall be or do
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Most tokens of an answer; -1 goes on until the model ends or the context is full
    #[arg(short = 'n', long, visible_alias = "predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(super) n_predict: i64,
    /// What is said as it is, without the chat template; names of special tokens in it are the tokens
    #[arg(long, conflicts_with = "system")]
    pub(super) raw: bool,
    /// Print times on stderr after each answer
    #[arg(long)]
    pub(super) stats: bool,
    /// Do not escape the model's control characters on a terminal
    #[arg(long)]
    pub(super) raw_output: bool,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) answer: AnswerArgs,
}

/// What to do after a line of input.
enum Next {
    Read,
    Exit,
}

/// Talks until the input ends.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let name = args.model.name()?;
    let grammar = args.answer.grammar()?;
    let mut input = Input::new(config)?;
    let model = load::model(name, &args.load.options(), config)?;
    let params = args.sampling.params(model.recommended_sampling())?;
    let origins = args.sampling.origins(Advice::of(&model));
    let followed = origins.followed(&params);
    if args.stats && !followed.is_empty() {
        say("stats", &followed);
    }
    let mut chat = begin(args, &model)?.with_sampling(params)?;
    let options = args.load.options();
    let stops = args.answer.stop.clone();
    let given = Given { options: &options, config, grammar, stops, raw: args.raw };
    args.answer.set(chat.session_mut(), given)?;
    chat.set_system(args.system.clone());
    chat.session_mut().set_max_tokens(super::run::max_tokens(args.n_predict));
    let controls = if args.raw_output { Controls::Raw } else { Controls::Escaped };
    if input.is_terminal() {
        let info = model.info();
        let (name, backend) = (text::one_line(&info.name), &info.backend);
        say("karat", &format!("{name} on {backend}, {} positions; /help for help", info.n_ctx));
    }
    let mut talk = Talk::new(chat, origins, args.stats);
    let mut out = Out::new(controls);
    converse(&mut talk, &mut input, &mut out)
}

/// The conversation, in the form that is asked for.
fn begin(args: &Args, model: &Model) -> Result<Chat> {
    if let Some(template) = args.answer.template(model)? {
        return Ok(model.chat_by(template)?);
    }
    let form = match (args.raw, model.has_template()) {
        (true, _) => ChatForm::Raw,
        (false, true) => ChatForm::Template,
        (false, false) => {
            let how = "each message begins with `User:` or `Assistant:`; --raw adds nothing";
            say("warning", &format!("the model has no chat template: {how}"));
            ChatForm::Plain
        }
    };
    Ok(model.chat_as(form)?)
}

fn converse(talk: &mut Talk, input: &mut Input, out: &mut Out) -> Result<()> {
    while let Some(text) = input.read()? {
        match respond(talk, &text, out) {
            Ok(Next::Read) => {}
            Ok(Next::Exit) => break,
            Err(error) if input.is_terminal() && can_go_on(code(&error)) => {
                say("error", &format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn respond(talk: &mut Talk, text: &str, out: &mut Out) -> Result<Next> {
    match text.trim() {
        "" => Ok(Next::Read),
        command if command.starts_with('/') => slash::run(talk, command, out),
        _ => talk.say(text, out).map(|()| Next::Read),
    }
}

/// Whether a person at the terminal can do something about it and talk on. A closed stdout is of the kind `Io`, too,
/// but then nobody is at the terminal.
fn can_go_on(code: Code) -> bool {
    match code {
        Code::Usage | Code::Io | Code::Rejected => true,
        Code::Internal | Code::BadFile | Code::DoesNotFit | Code::Device | Code::Interrupted => {
            false
        }
    }
}
