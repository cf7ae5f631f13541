//! Size budgets and the table that `cargo xtask size` prints. A line counts if it holds code.

use super::source::Function;
use super::tree::Tree;
use super::{Finding, Rule};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;

const MAX_FILE: usize = 600;
const MAX_FUNCTION: usize = 60;
/// Kernels unroll, builders list: twice the lines.
const MAX_KERNEL: usize = 120;
/// Counted with the elements of tuples.
const MAX_PARAMS: usize = 5;
/// Where functions are kernels or builders.
const KERNELS: [&str; 4] =
    ["cpu/src/simd/", "cpu/src/kernels/", "gguf/src/quant/", "model/src/decoder/"];
/// Rows printed of each list.
const SHOWN: usize = 12;

fn function_budget(path: &str) -> usize {
    if KERNELS.iter().any(|place| path.starts_with(place)) { MAX_KERNEL } else { MAX_FUNCTION }
}

/// Files, functions and parameter lists over their budgets, and tuples that hide parameters.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust().filter(|(_, source)| !source.all_test) {
        let mut found = |line, rule, item: &str, what| {
            findings.push(Finding {
                path: file.path.clone(),
                line,
                rule,
                item: item.to_owned(),
                what,
            });
        };
        let (code, _) = source.code_and_test_lines();
        if code > MAX_FILE {
            found(0, Rule::FileSize, "", format!("{code} lines of code, at most {MAX_FILE}"));
        }
        let budget = function_budget(&file.path);
        for Function { name, line, code_lines, params, takes_tuple } in &source.functions {
            if *code_lines > budget {
                found(
                    *line,
                    Rule::FunctionSize,
                    name,
                    format!("`{name}` has {code_lines} lines, at most {budget}"),
                );
            }
            if *params > MAX_PARAMS {
                found(
                    *line,
                    Rule::Parameters,
                    name,
                    format!("`{name}` has {params} parameters, at most {MAX_PARAMS}"),
                );
            }
            if *takes_tuple {
                let what = format!("`{name}` takes a tuple: a struct would name its fields");
                found(*line, Rule::TupleParameters, name, what);
            }
        }
    }
    findings
}

/// Prints lines per crate, then the largest files and functions against their budgets.
pub(crate) fn print(root: &Path) -> Result<()> {
    print!("{}", table(&Tree::read(root)?));
    Ok(())
}

fn table(tree: &Tree) -> String {
    let mut crates: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for (file, source) in tree.rust() {
        let (code, tests) = source.code_and_test_lines();
        let name = file.path.split('/').next().unwrap_or_default();
        let row = crates.entry(name).or_default();
        *row = [row[0] + 1, row[1] + code, row[2] + tests];
        if !source.all_test {
            files.push((code, MAX_FILE, file.path.clone()));
            let budget = function_budget(&file.path);
            let named = |function: &Function| {
                (
                    function.code_lines,
                    budget,
                    format!("{}:{} {}", file.path, function.line, function.name),
                )
            };
            functions.extend(source.functions.iter().map(named));
        }
    }
    let mut text = format!("{:<10} {:>6} {:>7} {:>7}\n", "crate", "files", "code", "tests");
    let total = crates
        .values()
        .fold([0; 3], |sum, row| [sum[0] + row[0], sum[1] + row[1], sum[2] + row[2]]);
    for (name, [files, code, tests]) in crates.into_iter().chain([("total", total)]) {
        text += &format!("{name:<10} {files:>6} {code:>7} {tests:>7}\n");
    }
    text += &percentile_line(tree);
    text + &largest("files", files) + &largest("functions", functions)
}

/// How long 19 of 20 functions are at most, and how many parameters they take.
fn percentile_line(tree: &Tree) -> String {
    let real = tree.rust().filter(|(_, source)| !source.all_test);
    let functions: Vec<&Function> = real.flat_map(|(_, source)| &source.functions).collect();
    let of = |measure: fn(&Function) -> usize| {
        let mut all: Vec<usize> = functions.iter().map(|function| measure(function)).collect();
        all.sort_unstable();
        let largest = all.last().copied().unwrap_or_default();
        (all.get(all.len() * 95 / 100).copied().unwrap_or_default(), largest)
    };
    let (lines, most_lines) = of(|function| function.code_lines);
    let (params, most_params) = of(|function| function.params);
    format!(
        "{} functions: 95 % have at most {lines} lines (the longest {most_lines}) and {params} parameters (the most \
         {most_params})\n",
        functions.len()
    )
}

