//! The cache of model files: a file has its final name only when it is whole, checked and on disk.
//!
//! A download goes to a temporary file of a unique name in the same folder, which its process keeps locked. A killed
//! process leaves that file behind, unlocked; the next download removes it. Ctrl-C removes it at once.
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, ErrorKind};
use crate::text::path as show_path;

const PARTIAL: &str = ".partial";
const PIP_FOLDER: &str = ".pip-";
const BUFFER: usize = 1 << 17;

/// What Ctrl-C removes: the temporary files and folders of this process.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Keeps a path in [`UNFINISHED`] while it lives.
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(path: &Path) -> Unfinished {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Unfinished(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}

/// Removes what unfinished downloads of this process have written: it is about to exit.
pub fn remove_unfinished() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // What cannot be removed now is swept by the next download.
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
}

/// What a file must be, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Lower-case hex.
    pub(crate) sha256: Option<String>,
}

/// What is known of a cached file, kept beside it as `FILE.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Receipt {
    /// What the user asked for: a catalogue name or a source string.
    pub(crate) name: String,
    /// The source that the bytes came from.
    pub(crate) source: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Lower-case hex, of the bytes as they were written.
    pub(crate) sha256: String,
}

/// The folder of model files below the cache folder.
pub(crate) fn models_dir(cache_dir: &Path) -> PathBuf {
    cache_dir.join("models")
}

fn receipt_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".toml");
    PathBuf::from(name)
}

/// The receipt of a cached file; `None` where there is none that can be read.
pub(crate) fn receipt(file: &Path) -> Option<Receipt> {
    toml::from_str(&fs::read_to_string(receipt_path(file)).ok()?).ok()
}

/// All `.gguf` files below the models folder, sorted, paths in full. A missing folder is an empty cache.
///
/// # Errors
/// [`ErrorKind::Io`] if a folder cannot be read.
pub(crate) fn files(models: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![models.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(here(&folder, "cannot be read", &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| here(&folder, "cannot be read", &e))?;
            let kind = entry.file_type().map_err(|e| here(&entry.path(), "cannot be read", &e))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "gguf") {
                found.push(entry.path());
            }
        }
    }
    found.retain(|path| !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    found.sort();
    Ok(found)
}

/// Removes a cached file, its receipt, and the folders that this leaves empty.
///
/// # Errors
/// [`ErrorKind::Io`] if the file cannot be removed.
pub(crate) fn remove(models: &Path, file: &Path) -> Result<(), Error> {
    // The receipt goes last: a crash between the two leaves a receipt without a model, which nothing looks at.
    fs::remove_file(file).map_err(|e| here(file, "cannot be removed", &e))?;
    match fs::remove_file(receipt_path(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(here(&receipt_path(file), "cannot be removed", &error));
        }
        Ok(()) | Err(_) => {}
    }
    let mut folder = file.parent();
    while let Some(dir) = folder.filter(|d| *d != models && d.starts_with(models)) {
        if fs::remove_dir(dir).is_err() {
            break; // Not empty: other models live there.
        }
        folder = dir.parent();
    }
    Ok(())
}

