//! What `cargo test --no-run` made: the program and every test executable. They are compiled once, with one set of
//! features, and the stages run them directly: a `cargo test` of a single package would choose other features for what
//! the packages share, and compile a second wgpu.

use crate::proc::{End, answer_of, cargo, run};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program and the tests.
pub(crate) struct Built {
    /// `karat`.
    pub(crate) program: PathBuf,
    pub(crate) tests: Vec<TestProgram>,
}

/// The tests of one target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// The folder of its package.
    dir: PathBuf,
    /// The target's name, which for unit tests is the crate's.
    target: String,
    file: PathBuf,
}

/// The messages of cargo that matter here, and of those the fields that do.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Built {
    /// Compiles everything that the stages run.
    pub(crate) fn make(root: &Path, flags: &[&str]) -> Result<Self> {
        let mut command = cargo(&["test", "--no-run", "--workspace"]);
        command.args(flags).arg("--message-format=json-render-diagnostics");
        let Some(messages) = answer_of(root, &mut command)? else { bail!("it does not compile") };
        Self::read(&messages)
    }

    fn read(messages: &str) -> Result<Self> {
        let (mut program, mut tests) = (None, Vec::new());
        for line in messages.lines().filter(|line| line.starts_with('{')) {
            let artifact: Artifact = serde_json::from_str(line).context("cargo's messages")?;
            let (Some(file), Some(target)) = (artifact.executable, artifact.target) else {
                continue;
            };
            if artifact.reason != "compiler-artifact" {
                continue;
            }
            let manifest = artifact.manifest_path.context("an artifact without a manifest")?;
            let dir = manifest.parent().context("a manifest without a folder")?.to_owned();
            if artifact.profile.is_some_and(|profile| profile.test) {
                tests.push(TestProgram { dir, target: target.name, file });
            } else if target.name == "karat" && target.kind == ["bin"] {
                program = Some(file);
            }
        }
        Ok(Self { program: program.context("cargo built no program `karat`")?, tests })
    }

    /// The tests `target` of the package in folder `dir`.
    pub(crate) fn test(&self, dir: &str, target: &str) -> Result<&TestProgram> {
        let found = self.tests.iter().find(|test| test.is(dir, target));
        found.with_context(|| format!("{dir} has no tests `{target}`"))
    }
}

impl TestProgram {
    /// Whether it is the tests `target` of the package in folder `dir`.
    pub(crate) fn is(&self, dir: &str, target: &str) -> bool {
        self.dir.ends_with(dir) && self.target == target
    }

    /// For people: `gpu contract`.
    pub(crate) fn name(&self) -> String {
        let dir = self.dir.file_name().unwrap_or_default().to_string_lossy();
        format!("{dir} {}", self.target)
    }

    /// Runs it as cargo does, in its package's folder; `through` is a program that is given the executable to run.
    pub(crate) fn run(
        &self,
        through: &[String],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<End> {
        let mut words = through.iter().map(Path::new).chain([&*self.file]);
        let mut command = Command::new(words.next().unwrap_or(&self.file));
        command.args(words);
        // Snapshots are found by it.
        command.env("CARGO_MANIFEST_DIR", &self.dir);
        prepare(&mut command);
        run(&self.dir, &mut command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"
{"reason":"build-script-executed","package_id":"x","linked_libs":[]}
{"reason":"compiler-artifact","manifest_path":"/a/gpu/Cargo.toml","target":{"kind":["lib"],"name":"gpu"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/a/gpu/Cargo.toml","target":{"kind":["lib"],"name":"gpu"},"profile":{"test":true},"executable":"/t/gpu-1"}
{"reason":"compiler-artifact","manifest_path":"/a/gpu/Cargo.toml","target":{"kind":["test"],"name":"contract"},"profile":{"test":true},"executable":"/t/contract-2"}
{"reason":"compiler-artifact","manifest_path":"/a/app/Cargo.toml","target":{"kind":["bin"],"name":"karat"},"profile":{"test":true},"executable":"/t/karat-3"}
{"reason":"compiler-artifact","manifest_path":"/a/app/Cargo.toml","target":{"kind":["bin"],"name":"karat"},"profile":{"test":false},"executable":"/t/karat"}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn the_program_and_its_tests_are_told_apart() {
        let built = Built::read(MESSAGES).unwrap();
        assert_eq!(built.program, Path::new("/t/karat"));
        let names: Vec<String> = built.tests.iter().map(TestProgram::name).collect();
        assert_eq!(names, ["gpu gpu", "gpu contract", "app karat"]);
        assert_eq!(built.test("gpu", "contract").unwrap().file, Path::new("/t/contract-2"));
        assert!(built.test("cpu", "contract").is_err());
        let without = MESSAGES.replace("\"/t/karat\"", "null");
        assert!(Built::read(&without).is_err());
    }
}
