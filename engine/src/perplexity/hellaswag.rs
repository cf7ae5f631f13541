//! HellaSwag: how often a model holds the right one of four endings for the likeliest, by the rules of llama-perplexity.

use super::Watch;
use super::row::Row;
use super::walk::non_finite;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, Task};
use crate::handle::Model;
use crate::options::Options;
use crate::sequence::Sequence;
use graph::NoTap;
use model::{Engine, Wanted, Work};
use serde::Serialize;
use tokenizer::{Ends, Special};

/// Endings of a question.
const ENDINGS: usize = 4;
/// Context, number of the right ending, endings.
const LINES: usize = 2 + ENDINGS;
/// Tokens that a question with an ending mostly has: by this it is estimated how many questions fit into a step.
const USUAL_LEN: usize = 128;

/// A text and four ways in which it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    context: String,
    right: usize,
    endings: [String; ENDINGS],
}

/// How often a model was right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HellaSwag {
    /// Questions that were asked.
    pub n_questions: usize,
    /// Those that were answered right.
    pub n_right: usize,
    /// The part of them.
    pub accuracy: f64,
    /// Where it lies for all questions of this kind, in 95 of 100 cases: Wilson's interval.
    pub lowest: f64,
    /// Its other end.
    pub highest: f64,
}

/// The questions of a file in llama-perplexity's format, six lines each: context, number of the right ending from 0, four
/// endings.
///
/// # Errors
/// [`ErrorKind::Rejected`] with the line that is wrong.
pub fn questions(text: &str) -> Result<Vec<Question>> {
    let lines: Vec<&str> = text.lines().collect();
    let rejected = |what: String| Error::new(ErrorKind::Rejected, what);
    if lines.is_empty() || !lines.len().is_multiple_of(LINES) {
        let what = format!("text: {} lines, allowed are {LINES} for each question", lines.len());
        return Err(rejected(what));
    }
    let question = |(i, lines): (usize, &[&str])| match (lines, lines[1].trim().parse()) {
        ([context, _, endings @ ..], Ok(right)) if right < ENDINGS => Ok(Question {
            context: (*context).to_owned(),
            right,
            endings: std::array::from_fn(|e| endings[e].to_owned()),
        }),
        _ => {
            let (line, found) = (i * LINES + 2, crate::text::shortened(lines[1], 20));
            let allowed = "wanted the number of the right ending, 0..=3";
            Err(rejected(format!("text: line {line}: \"{found}\", {allowed}")))
        }
    };
    lines.chunks(LINES).enumerate().map(question).collect()
}

/// The options to open a model with: a context for each ending of as many questions as fill a step.
#[must_use]
pub fn options(options: &Options, n_ctx: usize) -> Options {
    let sequences = ENDINGS * (options.batch_size / (ENDINGS * USUAL_LEN)).max(1);
    Options { ctx_size: Some(n_ctx), sequences, ..options.clone() }
}

/// Asks all questions. An ending is the likelier the greater the mean of the logarithms of its tokens' probabilities is.
///
/// # Errors
/// [`ErrorKind::Rejected`] for a question that does not fit into the context, or whose ending adds nothing to it; otherwise
/// those of [`Model::step`].
pub fn hellaswag(model: &Model, questions: &[Question], watch: Watch<'_>) -> Result<HellaSwag> {
    let encoded = questions.iter().enumerate().map(|(i, question)| {
        question.encode(model).map_err(|error| error.at(format_args!("question {}", i + 1)))
    });
    let encoded: Vec<Encoded> = encoded.collect::<Result<_>>()?;
    let progress = Progress::start(
        watch.listener,
        Task::Measure,
        Some(encoded.iter().map(Encoded::n_tokens).sum()),
    );
    let (mut done, mut n_right) = (0, 0);
    let mut rest = encoded.as_slice();
    while !rest.is_empty() {
        let (group, after) = rest.split_at(together(model, rest)?);
        n_right += ask(model, group, watch)?;
        done += group.iter().map(Encoded::n_tokens).sum::<u64>();
        progress.at(done);
        rest = after;
    }
    Ok(HellaSwag::of(n_right, questions.len()))
}

