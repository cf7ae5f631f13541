//! How a test says what it leaves out.

use std::io::Write as _;

/// Writes the line past the test harness, which shows what a test prints only if it fails: a test that was skipped
/// passes.
pub(crate) fn say_skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}
