//! The flags that choose the next token, with llama.cpp's names and defaults. Where a flag is not given, what the model's file
//! recommends stands.

use crate::exit::{Code, failure};
use model::{Recommended, SamplerParams};

/// Flags of sampling.
#[derive(clap::Args, Clone, Debug)]
#[command(
    next_help_heading = "Sampling (defaults: what the model's file or card recommends, else llama.cpp's)"
)]
pub(crate) struct SamplingArgs {
    /// Seed of the draws, 0 to 2^64-1; -1 takes a new one each time
    #[arg(short, long, default_value = "-1", allow_hyphen_values = true, value_parser = seed)]
    seed: Seed,
    /// Divides the logits; 0 takes the most likely token [default: 0.8]
    #[arg(long, allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Keep the K most likely tokens; 0 and -1 keep all [default: 40]
    #[arg(long, value_name = "K", value_parser = top_k)]
    top_k: Option<usize>,
    /// Keep the most likely tokens that reach probability P together; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the most likely; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that occurred less likely; 1 is off [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// How many tokens the penalties look back; -1 is the whole context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: Option<i64>,
    /// Subtracted from the logits of tokens that occurred; 0 is off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtracted from the logits of tokens for each time that they occurred; 0 is off [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
}

/// A seed as the user gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    /// A new one each time.
    Random,
    /// This one.
    Fixed(u64),
}

/// As in llama.cpp, what is not positive keeps all.
pub(crate) fn top_k(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(k) => Ok(usize::try_from(k).unwrap_or(0)),
        Err(_) => Err("allowed are whole numbers; 0 and less keep all tokens".to_owned()),
    }
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
    /// Refuses values out of range, before a model is loaded.
    ///
    /// # Errors
    /// Exit 2.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.params(&Recommended::default()).map(|_| ())
    }

    /// The sampler's settings for a model whose file recommends these.
    ///
    /// # Errors
    /// Exit 2 for a value out of range.
    pub(crate) fn params(&self, file: &Recommended) -> anyhow::Result<SamplerParams> {
        let default = file.params();
        let params = SamplerParams {
            temperature: self.temp.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            penalty_last_n: match self.repeat_last_n {
                // Only -1 is negative.
                Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
                None => default.penalty_last_n,
            },
            seed: self.seed.pick(),
        };
        params.check().map_err(|error| failure(Code::Usage, error.to_string()))?;
        Ok(params)
    }

    /// Who says each setting.
    pub(crate) fn origins(&self, advice: Advice<'_>) -> Origins {
        let Advice { both, card } = advice;
        let own = |given: bool| if given { Origin::Flag } else { Origin::Default };
        Origins([
            origin(self.temp, both.temperature, card.temperature),
            origin(self.top_k, both.top_k, card.top_k),
            origin(self.top_p, both.top_p, card.top_p),
            origin(self.min_p, both.min_p, card.min_p),
            origin(self.repeat_penalty, both.repeat_penalty, card.repeat_penalty),
            origin(self.repeat_last_n, both.penalty_last_n, card.penalty_last_n),
            own(self.presence_penalty.is_some()),
            own(self.frequency_penalty.is_some()),
        ])
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

/// What stands: a flag before what is recommended, which is the card's where the card says it.
fn origin<F, V>(flag: Option<F>, both: Option<V>, card: Option<V>) -> Origin {
    match (flag, card, both) {
        (Some(_), ..) => Origin::Flag,
        (None, Some(_), _) => Origin::Card,
        (None, None, Some(_)) => Origin::File,
        (None, None, None) => Origin::Default,
    }
}

/// The settings in the order in which they are shown.
const NAMES: [&str; 8] = [
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repeat-penalty",
    "repeat-last-n",
    "presence-penalty",
    "frequency-penalty",
];

/// Who says each of the settings.
#[derive(Clone, Debug)]
pub(crate) struct Origins([Origin; NAMES.len()]);

/// A setting as it is shown.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Setting {
    #[serde(skip)]
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    pub(crate) from: Origin,
}

/// A setting's value.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Float(f32),
    /// -1 is all.
    Count(i64),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(x) => x.fmt(f),
            Self::Count(n) => n.fmt(f),
        }
    }
}

impl Origins {
    /// The user has set it.
    pub(crate) fn set(&mut self, name: &str) {
        if let Some(i) = NAMES.iter().position(|known| *known == name) {
            self.0[i] = Origin::Flag;
        }
    }

    /// The settings as they stand.
    pub(crate) fn settings(&self, params: &SamplerParams) -> Vec<Setting> {
        use Value::{Count, Float};
        // A number that no such type holds is the whole context.
        let count = |n: usize| Count(i64::try_from(n).unwrap_or(-1));
        let values = [
            Float(params.temperature),
            count(params.top_k),
            Float(params.top_p),
            Float(params.min_p),
            Float(params.repeat_penalty),
            count(params.penalty_last_n),
            Float(params.presence_penalty),
            Float(params.frequency_penalty),
        ];
        let all = NAMES.into_iter().zip(values).zip(self.0);
        all.map(|((name, value), from)| Setting { name, value, from }).collect()
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
}
