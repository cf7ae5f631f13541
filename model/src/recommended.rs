//! What a file recommends for sampling: `general.sampling.*`, which converters copy from `generation_config.json`.

use crate::meta::shown;
use crate::sampler::{Mirostat, MirostatVersion, SamplerKind, SamplerParams, Xtc};
use gguf::{File, Value};

/// The settings that a file recommends; `None` where it says nothing, or nothing in range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recommended {
    /// [`SamplerParams::temperature`].
    pub temperature: Option<f32>,
    /// [`SamplerParams::top_k`].
    pub top_k: Option<usize>,
    /// [`SamplerParams::top_p`].
    pub top_p: Option<f32>,
    /// [`SamplerParams::min_p`].
    pub min_p: Option<f32>,
    /// [`Xtc::probability`].
    pub xtc_probability: Option<f32>,
    /// [`Xtc::threshold`].
    pub xtc_threshold: Option<f32>,
    /// [`SamplerParams::repeat_penalty`].
    pub repeat_penalty: Option<f32>,
    /// [`SamplerParams::penalty_last_n`].
    pub penalty_last_n: Option<usize>,
    /// [`Mirostat::version`].
    pub mirostat: Option<MirostatVersion>,
    /// [`Mirostat::tau`].
    pub mirostat_tau: Option<f32>,
    /// [`Mirostat::eta`].
    pub mirostat_eta: Option<f32>,
    /// [`SamplerParams::sequence`].
    pub sequence: Option<Vec<SamplerKind>>,
    /// What karat does not follow, a line each.
    pub warnings: Vec<String>,
}

impl Recommended {
    /// Reads a file's keys. What is out of range, or asks for a sampler that karat does not have, is warned about by name
    /// and not followed.
    pub fn of(file: &File) -> Self {
        let mut keys = Keys { file, warnings: Vec::new() };
        let found = Self {
            temperature: keys.float("temp", |x, params| params.temperature = x),
            top_k: keys.integer("top_k").map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: keys.float("top_p", |x, params| params.top_p = x),
            min_p: keys.float("min_p", |x, params| params.min_p = x),
            xtc_probability: keys.float("xtc_probability", |x, params| params.xtc.probability = x),
            xtc_threshold: keys.float("xtc_threshold", |x, params| params.xtc.threshold = x),
            repeat_penalty: keys.float("penalty_repeat", |x, params| params.repeat_penalty = x),
            // -1 is the whole context.
            penalty_last_n: keys
                .integer("penalty_last_n")
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            mirostat: keys.mirostat(),
            mirostat_tau: keys.float("mirostat_tau", |x, params| params.mirostat.tau = x),
            mirostat_eta: keys.float("mirostat_eta", |x, params| params.mirostat.eta = x),
            sequence: keys.sequence(),
            warnings: Vec::new(),
        };
        Self { warnings: keys.warnings, ..found }
    }

    /// The same, with what somebody else recommends where it leaves a setting open.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            xtc_probability: self.xtc_probability.or(other.xtc_probability),
            xtc_threshold: self.xtc_threshold.or(other.xtc_threshold),
            repeat_penalty: self.repeat_penalty.or(other.repeat_penalty),
            penalty_last_n: self.penalty_last_n.or(other.penalty_last_n),
            mirostat: self.mirostat.or(other.mirostat),
            mirostat_tau: self.mirostat_tau.or(other.mirostat_tau),
            mirostat_eta: self.mirostat_eta.or(other.mirostat_eta),
            sequence: self.sequence.or_else(|| other.sequence.clone()),
            warnings: self.warnings,
        }
    }

    /// llama.cpp's defaults, and what the file says in their place.
    pub fn params(&self) -> SamplerParams {
        let default = SamplerParams::default();
        SamplerParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            xtc: Xtc {
                probability: self.xtc_probability.unwrap_or(default.xtc.probability),
                threshold: self.xtc_threshold.unwrap_or(default.xtc.threshold),
            },
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            penalty_last_n: self.penalty_last_n.unwrap_or(default.penalty_last_n),
            mirostat: Mirostat {
                version: self.mirostat.unwrap_or(default.mirostat.version),
                tau: self.mirostat_tau.unwrap_or(default.mirostat.tau),
                eta: self.mirostat_eta.unwrap_or(default.mirostat.eta),
            },
            sequence: self.sequence.clone().unwrap_or(default.sequence),
            ..SamplerParams::default()
        }
    }
}

