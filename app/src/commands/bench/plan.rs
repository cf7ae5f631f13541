//! Which tests are run, chosen as llama-bench chooses them: every length at every depth, every batch for generation.

use super::Args;
use super::numbers::Numbers;
use crate::exit::{Code, Failure};

/// What one test computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A prompt of this number of tokens.
    Prompt(usize),
    /// Tokens one after another, of all sequences at the same time.
    Generate {
        /// Tokens of each sequence.
        tokens: usize,
        /// Sequences.
        batch: usize,
    },
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// What it computes.
    pub(super) kind: Kind,
    /// Positions of each sequence that are there before.
    pub(super) depth: usize,
}

/// The engine's work in one step: for each sequence its first position and how many tokens follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `(first, n)` of each sequence.
    pub(super) spans: Vec<(usize, usize)>,
    /// Rows of logits.
    pub(super) outputs: usize,
}

impl Test {
    /// As llama-bench names it, `pp512`, `tg128 @ d2048`; sequences as `tg128 x16`.
    pub(super) fn name(&self) -> String {
        let mut name = match self.kind {
            Kind::Prompt(n) => format!("pp{n}"),
            Kind::Generate { tokens, batch: 1 } => format!("tg{tokens}"),
            Kind::Generate { tokens, batch } => format!("tg{tokens} x{batch}"),
        };
        if self.depth > 0 {
            name.push_str(&format!(" @ d{}", self.depth));
        }
        name
    }

    /// Tokens that are computed, of all sequences.
    pub(super) fn tokens(&self) -> usize {
        match self.kind {
            Kind::Prompt(n) => n,
            Kind::Generate { tokens, batch } => tokens.saturating_mul(batch),
        }
    }

    /// Sequences at the same time.
    pub(super) fn batch(&self) -> usize {
        match self.kind {
            Kind::Prompt(_) => 1,
            Kind::Generate { batch, .. } => batch,
        }
    }

    /// Positions that a sequence has in the end.
    pub(super) fn positions(&self) -> usize {
        let new = match self.kind {
            Kind::Prompt(n) => n,
            Kind::Generate { tokens, .. } => tokens,
        };
        self.depth.saturating_add(new)
    }

    /// The steps in which the engine runs the test, prompts being cut at `n_batch` tokens.
    pub(super) fn shapes(&self, n_batch: usize) -> Vec<Shape> {
        match self.kind {
            Kind::Prompt(n) => {
                let starts = (0..n).step_by(n_batch.max(1));
                let shape = |start: usize| {
                    let len = n_batch.min(n - start);
                    let outputs = usize::from(start + len == n);
                    Shape { spans: vec![(self.depth + start, len)], outputs }
                };
                starts.map(shape).collect()
            }
            Kind::Generate { tokens, batch } => {
                let at = |i| Shape { spans: vec![(self.depth + i, 1); batch], outputs: batch };
                (0..tokens).map(at).collect()
            }
        }
    }
}

/// The tests, depth by depth, so that a context is extended and never computed twice. Lengths of 0 leave tests out.
///
/// # Errors
/// Exit 2 where nothing is left.
pub(super) fn tests(args: &Args) -> anyhow::Result<Vec<Test>> {
    let mut tests = Vec::new();
    for depth in sorted(&args.n_depth) {
        for n in sorted(&args.n_prompt).into_iter().filter(|&n| n > 0) {
            tests.push(Test { kind: Kind::Prompt(n), depth });
        }
        for tokens in sorted(&args.n_gen).into_iter().filter(|&n| n > 0) {
            for batch in sorted(&args.batch) {
                tests.push(Test { kind: Kind::Generate { tokens, batch }, depth });
            }
        }
    }
    if tests.is_empty() {
        let failure = Failure::new(Code::Usage, "-p and -n: only 0, nothing to measure");
        return Err(failure.hint("-p 512 or -n 128").into());
    }
    Ok(tests)
}

/// Ascending, each once.
fn sorted(list: &[Numbers]) -> Vec<usize> {
    let mut sorted: Vec<usize> = Numbers::all(list).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// What the engine must hold for all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Positions of a sequence.
    pub(super) n_ctx: usize,
    /// Sequences.
    pub(super) n_seqs: usize,
}

