//! The flags of llama.cpp: those that karat has by another name are translated, those that change nothing here are
//! accepted with a note, and the others are refused with what to use. None is taken for a cluster of short flags, as
//! `-st` for `-s t`.

use crate::exit::{Code, Failure};
use clap::Command;
use std::ffi::{OsStr, OsString};

/// A command line in karat's own flags.
#[derive(Debug, Default)]
pub(crate) struct Translated {
    /// The words, the program's name first.
    pub(crate) words: Vec<OsString>,
    /// What is to be said of flags without effect.
    pub(crate) notes: Vec<String>,
    /// Flags that were translated: an error that names ours names the one that was typed, too.
    pub(crate) renamed: Vec<Renamed>,
}

/// A flag of llama.cpp's that stands for one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renamed {
    typed: String,
    ours: &'static str,
}

/// What an error about our flags adds for somebody who typed others: ` (-ctk is --cache-type here)`.
pub(crate) fn as_typed(error: &str, renamed: &[Renamed]) -> String {
    let mut added = String::new();
    for Renamed { typed, ours } in renamed {
        let line = format!(" ({typed} is {ours} here)");
        if error.contains(&format!("'{ours}")) && !added.contains(&line) {
            added.push_str(&line);
        }
    }
    added
}

/// What a flag of llama.cpp is here.
#[derive(Clone, Copy)]
enum Meaning {
    /// This flag of karat's; a value follows it as it does there.
    Is(&'static str),
    /// The model, whose name is the value behind this prefix; the first word where a command has no flag for it.
    Model(&'static str),
    /// Accepted: nothing changes, because of this.
    NoEffect(Value, &'static str),
    /// Refused: this is what to use.
    Refused(&'static str),
}

/// Whether a value follows a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    One,
    /// `on`, `off` or `auto`, or none.
    Switch,
}

use Meaning::{Is, Model, NoEffect, Refused};

/// A flag of llama.cpp by its names, in some commands or (where none is named) all that take a model.
struct Foreign {
    names: &'static [&'static str],
    commands: &'static [&'static str],
    meaning: Meaning,
}

const fn foreign(names: &'static [&'static str], meaning: Meaning) -> Foreign {
    Foreign { names, commands: &[], meaning }
}

const fn only(
    commands: &'static [&'static str],
    names: &'static [&'static str],
    meaning: Meaning,
) -> Foreign {
    Foreign { names, commands, meaning }
}

const RUN: &[&str] = &["run"];
const CHAT: &[&str] = &["chat"];
const BENCH: &[&str] = &["bench"];
/// Commands whose first word is a model, and which have no flag for it.
const FIRST: &[&str] = &["pull", "rm", "quantize"];
const PERPLEXITY: &[&str] = &["perplexity"];
const ALWAYS: &str = "that is how karat does it";

