//! The beginning of a file that is being fetched.
//!
//! It lies beside the place of the whole file, under a name that begins with a dot and ends in `.partial`, and its
//! process keeps it locked. Where the server has said how it names these very bytes, that is noted beside it, and the
//! beginning stays when the download is cut: the next one goes on with it. All others have a unique name and go.
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use same_file::Handle;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use model::output::{Existing, Unfinished, any_length, give_name};

use super::cache::{PARTIAL, Receipt, Want, beside, here, hex};
use crate::error::{Error, ErrorKind};
use crate::text::{bytes, path as show_path};

/// What the beginning of a file is the beginning of, kept beside it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    /// The source that the bytes came from.
    pub(crate) source: String,
    /// What names these very bytes to the server: a strong ETag, or a date.
    pub(crate) validator: String,
    /// Bytes of the whole file.
    pub(crate) size: Option<u64>,
    /// Lower-case hex, of the whole file, where the server has said it.
    pub(crate) sha256: Option<String>,
}

/// The beginning of a file that stays on the disk, whatever becomes of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Where the whole file will be.
    pub target: PathBuf,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole file, where the server has said it.
    pub size: Option<u64>,
}

/// Those of this process.
static BEGINNINGS: Mutex<Vec<Listed>> = Mutex::new(Vec::new());

/// A beginning by its place, and what is known of the whole.
#[derive(PartialEq, Eq)]
struct Listed {
    path: PathBuf,
    target: PathBuf,
    size: Option<u64>,
}

/// The downloads of this process that are under way, as far as a later one can go on with them: for a program that was
/// asked to end.
pub fn beginnings() -> Vec<Beginning> {
    let listed = BEGINNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = listed.iter().filter_map(|Listed { path, target, size }| {
        let bytes = path.metadata().ok()?.len();
        Some(Beginning { target: target.clone(), bytes, size: *size })
    });
    found.collect()
}

/// While it lives, [`beginnings`] has its path.
struct Kept(PathBuf);

impl Kept {
    fn new(listed: Listed) -> Self {
        let path = listed.path.clone();
        BEGINNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(listed);
        Self(path)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut all = BEGINNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|listed| listed.path != self.0);
    }
}

/// A file being written: locked, hashed as it grows; gone when dropped, unless it can be gone on with.
pub(crate) struct Part {
    temp: NamedTempFile,
    /// In place where Ctrl-C removes it.
    unfinished: Option<Unfinished>,
    target: PathBuf,
    /// Whether a later process finds it.
    findable: bool,
    note: Option<Note>,
    /// In place where it stays when dropped: the note is on the disk.
    kept: Option<Kept>,
    /// Whether it holds what came with an earlier request.
    resumed: bool,
    hasher: Sha256,
    len: u64,
    magic: [u8; 4],
}

impl Part {
    /// Starts a file that will become `target`, making its folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the folder or the file cannot be made.
    pub(crate) fn create(target: &Path) -> Result<Part, Error> {
        let folder = make_folder(target)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{}.", name.chars().take(100).collect::<String>());
        // Between making a file and locking it another process's sweep can take it away: then another name is tried.
        for _ in 0..100 {
            let mut builder = tempfile::Builder::new();
            builder.prefix(&prefix).suffix(PARTIAL).rand_bytes(12);
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
            let temp = builder
                .tempfile_in(any_length(folder))
                .map_err(|e| here(folder, "cannot be written to", &e))?;
            let taken = matches!(temp.as_file().try_lock(), Err(TryLockError::WouldBlock));
            if !taken && temp.path().exists() {
                return Ok(Part::new(temp, target));
            }
        }
        Err(vanishing(folder))
    }

    /// Goes on with what an earlier download from `source` has left of `target`, or starts one that can be gone on
    /// with. While another process is at that, this is [`Part::create`]. `step` is told the bytes that are there so far.
    ///
    /// # Errors
    /// As [`Part::create`].
    pub(crate) fn resume(target: &Path, source: &str, step: impl Fn(u64)) -> Result<Part, Error> {
        let folder = any_length(make_folder(target)?);
        let partial = folder.join(partial_of(target).file_name().unwrap_or_default());
        let Some(temp) = claim(&partial)? else {
            return Part::create(target);
        };
        let mut part = Part::new(temp, target);
        part.findable = true;
        let note = fs::read_to_string(beside(part.path())).ok();
        let note = note.and_then(|text| toml::from_str::<Note>(&text).ok());
        match note.filter(|note| note.source == source) {
            Some(note) => {
                part.note = Some(note);
                part.keep_on_drop(true);
                part.read_again(step)?;
                part.resumed = part.len > 0;
            }
            None => part.restart()?,
        }
        Ok(part)
    }

