//! `cargo xtask miri`: the tests of the thread pool under Miri, which runs them in several interleavings and finds data
//! races, wrong borrows and reads of old values that the memory model allows but no machine at hand shows.
//! It needs a nightly toolchain, so no stage of `cargo xtask test` runs it.

use crate::proc::{answer, run};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// Interleavings.
const SEEDS: u32 = 16;

/// Runs the tests; `false` if Miri found something.
pub(crate) fn run_pool(root: &Path) -> Result<bool> {
    let present = || answer("cargo", &["+nightly", "miri", "--version"]).is_some();
    let add = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "miri"];
    if !present() {
        let added = run(root, Command::new("rustup").args(add).args(["--component", "rust-src"]));
        if !added.is_ok_and(|end| end.ok()) || !present() {
            bail!("Miri comes with a nightly toolchain, which is not here and cannot be added");
        }
    }
    // Through rustup, not the cargo that runs us: that one is of the pinned toolchain.
    let mut command = Command::new("cargo");
    command.args(["+nightly", "miri", "test", "-p", "karat-cpu", "--lib", "pool::"]);
    command.args(["--target-dir", "target/miri"]).env_remove("RUSTUP_TOOLCHAIN");
    command.env("MIRIFLAGS", format!("-Zmiri-disable-isolation -Zmiri-many-seeds=0..{SEEDS}"));
    Ok(run(root, &mut command)?.ok())
}