/// The largest of all tests.
pub(super) fn needs(tests: &[Test]) -> Needs {
    Needs {
        n_ctx: tests.iter().map(Test::positions).max().unwrap_or(1),
        n_seqs: tests.iter().map(Test::batch).max().unwrap_or(1),
    }
}

/// Refuses the first test that does not fit into a context of `n_ctx` positions, or a step of `n_batch` tokens.
///
/// # Errors
/// Exit 7, with the test's name and what it needs.
pub(super) fn check(tests: &[Test], n_ctx: usize, n_batch: usize) -> anyhow::Result<()> {
    for test in tests {
        if test.positions() > n_ctx {
            let (name, needed) = (test.name(), test.positions());
            let what = format!("{name}: {needed} positions are over the context of {n_ctx} (-c)");
            return Err(Failure::new(Code::Rejected, what).hint("raise -c or leave it out").into());
        }
        if test.batch() > n_batch {
            let (name, batch) = (test.name(), test.batch());
            let what = format!("{name}: {batch} sequences are over the {n_batch} tokens of a step");
            return Err(Failure::new(Code::Rejected, what).hint("raise -b").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> anyhow::Result<Vec<Test>> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        tests(&Line::try_parse_from(words).unwrap().args)
    }

    fn names(line: &str) -> Vec<String> {
        plan(line).unwrap().iter().map(Test::name).collect()
    }

    #[test]
    fn tests_are_chosen_as_llama_bench_does() {
        assert_eq!(names(""), ["pp512", "tg128"]);
        assert_eq!(names("-p 4096,512 -n 0"), ["pp512", "pp4096"]);
        assert_eq!(
            names("-p 512 -n 32 -d 2048,0 --batch 1,4"),
            ["pp512", "tg32", "tg32 x4", "pp512 @ d2048", "tg32 @ d2048", "tg32 x4 @ d2048"]
        );
        assert_eq!(names("-p 8 -p 8,16 -n 0"), ["pp8", "pp16"]);
        assert_eq!(names("-p 128-512*2 -n 1-2"), ["pp128", "pp256", "pp512", "tg1", "tg2"]);
    }

    #[test]
    fn nothing_to_measure_is_2() {
        let error = plan("-p 0 -n 0").unwrap_err();
        assert_eq!(crate::exit::code(&error), Code::Usage);
        assert!(Line::try_parse_from(["bench", "--batch", "0"]).is_err());
        assert!(Line::try_parse_from(["bench", "-p", "1,x"]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_7_and_named() {
        let tests = plan("-p 512 -n 128 -d 0,8192 --batch 1,16").unwrap();
        assert_eq!(needs(&tests), Needs { n_ctx: 8192 + 512, n_seqs: 16 });
        assert!(check(&tests, 8704, 16).is_ok());
        for (n_ctx, n_batch, part) in [(8703, 512, "pp512 @ d8192"), (9000, 15, "tg128 x16")] {
            let error = check(&tests, n_ctx, n_batch).unwrap_err();
            assert_eq!(crate::exit::code(&error), Code::Rejected);
            assert!(error.to_string().starts_with(part), "{error}");
        }
        let huge = plan("-p 18446744073709551615 -n 0 -d 1").unwrap();
        assert!(check(&huge, 4096, 512).is_err());
    }

    #[test]
    fn steps_cover_every_token_once() {
        let prompt = Test { kind: Kind::Prompt(1100), depth: 64 };
        let span = |first, n, outputs| Shape { spans: vec![(first, n)], outputs };
        assert_eq!(prompt.shapes(512), [span(64, 512, 0), span(576, 512, 0), span(1088, 76, 1)]);
        let generate = Test { kind: Kind::Generate { tokens: 2, batch: 3 }, depth: 7 };
        let at = |first| Shape { spans: vec![(first, 1); 3], outputs: 3 };
        assert_eq!(generate.shapes(512), [at(7), at(8)]);
    }
}
