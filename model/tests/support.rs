//! docs/support.md is what the architectures and docs/support.tsv say: which there are, and how each was held against
//! llama.cpp. `UPDATE_EXPECT=1 cargo test -p karat-model --test support` writes it anew; tools/check_archs.py writes the
//! figures.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use expect_test::expect_file;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "# What is supported, and how it was checked

Generated from the architectures and `docs/support.tsv` (`model/tests/support.rs` says how); nothing is written here by hand.

Each architecture has a small random model (`karat synth --arch NAME`), of which a test fixes the graph, another the bits: the
same one token at a time, in chunks, in batches, in all three arithmetics, and on the CPU at its fastest level. Where the
table has figures, llama.cpp ran the same file, `tools/trace_llama_cpp.py` recorded each of its values and `karat why` judged
every one on llama.cpp's own inputs: F32 by the bound of rounding, Q4_0 with the bound of int8 products. `RIGHT 345 / 345`
says that all values were there and right; a value that llama.cpp does not compute as one is UNMEASURED, which is no pass.
`tools/check_archs.py` does all of it again.

Where llama.cpp computes something else than the models were trained with, karat follows the models: of qwen2vl it reads no
epsilon of the norms and has 0 (the row below is of a file whose epsilon is next to nothing); of qwen3vl it leaves pairs
unturned that no section covers; of minicpm it multiplies where a file without `logit_scale` means a division.

| architecture | llama.cpp, F32 | llama.cpp, Q4_0 |
|---|---|---|
";

/// How many values of each verdict, `RIGHT 345 UNMEASURED 3`.
type Figures = BTreeMap<(&'static str, &'static str), Vec<(&'static str, usize)>>;

fn figures() -> Figures {
    let lines = include_str!("../../docs/support.tsv").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [arch, format, counts @ ..] = fields.as_slice() else { panic!("{line}") };
        let counts = counts.iter().map(|count| {
            let (verdict, n) = count.split_once(' ').unwrap();
            (verdict, n.parse().unwrap())
        });
        ((*arch, *format), counts.collect())
    });
    parsed.collect()
}

/// A cell: what was right of how many, and what else there was.
fn cell(counts: Option<&Vec<(&str, usize)>>) -> String {
    let Some(counts) = counts else { return "not recorded".to_owned() };
    let all: usize = counts.iter().map(|(_, n)| n).sum();
    let right = counts.iter().find(|(verdict, _)| *verdict == "RIGHT").map_or(0, |(_, n)| *n);
    let mut cell = format!("RIGHT {right} / {all}");
    for (verdict, n) in counts.iter().filter(|(verdict, _)| *verdict != "RIGHT") {
        write!(cell, ", {verdict} {n}").unwrap();
    }
    cell
}

#[test]
fn the_table_is_fresh() {
    let figures = figures();
    let mut text = HEAD.to_owned();
    for arch in model::arch::ARCHS {
        let [f32, q4_0] = ["F32", "Q4_0"].map(|format| cell(figures.get(&(arch.name, format))));
        writeln!(text, "| {} | {f32} | {q4_0} |", arch.name).unwrap();
    }
    expect_file!["../../docs/support.md"].assert_eq(&text);
}

/// A figure of what is no architecture is a slip, and one that is wrong is no support.
#[test]
fn all_figures_are_of_architectures_and_right() {
    for ((name, format), counts) in figures() {
        assert!(model::arch::ARCHS.iter().any(|arch| arch.name == name), "{name}");
        let is_bad = |(verdict, _): &(&str, usize)| !["RIGHT", "UNMEASURED"].contains(verdict);
        assert!(!counts.iter().any(is_bad), "{name} {format}: {counts:?}");
    }
}
