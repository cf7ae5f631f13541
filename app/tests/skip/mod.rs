//! How a test says what it leaves out.

use std::io::Write as _;

/// Writes the line past the test harness, which shows what a test prints only if it fails: a test that was skipped
/// passes.
pub(crate) fn say_skipped(what: &str) {
    // In one write, so that no other line comes in between.
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}