    fn new(temp: NamedTempFile, target: &Path) -> Part {
        let unfinished = Some(Unfinished::new(temp.path()));
        let target = target.to_owned();
        let (hasher, magic) = (Sha256::new(), [0; 4]);
        let (findable, resumed) = (false, false);
        let (note, kept) = (None, None);
        Part { temp, unfinished, target, findable, note, kept, resumed, hasher, len: 0, magic }
    }

    fn read_again(&mut self, step: impl Fn(u64)) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 17];
        loop {
            match self.temp.as_file_mut().read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.count(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(here(self.path(), "cannot be read", &error)),
            }
            step(self.len);
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the bytes are for now.
    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// What is written, for reading while it is locked.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the system has no more handles.
    pub(crate) fn handle(&self) -> Result<File, Error> {
        self.temp.as_file().try_clone().map_err(|e| here(&self.target, "cannot be read", &e))
    }

    /// The first four bytes, once there are that many.
    pub(crate) fn magic(&self) -> Option<[u8; 4]> {
        (self.len >= 4).then_some(self.magic)
    }

    /// What is known of the whole file from an earlier request.
    pub(crate) fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Whether the bytes came with more than one request.
    pub(crate) fn resumed(&self) -> bool {
        self.resumed
    }

    /// More bytes come with another request.
    pub(crate) fn goes_on(&mut self) {
        self.resumed = true;
    }

    /// What is written from now on is the beginning of this, and stays when the download is cut.
    pub(crate) fn keep(&mut self, note: Note) {
        self.note = Some(note);
    }

    /// Writes the note, once there is something that it speaks of.
    fn write_note(&mut self) -> Result<(), Error> {
        let Some(note) = self.note.as_ref().filter(|_| self.findable && self.kept.is_none()) else {
            return Ok(());
        };
        let path = beside(self.path());
        let named = give_name(write_whole(&path, note)?, &path, Existing::Replace);
        named.map_err(|e| self.unwritable(&e))?;
        self.keep_on_drop(true);
        Ok(())
    }

    fn keep_on_drop(&mut self, keep: bool) {
        let (path, target) = (self.temp.path().to_owned(), self.target.clone());
        let size = self.note.as_ref().and_then(|note| note.size);
        // The old one goes first: it takes its path off the list.
        self.kept = None;
        self.kept = keep.then(|| Kept::new(Listed { path, target, size }));
        self.temp.disable_cleanup(keep);
        self.unfinished = None;
        self.unfinished = (!keep).then(|| Unfinished::new(self.temp.path()));
    }

    /// Whether the file's system has room for `more` bytes; a line that says what is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if not.
    pub(crate) fn check_room(&self, more: u64) -> Result<(), Error> {
        let folder = self.path().parent().unwrap_or(Path::new("."));
        match fs4::available_space(folder) {
            Ok(free) if free < more => {
                let (shown, needed, free) = (show_path(&self.target), bytes(more), bytes(free));
                let what = format!("{shown}: {needed} to write, {free} free on its disk");
                let hint = "free some space, or set KARAT_CACHE to a folder elsewhere";
                Err(Error::new(ErrorKind::Io, what).with_hint(hint))
            }
            // A file system that does not tell says so when it is full.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], as for a full disk; nothing of the file stays then.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Err(error) = self.temp.as_file_mut().write_all(bytes) {
            self.forget();
            return Err(self.unwritable(&error));
        }
        self.count(bytes);
        self.write_note()
    }

    fn count(&mut self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate().take(4) {
            if let Some(slot) =
                usize::try_from(self.len).ok().and_then(|len| self.magic.get_mut(len + i))
            {
                *slot = *byte;
            }
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
    }

    fn unwritable(&self, error: &io::Error) -> Error {
        here(&self.target, "cannot be written", error)
    }

    /// Nothing can go on with what is written: it goes with the process.
    pub(crate) fn forget(&mut self) {
        self.note = None;
        if self.findable {
            // Left alone, a note is swept by the next download.
            let _ = fs::remove_file(beside(self.path()));
        }
        self.keep_on_drop(false);
    }

    /// Throws away what has been written.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the file cannot be cut.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        let file = self.temp.as_file_mut();
        let cut = file.set_len(0).and_then(|()| file.rewind());
        cut.map_err(|e| self.unwritable(&e))?;
        self.forget();
        self.hasher = Sha256::new();
        self.len = 0;
        self.resumed = false;
        Ok(())
    }

    /// SHA-256 of what has been written, in lower-case hex.
    pub(crate) fn sha256(&self) -> String {
        hex(self.hasher.clone())
    }

    /// Compares size and hash with what is wanted; one line that says what differs.
    pub(crate) fn check(&self, want: &Want) -> Result<(), String> {
        if let Some(size) = want.size.filter(|size| *size != self.len) {
            return Err(format!("{} bytes, expected {size}", self.len));
        }
        let found = self.sha256();
        match &want.sha256 {
            Some(sha256) if *sha256 != found => Err(format!("sha256 {found}, expected {sha256}")),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives the file its final name, its bytes and its receipt on disk before that. Another process may have done the
    /// same in the meantime: the later rename wins, both files were checked.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; nothing of the file is left then.
    pub(crate) fn commit(self, name: &str, source: &str) -> Result<Receipt, Error> {
        let receipt = Receipt {
            name: name.to_owned(),
            source: source.to_owned(),
            size: self.len,
            sha256: self.sha256(),
        };
        let Part { mut temp, unfinished, target, findable, kept, .. } = self;
        temp.disable_cleanup(false);
        let note = findable.then(|| beside(temp.path()));
        let failed = |error: &io::Error| here(&target, "cannot be written", error);
        temp.as_file().sync_all().map_err(|e| failed(&e))?;
        let receipt_file = write_whole(&beside(&target), &receipt)?;
        receipt_file.as_file().sync_all().map_err(|e| failed(&e))?;
        let name = |temp, place: &Path| give_name(temp, place, Existing::Replace);
        name(receipt_file, &beside(&target)).map_err(|e| failed(&e))?;
        // The lock is held through the rename: the handle that holds it comes back.
        let locked = name(temp, &target).map_err(|e| failed(&e))?;
        if let Some(note) = note {
            // Where that fails or does not come to pass, the next download sweeps it.
            let _ = fs::remove_file(note);
        }
        drop((locked, unfinished, kept));
        sync_folder(target.parent().unwrap_or(Path::new("."))).map_err(|e| failed(&e))?;
        Ok(receipt)
    }
}

/// Where the beginning of a file lies that a later process can go on with.
pub(crate) fn partial_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}{PARTIAL}"))
}

