//! Which GPU computes: a choice by number or name, and never another device than the one that was asked for.

use crate::exit::{Code, Failure, say};
use anyhow::Result;
use gpu::{Adapter, Api, Gpu};

/// The GPUs of the machine with their numbers, those of one API.
pub(crate) fn list(api: Api) -> Vec<(usize, Adapter)> {
    let all = gpu::adapters(Api::Any).into_iter().enumerate();
    all.filter(|(_, adapter)| api == Api::Any || adapter.info().api == api.name()).collect()
}

/// Opens the GPU that was asked for, or the first.
///
/// # Errors
/// Exit 6 where there is none, or it cannot be used.
pub(crate) fn open(api: Api, wanted: Option<&str>, threads: usize) -> Result<Gpu> {
    let found = list(api);
    if found.is_empty() {
        let what = format!("no {} device", api.name());
        let hint = "install the GPU's driver (Vulkan needs its loader too), or use --backend cpu";
        return Err(Failure::new(Code::Device, what).hint(hint).into());
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
            "--device {}: no such {} device; found: {}",
            wanted.unwrap_or(""),
            api.name(),
            names.join(", ")
        );
        return Err(Failure::new(Code::Device, what).into());
    };
    let info = adapter.info();
    if info.kind == "software" {
        let what = format!("{} is a software device: it computes on the CPU, slowly", info.name);
        say("warning", &what);
    }
    Ok(adapter.open(threads)?)
}
