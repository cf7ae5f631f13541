//! The flags that choose the next token, with llama.cpp's names and defaults.

use crate::exit::{Code, failure};
use model::SamplerParams;

/// Flags of sampling.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Sampling (defaults as in llama.cpp)")]
pub(crate) struct SamplingArgs {
    /// Seed of the draws, 0 to 2^64-1; -1 takes a new one each time
    #[arg(short, long, default_value = "-1", allow_hyphen_values = true, value_parser = seed)]
    seed: Seed,
    /// Divides the logits; 0 takes the most likely token
    #[arg(long, default_value_t = SamplerParams::default().temperature, allow_negative_numbers = true)]
    temp: f32,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = SamplerParams::default().top_k)]
    top_k: usize,
    /// Keep the most likely tokens that reach probability P together; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplerParams::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep tokens at least P times as likely as the most likely; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplerParams::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Make tokens that occurred less likely; 1 is off
    #[arg(long, value_name = "X", default_value_t = SamplerParams::default().repeat_penalty, allow_negative_numbers = true)]
    repeat_penalty: f32,
    /// How many tokens the penalties look back; -1 is the whole context
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: i64,
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
    /// The sampler's settings.
    ///
    /// # Errors
    /// Exit 2 for a value out of range.
    pub(crate) fn params(&self) -> anyhow::Result<SamplerParams> {
        let params = SamplerParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            // Only -1 is negative.
            penalty_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            seed: self.seed.pick(),
        };
        params.check().map_err(|error| failure(Code::Usage, error.to_string()))?;
        Ok(params)
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
