//! `cargo xtask loom`: the thread pool under loom, which tries every interleaving of its threads up to a bound of
//! preemptions. `cpu/loom` is a workspace of its own, so no stage of `cargo xtask test` runs it.

use crate::proc::{cargo, run};
use anyhow::Result;
use std::path::Path;

/// Runs the model; `false` if loom found something.
pub(crate) fn run_pool(root: &Path) -> Result<bool> {
    let mut command = cargo(&["test", "--release", "--manifest-path", "cpu/loom/Cargo.toml"]);
    // The pool's own tests come with its file; they want the system's threads.
    command.args(["--target-dir", "target/loom", "--lib", "model::"]);
    command.env("RUSTFLAGS", "--cfg loom");
    Ok(run(root, &mut command)?.ok())
}
