//! The settings of a sampler, with llama.cpp's names and defaults.

use crate::{Error, ErrorKind, Result};
use std::ops::RangeInclusive;

/// A part of a [`Sampler`](crate::Sampler): each changes logits or leaves candidates out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// [`SamplerParams::repeat_penalty`] and its two neighbours.
    Penalties,
    /// [`SamplerParams::dry`].
    Dry,
    /// [`SamplerParams::top_n_sigma`].
    TopNSigma,
    /// [`SamplerParams::top_k`].
    TopK,
    /// [`SamplerParams::typical_p`].
    TypicalP,
    /// [`SamplerParams::top_p`].
    TopP,
    /// [`SamplerParams::min_p`].
    MinP,
    /// [`SamplerParams::xtc`].
    Xtc,
    /// [`SamplerParams::temperature`] and [`SamplerParams::dynamic_temperature`].
    Temperature,
    /// [`SamplerParams::adaptive`]: it draws the token, so it is always the last, wherever it is named.
    AdaptiveP,
}

/// A sampler's name and the letter that `--sampler-seq` has for it, both llama.cpp's.
struct Named {
    kind: SamplerKind,
    name: &'static str,
    letter: char,
}

const fn named(kind: SamplerKind, name: &'static str, letter: char) -> Named {
    Named { kind, name, letter }
}

const NAMED: [Named; 10] = [
    named(SamplerKind::Penalties, "penalties", 'e'),
    named(SamplerKind::Dry, "dry", 'd'),
    named(SamplerKind::TopNSigma, "top_n_sigma", 's'),
    named(SamplerKind::TopK, "top_k", 'k'),
    named(SamplerKind::TypicalP, "typ_p", 'y'),
    named(SamplerKind::TopP, "top_p", 'p'),
    named(SamplerKind::MinP, "min_p", 'm'),
    named(SamplerKind::Xtc, "xtc", 'x'),
    named(SamplerKind::Temperature, "temperature", 't'),
    named(SamplerKind::AdaptiveP, "adaptive_p", 'a'),
];

/// llama.cpp's other words for three of them; it takes `top-k` and `topk` for `top_k`, too.
const ALIASES: [(&str, SamplerKind); 4] = [
    ("nucleus", SamplerKind::TopP),
    ("temp", SamplerKind::Temperature),
    ("typ", SamplerKind::TypicalP),
    ("typical_p", SamplerKind::TypicalP),
];

impl SamplerKind {
    /// llama.cpp's name of it.
    pub fn name(self) -> &'static str {
        NAMED.iter().find(|named| named.kind == self).map_or("", |named| named.name)
    }

    /// Reads a name in any of llama.cpp's spellings.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
        let wanted = plain(name);
        let names = NAMED.iter().map(|named| (named.name, named.kind)).chain(ALIASES);
        names.into_iter().find(|(known, _)| plain(known) == wanted).map(|(_, kind)| kind)
    }

    /// Reads names with `;` between them, as `--samplers` has them.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] for a name that is not known, for none, and for the same twice.
    pub fn sequence_of_names(names: &str) -> Result<Vec<Self>> {
        let kinds = names.split(';').map(str::trim).filter(|name| !name.is_empty());
        let kinds = kinds.map(|name| Self::from_name(name).ok_or_else(|| unknown(name)));
        checked_sequence(kinds.collect::<Result<_>>()?)
    }

    /// Reads letters, as `--sampler-seq` has them: `edskypmxt` is the default.
    ///
    /// # Errors
    /// As [`SamplerKind::sequence_of_names`].
    pub fn sequence_of_letters(letters: &str) -> Result<Vec<Self>> {
        let kind = |letter: char| {
            let found = NAMED.iter().find(|named| named.letter == letter);
            found.map(|named| named.kind).ok_or_else(|| unknown(&letter.to_string()))
        };
        checked_sequence(letters.chars().map(kind).collect::<Result<_>>()?)
    }
}

fn unknown(name: &str) -> Error {
    let known: Vec<String> =
        NAMED.iter().map(|named| format!("{} ({})", named.name, named.letter)).collect();
    let what = format!("no sampler {:?}; known: {}", crate::meta::shown(name), known.join(", "));
    Error::new(ErrorKind::BadRequest, what)
}

fn checked_sequence(kinds: Vec<SamplerKind>) -> Result<Vec<SamplerKind>> {
    let twice = kinds.iter().enumerate().find(|(i, kind)| kinds[..*i].contains(kind));
    match twice {
        Some((_, kind)) => {
            let what = format!("the sampler {} is named twice", kind.name());
            Err(Error::new(ErrorKind::BadRequest, what))
        }
        None if kinds.is_empty() => {
            Err(Error::new(ErrorKind::BadRequest, "a sequence of no samplers"))
        }
        None => Ok(kinds),
    }
}

