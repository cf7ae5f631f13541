//! `karat list`: the models of the cache and of the catalogue.

use crate::out::{Controls, Out};
use crate::sources::{cache, catalogue};
use karat::Config;
use karat::text::{bytes, one_line};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Without --json: one line for each model.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// As its makers call it.
    title: Option<String>,
    licence: Option<String>,
    /// Bytes.
    size: u64,
    cached: bool,
    path: Option<PathBuf>,
    /// As it must be (catalogue) or as it was when it was fetched.
    sha256: Option<String>,
    /// Where the cached file came from.
    source: Option<String>,
    /// Where the catalogue would fetch it.
    sources: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    let rows = rows(config)?;
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        return out.json(&rows);
    }
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(4, 60);
    let licence = |row: &Row| row.licence.clone().unwrap_or_else(|| "?".to_owned());
    let wide = rows.iter().map(|row| licence(row).chars().count()).max().unwrap_or(0).clamp(7, 24);
    out.line(&format!(
        "{:width$}  {:>9}  {:6}  {:wide$}  SOURCE",
        "NAME", "SIZE", "CACHED", "LICENCE"
    ))?;
    for row in &rows {
        let source =
            row.source.as_deref().or(row.sources.first().map(String::as_str)).unwrap_or("?");
        let cached = if row.cached { "yes" } else { "no" };
        let (name, size) = (one_line(&row.name), bytes(row.size));
        let licence = one_line(&licence(row));
        out.line(&format!(
            "{name:width$}  {size:>9}  {cached:6}  {licence:wide$}  {}",
            one_line(source)
        ))?;
    }
    Ok(())
}

fn rows(config: &Config) -> anyhow::Result<Vec<Row>> {
    let models = cache::models_dir(config.cache_dir()?);
    let mut files = cache::files(&models)?;
    let mut rows = Vec::new();
    for entry in catalogue::load(config)? {
        let path = models.join(&entry.file);
        let cached = files.contains(&path);
        files.retain(|file| *file != path);
        rows.push(Row {
            name: entry.name,
            title: Some(entry.title),
            licence: Some(entry.licence),
            size: entry.size,
            cached,
            source: cached.then(|| cache::receipt(&path)).flatten().map(|r| r.source),
            path: cached.then_some(path),
            sha256: Some(entry.sha256),
            sources: entry.sources.iter().map(ToString::to_string).collect(),
        });
    }
    for file in files {
        rows.push(cached_row(&models, file)?);
    }
    Ok(rows)
}

/// A cached file that no entry of the catalogue stands for.
fn cached_row(models: &Path, file: PathBuf) -> anyhow::Result<Row> {
    let size = file.metadata().map_err(|e| cache::here(&file, "cannot be read", &e))?.len();
    let receipt = cache::receipt(&file);
    let below = file.strip_prefix(models).unwrap_or(&file).to_string_lossy().into_owned();
    let (name, sha256, source) = match receipt {
        Some(receipt) => (receipt.name, Some(receipt.sha256), Some(receipt.source)),
        None => (below, None, None),
    };
    let row = Row {
        name,
        title: None,
        licence: None,
        size,
        cached: true,
        path: Some(file),
        sha256,
        source,
        sources: Vec::new(),
    };
    Ok(row)
}
