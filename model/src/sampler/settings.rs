//! The settings by their names on llama.cpp's command line, for whoever reads them from a person: flags, a chat, a file.

use super::params::{MirostatVersion, SamplerKind, SamplerParams};
use std::fmt;

/// A setting of [`SamplerParams`].
#[derive(Clone, Copy)]
pub struct Setting {
    /// llama.cpp's flag, without the dashes: `top-k`.
    pub name: &'static str,
    /// The sampler that it is of.
    pub of: Of,
    get: fn(&SamplerParams) -> SettingValue,
    set: fn(&mut SamplerParams, &str) -> Result<(), String>,
}

/// What a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A sampler of the sequence.
    Kind(SamplerKind),
    /// Mirostat, which stands in the sequence's place.
    Mirostat,
    /// All of them.
    All,
}

/// A setting's value.
#[derive(Clone, Debug, PartialEq)]
pub enum SettingValue {
    /// A number.
    Float(f32),
    /// A whole number; -1 is all.
    Count(i64),
    /// Names of samplers.
    Text(String),
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(x) => x.fmt(f),
            Self::Count(n) => n.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// A setting that is a number.
macro_rules! float {
    ($name:literal, $of:expr, $($field:ident).+) => {
        Setting {
            name: $name,
            of: $of,
            get: |params| SettingValue::Float(params.$($field).+),
            set: |params, text| number(text).map(|x| params.$($field).+ = x),
        }
    };
}

/// A setting that counts tokens; -1 is all.
macro_rules! count {
    ($name:literal, $of:expr, $read:ident, $($field:ident).+) => {
        Setting {
            name: $name,
            of: $of,
            get: |params| SettingValue::Count(shown(params.$($field).+)),
            set: |params, text| $read(text).map(|n| params.$($field).+ = n),
        }
    };
}

/// All settings of one value, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    float!("temp", Of::Kind(SamplerKind::Temperature), temperature),
    count!("top-k", Of::Kind(SamplerKind::TopK), none_is_all, top_k),
    float!("top-p", Of::Kind(SamplerKind::TopP), top_p),
    float!("min-p", Of::Kind(SamplerKind::MinP), min_p),
    float!("typical-p", Of::Kind(SamplerKind::TypicalP), typical_p),
    float!("top-n-sigma", Of::Kind(SamplerKind::TopNSigma), top_n_sigma),
    float!("xtc-probability", Of::Kind(SamplerKind::Xtc), xtc.probability),
    float!("xtc-threshold", Of::Kind(SamplerKind::Xtc), xtc.threshold),
    float!("repeat-penalty", Of::Kind(SamplerKind::Penalties), repeat_penalty),
    count!("repeat-last-n", Of::Kind(SamplerKind::Penalties), minus_one_is_all, penalty_last_n),
    float!("presence-penalty", Of::Kind(SamplerKind::Penalties), presence_penalty),
    float!("frequency-penalty", Of::Kind(SamplerKind::Penalties), frequency_penalty),
    float!("dry-multiplier", Of::Kind(SamplerKind::Dry), dry.multiplier),
    float!("dry-base", Of::Kind(SamplerKind::Dry), dry.base),
    count!("dry-allowed-length", Of::Kind(SamplerKind::Dry), whole, dry.allowed_length),
    count!("dry-penalty-last-n", Of::Kind(SamplerKind::Dry), minus_one_is_all, dry.last_n),
    float!("dynatemp-range", Of::Kind(SamplerKind::Temperature), dynamic_temperature.range),
    float!("dynatemp-exp", Of::Kind(SamplerKind::Temperature), dynamic_temperature.exponent),
    Setting {
        name: "mirostat",
        of: Of::All,
        get: |params| SettingValue::Count(params.mirostat.version.number()),
        set: |params, text| mirostat(text).map(|version| params.mirostat.version = version),
    },
    float!("mirostat-lr", Of::Mirostat, mirostat.eta),
    float!("mirostat-ent", Of::Mirostat, mirostat.tau),
    float!("adaptive-target", Of::Kind(SamplerKind::AdaptiveP), adaptive.target),
    float!("adaptive-decay", Of::Kind(SamplerKind::AdaptiveP), adaptive.decay),
    Setting {
        name: "samplers",
        of: Of::All,
        get: |params| SettingValue::Text(names(&params.sequence)),
        set: |params, text| sequence(text).map(|sequence| params.sequence = sequence),
    },
];

impl Setting {
    /// The setting of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Its value.
    pub fn get(&self, params: &SamplerParams) -> SettingValue {
        (self.get)(params)
    }

    /// Changes it to what a person wrote.
    ///
    /// # Errors
    /// What is allowed, where that is something else; the settings are as before then.
    pub fn set(&self, params: &mut SamplerParams, text: &str) -> Result<(), String> {
        let mut changed = params.clone();
        (self.set)(&mut changed, text)?;
        changed.check().map_err(|error| error.to_string())?;
        *params = changed;
        Ok(())
    }