impl HellaSwag {
    fn of(n_right: usize, n_questions: usize) -> Self {
        /// Standard deviations within which 95 % of a normal distribution lie.
        const DEVIATIONS: f64 = 1.959_963_984_54;
        let n = n_questions as f64;
        let accuracy = n_right as f64 / n;
        let z = DEVIATIONS * DEVIATIONS / n;
        let half = z * (n * (4.0 * accuracy * (1.0 - accuracy) + z)).sqrt() / (2.0 * DEVIATIONS);
        let end = |half: f64| (accuracy + z / 2.0 + half) / (1.0 + z);
        Self { n_questions, n_right, accuracy, lowest: end(-half), highest: end(half) }
    }
}

/// The tokens of a question with each ending.
struct Encoded {
    ids: [Vec<u32>; ENDINGS],
    /// Tokens that all four begin with.
    shared: usize,
    right: usize,
}

impl Question {
    fn encode(&self, model: &Model) -> Result<Encoded> {
        let mut ids = [const { Vec::new() }; ENDINGS];
        for (ids, ending) in ids.iter_mut().zip(&self.endings) {
            let text = format!("{} {ending}", self.context);
            *ids = model.tokenizer().encode(&text, Special::AsText, Ends::Default)?;
        }
        let [first, others @ ..] = &ids;
        let same = |&i: &usize| others.iter().all(|ids| ids.get(i) == Some(&first[i]));
        let shared = (0..first.len()).take_while(same).count();
        let shortest = ids.iter().map(Vec::len).min().unwrap_or(0);
        if shared == 0 || shared == shortest {
            let what =
                "the endings begin with no token in common, or one of them is another's beginning";
            return Err(Error::new(ErrorKind::Rejected, what));
        }
        Ok(Encoded { ids, shared, right: self.right })
    }
}

impl Encoded {
    fn n_tokens(&self) -> u64 {
        self.ids.iter().map(|ids| ids.len() as u64).sum()
    }

    /// What a model reads of an ending: all but its last token, the first of them without logits.
    fn halves(&self, ending: usize) -> (&[u32], &[u32]) {
        let ids = &self.ids[ending];
        ids[..ids.len() - 1].split_at(self.shared - 1)
    }
}

/// Questions that fit into one step, at least one.
fn together(model: &Model, questions: &[Encoded]) -> Result<usize> {
    let engine = model.engine()?;
    let (most_tokens, most_seqs) = (engine.options().n_batch as u64, engine.options().n_seqs);
    let mut tokens = 0;
    let fits = |question: &&Encoded| {
        tokens += question.n_tokens();
        tokens <= most_tokens
    };
    Ok(questions.iter().take_while(fits).count().min(most_seqs / ENDINGS).max(1))
}

/// How many of these questions the model answers right.
fn ask(model: &Model, questions: &[Encoded], watch: Watch<'_>) -> Result<usize> {
    let endings = questions.iter().flat_map(|question| (0..ENDINGS).map(move |e| (question, e)));
    let mut reading = Vec::new();
    for (question, ending) in endings {
        let sequence = model.sequence()?;
        model.engine()?.expect(sequence.id(), question.ids[ending].len());
        let (before, counted) = question.halves(ending);
        let next = &question.ids[ending][question.shared..];
        reading.push(Reading { sequence, before, counted, next });
    }
    run(model, reading.iter().map(|r| (&r.sequence, r.before, Wanted::None)), watch)?;
    let rows = run(model, reading.iter().map(|r| (&r.sequence, r.counted, Wanted::All)), watch)?;
    let scores = reading.iter().zip(&rows).map(|(reading, rows)| reading.score(rows));
    let scores: Vec<f64> = scores.collect::<Result<_>>()?;
    let answers = scores.chunks(ENDINGS).map(|scores| {
        // The first of several that are alike.
        let best = |a: usize, b: usize| if scores[b] > scores[a] { b } else { a };
        (0..ENDINGS).fold(0, best)
    });
    Ok(answers.zip(questions).filter(|(answer, question)| *answer == question.right).count())
}

/// An ending that is being read.
struct Reading<'q> {
    sequence: Sequence,
    /// What all endings share, but its last token.
    before: &'q [u32],
    /// The last of those, and what is the ending's own.
    counted: &'q [u32],
    /// The token behind each of these.
    next: &'q [u32],
}

