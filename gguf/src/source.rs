//! Where a file's bytes come from: a file on disk read by position, a mapping of it, or memory.
//!
//! Every read is checked: short reads and interrupts are retried, and an early end is an error with the offset.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};
use crate::file::Access;
use crate::mmap::Mapping;

/// Reads at a position without moving a cursor, so that threads can share the file.
pub(crate) trait ReadAt {
    /// As `pread`: may read less than asked; 0 is the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for fs::File {
    #[cfg(unix)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, buf, offset)
    }

    #[cfg(not(any(unix, windows)))]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        file.read(buf)
    }
}

/// Fills `buf` from `offset`, however small the pieces that `file` gives. Returns how much there was.
pub(crate) fn read_full_at(file: &impl ReadAt, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The bytes of one file.
#[derive(Debug)]
pub(crate) struct Source {
    store: Store,
    path: Option<PathBuf>,
    len: u64,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    Disk { file: fs::File, modified: Option<SystemTime> },
    Mapped { file: fs::File, modified: Option<SystemTime>, mapping: Mapping },
}

impl Source {
    pub(crate) fn memory(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, store: Store::Memory(bytes), path: None }
    }

    /// Opens a regular file; anything else is refused without waiting for a writer or reading a device.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self> {
        Self::open_inner(path, access).map_err(|error| error.in_file(Some(path)))
    }

    fn open_inner(path: &Path, access: Access) -> Result<Self> {
        // Before opening: a socket cannot be opened at all, and opening a device may act on it.
        refuse_special(&fs::metadata(path).map_err(|error| open_error(path, &error))?)?;
        let file = open_options().open(path).map_err(|error| open_error(path, &error))?;
        // After opening too: what the path names may have changed in between.
        Ok(Self { path: Some(path.to_path_buf()), ..Self::opened(file, access)? })
    }

    /// A file that is open for reading; anything but a regular one is refused.
    pub(crate) fn opened(file: fs::File, access: Access) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| io_error("cannot read its size", &error))?;
        refuse_special(&metadata)?;
        let (len, modified) = (metadata.len(), metadata.modified().ok());
        let store = match access {
            Access::Mmap if len > 0 => {
                let mapping = Mapping::of(&file, len)
                    .map_err(|error| io_error("cannot map it into memory", &error))?;
                Store::Mapped { file, modified, mapping }
            }
            Access::Mmap | Access::Pread => Store::Disk { file, modified },
        };
        Ok(Self { store, path: None, len })
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Bytes that the file had when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Refuses a file that was shortened or rewritten in place since it was opened.
    ///
    /// A file replaced by rename stays as it was: the open descriptor keeps the old one.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let (file, modified) = match &self.store {
            Store::Memory(_) => return Ok(()),
            Store::Disk { file, modified } | Store::Mapped { file, modified, .. } => {
                (file, modified)
            }
        };
        let now = file
            .metadata()
            .map_err(|error| io_error("cannot read its size", &error).in_file(self.path()))?;
        if now.len() != self.len {
            return Err(changed(&format!("it had {} bytes, now {}", self.len, now.len()))
                .in_file(self.path()));
        }
        if now.modified().ok() != *modified {
            return Err(changed("it was written to").in_file(self.path()));
        }
        Ok(())
    }

    /// Fills `buf` from `offset`. The caller has checked that the range lies in the file.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.store {
            Store::Disk { file, .. } => {
                let wanted = buf.len();
                let got = read_full_at(file, buf, offset).map_err(|error| {
                    io_error("cannot read", &error).at("file", offset).in_file(self.path())
                })?;
                if got < wanted {
                    let what = format!("a read of {wanted} bytes at offset {offset} got {got}");
                    return Err(changed(&what).in_file(self.path()));
                }
                Ok(())
            }
            Store::Memory(_) | Store::Mapped { .. } => {
                let bytes =
                    self.slice(offset, buf.len()).ok_or_else(|| self.outside(offset, buf.len()))?;
                buf.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The `len` bytes at `offset`: borrowed where they are in memory or mapped, else read into a new buffer.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Result<Cow<'_, [u8]>> {
        if let Store::Disk { .. } = self.store {
            let mut buf = Vec::new();
            if buf.try_reserve_exact(len).is_err() {
                let what = format!("cannot allocate {len} bytes");
                return Err(Error::new(ErrorKind::OutOfMemory, what).in_file(self.path()));
            }
            buf.resize(len, 0);
            self.read_exact_at(&mut buf, offset)?;
            return Ok(Cow::Owned(buf));
        }
        self.slice(offset, len).map(Cow::Borrowed).ok_or_else(|| self.outside(offset, len))
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let all = match &self.store {
            Store::Memory(bytes) => bytes.as_slice(),
            Store::Mapped { mapping, .. } => mapping.bytes(),
            Store::Disk { .. } => return None,
        };
        let start = usize::try_from(offset).ok()?;
        all.get(start..start.checked_add(len)?)
    }

    fn outside(&self, offset: u64, len: usize) -> Error {
        let what = format!("bytes {offset}..+{len} are outside of the file's {}", self.len);
        Error::new(ErrorKind::Usage, what).in_file(self.path())
    }
}

fn open_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        // A pipe that took the file's place since the first look must not block us.
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    }
    options
}

fn refuse_special(metadata: &fs::Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let what = if metadata.is_dir() { "a directory" } else { special_name(metadata.file_type()) };
    Err(Error::new(ErrorKind::NotRegularFile, format!("not a regular file: it is {what}")))
}

#[cfg(unix)]
fn special_name(file_type: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_char_device() || file_type.is_block_device() {
        "a device"
    } else {
        "something special"
    }
}

#[cfg(not(unix))]
fn special_name(_: fs::FileType) -> &'static str {
    "something special"
}

fn open_error(path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        let dangling = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        let what =
            if dangling { "not a regular file: it is a link to nothing" } else { "no such file" };
        let kind = if dangling { ErrorKind::NotRegularFile } else { ErrorKind::NotFound };
        return Error::new(kind, what);
    }
    io_error("cannot open", error)
}

fn io_error(what: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{what}: {error}"))
}

fn changed(what: &str) -> Error {
    Error::new(ErrorKind::Changed, format!("model file changed on disk while in use: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Gives one to three bytes at a time and is interrupted at every second call.
    struct Flaky {
        bytes: Vec<u8>,
        calls: Cell<usize>,
    }

    impl ReadAt for Flaky {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let call = self.calls.get();
            self.calls.set(call + 1);
            if call.is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = &self.bytes[self.bytes.len().min(offset as usize)..];
            let n = rest.len().min(buf.len()).min(1 + call % 3);
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }

    #[test]
    fn short_reads_and_interrupts_are_retried() {
        let flaky = Flaky { bytes: (0..200).collect(), calls: Cell::new(0) };
        let mut buf = [0; 150];
        assert_eq!(read_full_at(&flaky, &mut buf, 30).unwrap(), 150);
        assert!(buf.iter().zip(30..).all(|(&a, b)| a == b));
        assert!(flaky.calls.get() > 100);
        assert_eq!(
            read_full_at(&flaky, &mut buf, 190).unwrap(),
            10,
            "the end is not an error here"
        );
    }

    #[test]
    fn other_errors_are_not_retried() {
        struct Broken;
        impl ReadAt for Broken {
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let error = read_full_at(&Broken, &mut [0; 4], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