const FOREIGN: &[Foreign] = &[
    foreign(&["-hf", "-hfr", "--hf", "--hf-repo"], Model("hf:")),
    foreign(
        &["-hff", "--hf-file"],
        Refused("name it behind the repository: hf:owner/repo/file.gguf"),
    ),
    foreign(&["-hft", "--hf-token"], Refused("HF_TOKEN in the environment")),
    foreign(&["-mu", "--model-url"], Model("")),
    foreign(&["-ngl", "--ngl", "--n-gpu-layers"], Is("--gpu-layers")),
    foreign(&["-dev", "-mg", "--main-gpu"], Is("--device")),
    foreign(&["--list-devices"], Refused("karat devices")),
    foreign(&["-ub", "--ubatch-size"], Is("--batch-size")),
    foreign(&["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"], Is("--cache-type")),
    foreign(
        &["-tb", "--threads-batch"],
        NoEffect(Value::One, "prompts are read with the threads of -t"),
    ),
    only(BENCH, &["-pg"], Refused("-p and -n, which are measured one by one")),
    only(BENCH, &["-oe", "--output-err"], Refused("-o, and the shell's > for another place")),
    only(
        BENCH,
        &["--progress", "-v", "--verbose"],
        NoEffect(Value::None, "progress is shown where stderr is a terminal"),
    ),
    only(BENCH, &["-mmp"], NoEffect(Value::One, "files are read unless --mmap asks for a map")),
    only(
        BENCH,
        &["-C", "--cpu-mask", "--cpu-strict", "--poll", "--prio", "--delay"],
        NoEffect(Value::One, "threads are placed and woken by the system"),
    ),
    foreign(
        &["-fa", "--flash-attn"],
        NoEffect(Value::Switch, "karat never holds a matrix of scores, on any backend"),
    ),
    foreign(&["--no-mmap"], NoEffect(Value::None, "files are read unless --mmap asks for a map")),
    foreign(
        &["--mlock"],
        NoEffect(Value::None, "weights are in memory of karat's own, which is not locked"),
    ),
    foreign(&["-co", "--color"], NoEffect(Value::Switch, "answers have no colours")),
    foreign(&["--jinja"], NoEffect(Value::None, ALWAYS)),
    foreign(
        &["--warmup", "--no-warmup"],
        NoEffect(Value::None, "a model is ready when it is loaded"),
    ),
    foreign(&["--no-display-prompt", "--simple-io"], NoEffect(Value::None, ALWAYS)),
    foreign(&["--log-disable", "--no-perf"], NoEffect(Value::None, "karat keeps no log")),
    foreign(&["--numa"], NoEffect(Value::One, "threads are placed by the system")),
    foreign(
        &["-sm", "--split-mode", "-ts", "--tensor-split"],
        Refused("--gpu-layers: a model is on one GPU and the CPU"),
    ),
    foreign(
        &["-nkvo", "--no-kv-offload"],
        Refused("--gpu-layers: the cache of a layer is where the layer is"),
    ),
    foreign(&["-mm", "--mmproj"], Refused("a text model: karat reads no pictures")),
    foreign(&["--lora", "--lora-scaled"], Refused("a model that the adapter is merged into")),
    only(RUN, &["-rea"], Is("--reasoning")),
    only(CHAT, &["-rea"], Is("--reasoning")),
    foreign(&["--think"], Refused("--reasoning on, off or auto")),
    only(RUN, &["-md"], Is("--draft-model")),
    only(CHAT, &["-md"], Is("--draft-model")),
    foreign(
        &["--no-context-shift"],
        NoEffect(
            Value::None,
            "a full context ends an answer unless --context-shift says otherwise",
        ),
    ),
    only(RUN, &["-jf"], Is("--json-schema-file")),
    only(CHAT, &["-jf"], Is("--json-schema-file")),
    foreign(&["--temperature"], Is("--temp")),
    only(RUN, &["--max-tokens", "--n-tokens"], Is("--n-predict")),
    only(CHAT, &["--max-tokens", "--n-tokens"], Is("--n-predict")),
    only(RUN, &["-v", "--verbose"], Is("--stats")),
    only(CHAT, &["-v", "--verbose"], Is("--stats")),
    foreign(&["--stream"], NoEffect(Value::None, ALWAYS)),
    foreign(
        &["--keepalive"],
        NoEffect(Value::One, "a model is in memory only while a command uses it"),
    ),
    only(RUN, &["-sys", "--system-prompt"], Is("--system")),
    only(CHAT, &["-sys", "--system-prompt"], Is("--system")),
    only(
        RUN,
        &["-st", "--single-turn"],
        NoEffect(Value::None, "karat run gives one answer and ends"),
    ),
    only(CHAT, &["-st", "--single-turn"], Refused("karat run, which gives one answer and ends")),
    only(RUN, &["-cnv", "--conversation", "-i", "--interactive"], Refused("karat chat")),
    only(CHAT, &["-cnv", "--conversation", "-i", "--interactive"], NoEffect(Value::None, ALWAYS)),
    only(RUN, &["-no-cnv", "--no-conversation"], Is("--raw")),
    only(CHAT, &["-no-cnv", "--no-conversation"], Refused("karat run --raw")),
    only(
        RUN,
        &["--no-escape"],
        NoEffect(Value::None, "a backslash is one unless -e says otherwise"),
    ),
    only(CHAT, &["-e", "--escape"], Refused("\\ at the end of a line, or \"\"\" around several")),
    only(FIRST, &["-m", "--model"], Model("")),
    only(
        PERPLEXITY,
        &["--ppl-output-type"],
        Refused("--json, which has the estimate after each chunk"),
    ),
    only(
        PERPLEXITY,
        &["-np", "--parallel"],
        NoEffect(Value::One, "as many chunks are read together as fit into -b"),
    ),
    only(PERPLEXITY, &["-s", "--seed"], NoEffect(Value::One, "nothing is drawn by lot")),
    only(
        PERPLEXITY,
        &["--winogrande", "--winogrande-tasks", "--multiple-choice", "--multiple-choice-tasks"],
        Refused("--hellaswag, the one set of tasks that karat scores"),
    ),
];

