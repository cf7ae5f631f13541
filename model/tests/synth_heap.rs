//! A synthetic file of any size needs little memory. One test in this program, so that nothing else allocates beside it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

use model::synth::{Request, synth};
use peak_alloc::PeakAlloc;
use std::num::NonZero;
use std::ops::ControlFlow;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The largest preset in the largest format, 32 GB, and in the default one. After its header and a few pieces nothing
/// new comes, so the rest is not written.
#[test]
fn peak_of_the_largest_preset() {
    let folder = tempfile::tempdir().unwrap();
    let (arch, preset) =
        model::synth::presets().find(|(_, preset)| preset.name == "llama3-8b").unwrap();
    for format in ["F32", "BF16", "Q4_K_M"] {
        let request = Request {
            arch,
            shape: preset.shape,
            format: format.parse().unwrap(),
            seed: 1,
            overwrite: false,
            threads: NonZero::new(4).unwrap(),
        };
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let mut pieces = 0;
        let stop = |_| {
            pieces += 1;
            if pieces == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        synth(&request, &folder.path().join("out"), stop).unwrap_err();
        let peak = (HEAP.peak_usage() - before) >> 20;
        println!("{format}: {peak} MiB");
        assert!(peak < 128, "{format}: {peak} MiB");
    }
}
