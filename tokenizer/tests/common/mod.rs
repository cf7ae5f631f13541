//! Where the tests find real vocabularies: beside the project, and where `KARAT_VOCAB_DIR` points.

use std::path::{Path, PathBuf};

/// A file or folder of `../shared` beside the project, or `None` with a line that says what is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    println!("skipped: ../shared/{path} is not beside the project");
    None
}

/// The path in an environment variable, or `None` with a line that says what is skipped.
#[allow(
    clippy::disallowed_methods,
    reason = "tests take their optional inputs from the environment"
)]
pub(crate) fn from_env(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable);
    if path.is_none() {
        println!("skipped: {variable} is not set");
    }
    path.map(PathBuf::from)
}

/// All `*.gguf` files in a folder that have their cases beside them, in order.
pub(crate) fn vocabularies(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        path.extension().is_some_and(|e| e == "gguf") && beside(path, ".inp").exists()
    });
    found.sort();
    found
}

/// `x.gguf` to `x.gguf.inp`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
