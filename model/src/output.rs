//! A file that appears under its name when it is whole, and leaves nothing behind if it does not become so.
//!
//! What the name cannot take is found when the file is started, before the work whose result it will hold. The bytes go to
//! a temporary file in the same folder, which its process keeps locked. A process that is asked to end removes its own
//! ([`remove_unfinished`]); those of a process that was killed are not locked, and the next file in the folder sweeps them.

use crate::{Error, ErrorKind, Result};
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

const PREFIX: &str = ".karat-";
const SUFFIX: &str = ".part";

/// Temporary files and folders of this process.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The new one takes its place once it is whole.
    Replace,
    /// It stays, and the new one is refused.
    Keep,
}

impl Existing {
    /// What `--force` says.
    pub fn replaced_if(force: bool) -> Self {
        if force { Self::Replace } else { Self::Keep }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Output {
    /// As the caller named it.
    path: PathBuf,
    existing: Existing,
    sink: Sink,
}

/// Where the bytes go.
#[derive(Debug)]
enum Sink {
    /// A temporary file that will be `place`: the path, or what it links to.
    Beside { temp: BufWriter<NamedTempFile>, place: PathBuf, _unfinished: Unfinished },
    /// A device or a pipe, as it is: neither can be replaced, and nothing is left of them.
    Stream(BufWriter<File>),
}

/// While it lives, [`remove_unfinished`] removes its path.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// The path is that of a file or folder of this process alone.
    pub fn new(path: &Path) -> Self {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// Removes the temporary files and folders of this process, which is about to exit.
pub fn remove_unfinished() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // What cannot be removed now is swept by the next that writes in the folder.
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
}

impl Output {
    /// Starts a file that will be `path`. Links are followed; devices and pipes are written to.
    ///
    /// # Errors
    /// `BadRequest` for a folder, a file that shall stay, and what is neither a file, a device nor a pipe; `Write` where
    /// the file cannot be made.
    pub fn create(path: &Path, existing: Existing) -> Result<Self> {
        if cfg!(windows) && is_device(path) {
            refuse_port(path)?;
            return Self::stream(path, existing);
        }
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(error(path, &e)),
        };
        if let Some(there) = there.as_ref().filter(|there| !there.is_file()) {
            refuse_kind(path, there)?;
            return Self::stream(path, existing);
        }
        if let Some(there) = &there {
            if existing == Existing::Keep {
                let what = "is there already, allowed is a new name; hint: --force replaces it";
                return Err(refused(path, what));
            }
            refuse_read_only(path, there)?;
        }
        let place = follow(path).map_err(|e| error(path, &e))?;
        let temp = temporary(&place).map_err(|e| cannot_make(path, &place, &e))?;
        if let Some(there) = there {
            // A new file would have the permissions of any new file; this one takes over those of its predecessor.
            let _ = temp.as_file().set_permissions(there.permissions());
        }
        let unfinished = Unfinished::new(temp.path());
        let sink = Sink::Beside { temp: BufWriter::new(temp), place, _unfinished: unfinished };
        Ok(Self { path: path.to_owned(), existing, sink })
    }

    /// A device or a pipe.
    fn stream(path: &Path, existing: Existing) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(path).map_err(|e| error(path, &e))?;
        Ok(Self { path: path.to_owned(), existing, sink: Sink::Stream(BufWriter::new(file)) })
    }