    /// Why it changes nothing; `None` where it does. A sampler that the sequence leaves out is never asked, and beside
    /// Mirostat only the temperature is.
    pub fn idle(&self, params: &SamplerParams) -> Option<String> {
        let is_mirostat = params.mirostat.version != MirostatVersion::Off;
        match self.of {
            Of::Kind(kind) if params.asks(kind) => self.switched_off(params).map(str::to_owned),
            Of::Kind(_) if is_mirostat => Some("mirostat draws by itself".to_owned()),
            Of::Kind(kind) => {
                let sequence = names(&params.sequence);
                Some(format!("{} is not among the samplers {sequence}", kind.name()))
            }
            Of::Mirostat if !is_mirostat => Some("mirostat is off".to_owned()),
            Of::All if is_mirostat && self.name == "samplers" => {
                Some("mirostat draws by itself".to_owned())
            }
            Of::Mirostat | Of::All => None,
        }
    }

    /// Which other setting switches its sampler off.
    fn switched_off(&self, params: &SamplerParams) -> Option<&'static str> {
        let off = match self.name {
            "xtc-threshold" if params.xtc.probability == 0.0 => "xtc-probability is 0",
            "dry-base" | "dry-allowed-length" | "dry-penalty-last-n"
                if params.dry.multiplier == 0.0 =>
            {
                "dry-multiplier is 0"
            }
            "dynatemp-exp" if params.dynamic_temperature.range == 0.0 => "dynatemp-range is 0",
            "repeat-last-n" if params.penalty_last_n > 0 && !params.has_penalties() => {
                "no penalty is set"
            }
            _ => return None,
        };
        Some(off)
    }
}

fn number(text: &str) -> Result<f32, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is no number"))
}

fn integer(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is no whole number"))
}

/// As in llama.cpp, what is not positive keeps all.
fn none_is_all(text: &str) -> Result<usize, String> {
    let n = integer(text).map_err(|error| format!("{error}; 0 and less keep all tokens"))?;
    Ok(usize::try_from(n).unwrap_or(0))
}

fn minus_one_is_all(text: &str) -> Result<usize, String> {
    match integer(text)? {
        -1 => Ok(usize::MAX),
        n => usize::try_from(n).map_err(|_| format!("{n}, allowed are -1 (all) and 0 and more")),
    }
}

fn whole(text: &str) -> Result<usize, String> {
    let n = integer(text)?;
    usize::try_from(n).map_err(|_| format!("{n}, allowed are 0 and more"))
}

/// A number that no such type holds is the whole context.
fn shown(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(-1)
}

fn mirostat(text: &str) -> Result<MirostatVersion, String> {
    let version = integer(text)?;
    MirostatVersion::from_number(version)
        .ok_or_else(|| format!("{version}, allowed are 0 (off), 1 and 2"))
}

fn sequence(text: &str) -> Result<Vec<SamplerKind>, String> {
    SamplerKind::sequence_of_names(text).map_err(|error| error.to_string())
}

fn names(sequence: &[SamplerKind]) -> String {
    sequence.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        let changed = SamplerParams {
            temperature: 0.25,
            top_k: 7,
            penalty_last_n: usize::MAX,
            sequence: vec![SamplerKind::TopK, SamplerKind::Temperature],
            ..SamplerParams::default()
        };
        let mut read = SamplerParams::default();
        for setting in SETTINGS {
            setting.set(&mut read, &setting.get(&changed).to_string()).unwrap();
        }
        assert_eq!(read, changed);
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let before = SamplerParams::default();
        for (name, text, why) in [
            ("temp", "-1", "temperature: -1, allowed 0..=1000"),
            ("temp", "hot", "\"hot\" is no number"),
            ("top-k", "1.5", "\"1.5\" is no whole number; 0 and less keep all tokens"),
            ("repeat-last-n", "-2", "-2, allowed are -1 (all) and 0 and more"),
            ("dry-allowed-length", "-1", "-1, allowed are 0 and more"),
            ("mirostat", "3", "3, allowed are 0 (off), 1 and 2"),
            ("samplers", "top_k;hot", "no sampler \"hot\""),
        ] {
            let mut params = before.clone();
            let error = Setting::named(name).unwrap().set(&mut params, text).unwrap_err();
            assert!(error.starts_with(why), "{name} {text}: {error}");
            assert_eq!(params, before, "{name}");
        }
        let mut params = before;
        Setting::named("top-k").unwrap().set(&mut params, "-1").unwrap();
        assert_eq!(params.top_k, 0);
    }

    #[test]
    fn settings_that_nobody_asks_say_so() {
        let idle = |name: &str, params: &SamplerParams| Setting::named(name).unwrap().idle(params);
        let mut params = SamplerParams::default();
        assert_eq!(idle("top-p", &params), None);
        assert_eq!(idle("mirostat-ent", &params).unwrap(), "mirostat is off");
        assert_eq!(idle("dry-base", &params).unwrap(), "dry-multiplier is 0");
        assert_eq!(idle("xtc-threshold", &params).unwrap(), "xtc-probability is 0");
        assert_eq!(idle("repeat-last-n", &params).unwrap(), "no penalty is set");
        assert!(idle("adaptive-target", &params).unwrap().starts_with("adaptive_p is not among"));
        params.sequence = vec![SamplerKind::TopK, SamplerKind::Temperature];
        let why = "top_p is not among the samplers top_k;temperature";
        assert_eq!(idle("top-p", &params).unwrap(), why);
        params.mirostat.version = MirostatVersion::V2;
        assert_eq!(idle("top-k", &params).unwrap(), "mirostat draws by itself");
        assert_eq!((idle("temp", &params), idle("mirostat-lr", &params)), (None, None));
    }
}
