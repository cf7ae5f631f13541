//! `karat list`: the models of the cache and of the catalogue.

use crate::out::{Controls, Out};
use karat::Config;
use karat::sources::{self, Listed};
use karat::text::{bytes, one_line};

/// Without --json: one line for each model.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    let rows = sources::list(config)?;
    let mut out = Out::new(Controls::Escaped);
    if args.json {
        return out.json(&rows);
    }
    let size =
        |row: &Listed| format!("{}{}", if row.approximate { "~" } else { "" }, bytes(row.size));
    let long = rows.iter().map(|row| size(row).chars().count()).max().unwrap_or(0).max(4);
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(4, 60);
    let licence = |row: &Listed| row.licence.clone().unwrap_or_else(|| "?".to_owned());
    let wide = rows.iter().map(|row| licence(row).chars().count()).max().unwrap_or(0).clamp(7, 24);
    out.line(&format!(
        "{:width$}  {:>long$}  {:7}  {:wide$}  SOURCE",
        "NAME", "SIZE", "CACHED", "LICENCE"
    ))?;
    for row in &rows {
        let source =
            row.source.as_deref().or(row.sources.first().map(String::as_str)).unwrap_or("?");
        let cached = match (row.cached, row.damaged) {
            (true, _) => "yes",
            (false, true) => "damaged",
            (false, false) => "no",
        };
        let (name, size) = (one_line(&row.name), size(row));
        let licence = one_line(&licence(row));
        out.line(&format!(
            "{name:width$}  {size:>long$}  {cached:7}  {licence:wide$}  {}",
            one_line(source)
        ))?;
    }
    Ok(())
}
