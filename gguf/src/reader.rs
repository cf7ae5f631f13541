//! Reads the header of one file in order, through a small buffer, and never past the file or the metadata limit.

use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// Bytes read from the file at a time.
const CHUNK: usize = 64 << 10;

/// What is being read, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Header,
    Metadata,
    TensorInfos,
}

impl Section {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Metadata => "metadata",
            Self::TensorInfos => "tensor infos",
        }
    }
}

/// A position in a file that moves forward over little-endian values.
pub(crate) struct Reader<'a> {
    source: &'a Source,
    pub(crate) section: Section,
    /// Offset in the file of the next byte.
    pos: u64,
    /// End of the file.
    file_end: u64,
    /// The end of what may be read: the file's end, or that of the metadata limit.
    end: u64,
    /// Bytes `pos..` that were read ahead are `buf[used..]`.
    buf: Vec<u8>,
    used: usize,
}

impl<'a> Reader<'a> {
    /// A reader from `start` that reads no more than `limit` bytes.
    pub(crate) fn new(source: &'a Source, start: u64, limit: u64) -> Self {
        let file_end = source.len();
        let end = file_end.min(start.saturating_add(limit));
        Self {
            source,
            section: Section::Header,
            pos: start,
            file_end,
            end,
            buf: Vec::new(),
            used: 0,
        }
    }

    pub(crate) fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes that may still be read; no valid count or length can ask for more.
    pub(crate) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.pos)
    }

    /// An error at the current place.
    pub(crate) fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, what).at(self.section.name(), self.pos)
    }

    /// A `Malformed` error at the current place.
    pub(crate) fn malformed(&self, what: impl Into<String>) -> Error {
        self.error(ErrorKind::Malformed, what)
    }

    /// Refuses to go on if `need` more bytes are not there.
    pub(crate) fn check(&self, need: u64, what: &str) -> Result<()> {
        if need <= self.remaining() {
            return Ok(());
        }
        let section = self.section.name();
        let in_file = self.file_end.saturating_sub(self.pos);
        // A length beyond the file is wrong whatever the limit; only one that the file could hold is the limit's.
        if need > in_file {
            let what =
                format!("{section} truncated: {what} needs {need} bytes, file has {in_file} left");
            return Err(self.error(ErrorKind::Truncated, what).hint("is the download complete?"));
        }
        let left = self.remaining();
        let what =
            format!("{section}: {what} needs {need} bytes, {left} left of the limit on metadata");
        Err(self.error(ErrorKind::Limit, what).hint("raise Limits::metadata_bytes"))
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.check(N as u64, what)?;
        let mut done = 0;
        while done < N {
            let ready = self.ready()?;
            let n = ready.len().min(N - done);
            out[done..done + n].copy_from_slice(&ready[..n]);
            self.skip(n);
            done += n;
        }
        Ok(out)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Appends the next `n` bytes to `out`, which grows only as bytes arrive.
    pub(crate) fn append(&mut self, n: u64, out: &mut Vec<u8>, what: &str) -> Result<()> {
        self.check(n, what)?;
        let mut left = n;
        while left > 0 {
            let ready = self.ready()?;
            let n = ready.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if out.try_reserve(n).is_err() {
                return Err(self
                    .error(ErrorKind::OutOfMemory, format!("cannot allocate memory for {what}")));
            }
            out.extend_from_slice(&ready[..n]);
            self.skip(n);
            left -= n as u64;
        }
        Ok(())
    }

    /// Reads `n` values of `N` bytes each; the list grows only as bytes arrive.
    pub(crate) fn list<T, const N: usize>(
        &mut self,
        n: u64,
        get: fn([u8; N]) -> T,
        what: &str,
    ) -> Result<Vec<T>> {
        let bytes = n.saturating_mul(N as u64);
        self.check(bytes, what)?;
        let mut list = Vec::new();
        let mut left = n;
        while left > 0 {
            let ready = self.ready()?;
            let whole = (ready.len() / N).min(usize::try_from(left).unwrap_or(usize::MAX));
            if list.try_reserve(whole.max(1)).is_err() {
                return Err(self
                    .error(ErrorKind::OutOfMemory, format!("cannot allocate memory for {what}")));
            }
            if whole == 0 {
                // The value lies across the end of the buffer.
                list.push(get(self.array(what)?));
                left -= 1;
                continue;
            }
            let (values, _) = ready[..whole * N].as_chunks::<N>();
            list.extend(values.iter().map(|&bytes| get(bytes)));
            self.skip(whole * N);
            left -= whole as u64;
        }
        Ok(list)
    }

    /// The bytes that are read ahead; reads the next piece of the file if there are none.
    fn ready(&mut self) -> Result<&[u8]> {
        if self.used == self.buf.len() {
            let n = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(CHUNK);
            self.buf.resize(n, 0);
            self.used = 0;
            if let Err(error) = self.source.read_exact_at(&mut self.buf, self.pos) {
                self.buf.clear();
                return Err(error);
            }
        }
        Ok(&self.buf[self.used..])
    }

    fn skip(&mut self, n: usize) {
        self.used += n;
        self.pos += n as u64;
    }
}
