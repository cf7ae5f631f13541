//! `karat devices`: the GPUs of the machine, and what the probes say of their arithmetic.

use crate::out::{Controls, Out};
use crate::stderr::Drivers;
use gpu::Api;
use karat::devices;
use karat::text::{bytes, one_line};
use serde::Serialize;

/// Without --json: some lines for each device.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    /// What `--device` takes.
    number: usize,
    name: String,
    api: &'static str,
    kind: &'static str,
    driver: String,
    subgroup_min: u32,
    subgroup_max: u32,
    max_buffer: u64,
    max_binding: u64,
    max_threads: u32,
    shared_memory: u32,
    buffers_per_kernel: u32,
    parameter_bytes: u32,
    max_groups: u32,
    /// Beyond the least, of what bears on kernels.
    features: Vec<&'static str>,
    /// Threads that share the work on a row of weights in a step of few rows: which kernels of products are used.
    lanes: Option<usize>,
    /// Rows and columns of a fragment of the matrix unit that multiplies prompts.
    matrix: Option<u32>,
    /// `exact`, or which kernels are used instead; or why the device cannot be used.
    arithmetic: String,
    usable: bool,
}

/// Which kernels the probes select.
fn arithmetic(gpu: &gpu::Gpu) -> String {
    let probes = gpu.probes();
    let native = [
        ("fma", probes.fma || probes.wide),
        ("division", probes.div),
        ("square root", probes.sqrt),
        ("f16", probes.half),
    ];
    let ours: Vec<&str> =
        native.iter().filter(|(_, exact)| !exact).map(|(name, _)| *name).collect();
    let mut replaced = Vec::new();
    if probes.wide {
        replaced.push("fma made of doubles".to_owned());
    }
    if !ours.is_empty() {
        replaced.push(format!("{} made of integer steps", ours.join(", ")));
    }
    let mut text = match &replaced[..] {
        [] => "exact".to_owned(),
        replaced => format!("{}, the rest exact", replaced.join(", ")),
    };
    if !probes.denormals {
        text += "; numbers below 2^-126 become 0";
    }
    text
}

/// What drivers write while they are asked is told from karat's own lines.
fn rows() -> Vec<Row> {
    let _drivers = Drivers::listen();
    let mut rows = Vec::new();
    for (number, adapter) in devices::list(Api::Any) {
        let info = adapter.info();
        let (lanes, matrix, arithmetic) = match adapter.open(1) {
            Ok(gpu) => (Some(gpu.lanes()), gpu.matrix(), arithmetic(&gpu)),
            Err(e) => (None, None, format!("cannot be used: {e}")),
        };
        rows.push(Row {
            number,
            name: info.name,
            api: info.api,
            kind: info.kind,
            driver: info.driver,
            subgroup_min: info.subgroup.0,
            subgroup_max: info.subgroup.1,
            max_buffer: info.max_buffer,
            max_binding: info.max_binding,
            max_threads: info.max_threads,
            shared_memory: info.shared_memory,
            buffers_per_kernel: info.per_kernel.0,
            parameter_bytes: info.per_kernel.1,
            max_groups: info.max_groups,
            features: info.features,
            lanes,
            matrix: matrix.map(|matrix| matrix.size),
            arithmetic,
            usable: lanes.is_some(),
        });
    }
    rows
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let rows = rows();
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        return out.json(&rows);
    }
    if rows.is_empty() {
        out.line("no GPU: no driver for Vulkan, Metal or DirectX 12 was found")?;
    }
    rows.iter().try_for_each(|row| show(row, &mut out))
}

/// One device, in lines.
fn show(row: &Row, out: &mut Out) -> anyhow::Result<()> {
    let (name, driver) = (one_line(&row.name), one_line(&row.driver));
    out.line(&format!("{}  {name} ({}, {})", row.number, row.api, row.kind))?;
    out.line(&format!("   driver      {driver}"))?;
    out.line(&format!(
        "   limits      buffers of {}, bindings of {}, {} threads and {} in a workgroup",
        bytes(row.max_buffer),
        bytes(row.max_binding),
        row.max_threads,
        bytes(u64::from(row.shared_memory))
    ))?;
    out.line(&format!(
        "               {} buffers and {} bytes of parameters for a kernel, {} workgroups in a row",
        row.buffers_per_kernel, row.parameter_bytes, row.max_groups
    ))?;
    out.line(&format!("   subgroups   {} to {} threads", row.subgroup_min, row.subgroup_max))?;
    out.line(&format!("   features    {}", row.features.join(", ")))?;
    if let Some(lanes) = row.lanes {
        let prompts = match row.matrix {
            Some(n) => format!("matrix units of {n} x {n} for prompts"),
            None => "packed products for prompts".to_owned(),
        };
        out.line(&format!("   kernels     {lanes} threads for a row of weights, {prompts}"))?;
    }
    out.line(&format!("   arithmetic  {}", one_line(&row.arithmetic)))?;
    Ok(())
}