/// Exclude Top Choices: with [`Xtc::probability`], all but the least likely of the tokens above [`Xtc::threshold`] go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How often it acts, 0 to 1; 0 is off.
    pub probability: f32,
    /// The least probability of a top choice; above 0.5 there cannot be two, and it is off.
    pub threshold: f32,
}

/// Don't Repeat Yourself: a token that would go on repeating a sequence of the text loses
/// `multiplier · base^(length − allowed_length)` of its logit.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// 0 is off.
    pub multiplier: f32,
    /// Below 1 is off.
    pub base: f32,
    /// Longest sequence that may be repeated freely, in tokens.
    pub allowed_length: usize,
    /// How many tokens it looks back; 0 is off.
    pub last_n: usize,
    /// Texts that no repetition goes across.
    pub breakers: Vec<String>,
}

/// A temperature between `temperature − range` and `temperature + range`, higher where the model is less sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicTemperature {
    /// 0 is off.
    pub range: f32,
    /// Power of the entropy, as a share of the most that there can be.
    pub exponent: f32,
}

/// Which Mirostat (arXiv 2007.14966) draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MirostatVersion {
    /// None.
    #[default]
    Off,
    /// The paper's algorithm, which finds a `k` for top-k.
    V1,
    /// The simpler one, which leaves out tokens that surprise too much.
    V2,
}

impl MirostatVersion {
    /// llama.cpp's `--mirostat`: 0 is off.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }

    /// The number that [`MirostatVersion::from_number`] reads.
    pub fn number(self) -> i64 {
        match self {
            Self::Off => 0,
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// Mirostat holds the surprise of the text near a target; only the temperature acts beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// Which one, or none.
    pub version: MirostatVersion,
    /// The target, in bits for each token.
    pub tau: f32,
    /// How fast it follows.
    pub eta: f32,
}

/// Adaptive-p takes tokens whose probability is near a target, and corrects itself by what it took before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// The probability, 0 to 1; negative draws from all.
    pub target: f32,
    /// How long it remembers: about `1 / (1 − decay)` tokens.
    pub decay: f32,
}

/// What is added to the logit of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBias {
    /// The token.
    pub id: u32,
    /// −∞ forbids the token.
    pub bias: f32,
}

/// Settings, with llama.cpp's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Changes the temperature with the entropy.
    pub dynamic_temperature: DynamicTemperature,
    /// Keeps the `k` most likely; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely whose probabilities reach `p` together; 1 keeps all.
    pub top_p: f32,
    /// Keeps those at least `p` times as likely as the most likely; 0 keeps all.
    pub min_p: f32,
    /// Keeps the most typical, those whose surprise is nearest to the entropy, up to the probability `p`; 1 keeps all.
    pub typical_p: f32,
    /// Keeps logits within `n` standard deviations of the highest; 0 and less keep all.
    pub top_n_sigma: f32,
    /// Leaves the likeliest out now and then.
    pub xtc: Xtc,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from the logit of a recent token for each time that it occurred; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of a recent token; 0 is off.
    pub presence_penalty: f32,
    /// How many tokens are recent; 0 switches the penalties off.
    pub penalty_last_n: usize,
    /// Holds repeated sequences back.
    pub dry: Dry,
    /// Draws in place of the chain.
    pub mirostat: Mirostat,
    /// Draws at the end of the chain, where [`SamplerParams::sequence`] names it.
    pub adaptive: Adaptive,
    /// What is added to the logits of tokens, before anything else.
    pub logit_bias: Vec<LogitBias>,
    /// The model's end tokens are never taken: the text goes on to its length.
    pub ignore_eos: bool,
    /// Which samplers act, in this order; what it leaves out is off, the temperature too.
    pub sequence: Vec<SamplerKind>,
    /// Seeds the generator: the same seed draws the same ids.
    pub seed: u64,
}