/// Commands that take a model and the flags above.
const COMMANDS: &[&str] = &[
    "run",
    "chat",
    "bench",
    "perplexity",
    "tokenize",
    "detokenize",
    "inspect",
    "why",
    "trace",
    "check",
];

/// The command line in karat's own flags.
///
/// # Errors
/// Exit 2 for a flag that is refused, and for one of several letters that nobody knows.
pub(crate) fn translate(cli: &Command, words: Vec<OsString>) -> Result<Translated, Failure> {
    let named = |word: &OsString| cli.find_subcommand(word.to_str().unwrap_or_default());
    let Some(at) = words.iter().skip(1).position(|word| named(word).is_some()) else {
        return Ok(Translated { words, ..Translated::default() });
    };
    let mut rest = words.into_iter();
    let mut translated = Translated::default();
    translated.words.extend(rest.by_ref().take(at + 2));
    let Some(command) = translated.words.last().and_then(named) else { return Ok(translated) };
    let start = translated.words.len();
    let mut translator = Translator { command, translated, start };
    let rest: Vec<OsString> = rest.collect();
    let mut rest = rest.as_slice();
    while let [word, after @ ..] = rest {
        if word == "--" {
            break;
        }
        rest = translator.word(word, after)?;
    }
    translator.translated.words.extend_from_slice(rest);
    translator.settle()
}

/// What follows a flag.
#[derive(Clone, Copy)]
struct Follows<'w> {
    /// A value in the same word: `--flag=value`, `-ngl99`.
    attached: Option<&'w str>,
    after: &'w [OsString],
}

impl<'w> Follows<'w> {
    /// The value, if there is one, and what is behind it.
    fn value(self) -> (Option<OsString>, &'w [OsString]) {
        match (self.attached, self.after) {
            (Some(value), after) => (Some(value.into()), after),
            (None, [value, after @ ..]) => (Some(value.clone()), after),
            (None, []) => (None, &[]),
        }
    }
}

struct Translator<'c> {
    command: &'c Command,
    translated: Translated,
    /// Where the command's own words begin.
    start: usize,
}

