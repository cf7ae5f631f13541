//! What a file recommends for sampling: `general.sampling.*`, which converters copy from `generation_config.json`.

use crate::SamplerParams;
use crate::meta::shown;
use gguf::{File, Value};

/// Samplers in the order in which karat applies them, by llama.cpp's names.
const SEQUENCE: [&str; 5] = ["penalties", "top_k", "top_p", "min_p", "temperature"];
/// Keys of samplers that karat does not have.
const OTHER_SAMPLERS: [&str; 5] =
    ["xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta"];

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
    /// [`SamplerParams::repeat_penalty`].
    pub repeat_penalty: Option<f32>,
    /// [`SamplerParams::penalty_last_n`].
    pub penalty_last_n: Option<usize>,
    /// What karat does not follow, a line each.
    pub warnings: Vec<String>,
}

impl Recommended {
    /// Reads a file's keys. What is out of range, or asks for a sampler that karat does not have, is warned about by name
    /// and not followed.
    pub fn of(file: &File) -> Self {
        let mut keys = Keys { file, warnings: Vec::new() };
        let mut found = Self {
            temperature: keys.float("temp", |x, params| params.temperature = x),
            top_k: keys.integer("top_k").map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: keys.float("top_p", |x, params| params.top_p = x),
            min_p: keys.float("min_p", |x, params| params.min_p = x),
            repeat_penalty: keys.float("penalty_repeat", |x, params| params.repeat_penalty = x),
            // -1 is the whole context.
            penalty_last_n: keys
                .integer("penalty_last_n")
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            warnings: Vec::new(),
        };
        if let Some(names) = keys.text("sequence") {
            found.follow(&names, &mut keys);
        }
        keys.warn_of_other_samplers();
        found.warnings = keys.warnings;
        found
    }

    /// The same, with what somebody else recommends where it leaves a setting open.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repeat_penalty: self.repeat_penalty.or(other.repeat_penalty),
            penalty_last_n: self.penalty_last_n.or(other.penalty_last_n),
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
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            penalty_last_n: self.penalty_last_n.unwrap_or(default.penalty_last_n),
            ..default
        }
    }

    /// A sequence of samplers: those that it leaves out are off. Another order than karat's is not followed.
    fn follow(&mut self, names: &str, keys: &mut Keys<'_>) {
        let named: Vec<&str> = names.split(';').map(str::trim).collect();
        let ours: Vec<&str> =
            named.iter().copied().filter(|name| SEQUENCE.contains(name)).collect();
        let in_order: Vec<&str> =
            SEQUENCE.iter().copied().filter(|name| ours.contains(name)).collect();
        if ours.is_empty() || ours != in_order {
            let what = format!("\"{}\", karat's order is {}", shown(names), SEQUENCE.join(";"));
            keys.warn("sequence", &what);
            return;
        }
        let is_off = |name: &str| !ours.contains(&name);
        if is_off("penalties") {
            self.repeat_penalty = Some(1.0);
        }
        if is_off("top_k") {
            self.top_k = Some(0);
        }
        if is_off("top_p") {
            self.top_p = Some(1.0);
        }
        if is_off("min_p") {
            self.min_p = Some(0.0);
        }
        if is_off("temperature") {
            self.temperature = Some(1.0);
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

    fn warn_of_other_samplers(&mut self) {
        for key in OTHER_SAMPLERS {
            let Some(value) = self.get(key) else { continue };
            let is_off = value.as_int() == Some(0) || *value == Value::F32(0.0);
            if !is_off {
                self.warn(key, "karat has no such sampler");
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
    fn a_sequence_switches_off_what_it_leaves_out() {
        let found = read(&[("sequence", "top_k;temperature".into()), ("top_k", 3i32.into())]);
        let wanted = SamplerParams {
            top_k: 3,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            ..SamplerParams::default()
        };
        assert_eq!((found.params(), found.warnings.len()), (wanted, 0));
        // llama.cpp's own, with samplers that do nothing unless they are set.
        let own = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
        assert_eq!(read(&[("sequence", own.into())]), Recommended::default());
        for other in ["temperature;top_k", "", "mirostat"] {
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
            ("xtc_probability", 0.5f32.into()),
            ("xtc_threshold", 0.1f32.into()),
            ("mirostat", 2i32.into()),
            ("mirostat_tau", 5.0f32.into()),
            ("mirostat_eta", 0.1f32.into()),
        ] {
            let found = read(&[(key, value)]);
            assert_eq!(found.params(), SamplerParams::default(), "{key}");
            assert_eq!(found.warnings.len(), 1, "{key}");
            assert!(found.warnings[0].starts_with(&format!("general.sampling.{key}: ")), "{key}");
        }
        let off = read(&[("mirostat", 0i32.into()), ("xtc_probability", 0.0f32.into())]);
        assert_eq!(off, Recommended::default());
    }
}