impl Default for SamplerParams {
    fn default() -> Self {
        let breakers = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec();
        Self {
            temperature: 0.8,
            dynamic_temperature: DynamicTemperature { range: 0.0, exponent: 1.0 },
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc: Xtc { probability: 0.0, threshold: 0.1 },
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: 64,
            dry: Dry { multiplier: 0.0, base: 1.75, allowed_length: 2, last_n: 64, breakers },
            mirostat: Mirostat { version: MirostatVersion::Off, tau: 5.0, eta: 0.1 },
            adaptive: Adaptive { target: -1.0, decay: 0.9 },
            logit_bias: Vec::new(),
            ignore_eos: false,
            sequence: NAMED
                .iter()
                .map(|named| named.kind)
                .filter(|kind| *kind != SamplerKind::AdaptiveP)
                .collect(),
            seed: 0,
        }
    }
}

/// A setting and what is allowed for it.
struct Range {
    name: &'static str,
    value: f32,
    allowed: RangeInclusive<f32>,
}

fn range(name: &'static str, value: f32, allowed: RangeInclusive<f32>) -> Range {
    Range { name, value, allowed }
}

impl SamplerParams {
    /// Takes the most likely token every time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Refuses settings out of range by name; NaN is in no range.
    pub fn check(&self) -> Result<()> {
        for Range { name, value, allowed } in self.ranges() {
            if !allowed.contains(&value) {
                let (least, most) = (allowed.start(), allowed.end());
                let what = format!("{name}: {value}, allowed {least}..={most}");
                return Err(Error::new(ErrorKind::BadRequest, what));
            }
        }
        let wrong = |bias: &&LogitBias| bias.bias.is_nan() || bias.bias == f32::INFINITY;
        if let Some(LogitBias { id, bias }) = self.logit_bias.iter().find(wrong) {
            let what =
                format!("logit_bias: {bias} for id {id}, allowed is less than inf; -inf forbids");
            return Err(Error::new(ErrorKind::BadRequest, what));
        }
        checked_sequence(self.sequence.clone()).map(|_| ())
    }

    fn ranges(&self) -> [Range; 18] {
        let Self { xtc, dry, dynamic_temperature, mirostat, adaptive, .. } = self;
        [
            range("temperature", self.temperature, 0.0..=1000.0),
            range("dynatemp_range", dynamic_temperature.range, 0.0..=1000.0),
            range("dynatemp_exponent", dynamic_temperature.exponent, 0.0..=100.0),
            range("top_p", self.top_p, 0.0..=1.0),
            range("min_p", self.min_p, 0.0..=1.0),
            range("typical_p", self.typical_p, 0.0..=1.0),
            range("top_n_sigma", self.top_n_sigma, -1.0..=1000.0),
            range("xtc_probability", xtc.probability, 0.0..=1.0),
            range("xtc_threshold", xtc.threshold, 0.0..=1.0),
            range("repeat_penalty", self.repeat_penalty, 0.01..=100.0),
            range("frequency_penalty", self.frequency_penalty, -100.0..=100.0),
            range("presence_penalty", self.presence_penalty, -100.0..=100.0),
            range("dry_multiplier", dry.multiplier, 0.0..=100.0),
            range("dry_base", dry.base, 0.0..=100.0),
            range("mirostat_tau", mirostat.tau, 0.0..=100.0),
            range("mirostat_eta", mirostat.eta, 0.0..=1.0),
            range("adaptive_target", adaptive.target, -1.0..=1.0),
            range("adaptive_decay", adaptive.decay, 0.0..=0.99),
        ]
    }

    /// Whether a sampler is asked: it is in the sequence, and Mirostat does not stand in its place.
    pub fn asks(&self, kind: SamplerKind) -> bool {
        match self.mirostat.version {
            MirostatVersion::Off => self.sequence.contains(&kind),
            MirostatVersion::V1 | MirostatVersion::V2 => kind == SamplerKind::Temperature,
        }
    }

    pub(super) fn has_penalties(&self) -> bool {
        let on = self.repeat_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0;
        on && self.penalty_last_n > 0 && self.asks(SamplerKind::Penalties)
    }

    /// Whether repeated sequences are held back.
    pub fn has_dry(&self) -> bool {
        let Dry { multiplier, base, last_n, .. } = self.dry;
        multiplier != 0.0 && base >= 1.0 && last_n > 0 && self.asks(SamplerKind::Dry)
    }

    pub(super) fn has_xtc(&self) -> bool {
        let Xtc { probability, threshold } = self.xtc;
        probability > 0.0 && threshold <= 0.5 && self.asks(SamplerKind::Xtc)
    }

