//! Set-up of the tools that the stages call, where the machine lacks them and lets us install them.

use crate::proc::{End, answer, cargo, run, run_limited, say};
use crate::stages::target_installed;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Pinned, so that a new release of a tool does not change what CI says.
const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
const CARGO_MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };

/// A command of cargo's that is a crate.
struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Adds the rustup component that brings `program`, if `program` does not answer.
pub(crate) fn ensure_component(root: &Path, component: &str, program: &str) -> Result<()> {
    if answer(program, &["--version"]).is_some() {
        return Ok(());
    }
    if !run(root, Command::new("rustup").args(["component", "add", component]))?.ok() {
        bail!("`{program}` is missing and `rustup component add {component}` failed");
    }
    Ok(())
}

/// The path of a cargo-deny: the installed one, or one that is built once into `target/tools`.
pub(crate) fn ensure_cargo_deny(root: &Path) -> Result<PathBuf> {
    ensure_tool(root, &CARGO_DENY)
}

/// The path of a cargo-mutants, as [`ensure_cargo_deny`].
pub(crate) fn ensure_cargo_mutants(root: &Path) -> Result<PathBuf> {
    ensure_tool(root, &CARGO_MUTANTS)
}

fn ensure_tool(root: &Path, Tool { name, version }: &Tool) -> Result<PathBuf> {
    // As cargo calls it: with its own name without the prefix first.
    let command = name.trim_start_matches("cargo-");
    if answer("cargo", &[command, "--version"]).is_some() {
        return Ok(PathBuf::from(name));
    }
    let tools = root.join("target/tools");
    let program = tools.join("bin").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        say(&format!(
            "{name} is not installed: building it into target/tools (a minute or two on two cores)"
        ));
        let mut command = cargo(&["install", "--quiet", "--locked", "--root"]);
        command.arg(&tools).arg(format!("{name}@{version}"));
        // It reads a few files and calls cargo: optimising it takes longer than it ever runs.
        command.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "false");
        if !run(root, &mut command)?.ok() {
            bail!("cannot install {name} {version}");
        }
    }
    Ok(program)
}

/// Whether pip was absent and is there now: the caller may then try again.
pub(crate) fn ensure_pip(root: &Path) -> Result<bool> {
    let present = || {
        answer("pip", &["--version"])
            .or_else(|| answer("python3", &["-m", "pip", "--version"]))
            .is_some()
    };
    if present() {
        return Ok(false);
    }
    Ok(apt_install(root, &["python3-pip"])? && present())
}

/// A terminal for the tests of `karat chat`, where one can be had; those tests say so where it cannot.
pub(crate) fn ensure_tmux(root: &Path) {
    if answer("tmux", &["-V"]).is_none() {
        let _ = apt_install(root, &["tmux"]);
    }
}

/// Makes the aarch64 target, its linker and qemu available, or says why that is not possible.
pub(crate) fn ensure_aarch64(root: &Path, target: &str) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("qemu user emulation runs on Linux only".to_owned());
    }
    ensure_target(root, target)?;
    let present = || {
        answer("qemu-aarch64", &["--version"]).is_some()
            && answer("aarch64-linux-gnu-gcc", &["--version"]).is_some()
    };
    if present() {
        return Ok(());
    }
    // libc6-dev-arm64-cross is only recommended by the compiler, and nothing links without it.
    let installed =
        apt_install(root, &["qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]);
    if !installed.is_ok_and(|ok| ok) || !present() {
        return Err("needs Debian's packages qemu-user and gcc-aarch64-linux-gnu".to_owned());
    }
    Ok(())
}

/// The C compiler for Windows, which links for Rust's target, too.
pub(crate) const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// Makes the Windows target, its linker and Wine available, or says why that is not possible; the path of Wine's loader.
pub(crate) fn ensure_wine(root: &Path, target: &str) -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("Wine runs programs for x86-64 Windows on such a Linux".to_owned());
    }
    ensure_target(root, target)?;
    // Debian's `wine` speaks of packages for 32 bits at every start; its loader does not.
    let loaders = ["/usr/lib/wine/wine64", "wine64", "wine"];
    let wine = || loaders.into_iter().find(|wine| answer(wine, &["--version"]).is_some());
    let present = || wine().filter(|_| answer(MINGW, &["--version"]).is_some());
    if present().is_none() {
        let packages = ["gcc-mingw-w64-x86-64", "wine64", "wine", "mesa-vulkan-drivers"];
        let _ = apt_install(root, &packages);
    }
    let missing = "needs Debian's packages gcc-mingw-w64-x86-64 and wine64";
    present().map(PathBuf::from).ok_or_else(|| missing.to_owned())
}

