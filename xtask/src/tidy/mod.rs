//! The project's own rules, checked over the tracked files: crate levels, the unsafe fence, architecture names,
//! headers, unfinished code, machine-specific text, weights, size budgets. Exceptions stand in `xtask/tidy.toml`.

mod allow;
mod levels;
mod rust_rules;
mod size;
mod source;
mod text_rules;
mod tree;

pub(crate) use size::print as print_sizes;

use allow::{AllowList, Applied};
use anyhow::Result;
use std::fmt;
use std::path::Path;
use tree::Tree;

/// A rule that the allow-list can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// A crate uses only crates of a lower level, and takes the workspace's lints.
    Levels,
    /// `unsafe` only behind the fence, and every crate root says so to the compiler.
    UnsafeFence,
    /// Architecture names only in `model/src/arch/`.
    ArchNames,
    /// The first line of a file says what it is for.
    FirstLine,
    /// No `todo!`, no `unimplemented!`, no test that is ignored without a reason.
    Unfinished,
    /// No host names of registries, paths of one machine, or e-mail addresses.
    MachineText,
    /// No model weights and no large files.
    Weights,
    /// At most 600 lines of non-test code in a file.
    FileSize,
    /// At most 60 lines in a function, 120 in a kernel or builder.
    FunctionSize,
    /// At most 5 parameters, the elements of tuples counted.
    Parameters,
    /// No parameter is a tuple.
    TupleParameters,
    /// No comment says "so many" where a name would tell the reader what is counted.
    SoMany,
    /// The allow-list itself: every entry has a reason and is used.
    AllowList,
}

impl Rule {
    const ALL: [Self; 13] = [
        Self::Levels,
        Self::UnsafeFence,
        Self::ArchNames,
        Self::FirstLine,
        Self::Unfinished,
        Self::MachineText,
        Self::Weights,
        Self::FileSize,
        Self::FunctionSize,
        Self::Parameters,
        Self::TupleParameters,
        Self::SoMany,
        Self::AllowList,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Levels => "levels",
            Self::UnsafeFence => "unsafe-fence",
            Self::ArchNames => "arch-names",
            Self::FirstLine => "first-line",
            Self::Unfinished => "unfinished",
            Self::MachineText => "machine-text",
            Self::Weights => "weights",
            Self::FileSize => "file-size",
            Self::FunctionSize => "function-size",
            Self::Parameters => "parameters",
            Self::TupleParameters => "tuple-parameters",
            Self::SoMany => "so-many",
            Self::AllowList => "allow-list",
        }
    }
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the project's root, with `/`.
    path: String,
    /// 1-based; 0 if the whole file is meant.
    line: usize,
    rule: Rule,
    /// What an allow-list entry names: the function, the word, the dependency; may be empty.
    item: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule.name(), self.what)
    }
}

/// Checks the tree under `root`, prints every breach, and says whether there was none.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let Applied { findings, ratchets } = check_root(root)?;
    for finding in &findings {
        println!("{finding}");
    }
    for ratchet in ratchets {
        println!("{ratchet}");
    }
    println!("tidy: {} rules, {} findings", Rule::ALL.len(), findings.len());
    Ok(findings.is_empty())
}

fn check_root(root: &Path) -> Result<Applied> {
    let tree = Tree::read(root)?;
    let allow = AllowList::read(&root.join(allow::PATH))?;
    Ok(check(&tree, &allow))
}

/// All rules over all files, less what the allow-list excuses.
fn check(tree: &Tree, allow: &AllowList) -> Applied {
    let mut findings = levels::check(tree);
    findings.extend(text_rules::check(tree));
    findings.extend(rust_rules::check(tree));
    findings.extend(size::check(tree));
    let mut applied = allow.apply(findings);
    applied.findings.sort();
    applied
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What keeps the rules alive: plain `cargo test` checks the whole project.
    #[test]
    fn the_project_is_tidy() {
        let findings = check_root(crate::root()).unwrap().findings;
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "\n{}\n", text.join("\n"));
    }

    #[test]
    fn rules_have_distinct_names() {
        let mut names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
