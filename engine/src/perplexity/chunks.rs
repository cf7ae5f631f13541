//! How a text is cut into chunks, and which of their tokens are counted: the rules of llama-perplexity.

use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use crate::options::Options;
use tokenizer::{Ends, Special};

/// llama.cpp rounds the positions of a context up to a multiple of this.
const CONTEXT_STEP: usize = 256;

/// How a text is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Tokens of a chunk. Only those of its second half are counted, so that each has at least half a chunk before it.
    pub n_ctx: usize,
    /// In place of that: chunks begin a stride of tokens apart, and the last stride of each is counted. As in
    /// llama-perplexity a chunk is half a stride longer than `n_ctx` then, rounded up to a multiple of 256.
    pub stride: Option<usize>,
    /// Only the first chunks are read, up to this number.
    pub max_chunks: Option<usize>,
}

impl Default for Measure {
    /// As llama-perplexity: chunks of 512 tokens.
    fn default() -> Self {
        Self { n_ctx: 512, stride: None, max_chunks: None }
    }
}

impl Measure {
    /// Tokens of a chunk.
    pub fn chunk_len(&self) -> usize {
        match self.stride {
            Some(stride) => self.n_ctx.saturating_add(stride / 2).next_multiple_of(CONTEXT_STEP),
            None => self.n_ctx,
        }
    }

    /// The options to open a model with: a context of a chunk for as many sequences as fill a step.
    #[must_use]
    pub fn options(&self, options: &Options) -> Options {
        let len = self.chunk_len();
        let sequences = (options.batch_size / (len / 2).max(1)).max(1);
        Options { ctx_size: Some(len), sequences, ..options.clone() }
    }

    /// Refuses what no text could be measured by.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn check(&self) -> Result<()> {
        let refused = |what: String| Err(Error::new(ErrorKind::Usage, what));
        match (self.n_ctx, self.stride, self.max_chunks) {
            (0..=2, _, _) => refused(format!("-c: {}, allowed are 3 and more", self.n_ctx)),
            (_, Some(stride), _) if stride == 0 || stride >= self.chunk_len() => {
                let most = self.chunk_len() - 1;
                refused(format!(
                    "--ppl-stride: {stride}, allowed 1..={most} with a chunk of {}",
                    most + 1
                ))
            }
            (_, _, Some(0)) => refused("--chunks: 0, allowed are 1 and more".to_owned()),
            (_, _, _) => Ok(()),
        }
    }
}

/// The tokens of a text, cut into chunks of equal length.
#[derive(Clone, Debug)]
pub struct Chunks {
    ids: Vec<u32>,
    /// What stands in the place of each chunk's first token.
    bos: Option<u32>,
    /// Tokens of a chunk.
    pub(super) len: usize,
    /// Tokens from the beginning of a chunk to that of the next.
    step: usize,
    /// The first position of a chunk that foretells a token that is counted.
    pub(super) first: usize,
    /// How many there are.
    pub(super) n: usize,
}

