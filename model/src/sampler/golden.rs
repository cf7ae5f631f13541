//! What llama.cpp's samplers keep of a real model's logits, and with which probabilities: `tools/golden_samplers.py`.

use super::candidates::{Candidate, Candidates, softmax};
use super::{MirostatVersion, Probabilities, ProbabilitiesOf, Sampler, SamplerKind, SamplerParams};
use serde_json::Value;

/// Logits are written as multiples of this.
const UNIT: f32 = 1.0 / 65536.0;
/// llama.cpp computes in f32, karat in f64.
const NEAR: f64 = 1e-5;

fn recorded() -> Value {
    serde_json::from_str(include_str!("../../tests/samplers.json")).unwrap()
}

fn row(recorded: &Value, step: &Value) -> Vec<f32> {
    let row = &recorded["rows"][step["row"].as_u64().unwrap() as usize];
    row.as_array().unwrap().iter().map(|unit| unit.as_i64().unwrap() as f32 * UNIT).collect()
}

fn params(settings: &Value) -> SamplerParams {
    let mut params = SamplerParams::default();
    for (name, value) in settings.as_object().unwrap() {
        let (x, n) = (value.as_f64().unwrap() as f32, value.as_f64().unwrap() as usize);
        match name.as_str() {
            "temp" => params.temperature = x,
            "dynatemp_range" => params.dynamic_temperature.range = x,
            "dynatemp_exponent" => params.dynamic_temperature.exponent = x,
            "top_k" => params.top_k = n,
            "top_p" => params.top_p = x,
            "min_p" => params.min_p = x,
            "typical_p" => params.typical_p = x,
            "top_n_sigma" => params.top_n_sigma = x,
            "xtc_probability" => params.xtc.probability = x,
            "xtc_threshold" => params.xtc.threshold = x,
            "repeat_penalty" => params.repeat_penalty = x,
            "frequency_penalty" => params.frequency_penalty = x,
            "presence_penalty" => params.presence_penalty = x,
            "penalty_last_n" => params.penalty_last_n = n,
            "dry_multiplier" => params.dry.multiplier = x,
            "dry_base" => params.dry.base = x,
            "dry_allowed_length" => params.dry.allowed_length = n,
            "dry_penalty_last_n" => params.dry.last_n = n,
            "mirostat" => params.mirostat.version = MirostatVersion::from_number(n as i64).unwrap(),
            "mirostat_tau" => params.mirostat.tau = x,
            "mirostat_eta" => params.mirostat.eta = x,
            "adaptive_target" => params.adaptive.target = x,
            "adaptive_decay" => params.adaptive.decay = x,
            other => panic!("unknown setting {other}"),
        }
    }
    params
}

/// Ascending ids as "0-3,7".
fn ranges(mut ids: Vec<u32>) -> String {
    ids.sort_unstable();
    let spans = ids.chunk_by(|a, b| a + 1 == *b);
    let shown = spans.map(|span| match span {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// What a sampler left, beside what llama.cpp's did: the same ids, and the likeliest with the same probabilities.
fn compare(left: &[(u32, f64)], wanted: &Value, what: &str) {
    let ids = left.iter().map(|(id, _)| *id).collect();
    assert_eq!(ranges(ids), wanted["kept"].as_str().unwrap(), "{what}");
    let wanted = wanted["best"].as_array().unwrap();
    for wanted in wanted {
        let id = wanted[0].as_u64().unwrap() as u32;
        let p = wanted[1].as_f64().unwrap();
        let found = left.iter().find(|(left, _)| *left == id).unwrap().1;
        assert!((found - p).abs() <= NEAR, "{what}: id {id} has {found}, llama.cpp {p}");
    }
}

fn drawable(candidates: &[Candidate]) -> Vec<(u32, f64)> {
    let all = candidates.iter().map(|c| c.id).zip(softmax(candidates));
    all.filter(|(_, p)| *p > 0.0).collect()
}

#[test]
fn every_case_keeps_what_llama_cpp_keeps() {
    let recorded = recorded();
    let cases = recorded["cases"].as_array().unwrap();
    for case in cases {
        let what = format!("{} {}", case["settings"], case["sequence"]);
        let letters = case["sequence"].as_str().unwrap();
        let sequence = SamplerKind::sequence_of_letters(letters).unwrap();
        let params = SamplerParams { sequence, ..params(&case["settings"]) };
        let all = Probabilities { of: ProbabilitiesOf::Sampler, best: usize::MAX / 4 };
        let mut sampler = Sampler::new(params).unwrap().telling(Some(all));
        let text = case["text"].as_array().unwrap();
        text.iter().for_each(|id| sampler.accept(id.as_u64().unwrap() as u32));
        let chosen = sampler.sample(&row(&recorded, case), 0).unwrap();
        let told = sampler.told().unwrap();
        let left: Vec<(u32, f64)> =
            told.best.iter().map(|told| (told.id, told.log_probability.exp())).collect();
        compare(&left, case, &what);
        assert!(left.iter().any(|(id, _)| *id == chosen), "{what}: {chosen} was not left");
    }
    assert_eq!(cases.len(), 58);
}

/// Mirostat and adaptive-p learn from what they draw: here, from what llama.cpp drew.
#[test]
fn loops_go_on_as_llama_cpp_s_from_the_same_draws() {
    let recorded = recorded();
    let loops = recorded["loops"].as_array().unwrap();
    for recorded_loop in loops {
        let params = params(&recorded_loop["settings"]);
        let n_vocab = recorded_loop["n_vocab"].as_u64().unwrap() as usize;
        let mut sampler = Sampler::new(params.clone()).unwrap();
        for (turn, step) in recorded_loop["steps"].as_array().unwrap().iter().enumerate() {
            let what = format!("{} step {turn}", recorded_loop["settings"]);
            let logits = row(&recorded, step);
            let mut list = Candidates::new(&logits).into_list();
            let drawn = step["drawn"].as_u64().unwrap() as u32;
            let at = |list: &[Candidate]| list.iter().position(|c| c.id == drawn).unwrap();
            if params.mirostat.version == MirostatVersion::Off {
                super::cut::min_p(&mut list, f64::from(params.min_p));
                let p = sampler.adaptive.aim(&mut list);
                compare(&drawable(&list), step, &what);
                sampler.adaptive.draw(drawn, p[at(&list)]);
                sampler.accept(drawn);
            } else {
                super::temperature::temperature(&mut list, f64::from(params.temperature));
                sampler.mirostat.cut(&mut list, n_vocab);
                compare(&drawable(&list), step, &what);
                sampler.mirostat.observe(softmax(&list)[at(&list)]);
            }
        }
    }
    assert_eq!(loops.len(), 8);
}
