//! `karat bench --formats`: one matrix product in every format, against the machine's limits, the slowest first.

use super::limit::{Probe, Shown};
use super::ops::{computed_in, product};
use super::progress::Progress;
use super::stats::Spread;
use super::table::Align::{Left, Right};
use super::table::{Table, number, percent};
use crate::exit::{Code, Failure, failure};
use crate::interrupt::Answering;
use anyhow::Result;
use cpu::limits;
use gguf::DType;
use graph::Limits;
use graph::cases::{Rng, random_tensor};
use graph::{
    Backend, Blocks, Builder, ErrorKind, Graph, KV_BLOCK, LoadOptions, Loaded, NoTap, Op, Step,
    WeightUse,
};
use karat::memory;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Ids of the embedding that feeds the product; the logits are as many of its columns.
const N_VOCAB: usize = 16;
/// Rows of random blocks that are made; the matrix repeats them.
const RANDOM_ROWS: usize = 32;
/// No matrix has more weights.
const MAX_WEIGHTS: usize = 1 << 31;

/// Columns and rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Shape {
    /// Columns: elements of a row.
    n_in: usize,
    /// Rows.
    n_out: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes =
            text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let Some((n_in, n_out)) = sizes else {
            return Err("allowed is COLUMNSxROWS, e.g. 2048x8192".to_owned());
        };
        // The widest blocks have 256 weights.
        let fits = usize::checked_mul(n_in, n_out).is_some_and(|n| n <= MAX_WEIGHTS);
        if n_in == 0 || n_in % 256 != 0 || n_out < N_VOCAB || !fits {
            return Err(format!(
                "allowed are columns in multiples of 256, {N_VOCAB} rows and more, {MAX_WEIGHTS} weights at most"
            ));
        }
        Ok(Self { n_in, n_out })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.n_in, self.n_out)
    }
}

/// A format by name, in any case.
pub(super) fn format(name: &str) -> Result<DType, String> {
    let known = DType::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name));
    known.ok_or_else(|| {
        let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        format!("allowed are {}", names.join(", "))
    })
}

/// What is measured.
pub(super) struct Request<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) load: LoadOptions,
    pub(super) shape: Shape,
    /// Empty: all.
    pub(super) formats: &'a [DType],
    /// Tokens of the products beside the one token.
    pub(super) tokens: &'a [usize],
    pub(super) repetitions: usize,
}

/// The products of one format.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Row {
    format: &'static str,
    bits_per_weight: f64,
    /// `int8` or `f32`: which limit the products have.
    arithmetic: &'static str,
    /// Measured before the products.
    pub(super) limits: Shown,
    /// One token first.
    products: Vec<Product>,
}

/// One product.
#[derive(Clone, Debug, serde::Serialize)]
struct Product {
    tokens: usize,
    /// Milliseconds.
    ms: Spread,
    /// Of the file's bytes, in the fastest run.
    gb_s: f64,
    /// Of the read limit.
    of_read: f64,
    gmac_s: f64,
    /// Of the limit of its arithmetic.
    of_mac: f64,
}

impl Product {
    /// How near it is to the limit that binds it.
    fn of_limit(&self) -> f64 {
        self.of_read.max(self.of_mac)
    }
}

impl Row {
    /// Of its products the one that is farthest from its limit decides.
    fn worst(&self) -> f64 {
        self.products.iter().map(Product::of_limit).fold(f64::INFINITY, f64::min)
    }
}

/// Measures every format, and returns the slowest first; those until Ctrl-C was pressed, if it was.
pub(super) fn run(
    request: &Request<'_>,
    probe: &mut Probe,
    interrupt: &Answering,
) -> Result<Vec<Row>> {
    let formats = if request.formats.is_empty() { &DType::ALL[..] } else { request.formats };
    let mut progress = Progress::new(formats.len());
    let mut rows = Vec::new();
    for &dtype in formats {
        if interrupt.stopped() {
            break;
        }
        progress.say(dtype.name().to_owned());
        rows.push(row(request, probe, dtype)?);
        progress.step();
    }
    rows.sort_by(|a, b| a.worst().total_cmp(&b.worst()));
    Ok(rows)
}

fn row(request: &Request<'_>, probe: &mut Probe, dtype: DType) -> Result<Row> {
    let Shape { n_in, n_out } = request.shape;
    let bytes = dtype.row_bytes(n_in) * n_out;
    // For one token as many matrices as the caches cannot hold, and that memory can in the file, in the making, and
    // repacked.
    let room = usize::try_from(memory::available().unwrap_or(u64::MAX) / 6).unwrap_or(usize::MAX);
    let copies = limits::beyond_caches().min(room).div_ceil(bytes);
    let limits = probe.measure()?;
    let mut products = vec![measure(request, &limits, dtype, 1, copies)?];
    for &tokens in request.tokens.iter().filter(|&&tokens| tokens > 1) {
        products.push(measure(request, &limits, dtype, tokens, 1)?);
    }
    let arithmetic = computed_in(dtype, request.load).name();
    let bits_per_weight = dtype.bits_per_weight();
    Ok(Row {
        format: dtype.name(),
        bits_per_weight,
        arithmetic,
        limits: probe.shown(&limits),
        products,
    })
}

