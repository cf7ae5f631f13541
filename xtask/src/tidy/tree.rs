//! The files that tidy looks at: those that git tracks or would track, read once.

use super::source::Source;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Larger files are known by their size only.
const MAX_READ: u64 = 4 << 20;

/// One file, with its text if it is text.
pub(super) struct TreeFile {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) len: u64,
    /// The first bytes, enough to know a magic number.
    pub(super) head: Vec<u8>,
    pub(super) text: Option<String>,
    /// Present for `.rs` files; an error is one that rustc will report better.
    pub(super) rust: Option<Result<Source, String>>,
}

/// The whole project.
pub(super) struct Tree {
    pub(super) files: Vec<TreeFile>,
}

impl Tree {
    /// Reads the project under `root`: by git where it is a checkout, by walking the folders where it is not.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for path in list(root)? {
            let full = root.join(&path);
            // A file deleted in the working tree but not yet in the index, or a link.
            let Ok(meta) = fs::symlink_metadata(&full) else { continue };
            if !meta.is_file() {
                continue;
            }
            let bytes = if meta.len() <= MAX_READ {
                fs::read(&full).with_context(|| path.clone())?
            } else {
                Vec::new()
            };
            files.push(TreeFile::new(path, meta.len(), &bytes));
        }
        Ok(Self::of(files))
    }

    /// A tree of the given files: marks the out-of-line test modules that only their parents know of.
    pub(super) fn of(mut files: Vec<TreeFile>) -> Self {
        let mut test_files = BTreeSet::new();
        for file in &files {
            if let Some(Ok(source)) = &file.rust {
                test_files.extend(
                    source.test_modules.iter().flat_map(|name| module_paths(&file.path, name)),
                );
            }
        }
        for file in &mut files {
            if let Some(Ok(source)) = &mut file.rust {
                source.all_test |= test_files.contains(&file.path);
            }
        }
        Self { files }
    }

    /// The Rust sources that parsed.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&TreeFile, &Source)> {
        self.files.iter().filter_map(|file| match &file.rust {
            Some(Ok(source)) => Some((file, source)),
            Some(Err(_)) | None => None,
        })
    }
}

impl TreeFile {
    pub(super) fn new(path: String, len: u64, bytes: &[u8]) -> Self {
        let text =
            std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned);
        let rust =
            text.as_ref().filter(|_| path.ends_with(".rs")).map(|text| Source::parse(&path, text));
        Self { path, len, head: bytes[..bytes.len().min(16)].to_vec(), text, rust }
    }
}

/// Where `mod name;` in `parent` may lie.
fn module_paths(parent: &str, name: &str) -> [String; 2] {
    let (dir, file) = parent.rsplit_once('/').unwrap_or(("", parent));
    let dir = match file {
        "mod.rs" | "lib.rs" | "main.rs" => dir.to_owned(),
        other => format!("{dir}/{}", other.trim_end_matches(".rs")),
    };
    [format!("{dir}/{name}.rs"), format!("{dir}/{name}/mod.rs")]
}

fn list(root: &Path) -> Result<Vec<String>> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let mut paths: Vec<String> = match git {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
            text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
        }
        // An unpacked source archive, or a machine without git.
        Ok(_) | Err(_) => {
            let mut found = Vec::new();
            walk(root, "", &mut found)?;
            found
        }
    };
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        bail!("no files under {}", root.display());
    }
    Ok(paths)
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a file name is not UTF-8")?;
        let kind = entry.file_type()?;
        if kind.is_dir() && !matches!(name.as_str(), "target" | ".git" | ".venv") {
            walk(&entry.path(), &format!("{prefix}{name}/"), found)?;
        } else if kind.is_file() {
            found.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_line_test_modules_count_as_tests() {
        let parent = TreeFile::new(
            "gguf/src/file.rs".into(),
            1,
            b"//! x\n#[cfg(test)]\nmod checks;\nmod real;\n",
        );
        let child = TreeFile::new("gguf/src/file/checks.rs".into(), 1, b"//! x\nfn a() {}\n");
        let real = TreeFile::new("gguf/src/file/real.rs".into(), 1, b"//! x\nfn a() {}\n");
        let tree = Tree::of(vec![parent, child, real]);
        let tests: Vec<bool> = tree.rust().map(|(_, source)| source.all_test).collect();
        assert_eq!(tests, [false, true, false]);
    }

    #[test]
    fn walking_finds_what_git_lists() {
        let mut walked = Vec::new();
        walk(crate::root(), "", &mut walked).unwrap();
        for path in list(crate::root()).unwrap().iter().filter(|path| path.ends_with(".rs")) {
            assert!(walked.contains(path) || !crate::root().join(path).exists(), "{path}");
        }
    }
}
