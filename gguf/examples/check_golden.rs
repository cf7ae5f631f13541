//! Compares every decoder with recordings of any size: `check_golden DIR`, after `tools/golden_quants.py DIR`.
#![allow(clippy::print_stdout, reason = "a report for people")]

use gguf::DType;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../tests/golden/check.rs"]
mod golden;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        println!("usage: check_golden DIR (made by tools/golden_quants.py)");
        return ExitCode::from(2);
    };
    let mut wrong = 0;
    for dtype in DType::ALL {
        let compared = golden::check(dtype, &folder);
        let speed = 4e-9 * compared.weights as f64 / compared.seconds;
        println!(
            "{dtype:>7}: {} blocks, {} weights, {} differ; {speed:.1} GB/s of f32 written",
            compared.blocks, compared.weights, compared.wrong
        );
        if let Some(first) = compared.first {
            println!("{dtype:>7}: first: {first}");
        }
        wrong += compared.wrong;
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