    /// Refuses to begin where the disk has fewer than `bytes` free.
    ///
    /// # Errors
    /// `Write`.
    pub fn needs(&self, bytes: u64) -> Result<()> {
        let Sink::Beside { temp, .. } = &self.sink else { return Ok(()) };
        match free_bytes(temp.get_ref()) {
            Some(free) if free < bytes => {
                let path = self.path.display();
                let what = format!("{path}: needs {bytes} bytes, the disk has {free} free");
                Err(Error::new(ErrorKind::Write, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes what is left to the disk and gives the file its name.
    ///
    /// # Errors
    /// `Write`, and nothing is left then.
    pub fn keep(self) -> Result<()> {
        let Self { path, existing, sink } = self;
        match sink {
            Sink::Stream(mut file) => file.flush().map_err(|e| error(&path, &e)),
            Sink::Beside { temp, place, _unfinished } => {
                let temp = temp.into_inner().map_err(|e| error(&path, e.error()))?;
                temp.as_file().sync_all().map_err(|e| error(&path, &e))?;
                // The handle holds the lock until the file has its name.
                give_name(temp, &place, existing).map(drop).map_err(|e| error(&path, &e))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Beside { temp, .. } => temp.write(bytes),
            Sink::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Beside { temp, .. } => temp.flush(),
            Sink::Stream(file) => file.flush(),
        }
    }
}

fn refused(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::BadRequest, format!("{}: {what}", path.display()))
}

/// Of what is no file, only character devices and pipes take a stream of bytes. A disk is never meant.
fn refuse_kind(path: &Path, there: &Metadata) -> Result<()> {
    if there.is_dir() {
        return Err(refused(path, "is a folder, wanted the name of a file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = there.file_type();
        if kind.is_char_device() || kind.is_fifo() {
            return Ok(());
        }
    }
    Err(refused(path, "is a disk or a socket, allowed are files, pipes and character devices"))
}

/// Windows does not replace a file that is marked as read-only; elsewhere that is a matter of the folder.
fn refuse_read_only(path: &Path, there: &Metadata) -> Result<()> {
    if !cfg!(windows) || !there.permissions().readonly() {
        return Ok(());
    }
    let what = "is read-only, which Windows does not replace; hint: attrib -r takes the mark away";
    Err(Error::new(ErrorKind::Write, format!("{}: {what}", path.display())))
}

/// Whether Windows takes this file name for one of its devices, in whichever folder and with whichever ending.
pub fn is_device_name(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or("").trim_end_matches(' ').to_ascii_uppercase();
    let numbered = |device: &str| {
        let number = stem.strip_prefix(device);
        number.is_some_and(|n| n.len() == 1 && n.chars().all(|c| c.is_ascii_digit()))
    };
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str())
        || numbered("COM")
        || numbered("LPT")
}

/// Whether the path names a device of Windows.
fn is_device(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_device_name(&name.to_string_lossy()))
}

/// Of the devices that have names, only nothing and the console take a stream of bytes: a printer or a serial port is never
/// meant, and opening one may wait for ever.
fn refuse_port(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
    if ["NUL", "CON", "CONOUT$"].contains(&name.as_str()) {
        return Ok(());
    }
    Err(refused(path, "is a name that Windows has for a device, allowed is another one"))
}

/// A folder that is there, as Windows takes it with a path of any length behind it: 260 characters are the most in its
/// usual form. Other systems know no such difference.
pub fn any_length(folder: &Path) -> PathBuf {
    if cfg!(windows)
        && let Ok(full) = folder.canonicalize()
    {
        return full;
    }
    folder.to_owned()
}

/// Gives a temporary file its name in one step; the handle comes back with what it holds locked.
///
/// # Errors
/// The system's, and the temporary file is gone then.
pub fn give_name(temp: NamedTempFile, place: &Path, existing: Existing) -> io::Result<File> {
    match existing {
        Existing::Replace => replace(temp, place),
        Existing::Keep => {
            let place = match place.file_name() {
                Some(name) => any_length(folder_of(place)).join(name),
                None => place.to_owned(),
            };
            temp.persist_noclobber(place).map_err(|e| e.error)
        }
    }
}

#[cfg(not(windows))]
fn replace(temp: NamedTempFile, place: &Path) -> io::Result<File> {
    temp.persist(place).map_err(|e| e.error)
}

/// The standard library's way to rename: it takes the place of a file that a program has open, as other systems do.
#[cfg(windows)]
fn replace(temp: NamedTempFile, place: &Path) -> io::Result<File> {
    let (file, path) = temp.keep().map_err(|e| e.error)?;
    fs::rename(&path, place).inspect_err(|_| drop(fs::remove_file(&path)))?;
    Ok(file)
}

/// Where a file of this name would be made: a link stands for what it links to, there or not.
fn follow(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&place) {
            // An absolute target replaces the whole path.
            Ok(target) => place = folder_of(&place).join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::other("too many links"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file in the folder of `place`, so that taking the name is one step. Those of killed processes go.
fn temporary(place: &Path) -> io::Result<NamedTempFile> {
    let folder = folder_of(place);
    sweep(folder);
    // Between making a file and locking it another process's sweep can take it away: then another name is tried.
    for _ in 0..100 {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        // By default only the user could read the file; a model should have the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temp = builder.tempfile_in(any_length(folder))?;
        let taken = matches!(temp.as_file().try_lock(), Err(TryLockError::WouldBlock));
        if !taken && temp.path().exists() {
            return Ok(temp);
        }
    }
    Err(io::Error::other("temporary files vanish as soon as they are made"))
}

/// Removes temporary files that no process holds.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        if let Ok(file) = OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What the disk of a file has free for this user; `None` where the system does not say.
#[cfg(unix)]
fn free_bytes(file: &NamedTempFile) -> Option<u64> {
    let disk = rustix::fs::fstatvfs(file.as_file()).ok()?;
    // Some network file systems tell no sizes at all.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(file: &NamedTempFile) -> Option<u64> {
    fs4::available_space(folder_of(file.path())).ok()
}

/// No file could be made for `path` where it would lie.
fn cannot_make(path: &Path, place: &Path, error: &io::Error) -> Error {
    let folder = folder_of(place);
    let what = match folder.metadata() {
        Ok(there) if there.is_dir() => {
            format!("{}: its folder cannot be written to: {}", path.display(), plain(error))
        }
        Ok(_) => format!("{}: {} is no folder", path.display(), folder.display()),
        Err(_) => format!("{}: there is no folder {}", path.display(), folder.display()),
    };
    Error::new(ErrorKind::Write, what)
}

/// `path` could not be written.
pub(crate) fn error(path: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    let cause = match error.downcast_ref::<io::Error>() {
        Some(error) => plain(error),
        None => error.to_string(),
    };
    Error::new(ErrorKind::Write, format!("{}: {cause}", path.display()))
}

/// The system's words, without the name of the temporary file, which means nothing to whoever gave the path.
fn plain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.source()) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;

    fn write(path: &Path, existing: Existing) -> Result<()> {
        let mut output = Output::create(path, existing)?;
        output.needs(3).unwrap();
        output.write_all(b"new").unwrap();
        output.keep()
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_is_replaced_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious.txt");
        fs::write(&path, "old").unwrap();
        let error = write(&path, Existing::Keep).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest);
        assert!(error.to_string().contains("precious.txt: is there already"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, Existing::Replace).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), count(folder.path())), (&b"new"[..], 1));
    }

    /// One that appears while the work goes on stays, too.
    #[test]
    fn a_file_of_the_meantime_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = Output::create(&path, Existing::Keep).unwrap();
        fs::write(&path, "of the meantime").unwrap();
        assert_eq!(output.keep().unwrap_err().kind(), ErrorKind::Write);
        assert_eq!(fs::read(&path).unwrap(), b"of the meantime");
        assert_eq!(count(folder.path()), 1);
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(".karat-abc123.part");
        let other = folder.path().join("mine.part");
        fs::write(&dead, "half").unwrap();
        fs::write(&other, "a file of the user").unwrap();
        let living = Output::create(&folder.path().join("a"), Existing::Keep).unwrap();
        assert!(!dead.exists() && other.exists());
        write(&folder.path().join("b"), Existing::Keep).unwrap();
        living.keep().unwrap();
        assert_eq!(count(folder.path()), 3);
    }

    #[test]
    fn errors_name_the_path_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("no/such/file"), Existing::Keep).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no/such/file: there is no folder"), "{text}");
        assert!(!text.contains(PREFIX), "{text}");
        let huge = Output::create(&folder.path().join("huge"), Existing::Keep).unwrap();
        let error = huge.needs(u64::MAX).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("huge: needs 18446744073709551615 bytes"), "{text}");
        assert_eq!((error.kind(), text.contains(PREFIX)), (ErrorKind::Write, false));
    }

    /// Microsoft's list, in "Naming Files, Paths, and Namespaces".
    #[test]
    fn devices_of_windows() {
        for name in ["NUL", "nul.gguf", "con", "Aux.tar.gz", "PRN ", "COM1", "lpt9.txt", "CONOUT$"]
        {
            assert!(is_device_name(name), "{name}");
        }
        for name in ["nuls", "console.gguf", "COM", "COM10", "COMX", "a.nul", "", "m.gguf"] {
            assert!(!is_device_name(name), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_and_pipes_written_to() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink("sub/target", at("link")).unwrap();
        symlink("link", at("link2")).unwrap();
        write(&at("link2"), Existing::Keep).unwrap();
        assert_eq!(fs::read(at("sub/target")).unwrap(), b"new");
        assert!(at("link").is_symlink() && at("link2").is_symlink());
        assert_eq!(
            write(&at("link"), Existing::Keep).unwrap_err().kind(),
            ErrorKind::BadRequest,
            "the target is there now"
        );
        fs::set_permissions(at("sub/target"), PermissionsExt::from_mode(0o640)).unwrap();
        write(&at("link"), Existing::Replace).unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::metadata(at("sub/target")).unwrap().permissions().mode() & 0o777, 0o640);
        symlink("loop", at("loop")).unwrap();
        assert_eq!(write(&at("loop"), Existing::Keep).unwrap_err().kind(), ErrorKind::Write);

        write(Path::new("/dev/null"), Existing::Replace).unwrap();
        let null = fs::metadata("/dev/null").unwrap().file_type();
        assert!(null.is_char_device());
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let pipe = at("pipe");
        let mut reader = std::process::Command::new("cat");
        let reader = reader.arg(&pipe).stdout(std::process::Stdio::piped()).spawn().unwrap();
        write(&pipe, Existing::Replace).unwrap();
        assert_eq!(reader.wait_with_output().unwrap().stdout, b"new");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
