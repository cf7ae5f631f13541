//! The same model on the CPU and on a GPU: `cargo run --release -p karat --example device -- [MODEL]`. The bits are the same.
#![allow(clippy::print_stdout, reason = "an example is a program")]

use karat::{Backend, Event, Model, Task};

fn main() -> karat::Result<()> {
    let source = std::env::args().nth(1).unwrap_or_else(|| "smollm2:135m".to_owned());
    for (number, adapter) in karat::devices::list(karat::devices::Api::Any) {
        println!("device {number}: {}", adapter.info().name);
    }
    let cpu = Model::open(&source)?;
    // Before its first use with a model, a device's kernels are compared with the reference: that takes a second or two.
    let gpu = Model::builder(&source)
        .backend(Backend::Gpu)
        .on_event(|event| {
            if let Event::Progress { task: Task::CheckKernels, done: 0, .. } = event {
                println!("testing the GPU's kernels");
            }
        })
        .open()?;
    let ids = cpu.tokenize("Why is the sky blue?")?;
    let (a, b) = (cpu.sequence()?.feed(&ids)?, gpu.sequence()?.feed(&ids)?);
    let same = a.iter().zip(&b).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    println!(
        "{} and {}: {same} of {} logits alike",
        cpu.info().backend,
        gpu.info().backend,
        a.len()
    );
    Ok(())
}