fn make_folder(target: &Path) -> Result<&Path, Error> {
    let folder = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| here(folder, "cannot be made", &e))?;
    Ok(folder)
}

fn vanishing(folder: &Path) -> Error {
    let line = format!("{}: temporary files vanish as soon as they are made", show_path(folder));
    Error::new(ErrorKind::Io, line)
}

/// Opens or makes the file at `path` and locks it; `None` where another process holds it, or nothing can be locked.
fn claim(path: &Path) -> Result<Option<NamedTempFile>, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    for _ in 0..100 {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|e| here(folder, "cannot be written to", &e))?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // Between opening and locking, the process that held it may have given it its final name, or removed it.
        if is_still(&file, path).unwrap_or(false) {
            file.seek(SeekFrom::Start(0)).map_err(|e| here(path, "cannot be read", &e))?;
            let path = TempPath::try_from_path(path)
                .map_err(|e| here(folder, "cannot be written to", &e))?;
            return Ok(Some(NamedTempFile::from_parts(file, path)));
        }
    }
    Err(vanishing(folder))
}

/// Whether `path` still names this open file.
fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    Ok(Handle::from_file(file.try_clone()?)? == Handle::from_path(path)?)
}

/// A temporary file with this as TOML, to be renamed to `path`.
fn write_whole(path: &Path, what: &impl Serialize) -> Result<NamedTempFile, Error> {
    let text = toml::to_string(what).map_err(|e| {
        let line = format!("{}: cannot be written as TOML: {e}", show_path(path));
        Error::new(ErrorKind::Internal, line)
    })?;
    let mut part = Part::create(path)?;
    part.write(text.as_bytes())?;
    Ok(part.temp)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows has no way to flush a folder; NTFS journals the rename.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::cache::{hash_file, receipt, remove, sha256_hex};

    fn want(size: u64, bytes: &[u8]) -> Want {
        Want { size: Some(size), sha256: Some(sha256_hex(bytes)), ..Want::default() }
    }

    fn note(source: &str) -> Note {
        let (source, validator) = (source.to_owned(), "\"v1\"".to_owned());
        Note { source, validator, size: Some(8), sha256: None }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_part_takes_its_name_at_commit_and_leaves_nothing_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/x.gguf");
        let mut part = Part::create(&target).unwrap();
        part.write(b"GG").unwrap();
        part.write(b"UFx").unwrap();
        assert_eq!(part.magic(), Some(*b"GGUF"));
        assert!(!target.exists());
        assert!(part.check(&want(5, b"GGUFx")).is_ok());
        assert!(part.check(&want(6, b"GGUFx")).unwrap_err().contains("5 bytes, expected 6"));
        assert!(part.check(&want(5, b"GGUFy")).unwrap_err().contains("sha256"));
        let receipt_written = part.commit("x", "test").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"GGUFx");
        assert_eq!(receipt(&target).unwrap().sha256, receipt_written.sha256);
        assert_eq!(hash_file(&target, |_| ()).unwrap(), (5, sha256_hex(b"GGUFx")));
        drop(Part::create(&target).unwrap());
        assert_eq!(names(&dir.path().join("sub")), ["x.gguf", "x.gguf.toml"]);
        remove(dir.path(), &target).unwrap();
        assert!(!dir.path().join("sub").exists());
    }

    #[test]
    fn restart_forgets_the_bytes_and_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Part::create(&dir.path().join("x.gguf")).unwrap();
        part.write(b"something longer").unwrap();
        part.restart().unwrap();
        part.write(b"GGUF").unwrap();
        assert!(part.check(&want(4, b"GGUF")).is_ok());
        assert_eq!(fs::read(part.path()).unwrap(), b"GGUF");
    }

    #[test]
    fn what_was_cut_is_gone_on_with_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x.gguf");
        let mut part = Part::resume(&target, "s", |_| ()).unwrap();
        part.keep(note("s"));
        part.write(b"GGUFx").unwrap();
        drop(part);
        assert_eq!(names(dir.path()), [".x.gguf.partial", ".x.gguf.partial.toml"]);
        let mut part = Part::resume(&target, "s", |_| ()).unwrap();
        assert_eq!((part.len(), part.magic(), part.resumed()), (5, Some(*b"GGUF"), true));
        assert_eq!(part.note(), Some(&note("s")));
        part.write(b"yz!").unwrap();
        assert!(part.check(&want(8, b"GGUFxyz!")).is_ok());
        part.commit("x", "s").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"GGUFxyz!");
        assert_eq!(names(dir.path()), ["x.gguf", "x.gguf.toml"]);
    }

    #[test]
    fn what_nothing_can_go_on_with_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x.gguf");
        let start = |source: &str| Part::resume(&target, source, |_| ()).unwrap();
        let mut unnamed = start("s");
        unnamed.write(b"GGUF").unwrap();
        drop(unnamed);
        assert!(names(dir.path()).is_empty(), "the server has not said what it is");
        let mut part = start("s");
        part.keep(note("s"));
        part.write(b"GGUF").unwrap();
        // While one process is at it, another makes a file of its own.
        let other = start("s");
        assert_eq!((other.len(), other.path() == part.path()), (0, false));
        drop((part, other));
        assert_eq!(start("elsewhere").len(), 0, "it came from another source");
        assert!(names(dir.path()).is_empty());
        let mut part = start("s");
        part.keep(note("s"));
        part.write(b"GGUF").unwrap();
        drop(part);
        fs::write(dir.path().join(".x.gguf.partial.toml"), "source = \"s\"").unwrap();
        assert_eq!(start("s").len(), 0, "a note that was cut says nothing");
    }

    #[test]
    fn more_than_the_disk_has_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let part = Part::create(&dir.path().join("x.gguf")).unwrap();
        part.check_room(1).unwrap();
        let error = part.check_room(1 << 60).unwrap_err().to_string();
        assert!(error.contains("x.gguf") && error.contains("free on its disk"), "{error}");
    }
}