/// The product of some tokens with `copies` matrices, one after another.
fn measure(
    request: &Request<'_>,
    limits: &Limits,
    dtype: DType,
    tokens: usize,
    copies: usize,
) -> Result<Product> {
    let (graph, file) = synthetic(request.shape, dtype, copies)?;
    let graph = Arc::new(graph);
    for node in &graph.nodes {
        if let Err(reason) = request.backend.supports(&graph, node, request.load) {
            let what = format!("{}: {dtype}: {reason}", request.backend.name());
            return Err(failure(Code::Device, what));
        }
    }
    let mut loaded =
        request.backend.load(Arc::clone(&graph), &[&file], request.load, &mut |_| ())?;
    drop(file);
    let seconds = times(&mut *loaded, tokens, request.repetitions)?;
    let mut used = graph.nodes.iter().flat_map(|node| node.op.weights());
    let Some((w, _)) = used.find(|(_, usage)| *usage == WeightUse::Matrix) else {
        unreachable!("the graph was made of products");
    };
    let one = product(graph.weight(w), request.load, tokens);
    let ms: Vec<f64> = seconds.iter().map(|s| s / copies as f64 * 1e3).collect();
    let ms = Spread::of(&ms);
    // The limits are the best of several measurements too.
    let per_second = |amount: f64| amount / (ms.lowest / 1e3);
    let Limits { read, int8, f32 } = *limits;
    Ok(Product {
        tokens,
        gb_s: per_second(one.bytes) / 1e9,
        of_read: per_second(one.bytes) / read,
        gmac_s: per_second(one.int8 + one.f32) / 1e9,
        of_mac: per_second(one.int8 / int8 + one.f32 / f32),
        ms,
    })
}

/// Seconds that the products of a step take, without what feeds them.
fn times(loaded: &mut dyn Loaded, tokens: usize, repetitions: usize) -> Result<Vec<f64>> {
    let ids: Vec<u32> = (0..N_VOCAB as u32).cycle().take(tokens).collect();
    let step = Step::single(&ids, 0);
    let mut kv = loaded.new_kv(&Blocks::Each(tokens.div_ceil(KV_BLOCK)))?;
    let graph = Arc::clone(loaded.graph());
    let is_product = |&node: &usize| matches!(graph.nodes[node].op, Op::MatMul { .. });
    let mut seconds = Vec::new();
    for i in 0..=repetitions {
        loaded.profile(true);
        loaded.run(&step, &mut kv, &mut NoTap)?;
        let timings = loaded.timings();
        let of_products = timings.iter().filter(|timing| timing.nodes.iter().any(is_product));
        let ns: u64 = of_products.map(|timing| timing.ns).sum();
        if ns == 0 {
            return Err(Failure::new(Code::Usage, "--formats: this backend does not time its ops")
                .hint("--backend cpu")
                .into());
        }
        // The first is the warm-up.
        if i > 0 {
            seconds.push(ns as f64 / 1e9);
        }
    }
    Ok(seconds)
}

/// `copies` matrices of random blocks, all multiplied with the same rows and summed, and a few columns of the sum.
fn synthetic(shape: Shape, dtype: DType, copies: usize) -> Result<(Graph, gguf::File)> {
    let Shape { n_in, n_out } = shape;
    let mut rng = Rng::new(u64::from(dtype.id()));
    let mut builder = Builder::new(N_VOCAB);
    let table = builder.weight("table", DType::F32, n_in, N_VOCAB);
    let x = builder.get_rows(table, "x")?;
    let values = random_tensor(&mut rng, DType::F32, n_in * N_VOCAB, 1.0);
    let mut file =
        gguf::Builder::new().tensor("table", DType::F32, &[n_in as u64, N_VOCAB as u64], &values);
    let data = matrix(&mut rng, shape, dtype)?;
    let mut sum = None;
    for i in 0..copies {
        let name = format!("w{i}");
        file = file.tensor(&name, dtype, &[n_in as u64, n_out as u64], &data);
        let w = builder.weight(name, dtype, n_in, n_out);
        let y = builder.mat_mul(w, x, format!("y{i}"))?;
        // Every product is read, or a backend might leave it out.
        sum = Some(match sum {
            Some(sum) => builder.add(sum, y, format!("sum{i}"))?,
            None => y,
        });
    }
    let sum = sum.unwrap_or(x);
    let columns = builder.columns(0, N_VOCAB, sum, "columns")?;
    builder.output_rows(columns, "logits")?;
    let bytes = file.build()?;
    Ok((builder.finish()?, gguf::File::from_bytes(bytes)?))
}

