//! `karat bench`: tokens a second of real models, where the time goes, and how near to the machine's limits that is.

mod formats;
mod limit;
mod loading;
mod numbers;
mod ops;
mod plan;
mod progress;
mod rows;
mod run;
mod stats;
mod table;

use crate::exit::{Code, Failure, failure};
use crate::interrupt::Answering;
use crate::load::{self, DeviceArgs, positive};
use crate::out::{Controls, Out};
use anyhow::Result;
use karat::{Backend, Config, Info, Options, text};
use limit::Probe;
use numbers::Numbers;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use table::Align::{Left, Right};
use table::{Table, number};

/// What `karat bench` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The models, as for -m
    #[arg(value_name = "MODEL")]
    names: Vec<OsString>,
    /// The model: a GGUF file, a name of `karat list`, or a source as for `karat pull`; given more than once, each is
    /// measured
    #[arg(short, long = "model", value_name = "MODEL")]
    models: Vec<OsString>,
    /// Tokens of the prompt, several with commas, or a range (1-4, 16-64+16, 128-1024*2); 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<Numbers>,
    /// Tokens to generate, several with commas; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<Numbers>,
    /// Positions that are there before, several with commas
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<Numbers>,
    /// Sequences that generate together, several with commas; the tokens of all are counted
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = numbers::positive)]
    batch: Vec<Numbers>,
    /// Tokens of a prompt that are computed at once, several with commas: everything is measured with each
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "512", value_parser = numbers::positive)]
    batch_size: Vec<Numbers>,
    /// Threads, several with commas: everything is measured with each [default: the physical cores]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', value_parser = numbers::positive)]
    threads: Vec<Numbers>,
    /// Runs of each test after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    repetitions: usize,
    /// Show where the time of the fastest of as many runs again goes, op by op, against the machine's limits, measured
    /// beside: bytes read, 8-bit and f32 products
    #[arg(long)]
    ops: bool,
    /// Measure instead one matrix product in each format, or in those named; -p sets the tokens beside the one token
    #[arg(
        long, value_name = "FORMAT,…", value_delimiter = ',', num_args = 0..=1, require_equals = true,
        value_parser = formats::format, conflicts_with_all = ["names", "models", "ops", "load_time"]
    )]
    formats: Option<Vec<gguf::DType>>,
    /// Columns and rows of that matrix
    #[arg(long, value_name = "COLSxROWS", default_value = "2048x8192", requires = "formats")]
    shape: formats::Shape,
    /// Measure instead the time from the flags to the first token, part by part, and the peak of memory
    #[arg(long = "load", conflicts_with = "ops")]
    load_time: bool,
    /// How the results are printed: for people (md), or a row for each test with llama-bench's columns
    #[arg(short, long, value_enum, default_value_t = Output::Md)]
    output: Output,
    /// Print one object on a line for each model with everything: each run, and with --ops each op
    #[arg(long, conflicts_with_all = ["output", "csv"])]
    json: bool,
    /// The same as -o csv
    #[arg(long, conflicts_with = "output")]
    csv: bool,
    #[command(flatten)]
    load: DeviceArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Md,
    Csv,
    /// A list.
    Json,
    /// An object on each line.
    Jsonl,
    /// For SQLite.
    Sql,
    /// What `--json` prints.
    #[value(skip)]
    Whole,
}

/// One model.
#[derive(serde::Serialize)]
struct Report {
    model: Info,
    tests: Vec<run::Outcome>,
}

/// All formats.
#[derive(serde::Serialize)]
struct FormatsReport {
    backend: String,
    shape: formats::Shape,
    arithmetic: &'static str,
    /// The slowest first.
    formats: Vec<formats::Row>,
}

/// Runs and prints the tests.
pub(crate) fn run(args: &Args, config: &Config) -> Result<()> {
    let options = args.options();
    let timed = if args.ops { options.is_one_device() } else { options.backend == Backend::Cpu };
    if (args.ops || args.formats.is_some()) && !timed {
        let what = "--backend: this one does not time its ops";
        return Err(Failure::new(Code::Usage, what).hint("--backend cpu").into());
    }
    if args.output() == Output::Sql && (args.load_time || args.formats.is_some()) {
        let what = "-o sql: not for --load and --formats, allowed are md, csv and json";
        return Err(failure(Code::Usage, what));
    }
    if args.load_time {
        return run_loads(args, config);
    }
    match &args.formats {
        Some(formats) => run_formats(args, formats),
        None => run_tests(args, config),
    }
}

impl Args {
    /// Those of the first measurement.
    fn options(&self) -> Options {
        Options {
            batch_size: Numbers::all(&self.batch_size).next().unwrap_or(512),
            threads: Numbers::all(&self.threads).next(),
            ..self.load.options()
        }
    }

