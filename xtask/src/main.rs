//! `cargo xtask`: the developer commands `test`, `tidy`, `size`, `hello`, `faultlab`, `oracle`, `miri`, `loom`,
//! `mutants` and `wine`.
//! Nothing that a user of karat needs lives here.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks on stdout"
)]

mod built;
mod hello;
mod loom;
mod mesa;
mod miri;
mod mutants;
mod oracle;
mod proc;
mod stages;
mod test;
mod tidy;
mod tools;
mod wine;

use anyhow::{Result, bail};
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  test [--fast] [--only a,b]  every check of the project, with its set-up; ends with a table
                              --fast: only what needs no network and no second compile
                              --only: the named stages (fmt tidy build model test clippy docs fuzz deny
                              swiftshader matrix apple windows neon oracle)
  tidy                        the rules of ARCHITECTURE.md, checked over the source tree
  size                        lines per crate, largest files and functions against their budgets
  hello [--from FILE]         README's table: what each format answers on each device; from a GGUF file, or the
                              default model
  faultlab                    switch on some forty faults in every backend and see what `karat why` says of them
  oracle                      compare with llama.cpp's recorded results in ../shared/oracle
  miri                        the thread pool's tests under Miri, in several interleavings; needs a nightly toolchain
  loom                        the thread pool under loom: every interleaving, up to a bound of preemptions
  mutants [GROUP [FILE…]]     change the code in small ways and list what no test notices: for hours, or for some
                              files of a group (graph sampler tokenizer cpu); docs/mutants.md
  wine [TEST…]                the program for Windows under Wine against the one for this machine; docs/windows.md
";

/// The workspace's root folder: the parent of this crate's.
fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

fn dispatch(args: &[String]) -> Result<bool> {
    let (command, rest) = match args {
        [] => ("help", args),
        [command, rest @ ..] => (command.as_str(), rest),
    };
    match command {
        "test" => test::run(&test::Options::parse(rest)?),
        "tidy" => tidy::run(root()),
        "size" => tidy::print_sizes(root()).map(|()| true),
        "hello" => hello::run_args(root(), rest),
        "faultlab" => faultlab(),
        "oracle" => oracle::run(root()),
        "miri" => miri::run_pool(root()),
        "loom" => loom::run_pool(root()),
        "mutants" => mutants::run_args(root(), rest),
        "wine" => wine::run_args(root(), rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(true)
        }
        other => bail!("unknown command `{other}`\n\n{HELP}"),
    }
}

/// The table of app/tests/faultlab.rs.
fn faultlab() -> Result<bool> {
    let mut command =
        proc::cargo(&["test", "--release", "-p", "karat-cli", "--features", "faultlab"]);
    command.args(["--test", "faultlab", "--", "--nocapture", "--test-threads=1"]);
    Ok(proc::run(root(), &mut command)?.ok())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