/// The rows that are nearest to their budgets.
fn largest(what: &str, mut rows: Vec<(usize, usize, String)>) -> String {
    rows.sort_by_key(|(lines, budget, name)| {
        (std::cmp::Reverse(lines * 1000 / budget), name.clone())
    });
    let mut text = format!("largest {what} (lines of code / budget)\n");
    for (lines, budget, name) in rows.into_iter().take(SHOWN) {
        text += &format!("{lines:>6} / {budget:<4} {name}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tree::TreeFile;
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        Tree::of(vec![TreeFile::new(path.into(), text.len() as u64, text.as_bytes())])
    }

    fn broken(path: &str, text: &str) -> Vec<(&'static str, String)> {
        check(&tree(path, text))
            .into_iter()
            .map(|finding| (finding.rule.name(), finding.item))
            .collect()
    }

    fn function(lines: usize) -> String {
        format!("//! A file.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn functions_over_budget_are_found() {
        assert!(broken("model/src/a.rs", &function(60)).is_empty());
        assert_eq!(broken("model/src/a.rs", &function(61)), [("function-size", "f".to_owned())]);
        assert!(broken("cpu/src/kernels/a.rs", &function(120)).is_empty());
        assert_eq!(
            broken("cpu/src/kernels/a.rs", &function(121)),
            [("function-size", "f".to_owned())]
        );
        assert!(broken("model/tests/a.rs", &function(200)).is_empty());
    }

    #[test]
    fn files_over_budget_are_found() {
        let text = |lines: usize| {
            format!("//! A file.\n{}\n", "/// Doc.\nconst A: u8 = 1;\n\n".repeat(lines))
        };
        assert!(broken("model/src/a.rs", &text(600)).is_empty());
        assert_eq!(broken("model/src/a.rs", &text(601)), [("file-size", String::new())]);
    }

    #[test]
    fn long_parameter_lists_are_found() {
        let text =
            "//! A file.\nfn f(a: u8, b: u8, c: u8, d: u8, e: u8, g: u8) {}\nfn h(a: u8) {}\n";
        assert_eq!(broken("model/src/a.rs", text), [("parameters", "f".to_owned())]);
    }

    #[test]
    fn tuples_hide_no_parameters() {
        let text = "//! A file.\nfn f(a: u8, b: u8, (c, d): (u8, u8)) {}\n";
        assert_eq!(broken("model/src/a.rs", text), [("tuple-parameters", "f".to_owned())]);
        let more = text.replace("b: u8,", "b: u8, e: u8, g: u8,");
        let both = ["parameters", "tuple-parameters"].map(|rule| (rule, "f".to_owned()));
        assert_eq!(broken("model/src/a.rs", &more), both);
        assert!(broken("model/tests/a.rs", text).is_empty());
    }

    #[test]
    fn nineteen_of_twenty_functions_are_described() {
        let long = "fn g(a: u8, b: u8) {\n    g();\n}\n";
        let text = format!("//! A file.\n{}{long}", "fn f(a: u8) {}\n".repeat(38));
        let line = percentile_line(&tree("model/src/a.rs", &text));
        let expect = "39 functions: 95 % have at most 1 lines (the longest 3) and 1 parameters (the most 2)\n";
        assert_eq!(line, expect);
    }

    #[test]
    fn the_table_counts_code_and_tests_apart() {
        let text = table(&tree(
            "model/src/a.rs",
            "//! A file.\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n",
        ));
        assert!(text.contains("model           1       1       3\n"), "{text}");
        assert!(text.contains("     1 / 60   model/src/a.rs:2 f\n"), "{text}");
    }
}
