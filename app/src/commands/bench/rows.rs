//! The results row by row for programs, as llama-bench prints them: CSV, JSON, a JSON object on each line, SQL. Columns that
//! llama-bench has, too, have its names and mean the same.

use super::run::Outcome;
use super::table::Align::{Left, Right};
use super::table::Table;
use super::{Report, file_stem};
use karat::Info;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// One test of one model with one set of options.
pub(super) struct Row {
    cells: Vec<Cell>,
    /// Of each run.
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
}

struct Cell {
    column: &'static str,
    value: Value,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Integer(u64),
    /// `None` where nothing was measured.
    Real(Option<f64>),
}

/// All rows, in the order in which they were measured.
pub(super) fn rows(reports: &[Report]) -> Vec<Row> {
    let all = reports
        .iter()
        .flat_map(|Report { model, tests }| tests.iter().map(move |test| (model, test)));
    all.map(|(model, test)| Row::new(model, test)).collect()
}

impl Row {
    fn new(model: &Info, test: &Outcome) -> Self {
        use Value::{Integer, Real, Text};
        let tokens = (test.n_prompt + test.n_gen * test.batch) as f64;
        let samples_ns: Vec<u64> =
            test.per_second.iter().map(|rate| (tokens / rate * 1e9).round() as u64).collect();
        let ns: Vec<f64> = samples_ns.iter().map(|&ns| ns as f64).collect();
        let Mean { mean: avg_ns, deviation: stddev_ns } = Mean::of(&ns);
        let Mean { mean: avg_ts, deviation: stddev_ts } = Mean::of(&test.per_second);
        let integer = |n: usize| Integer(n as u64);
        let cells = [
            ("model", Text(file_stem(model))),
            ("model_filename", Text(model.path.clone())),
            ("model_type", Text(model.name.clone())),
            ("model_size", Integer(model.weight_bytes)),
            ("model_n_params", Integer(model.n_params)),
            ("backends", Text(model.backend.clone())),
            ("n_batch", integer(model.n_batch)),
            ("n_ubatch", integer(model.n_batch)),
            ("n_threads", integer(model.threads)),
            ("type_k", Text(model.cache_type.to_owned())),
            ("type_v", Text(model.cache_type.to_owned())),
            ("arithmetic", Text(model.arithmetic.to_owned())),
            ("test", Text(test.name.clone())),
            ("n_prompt", integer(test.n_prompt)),
            ("n_gen", integer(test.n_gen)),
            ("n_depth", integer(test.n_depth)),
            ("n_seqs", integer(test.batch)),
            ("n_runs", integer(test.per_second.len())),
            ("avg_ns", Integer(avg_ns as u64)),
            ("stddev_ns", Integer(stddev_ns as u64)),
            ("avg_ts", Real(Some(avg_ts))),
            ("stddev_ts", Real(Some(stddev_ts))),
            ("median_ts", Real(Some(test.spread.median))),
            ("mad_ts", Real(Some(test.spread.mad))),
            ("lowest_ts", Real(Some(test.spread.lowest))),
            ("highest_ts", Real(Some(test.spread.highest))),
            ("of_limit", Real(test.of_limit)),
        ];
        let cells = cells.into_iter().map(|(column, value)| Cell { column, value }).collect();
        Self { cells, samples_ns, samples_ts: test.per_second.clone() }
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for Cell { column, value } in &self.cells {
            map.serialize_entry(column, value)?;
        }
        map.serialize_entry("samples_ns", &self.samples_ns)?;
        map.serialize_entry("samples_ts", &self.samples_ts)?;
        map.end()
    }
}

/// A head and the rows, without the samples.
pub(super) fn csv(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let align = |value: &Value| match value {
        Value::Text(_) => Left,
        Value::Integer(_) | Value::Real(_) => Right,
    };
    let columns: Vec<_> =
        first.cells.iter().map(|cell| (cell.column, align(&cell.value))).collect();
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row.cells.iter().map(|cell| match &cell.value {
            Value::Text(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Real(x) => x.map_or_else(String::new, |x| x.to_string()),
        }));
    }
    table.csv()
}

/// A table and its rows for SQLite, without the samples.
pub(super) fn sql(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let joined = |parts: &mut dyn Iterator<Item = String>| parts.collect::<Vec<_>>().join(", ");
    let columns = joined(&mut first.cells.iter().map(|Cell { column, value }| {
        let kind = match value {
            Value::Text(_) => "TEXT",
            Value::Integer(_) => "INTEGER",
            Value::Real(_) => "REAL",
        };
        format!("{column} {kind}")
    }));
    let mut text = format!("CREATE TABLE IF NOT EXISTS karat_bench ({columns});\n");
    for row in rows {
        let names = joined(&mut row.cells.iter().map(|cell| cell.column.to_owned()));
        let values = joined(&mut row.cells.iter().map(|cell| match &cell.value {
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Value::Integer(n) => n.to_string(),
            Value::Real(x) => x.map_or_else(|| "NULL".to_owned(), |x| format!("{x:?}")),
        }));
        text.push_str(&format!("INSERT INTO karat_bench ({names}) VALUES ({values});\n"));
    }
    text
}

/// What llama-bench says of several runs.
struct Mean {
    mean: f64,
    /// The standard deviation of a sample; 0 of one run.
    deviation: f64,
}

impl Mean {
    /// Of at least one.
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Self { mean, deviation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows that llama-bench printed: `bench/fixtures/llama-bench.jsonl`.
    #[test]
    fn means_and_deviations_are_llama_bench_s() {
        let text = include_str!("../../../../bench/fixtures/llama-bench.jsonl");
        let mut seen = 0;
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let samples: Vec<f64> = row["samples_ns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|ns| ns.as_f64().unwrap())
                .collect();
            let Mean { mean, deviation } = Mean::of(&samples);
            assert_eq!(mean as u64, row["avg_ns"]);
            // It computes in whole numbers, which moves the last digits: 2330220 for 2330217.28.
            let theirs = row["stddev_ns"].as_f64().unwrap();
            assert!((deviation / theirs - 1.0).abs() < 1e-5, "{deviation} {theirs}");
            seen += 1;
        }
        assert_eq!(seen, 2);
        assert_eq!(Mean::of(&[3.0]).deviation, 0.0);
    }
}
