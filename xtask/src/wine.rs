//! `cargo xtask wine`: the program for Windows, run by Wine, is held against the program for this machine by
//! `app/tests/windows.rs`. It compiles everything once more, in the profile that users get, so no stage of
//! `cargo xtask test` runs it.

use crate::proc::{cargo, run, say};
use crate::tools;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The Windows that Wine runs without anything of Microsoft's.
pub(crate) const TARGET: &str = "x86_64-pc-windows-gnu";
/// The library of random numbers, which Wine has since version 8.13 and Rust's programs want.
const RANDOM: &str = "bcryptprimitives.dll";

/// Runs the checks; `false` if one failed. Where a tool is missing, that is said and nothing is checked.
pub(crate) fn run_args(root: &Path, filters: &[String]) -> Result<bool> {
    let wine = match tools::ensure_wine(root, TARGET) {
        Ok(wine) => wine,
        Err(why) => {
            say(&format!("skipped: {why}"));
            return Ok(true);
        }
    };
    let build = ["build", "--release", "--package", "karat-cli", "--target", TARGET];
    if !run(root, &mut cargo(&build))?.ok() {
        return Ok(false);
    }
    let windows = Windows::install(root, wine)?;
    // With the features that stage `build` has, or all that they share would be compiled again.
    let mut tests =
        cargo(&["test", "--release", "--workspace", "--features", "karat-cli/faultlab"]);
    tests.args(["--test", "windows", "--", "--nocapture", "--test-threads=2"]).args(filters);
    windows.choose(&mut tests);
    let program = root.join("target").join(TARGET).join("release/karat.exe");
    tests.env("KARAT_WINE", &windows.wine).env("KARAT_WINE_PROGRAM", program);
    Ok(run(root, &mut tests)?.ok())
}

/// A Windows of its own for these checks, with a screen where one can be had: Wine's Vulkan needs it.
struct Windows {
    wine: PathBuf,
    /// Its drives and its registry.
    prefix: PathBuf,
    screen: Option<Screen>,
}

impl Windows {
    /// Made anew each time.
    fn install(root: &Path, wine: PathBuf) -> Result<Self> {
        let prefix = root.join("target/wine");
        if prefix.is_dir() {
            std::fs::remove_dir_all(&prefix).with_context(|| prefix.display().to_string())?;
        }
        std::fs::create_dir_all(&prefix)?;
        let windows = Self { wine, prefix, screen: Screen::start(root) };
        // It would end with its last program, and the next would wait for all of its services to start.
        let mut stay = Command::new(windows.wine.with_file_name("wineserver"));
        windows.choose(stay.arg("--persistent"));
        let _ = stay.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let mut boot = Command::new(&windows.wine);
        windows.choose(boot.args(["wineboot", "--init"]));
        if !run(root, &mut boot)?.ok() {
            bail!("Wine cannot make a Windows in target/wine");
        }
        windows.ensure_random_numbers(root)?;
        Ok(windows)
    }

    /// Has a command's Wine use this Windows.
    fn choose(&self, command: &mut Command) {
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all");
        // No questions about .NET and a browser.
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml=").env_remove("DISPLAY");
        if let Some(screen) = &self.screen {
            command.env("DISPLAY", &screen.name);
        }
    }

    /// Makes the library from one function of an older one, where this Wine has none.
    fn ensure_random_numbers(&self, root: &Path) -> Result<()> {
        let place = self.prefix.join("drive_c/windows/system32").join(RANDOM);
        if place.is_file() {
            return Ok(());
        }
        let mut compile = Command::new(tools::MINGW);
        compile.args(["-shared", "-O1", "-o"]).arg(place);
        compile.args(["tools/wine_random.c", "-ladvapi32"]);
        if !run(root, &mut compile)?.ok() {
            bail!("{RANDOM} for this Wine cannot be made");
        }
        Ok(())
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        // Its services stay for a while; a wineserver that is told so ends them at once.
        let mut end = Command::new(self.wine.with_file_name("wineserver"));
        self.choose(end.arg("-k"));
        let _ = end.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// An X server that shows nothing.
struct Screen {
    server: Child,
    /// What `DISPLAY` is set to.
    name: String,
}

impl Screen {
    /// `None`, with a line, where there is none.
    fn start(root: &Path) -> Option<Self> {
        if !tools::ensure_xvfb(root) {
            say(
                "Xvfb is missing: Wine has no Vulkan without a screen, and the checks of GPUs are skipped",
            );
            return None;
        }
        // It writes the number that it took to its standard output.
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().ok()?;
        let mut number = String::new();
        let mut output = std::io::BufReader::new(server.stdout.take()?);
        std::io::BufRead::read_line(&mut output, &mut number).ok()?;
        Some(Self { server, name: format!(":{}", number.trim()) })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