impl Chunks {
    /// Cuts a text.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] as [`Measure::check`]; [`ErrorKind::Rejected`] for a text of less than two chunks.
    pub fn of_text(model: &Model, text: &str, measure: &Measure) -> Result<Self> {
        measure.check()?;
        let len = measure.chunk_len();
        let tokenizer = model.tokenizer();
        let mut ids = tokenizer.encode(text, Special::AsText, Ends::Default)?;
        // The text goes on behind each chunk; nothing is said of how its end is marked.
        if tokenizer.adds_eos() && ids.last().copied() == tokenizer.eos() {
            ids.pop();
        }
        if ids.len() < 2 * len {
            let what = format!(
                "text: you need at least {} tokens to evaluate perplexity with a context of {len}, and it has only {}",
                2 * len,
                ids.len()
            );
            let error = Error::new(ErrorKind::Rejected, what).with_option("ctx_size");
            return Err(error.with_hint("a longer text, or a smaller context"));
        }
        let (step, first, n) = match measure.stride {
            Some(stride) => (stride, len - stride - 1, (ids.len() - len).div_ceil(stride)),
            None => (len, len / 2, ids.len() / len),
        };
        // With a stride llama-perplexity leaves each chunk's first token as it is.
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos() && measure.stride.is_none());
        Ok(Self { ids, bos, len, step, first, n }.limited(measure.max_chunks))
    }

    /// The chunks of a file, without a stride.
    pub(super) fn of_ids(model: &Model, ids: Vec<u32>, len: usize) -> Self {
        let tokenizer = model.tokenizer();
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let n = ids.len() / len;
        Self { ids, bos, len, step: len, first: len / 2, n }
    }

    /// The first `n` of them, or all.
    #[must_use]
    pub fn limited(self, n: Option<usize>) -> Self {
        Self { n: self.n.min(n.unwrap_or(self.n)), ..self }
    }

    /// How many chunks there are.
    pub fn n_chunks(&self) -> usize {
        self.n
    }

    /// Tokens of a chunk.
    pub fn chunk_len(&self) -> usize {
        self.len
    }

    /// Tokens of a chunk that are counted.
    pub fn n_counted(&self) -> usize {
        self.len - 1 - self.first
    }

    /// The text's tokens from the first chunk's beginning to the last one's end.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids[..(self.n - 1) * self.step + self.len]
    }

    /// What a model reads of chunk `i`: all but the last token, which only it foretells.
    pub(super) fn read(&self, i: usize) -> Vec<u32> {
        let start = i * self.step;
        let mut ids = self.ids[start..start + self.len - 1].to_vec();
        if let Some(bos) = self.bos {
            ids[0] = bos;
        }
        ids
    }

    /// The token behind position `at` of chunk `i`.
    pub(super) fn next(&self, i: usize, at: usize) -> u32 {
        self.ids[i * self.step + at + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_tiny_model;

    fn tiny() -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny_model(&path).unwrap();
        Model::open(&path).unwrap()
    }

    /// Of 8 tokens the last 4 are counted; but llama-perplexity leaves out the first of these, which the last token of the
    /// first half foretells.
    #[test]
    fn the_second_half_is_counted() {
        let model = tiny();
        let text = "abcdefghijklmnopqrstuvwxyz";
        let ids = model.tokenize(text).unwrap();
        let measure = Measure { n_ctx: 8, ..Measure::default() };
        let chunks = Chunks::of_text(&model, text, &measure).unwrap();
        assert_eq!((chunks.n_chunks(), chunks.first, chunks.n_counted()), (ids.len() / 8, 4, 3));
        let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
        assert_eq!(chunks.read(1)[0], bos.unwrap_or(ids[8]));
        assert_eq!(chunks.read(1)[1..], ids[9..15]);
        assert_eq!((chunks.next(1, 4), chunks.next(1, 6)), (ids[13], ids[15]));
        let one = Measure { max_chunks: Some(1), ..measure };
        assert_eq!(Chunks::of_text(&model, text, &one).unwrap().ids(), &ids[..8]);
    }

    /// 10 + 100 / 2 becomes 256, of which the last 100 are counted.
    #[test]
    fn a_stride() {
        let measure = Measure { n_ctx: 10, stride: Some(100), max_chunks: None };
        let model = tiny();
        let text = "the quick brown fox ".repeat(80);
        let ids = model.tokenize(&text).unwrap();
        let chunks = Chunks::of_text(&model, &text, &measure).unwrap();
        assert_eq!((chunks.chunk_len(), chunks.n_counted(), chunks.first), (256, 100, 155));
        assert_eq!(chunks.n_chunks(), (ids.len() - 256).div_ceil(100));
        assert_eq!(chunks.read(2), ids[200..455]);
        assert_eq!(chunks.next(2, 254), ids[455]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let refused = |measure: Measure| measure.check().unwrap_err().to_string();
        let ctx = |n_ctx| Measure { n_ctx, ..Measure::default() };
        assert_eq!(refused(ctx(2)), "-c: 2, allowed are 3 and more");
        let stride = Measure { stride: Some(2000), ..ctx(8) };
        assert_eq!(refused(stride), "--ppl-stride: 2000, allowed 1..=1023 with a chunk of 1024");
        assert!(refused(Measure { stride: Some(0), ..ctx(8) }).starts_with("--ppl-stride: 0"));
        assert!(refused(Measure { max_chunks: Some(0), ..ctx(8) }).starts_with("--chunks: 0"));
        let error = Chunks::of_text(&tiny(), "short", &Measure::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        let said = "you need at least 1024 tokens to evaluate perplexity with a context of 512";
        assert!(error.to_string().contains(said), "{error}");
    }

    /// As many sequences as fill a step with half of their chunks.
    #[test]
    fn options_of_a_measure() {
        let options = Options { batch_size: 512, ..Options::default() };
        let n = |n_ctx| Measure { n_ctx, ..Measure::default() }.options(&options).sequences;
        assert_eq!((n(4096), n(512), n(128), n(3)), (1, 2, 8, 512));
    }
}