/// Whether there is an X server that needs no screen.
pub(crate) fn ensure_xvfb(root: &Path) -> bool {
    let present = || answer("Xvfb", &["-help"]).is_some();
    present() || apt_install(root, &["xvfb"]).is_ok_and(|ok| ok) && present()
}

/// Makes a target of Rust's available, or says that it is not.
pub(crate) fn ensure_target(root: &Path, target: &str) -> Result<(), String> {
    if target_installed(target) {
        return Ok(());
    }
    let minutes = Duration::from_secs(300);
    let added = run_limited(root, Command::new("rustup").args(["target", "add", target]), minutes);
    if added.is_ok_and(End::ok) && target_installed(target) {
        return Ok(());
    }
    Err(format!("the Rust target {target} is not installed and cannot be added"))
}

/// Whether a clang is there that can run Metal's language (16 or newer, with its version in its name).
pub(crate) fn ensure_clang(root: &Path) -> bool {
    let present = || {
        ["clang++-19", "clang++-18", "clang++-17", "clang++-16"]
            .iter()
            .any(|name| answer(name, &["--version"]).is_some())
    };
    present()
        || ["clang-19", "clang-16"]
            .iter()
            .any(|package| apt_install(root, &[package]).is_ok_and(|ok| ok) && present())
}

/// The driver description of SwiftShader: that of an installed Chromium, or one taken out of its Debian package, of
/// which nothing else is wanted.
pub(crate) fn ensure_swiftshader(root: &Path) -> Option<PathBuf> {
    let inside = "usr/lib/chromium/vk_swiftshader_icd.json";
    let ours = root.join("target/swiftshader");
    let present =
        || [Path::new("/"), &ours].map(|dir| dir.join(inside)).into_iter().find(|p| p.is_file());
    if let Some(found) = present() {
        return Some(found);
    }
    if !is_root_with_apt() {
        return None;
    }
    std::fs::create_dir_all(&ours).ok()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-qq").args(args);
        run(&ours, &mut command).is_ok_and(|end| end.ok())
    };
    // apt drops root's rights for the download, and may not be allowed to write here then: it says so and goes on.
    if !apt(&["update"]) || !apt(&["download", "chromium-common"]) {
        return None;
    }
    let package = std::fs::read_dir(&ours).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = package.into_iter().find(|p| p.extension().is_some_and(|e| e == "deb"))?;
    let unpacked = run(&ours, Command::new("dpkg-deb").arg("-x").arg(&package).arg("."));
    let _ = std::fs::remove_file(&package);
    if !unpacked.is_ok_and(|end| end.ok()) { None } else { present() }
}

fn is_root_with_apt() -> bool {
    answer("id", &["-u"]).as_deref() == Some("0") && answer("apt-get", &["--version"]).is_some()
}

/// Installs Debian packages if we are root and the machine has apt-get; `false` if it cannot.
fn apt_install(root: &Path, packages: &[&str]) -> Result<bool> {
    if !is_root_with_apt() {
        return Ok(false);
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(args);
        command
    };
    if !run(root, &mut apt(&["update"]))?.ok() {
        return Ok(false);
    }
    Ok(run(root, apt(&["install", "--yes", "--no-install-recommends"]).args(packages))?.ok())
}
