//! `cargo xtask mutants`: changes the code in small ways, one at a time, and lists the changes that no test notices.
//! It takes hours, so no stage of `cargo xtask test` runs it; docs/mutants.md says what it found and why that is.

use crate::proc::{cargo, run};
use crate::tools::ensure_cargo_mutants;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Code whose mutants the tests of one package are to notice.
struct Group {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    /// Arguments of `cargo test` that choose the tests which may notice; none: all of the package.
    tests: &'static [&'static str],
    /// Seconds that a mutant's tests may take before it counts as noticed, for one that never ends.
    timeout: u32,
}

const GROUPS: &[Group] = &[
    Group {
        name: "graph",
        package: "karat-graph",
        files: &[
            "graph/src/ops/*.rs",
            "graph/src/math.rs",
            "graph/src/ints.rs",
            "graph/src/step.rs",
            "graph/src/reference.rs",
        ],
        tests: &[],
        timeout: 300,
    },
    Group {
        name: "sampler",
        package: "karat-model",
        files: &["model/src/sampler/*.rs", "model/src/generate.rs"],
        // The others quantise and build models for minutes, and sample nothing.
        tests: &["--lib", "--test", "sessions"],
        timeout: 60,
    },
    Group {
        name: "tokenizer",
        package: "karat-tokenizer",
        files: &["tokenizer/src/**/*.rs"],
        tests: &[],
        timeout: 300,
    },
    Group {
        name: "cpu",
        package: "karat-cpu",
        files: &["cpu/src/kernels/**/*.rs", "cpu/src/plan.rs"],
        tests: &[],
        timeout: 1200,
    },
];

/// Runs the named groups, or the given files of one package's tests, or all groups; `false` if a mutant survived.
pub(crate) fn run_args(root: &Path, args: &[String]) -> Result<bool> {
    let known = |name: &String| GROUPS.iter().any(|group| group.name == name);
    let (names, files): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| known(arg));
    let chosen: Vec<&Group> = match (names.is_empty(), files.is_empty()) {
        (true, true) => GROUPS.iter().collect(),
        (false, true) => GROUPS.iter().filter(|g| names.iter().any(|n| *n == g.name)).collect(),
        (false, false) if names.len() == 1 => {
            GROUPS.iter().filter(|g| g.name == names[0]).collect()
        }
        (_, false) => {
            let groups: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            bail!("give one of {} before the files", groups.join(", "));
        }
    };
    let program = ensure_cargo_mutants(root)?;
    let mut all_noticed = true;
    for group in chosen {
        let files: Vec<&str> = if files.is_empty() {
            group.files.to_vec()
        } else {
            files.iter().map(|file| file.as_str()).collect()
        };
        std::fs::create_dir_all(lists(root, group))?;
        all_noticed &= run(root, &mut command(root, &program, group, &files))?.ok();
    }
    Ok(all_noticed)
}

/// Where the lists of a group's mutants go.
fn lists(root: &Path, group: &Group) -> PathBuf {
    root.join("target/mutants").join(group.name)
}

fn command(root: &Path, program: &Path, group: &Group, files: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["mutants", "--profile", "mutants", "--package", group.package]);
    command.args(["--test-package", group.package, "--no-shuffle", "--colors", "never"]);
    command.arg("--timeout").arg(group.timeout.to_string());
    command.arg("--output").arg(lists(root, group));
    files.iter().for_each(|file| {
        command.args(["--file", file]);
    });
    command.arg("--").args(group.tests);
    // Of the CPU contract every fifth case: each op and each width of quants is still there.
    command.env("KARAT_CONTRACT_SHARE", "5").env("CARGO", cargo(&[]).get_program());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_need_the_package_whose_tests_are_to_notice() {
        let args = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let root = Path::new("/nowhere");
        for line in ["graph/src/math.rs", "graph cpu graph/src/math.rs"] {
            let error = run_args(root, &args(line)).unwrap_err().to_string();
            assert!(error.starts_with("give one of graph, sampler"), "{error}");
        }
    }

    #[test]
    fn every_pattern_names_files_that_are_there() {
        for pattern in GROUPS.iter().flat_map(|group| group.files) {
            let folder = pattern.split(['*']).next().unwrap_or(pattern);
            assert!(crate::root().join(folder).exists(), "{pattern}");
        }
    }
}
