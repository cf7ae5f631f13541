//! llama-perplexity's file of a model's probabilities (`--kl-divergence-base`): a head, the tokens of the chunks, and for
//! each token that is counted a row of 16-bit numbers.

use super::chunks::Chunks;
use super::row::Packed;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Model;
use crate::text;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"_logits_";
/// Magic, tokens of a chunk, ids of the vocabulary, chunks.
const HEAD_BYTES: u64 = 20;

/// A file of a base's probabilities.
#[derive(Debug)]
pub struct BaseFile {
    name: String,
    file: BufReader<File>,
    n_ctx: usize,
    n_vocab: usize,
    ids: Vec<u32>,
}

impl BaseFile {
    /// Opens a file that llama-perplexity or karat has written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Io`], and [`ErrorKind::ModelFile`] where it is no such file, or not whole.
    pub fn open(path: &Path) -> Result<Self> {
        let name = text::path(path);
        let file = File::open(path).map_err(|error| io_error(&name, &error))?;
        let n_bytes = file.metadata().map_err(|error| io_error(&name, &error))?.len();
        let mut base =
            Self { name, file: BufReader::new(file), n_ctx: 0, n_vocab: 0, ids: Vec::new() };
        base.read_head(n_bytes)?;
        Ok(base)
    }

    fn read_head(&mut self, n_bytes: u64) -> Result<()> {
        let mut head = [0; HEAD_BYTES as usize];
        let whole = n_bytes >= HEAD_BYTES;
        if whole {
            self.file.read_exact(&mut head).map_err(|error| io_error(&self.name, &error))?;
        }
        if !whole || head[..8] != *MAGIC {
            let what = "is no file of logits, as --save-all-logits writes it";
            return Err(self.malformed(what));
        }
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let (n_ctx, n_vocab, n_chunks) = (number(8), number(12), number(16));
        let rows = u64::from(n_ctx.saturating_sub(1) - n_ctx / 2).checked_mul(n_chunks.into());
        let ids = u64::from(n_ctx).checked_mul(n_chunks.into());
        let bytes = ids.and_then(|ids| ids.checked_mul(4)).zip(rows).and_then(|(ids, rows)| {
            let rows = rows.checked_mul(Packed::n_bytes(n_vocab as usize) as u64)?;
            rows.checked_add(ids)?.checked_add(HEAD_BYTES)
        });
        if n_ctx < 3 || n_chunks == 0 || bytes != Some(n_bytes) {
            let what = format!(
                "{n_bytes} bytes are not those of {n_chunks} chunks of {n_ctx} tokens with {n_vocab} logits each: it may \
                 not be whole"
            );
            return Err(self.malformed(&what));
        }
        (self.n_ctx, self.n_vocab) = (n_ctx as usize, n_vocab as usize);
        // No more than the file's own bytes.
        let mut bytes = vec![0; self.n_ctx * n_chunks as usize * 4];
        self.file.read_exact(&mut bytes).map_err(|error| io_error(&self.name, &error))?;
        self.ids = bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)).collect();
        if let Some(at) = self.ids.iter().position(|&id| id >= n_vocab) {
            let what = format!("token {at} is id {}, allowed 0..{n_vocab}", self.ids[at]);
            return Err(self.malformed(&what));
        }
        Ok(())
    }

    fn malformed(&self, what: &str) -> Error {
        Error::new(ErrorKind::ModelFile, format!("{}: {what}", self.name))
    }

    /// Tokens of a chunk: the context that a model needs.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The text's chunks, as they were when the file was made.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] for a model with another vocabulary.
    pub fn chunks(&self, model: &Model) -> Result<Chunks> {
        let n_vocab = model.engine()?.n_vocab();
        if n_vocab != self.n_vocab {
            let what = format!(
                "{}: made with a vocabulary of {}, the model has {n_vocab}",
                self.name, self.n_vocab
            );
            return Err(Error::new(ErrorKind::Rejected, what));
        }
        Ok(Chunks::of_ids(model, self.ids.clone(), self.n_ctx))
    }

    /// The bytes of `n` rows of a chunk from position `first` on, one behind the other.
    pub(super) fn rows(&mut self, chunk: usize, first: usize, n: usize) -> Result<Vec<u8>> {
        let per_chunk = self.n_ctx - 1 - self.n_ctx / 2;
        let row = (chunk * per_chunk + first - self.n_ctx / 2) as u64;
        let row_bytes = Packed::n_bytes(self.n_vocab);
        let start = HEAD_BYTES + 4 * self.ids.len() as u64 + row * row_bytes as u64;
        let mut bytes = vec![0; n * row_bytes];
        let read = self.file.seek(SeekFrom::Start(start));
        let read = read.and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|error| io_error(&self.name, &error))?;
        Ok(bytes)
    }
}

/// Writes what stands before the rows.
pub(super) fn write_head(out: &mut dyn Write, chunks: &Chunks, n_vocab: usize) -> Result<()> {
    let mut head = MAGIC.to_vec();
    for n in [chunks.len, n_vocab, chunks.n] {
        // Both formats, GGUF's and this one, count in 32 bits.
        let n = u32::try_from(n).map_err(|_| Error::new(ErrorKind::Rejected, "more than 2^32"))?;
        head.extend(n.to_le_bytes());
    }
    head.extend(chunks.ids().iter().flat_map(|id| id.to_le_bytes()));
    out.write_all(&head).map_err(|error| write_error(&error))
}

/// What could not be written.
pub(super) fn write_error(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("logits cannot be written: {error}"))
}

fn io_error(name: &str, error: &std::io::Error) -> Error {
    let kind = match error.kind() == std::io::ErrorKind::NotFound {
        true => ErrorKind::NotFound,
        false => ErrorKind::Io,
    };
    Error::new(kind, format!("{name}: {error}"))
}