    /// Those of every measurement: each batch size with each number of threads.
    fn all_options(&self) -> Vec<Options> {
        let mut threads: Vec<Option<usize>> = Numbers::all(&self.threads).map(Some).collect();
        if threads.is_empty() {
            threads.push(None);
        }
        let mut all = Vec::new();
        for batch_size in Numbers::all(&self.batch_size) {
            for &threads in &threads {
                let options = Options { batch_size, threads, ..self.load.options() };
                if !all.contains(&options) {
                    all.push(options);
                }
            }
        }
        all
    }

    fn output(&self) -> Output {
        match (self.json, self.csv) {
            (true, _) => Output::Whole,
            (false, true) => Output::Csv,
            (false, false) => self.output,
        }
    }

    /// The default model where none is named.
    ///
    /// # Errors
    /// Exit 2 where some are named with -m and others without.
    fn models(&self) -> Result<Vec<Option<&OsStr>>, Failure> {
        let (names, flags) = (&self.names, &self.models);
        if !names.is_empty() && !flags.is_empty() && names != flags {
            let all = |names: &[OsString]| {
                let names: Vec<String> = names.iter().map(|n| text::path(Path::new(n))).collect();
                names.join(" ")
            };
            let what = format!("two lists of models: {}, and -m {}", all(names), all(flags));
            return Err(Failure::new(Code::Usage, what).hint("name all of them in one way"));
        }
        let named = if names.is_empty() { flags } else { names };
        let named: Vec<_> = named.iter().map(|model| Some(model.as_os_str())).collect();
        Ok(if named.is_empty() { vec![None] } else { named })
    }
}

/// What was measured has been printed; the exit code says that it was not all.
fn finish(interrupt: &Answering) -> Result<()> {
    if interrupt.stopped() { Err(failure(Code::Interrupted, "interrupted")) } else { Ok(()) }
}

fn run_tests(args: &Args, config: &Config) -> Result<()> {
    let models = args.models()?;
    let tests = plan::tests(args)?;
    let all = args.all_options();
    for Options { batch_size, ctx_size, .. } in &all {
        plan::check(&tests, ctx_size.filter(|&n| n > 0).unwrap_or(usize::MAX), *batch_size)?;
    }
    let mut reports = Vec::new();
    let measured = measure_all(args, &Wanted { models, tests, all }, config, &mut reports);
    // What was measured before a failure is not lost.
    print_reports(args, &reports)?;
    measured
}

/// What is to be measured.
struct Wanted<'a> {
    models: Vec<Option<&'a OsStr>>,
    tests: Vec<plan::Test>,
    all: Vec<Options>,
}

/// Every model with all options, until Ctrl-C.
fn measure_all(
    args: &Args,
    wanted: &Wanted<'_>,
    config: &Config,
    reports: &mut Vec<Report>,
) -> Result<()> {
    let plan::Needs { n_ctx, n_seqs } = plan::needs(&wanted.tests);
    for model in &wanted.models {
        for options in &wanted.all {
            let mut options = options.clone();
            // At least what the tests need, where the user does not say how much.
            options.ctx_size.get_or_insert(n_ctx);
            options.sequences = n_seqs;
            let model = load::model(*model, &options, config)?;
            plan::check(&wanted.tests, model.info().n_ctx, options.batch_size)?;
            // From here on Ctrl-C ends the tests, and what was measured is printed.
            let interrupt = Answering::begin();
            let mut bench = run::Bench {
                load: options.load_options(),
                repetitions: args.repetitions,
                probe: args.ops.then(|| Probe::new(options.n_threads())),
                interrupt: &interrupt,
                model: &model,
                engine: &mut *model.engine()?,
            };
            let tests = bench.run(&wanted.tests)?;
            reports.push(Report { model: model.info().clone(), tests });
            finish(&interrupt)?;
        }
    }
    Ok(())
}

fn print_reports(args: &Args, reports: &[Report]) -> Result<()> {
    let mut out = Out::new(Controls::Escaped);
    match args.output() {
        Output::Whole => reports.iter().try_for_each(|report| out.json(report))?,
        Output::Json if reports.is_empty() => {}
        Output::Json => out.json(&rows::rows(reports))?,
        Output::Jsonl => rows::rows(reports).iter().try_for_each(|row| out.json(row))?,
        Output::Sql => out.text(&rows::sql(&rows::rows(reports)))?,
        Output::Csv => {
            out.text(&rows::csv(&rows::rows(reports)))?;
            for (_, table) in ops_tables(reports) {
                out.text(&format!("\n{}", table.csv()))?;
            }
        }
        Output::Md => {
            if reports.iter().all(|report| report.tests.is_empty()) {
                return Ok(());
            }
            out.text(&markdown(reports).markdown())?;
            for (title, table) in ops_tables(reports) {
                out.text(&format!("\n{title}\n\n{}", table.markdown()))?;
            }
        }
    }
    Ok(())
}

