//! The flags that choose the next token, with llama.cpp's names and defaults. Where a flag is not given, what the model's file
//! recommends stands.

use crate::exit::{Code, failure, say};
use karat::sampler::{LogitBias, SETTINGS, Setting, SettingValue};
use karat::{Recommended, SamplerParams};

/// Flags of sampling. A flag of one value is a setting of the same name, which reads it.
#[derive(clap::Args, Clone, Debug)]
#[command(
    next_help_heading = "Sampling (defaults: what the model's file or card recommends, else llama.cpp's)"
)]
pub(crate) struct SamplingArgs {
    /// Seed of the draws, 0 to 2^64-1; -1 takes a new one each time
    #[arg(short, long, default_value = "-1", allow_hyphen_values = true, value_parser = seed)]
    seed: Seed,
    /// Divides the logits; 0 takes the most likely token [default: 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = setting("temp"))]
    temp: Option<String>,
    /// Keep the K most likely tokens; 0 and -1 keep all [default: 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = setting("top-k"))]
    top_k: Option<String>,
    /// Keep the most likely tokens that reach probability P together; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = setting("top-p"))]
    top_p: Option<String>,
    /// Keep tokens at least P times as likely as the most likely; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = setting("min-p"))]
    min_p: Option<String>,
    /// Keep the most typical tokens that reach probability P together; 1 keeps all [default: 1]
    #[arg(long, visible_alias = "typical", value_name = "P", allow_negative_numbers = true, value_parser = setting("typical-p"))]
    typical_p: Option<String>,
    /// Keep tokens within N standard deviations of the highest logit; -1 keeps all [default: -1]
    #[arg(long, visible_alias = "top-nsigma", value_name = "N", allow_negative_numbers = true, value_parser = setting("top-n-sigma"))]
    top_n_sigma: Option<String>,
    /// How often the top choices are left out (XTC); 0 is off [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = setting("xtc-probability"))]
    xtc_probability: Option<String>,
    /// Least probability of a top choice; above 0.5 is off [default: 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = setting("xtc-threshold"))]
    xtc_threshold: Option<String>,
    /// Make tokens that occurred less likely; 1 is off [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("repeat-penalty"))]
    repeat_penalty: Option<String>,
    /// How many tokens the penalties look back; -1 is the whole context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = setting("repeat-last-n"))]
    repeat_last_n: Option<String>,
    /// Subtracted from the logits of tokens that occurred; 0 is off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("presence-penalty"))]
    presence_penalty: Option<String>,
    /// Subtracted from the logits of tokens for each time that they occurred; 0 is off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("frequency-penalty"))]
    frequency_penalty: Option<String>,
    /// Hold repeated sequences back (DRY); 0 is off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("dry-multiplier"))]
    dry_multiplier: Option<String>,
    /// How fast DRY grows with the length of a sequence [default: 1.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("dry-base"))]
    dry_base: Option<String>,
    /// Longest sequence that may be repeated freely [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = setting("dry-allowed-length"))]
    dry_allowed_length: Option<String>,
    /// How many tokens DRY looks back; -1 is the whole context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = setting("dry-penalty-last-n"))]
    dry_penalty_last_n: Option<String>,
    /// A text that no repetition goes across, in place of the defaults; may be given again; none: no such text
    /// [default: newline, ":", "\"" and "*"]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,
    /// Let the temperature follow the entropy, this much up and down; 0 is off [default: 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = setting("dynatemp-range"))]
    dynatemp_range: Option<String>,
    /// Power of the entropy in that [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("dynatemp-exp"))]
    dynatemp_exp: Option<String>,
    /// Mirostat 1 or 2 draws, and only the temperature acts beside it; 0 is off [default: 0]
    #[arg(long, value_name = "V", allow_negative_numbers = true, value_parser = setting("mirostat"))]
    mirostat: Option<String>,
    /// Mirostat's learning rate, eta [default: 0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("mirostat-lr"))]
    mirostat_lr: Option<String>,
    /// Mirostat's target, tau, in bits for each token [default: 5]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("mirostat-ent"))]
    mirostat_ent: Option<String>,
    /// Probability that adaptive-p aims at, where --samplers names it; negative draws from all [default: -1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = setting("adaptive-target"))]
    adaptive_target: Option<String>,
    /// How long adaptive-p remembers, 0 to 0.99 [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = setting("adaptive-decay"))]
    adaptive_decay: Option<String>,
    /// Added to a token's logit: its id, + or -, a number or inf; may be given again
    #[arg(short = 'l', long, value_name = "ID(+/-)BIAS", value_parser = logit_bias)]
    logit_bias: Vec<LogitBias>,
    /// Never end: the model's end tokens are not taken
    #[arg(long)]
    ignore_eos: bool,
    /// The samplers that act, in this order, with ; between them; what is left out is off
    /// [default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "NAMES", value_parser = setting("samplers"))]
    samplers: Option<String>,
    /// The same with a letter for each [default: edskypmxt]
    #[arg(long, visible_alias = "sampling-seq", value_name = "LETTERS", conflicts_with = "samplers", value_parser = letters)]
    sampler_seq: Option<String>,
}