/// `general.sampling.*` of a file.
struct Keys<'f> {
    file: &'f File,
    warnings: Vec<String>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.file.get(&format!("general.sampling.{key}"))
    }

    /// A number that the sampler takes: `set` puts it into settings, which say whether it is in range.
    fn float(&mut self, key: &str, set: impl Fn(f32, &mut SamplerParams)) -> Option<f32> {
        let x = self.number(key)? as f32;
        let mut params = SamplerParams::default();
        set(x, &mut params);
        match params.check() {
            Ok(()) => Some(x),
            Err(error) => {
                self.warn(key, &error.to_string());
                None
            }
        }
    }

    fn integer(&mut self, key: &str) -> Option<i64> {
        let x = self.number(key)?;
        if x.fract() == 0.0 && x.abs() < 1e15 {
            return Some(x as i64);
        }
        self.warn(key, &format!("{x}, allowed are whole numbers"));
        None
    }

    /// A number of any type: converters are not of one mind.
    fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let float = if let Value::F32(x) = value {
            Some(f64::from(*x))
        } else if let Value::F64(x) = value {
            Some(*x)
        } else {
            value.as_int().map(|n| n as f64)
        };
        let found = value.type_name();
        if float.is_none() {
            self.warn(key, &format!("found {found}, wanted a number"));
        }
        float
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.get(key)?;
        let (text, found) = (value.as_str().map(|text| text.into_owned()), value.type_name());
        if text.is_none() {
            self.warn(key, &format!("found {found}, wanted string"));
        }
        text
    }

    fn mirostat(&mut self) -> Option<MirostatVersion> {
        let version = self.integer("mirostat")?;
        let known = MirostatVersion::from_number(version);
        if known.is_none() {
            self.warn("mirostat", &format!("{version}, allowed are 0, 1 and 2"));
        }
        known
    }

    fn sequence(&mut self) -> Option<Vec<SamplerKind>> {
        let names = self.text("sequence")?;
        match SamplerKind::sequence_of_names(&names) {
            Ok(kinds) => Some(kinds),
            Err(error) => {
                self.warn("sequence", &format!("\"{}\": {error}", shown(&names)));
                None
            }
        }
    }

    fn warn(&mut self, key: &str, what: &str) {
        self.warnings.push(format!("general.sampling.{key}: {what}; not followed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &[(&str, Value)]) -> Recommended {
        let mut builder = gguf::Builder::new();
        for (key, value) in keys {
            builder = builder.kv(&format!("general.sampling.{key}"), value.clone());
        }
        Recommended::of(&File::from_bytes(builder.build().unwrap()).unwrap())
    }

    #[test]
    fn what_a_file_says_stands_in_place_of_the_defaults() {
        let default = SamplerParams::default();
        assert_eq!(read(&[]).params(), default);
        let found = read(&[
            ("temp", 0.6f32.into()),
            ("top_k", 20i32.into()),
            ("top_p", 0.9f32.into()),
            ("min_p", 0.0f32.into()),
            ("penalty_repeat", 1.05f32.into()),
            ("penalty_last_n", (-1i32).into()),
        ]);
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
        let wanted = SamplerParams {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.9,
            min_p: 0.0,
            repeat_penalty: 1.05,
            penalty_last_n: usize::MAX,
            ..default
        };
        assert_eq!(found.params(), wanted);
        // llama.cpp keeps all where k is below 1, and converters write numbers of any type.
        assert_eq!(read(&[("top_k", (-1i32).into()), ("temp", 1u32.into())]).params().top_k, 0);
        assert_eq!(read(&[("top_k", 7.0f32.into())]).params().top_k, 7);
    }

    #[test]
    fn a_sequence_is_followed_in_its_order() {
        let found = read(&[("sequence", "temperature;top_k".into()), ("top_k", 3i32.into())]);
        let sequence = vec![SamplerKind::Temperature, SamplerKind::TopK];
        let wanted = SamplerParams { top_k: 3, sequence, ..SamplerParams::default() };
        assert_eq!((found.params(), found.warnings.len()), (wanted, 0));
        let own = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(read(&[("sequence", own.into())]).params(), SamplerParams::default());
        for other in ["top_k;infill", "", "mirostat"] {
            let found = read(&[("sequence", other.into())]);
            assert_eq!(found.params(), SamplerParams::default());
            assert!(found.warnings[0].contains("general.sampling.sequence"), "{other}");
        }
    }

    #[test]
    fn what_is_not_followed_is_named() {
        for (key, value) in [
            ("temp", Value::from(-1.0f32)),
            ("temp", f32::NAN.into()),
            ("temp", "hot".into()),
            ("top_p", 1.5f32.into()),
            ("top_k", 1.5f32.into()),
            ("top_k", vec![1u32].into()),
            ("penalty_repeat", 0.0f32.into()),
            ("sequence", 1u32.into()),
            ("xtc_probability", 1.5f32.into()),
            ("xtc_threshold", (-0.1f32).into()),
            ("mirostat", 3i32.into()),
            ("mirostat_tau", (-5.0f32).into()),
            ("mirostat_eta", 2.0f32.into()),
        ] {
            let found = read(&[(key, value)]);
            assert_eq!(found.params(), SamplerParams::default(), "{key}");
            assert_eq!(found.warnings.len(), 1, "{key}");
            assert!(found.warnings[0].starts_with(&format!("general.sampling.{key}: ")), "{key}");
        }
    }

    #[test]
    fn xtc_and_mirostat_are_followed() {
        let found = read(&[
            ("xtc_probability", 0.5f32.into()),
            ("xtc_threshold", 0.2f32.into()),
            ("mirostat", 2i32.into()),
            ("mirostat_tau", 4.0f32.into()),
            ("mirostat_eta", 0.2f32.into()),
        ]);
        let mirostat = Mirostat { version: MirostatVersion::V2, tau: 4.0, eta: 0.2 };
        let xtc = Xtc { probability: 0.5, threshold: 0.2 };
        let wanted = SamplerParams { xtc, mirostat, ..SamplerParams::default() };
        assert_eq!((found.params(), found.warnings.len()), (wanted, 0));
    }
}