impl Reading<'_> {
    /// The mean of the logarithms of the probabilities.
    fn score(&self, logits: &[f32]) -> Result<f64> {
        let n_vocab = logits.len() / self.next.len();
        let mut sum = 0.0;
        for (i, (logits, &id)) in logits.chunks(n_vocab).zip(self.next).enumerate() {
            let place = format_args!("token {} of an ending", i + 1);
            sum -= Row::new(logits).ok_or_else(|| non_finite(place))?.nll(id);
        }
        Ok(sum / self.next.len() as f64)
    }
}

/// Reads tokens of each sequence, in as many steps as they need, and returns each one's logits.
fn run<'q>(
    model: &Model,
    items: impl Iterator<Item = (&'q Sequence, &'q [u32], Wanted)>,
    watch: Watch<'_>,
) -> Result<Vec<Vec<f32>>> {
    let mut engine = model.engine()?;
    let items: Vec<Work<'_>> = items
        .filter(|(_, tokens, _)| !tokens.is_empty())
        .map(|(sequence, tokens, wanted)| Work { seq: sequence.id(), tokens, wanted })
        .collect();
    let n_batch = engine.options().n_batch;
    if items.iter().map(|item| item.tokens.len()).sum::<usize>() <= n_batch {
        let step = |engine: &mut Engine| engine.step(&items, &mut NoTap);
        return Ok(engine.stopping(watch.stop, step)?);
    }
    let mut logits = Vec::new();
    for item in items {
        let mut of_item = Vec::new();
        for tokens in item.tokens.chunks(n_batch) {
            let step = |engine: &mut Engine| engine.step(&[Work { tokens, ..item }], &mut NoTap);
            of_item.extend(engine.stopping(watch.stop, step)?.into_iter().flatten());
        }
        logits.push(of_item);
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_tiny_model;
    use graph::Stop;

    const TWO: &str = "\
The sky is
1
green today.
blue today.
loud today.
late today.
A cat
3
reads Kant.
flies home.
barks loudly.
sleeps all day.
";

    /// What `Sequence::score` says of each token, added up by hand.
    #[test]
    fn the_likeliest_ending_is_that_of_the_scores() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny_model(&path).unwrap();
        let questions = questions(TWO).unwrap();
        let open = |batch_size| {
            let options = options(&Options { batch_size, ..Options::default() }, 64);
            Model::builder(&path).options(options).open().unwrap()
        };
        let model = open(512);
        let mut n_right = 0;
        for question in &questions {
            let encoded = question.encode(&model).unwrap();
            let means = encoded.ids.iter().map(|ids| {
                let scores = model.sequence().unwrap().score(ids).unwrap();
                let own = &scores[encoded.shared - 1..];
                own.iter().sum::<f64>() / own.len() as f64
            });
            let means: Vec<f64> = means.collect();
            let best = (0..ENDINGS).max_by(|&a, &b| means[a].total_cmp(&means[b])).unwrap();
            n_right += usize::from(best == encoded.right);
        }
        let (stop, quiet) = (Stop::new(), |_: crate::Event<'_>| {});
        let watch = Watch { stop: &stop, listener: &quiet };
        for model in [model, open(5)] {
            assert_eq!(hellaswag(&model, &questions, watch).unwrap().n_right, n_right);
        }
    }

    /// Wilson's interval of 8 of 10, as in textbooks: 49.02 % to 94.33 %.
    #[test]
    fn an_interval() {
        let found = HellaSwag::of(8, 10);
        assert!((found.lowest - 0.4902).abs() < 5e-5, "{found:?}");
        assert!((found.highest - 0.9433).abs() < 5e-5, "{found:?}");
    }

    #[test]
    fn a_file_that_is_none() {
        let refused = |text: &str| questions(text).unwrap_err().to_string();
        assert_eq!(refused("a\n0\nb\n"), "text: 3 lines, allowed are 6 for each question");
        assert_eq!(refused(""), "text: 0 lines, allowed are 6 for each question");
        let wrong = refused(&TWO.replace("\n3\n", "\n4\n"));
        assert_eq!(wrong, "text: line 8: \"4\", wanted the number of the right ending, 0..=3");
        assert_eq!(questions(TWO).unwrap()[1].right, 3);
    }
}
