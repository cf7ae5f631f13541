//! `cargo xtask test`: runs the stages in order, prints a heading and the time of each, ends with a table.

use crate::stages::{Context, Outcome, STAGES, Stage};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    fast: bool,
    /// Empty: all stages.
    only: Vec<String>,
}

impl Options {
    /// Reads `--fast` and `--only a,b`.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--fast" => options.fast = true,
                "--only" => {
                    let Some(names) = args.next() else { bail!("--only needs stage names") };
                    options.only = names.split(',').map(str::to_owned).collect();
                }
                other => bail!("unknown option `{other}`; allowed: --fast, --only a,b"),
            }
        }
        for name in &options.only {
            if !STAGES.iter().any(|stage| stage.name == name) {
                let known: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
                bail!("unknown stage `{name}`; allowed: {}", known.join(", "));
            }
        }
        Ok(options)
    }

    fn wants(&self, stage: &Stage) -> bool {
        let named = self.only.iter().any(|name| name == stage.name);
        if self.only.is_empty() { stage.fast || !self.fast } else { named }
    }
}

/// One line of the closing table.
struct Row {
    name: &'static str,
    outcome: Outcome,
    time: Duration,
}

/// Runs the wanted stages, all of them even after a failure; `false` if any failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let cx = Context::detect(crate::root());
    let mut rows = Vec::new();
    for stage in STAGES.iter().filter(|stage| options.wants(stage)) {
        println!("\n== {}: {}", stage.name, stage.what);
        let start = Instant::now();
        let outcome =
            (stage.run)(&cx).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let time = start.elapsed();
        println!("== {}: {} ({:.1} s)", stage.name, outcome.line(), time.as_secs_f64());
        rows.push(Row { name: stage.name, outcome, time });
    }
    print!("{}", table(&rows));
    Ok(!rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_))))
}

fn table(rows: &[Row]) -> String {
    let mut text = "\nstage     seconds  result\n".to_owned();
    for row in rows {
        text +=
            &format!("{:<8} {:>8.1}  {}\n", row.name, row.time.as_secs_f64(), row.outcome.line());
    }
    let total: Duration = rows.iter().map(|row| row.time).sum();
    text += &format!("{:<8} {:>8.1}\n", "total", total.as_secs_f64());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn chosen(line: &str) -> Vec<&'static str> {
        let options = parse(line).unwrap();
        STAGES.iter().filter(|stage| options.wants(stage)).map(|stage| stage.name).collect()
    }

    #[test]
    fn stages_are_chosen_by_options() {
        assert_eq!(chosen("").len(), STAGES.len());
        assert_eq!(chosen("--only tidy,fmt"), ["fmt", "tidy"]);
        assert!(!chosen("--fast").contains(&"neon"));
        assert!(chosen("--fast").contains(&"test"));
    }

    #[test]
    fn bad_options_are_refused() {
        assert!(
            parse("--only nothing").unwrap_err().to_string().contains("unknown stage `nothing`")
        );
        assert!(parse("--only").is_err());
        assert!(parse("--quick").is_err());
    }

    #[test]
    fn the_table_names_failures_and_reasons() {
        let rows = [
            Row { name: "fmt", outcome: Outcome::Ok(None), time: Duration::from_millis(1500) },
            Row { name: "neon", outcome: Outcome::Skipped("no qemu".into()), time: Duration::ZERO },
            Row {
                name: "test",
                outcome: Outcome::Failed("exit code 101".into()),
                time: Duration::from_secs(9),
            },
        ];
        let text = table(&rows);
        assert!(text.contains("fmt           1.5  ok\n"), "{text}");
        assert!(text.contains("skipped: no qemu"), "{text}");
        assert!(text.contains("FAILED: exit code 101"), "{text}");
        assert!(text.contains("total        10.5"), "{text}");
    }
}
