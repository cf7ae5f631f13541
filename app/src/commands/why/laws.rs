//! `karat why --laws`: a backend against itself.

use super::Args;
use crate::exit::{Code, failure, say};
use crate::load;
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::text;
use karat::{Backend, Options, Parts};
use why::Law;

/// `--laws`.
pub(super) fn laws(args: &Args, parts: &Parts, ids: &[u32]) -> Result<()> {
    let n_layer = parts.graph.n_layers();
    let options = options(args)?;
    let backend = load::backend(&options, n_layer)?;
    let mut loaded = load::weights(parts, &*backend)?;
    let mut out = Out::new(Controls::Escaped);
    if !args.json {
        out.line(&format!("backend  {}", text::one_line(&backend.name())))?;
    }
    let mut rows: Vec<(String, bool)> = Vec::new();
    let mut hear = |law: Law, holds: bool| {
        if !args.json {
            let said = out.line(&format!("law      {:<24}{}", name(law), word(holds)));
            said.unwrap_or_else(|error| say("warning", &error.to_string()));
        }
        rows.push((name(law), holds));
    };
    let mut broken = why::laws(&mut *loaded, ids, &mut hear)?;
    for n in [1, n_layer.div_ceil(2)] {
        let Some(split) = options.with_gpu_layers(n) else { continue };
        let mut other = load::weights(parts, &*load::backend(&split, n_layer)?)?;
        let law = Law::GpuLayers(n);
        let first = why::alike(&mut *loaded, &mut *other, ids, law)?;
        hear(law, first.is_none());
        broken.extend(first);
    }
    if args.json {
        let all: Vec<_> = rows
            .iter()
            .map(|(law, holds)| serde_json::json!({"law": law, "holds": holds}))
            .collect();
        let report = serde_json::json!({"backend": backend.name(), "laws": all, "broken": broken});
        Out::new(Controls::Escaped).json(&report)?;
    }
    match broken.first() {
        None => Ok(()),
        Some(first) => {
            let what = format!(
                "{}: {} laws broken, the first {} in {} at position {}, column {}",
                backend.name(),
                broken.len(),
                name(first.law),
                text::one_line(&first.value),
                first.position,
                first.col
            );
            Err(failure(Code::Device, what))
        }
    }
}

/// The backend that is tested: that of `--a`, or of `--backend`.
pub(super) fn options(args: &Args) -> Result<Options> {
    let options = args.load.options();
    let Some(name) = &args.a else { return Ok(options) };
    let backend = name.parse::<Backend>().map_err(|error| {
        failure(Code::Usage, format!("--laws: --a is a backend there, not a trace: {error}"))
    })?;
    Ok(options.with_backend(backend))
}

fn word(holds: bool) -> &'static str {
    if holds { "holds" } else { "BROKEN" }
}

fn name(law: Law) -> String {
    match law {
        Law::Again => "again".to_owned(),
        Law::OneByOne => "one by one".to_owned(),
        Law::Chunks(n) => format!("chunks of {n}"),
        Law::WithStrangers => "batched with strangers".to_owned(),
        Law::PrefixReuse => "after prefix reuse".to_owned(),
        Law::GpuLayers(n) => format!("{n} layers on the GPU"),
    }
}