    /// Whether nothing that is asked can change which token is the likeliest, and it alone is taken.
    pub(super) fn takes_argmax(&self) -> bool {
        let greedy = self.temperature == 0.0 && self.dynamic_temperature.range == 0.0;
        let typical = self.typical_p < 1.0 && self.asks(SamplerKind::TypicalP);
        let draws = self.mirostat.version != MirostatVersion::Off;
        let changes = self.has_penalties() || self.has_dry() || self.has_xtc() || typical || draws;
        greedy
            && !changes
            && self.logit_bias.is_empty()
            && self.asks(SamplerKind::Temperature)
            && !self.asks(SamplerKind::AdaptiveP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SamplerKind::{AdaptiveP, Dry, MinP, Penalties, Temperature, TopK, TopNSigma, TopP};
    use SamplerKind::{TypicalP, Xtc as XtcKind};

    /// llama.cpp's `common_params_sampling.samplers`, and its letters as `--help` shows them.
    #[test]
    fn the_default_sequence_is_llama_cpp_s() {
        let wanted =
            [Penalties, Dry, TopNSigma, TopK, TypicalP, TopP, MinP, XtcKind, Temperature].to_vec();
        assert_eq!(SamplerParams::default().sequence, wanted);
        assert_eq!(SamplerKind::sequence_of_letters("edskypmxt").unwrap(), wanted);
        let names = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(SamplerKind::sequence_of_names(names).unwrap(), wanted);
    }

    #[test]
    fn names_in_every_spelling_of_llama_cpp() {
        for (names, kind) in [
            (["top_k", "top-k", "topk", "Top_K"], TopK),
            (["top_p", "top-p", "topp", "nucleus"], TopP),
            (["typ_p", "typ-p", "typ", "typical_p"], TypicalP),
            (["temperature", "temp", "TEMP", "Temperature"], Temperature),
            (["adaptive_p", "adaptive-p", "adaptivep", "Adaptive-P"], AdaptiveP),
        ] {
            for name in names {
                assert_eq!(SamplerKind::from_name(name), Some(kind), "{name}");
            }
        }
        for (wrong, why) in [
            ("top_k;hot", "no sampler \"hot\""),
            ("infill", "no sampler \"infill\""),
            (";", "no samplers"),
            ("top_k;temp;topk", "top_k is named twice"),
        ] {
            let error = SamplerKind::sequence_of_names(wrong).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(SamplerKind::sequence_of_letters("kz").unwrap_err().to_string().contains("\"z\""));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let base = SamplerParams::default;
        let with = |change: fn(&mut SamplerParams)| {
            let mut params = base();
            change(&mut params);
            params
        };
        let table = [
            ("temperature", with(|p| p.temperature = -1.0)),
            ("temperature", with(|p| p.temperature = f32::INFINITY)),
            ("dynatemp_range", with(|p| p.dynamic_temperature.range = f32::NAN)),
            ("dynatemp_exponent", with(|p| p.dynamic_temperature.exponent = -1.0)),
            ("top_p", with(|p| p.top_p = 2.0)),
            ("top_p", with(|p| p.top_p = f32::NAN)),
            ("min_p", with(|p| p.min_p = -0.1)),
            ("typical_p", with(|p| p.typical_p = 1.1)),
            ("top_n_sigma", with(|p| p.top_n_sigma = f32::NAN)),
            ("xtc_probability", with(|p| p.xtc.probability = 1.5)),
            ("xtc_threshold", with(|p| p.xtc.threshold = -0.5)),
            ("repeat_penalty", with(|p| p.repeat_penalty = 0.0)),
            ("frequency_penalty", with(|p| p.frequency_penalty = f32::NAN)),
            ("presence_penalty", with(|p| p.presence_penalty = 1e9)),
            ("dry_multiplier", with(|p| p.dry.multiplier = -1.0)),
            ("dry_base", with(|p| p.dry.base = f32::INFINITY)),
            ("mirostat_tau", with(|p| p.mirostat.tau = -1.0)),
            ("mirostat_eta", with(|p| p.mirostat.eta = 2.0)),
            ("adaptive_target", with(|p| p.adaptive.target = 1.5)),
            ("adaptive_decay", with(|p| p.adaptive.decay = 1.0)),
            ("logit_bias", with(|p| p.logit_bias = vec![LogitBias { id: 1, bias: f32::NAN }])),
            ("logit_bias", with(|p| p.logit_bias = vec![LogitBias { id: 1, bias: f32::INFINITY }])),
            ("a sequence", with(|p| p.sequence.clear())),
        ];
        for (name, params) in table {
            let error = params.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadRequest);
            assert!(error.to_string().starts_with(name), "{error}");
        }
        let forbids = LogitBias { id: 1, bias: f32::NEG_INFINITY };
        SamplerParams { logit_bias: vec![forbids], ..base() }.check().unwrap();
    }
}