/// The name of the file tells quantisations of a model apart.
fn file_stem(info: &Info) -> String {
    let path = std::path::Path::new(&info.path);
    text::shortened(&path.file_stem().unwrap_or_default().to_string_lossy(), 40)
}

/// An option that has a column where several values were measured.
struct VaryingOption {
    name: &'static str,
    of: fn(&Info) -> usize,
}

const VARYING: [VaryingOption; 2] = [
    VaryingOption { name: "threads", of: |model| model.threads },
    VaryingOption { name: "n_batch", of: |model| model.n_batch },
];

/// As llama-bench prints it.
fn markdown(reports: &[Report]) -> Table {
    // Columns for what is not the same in all rows.
    let varies = |option: &&VaryingOption| {
        reports.windows(2).any(|two| (option.of)(&two[0].model) != (option.of)(&two[1].model))
    };
    let varying: Vec<&VaryingOption> = VARYING.iter().filter(varies).collect();
    let mut columns = vec![("model", Left), ("size", Right), ("params", Right), ("backend", Left)];
    columns.extend(varying.iter().map(|option| (option.name, Right)));
    columns.extend([("test", Left), ("tok/s (median)", Right)]);
    columns.extend([("± MAD", Right), ("lowest", Right), ("highest", Right)]);
    let mut table = Table::new(&columns);
    for Report { model, tests } in reports {
        for test in tests {
            let run::Outcome { name, spread, .. } = test;
            let size = text::bytes(model.weight_bytes);
            let params = format!("{:.2} M", model.n_params as f64 / 1e6);
            let mut row = vec![file_stem(model), size, params, model.backend.clone()];
            row.extend(varying.iter().map(|option| (option.of)(model).to_string()));
            let numbers = [spread.median, spread.mad, spread.lowest, spread.highest];
            row.push(name.clone());
            row.extend(numbers.map(number));
            table.row(row);
        }
    }
    table
}

/// Titles and tables of the tests that were taken apart.
fn ops_tables(reports: &[Report]) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    for Report { model, tests } in reports {
        for test in tests {
            if let Some(ops) = &test.ops {
                let title = format!("{}, {}, {}", file_stem(model), test.name, ops.title());
                tables.push((text::one_line(&title), ops.table()));
            }
        }
    }
    tables
}

fn run_formats(args: &Args, formats: &[gguf::DType]) -> Result<()> {
    let options = args.options();
    let tokens: Vec<usize> = Numbers::all(&args.n_prompt).collect();
    let backend = load::backend(&options, 0)?;
    let interrupt = Answering::begin();
    let request = formats::Request {
        backend: &*backend,
        load: options.load_options(),
        shape: args.shape,
        formats,
        tokens: &tokens,
        repetitions: args.repetitions,
    };
    let report = FormatsReport {
        backend: backend.name(),
        shape: args.shape,
        arithmetic: options.arithmetic_name(),
        formats: formats::run(&request, &mut Probe::new(options.n_threads()), &interrupt)?,
    };
    let mut out = Out::new(Controls::Escaped);
    match args.output() {
        Output::Whole | Output::Json | Output::Jsonl => out.json(&report)?,
        Output::Csv | Output::Sql => out.text(&formats::table(&report.formats).csv())?,
        Output::Md => {
            let FormatsReport { backend, shape, arithmetic, formats } = &report;
            let limits: Vec<_> = formats.iter().map(|row| row.limits.clone()).collect();
            out.line(&format!("{backend}, {shape}, {arithmetic}, the slowest format first"))?;
            out.line(&limit::ranges(&limits))?;
            out.text(&format!("\n{}", formats::table(formats).markdown()))?;
        }
    }
    finish(&interrupt)
}

fn run_loads(args: &Args, config: &Config) -> Result<()> {
    let mut out = Out::new(Controls::Escaped);
    for (i, model) in args.models()?.into_iter().enumerate() {
        let loading = loading::run(model, &args.options(), args.repetitions, config)?;
        match args.output() {
            Output::Whole | Output::Json | Output::Jsonl => out.json(&loading)?,
            Output::Csv | Output::Sql => {
                let gap = if i > 0 { "\n" } else { "" };
                out.text(&format!("{gap}{}", loading::table(&loading).csv()))?;
            }
            Output::Md => {
                let Info { backend, n_ctx, file_bytes, .. } = &loading.model;
                let size = text::bytes(*file_bytes);
                let gap = if i > 0 { "\n" } else { "" };
                let name = file_stem(&loading.model);
                out.text(&format!("{gap}{name}, {size}, {backend}, context {n_ctx}\n\n"))?;
                out.text(&loading::table(&loading).markdown())?;
                out.text(&format!("\n{}\n", loading::memory_line(&loading)))?;
            }
        }
    }
    Ok(())
}
