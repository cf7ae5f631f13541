//! A synthetic file of any size needs little memory. One test in this program, so that nothing else allocates beside it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

use model::output::Existing;
use model::synth::{Request, synth};
use peak_alloc::PeakAlloc;
use std::num::NonZero;
use std::ops::ControlFlow;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The largest preset in the largest format, 32 GB, and in the default one. After its header and a few pieces nothing
/// new comes, so the rest is not written; and to a device, since not every disk has the room.
#[test]
fn peak_of_the_largest_preset() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out");
    let output = if cfg!(unix) { std::path::Path::new("/dev/null") } else { &file };
    let (arch, preset) =
        model::synth::presets().find(|(_, preset)| preset.name == "llama3-8b").unwrap();
    for format in ["F32", "BF16", "Q4_K_M"] {
        let request = Request {
            arch,
            shape: preset.shape,
            experts: model::synth::ExpertNumbers::default(),
            format: format.parse().unwrap(),
            seed: 1,
            existing: Existing::Keep,
            threads: NonZero::new(4).unwrap(),
        };
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        let mut pieces = 0;
        let stop = |_| {
            pieces += 1;
            if pieces == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        synth(&request, output, stop).unwrap_err();
        let peak = (HEAP.peak_usage() - before) >> 20;
        println!("{format}: {peak} MiB");
        assert!(peak < 128, "{format}: {peak} MiB");
    }
}
