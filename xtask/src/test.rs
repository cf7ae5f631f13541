//! `cargo xtask test`: runs the stages, some side by side, prints a heading and the time of each, ends with a table.

use crate::proc::{kept_in, say};
use crate::stages::{Context, Outcome, STAGES, Stage, When};
use anyhow::{Result, bail};
use std::fs::File;
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
    let wanted: Vec<&Stage> = STAGES.iter().filter(|stage| options.wants(stage)).collect();
    let cx = Context::detect(crate::root(), wanted.iter().map(|stage| stage.name).collect());
    let at = |when: When| wanted.iter().copied().filter(move |stage| stage.when == when);
    let start = Instant::now();
    let mut rows: Vec<Row> = at(When::First).map(|stage| run_stage(&cx, stage)).collect();
    // Each prints when it has ended, so that no line of one stands between those of another.
    let alone = at(When::Then).next().is_none();
    let beside = || at(When::Beside).map(|stage| run_kept(&cx, stage, alone)).collect::<Vec<Row>>();
    std::thread::scope(|scope| {
        let beside = scope.spawn(beside);
        rows.extend(at(When::Then).map(|stage| run_stage(&cx, stage)));
        if let Ok(others) = beside.join() {
            rows.extend(others);
        }
    });
    for stage in &wanted {
        if !rows.iter().any(|row| row.name == stage.name) {
            let outcome = Outcome::Failed("the thread that ran it panicked".to_owned());
            rows.push(Row { name: stage.name, outcome, time: Duration::ZERO });
        }
    }
    print!("{}", table(&rows, start.elapsed()));
    Ok(!rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_))))
}

fn run_stage(cx: &Context, stage: &Stage) -> Row {
    say(&format!("\n== {}: {}", stage.name, stage.what));
    let start = Instant::now();
    let outcome = (stage.run)(cx).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    let time = start.elapsed();
    say(&format!("== {}: {} ({:.1} s)", stage.name, outcome.line(), time.as_secs_f64()));
    Row { name: stage.name, outcome, time }
}

/// As [`run_stage`], but prints it all at the end, unless no other stage runs meanwhile.
fn run_kept(cx: &Context, stage: &Stage, alone: bool) -> Row {
    let folder = crate::root().join("target");
    let path = folder.join(format!("xtask-{}.log", stage.name));
    let file = std::fs::create_dir_all(folder).and_then(|()| File::create(&path));
    let (false, Ok(file)) = (alone, file) else { return run_stage(cx, stage) };
    let row = kept_in(file, || run_stage(cx, stage));
    let text = std::fs::read(&path).unwrap_or_default();
    print!("{}", String::from_utf8_lossy(&text));
    row
}

/// `total` is less than the sum where stages ran side by side.
fn table(rows: &[Row], total: Duration) -> String {
    let mut text = "\nstage        seconds  result\n".to_owned();
    let line = |name: &str, time: Duration| format!("{name:<11} {:>8.1}", time.as_secs_f64());
    for row in rows {
        text += &format!("{}  {}\n", line(row.name, row.time), row.outcome.line());
    }
    let sum = rows.iter().map(|row| row.time).sum();
    text + &line("sum", sum) + "\n" + &line("total", total) + "\n"
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
        let text = table(&rows, Duration::from_millis(9100));
        assert!(text.contains("fmt              1.5  ok\n"), "{text}");
        assert!(text.contains("skipped: no qemu"), "{text}");
        assert!(text.contains("FAILED: exit code 101"), "{text}");
        assert!(text.contains("sum             10.5\n"), "{text}");
        assert!(text.contains("total            9.1\n"), "{text}");
    }
}