impl Translator<'_> {
    /// Takes a word and what belongs to it; returns what is left.
    fn word<'w>(
        &mut self,
        word: &'w OsStr,
        after: &'w [OsString],
    ) -> Result<&'w [OsString], Failure> {
        let Some(text) = word.to_str().filter(|text| text.starts_with('-') && text.len() > 1)
        else {
            self.translated.words.push(word.to_owned());
            return Ok(after);
        };
        if let Some(takes_value) = self.own(text) {
            self.translated.words.push(word.to_owned());
            let n = usize::from(takes_value).min(after.len());
            self.translated.words.extend_from_slice(&after[..n]);
            return Ok(&after[n..]);
        }
        let (name, attached) = split(text);
        if let Some(meaning) = self.meaning(name) {
            return self.apply(name, meaning, Follows { attached, after });
        }
        let letters = |text: &str| {
            let mut letters = text.chars().skip(1);
            letters.by_ref().take(2).filter(char::is_ascii_alphabetic).count() == 2
        };
        if !text.starts_with("--") && letters(text) {
            let short: String = text.chars().take(2).collect();
            let failure = Failure::new(Code::Usage, format!("{text}: unknown flag"));
            let attached = || format!("{short} {}, with a space", &text[2..]);
            let hint = if self.own(&short) == Some(true) {
                attached()
            } else {
                format!("karat {} --help", self.command.get_name())
            };
            return Err(failure.hint(hint));
        }
        self.translated.words.push(word.to_owned());
        Ok(after)
    }

    /// Whether the command has this very flag, and if so whether the next word is its value.
    fn own(&self, flag: &str) -> Option<bool> {
        let mut args = self.command.get_arguments();
        let named = |arg: &&clap::Arg| match flag.strip_prefix("--") {
            Some(long) => {
                arg.get_long() == Some(long)
                    || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
            }
            None => arg.get_short().is_some_and(|short| flag == format!("-{short}")),
        };
        let arg = args.find(named)?;
        let least = arg.get_num_args().map_or(1, |n| n.min_values());
        Some(arg.get_action().takes_values() && least > 0)
    }

    fn meaning(&self, name: &str) -> Option<Meaning> {
        let command = self.command.get_name();
        let here = |foreign: &&Foreign| {
            let fits = foreign.commands.is_empty() || foreign.commands.contains(&command);
            fits && foreign.names.contains(&name)
        };
        let found = FOREIGN.iter().find(here)?.meaning;
        // Other commands take a model's name, and nothing else of these.
        (COMMANDS.contains(&command) || matches!(found, Model(_))).then_some(found)
    }

    /// Translates a flag; returns what is left behind it and its value.
    fn apply<'w>(
        &mut self,
        name: &str,
        meaning: Meaning,
        follows: Follows<'w>,
    ) -> Result<&'w [OsString], Failure> {
        let refused = |what: String| Failure::new(Code::Usage, format!("{name}: {what}"));
        match meaning {
            Is(flag) => {
                let Some(takes_value) = self.own(flag) else {
                    let command = self.command.get_name();
                    return Err(refused(format!("karat {command} has no {flag}")));
                };
                self.translated.words.push(flag.into());
                let typed = name.to_owned();
                self.translated.renamed.push(Renamed { typed, ours: flag });
                if !takes_value {
                    return Ok(follows.after);
                }
                let (value, after) = follows.value();
                self.translated.words.extend(value);
                Ok(after)
            }
            Model(prefix) => {
                let (Some(value), after) = follows.value() else {
                    return Err(refused("a value is missing".to_owned()));
                };
                let mut source = OsString::from(prefix);
                source.push(value);
                if self.own("--model").is_some() {
                    self.translated.words.extend(["--model".into(), source]);
                } else {
                    self.translated.words.insert(self.start, source);
                }
                Ok(after)
            }
            NoEffect(value, why) => {
                self.translated.notes.push(format!("{name} changes nothing: {why}"));
                let (next, after) = follows.value();
                let taken = match value {
                    Value::None => false,
                    Value::One => true,
                    Value::Switch => next.is_some_and(|next| is_switch(&next)),
                };
                Ok(if taken { after } else { follows.after })
            }
            Refused(hint) => Err(refused("not a flag of karat's".to_owned()).hint(hint)),
        }
    }

    /// What llama.cpp has two flags for and karat one.
    fn settle(mut self) -> Result<Translated, Failure> {
        let types = self.values(&["--cache-type"]);
        if types.windows(2).any(|two| two[0] != two[1]) {
            let what = "-ctk and -ctv: karat has one type for keys and values";
            return Err(Failure::new(Code::Usage, what).hint("--cache-type f16, or f32"));
        }
        self.keep_one(&["--cache-type"], types.last().cloned());
        if self.command.get_name() == "bench" {
            self.settle_lists();
            return Ok(self.translated);
        }
        let sizes = self.values(&["--batch-size", "-b"]);
        let number = |size: &OsString| size.to_str()?.parse::<u64>().ok();
        if let (2.., Some(least)) = (sizes.len(), sizes.iter().filter_map(number).min()) {
            self.keep_one(&["--batch-size", "-b"], Some(least.to_string().into()));
            let note = format!("-b and -ub are one here: {least} tokens of a prompt at once");
            self.translated.notes.push(note);
        }
        Ok(self.translated)
    }

    /// `karat bench` takes lists: of each pair of a batch and a smaller one the smaller is what counts.
    fn settle_lists(&mut self) {
        let list = |values: Vec<OsString>| -> Option<Vec<u64>> {
            let all = values.iter().map(|value| value.to_str());
            let all: Option<Vec<&str>> = all.collect();
            all?.iter().flat_map(|value| value.split(',')).map(|n| n.parse().ok()).collect()
        };
        let (batch, ubatch) = (list(self.values(&["-b"])), list(self.values(&["--batch-size"])));
        let (Some(batch), Some(ubatch)) = (batch, ubatch) else { return };
        if batch.is_empty() || ubatch.is_empty() {
            return;
        }
        let mut both: Vec<u64> =
            batch.iter().flat_map(|&b| ubatch.iter().map(move |&ub| b.min(ub))).collect();
        both.sort_unstable();
        both.dedup();
        let both = both.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let note = format!("-b and -ub are one here: {both} tokens of a prompt at once");
        self.keep_one(&["--batch-size", "-b"], Some(both.into()));
        self.translated.notes.push(note);
    }

    fn values(&self, names: &[&str]) -> Vec<OsString> {
        let words = &self.translated.words;
        let pairs = words.windows(2).filter(|pair| names.iter().any(|name| pair[0] == *name));
        pairs.map(|pair| pair[1].clone()).collect()
    }

    /// One flag in place of several.
    fn keep_one(&mut self, names: &[&str], value: Option<OsString>) {
        let Some(value) = value else { return };
        let (mut kept, mut words) =
            (Vec::new(), std::mem::take(&mut self.translated.words).into_iter());
        while let Some(word) = words.next() {
            if names.iter().any(|name| word == *name) {
                words.next();
            } else {
                kept.push(word);
            }
        }
        let end = kept.iter().position(|word| word == "--").unwrap_or(kept.len());
        kept.splice(end..end, [OsString::from(names[0]), value]);
        self.translated.words = kept;
    }
}

