//! The flags that choose the next token, with llama.cpp's names and defaults. Where a flag is not given, what the model's file
//! recommends stands.

use crate::exit::{Code, failure};
use model::{Recommended, SamplerParams};

/// Flags of sampling.
#[derive(clap::Args, Clone, Debug)]
#[command(
    next_help_heading = "Sampling (defaults: what the model's file recommends, else llama.cpp's)"
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
    /// Subtracted from the logits of tokens that occurred; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from the logits of tokens for each time that they occurred; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
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
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
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

    /// Which settings stand because the model's file recommends them: `top-k 1, temp 0.6`; empty for none.
    pub(crate) fn followed(&self, file: &Recommended) -> String {
        let shown = |name: &str, given: bool, value: Option<String>| {
            value.filter(|_| !given).map(|value| format!("{name} {value}"))
        };
        let float = |x: Option<f32>| x.map(|x| x.to_string());
        let all = [
            shown("temp", self.temp.is_some(), float(file.temperature)),
            shown("top-k", self.top_k.is_some(), file.top_k.map(|k| k.to_string())),
            shown("top-p", self.top_p.is_some(), float(file.top_p)),
            shown("min-p", self.min_p.is_some(), float(file.min_p)),
            shown("repeat-penalty", self.repeat_penalty.is_some(), float(file.repeat_penalty)),
            shown(
                "repeat-last-n",
                self.repeat_last_n.is_some(),
                file.penalty_last_n
                    .map(|n| if n == usize::MAX { "-1".into() } else { n.to_string() }),
            ),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
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