/// Size and SHA-256 of a file; `step` is told the bytes so far.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read.
pub(crate) fn hash_file(path: &Path, mut step: impl FnMut(u64)) -> Result<(u64, String), Error> {
    let mut file = File::open(path).map_err(|e| here(path, "cannot be read", &e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut len = 0u64;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((len, hex(hasher))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                len += n as u64;
                step(len);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(here(path, "cannot be read", &error)),
        }
    }
}

/// SHA-256 in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

fn hex(hasher: Sha256) -> String {
    use std::fmt::Write;
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A failure of this machine's file system.
pub(crate) fn here(path: &Path, what: &str, error: &io::Error) -> Error {
    let failure = Error::new(ErrorKind::Io, format!("{}: {what}: {error}", show_path(path)));
    use io::ErrorKind as K;
    if matches!(error.kind(), K::StorageFull | K::QuotaExceeded | K::FileTooLarge) {
        failure.with_hint("free some space, or set KARAT_CACHE to a folder elsewhere")
    } else if matches!(error.kind(), K::PermissionDenied | K::ReadOnlyFilesystem | K::NotADirectory)
    {
        failure.with_hint("set KARAT_CACHE to a folder that you can write to")
    } else {
        failure
    }
}

/// A file being written: unique name, locked, hashed as it grows, gone when dropped.
pub(crate) struct Part {
    temp: NamedTempFile,
    unfinished: Unfinished,
    target: PathBuf,
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
        let folder = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| here(folder, "cannot be made", &e))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{}.", name.chars().take(100).collect::<String>());
        // Between making a file and locking it another process's sweep can take it away: then another name is tried.
        for _ in 0..100 {
            let mut builder = tempfile::Builder::new();
            builder.prefix(&prefix).suffix(PARTIAL).rand_bytes(12);
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
            let temp = builder
                .tempfile_in(folder)
                .map_err(|e| here(folder, "cannot be written to", &e))?;
            let taken = matches!(temp.as_file().try_lock(), Err(TryLockError::WouldBlock));
            if !taken && temp.path().exists() {
                let target = target.to_owned();
                let unfinished = Unfinished::new(temp.path());
                return Ok(Part {
                    temp,
                    unfinished,
                    target,
                    hasher: Sha256::new(),
                    len: 0,
                    magic: [0; 4],
                });
            }
        }
        Err(Error::new(
            ErrorKind::Io,
            format!("{}: temporary files vanish as soon as they are made", show_path(folder)),
        ))
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the bytes are for now.
    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// The first four bytes, once there are that many.
    pub(crate) fn magic(&self) -> Option<[u8; 4]> {
        (self.len >= 4).then_some(self.magic)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], as for a full disk.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.temp
            .as_file_mut()
            .write_all(bytes)
            .map_err(|e| here(&self.target, "cannot be written", &e))?;
        for (i, byte) in bytes.iter().enumerate().take(4) {
            if let Some(slot) =
                usize::try_from(self.len).ok().and_then(|len| self.magic.get_mut(len + i))
            {
                *slot = *byte;
            }
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what has been written.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the file cannot be cut.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        let file = self.temp.as_file_mut();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(|e| here(&self.target, "cannot be written", &e))?;
        self.hasher = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// Compares size and hash with what is wanted; one line that says what differs.
    pub(crate) fn check(&self, want: &Want) -> Result<(), String> {
        if let Some(size) = want.size.filter(|size| *size != self.len) {
            return Err(format!("{} bytes, expected {size}", self.len));
        }
        let found = hex(self.hasher.clone());
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
        let Part { temp, unfinished, target, hasher, len, .. } = self;
        let failed = |error: &io::Error| here(&target, "cannot be written", error);
        let receipt = Receipt {
            name: name.to_owned(),
            source: source.to_owned(),
            size: len,
            sha256: hex(hasher),
        };
        temp.as_file().sync_all().map_err(|e| failed(&e))?;
        let text = toml::to_string(&receipt).map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("{}: the receipt cannot be written as TOML: {e}", show_path(&target)),
            )
        })?;
        let mut note = Part::create(&receipt_path(&target))?;
        note.write(text.as_bytes())?;
        note.temp.as_file().sync_all().map_err(|e| failed(&e))?;
        note.temp.persist(receipt_path(&target)).map_err(|e| failed(&e.error))?;
        // The lock is held through the rename: the handle that holds it comes back from `persist`.
        let locked = temp.persist(&target).map_err(|e| failed(&e.error))?;
        drop((locked, unfinished));
        sync_folder(target.parent().unwrap_or(Path::new("."))).map_err(|e| failed(&e))?;
        Ok(receipt)
    }
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

/// A folder inside `folder` for pip's files, with the locked file that marks it as in use.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be made.
pub(crate) fn scratch(folder: &Path) -> Result<Scratch, Error> {
    let failed = |error: &io::Error| here(folder, "cannot be written to", error);
    let dir =
        tempfile::Builder::new().prefix(PIP_FOLDER).tempdir_in(folder).map_err(|e| failed(&e))?;
    let lock = File::create(dir.path().join("lock")).map_err(|e| failed(&e))?;
    // A file system without locks loses only the sweeping of what a killed process leaves.
    let _ = lock.try_lock();
    let unfinished = Unfinished::new(dir.path());
    Ok(Scratch { dir, _lock: lock, _unfinished: unfinished })
}

/// A temporary folder that other processes see to be in use.
pub(crate) struct Scratch {
    dir: TempDir,
    _lock: File,
    _unfinished: Unfinished,
}

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes temporary files whose process is gone, from the whole cache. Best effort: what cannot be removed now is
/// tried again next time.
pub(crate) fn sweep_all(models: &Path) {
    let mut folders = vec![models.to_owned()];
    while let Some(folder) = folders.pop() {
        sweep(&folder);
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            continue;
        }
        if name.ends_with(PARTIAL) {
            if unlocked(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        } else if name.starts_with(PIP_FOLDER) && unlocked(&entry.path().join("lock")) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(size: u64, bytes: &[u8]) -> Want {
        Want { size: Some(size), sha256: Some(sha256_hex(bytes)) }
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
        let mut names: Vec<_> = fs::read_dir(dir.path().join("sub"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["x.gguf", "x.gguf.toml"]);
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
    fn the_sweep_takes_what_is_unlocked_and_leaves_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let in_use = Part::create(&dir.path().join("x.gguf")).unwrap();
        let pip = scratch(dir.path()).unwrap();
        fs::write(dir.path().join(".x.gguf.dead.partial"), "left by a killed process").unwrap();
        fs::create_dir(dir.path().join(".pip-dead")).unwrap();
        fs::write(dir.path().join(".pip-dead/lock"), "").unwrap();
        fs::write(dir.path().join("other.partial"), "not ours").unwrap();
        sweep(dir.path());
        assert!(
            in_use.path().exists()
                && pip.path().exists()
                && dir.path().join("other.partial").exists()
        );
        assert!(
            !dir.path().join(".x.gguf.dead.partial").exists()
                && !dir.path().join(".pip-dead").exists()
        );
    }

    #[test]
    fn only_whole_model_files_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(files(&dir.path().join("absent")).unwrap().is_empty());
        fs::create_dir_all(dir.path().join("hf/o/r")).unwrap();
        for name in ["a.gguf", "a.gguf.toml", ".a.gguf.x.partial", ".b.gguf", "hf/o/r/c.gguf"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            files(dir.path()).unwrap(),
            [dir.path().join("a.gguf"), dir.path().join("hf/o/r/c.gguf")]
        );
    }
}