/// `--flag=value`, and `-ngl99`.
fn split(text: &str) -> (&str, Option<&str>) {
    if text.starts_with("--") {
        return match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
    }
    match text.find(|c: char| c.is_ascii_digit()) {
        Some(at) if at > 2 => (&text[..at], Some(&text[at..])),
        Some(_) | None => (text, None),
    }
}

fn is_switch(word: &OsStr) -> bool {
    let switches = ["on", "off", "auto", "0", "1", "true", "false"];
    // llama-bench takes several, with commas.
    word.to_str().is_some_and(|word| word.split(',').all(|part| switches.contains(&part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Result<(String, Vec<String>), String> {
        let words = line.split(' ').map(OsString::from).collect();
        let translated = translate(&crate::Cli::command(), words).map_err(|e| e.to_string())?;
        let words = translated.words.join(OsStr::new(" "));
        Ok((words.into_string().unwrap_or_default(), translated.notes))
    }

    fn becomes(line: &str, expected: &str) {
        assert_eq!(words(line).map(|(words, _)| words).as_deref(), Ok(expected), "{line}");
    }

    #[test]
    fn other_names() {
        becomes("karat run -hf a/b hi", "karat run --model hf:a/b hi");
        becomes("karat run --hf-repo=a/b hi", "karat run --model hf:a/b hi");
        becomes("karat pull -hf a/b", "karat pull hf:a/b");
        becomes("karat pull --force -m a", "karat pull a --force");
        becomes("karat rm --yes --model=a", "karat rm a --yes");
        becomes("karat quantize out.gguf Q8_0 -m in.gguf", "karat quantize in.gguf out.gguf Q8_0");
        becomes("karat inspect -m a", "karat inspect -m a");
        becomes("karat chat -mu https://x/y.gguf", "karat chat --model https://x/y.gguf");
        becomes("karat run -ngl99 hi", "karat run --gpu-layers 99 hi");
        becomes("karat run -ngl 99 hi", "karat run --gpu-layers 99 hi");
        becomes("karat run --n-gpu-layers 0 hi", "karat run --gpu-layers 0 hi");
        becomes("karat bench -ngl 9", "karat bench --gpu-layers 9");
        becomes("karat bench -b 8,16 -t 1,2", "karat bench -b 8,16 -t 1,2");
        becomes("karat bench -b 128,1024 -ub 512 m", "karat bench m --batch-size 128,512");
        becomes("karat bench -b 128 -b 1024", "karat bench -b 128 -b 1024");
        becomes("karat bench -fa 0,1 -mmp 0 m", "karat bench m");
        becomes("karat run -sys brief hi", "karat run --system brief hi");
        becomes("karat run -no-cnv hi", "karat run --raw hi");
        becomes("karat run -ctk f32 -ctv f32 hi", "karat run hi --cache-type f32");
        becomes("karat run -b 2048 -ub 512 hi", "karat run hi --batch-size 512");
        becomes("karat run -ub 64 hi", "karat run --batch-size 64 hi");
        becomes("karat run -jf s.json -md d.gguf -rea off hi", {
            "karat run --json-schema-file s.json --draft-model d.gguf --reasoning off hi"
        });
        becomes("karat run --verbose --max-tokens 5 hi", "karat run --stats --n-predict 5 hi");
    }

    #[test]
    fn what_is_not_ours_to_read_stays() {
        for line in [
            "karat run -p -st -n5 -t4 -s-1 hi",
            "karat run -n -1 --temp -1 -e hi",
            "karat run -- -st -hf",
            "karat bench -r 2 -d 0 -o csv",
            "karat",
            "karat --version",
            "karat list",
        ] {
            becomes(line, line);
        }
    }

    #[test]
    fn without_effect_and_said_so() {
        for flags in [
            "-fa",
            "-fa on",
            "--flash-attn=off",
            "-tb 4",
            "--no-mmap",
            "--mlock",
            "--color",
            "-st",
            "--jinja",
            "--no-warmup",
        ] {
            let (words, notes) = words(&format!("karat run {flags} hi")).unwrap_or_default();
            assert_eq!(words, "karat run hi", "{flags}");
            assert_eq!(notes.len(), 1, "{flags}");
        }
    }

    #[test]
    fn refused_with_what_to_use() {
        for (line, part) in [
            ("karat run -cnv", "karat chat"),
            ("karat chat -st", "karat run"),
            ("karat run -ctk f16 -ctv f32 hi", "one type"),
            ("karat run -hft token hi", "HF_TOKEN"),
            ("karat tokenize -sys x", "unknown flag"),
            ("karat tokenize -ngl 9 x", "has no --gpu-layers"),
            ("karat run -mfoo.gguf hi", "-m foo.gguf, with a space"),
            ("karat run -xyz hi", "-xyz: unknown flag"),
            ("karat run -hf", "a value is missing"),
            ("karat run --think hi", "--reasoning on, off or auto"),
            ("karat run --lora x hi", "a model that the adapter is merged into"),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
