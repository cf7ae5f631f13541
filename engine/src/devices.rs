//! Which GPU computes: a choice by number or name, and never another device than the one that was asked for.

use crate::check::{self, Subject};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listener, Progress, Task};
use crate::options::{Backend, Options, usable_threads};
use gpu::Adapter;
pub use gpu::{Api, Gpu};
use graph::split::Split;

/// The GPUs of the machine with their numbers, those of one API.
pub fn list(api: Api) -> Vec<(usize, Adapter)> {
    let all = gpu::adapters(Api::Any).into_iter().enumerate();
    all.filter(|(_, adapter)| api == Api::Any || adapter.info().api == api.name()).collect()
}

/// What computes a model of `n_layer` layers.
///
/// # Errors
/// [`ErrorKind::Device`] where a GPU is asked for and there is none, or it cannot be used; [`ErrorKind::Usage`] for
/// options of a GPU without one.
pub fn backend(
    options: &Options,
    n_layer: usize,
    listener: Listener<'_>,
) -> Result<Box<dyn graph::Backend>> {
    Ok(assemble(options, gpu(options, listener)?, n_layer))
}

/// The same for a graph that is used in earnest: a GPU must pass its self-test, or have passed it.
///
/// # Errors
/// As [`backend`], and [`ErrorKind::Device`] for a GPU that computes wrong numbers.
pub(crate) fn checked_backend(
    options: &Options,
    subject: Subject<'_>,
    config: &Config,
    listener: Listener<'_>,
) -> Result<Box<dyn graph::Backend>> {
    let gpu = gpu(options, listener)?;
    if let Some(gpu) = gpu.as_ref().filter(|_| !options.unchecked) {
        check::require(gpu, subject, config, listener)?;
    }
    Ok(assemble(options, gpu, subject.graph.n_layers()))
}

/// The GPU that the options ask for; `None` where they ask for none.
///
/// # Errors
/// As [`backend`].
pub fn gpu(options: &Options, listener: Listener<'_>) -> Result<Option<Gpu>> {
    options.check()?;
    usable_threads(options.threads, listener);
    // The device is opened even for no layer: who asks for one that is not there hears of it.
    let Some(api) = options.backend.api() else { return Ok(None) };
    open(api, options.device.as_deref(), options.n_threads(), listener).map(Some)
}

/// CPU and GPU with their layers.
fn assemble(options: &Options, gpu: Option<Gpu>, n_layer: usize) -> Box<dyn graph::Backend> {
    if options.backend == Backend::Reference {
        return Box::new(graph::reference::Reference);
    }
    let cpu = cpu::Cpu::new(options.n_threads());
    let Some(gpu) = gpu else { return Box::new(cpu) };
    let (all, on_gpu) = (n_layer + 1, options.on_gpu(n_layer));
    if on_gpu == all {
        return Box::new(gpu);
    }
    if on_gpu == 0 {
        return Box::new(cpu);
    }
    Box::new(Split { front: Box::new(cpu), back: Box::new(gpu), layers: all - on_gpu })
}

/// Opens the GPU that was asked for, or the first.
fn open(api: Api, wanted: Option<&str>, threads: usize, listener: Listener<'_>) -> Result<Gpu> {
    let progress = Progress::start(listener, Task::FindDevices, None);
    let found = list(api);
    if found.is_empty() {
        let what = format!("no {} device", api.name());
        let hint =
            "install the GPU's driver (Vulkan needs its loader too), or take the backend cpu";
        return Err(Error::new(ErrorKind::Device, what).with_hint(hint).with_option("backend"));
    }
    let names: Vec<String> =
        found.iter().map(|(n, adapter)| format!("{n}: {}", adapter.info().name)).collect();
    let chosen = match wanted {
        None => found.into_iter().next(),
        Some(wanted) => {
            let lower = wanted.to_lowercase();
            found.into_iter().find(|(n, adapter)| {
                wanted.parse().map_or_else(
                    |_| adapter.info().name.to_lowercase().contains(&lower),
                    |number: usize| number == *n,
                )
            })
        }
    };
    let Some((_, adapter)) = chosen else {
        let what = format!(
            "device {}: no such {} device; found: {}",
            wanted.unwrap_or(""),
            api.name(),
            names.join(", ")
        );
        return Err(Error::new(ErrorKind::Device, what).with_option("device"));
    };
    let info = adapter.info();
    if info.kind == "software" {
        let what = format!("{} is a software device: it computes on the CPU, slowly", info.name);
        listener(Event::Warning(&what));
    }
    let opened = adapter.open(threads)?;
    drop(progress);
    Ok(opened)
}