/// Reads a setting: what it refuses, the flag refuses.
fn setting(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync {
    move |text| {
        let setting = Setting::named(name).ok_or("no such setting")?;
        setting.set(&mut SamplerParams::default(), text).map(|()| text.to_owned())
    }
}

/// Samplers by letters, as names.
fn letters(text: &str) -> Result<String, String> {
    let sequence = karat::sampler::SamplerKind::sequence_of_letters(text);
    let names = |kinds: Vec<karat::sampler::SamplerKind>| {
        kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(";")
    };
    sequence.map(names).map_err(|error| error.to_string())
}

/// Reads llama.cpp's `15043+1`, `15043-inf`.
fn logit_bias(text: &str) -> Result<LogitBias, String> {
    let wrong = || format!("\"{text}\" is no ID+BIAS or ID-BIAS");
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let id = text[..at].trim().parse().map_err(|_| wrong())?;
    let size: f32 = text[at + 1..].trim().parse().map_err(|_| wrong())?;
    let bias = if text[at..].starts_with('-') { -size } else { size };
    let params =
        SamplerParams { logit_bias: vec![LogitBias { id, bias }], ..SamplerParams::default() };
    params.check().map_err(|error| error.to_string())?;
    Ok(LogitBias { id, bias })
}

/// A seed as the user gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    /// A new one each time.
    Random,
    /// This one.
    Fixed(u64),
}

/// Reads a seed: -1, or a number of 64 bits.
pub(crate) fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed::Random),
        number => number
            .parse()
            .map(Seed::Fixed)
            .map_err(|_| "allowed -1 (random) and 0 to 2^64-1".to_owned()),
    }
}

impl Seed {
    /// The number to use.
    pub(crate) fn pick(self) -> u64 {
        match self {
            Self::Fixed(seed) => seed,
            Self::Random => karat::random_seed(),
        }
    }
}

impl SamplingArgs {
    /// The sampler's settings for a model whose file recommends these. Says which of the flags change nothing.
    ///
    /// # Errors
    /// Exit 2 for a value out of range.
    pub(crate) fn params(&self, file: &Recommended) -> anyhow::Result<SamplerParams> {
        let mut params = SamplerParams {
            seed: self.seed.pick(),
            logit_bias: self.logit_bias.clone(),
            ignore_eos: self.ignore_eos,
            ..file.params()
        };
        let refused = |what: String| failure(Code::Usage, what);
        for setting in SETTINGS {
            if let Some(text) = self.given(setting.name) {
                setting.set(&mut params, text).map_err(refused)?;
            }
        }
        if !self.dry_sequence_breaker.is_empty() {
            let all = self.dry_sequence_breaker.iter();
            params.dry.breakers = all.filter(|text| *text != "none").cloned().collect();
        }
        for setting in SETTINGS.iter().filter(|setting| self.given(setting.name).is_some()) {
            if let Some(why) = setting.idle(&params) {
                say("warning", &format!("--{} changes nothing: {why}", setting.name));
            }
        }
        Ok(params)
    }

    /// What the user says of a setting.
    fn given(&self, name: &str) -> Option<&str> {
        let text = match name {
            "temp" => &self.temp,
            "top-k" => &self.top_k,
            "top-p" => &self.top_p,
            "min-p" => &self.min_p,
            "typical-p" => &self.typical_p,
            "top-n-sigma" => &self.top_n_sigma,
            "xtc-probability" => &self.xtc_probability,
            "xtc-threshold" => &self.xtc_threshold,
            "repeat-penalty" => &self.repeat_penalty,
            "repeat-last-n" => &self.repeat_last_n,
            "presence-penalty" => &self.presence_penalty,
            "frequency-penalty" => &self.frequency_penalty,
            "dry-multiplier" => &self.dry_multiplier,
            "dry-base" => &self.dry_base,
            "dry-allowed-length" => &self.dry_allowed_length,
            "dry-penalty-last-n" => &self.dry_penalty_last_n,
            "dynatemp-range" => &self.dynatemp_range,
            "dynatemp-exp" => &self.dynatemp_exp,
            "mirostat" => &self.mirostat,
            "mirostat-lr" => &self.mirostat_lr,
            "mirostat-ent" => &self.mirostat_ent,
            "adaptive-target" => &self.adaptive_target,
            "adaptive-decay" => &self.adaptive_decay,
            "samplers" if self.samplers.is_some() => &self.samplers,
            "samplers" => &self.sampler_seq,
            _ => return None,
        };
        text.as_deref()
    }

    /// Who says each setting.
    pub(crate) fn origins(&self, advice: Advice<'_>) -> Origins {
        let origin = |setting: &Setting| match self.given(setting.name) {
            Some(_) => Origin::Flag,
            None => advice.origin(setting.name),
        };
        Origins(SETTINGS.iter().map(origin).collect())
    }
}

/// What is recommended for a model.
#[derive(Clone, Copy)]
pub(crate) struct Advice<'a> {
    /// By its file and by its card.
    both: &'a Recommended,
    /// By its card alone.
    card: &'a Recommended,
}

