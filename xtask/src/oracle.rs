//! Where llama.cpp's recorded results are, and the command that compares karat with them.

use crate::proc::{cargo, run as run_child};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The folder of recorded results, beside the project's root, if this machine has it.
pub(crate) fn data_dir(root: &Path) -> Option<PathBuf> {
    let dir = root.join("../shared/oracle");
    dir.is_dir().then_some(dir)
}

/// Runs the comparison and prints its figures; `false` if karat disagrees with llama.cpp.
pub(crate) fn run(root: &Path) -> Result<bool> {
    if data_dir(root).is_none() {
        bail!("../shared/oracle is absent: nothing to compare with");
    }
    let mut command =
        cargo(&["test", "--release", "-p", "karat-cli", "--test", "oracle", "--", "--nocapture"]);
    Ok(run_child(root, &mut command)?.ok())
}
