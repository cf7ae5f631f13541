//! A file that appears under its name when it is whole, and leaves nothing behind if it does not become so.

use crate::{Error, ErrorKind, Result};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The new one takes its place.
    Replace,
    /// It stays, and the new one is refused.
    Keep,
}

/// A file that is being written, beside the place where it will stand.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    sink: BufWriter<tempfile::NamedTempFile>,
}

impl Output {
    /// Starts a file that will be `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        // In the folder of the final name, so that taking the name is one step.
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".karat-").suffix(".part");
        // By default only the user could read the file; a model should have the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temp = builder.tempfile_in(folder).map_err(|e| error(path, &e))?;
        Ok(Self { path: path.to_owned(), sink: BufWriter::new(temp) })
    }

    /// Writes what is left to the disk and gives the file its name.
    pub(crate) fn keep(self, existing: Existing) -> Result<()> {
        let path = self.path;
        let temp = self.sink.into_inner().map_err(|e| error(&path, e.error()))?;
        temp.as_file().sync_all().map_err(|e| error(&path, &e))?;
        match existing {
            Existing::Replace => temp.persist(&path).map_err(|e| error(&path, &e.error))?,
            Existing::Keep => temp.persist_noclobber(&path).map_err(|e| error(&path, &e.error))?,
        };
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// `path` could not be written.
pub(crate) fn error(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::Write, format!("{}: {error}", path.display()))
}