/// Random rows, repeated: blocks are made slower than a benchmark should start.
fn matrix(rng: &mut Rng, shape: Shape, dtype: DType) -> Result<Vec<u8>> {
    let rows = RANDOM_ROWS.min(shape.n_out);
    let random = random_tensor(rng, dtype, shape.n_in * rows, 1.7 / (shape.n_in as f32).sqrt());
    let wanted = dtype.row_bytes(shape.n_in) * shape.n_out;
    let mut data = Vec::new();
    if data.try_reserve_exact(wanted).is_err() {
        let what = format!("{dtype} {shape}: no memory for {wanted} bytes");
        return Err(graph::Error::new(ErrorKind::OutOfMemory, what).into());
    }
    while data.len() < wanted {
        let n = random.len().min(wanted - data.len());
        data.extend_from_slice(&random[..n]);
    }
    Ok(data)
}

/// For people, in the order given.
pub(super) fn table(rows: &[Row]) -> Table {
    let tokens: Vec<usize> =
        rows.first().map_or(Vec::new(), |row| row.products.iter().map(|p| p.tokens).collect());
    let mut columns = Vec::new();
    for &tokens in &tokens {
        if tokens == 1 {
            columns.extend(["1 token, GB/s".to_owned(), "of read".to_owned()]);
        } else {
            columns.extend([format!("{tokens} tokens, GMAC/s"), "of limit".to_owned()]);
        }
    }
    let mut all = vec![("format", Left), ("limit", Left), ("bits", Right)];
    all.extend(columns.iter().map(|name| (name.as_str(), Right)));
    let mut table = Table::new(&all);
    for row in rows {
        let mut cells =
            vec![row.format.to_owned(), row.arithmetic.to_owned(), number(row.bits_per_weight)];
        for product in &row.products {
            if product.tokens == 1 {
                cells.extend([number(product.gb_s), percent(product.of_read)]);
            } else {
                cells.extend([number(product.gmac_s), percent(product.of_mac)]);
            }
        }
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { read: 10e9, int8: 100e9, f32: 50e9 };

    #[test]
    fn shapes() {
        assert_eq!("2048x8192".parse(), Ok(Shape { n_in: 2048, n_out: 8192 }));
        for bad in ["", "2048", "100x16", "0x16", "256x15", "x", "256x16x1", "-256x16"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
        assert!("18446744073709551360x256".parse::<Shape>().is_err());
        assert_eq!(format("q4_k"), Ok(DType::Q4_K));
        assert!(format("Q9").unwrap_err().contains("IQ4_XS"));
    }

    #[test]
    fn every_format_is_measured_in_every_arithmetic() {
        let backend = cpu::Cpu::new(1);
        for arithmetic in graph::Arithmetic::ALL {
            let load = LoadOptions { arithmetic, ..LoadOptions::default() };
            for dtype in DType::ALL {
                let (graph, file) = synthetic(Shape { n_in: 256, n_out: 40 }, dtype, 3).unwrap();
                let mut loaded =
                    backend.load(Arc::new(graph), &[&file], load, &mut |_| ()).unwrap();
                for tokens in [1, 70] {
                    let seconds = times(&mut *loaded, tokens, 2).unwrap();
                    assert_eq!(seconds.len(), 2, "{dtype} {tokens}");
                }
            }
        }
    }

    #[test]
    fn a_backend_that_does_not_time_its_ops_is_refused() {
        let (graph, file) = synthetic(Shape { n_in: 256, n_out: 16 }, DType::Q4_0, 1).unwrap();
        let backend = graph::reference::Reference;
        let mut loaded =
            backend.load(Arc::new(graph), &[&file], LoadOptions::default(), &mut |_| ()).unwrap();
        let error = times(&mut *loaded, 1, 1).unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
    }

    fn fixed(format: &'static str, of_read: f64, of_mac: f64) -> Row {
        let product = |tokens, of_read, of_mac| Product {
            tokens,
            ms: Spread::of(&[1.0]),
            gb_s: of_read * LIMITS.read / 1e9,
            of_read,
            gmac_s: of_mac * LIMITS.int8 / 1e9,
            of_mac,
        };
        let products = vec![product(1, of_read, 0.01), product(512, 0.01, of_mac)];
        let limits = Probe::new(2).shown(&LIMITS);
        Row { format, bits_per_weight: 4.5, arithmetic: "int8", limits, products }
    }

    #[test]
    fn the_worse_of_both_products_decides() {
        let row = fixed("Q4_0", 0.9, 0.3);
        assert_eq!(row.worst(), 0.3);
        let expected = "\
| format | limit | bits | 1 token, GB/s | of read | 512 tokens, GMAC/s | of limit |
| ------ | ----- | ---: | ------------: | ------: | -----------------: | -------: |
| Q4_0   | int8  | 4.50 |          9.00 |  90.0 % |               30.0 |   30.0 % |
";
        assert_eq!(table(&[row]).markdown(), expected);
    }
}