impl<'a> Advice<'a> {
    /// That for `model`.
    pub(crate) fn of(model: &'a karat::Model) -> Self {
        Self { both: model.recommended_sampling(), card: model.card_sampling() }
    }
}

impl Advice<'_> {
    /// Who recommends a setting.
    fn origin(self, name: &str) -> Origin {
        let says = |advice: &Recommended| match name {
            "temp" => advice.temperature.is_some(),
            "top-k" => advice.top_k.is_some(),
            "top-p" => advice.top_p.is_some(),
            "min-p" => advice.min_p.is_some(),
            "xtc-probability" => advice.xtc_probability.is_some(),
            "xtc-threshold" => advice.xtc_threshold.is_some(),
            "repeat-penalty" => advice.repeat_penalty.is_some(),
            "repeat-last-n" => advice.penalty_last_n.is_some(),
            "mirostat" => advice.mirostat.is_some(),
            "mirostat-lr" => advice.mirostat_eta.is_some(),
            "mirostat-ent" => advice.mirostat_tau.is_some(),
            "samplers" => advice.sequence.is_some(),
            _ => false,
        };
        match (says(self.card), says(self.both)) {
            (true, _) => Origin::Card,
            (false, true) => Origin::File,
            (false, false) => Origin::Default,
        }
    }
}

/// Who says a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The user, on the command line or by `/set`.
    Flag,
    /// The model's file, under `general.sampling`.
    File,
    /// The model's card in the catalogue.
    Card,
    /// Nobody: llama.cpp's value.
    Default,
}

/// Who says each of the settings, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Origins(Vec<Origin>);

/// A setting as it is shown.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Shown {
    #[serde(skip)]
    pub(crate) name: &'static str,
    #[serde(serialize_with = "value")]
    pub(crate) value: SettingValue,
    pub(crate) from: Origin,
}

fn value<S: serde::Serializer>(value: &SettingValue, to: S) -> Result<S::Ok, S::Error> {
    match value {
        SettingValue::Float(x) => to.serialize_f32(*x),
        SettingValue::Count(n) => to.serialize_i64(*n),
        SettingValue::Text(text) => to.serialize_str(text),
    }
}

impl Origins {
    /// The user has set it.
    pub(crate) fn set(&mut self, name: &str) {
        if let Some(i) = SETTINGS.iter().position(|known| known.name == name) {
            self.0[i] = Origin::Flag;
        }
    }

    /// The settings as they stand.
    pub(crate) fn settings(&self, params: &SamplerParams) -> Vec<Shown> {
        let shown = |(setting, from): (&Setting, &Origin)| Shown {
            name: setting.name,
            value: setting.get(params),
            from: *from,
        };
        SETTINGS.iter().zip(&self.0).map(shown).collect()
    }

    /// What stands because it is recommended: `recommended by the file: temp 0.6, top-k 1`; empty for nothing.
    pub(crate) fn followed(&self, params: &SamplerParams) -> String {
        let settings = self.settings(params);
        let by = |from: Origin, who: &str| {
            let theirs = settings.iter().filter(|setting| setting.from == from);
            let theirs: Vec<String> = theirs.map(|s| format!("{} {}", s.name, s.value)).collect();
            (!theirs.is_empty()).then(|| format!("recommended by the {who}: {}", theirs.join(", ")))
        };
        let both = [by(Origin::File, "file"), by(Origin::Card, "model card")];
        both.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

impl Origin {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flag => "yours",
            Self::File => "the file's",
            Self::Card => "the model card's",
            Self::Default => "the default",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds() {
        assert_eq!(seed("-1"), Ok(Seed::Random));
        assert_eq!(seed("18446744073709551615"), Ok(Seed::Fixed(u64::MAX)));
        assert!(seed("-2").is_err() && seed("18446744073709551616").is_err() && seed("x").is_err());
        assert_eq!(Seed::Fixed(7).pick(), 7);
        assert_ne!(Seed::Random.pick(), Seed::Random.pick());
    }

    #[test]
    fn biases_as_llama_cpp_writes_them() {
        assert_eq!(logit_bias("15043+1"), Ok(LogitBias { id: 15043, bias: 1.0 }));
        assert_eq!(logit_bias("7-0.5"), Ok(LogitBias { id: 7, bias: -0.5 }));
        assert_eq!(logit_bias("7-inf"), Ok(LogitBias { id: 7, bias: f32::NEG_INFINITY }));
        for wrong in ["", "7", "+1", "x+1", "7+", "7+hot", "-7+1", "7+inf", "7+nan"] {
            assert!(logit_bias(wrong).is_err(), "{wrong}");
        }
    }

    /// A setting without a flag could not be set.
    #[test]
    fn every_setting_has_its_flag() {
        use clap::Args;
        let command = SamplingArgs::augment_args(clap::Command::new("test"));
        for Setting { name, .. } in SETTINGS {
            let words = ["test", &format!("--{name}"), "1"];
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(name)), "{name}");
            let found = command.clone().try_get_matches_from(words);
            let Ok(matches) = found else { continue };
            let args = <SamplingArgs as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
            assert_eq!(args.given(name), Some("1"), "{name}");
        }
    }
}
