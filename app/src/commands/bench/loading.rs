//! `karat bench --load`: how long a model takes to its first token, part by part, and how much memory it takes at most.

use super::run::TEXT;
use super::stats::median;
use super::table::Align::{Left, Right};
use super::table::{Table, number};
use crate::load;
use anyhow::Result;
use karat::{Config, Info, LoadTimes, Options, memory, text};
use model::sampler::argmax;
use std::ffi::OsStr;
use std::time::Instant;
use tokenizer::{Ends, Special};

/// Memory that a run may take besides weights and cache.
const SLACK: u64 = 150_000_000;

/// What was measured of one model.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Loading {
    pub(super) model: Info,
    /// Each load.
    runs: Vec<Times>,
    /// Of each part.
    median: Times,
    /// Bytes of the process at their peak, until the first token of the first load; absent where the system does not
    /// say.
    peak_rss: Option<u64>,
    /// 1.25 × file + KV + 150 MB.
    allowed_rss: u64,
}

/// Seconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Times {
    /// Until the model is there.
    #[serde(flatten)]
    load: LoadTimes,
    /// A sentence read, and its next token chosen.
    first_token: f64,
    /// All parts.
    total: f64,
}

impl Times {
    /// Names and values, in order.
    fn parts(&self) -> [(&'static str, f64); 7] {
        let LoadTimes { open, tokenizer, graph, weights, cache } = self.load;
        [
            ("open", open),
            ("tokenizer", tokenizer),
            ("graph", graph),
            ("weights", weights),
            ("cache", cache),
            ("first token", self.first_token),
            ("total", self.total),
        ]
    }

    fn median(runs: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(&runs.iter().map(part).collect::<Vec<f64>>());
        Self {
            load: LoadTimes {
                open: of(|run| run.load.open),
                tokenizer: of(|run| run.load.tokenizer),
                graph: of(|run| run.load.graph),
                weights: of(|run| run.load.weights),
                cache: of(|run| run.load.cache),
            },
            first_token: of(|run| run.first_token),
            total: of(|run| run.total),
        }
    }
}

/// Loads a model `repetitions` times.
pub(super) fn run(
    model: Option<&OsStr>,
    options: &Options,
    repetitions: usize,
    config: &Config,
) -> Result<Loading> {
    let first = once(model, options, config)?;
    let peak_rss = memory::peak();
    let mut runs = vec![first.times];
    for _ in 1..repetitions {
        runs.push(once(model, options, config)?.times);
    }
    let weights = first.info.file_bytes;
    let allowed_rss = weights
        .saturating_add(weights / 4)
        .saturating_add(first.info.kv_bytes)
        .saturating_add(SLACK);
    Ok(Loading { median: Times::median(&runs), runs, peak_rss, allowed_rss, model: first.info })
}

struct Once {
    info: Info,
    times: Times,
}

fn once(model: Option<&OsStr>, options: &Options, config: &Config) -> Result<Once> {
    let start = Instant::now();
    let model = load::model(model, options, config)?;
    let loaded = start.elapsed().as_secs_f64();
    let ids = model.tokenizer().encode(TEXT, Special::AsText, Ends::None)?;
    let logits = model.sequence()?.feed(&ids)?;
    std::hint::black_box(argmax(&logits));
    let total = start.elapsed().as_secs_f64();
    let info = model.info().clone();
    let times = Times { load: info.load_times, first_token: total - loaded, total };
    Ok(Once { info, times })
}

/// For people: the median of each part, the slowest and the fastest.
pub(super) fn table(loading: &Loading) -> Table {
    let mut table = Table::new(&[
        ("part", Left),
        ("ms (median)", Right),
        ("lowest", Right),
        ("highest", Right),
    ]);
    for (i, (name, seconds)) in loading.median.parts().into_iter().enumerate() {
        let all = || loading.runs.iter().map(|run| run.parts()[i].1);
        let lowest = all().fold(f64::INFINITY, f64::min);
        let highest = all().fold(0.0, f64::max);
        let ms = |seconds: f64| number(seconds * 1e3);
        table.row([name.to_owned(), ms(seconds), ms(lowest), ms(highest)]);
    }
    table
}

/// The memory in a sentence.
pub(super) fn memory_line(loading: &Loading) -> String {
    let allowed = text::bytes(loading.allowed_rss);
    match loading.peak_rss {
        Some(peak) => {
            let verdict = if peak <= loading.allowed_rss { "within" } else { "over" };
            let peak = text::bytes(peak);
            format!("peak memory {peak}, {verdict} 1.25 × file + KV cache + 150 MB = {allowed}")
        }
        None => format!("peak memory unknown on this system; the aim is {allowed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(total: f64) -> Times {
        let load =
            LoadTimes { open: 0.001, tokenizer: 0.02, graph: 0.003, weights: 0.1, cache: 0.0 };
        Times { load, first_token: 0.01, total }
    }

    #[test]
    fn parts_have_medians_of_their_own() {
        let runs = [times(0.2), times(0.1), times(0.4)];
        assert_eq!(Times::median(&runs).total, 0.2);
        assert_eq!(Times::median(&runs).load.weights, 0.1);
        let info = Info { file_bytes: 100, kv_bytes: 7, ..Info::default() };
        let mut loading = Loading {
            model: info,
            median: Times::median(&runs),
            runs: runs.to_vec(),
            peak_rss: Some(1 << 20),
            allowed_rss: 2 << 20,
        };
        let text = table(&loading).markdown();
        assert!(text.contains("| total       |       200.0 |  100.0 |   400.0 |"), "{text}");
        assert!(memory_line(&loading).contains("1.0 MiB, within"), "{}", memory_line(&loading));
        loading.peak_rss = Some(3 << 20);
        assert!(memory_line(&loading).contains("over"), "{}", memory_line(&loading));
    }
}
